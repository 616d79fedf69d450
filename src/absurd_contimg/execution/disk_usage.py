"""Free space and inodes of a folder's file system, and how numbers of bytes are shown."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

MOUNT_FOR_WRITING = (
    "Mount its file system for writing; one with errors is made read-only by the kernel (dmesg)."
)
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def size_text(count: float) -> str:
    """Bytes with the decimal unit in which the number is at least 1: ``7.3 MB``, ``812 B``."""
    power = min(int(math.log10(count) // 3), len(_UNITS) - 1) if count >= 1 else 0
    return f"{count / 1000**power:.{0 if power == 0 else 1}f} {_UNITS[power]}"


@dataclass(frozen=True, slots=True)
class DiskUsage:
    """What an ordinary user can still use of a file system."""

    free_bytes: int
    total_bytes: int
    free_inodes: int | None
    """None where files need none: Btrfs, ZFS and many network file systems."""
    total_inodes: int | None
    read_only: bool = False
    """Mounted so, by an operator or by a kernel that has met errors on it."""

    @property
    def free_inodes_share(self) -> float | None:
        """Of all inodes."""
        if self.free_inodes is None or not self.total_inodes:
            return None
        return self.free_inodes / self.total_inodes


def disk_usage(folder: Path) -> DiskUsage:
    """The file system of a folder; raises `OSError`."""
    answer = os.statvfs(folder)
    has_inodes = answer.f_files > 0
    return DiskUsage(
        free_bytes=answer.f_bavail * answer.f_frsize,
        total_bytes=answer.f_blocks * answer.f_frsize,
        free_inodes=answer.f_favail if has_inodes else None,
        total_inodes=answer.f_files if has_inodes else None,
        read_only=bool(answer.f_flag & os.ST_RDONLY),
    )
