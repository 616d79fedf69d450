"""Scratch: folders of running attempts, and the janitor that removes those of dead owners.

Every worker process owns one folder in scratch and holds a lock (``flock``) on a file for as
long as it lives; the kernel frees the lock when the process dies, however it dies. A folder
whose owner's lock is free is rubbish, whatever its age; a folder whose owner's lock is held is
in use, whatever its age. Nothing without a lock file is touched: it is not ours.

Layout: ``<scratch>/.owners/<owner>.lock`` and ``<scratch>/<owner>/<run>/<stage>-<attempt>-<n>``.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from absurd_contimg.stages.errors import SettingError, StageError

_OWNERS = ".owners"
_REMOVAL_PAUSES_SECONDS = (0.0, 0.02, 0.1, 0.5)


class ScratchInUseError(StageError):
    """Another living process owns scratch under this name."""


class ScratchOwner:
    """This process's part of scratch, from `__enter__` (or `acquire`) to the end of its life.

    What an earlier process of the same name left behind is removed at the start. `name` must be
    unique among living processes; a stable one (host and instance) is best.
    """

    def __init__(self, scratch_dir: Path, name: str) -> None:
        self.name = safe_name(name)
        self.folder = scratch_dir / self.name
        self._scratch_dir = scratch_dir
        self._lock: int | None = None
        self._numbers = itertools.count()

    def acquire(self, patience_seconds: float = 10.0) -> Self:
        """Take the lock and an empty folder.

        Another worker's janitor may be sweeping this very name, so a taken lock is tried for a
        while; then it raises `ScratchInUseError`.
        """
        give_up = time.monotonic() + patience_seconds
        lock = _try_lock(_lock_path(self._scratch_dir, self.name))
        while lock is None:
            if time.monotonic() >= give_up:
                raise ScratchInUseError(
                    f"Scratch folder {self.folder} belongs to a process that is still running.",
                    "Give each worker a name of its own.",
                )
            time.sleep(0.02)
            lock = _try_lock(_lock_path(self._scratch_dir, self.name))
        self._lock = lock
        remove_tree(self.folder)
        self.folder.mkdir()
        return self

    def release(self) -> None:
        """Remove the folder and free the lock."""
        if self._lock is not None:
            _remove_owner(self._scratch_dir, self.name)
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def new_path(self, run: str, stage: str, attempt: str) -> Path:
        """A path for the folder of one attempt, never given out before; creates nothing."""
        if self._lock is None:
            raise RuntimeError(f"scratch owner {self.name!r} has not acquired its folder")
        # Nobody else writes here and it was emptied at the start, so a count is unique.
        number = next(self._numbers)
        return self.folder / safe_name(run) / safe_name(f"{stage}-{attempt}-{number}")


@dataclass(frozen=True, slots=True)
class Swept:
    """One dead owner's folder that the janitor removed, and the bytes that its files held."""

    owner: str
    folder: Path
    size_bytes: int


class Janitor:
    """Removes what dead owners left in scratch. Any number may sweep at the same time."""

    def __init__(self, scratch_dir: Path) -> None:
        self._scratch_dir = scratch_dir

    def sweep(self) -> list[Swept]:
        """Remove the folders of all owners that no longer live; says which and how much."""
        swept = []
        for path in sorted((self._scratch_dir / _OWNERS).glob("*.lock")):
            lock = _try_lock(path, create=False)
            if lock is None:
                continue  # alive, or another janitor is at it
            try:
                owner = path.name.removesuffix(".lock")
                folder = self._scratch_dir / owner
                size = tree_size(folder)
                existed = folder.exists()
                _remove_owner(self._scratch_dir, owner)
            finally:
                os.close(lock)
            if existed:
                swept.append(Swept(owner, folder, size))
        return swept


def safe_name(name: str) -> str:
    """The name itself, if it can be one component of a path; else `SettingError`."""
    if not name or name.startswith(".") or "/" in name or "\0" in name or len(name) > 200:
        raise SettingError(f"{name!r} cannot be part of a path in scratch.")
    return name


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


def _lock_path(scratch_dir: Path, owner: str) -> Path:
    path = scratch_dir / _OWNERS / f"{owner}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _try_lock(path: Path, *, create: bool = True) -> int | None:
    """A descriptor that holds the lock on the file of that name, or None if it is taken.

    The file may be removed between opening and locking it; the lock then guards nothing, so the
    name is looked up again under the lock.
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


def _remove_owner(scratch_dir: Path, owner: str) -> None:
    """Remove an owner's folder, then its lock file: only while holding the lock."""
    remove_tree(scratch_dir / owner)
    _lock_path(scratch_dir, owner).unlink(missing_ok=True)
