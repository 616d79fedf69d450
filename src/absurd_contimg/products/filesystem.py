"""The port through which products, scratch and runner use a file system; simulated or real."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from absurd_contimg.core.records import Json
from absurd_contimg.errors import SettingError
from absurd_contimg.forked_children import close_lock, withhold_lock
from absurd_contimg.owned_folders import MARK_NAME, Mark, mount_points, remove_tree, take_folder
from absurd_contimg.products.files import tracked_files
from absurd_contimg.regular_files import UnsuitableFileError, read_json
from absurd_contimg.whole_files import failures_of, flush

_COPIED_AT_ONCE_BYTES = 1_048_576
_LOCK_MODE = 0o600
"""Who may read a lock file may hold its lock for ever."""


class FileSystem(Protocol):
    """One file system. Errors are `OSError` with the errno that Linux gives."""

    def exists(self, path: Path) -> bool:
        """Whether there is anything."""

    def is_folder(self, path: Path) -> bool:
        """Whether a folder is there."""

    def is_file(self, path: Path) -> bool:
        """Whether a file is there."""

    def is_readable(self, path: Path) -> bool:
        """Whether this process may read a file."""

    def sizes(self, folder: Path) -> Mapping[str, int]:
        """Bytes of files by path, sorted, no locks; `OutputError` on a link or special file."""

    def touched_at_ns(self, file: Path) -> int:
        """When a file was last written, or got other attributes: the later of both."""

    def digest(self, file: Path) -> str:
        """blake2b-160 of a file's bytes, in hex."""

    def read_json(self, path: Path) -> Any:
        """What `write_json` wrote; raises `ValueError` when it is no JSON or no regular file."""

    def write_json(self, path: Path, value: Json) -> None:
        """Write JSON so that the file is there with all its content or not at all."""

    def copy_file(self, source: Path, target: Path) -> None:
        """Copy a file's bytes and flush them; raises `FileExistsError` for a target that is there.

        A copy that fails or is interrupted leaves a part of it.
        """

    def make_folder(self, folder: Path) -> None:
        """Make a folder and its parents; raises `FileExistsError` when it is there."""

    def ensure_folder(self, folder: Path) -> None:
        """Make a folder and its parents unless it is there."""

    def rename(self, source: Path, target: Path) -> None:
        """Move a folder in one step; a target that is there must be an empty folder."""

    def remove(self, file: Path) -> None:
        """Remove a file; it may be absent."""

    def take_folder(self, folder: Path, mark: Mark, is_left_over: Callable[[Path], bool]) -> None:
        """As `owned_folders.take_folder`."""

    def remove_tree(self, folder: Path, mark: Mark) -> None:
        """As `owned_folders.remove_tree`; the folder may still be written to."""

    def mount_points(self, folder: Path) -> list[Path]:
        """As `owned_folders.mount_points`."""

    def flush(self, path: Path) -> None:
        """As `whole_files.flush`."""

    def flush_tree(self, folder: Path) -> None:
        """`flush` a folder and everything in it."""

    def matching(self, folder: Path, pattern: str) -> list[Path]:
        """As `Path.glob`, sorted."""

    def tree_size(self, folder: Path) -> int:
        """The bytes of a file or of all files below a folder but marks; 0 when it is not there."""

    def free_bytes(self, folder: Path) -> int:
        """The bytes that are free on its file system."""

    def try_lock(self, path: Path, *, create: bool = True) -> int | None:
        """Lock the file of that name until this process ends.

        None if another one holds it, or if it is no lock file: a link, or a file with content.
        """

    def unlock(self, lock: int) -> None:
        """Give back what `try_lock` returned."""

    def locked(self, path: Path) -> AbstractContextManager[None]:
        """Wait for, hold and free an exclusive lock on a file; makes the file if necessary.

        Raises `SettingError` for what is no file of its own.
        """


class _LocalFileSystem:
    """The file systems of this machine."""

    def exists(self, path: Path) -> bool:
        return path.exists()

    def is_folder(self, path: Path) -> bool:
        return path.is_dir()

    def is_file(self, path: Path) -> bool:
        return path.is_file()

    def is_readable(self, path: Path) -> bool:
        return os.access(path, os.R_OK)

    def sizes(self, folder: Path) -> Mapping[str, int]:
        files = tracked_files(folder)
        return {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}

    def touched_at_ns(self, file: Path) -> int:
        status = file.stat()
        return max(status.st_mtime_ns, status.st_ctime_ns)

    def digest(self, file: Path) -> str:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=20)).hexdigest()

    def read_json(self, path: Path) -> Any:
        try:
            return read_json(path)
        except (UnsuitableFileError, RecursionError) as error:
            raise ValueError(str(error)) from error

    def write_json(self, path: Path, value: Json) -> None:
        partial = path.with_name(path.name + ".partial")
        with failures_of(path), partial.open("w", encoding="utf-8") as file:
            json.dump(value, file, indent=1, sort_keys=True, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        os.rename(partial, path)

    def copy_file(self, source: Path, target: Path) -> None:
        with source.open("rb") as reader, target.open("xb") as writer:
            shutil.copyfileobj(reader, writer, _COPIED_AT_ONCE_BYTES)
            with failures_of(target):
                writer.flush()
                os.fsync(writer.fileno())

    def make_folder(self, folder: Path) -> None:
        folder.mkdir(parents=True)

    def ensure_folder(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)

    def rename(self, source: Path, target: Path) -> None:
        os.rename(source, target)

    def remove(self, file: Path) -> None:
        file.unlink(missing_ok=True)

    def take_folder(self, folder: Path, mark: Mark, is_left_over: Callable[[Path], bool]) -> None:
        take_folder(folder, mark, is_left_over)

    def remove_tree(self, folder: Path, mark: Mark) -> None:
        remove_tree(folder, mark)

    def mount_points(self, folder: Path) -> list[Path]:
        return mount_points(folder)

    def flush(self, path: Path) -> None:
        flush(path)

    def flush_tree(self, folder: Path) -> None:
        for parent, _, files in os.walk(folder, topdown=False):
            for name in files:
                self.flush(Path(parent, name))
            self.flush(Path(parent))

    def matching(self, folder: Path, pattern: str) -> list[Path]:
        return sorted(folder.glob(pattern))

    def tree_size(self, folder: Path) -> int:
        total = folder.stat().st_size if folder.is_file() else 0
        for parent, _, files in os.walk(folder):
            for name in set(files) - {MARK_NAME}:
                with suppress(FileNotFoundError):  # removed since it was listed
                    total += Path(parent, name).lstat().st_size
        return total

    def free_bytes(self, folder: Path) -> int:
        return shutil.disk_usage(folder).free

    def try_lock(self, path: Path, *, create: bool = True) -> int | None:
        # The lock is a descriptor, which the kernel closes when the process dies. Its file may be
        # removed between opening and locking it; then it guards nothing, so the name is looked up
        # again under the lock.
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | (os.O_CREAT if create else 0)
        while True:
            try:
                descriptor = os.open(path, flags, _LOCK_MODE)
            except OSError as error:
                if error.errno == errno.EROFS and flags & os.O_RDWR and not create:
                    flags ^= os.O_RDWR  # its owner may live, and that can be asked
                    continue
                if error.errno in (errno.ENOENT, errno.ELOOP, errno.EISDIR, errno.ENXIO):
                    return None
                raise
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size:
                os.close(descriptor)
                return None
            try:
                with failures_of(path):
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(descriptor)
                if isinstance(error, BlockingIOError):
                    return None
                raise
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    withhold_lock(descriptor)
                    return descriptor
            os.close(descriptor)

    def unlock(self, lock: int) -> None:
        close_lock(lock)

    @contextmanager
    def locked(self, path: Path) -> Iterator[None]:
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
        try:
            descriptor = os.open(path, flags, _LOCK_MODE)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise _no_lock(path) from error
            raise
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise _no_lock(path)
            if status.st_mode & ~stat.S_IFMT(status.st_mode) & ~_LOCK_MODE and not status.st_size:
                with suppress(OSError):  # of an earlier version, or another user's
                    os.fchmod(descriptor, _LOCK_MODE)
            with failures_of(path):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _no_lock(path: Path) -> SettingError:
    """A pipe would be waited for, a device never ends, and a link leads to somebody else's file."""
    return SettingError(
        f"{path} cannot be locked: it is a link, a folder, a pipe or a device.", "Remove it."
    )


LOCAL: FileSystem = _LocalFileSystem()
"""The default of everything that takes a file system."""
