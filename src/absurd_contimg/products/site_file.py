"""The identity of a site in its output folder: which site, which registry, which databases.

It is the same on every host that mounts the folder, moves with it, and is missing in the mount
point of a disk that is away.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from absurd_contimg.file_owners import SITE_NAME
from absurd_contimg.regular_files import UnsuitableFileError, read_json
from absurd_contimg.whole_files import failures_of

_PRODUCT = "absurd-contimg"
_IDENTITY = re.compile("[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class SiteFile:
    """What the file says."""

    site: str
    """The identity: 16 hexadecimal digits."""
    registry: str | None = None
    """Where the registry is; None in a file of an earlier version."""
    databases: Mapping[str, str] = field(default_factory=dict)
    """By queue, where the database is that has it."""


def read_site_file(folder: Path) -> SiteFile | None:
    """The identity in an output folder; None if it has none that can be read."""
    try:
        content = read_json(folder / SITE_NAME)
    except (OSError, ValueError, UnsuitableFileError, RecursionError):
        return None
    match content:
        case {"product": "absurd-contimg", "site": str(site)} if _IDENTITY.fullmatch(site):
            registry, databases = content.get("registry"), content.get("databases")
            pairs = databases.items() if isinstance(databases, dict) else ()
            return SiteFile(
                site,
                registry if isinstance(registry, str) else None,
                {queue: place for queue, place in pairs if isinstance(place, str)},
            )
    return None


def read_site(folder: Path) -> str | None:
    """The site of an output folder; None if it has none that can be read."""
    content = read_site_file(folder)
    return None if content is None else content.site


def mark_site(folder: Path, content: SiteFile) -> str:
    """Give an output folder an identity unless it has one; that which it has then."""
    if (present := read_site(folder)) is not None:
        return present
    folder.mkdir(parents=True, exist_ok=True)
    partial = _write_partial(folder, content)
    try:
        try:
            os.link(partial, folder / SITE_NAME)  # of several hosts at once, one
        except FileExistsError:
            if (present := read_site(folder)) is not None:
                return present
            partial.replace(folder / SITE_NAME)  # it was damaged
        except OSError:  # a file system without links
            partial.replace(folder / SITE_NAME)
    finally:
        partial.unlink(missing_ok=True)
    return read_site(folder) or content.site


def replace_site_file(folder: Path, content: SiteFile) -> None:
    """Write what the file is to say, unless it does."""
    if read_site_file(folder) == content:
        return
    partial = _write_partial(folder, content)
    try:
        partial.replace(folder / SITE_NAME)
    finally:
        partial.unlink(missing_ok=True)


def _write_partial(folder: Path, content: SiteFile) -> Path:
    partial = folder / f"{SITE_NAME}.{secrets.token_hex(4)}"
    values: dict[str, object] = {"product": _PRODUCT, "site": content.site}
    if content.registry is not None:
        values |= {"registry": content.registry, "databases": dict(content.databases)}
    try:
        with failures_of(folder / SITE_NAME), partial.open("x", encoding="utf-8") as file:
            json.dump(values, file)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    return partial
