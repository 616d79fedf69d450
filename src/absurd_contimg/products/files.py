"""Files and folders: digests, copies, and writing that survives a crash."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from pathlib import Path

from absurd_contimg.core.records import Json
from absurd_contimg.errors import OutputError

LOCK_FILE = "table.lock"
"""casacore rewrites it whenever a table is opened, even to read: no part of the content."""


def file_states(folder: Path) -> dict[Path, tuple[int, int]]:
    """Size and time of change (ns) of every file: equal states mean that nobody has written."""
    return {
        file: (status.st_size, status.st_mtime_ns)
        for file in tracked_files(folder)
        for status in (file.stat(),)
    }


def copy_writable(source: Path, destination: Path) -> Path:
    """A working copy of a file or folder in which everything can be written.

    An original may be read-only, and an ordinary copy would be so too; CASA then fails even to
    solve.
    """
    if source.is_dir():
        shutil.copytree(source, destination, copy_function=shutil.copyfile)
        for folder, _, _ in os.walk(destination):
            Path(folder).chmod(0o755)
    else:
        shutil.copyfile(source, destination)
    return destination


def write_json(path: Path, value: Json) -> None:
    """Write JSON so that the file is there with all its content or not at all."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, sort_keys=True, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    os.rename(partial, path)


def tracked_files(folder: Path) -> list[Path]:
    """All files below a folder but casacore's lock files, sorted by path.

    Raises `OutputError` on a symbolic link or a special file.
    """
    found = []
    for parent, subfolders, files in os.walk(folder):
        for name in (*subfolders, *files):
            path = Path(parent, name)
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise OutputError(f"{path} is a link or a special file; only plain files count.")
            if stat.S_ISREG(mode) and name != LOCK_FILE:
                found.append(path)
    return sorted(found)


def content_digest(path: Path) -> str:
    """blake2b-160 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=20)).hexdigest()


def flush(path: Path) -> None:
    """Have the disk hold what was written to a file, or to a folder's list of names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
