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
import time
from collections.abc import Callable, Iterator
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
    `ForeignFolderError` if the nearest mark is another one, or there is none.
    """
    folder = folder.absolute()
    if not os.path.lexists(folder):
        return
    if not _lies_under(mark, folder) or _holds_mount(folder):
        raise _foreign(folder, mark)
    # A killed process can still create one last file while its folder is removed.
    for pause_seconds in (*_REMOVAL_PAUSES_SECONDS, None):
        if not os.path.lexists(folder):
            return
        try:
            _raise_deep_folders(folder)
            _remove(folder)
        except OSError:
            if pause_seconds is None:
                raise
            _make_folders_writable(folder)
            time.sleep(pause_seconds)


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


def _remove(folder: Path) -> None:
    own_mark = read_mark(folder)
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        elif entry.name != MARK_NAME:
            os.unlink(entry.path)
    with suppress(FileNotFoundError):
        os.unlink(folder / MARK_NAME)
    try:
        os.rmdir(folder)
    except OSError:
        if own_mark is not None:
            take_folder(folder, own_mark, lambda _folder: True)
        raise


def _lies_under(mark: Mark, folder: Path) -> bool:
    """Whether the nearest marked folder at or above a folder has this mark.

    No component up to there may be a symbolic link or ``..``.
    """
    for parent in (folder, *folder.parents):
        if parent.name in ("", "..") or _is_link(parent):
            return False
        if (nearest := read_mark(parent)) is not None:
            return nearest == mark
    return False


def _foreign(folder: Path, mark: Mark) -> ForeignFolderError:
    return ForeignFolderError(
        f"{folder} is not the {mark.kind} folder of {mark.owner!r}: it holds files but no "
        f"{MARK_NAME} that says so, or is a link or a mount point. Nothing was removed.",
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


def _holds_mount(folder: Path) -> bool:
    """Whether the folder, or a folder in it, is a mount point."""
    lines = _MOUNTS.read_bytes().splitlines()
    points = (line.split()[4].decode("unicode_escape").encode("latin-1") for line in lines)
    real = folder.resolve()
    return any(Path(os.fsdecode(point)).is_relative_to(real) for point in points)


def _make_folders_writable(folder: Path) -> None:
    """A stage may have copied read-only folders into its scratch."""
    for parent, _, _ in os.walk(folder):
        with suppress(FileNotFoundError):  # another process removes the same folder
            Path(parent).chmod(0o700)
