"""Opening HDF5 files that may still be arriving: copied, written, or left by a writer that died."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from absurd_contimg.errors import (
    CorruptInputError,
    InputError,
    MissingInputError,
    UnfinishedInputError,
)

TRANSFER_AGAIN = "Transfer the file again, or leave it out of the group."

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_PASSING = {errno.EACCES, errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.EIO}
"""Errors of the file system that may go away: they keep their own type."""
_QUIET_SECONDS = 120.0
"""A file that has not changed for so long is no longer being copied (rsync and cp write on)."""


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The open file, or `MissingInputError`, `CorruptInputError`, `UnfinishedInputError`.

    An error of the file system (no permission, locked by a writer) passes as it is.
    """
    import h5py

    if not path.is_file():
        problem = (
            "is no regular file"
            if path.exists()
            else f"is a link to {os.readlink(path)}, which does not exist"
            if path.is_symlink()
            else "does not exist"
        )
        raise MissingInputError(
            f"the input file {path} {problem}.",
            "Restore it, or spawn the group again without it.",
        )
    try:
        with h5py.File(path, "r") as file:
            yield file
    except OSError as error:
        if error.errno in _PASSING:
            raise
        raise _unreadable(path, error) from error
    except (RuntimeError, KeyError, ValueError) as error:  # h5py's for damaged metadata
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> InputError:
    """Why a file does not open: its writer is at work, has died, or the file is damaged."""
    is_marked = "h5clear" in str(error)
    if _begins_as_hdf5(path) and _may_grow(path):
        state = "open for writing" if is_marked else "not whole yet"
        return UnfinishedInputError(
            f"{path} is {state} ({error}).",
            f"Nothing: it is looked at again until it has not changed for {_QUIET_SECONDS:g} s.",
        )
    if is_marked:
        return CorruptInputError(
            f"{path} has the mark of a file that is open for writing, but nothing writes it "
            f"({error}).",
            f"Its writer ended early. If the file is whole, remove the mark: h5clear -s {path}",
        )
    problem = "truncated" if "truncated" in str(error) else "not an HDF5 file, or damaged"
    return CorruptInputError(f"{path} is {problem} ({error}).", TRANSFER_AGAIN)


def _begins_as_hdf5(path: Path) -> bool:
    """Whether what is there of the file can be the beginning of an HDF5 file."""
    try:
        with path.open("rb") as file:
            return _SIGNATURE.startswith(file.read(len(_SIGNATURE)))
    except FileNotFoundError:
        return True  # it is being replaced


def _may_grow(path: Path) -> bool:
    """Whether a file has changed lately, or a process of this host has it open for writing."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return True  # it is being replaced
    is_recent = abs(time.time() - status.st_mtime) < _QUIET_SECONDS  # of another clock, perhaps
    return is_recent or _has_writer(status)


def _has_writer(status: os.stat_result) -> bool:
    """Whether a process that this user may look at has the file open for writing (Linux)."""
    for entry in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            there = entry.stat()
            if (there.st_dev, there.st_ino) != (status.st_dev, status.st_ino):
                continue
            information = entry.parents[1] / "fdinfo" / entry.name
            flags = re.search(r"^flags:\s*(\d+)", information.read_text(), re.MULTILINE)
        except OSError:
            continue  # another user's process, or one that has just ended
        if flags is not None and int(flags[1], 8) & os.O_ACCMODE != os.O_RDONLY:
            return True
    return False


def is_finished(path: Path) -> bool:
    """False while a file is being written or copied; a damaged file is finished too."""
    try:
        with opened(path):
            return True
    except UnfinishedInputError:
        return False
    except OSError as error:
        return error.errno != errno.EAGAIN  # locked by its writer
    except InputError:
        return True
