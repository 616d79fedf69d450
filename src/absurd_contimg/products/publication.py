"""Publication: a copy of a committed product in the folder that others read.

The copy is made in a marked folder beside its destination, compared with the manifest's digests and
renamed into place, so that a reader finds all of it or nothing. What a dead process has left is
removed by the next attempt. It is a copy and no link: a program that opens a published file to
change it must not change the committed product.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from absurd_contimg.config import PathsConfig
from absurd_contimg.config.publication import PUBLISHED
from absurd_contimg.errors import (
    BrokenProductError,
    DestinationAwayError,
    OutputError,
    PublicationBusyError,
    SettingError,
)
from absurd_contimg.owned_folders import MARK_NAME, Mark
from absurd_contimg.products.filesystem import LOCAL, FileSystem
from absurd_contimg.products.manifest import MANIFEST_NAME, Manifest
from absurd_contimg.products.store import find_committed, load_committed, verify

KIND = "publication"
"""Of the marks in folders where copies are made."""

_FOLDER_MARK = Mark("publications", "contimg worker")
"""Of the folder itself: a mount point without its disk has none."""
_PREFIX = ".publishing-"
_AWAY = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO),
        *(errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ENOTCONN, errno.EHOSTDOWN),
        *(errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH),
    }
)
"""The destination is full, read-only or away; all of it may pass, or an operator can change it."""


@dataclass(frozen=True, slots=True)
class PublishedCopy:
    """A published product. `adopted`: it was there already."""

    folder: Path
    manifest: Manifest
    adopted: bool


def destination_of(manifest: Manifest, publish_dir: Path) -> Path:
    """Where a product is published: at its own location, in the other folder."""
    return publish_dir / manifest.location


class StagedCopy:
    """A copy of a committed product on its way to its destination.

    May be repeated after a death at any moment. Nothing is ever overwritten: `BrokenProductError`
    when something else is in the place, or when the source is damaged. `DestinationAwayError` when
    the folder is not there, full or read-only, `PublicationBusyError` while another process
    publishes the same product.
    """

    def __init__(self, source: Path, publish_dir: Path, files: FileSystem = LOCAL) -> None:
        """Does nothing yet; reads the manifest of the source."""
        self._source, self._publish_dir, self._files = source, publish_dir, files
        self.manifest = load_committed(source, files)
        self.destination = destination_of(self.manifest, publish_dir)
        self._folder, self._mark = _copy_folder(self.destination)
        self._lock_file = _lock_file(self._folder)
        self._lock: int | None = None
        self.is_adopted = False
        """The whole copy was in its place already."""

    def is_in_place(self) -> bool:
        """Whether the whole copy is at its destination."""
        try:
            return self._find() is not None
        except BrokenProductError:
            return False

    def _find(self) -> Manifest | None:
        key, files = self.manifest.key, self._files
        return find_committed(self.destination, key, deep=True, files=files)

    def look(self) -> bool:
        """Lock the destination, remove what a dead process left; whether the copy is there."""
        files = self._files
        if not files.is_folder(self._publish_dir):
            raise DestinationAwayError(self._publish_dir, "it is not there")
        with self._naming_destination():
            files.ensure_folder(self.destination.parent)
            self._lock = files.try_lock(self._lock_file)
            if self._lock is None:
                raise PublicationBusyError(self._lock_file)
            # Only the holder of the lock makes, renames or removes the folder of the copy.
            _remove_left_over(self._folder, self._mark, files)
            self.is_adopted = self._find() is not None
        return self.is_adopted

    def prepare(self) -> None:
        """Lock the destination and make the copy beside it, unless it is there already."""
        if self.look():
            return
        with self._naming_destination():
            verify(self._source, self.manifest, files=self._files)
            self._files.take_folder(self._folder, self._mark, _never)
            _copy(self._source, self._folder / "product", self.manifest, self._files)

    def commit(self) -> None:
        """Rename the copy into its place."""
        if not self.is_adopted:
            with self._naming_destination():
                _rename(self._folder / "product", self.destination, self.manifest, self._files)

    def close(self) -> None:
        """Remove what is left and free the destination; may be called twice."""
        if self._lock is None:
            return
        lock, self._lock = self._lock, None
        with self._naming_destination():
            try:
                if not self.is_adopted:
                    _remove_left_over(self._folder, self._mark, self._files)
                self._files.remove(self._lock_file)
            finally:
                self._files.unlock(lock)

    @contextmanager
    def _naming_destination(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in _AWAY:
                raise
            raise DestinationAwayError(self.destination.parent, str(error.strerror)) from None


def publish_copy(source: Path, publish_dir: Path, files: FileSystem = LOCAL) -> PublishedCopy:
    """Copy a committed product to its destination, or adopt the whole copy that is there.

    Raises what `StagedCopy` raises.
    """
    with closing(StagedCopy(source, publish_dir, files)) as copy:
        copy.prepare()
        copy.commit()
    manifest = load_committed(copy.destination, files)
    return PublishedCopy(copy.destination, manifest, copy.is_adopted)


def is_publishing(destination: Path, files: FileSystem = LOCAL) -> bool:
    """Whether a process makes this copy now."""
    lock_file = _lock_file(_copy_folder(destination)[0])
    lock = files.try_lock(lock_file, create=False)
    if lock is None:
        return files.exists(lock_file)
    files.unlock(lock)
    return False


def is_staged(folder: Path) -> bool:
    """Whether it is a copy that is being made, or that a dead process has left."""
    return folder.parent.name.startswith(_PREFIX)


def check_publish_dir(paths: PathsConfig) -> None:
    """Raise `SettingError` where nothing can be published; makes nothing.

    But for its default place it may lie in no other folder: scratch is emptied, what arrives is
    raw data, and what lies elsewhere in the output folder is taken for products.
    """
    place = paths.published.resolve()
    others = ("input_dir", "output_dir", "scratch_dir")
    for name in () if place == paths.output_dir.resolve() / PUBLISHED else others:
        folder: Path = getattr(paths, name)
        if place.is_relative_to(folder.resolve()):
            raise SettingError(
                f"publish_dir {paths.published} is {name} {folder} or lies in it.",
                f"Use {paths.output_dir / PUBLISHED}, or a folder outside of the others.",
            )
    parent = next(path for path in (place, *place.parents) if os.path.lexists(path))
    if not parent.is_dir():
        raise SettingError(
            f"publish_dir {paths.published} cannot be made: {parent} is no folder.",
            "Set PIPELINE_PUBLISH_DIR or --publish-dir to another folder.",
        )


def require_publish_dir(
    publish_dir: Path, copies: Callable[[], Sequence[Path]], files: FileSystem = LOCAL
) -> None:
    """Mark the folder for publications if it is new; raises as `check_mounted`."""
    if not files.is_file(publish_dir / MARK_NAME):
        check_mounted(publish_dir, copies, files)
        accept_publish_dir(publish_dir, files)


def check_mounted(
    publish_dir: Path, copies: Callable[[], Sequence[Path]], files: FileSystem = LOCAL
) -> None:
    """Raise `DestinationAwayError` if the disk of the folder for publications is away.

    Also where its mark is missing and there are `copies`, of which none is in its place: then the
    folder is the mount point, which would be filled instead.
    """
    if files.is_file(publish_dir / MARK_NAME):
        return
    if not files.is_folder(publish_dir):
        raise DestinationAwayError(publish_dir, "it is not there")
    known = [copy for copy in copies() if copy.is_relative_to(publish_dir)]
    if known and not any(files.is_file(copy / MANIFEST_NAME) for copy in known):
        raise DestinationAwayError(
            publish_dir,
            f"none of the {len(known)} copies in it is there, nor its mark {MARK_NAME}, so its "
            "disk seems to be away. If it is a new folder: contimg publish accept-folder",
        )


def accept_publish_dir(publish_dir: Path, files: FileSystem = LOCAL) -> None:
    """Mark a folder as that for publications, whatever is in it.

    Raises `DestinationAwayError` where that cannot be written.
    """
    try:
        if not files.is_folder(publish_dir):
            raise DestinationAwayError(publish_dir, "it is not there")
        # The path may be a link, which is never marked.
        files.take_folder(publish_dir.resolve(), _FOLDER_MARK, lambda _folder: True)
    except OSError as error:
        raise DestinationAwayError(publish_dir, str(error.strerror)) from None


def _copy(source: Path, target: Path, manifest: Manifest, files: FileSystem) -> None:
    """Copy all files, the manifest last, and compare their digests."""
    files.make_folder(target)
    for name in (*(entry.path for entry in manifest.files), MANIFEST_NAME):
        files.ensure_folder((target / name).parent)
        files.copy_file(source / name, target / name)
    try:
        verify(target, manifest, deep=True, files=files)
    except BrokenProductError as error:
        verify(source, manifest, deep=True, files=files)  # names the source if it is damaged
        raise OutputError(f"The copy differs from its source {source}: {error}") from error
    files.flush_tree(target)


def _rename(copy: Path, destination: Path, manifest: Manifest, files: FileSystem) -> None:
    try:
        files.rename(copy, destination)
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
            raise
        raise BrokenProductError(
            f"{destination} is taken by something else.", "Move it away, then publish again."
        ) from error
    for folder in destination.parents[: manifest.location.count("/") + 1]:
        files.flush(folder)


def _copy_folder(destination: Path) -> tuple[Path, Mark]:
    folder = destination.with_name(_PREFIX + destination.name)
    return folder, _mark(folder)


def _lock_file(folder: Path) -> Path:
    return folder.with_name(folder.name + ".lock")


def _mark(folder: Path) -> Mark:
    return Mark(KIND, folder.name.removeprefix(_PREFIX))


def _remove_left_over(folder: Path, mark: Mark, files: FileSystem) -> None:
    if files.exists(folder):
        files.take_folder(folder, mark, _never)
        files.remove_tree(folder, mark)


def _never(_folder: Path) -> bool:
    return False
