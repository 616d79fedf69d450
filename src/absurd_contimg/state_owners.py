"""Whether nobody but who runs a site can write what it keeps: notes, registry, private database.

Who owns a folder, or may write in it, can move a file away and put one of his own in its place: he
would read and write what this process believes to be its own.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from absurd_contimg.file_owners import SITE_NAME, user_name

_LINKS_MAX = 40
"""As many as the kernel follows."""
_OF_SQLITE = ("-wal", "-shm", "-journal")


@dataclass(frozen=True, slots=True)
class Exposure:
    """A place that another user owns or may write to: what is wrong with it, and what to do."""

    path: Path
    problem: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Owners:
    """Who may own what a site keeps: this user, root, and for root the owner of the site.

    Root looks at sites of others (`contimg status`), and what it reads and writes there is theirs;
    any other user would be led to the files of a stranger.
    """

    user: int
    of_site: frozenset[int]
    """By the output folder of the site; none where it has no identity yet."""

    @classmethod
    def of(cls, output_dir: Path) -> Owners:
        """For this process and the site of an output folder."""
        return cls(os.geteuid(), _site_owners(output_dir))

    @property
    def trusted(self) -> frozenset[int]:
        """The numbers of the users."""
        return frozenset({0, self.user}) | (self.of_site if self.user == 0 else frozenset())


def _site_owners(output_dir: Path) -> frozenset[int]:
    """Who owns the folder or its identity; of one that all may write to, only who owns it."""
    try:
        folder, mark = output_dir.stat(), (output_dir / SITE_NAME).lstat()
    except OSError:
        return frozenset()
    if not stat.S_ISREG(mark.st_mode):
        return frozenset()
    return frozenset(
        {folder.st_uid} if folder.st_mode & stat.S_IWOTH else {folder.st_uid, mark.st_uid}
    )


def registry_places(file: Path) -> list[Path]:
    """Where a registry in SQLite is kept: its folder, its file, and SQLite's own beside it."""
    return [file.parent, file, *(file.with_name(f"{file.name}{end}") for end in _OF_SQLITE)]


def find_exposure(places: Iterable[Path], owners: Owners, elsewhere: str) -> Exposure | None:
    """The first of these places that somebody else owns or may write to; those absent count not.

    `elsewhere` says how another place is given. Also a link of somebody else that leads to one.
    """
    exposures = (_exposure(place.absolute(), owners, elsewhere) for place in places)
    return next(filter(None, exposures), None)


def _exposure(place: Path, owners: Owners, elsewhere: str) -> Exposure | None:
    try:
        for link in _links(place):
            owner = link.lstat().st_uid
            if owner not in owners.trusted:
                problem = (
                    f"{link} is a link of the user {user_name(owner)}, who can let it lead "
                    f"elsewhere at any time: {place} is not used."
                )
                return Exposure(link, problem, elsewhere)
        status = place.stat()
    except OSError:  # it is not there, or to use it says what is wrong
        return None
    is_folder = stat.S_ISDIR(status.st_mode)
    if status.st_uid not in owners.trusted and not _is_owner_of_all(place, status.st_uid):
        return _of_another_user(place, status.st_uid, owners, elsewhere)
    if status.st_mode & stat.S_IWOTH and not (is_folder and status.st_mode & stat.S_ISVTX):
        return Exposure(
            place,
            f"{place} may be written to by every user of this machine (mode "
            f"{stat.S_IMODE(status.st_mode):04o}), who could put something else in its place.",
            f"Look at what is there, then: chmod o-w {place} (where that is not allowed, as in a "
            f"container's volume, use a new folder below it). {elsewhere}",
        )
    return None


def _of_another_user(place: Path, owner: int, owners: Owners, elsewhere: str) -> Exposure:
    name, user = user_name(owner), user_name(owners.user)
    problem = (
        f"{place} belongs to the user {name}, and this process runs as {user}: {name} could read "
        "what is kept there, and put something else in its place."
    )
    if owner in owners.of_site:
        return Exposure(place, problem, f"It is the site of {name}. Run as {name}.")
    remedy = f"{elsewhere} If you know all that is in it: sudo chown -R {user} {place}"
    if owners.user == 0:
        remedy = f"Run as the user of the site's services. {remedy}"
    return Exposure(place, problem, remedy)


def exposed_parent(folder: Path, owners: Owners) -> Exposure | None:
    """The first folder above one in which somebody else could move it away; None without any.

    What he would put in its place is his, and refused: so this keeps nobody from work.
    """
    for parent in Path(os.path.realpath(folder)).parents:  # of a circle of links, too
        try:
            status = parent.stat()
        except OSError:
            continue
        remedy = f"Move {folder} to a folder that only its user, or root, may write to."
        if status.st_uid not in owners.trusted:
            text = f"{parent}, above {folder}, belongs to the user {user_name(status.st_uid)}"
            return Exposure(parent, f"{text}, who can move it away.", remedy)
        if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
            text = f"{parent}, above {folder}, may be written to by every user of this machine"
            advice = f"Run: chmod o-w {parent} (or chmod +t {parent}). {remedy}"
            return Exposure(parent, f"{text}, who can move it away.", advice)
    return None


def _links(path: Path) -> Iterator[Path]:
    """The symbolic links on the way to where a path leads."""
    place, rest, count = Path(path.anchor), deque(path.parts[1:]), 0
    while rest and count < _LINKS_MAX:
        part = rest.popleft()
        if part == "..":
            place = place.parent
        elif not (place / part).is_symlink():
            place /= part
        else:
            yield place / part
            count += 1
            target = Path(os.readlink(place / part))
            if target.is_absolute():
                place = Path(target.anchor)
            rest.extendleft(reversed(target.parts[target.is_absolute() :]))


def _is_owner_of_all(place: Path, owner: int) -> bool:
    """Whether a new file there belongs to the same user, as on a mount that gives all to one."""
    try:
        with tempfile.TemporaryFile(dir=place if place.is_dir() else place.parent) as file:
            return os.fstat(file.fileno()).st_uid == owner
    except OSError:
        return False
