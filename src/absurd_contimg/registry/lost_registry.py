"""Whether the registry of a site is gone, or is somebody else's to read and replace.

It is gone where the site's output folder names one, and none is there.

A new one in its place would be empty, and hide what operators decided and asked for.
"""

from __future__ import annotations

from pathlib import Path
from stat import S_ISREG

from sqlalchemy import Connection, inspect, text

from absurd_contimg.config.variables import other_folder
from absurd_contimg.errors import RegistryAwayError, RegistryDamagedError
from absurd_contimg.file_owners import SITE_NAME
from absurd_contimg.products.site_file import read_site_file
from absurd_contimg.state_owners import Owners, find_exposure, registry_places

POSTGRES_SCHEMA = "contimg"
_ASIDE = "contimg_before_restoration"
"""What a restoration renames it to, until it is done."""
_HAS_TABLES = text(
    f"select to_regclass('{POSTGRES_SCHEMA}.alembic_version') is not null"
    f" or to_regclass('{POSTGRES_SCHEMA}.registry_schema') is not null"
)
"""One of them has the version, in each version. Waits for no lock."""
_IS_ASIDE = text(f"select to_regnamespace('{_ASIDE}') is not null")


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
    if is_there(path):
        return
    state = "has 0 bytes" if path.exists() else "is not there"
    _require_none_recorded(
        str(path),
        state,
        output_dir,
        "If its disk is away, mount it. If the site has another state folder, set "
        "PIPELINE_STATE_DIR or PIPELINE_PRODUCTS_DB to what it has.",
    )


def require_own_file(file: Path, output_dir: Path) -> None:
    """Raise `RegistryAwayError` where somebody else could read or replace the registry of a site.

    Of a registry in SQLite, there or not.
    """
    elsewhere = f"{other_folder('state_dir')} Or name another file in PIPELINE_PRODUCTS_DB."
    exposure = find_exposure(registry_places(file), Owners.of(output_dir), elsewhere)
    if exposure is not None:
        raise RegistryAwayError(str(file), exposure.problem, exposure.remedy)


def has_tables(connection: Connection, place: str, output_dir: Path | None) -> bool:
    """Whether a registry is in this database of Postgres.

    Raises `RegistryAwayError` while a restoration has its tables aside, and `RegistryDamagedError`
    where there are none and the site of the output folder has had a registry.
    """
    if connection.scalar(_HAS_TABLES):
        return True
    _require_not_aside(connection, place)
    if output_dir is not None:
        _require_none_recorded(
            place,
            f"has no tables in the schema {POSTGRES_SCHEMA}",
            output_dir,
            "If the site has another database, set PIPELINE_PRODUCTS_DB to what it has.",
        )
    return False


def _require_not_aside(connection: Connection, place: str) -> None:
    """Raise `RegistryAwayError` while a restoration has the tables aside.

    New ones would be in the way of those of the backup, and count as what was there before.
    """
    if connection.scalar(_IS_ASIDE) and not inspect(connection).get_table_names(POSTGRES_SCHEMA):
        raise RegistryAwayError(
            place,
            "The restoration of a backup is under way or was interrupted: the registry from before "
            f"it is in the schema {_ASIDE}.",
            "Wait for its end; of one that was interrupted, repeat it: "
            "contimg restore FOLDER --force",
        )


def _require_none_recorded(place: str, state: str, output_dir: Path, remedy: str) -> None:
    """Raise `RegistryDamagedError` if the output folder's site has had a registry."""
    mark = read_site_file(output_dir)
    if mark is None or mark.registry is None:
        return
    raise RegistryDamagedError(
        place,
        f"The registry of this site is gone: {place} {state}, but {output_dir / SITE_NAME} says "
        f"that the site has its registry at {mark.registry}.",
        f"{remedy} With a backup: contimg restore DIR. To make a new one from the products on "
        "disk: contimg registry rebuild",
    )
