"""Disk reservations: files in scratch, so that no stage counts on the bytes of another."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from absurd_contimg.execution.disk_usage import disk_usage, size_text
from absurd_contimg.execution.scratch import Janitor
from absurd_contimg.products.filesystem import LOCAL, FileSystem

_NAME = ".reserved"
_FULL_BYTES = 1 << 20
"""With less free space a disk is full: CASA writes its tables in tiles of this order."""


@dataclass(frozen=True, slots=True)
class FullDisk:
    """A file system without space, and the folder on it that was looked at."""

    folder: Path
    free_bytes: int

    def __str__(self) -> str:
        return f"No space left on device: {size_text(self.free_bytes)} free around {self.folder}"


def full_disks(*folders: Path) -> list[FullDisk]:
    """The full ones, asked after a failure because CASA aborts there or reports another error.

    A folder that is not there is on no disk: a stage in the worker's own process has no logs.
    """
    there = [folder for folder in dict.fromkeys(folders) if folder.is_dir()]
    disks = [FullDisk(folder, LOCAL.free_bytes(folder)) for folder in there]
    return [disk for disk in disks if disk.free_bytes < _FULL_BYTES]


def read_only_folders(*folders: Path) -> list[Path]:
    """Those on a file system that can only be read: a kernel that meets errors makes it so."""
    return [each for each in dict.fromkeys(folders) if each.is_dir() and disk_usage(each).read_only]


def shortage_text(disks: Sequence[FullDisk], attempt: Path) -> str:
    """The disks that are full, with what an attempt was to write and has written: before its
    folder is removed, for then all looks well.
    """
    full = "; ".join(map(str, disks))
    try:
        needed, written = int(LOCAL.read_json(attempt / _NAME)), LOCAL.tree_size(attempt)
    except (OSError, ValueError, TypeError):  # a stage in the worker's process reserves nothing
        return full
    return (
        f"{full}; the stage was expected to write {size_text(needed)} and has written "
        f"{size_text(written)}"
    )


def files_at_size_limit(folder: Path) -> list[Path]:
    """Files that RLIMIT_FSIZE has cut off: the kernel writes up to it, and casacore hides why."""
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit == resource.RLIM_INFINITY:
        return []
    files = [Path(parent, name) for parent, _, names in os.walk(folder) for name in names]
    return [file for file in files if file.is_file() and os.path.getsize(file) == limit]


def reserve(
    scratch_dir: Path,
    folder: Path,
    needed_bytes: int,
    files: FileSystem = LOCAL,
    own_scratch: Path | None = None,
) -> None:
    """Reserve space for `folder`, after a sweep if needed, or raise `OSError` with ENOSPC.

    What other hosts have promised in the same scratch counts; swept is `own_scratch`, the part of
    this host, by default all of it.
    """
    with files.locked(scratch_dir / ".owners" / "space"):
        short = _short_by(scratch_dir, needed_bytes, files)
        if short > 0 and Janitor(own_scratch or scratch_dir, files).sweep():
            short = _short_by(scratch_dir, needed_bytes, files)
        if short > 0:
            raise OSError(
                errno.ENOSPC,
                f"No space to begin: {size_text(needed_bytes)} are expected to be written, "
                f"{size_text(short)} of that are not free or promised to other stages; "
                f"{size_text(files.free_bytes(scratch_dir))} are free",
                str(scratch_dir),
            )
        files.write_json(folder / _NAME, needed_bytes)


def _short_by(scratch_dir: Path, needed_bytes: int, files: FileSystem) -> int:
    promised = 0
    attempts = files.matching(scratch_dir, f"*/*/{_NAME}")
    attempts += files.matching(scratch_dir, f"*/*/*/{_NAME}")  # in the parts of hosts
    for path in attempts:
        try:
            promised += max(int(files.read_json(path)) - files.tree_size(path.parent), 0)
        except FileNotFoundError:
            continue  # that attempt has just ended
    return needed_bytes + promised - files.free_bytes(scratch_dir)
