"""Whether a folder is the one that it was, and which folder above it was moved or replaced."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True, slots=True)
class FolderIdentity:
    """A folder as it was at one time; device and inode tell it from one that took its place."""

    folder: Path
    _levels: tuple[tuple[Path, tuple[int, int]], ...]
    """From the root down to the folder itself; of a link, those of the link."""

    @classmethod
    def of(cls, folder: Path) -> Self:
        """The folder as it is now."""
        levels = [*reversed(folder.parents), folder]
        return cls(folder, tuple((level, _number(os.lstat(level))) for level in levels))

    def is_same(self) -> bool:
        """Whether the path leads to the same folder, by whatever links."""
        try:
            return _number(os.stat(self.folder)) == self._levels[-1][1]
        except OSError:
            return False

    def change(self) -> tuple[Path, str] | None:
        """The topmost folder that was moved or replaced, and what is there now; None: none was."""
        for level, number in self._levels:
            try:
                now = _number(os.lstat(level))
            except OSError:
                return level, "it is not there any more"
            if now != number:
                link = f", a link to {os.readlink(level)}" if level.is_symlink() else ""
                return level, f"something else is in its place{link}"
        return None


def _number(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
