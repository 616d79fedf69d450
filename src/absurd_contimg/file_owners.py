"""Whose a file is, and what to do where the operating system refuses it to this process."""

from __future__ import annotations

import errno
import os
import pwd
import stat
from pathlib import Path

SITE_NAME = ".contimg-site.json"
"""In the output folder of a site: who owns the folder runs the site."""


def user_name(number: int) -> str:
    """The name of a user of this machine, or the number if there is none."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def can_use(path: Path) -> bool:
    """Whether this process may read and write a file or folder; True also where there is none."""
    try:
        kind = os.X_OK if path.is_dir() else 0
    except PermissionError:
        return False
    return not os.path.lexists(path) or os.access(
        path, os.R_OK | os.W_OK | kind, effective_ids=True
    )


def irremovable_part(folder: Path) -> tuple[Path, int] | None:
    """What in a folder this process could not remove, and the errno; None: it can remove all.

    The kernel refuses to write what has the attribute `i`, to root too.
    """
    for parent, _, names in os.walk(folder):
        for path in (Path(parent), *(Path(parent, name) for name in names)):
            if (number := _refusal_to_remove(path)) is not None:
                return path, number
    return None


def _refusal_to_remove(path: Path) -> int | None:
    status, user = path.lstat(), os.geteuid()
    if stat.S_ISLNK(status.st_mode) or os.access(path, os.W_OK, effective_ids=True):
        return None
    if user == 0:
        return errno.EPERM
    if user == status.st_uid:  # a mode can be changed
        return errno.EPERM if status.st_mode & stat.S_IWUSR else None
    return errno.EACCES if path.is_dir() else None  # of a file, only its folder counts


def why_it_stays(path: Path, error: OSError) -> str:
    """Sentences on what cannot be removed: the cause, and what to do."""
    cause = f"{path} stays: {error.strerror or error}."
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return f"{cause} {explain_refusal(Path(error.filename or path), error.errno)}"
    if error.errno == errno.EXDEV:
        return (
            f"{cause} Its file system cannot move this folder, as an overlay (a container's own "
            "disk) those of its image. Copy the output folder to a volume, and use it there."
        )
    if error.errno == errno.EBUSY:
        place = error.filename or path
        reason = f"{path} stays: {error.strerror}: {place}"
        return f"{reason}. Look with: findmnt {place}; lsof +D {place}"
    return f"{cause} Look at its disk."


def explain_refusal(path: Path, number: int | None = errno.EACCES) -> str:
    """Sentences on the file or folder that refuses a path to this process, and what to do.

    `number` is the errno. The command that gives files to this user is named only for those that
    somebody else has left in a folder of this user: to follow it on the site of another user would
    take its files from its services.
    """
    place = _refusing(path.absolute(), number)
    try:
        owner_id = place.lstat().st_uid
    except OSError:
        return f"Make {place} usable for this user."
    # A disk that can only be read refuses root, too, whatever the mode.
    if place.exists() and os.statvfs(place).f_flag & os.ST_RDONLY:
        return f"The disk of {place} can only be read. Mount it for writing."
    user_id = os.geteuid()
    owner, user = user_name(owner_id), user_name(user_id)
    if number == errno.EPERM and user_id in (0, owner_id):
        return (
            f"{place} belongs to the user {owner}, and this process runs as {user}: an attribute "
            f"or its mount forbids it. Look with: lsattr -d {place} {place.parent}"
        )
    if owner_id == user_id:
        return (
            f"{place} belongs to the user {owner}, as whom this process runs, but its mode forbids "
            f"it. Run: chmod u+rwX {place}"
        )
    text = f"{place} belongs to the user {owner}, and this process runs as {user}. Run as {owner}"
    left = _left_in_own_folder(place, owner_id, user_id) if user_id else None
    return f"{text}." if left is None else f"{text}, or: sudo chown -R {user} {left}"


def _refusing(path: Path, number: int | None) -> Path:
    """The path or the nearest folder above it that can be seen and, for a mode, not be used."""
    visible = [each for each in (path, *path.parents) if os.path.lexists(each)]
    if number == errno.EPERM:
        return visible[0]
    return next((each for each in visible[:2] if not can_use(each)), visible[0])


def _left_in_own_folder(place: Path, owner: int, user: int) -> Path | None:
    """The topmost file or folder of another owner that lies in a folder of this user.

    None where there is none, or where it holds, or may hold, a site: that is its owner's.
    """
    while place.parent != place:
        above = place.parent.lstat().st_uid
        if place.is_dir() and _holds_site(place):
            return None
        is_hidden = place.is_dir() and not os.access(place, os.X_OK)
        if is_hidden and owner != 0 and not _is_in_own_site(place, user):
            return None
        if above == user:
            return place
        if above != owner:
            return None
        place = place.parent
    return None


def _is_in_own_site(place: Path, user: int) -> bool:
    return any(each.lstat().st_uid == user and _holds_site(each) for each in place.parents)


def _holds_site(folder: Path) -> bool:
    """Whether it is the output folder of a site, or the folder that this lies in."""
    return os.path.lexists(folder / SITE_NAME) or any(folder.glob(f"*/{SITE_NAME}"))
