"""Whether the registry of a site is gone: its output folder names one, and there is no file.

A new one in its place would be empty, and hide what operators decided and asked for.
"""

from __future__ import annotations

from pathlib import Path
from stat import S_ISREG

from absurd_contimg.errors import RegistryDamagedError
from absurd_contimg.file_owners import SITE_NAME
from absurd_contimg.products.site_file import read_site_file


def is_there(path: Path) -> bool:
    """Whether there may be a registry in SQLite: a file of 0 bytes is none."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # to open it says what is wrong
        return True
    return status.st_size > 0 or not S_ISREG(status.st_mode)


def require_not_lost(path: Path, output_dir: Path) -> None:
    """Raise `RegistryDamagedError` where the site of the output folder has had a registry.

    Only for a path without one: a site that has moved with its registry has lost nothing.
    """
    mark = read_site_file(output_dir)
    if mark is None or mark.registry is None or is_there(path):
        return
    state = "has 0 bytes" if path.exists() else "is not there"
    raise RegistryDamagedError(
        str(path),
        f"The registry of this site is gone: {path} {state}, but {output_dir / SITE_NAME} says "
        f"that the site has its registry at {mark.registry}.",
        "If its disk is away, mount it. If the site has another state folder, set "
        "PIPELINE_STATE_DIR or PIPELINE_PRODUCTS_DB to what it has. With a backup: contimg restore "
        "DIR. To make a new one from the products on disk: contimg registry rebuild",
    )
