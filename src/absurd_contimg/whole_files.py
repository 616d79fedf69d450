"""Files that are there whole or not at all, and errors of writing that name them.

Where somebody else names the file, only an earlier one of the same kind is replaced: a file in
the place of /dev/stdout takes it from the whole machine.
"""

from __future__ import annotations

import errno
import glob
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from absurd_contimg.errors import SettingError
from absurd_contimg.regular_files import UnsuitableFileError, open_regular

_HEAD_BYTES = 2_000
_NO_SYNC_OF_FOLDERS = (errno.EBADF, errno.EINVAL, errno.ENOTSUP)
"""What a file system answers that cannot write folders to the disk on demand, as of an old SMB or
of VirtualBox. Postgres ignores the first two, too (fsync_fname_ext in its fd.c)."""
_LEFT_OVER_SECONDS = 3600.0
"""A partial file to which nothing was written for so long is that of a killed process."""
_SHOWN_LETTERS = 50
"""Of a file in the name of its partial one; each may have four bytes, and a name 255."""


def write_whole(path: Path, content: bytes) -> None:
    """Write a file by way of a partial one beside it, of which nothing is left after a failure.

    Raises `OSError` with the name of the file.
    """
    partial = path.with_name(f".{path.name}.partial")
    with failures_of(path):
        try:
            partial.write_bytes(content)
            partial.replace(path)
        except OSError:
            with suppress(OSError):
                partial.unlink()
            raise


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder into a new one of this user, whose files can be written.

    The first error ends it and keeps its number: that of `shutil.copytree` is a list without one.
    """
    target.mkdir()
    for entry in source.iterdir():
        if entry.is_dir():
            copy_folder(entry, target / entry.name)
        else:
            shutil.copyfile(entry, target / entry.name)


@contextmanager
def failures_of(path: Path) -> Iterator[None]:
    """Name a file in errors that name none: a write to a full disk does not say which one."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        reason = error.strerror or os.strerror(error.errno)
        raise OSError(error.errno, reason, str(path)) from error


def flush(path: Path) -> None:
    """Write a file's data, or a folder's list of names, from the cache to the disk.

    A folder only where its file system can. Raises `OSError` with the path.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with failures_of(path):
            os.fsync(descriptor)
    except OSError as error:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        if not is_folder or error.errno not in _NO_SYNC_OF_FOLDERS:
            raise
    finally:
        os.close(descriptor)


def require_replaceable(path: Path, what: str, is_ours: Callable[[bytes], bool]) -> None:
    """Raise `SettingError` unless there is nothing, an empty file, or an earlier `what`.

    `is_ours` tells from the beginning of a file. A link counts as something else.
    """
    if path.name in ("", ".."):
        raise SettingError(f"{str(path)!r} is no name of a file.", "Give the name of a new file.")
    try:
        if stat.S_ISREG(path.lstat().st_mode):
            with open_regular(path, path.lstat().st_size) as file:
                head = file.read(_HEAD_BYTES)
            if not head or is_ours(head):
                return
    except FileNotFoundError:
        return
    except UnsuitableFileError:
        pass  # it was exchanged meanwhile
    raise SettingError(f"{path} is there and is no {what}.", "Give another name.")


@contextmanager
def replaced_file(path: Path, what: str, is_ours: Callable[[bytes], bool]) -> Iterator[BinaryIO]:
    """A file to write; when the block ends, it is there under the name, whole and on the disk.

    Until then, and if the block raises, what was there stays. Raises what `require_replaceable`
    raises.
    """
    require_replaceable(path, what, is_ours)
    _remove_left_over(path)
    partial = _partial(path, uuid4().hex)
    try:
        with failures_of(path), partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        require_replaceable(path, what, is_ours)
        os.replace(partial, path)
        flush(path.absolute().parent)
    except FileNotFoundError as error:  # its folder is not there
        if error.filename == str(partial):
            error.filename = str(path)
        raise
    finally:
        with suppress(FileNotFoundError):
            partial.unlink()


def _partial(path: Path, part: str) -> Path:
    return path.with_name(f".{path.name[:_SHOWN_LETTERS]}.{part}.partial")


def _remove_left_over(path: Path) -> None:
    """Remove the partial files that killed processes have left of a file."""
    digits = "[0-9a-f]" * len(uuid4().hex)
    for partial in path.parent.glob(_partial(Path(glob.escape(path.name)), digits).name):
        with suppress(OSError):
            is_file = stat.S_ISREG(partial.lstat().st_mode)
            if is_file and time.time() - partial.lstat().st_mtime > _LEFT_OVER_SECONDS:
                partial.unlink()
