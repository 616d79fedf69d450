"""A disk of the simulated world: folders with files and sizes, and a capacity that they fill.

It keeps what matters of a file system for products: a write needs space, a rename is atomic and
refuses a place that is taken, and what is written stays when its writer dies.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from absurd_contimg.core.records import Json


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder: its files with their bytes, and the manifest once it is sealed."""

    files: Mapping[str, int] = field(default_factory=dict)
    manifest: Mapping[str, Json] | None = None

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(self.files.values())


class Disk:
    """One file system. Paths are plain text; below ``output/`` lie committed products."""

    def __init__(self, capacity_bytes: int = 10**15) -> None:
        self.capacity_bytes = capacity_bytes
        self.used_bytes = 0
        self.folders: dict[str, Folder] = {}
        self.commits: dict[str, int] = {}
        """How often each product was renamed into place."""
        self.wrongs: list[str] = []
        """What was done to committed products that must never be done."""

    @property
    def free_bytes(self) -> int:
        """What is left."""
        return self.capacity_bytes - self.used_bytes

    def fork(self) -> Disk:
        """An independent copy."""
        twin = Disk(self.capacity_bytes)
        twin.used_bytes = self.used_bytes
        twin.folders = dict(self.folders)
        twin.commits = dict(self.commits)
        twin.wrongs = list(self.wrongs)
        return twin

    def find(self, path: str) -> Folder | None:
        """The folder, None if there is none."""
        return self.folders.get(path)

    def make(self, path: str) -> None:
        """Make an empty folder; EEXIST if there is one."""
        if path in self.folders:
            raise _error(errno.EEXIST, path)
        self.folders[path] = Folder()

    def write(self, path: str, name: str, size: int) -> None:
        """Write a file, or write it anew; ENOSPC when the disk is full."""
        folder = self._existing(path)
        more = size - folder.files.get(name, 0)
        if more > self.free_bytes:
            raise _error(errno.ENOSPC, f"{path}/{name}")
        self._note_change(path, f"{name} was written")
        self.used_bytes += more
        self.folders[path] = replace(folder, files={**folder.files, name: size})

    def seal(self, path: str, manifest: Mapping[str, Json]) -> None:
        """Write the manifest."""
        folder = self._existing(path)
        self._note_change(path, "its manifest was written")
        self.folders[path] = replace(folder, manifest=manifest)

    def rename(self, path: str, to: str) -> None:
        """Move a folder; ENOTEMPTY when the place is taken."""
        folder = self._existing(path)
        if to in self.folders:
            raise _error(errno.ENOTEMPTY, to)
        del self.folders[path]
        self.folders[to] = folder
        if to.startswith("output/"):
            self.commits[to] = self.commits.get(to, 0) + 1
            if folder.manifest is None:
                self.wrongs.append(f"{to}: renamed into place before its manifest was written")

    def remove(self, path: str) -> None:
        """Remove a folder with everything in it; no effect if there is none."""
        folder = self.folders.pop(path, None)
        if folder is not None:
            self.used_bytes -= folder.size
            if path.startswith("output/"):
                self.wrongs.append(f"{path}: a committed product was removed")

    def archive(self, path: str) -> None:
        """Move a product's bytes to another disk; it still counts as being there."""
        folder = self.folders[path]
        self.used_bytes -= folder.size
        self.folders[path] = replace(folder, files=dict.fromkeys(folder.files, 0))

    def products(self) -> dict[str, Folder]:
        """All committed products by path."""
        return {path: one for path, one in self.folders.items() if path.startswith("output/")}

    def _existing(self, path: str) -> Folder:
        folder = self.folders.get(path)
        if folder is None:
            raise _error(errno.ENOENT, path)
        return folder

    def _note_change(self, path: str, what: str) -> None:
        if path.startswith("output/"):
            self.wrongs.append(f"{path}: a committed product was changed: {what}")


def _error(code: int, path: str) -> OSError:
    return OSError(code, os.strerror(code), path)
