"""What products, scratch and the runner of stages ask of a file system, and the local one.

`FileSystem` is a port: the simulation puts a disk of its own there, so that the order of
operations which makes a kill harmless is the same code in both. Only what the worker does to
folders and manifests goes through it; what a stage does to its data does not.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from absurd_contimg.core.records import Json
from absurd_contimg.products.files import content_digest, flush, tracked_files, write_json

_REMOVAL_PAUSES_SECONDS = (0.0, 0.02, 0.1, 0.5)


class FileSystem(Protocol):
    """One file system. Errors are `OSError` with the errno that Linux would give."""

    def exists(self, path: Path) -> bool:
        """Whether there is anything."""
        ...

    def is_folder(self, path: Path) -> bool:
        """Whether a folder is there."""
        ...

    def is_file(self, path: Path) -> bool:
        """Whether a file is there."""
        ...

    def is_readable(self, path: Path) -> bool:
        """Whether this process may read a file."""
        ...

    def sizes(self, folder: Path) -> Mapping[str, int]:
        """Bytes of all files below a folder but CASA's lock files, by path inside it, sorted.

        Raises `OutputError` on a symbolic link or a special file.
        """
        ...

    def digest(self, file: Path) -> str:
        """blake2b-160 of a file's bytes, in hex."""
        ...

    def read_json(self, path: Path) -> Any:
        """What `write_json` wrote; raises `ValueError` when it is not JSON."""
        ...

    def write_json(self, path: Path, value: Json) -> None:
        """Write JSON so that the file is there with all its content or not at all."""
        ...

    def make_folder(self, folder: Path) -> None:
        """Make a folder and those above it; raises `FileExistsError` when it is there."""
        ...

    def ensure_folder(self, folder: Path) -> None:
        """The same, but it may be there."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Move a folder in one step; a target that is there must be an empty folder."""
        ...

    def remove(self, file: Path) -> None:
        """Remove a file; it may be absent."""
        ...

    def remove_tree(self, folder: Path) -> None:
        """Remove a folder and everything in it; it may be absent, or still be written to."""
        ...

    def flush(self, path: Path) -> None:
        """Have the disk hold what was written to a file, or to a folder's list of names."""
        ...

    def flush_tree(self, folder: Path) -> None:
        """The same for a folder and everything in it."""
        ...

    def matching(self, folder: Path, pattern: str) -> list[Path]:
        """As `Path.glob`, sorted."""
        ...

    def tree_size(self, folder: Path) -> int:
        """The bytes that the files below a folder hold; 0 when it is not there."""
        ...

    def free_bytes(self, folder: Path) -> int:
        """What is free on its file system."""
        ...

    def try_lock(self, path: Path, *, create: bool = True) -> int | None:
        """Lock the file of that name for the life of this process; None if it is taken."""
        ...

    def unlock(self, lock: int) -> None:
        """Give back what `try_lock` returned."""
        ...

    def locked(self, path: Path) -> AbstractContextManager[None]:
        """Wait for, hold and free an exclusive lock on a file; it is made if it is not there."""
        ...


class LocalFileSystem:
    """The file systems of this machine; see `FileSystem`."""

    def exists(self, path: Path) -> bool:
        """See `FileSystem`."""
        return path.exists()

    def is_folder(self, path: Path) -> bool:
        """See `FileSystem`."""
        return path.is_dir()

    def is_file(self, path: Path) -> bool:
        """See `FileSystem`."""
        return path.is_file()

    def is_readable(self, path: Path) -> bool:
        """See `FileSystem`."""
        return os.access(path, os.R_OK)

    def sizes(self, folder: Path) -> Mapping[str, int]:
        """See `FileSystem`."""
        found = tracked_files(folder)
        return {file.relative_to(folder).as_posix(): file.stat().st_size for file in found}

    def digest(self, file: Path) -> str:
        """See `FileSystem`."""
        return content_digest(file)

    def read_json(self, path: Path) -> Any:
        """See `FileSystem`."""
        return json.loads(path.read_bytes())

    def write_json(self, path: Path, value: Json) -> None:
        """See `FileSystem`."""
        write_json(path, value)

    def make_folder(self, folder: Path) -> None:
        """See `FileSystem`."""
        folder.mkdir(parents=True)

    def ensure_folder(self, folder: Path) -> None:
        """See `FileSystem`."""
        folder.mkdir(parents=True, exist_ok=True)

    def rename(self, source: Path, target: Path) -> None:
        """See `FileSystem`."""
        os.rename(source, target)

    def remove(self, file: Path) -> None:
        """See `FileSystem`."""
        file.unlink(missing_ok=True)

    def remove_tree(self, folder: Path) -> None:
        """See `FileSystem`."""
        remove_tree(folder)

    def flush(self, path: Path) -> None:
        """See `FileSystem`."""
        flush(path)

    def flush_tree(self, folder: Path) -> None:
        """See `FileSystem`."""
        for parent, _, files in os.walk(folder, topdown=False):
            for name in files:
                flush(Path(parent, name))
            flush(Path(parent))

    def matching(self, folder: Path, pattern: str) -> list[Path]:
        """See `FileSystem`."""
        return sorted(folder.glob(pattern))

    def tree_size(self, folder: Path) -> int:
        """See `FileSystem`."""
        return tree_size(folder)

    def free_bytes(self, folder: Path) -> int:
        """See `FileSystem`."""
        return shutil.disk_usage(folder).free

    def try_lock(self, path: Path, *, create: bool = True) -> int | None:
        """See `FileSystem`. A descriptor, which the kernel closes when the process dies.

        The file may be removed between opening and locking it; the lock then guards nothing, so
        the name is looked up again under the lock.
        """
        while True:
            try:
                descriptor = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o644)
            except FileNotFoundError:
                return None
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return None
            try:
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    return descriptor
            except FileNotFoundError:
                pass
            os.close(descriptor)

    def unlock(self, lock: int) -> None:
        """See `FileSystem`."""
        os.close(lock)

    def locked(self, path: Path) -> AbstractContextManager[None]:
        """See `FileSystem`."""
        return file_lock(path)


LOCAL: FileSystem = LocalFileSystem()
"""What everything works on unless it is told otherwise."""


def tree_size(folder: Path) -> int:
    """The bytes that the files below a folder hold; 0 when it is not there."""
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            try:
                total += Path(parent, name).lstat().st_size
            except FileNotFoundError:
                continue  # removed while we were counting
    return total


def remove_tree(folder: Path) -> None:
    """Remove a folder and everything in it; it may be absent, or still be written to.

    A killed process can finish creating one last file while we remove its folder, so this tries
    again for a fraction of a second before it lets the error through.
    """
    for pause_seconds in (*_REMOVAL_PAUSES_SECONDS, None):
        if not folder.exists():
            return
        try:
            shutil.rmtree(folder)
        except OSError:
            if pause_seconds is None:
                raise
            _make_folders_writable(folder)
            time.sleep(pause_seconds)


def _make_folders_writable(folder: Path) -> None:
    """A stage may have copied read-only folders into its scratch."""
    for parent, _, _ in os.walk(folder):
        with suppress(FileNotFoundError):  # whoever else removes it is welcome
            Path(parent).chmod(0o700)


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Wait for, hold and free an exclusive lock on a file; it is made if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
