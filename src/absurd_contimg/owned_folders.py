"""Folders of this product, and the only code that removes folders.

A folder that the product makes and may remove holds a small file, its mark: the product, the kind
of folder, and whose it is. Only what carries the expected mark, or lies in a folder that does, is
removed, and nothing is reached through a symbolic link or behind a mount point. Whatever a setting,
a name or a lock file says, files of somebody else stay.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

from absurd_contimg.errors import SettingError

MARK_NAME = ".contimg-owner.json"
_PRODUCT = "absurd-contimg"
_MARK_BYTES_MAX = 4096
_CANNOT_LOOK = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE)
_REMOVAL_PAUSES_SECONDS = (0.0, 0.02, 0.1, 0.5)
_LEVELS_MAX = 100
"""Deeper folders are moved first: the removal of Python before 3.13 is recursive, and holds a
descriptor for each level."""
_LEFT_OVER_SECONDS = 3600.0
"""A temporary folder in which nothing was changed for so long is that of a killed process."""
_MOUNTS = Path("/proc/self/mountinfo")


class ForeignFolderError(SettingError):
    """A folder is not this product's, so it is neither used nor removed."""


class MountPointError(OSError):
    """Something is mounted at a path: nothing behind it is removed. `filename` is the path."""

    def __init__(self, point: Path) -> None:
        super().__init__(errno.EBUSY, "Something is mounted here", str(point))


@dataclass(frozen=True, slots=True)
class Mark:
    """What the mark in a folder says."""

    kind: str
    """``scratch``, ``demo``, ``database set-up``, ``publications`` or ``plots``."""
    owner: str
    """The worker, the site or the command that made the folder."""


def read_mark(folder: Path) -> Mark | None:
    """The mark of a folder; None if it has none that this product wrote.

    Raises `OSError` where the machine cannot look: then the folder is not somebody else's.
    """
    try:
        descriptor = os.open(folder / MARK_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in _CANNOT_LOOK:
            raise
        return None
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        content = file.read(_MARK_BYTES_MAX)
    try:
        match json.loads(content):
            case {"product": "absurd-contimg", "kind": str(kind), "owner": str(owner)}:
                return Mark(kind, owner)
    except (ValueError, RecursionError):
        return None
    return None


def make_private(folder: Path) -> None:
    """Make a folder that only its owner may enter; one that is there keeps its mode.

    Its parents are made as usual.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        folder.mkdir(mode=stat.S_IRWXU)


def take_folder(
    folder: Path, mark: Mark, is_left_over: Callable[[Path], bool] = lambda _folder: False
) -> None:
    """Make a folder with this mark; one that is empty or has the mark already is taken.

    `is_left_over` recognises what earlier versions, which set no marks, have left. Raises
    `ForeignFolderError` for any other folder and for a symbolic link.
    """
    if not _is_link(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if read_mark(folder) == mark:
            return
        if _is_empty(folder) or is_left_over(folder):
            text = json.dumps({"product": _PRODUCT, **asdict(mark)})
            try:
                (folder / MARK_NAME).write_text(text, encoding="utf-8")
            except OSError as error:  # of a full disk it does not say which
                error.filename = error.filename or str(folder)
                raise
            return
    raise _foreign(folder, mark)


@contextmanager
def temporary_folder(parent: Path, mark: Mark) -> Iterator[Path]:
    """A new folder with this mark, for this user alone, which is removed at the end.

    Those that killed processes have left beside it are removed after an hour.
    """
    prefix = f".{mark.kind.replace(' ', '-')}-"
    for left_over in parent.glob(f"{prefix}*"):
        with suppress(OSError, ForeignFolderError):
            if time.time() - _changed_at(left_over) > _LEFT_OVER_SECONDS:
                take_folder(left_over, mark)  # of one that was killed before it set the mark
                remove_tree(left_over, mark)
    folder = parent / f"{prefix}{uuid4().hex[:12]}"
    folder.mkdir(mode=stat.S_IRWXU)
    try:
        take_folder(folder, mark)
    except OSError:  # a full disk
        (folder / MARK_NAME).unlink(missing_ok=True)
        folder.rmdir()
        raise
    try:
        yield folder
    finally:
        remove_tree(folder, mark)


def _changed_at(folder: Path) -> float:
    """When something in a folder was last changed, in seconds since 1970."""
    return max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))


def remove_tree(folder: Path, mark: Mark) -> None:
    """Remove a folder that carries the mark, or a path inside such a folder.

    It may be absent. The mark goes last, so that an interrupted removal can be repeated. Raises
    `ForeignFolderError` if the nearest mark is another one, or there is none. What cannot be
    removed stays with the folders that it lies in, all else goes, and the `OSError` of the first of
    it is raised: `MountPointError` if nothing but mount points is left.
    """
    folder = folder.absolute()
    if not os.path.lexists(folder):
        return
    marked = _marked_above(folder, mark)
    if marked is None:
        raise _foreign(folder, mark)
    for point in mount_points(marked):
        if point == folder or (point != marked and folder.is_relative_to(point)):
            raise MountPointError(point)
    # A killed process can still create one last file while its folder is removed.
    for pause_seconds in (*_REMOVAL_PAUSES_SECONDS, None):
        if not os.path.lexists(folder):
            return
        points = mount_points(folder)
        try:
            _remove(folder, points)
        except MountPointError:
            raise
        except OSError:
            if pause_seconds is None:
                raise
            _make_folders_writable(folder, points)
            time.sleep(pause_seconds)


def mount_points(folder: Path) -> list[Path]:
    """The mount points at or below a folder, as paths that begin with it."""
    lines = _MOUNTS.read_bytes().splitlines()
    points = (line.split()[4].decode("unicode_escape").encode("latin-1") for line in lines)
    real = folder.resolve()
    paths = (Path(os.fsdecode(point)) for point in points)
    return [folder / path.relative_to(real) for path in paths if path.is_relative_to(real)]


def _raise_deep_folders(folder: Path) -> None:
    """Move folders from deep inside to the top: no removal goes through any number of levels."""
    top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        while _raise_below(top, top, _LEVELS_MAX):
            pass
    finally:
        os.close(top)


def _raise_below(folder: int, top: int, levels: int) -> int:
    """Move what lies more than so many levels below a folder; how many folders moved."""
    moved = 0
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    for name in names:
        if levels == 0:
            os.rename(name, f".deep-{uuid4().hex}", src_dir_fd=folder, dst_dir_fd=top)
            moved += 1
            continue
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
        try:
            moved += _raise_below(below, top, levels - 1)
        finally:
            os.close(below)
    return moved


def _remove(folder: Path, points: Sequence[Path]) -> None:
    """Remove all but mount points and what the system refuses; raises for the first such thing."""
    own_mark = read_mark(folder)
    with os.scandir(folder) as entries:
        listed = [
            each for each in entries if each.name != MARK_NAME or each.is_dir(follow_symlinks=False)
        ]
    refusals: list[OSError] = []
    for entry in listed:
        try:
            _remove_entry(entry, points)
        except OSError as error:
            refusals.append(error)
    if refusals:
        raise next((each for each in refusals if not _is_mount(each)), refusals[0])
    with suppress(FileNotFoundError):
        os.unlink(folder / MARK_NAME)
    try:
        os.rmdir(folder)
    except OSError:
        if own_mark is not None:
            take_folder(folder, own_mark, lambda _folder: True)
        raise


def _is_mount(error: OSError) -> bool:
    return isinstance(error, MountPointError)


def _remove_entry(entry: os.DirEntry[str], points: Sequence[Path]) -> None:
    path = Path(entry.path)
    if path in points:
        raise MountPointError(path)
    if not entry.is_dir(follow_symlinks=False):
        os.unlink(path)
    elif any(point.is_relative_to(path) for point in points):
        _remove(path, points)
    else:
        _raise_deep_folders(path)
        _remove_all(path)


def _remove_all(folder: Path) -> None:
    """Remove a folder without mount points; raises for the first thing that cannot be removed."""
    refusals: list[OSError] = []

    def note(_function: object, path: str, error: BaseException) -> None:
        if not isinstance(error, OSError):
            raise error
        error.filename = path  # Python before 3.13 has the name alone
        refusals.append(error)

    if sys.version_info >= (3, 12):
        shutil.rmtree(folder, onexc=note)
    else:
        shutil.rmtree(folder, onerror=lambda function, path, info: note(function, path, info[1]))
    if refusals:
        raise refusals[0]


def _marked_above(folder: Path, mark: Mark) -> Path | None:
    """The nearest marked folder at or above a folder, if it has this mark.

    No component up to there may be a symbolic link or ``..``.
    """
    for parent in (folder, *folder.parents):
        if parent.name in ("", "..") or _is_link(parent):
            return None
        if (nearest := read_mark(parent)) is not None:
            return parent if nearest == mark else None
    return None


def _foreign(folder: Path, mark: Mark) -> ForeignFolderError:
    return ForeignFolderError(
        f"{folder} is not the {mark.kind} folder of {mark.owner!r}: it holds files but no "
        f"{MARK_NAME} that says so, or is a link. Nothing was removed.",
        "Give another folder or another name. If an earlier version left it and nothing in it is "
        "needed, remove it yourself.",
    )


def _is_link(folder: Path) -> bool:
    """Whether there is something else than a folder at the path itself."""
    return os.path.lexists(folder) and not stat.S_ISDIR(folder.lstat().st_mode)


def _is_empty(folder: Path) -> bool:
    """Whether there is nothing but a mark that was not written to its end."""
    names = os.listdir(folder)
    return not names or (names == [MARK_NAME] and (folder / MARK_NAME).lstat().st_size == 0)


def _make_folders_writable(folder: Path, points: Sequence[Path]) -> None:
    """A stage may have copied read-only folders into its scratch."""
    for parent, names, _ in os.walk(folder):
        names[:] = [name for name in names if Path(parent, name) not in points]
        # Another process removes the same folder, or it is another user's.
        with suppress(FileNotFoundError, PermissionError):
            Path(parent).chmod(0o700)
