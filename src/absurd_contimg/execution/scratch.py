"""Scratch: the folders of running attempts, and the removal of those of dead owners.

A worker holds a lock (``flock``) as long as it lives: ``<scratch>/.owners/<owner>.lock`` for the
folder ``<scratch>/<owner>``. Nothing without a lock file is removed.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from absurd_contimg.errors import SettingError, UserError
from absurd_contimg.products.filesystem import LOCAL, FileSystem

_OWNERS = ".owners"


class ScratchInUseError(UserError):
    """Another running process owns scratch under this name."""


class ScratchOwner:
    """This process's part of scratch; `name` is unique among running processes, and stable."""

    def __init__(self, scratch_dir: Path, name: str, files: FileSystem = LOCAL) -> None:
        self.name = safe_name(name)
        self.folder = scratch_dir / self.name
        self._scratch_dir = scratch_dir
        self._files = files
        self._lock: int | None = None
        self._numbers = itertools.count()

    def acquire(self, patience_seconds: float = 10.0) -> Self:
        """Take the lock, which a janitor may hold briefly; `ScratchInUseError` after a wait."""
        give_up = time.monotonic() + patience_seconds
        files, path = self._files, _lock_path(self._scratch_dir, self.name)
        files.ensure_folder(path.parent)
        lock = files.try_lock(path)
        while lock is None:
            if time.monotonic() >= give_up:
                raise ScratchInUseError(
                    f"Scratch folder {self.folder} belongs to a process that is still running.",
                    "Give each worker a name of its own.",
                )
            time.sleep(0.02)
            lock = files.try_lock(path)
        self._lock = lock
        files.remove_tree(self.folder)
        files.ensure_folder(self.folder)
        return self

    def release(self) -> None:
        """Remove the folder and free the lock."""
        if self._lock is not None:
            _remove_owner(self._scratch_dir, self.name, self._files)
            self._files.unlock(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self.acquire()

    def __exit__(self, *_error: object) -> None:
        self.release()

    def new_path(self, run: str, stage: str, attempt: str) -> Path:
        """A new path for the folder of one attempt; creates nothing."""
        if self._lock is None:
            raise RuntimeError(f"scratch owner {self.name!r} has not acquired its folder")
        # Only this process writes here, and `acquire` has emptied it: a count is unique.
        number = next(self._numbers)
        return self.folder / safe_name(f"{run}-{stage}-{attempt}-{number}")


@dataclass(frozen=True, slots=True)
class RemovedFolder:
    """A dead owner's folder that the janitor has removed, and the bytes that its files held."""

    owner: str
    folder: Path
    size_bytes: int


class Janitor:
    """Removes what dead owners have left in scratch. Several may work at the same time."""

    def __init__(self, scratch_dir: Path, files: FileSystem = LOCAL) -> None:
        self._scratch_dir = scratch_dir
        self._files = files

    def sweep(self) -> list[RemovedFolder]:
        """Remove the folders of all dead owners; which, and how large they were."""
        removed = []
        files = self._files
        for path in files.matching(self._scratch_dir / _OWNERS, "*.lock"):
            lock = files.try_lock(path, create=False)
            if lock is None:
                continue  # its owner is alive, or another janitor removes it
            try:
                owner = path.name.removesuffix(".lock")
                folder = self._scratch_dir / owner
                size = files.tree_size(folder)
                existed = files.exists(folder)
                _remove_owner(self._scratch_dir, owner, files)
            finally:
                files.unlock(lock)
            if existed:
                removed.append(RemovedFolder(owner, folder, size))
        return removed


def living_owners(scratch_dir: Path, files: FileSystem = LOCAL) -> list[str]:
    """The names of the running processes that own a part of this scratch folder."""
    living = []
    for path in files.matching(scratch_dir / _OWNERS, "*.lock"):
        lock = files.try_lock(path, create=False)
        if lock is not None:
            files.unlock(lock)
        elif files.exists(path):
            living.append(path.name.removesuffix(".lock"))
    return sorted(living)


def safe_name(name: str) -> str:
    """The name itself, if it can be one component of a path; else `SettingError`."""
    if not name or name.startswith(".") or "/" in name or "\0" in name or len(name) > 200:
        raise SettingError(f"{name!r} cannot be part of a path in scratch.")
    return name


def _lock_path(scratch_dir: Path, owner: str) -> Path:
    return scratch_dir / _OWNERS / f"{owner}.lock"


def _remove_owner(scratch_dir: Path, owner: str, files: FileSystem) -> None:
    """Remove an owner's folder, then its lock file; the caller holds the lock."""
    files.remove_tree(scratch_dir / owner)
    files.remove(_lock_path(scratch_dir, owner))
