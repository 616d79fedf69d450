"""Scratch: the folders of running attempts, and the removal of those of dead owners.

A worker holds a lock (``flock``) as long as it lives: ``<scratch>/.owners/<owner>.lock`` for the
folder ``<scratch>/<owner>``. In production scratch is the part of one host (`host_scratch`). Only
folders with the mark of their owner are removed (`owned_folders`): a lock file alone says nothing.
"""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from absurd_contimg.core.repeated_lines import RepeatedLines
from absurd_contimg.errors import SettingError, UserError
from absurd_contimg.execution.disk_usage import size_text
from absurd_contimg.file_owners import why_it_stays
from absurd_contimg.owned_folders import ForeignFolderError, Mark, MountPointError
from absurd_contimg.products.filesystem import LOCAL, FileSystem
from absurd_contimg.regular_files import read_json

_log = logging.getLogger(__name__)
_lines = RepeatedLines()
"""Of all janitors of this process."""

OWNERS = ".owners"
KIND = "scratch"
"""Of the marks in scratch."""


class ScratchInUseError(UserError):
    """Another running process owns scratch under this name."""


class ScratchOwner:
    """This process's part of scratch; `name` is unique among running processes, and stable."""

    def __init__(self, scratch_dir: Path, name: str, files: FileSystem = LOCAL) -> None:
        self.name = safe_name(name)
        self.folder = scratch_dir / self.name
        self.scratch_dir = scratch_dir
        self._files = files
        self._mark = Mark(KIND, self.name)
        self._lock: int | None = None
        self._numbers = itertools.count()
        self._left: dict[Path, str] = {}
        """Folders of attempts that have ended, each with why it could not be removed."""
        self._used: frozenset[Path] = frozenset()
        """Folders that an earlier process of this name has left and that could not be removed."""

    def acquire(self, patience_seconds: float = 10.0) -> Self:
        """Take the lock, which a janitor may hold briefly; `ScratchInUseError` after a wait.

        What an earlier process has left and cannot be removed stays, with a warning, if the folder
        can be used all the same. Raises `ForeignFolderError` if files of somebody else are in it,
        and `OSError` if it cannot be used, as when something is mounted there.
        """
        give_up = time.monotonic() + patience_seconds
        files, path = self._files, _lock_path(self.scratch_dir, self.name)
        files.ensure_folder(path.parent)
        lock = files.try_lock(path)
        while lock is None:
            if time.monotonic() >= give_up:
                raise ScratchInUseError(
                    f"Scratch folder {self.folder} belongs to a process that is still running.",
                    "Give each worker a name of its own: --worker-id or ABSURD_WORKER_ID.",
                )
            time.sleep(0.02)
            lock = files.try_lock(path)
        try:
            _require_not_mounted(self.folder, files)
            self._empty()
            self._take_folder()
        except (ForeignFolderError, OSError):
            files.unlock(lock)
            raise
        self._lock = lock
        return self

    def release(self) -> None:
        """Remove the folder and free the lock; what cannot be removed is left to a janitor."""
        if self._lock is None:
            return
        lock, self._lock = self._lock, None
        try:
            _remove_left_over(self.folder, self._mark, self._files)
            self._files.remove(_lock_path(self.scratch_dir, self.name))
        except (ForeignFolderError, OSError) as error:
            _log.warning("left to a later worker: %s", _why_it_stays(self.folder, error))
        finally:
            self._files.unlock(lock)

    def _take_folder(self) -> None:
        _require_not_mounted(self.folder, self._files)
        self._files.take_folder(self.folder, self._mark, _is_left_over)

    def _empty(self) -> None:
        """Remove what an earlier process has left, or know what stays; raises if none can work."""
        files = self._files
        try:
            _remove_left_over(self.folder, self._mark, files)
        except OSError as error:
            trial = self.folder / ".trial"
            files.ensure_folder(trial)
            files.remove_tree(trial, self._mark)
            # No attempt has a hidden name: what has one is this process's to use again.
            left = [each for each in files.matching(self.folder, "*") if each.name[0] != "."]
            self._used = frozenset(left)
            self._left.update(dict.fromkeys(left, ""))
            text = _why_it_stays(self.folder, error)
            _log.warning("this worker works beside what it cannot remove: %s", text)

    def __enter__(self) -> Self:
        return self.acquire()

    def __exit__(self, *_error: object) -> None:
        self.release()

    def new_path(self, run: str, stage: str, attempt: str) -> Path:
        """A new path for the folder of one attempt; creates nothing."""
        if self._lock is None:
            raise RuntimeError(f"scratch owner {self.name!r} has not acquired its folder")
        # Only this process writes here: beside what `acquire` has left, a count is unique.
        while True:
            number = next(self._numbers)
            path = self.folder / safe_name(f"{run}-{stage}-{attempt}-{number}")
            if path not in self._used:
                return path

    def remove_path(self, path: Path) -> None:
        """Remove the folder of an attempt, and earlier ones that could not be removed.

        One that cannot be removed is no failure of the attempt, which has ended: it stays until a
        later call.
        """
        self._left[path] = ""
        self._remove_each()

    def remove_left(self) -> str:
        """Remove what could not be removed before: its disk could only be read, say.

        Returns one sentence on what still cannot, empty if nothing is left. Raises
        `ForeignFolderError` or `OSError` while no stage can work in this process's folder: it was
        replaced, or something is mounted there. One that was removed is made again.
        """
        self._take_folder()
        return self._remove_each()

    def _remove_each(self) -> str:
        for path, known in list(self._left.items()):
            try:
                self._files.remove_tree(path, self._mark)
            except (ForeignFolderError, OSError) as error:
                reason = _reason(path, error)
                if reason != known:  # it is tried before each claim
                    _log.warning("%s cannot be removed yet and is tried again (%s)", path, reason)
                    self._left[path] = reason
            else:
                self._left.pop(path, None)
        left = [(path, reason) for path, reason in list(self._left.items()) if reason]
        if not left:
            return ""
        path, reason = left[0]
        others = f" and {len(left) - 1} more in {self.folder}" if left[1:] else ""
        return (
            f"{path}{others} cannot be removed from scratch ({reason}): it is tried again before "
            "each claim. Find out what keeps it: lsof +D, findmnt, lsattr."
        )


@dataclass(frozen=True, slots=True)
class RemovedFolder:
    """A dead owner's folder that the janitor has removed, and the bytes that its files held."""

    owner: str
    folder: Path
    size_bytes: int

    def __str__(self) -> str:
        return f"{self.folder} of {self.owner}, {size_text(self.size_bytes)}"


class Janitor:
    """Removes what dead owners have left in scratch. Several may work at the same time."""

    def __init__(self, scratch_dir: Path, files: FileSystem = LOCAL) -> None:
        self._scratch_dir = scratch_dir
        self._files = files

    def sweep(self) -> list[RemovedFolder]:
        """Remove the folders of all dead owners; which, and how large they were.

        What has not the mark of its owner or cannot be removed stays, and a warning names it, each
        hour at most.
        """
        removed = []
        files = self._files
        for owner, path in _lock_files(self._scratch_dir, files):
            folder = self._scratch_dir / owner
            try:
                lock = files.try_lock(path, create=False)
                if lock is None:
                    continue  # its owner is alive, or another janitor removes it
                try:
                    size, existed = files.tree_size(folder), files.exists(folder)
                    _remove_left_over(folder, Mark(KIND, owner), files)
                    files.remove(path)
                finally:
                    files.unlock(lock)
            except (ForeignFolderError, OSError) as error:
                # Workers sweep before each claim while space is short.
                text = _why_it_stays(folder, error)
                _log.log(_lines.level(str(folder), text, time.monotonic()), "%s", text)
                continue
            if existed:
                removed.append(RemovedFolder(owner, folder, size))
        return removed


def living_owners(scratch_dir: Path, files: FileSystem = LOCAL) -> list[str]:
    """The names of the running processes that own a part of this scratch folder."""
    living = []
    for owner, path in _lock_files(scratch_dir, files):
        lock = files.try_lock(path, create=False)
        if lock is not None:
            files.unlock(lock)
        elif files.exists(path):
            living.append(owner)
    return sorted(living)


def visible_owners(scratch_dir: Path, files: FileSystem = LOCAL) -> list[str] | None:
    """As `living_owners`; None where their locks cannot be looked at: their disk is away."""
    try:
        return living_owners(scratch_dir, files) if files.is_folder(scratch_dir / OWNERS) else None
    except OSError:
        return None


def safe_name(name: str) -> str:
    """The name itself, if it can be one component of a path; else `SettingError`."""
    if not is_path_part(name):
        raise SettingError(f"{name!r} cannot be part of a path in scratch.")
    return name


def is_path_part(name: str) -> bool:
    """Whether a name can be one component of a path, and no hidden one."""
    try:
        length = len(name) if name.isascii() else len(os.fsencode(name))
    except UnicodeEncodeError:
        return False
    return 0 < length <= 200 and name[0] != "." and "/" not in name and "\0" not in name


def _lock_path(scratch_dir: Path, owner: str) -> Path:
    return scratch_dir / OWNERS / f"{owner}.lock"


def _lock_files(scratch_dir: Path, files: FileSystem) -> Iterator[tuple[str, Path]]:
    """The owners and their lock files; names that are no owner's are left out."""
    for path in files.matching(scratch_dir / OWNERS, "*.lock"):
        owner = path.name.removesuffix(".lock")
        if is_path_part(owner):
            yield owner, path


def _remove_left_over(folder: Path, mark: Mark, files: FileSystem) -> None:
    """Remove what a dead owner has left; the caller holds the lock."""
    if files.exists(folder):
        _require_not_mounted(folder, files)
        files.take_folder(folder, mark, _is_left_over)
        files.remove_tree(folder, mark)


def _require_not_mounted(folder: Path, files: FileSystem) -> None:
    if folder in files.mount_points(folder):
        raise MountPointError(folder)


def _why_it_stays(folder: Path, error: ForeignFolderError | OSError) -> str:
    return why_it_stays(folder, error) if isinstance(error, OSError) else str(error)


def _reason(path: Path, error: ForeignFolderError | OSError) -> str:
    if isinstance(error, ForeignFolderError):
        return error.problem
    place = "" if error.filename in (None, str(path)) else f": {error.filename}"
    return f"{error.strerror or error}{place}"


def _is_left_over(folder: Path) -> bool:
    """Whether all in a folder are attempts' folders of versions up to 0.1, which set no marks.

    They are empty or hold the request of a stage, with their own path.
    """
    for entry in folder.iterdir():
        if entry.is_symlink() or not entry.is_dir():
            return False
        try:
            request = read_json(entry / "request.json")
            if Path(request["scratch"]) != entry:
                return False
        except FileNotFoundError:
            if any(entry.iterdir()):
                return False
        except (OSError, ValueError, TypeError, KeyError):
            return False
    return True
