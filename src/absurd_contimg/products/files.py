"""Real files and folders as stages use them; what goes through a port is in `filesystem`."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from absurd_contimg.errors import OutputError

LOCK_FILE = "table.lock"
"""casacore rewrites it whenever a table is opened, even to read: no part of the content."""

FileState = tuple[int, int, int]
"""Another one means that the file was written or replaced."""


def tracked_files(folder: Path) -> list[Path]:
    """Sorted files without casacore's locks.

    `OutputError` on a link, a special file, and a folder that cannot be read.
    """

    def on_error(error: OSError) -> None:
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return
        if error.errno == errno.ENAMETOOLONG:
            raise OutputError(
                f"{folder} holds folders in folders, too deep for a path.",
                "Move the innermost ones away.",
            ) from error
        raise OutputError(
            f"{error.filename} cannot be read ({error.strerror}).", "Let this user read it."
        ) from error

    files = []
    for parent, subfolders, names in os.walk(folder, onerror=on_error):
        for name in (*subfolders, *names):
            path = Path(parent, name)
            try:
                mode = path.lstat().st_mode
            except OSError as error:
                on_error(error)
                raise
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise OutputError(f"{path} is a link or a special file; only plain files count.")
            if stat.S_ISREG(mode) and name != LOCK_FILE:
                files.append(path)
    return sorted(files)


def file_state(file: Path) -> FileState:
    """Inode, size and time of change (ns)."""
    status = file.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def file_states(folder: Path) -> dict[Path, FileState]:
    """The state of every tracked file."""
    return {file: file_state(file) for file in tracked_files(folder)}
