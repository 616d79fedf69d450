"""Taking committed products out of their places, so that a kill at any point can be made good.

A product is renamed into a folder of its own below `REMOVED` in the output folder, beside a note of
what it is and why it goes. Only then does the registry forget it, and only after that are its files
removed. What is found below `REMOVED` later was interrupted: its removal is finished, or undone
where the product was still in its place.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from absurd_contimg.config.retention import REMOVED
from absurd_contimg.errors import BrokenProductError
from absurd_contimg.file_owners import irremovable_part, why_it_stays
from absurd_contimg.owned_folders import (
    ForeignFolderError,
    Mark,
    MountPointError,
)
from absurd_contimg.products.filesystem import LOCAL, FileSystem
from absurd_contimg.products.store import link_above, load_committed

_NOTE = "removal.json"
_PRODUCT = "product"


@dataclass(frozen=True, slots=True)
class TakenOut:
    """A product that is out of its place, or about to be."""

    key: str
    stage: str
    group_id: str
    folder: Path
    """Its place."""
    size_bytes: int
    removed_at: str
    """ISO 8601, UTC."""
    reason: str
    holding: Path
    """The folder that it is in meanwhile."""

    @property
    def _mark(self) -> Mark:
        return _mark(self.key)

    def is_out(self, files: FileSystem = LOCAL) -> bool:
        """Whether it is not in its place any more."""
        return files.exists(self.holding / _PRODUCT)

    def put_back(self, files: FileSystem = LOCAL) -> None:
        """Undo it; if another process has made the same product meanwhile, that one stays."""
        if self.is_out(files) and not files.exists(self.folder):
            files.rename(self.holding / _PRODUCT, self.folder)
            files.flush(self.folder.parent)
        files.remove_tree(self.holding, self._mark)

    def remove(self, files: FileSystem = LOCAL) -> None:
        """Remove its files; the registry must have forgotten it."""
        files.remove_tree(self.holding, self._mark)


def take_out(
    output_dir: Path,
    folder: Path,
    key: str,
    *,
    size_bytes: int,
    removed_at: str,
    reason: str,
    files: FileSystem = LOCAL,
) -> TakenOut:
    """Move a product out of its place.

    Raises `BrokenProductError` if the product of that key is not there, is a link or behind one,
    and `OSError` if it cannot be moved, or be removed afterwards: then it stays whole.
    """
    manifest = load_committed(folder, files)
    if manifest.key != key or folder.is_symlink():
        raise BrokenProductError(
            f"{folder} is a link or holds the product {manifest.key}, not {key}.",
            "Nothing was removed. Compare: contimg registry check.",
        )
    if (link := link_above(folder, output_dir)) is not None:
        raise BrokenProductError(
            f"{folder} lies behind the link {link}.",
            "Nothing was removed. Compare: contimg registry check.",
        )
    if points := files.mount_points(folder):
        raise MountPointError(points[0])
    if (part := irremovable_part(folder)) is not None:
        raise PermissionError(part[1], os.strerror(part[1]), str(part[0]))
    holding = output_dir / REMOVED / key
    note: dict[str, Any] = {
        "key": key,
        "stage": manifest.stage,
        "group_id": manifest.group_id,
        "location": manifest.location,
        "size_bytes": size_bytes,
        "removed_at": removed_at,
        "reason": reason,
    }
    files.take_folder(holding, _mark(key), lambda _folder: False)
    try:
        files.write_json(holding / _NOTE, note)
        files.flush(holding)
        files.rename(folder, holding / _PRODUCT)
    except OSError:
        files.remove_tree(holding, _mark(key))
        raise
    files.flush(folder.parent)
    files.flush(holding)
    return _taken_out(output_dir, holding, note)


def interrupted(
    output_dir: Path, files: FileSystem = LOCAL, refused: list[str] | None = None
) -> Iterator[TakenOut]:
    """What a process has left that was killed while it removed products.

    A folder without a note is at its beginning, or at its end, when the registry has forgotten the
    product: given a list `refused` it is removed, or a sentence in the list says why it stays.
    """
    for holding in files.matching(output_dir / REMOVED, "*"):
        if not files.is_folder(holding):
            continue  # the lock
        try:
            note = files.read_json(holding / _NOTE)
            yield _taken_out(output_dir, holding, note)
        except (OSError, ValueError, TypeError, KeyError):
            if refused is not None:
                with noting_refusals(holding, refused):
                    files.take_folder(holding, _mark(holding.name), lambda _folder: False)
                    files.remove_tree(holding, _mark(holding.name))


@contextmanager
def noting_refusals(folder: Path, refused: list[str]) -> Iterator[None]:
    """Note in `refused` why a folder cannot be removed: a single one ends no run."""
    try:
        yield
    except OSError as error:
        refused.append(why_it_stays(folder, error))
    except ForeignFolderError as error:
        refused.append(str(error))


def unfinished_removals(output_dir: Path, files: FileSystem = LOCAL) -> list[TakenOut]:
    """Products that a killed run has taken out and not removed: the next run does so."""
    return [each for each in interrupted(output_dir, files) if each.is_out(files)]


def _mark(key: str) -> Mark:
    return Mark("removed product", key)


def _taken_out(output_dir: Path, holding: Path, note: dict[str, Any]) -> TakenOut:
    place = PurePath(str(note["location"]))
    if place.is_absolute() or ".." in place.parts:
        raise ValueError(f"the place {place} is not in the output folder")
    return TakenOut(
        key=holding.name,
        stage=str(note["stage"]),
        group_id=str(note["group_id"]),
        folder=output_dir / place,
        size_bytes=int(note["size_bytes"]),
        removed_at=str(note["removed_at"]),
        reason=str(note["reason"]),
        holding=holding,
    )
