"""A disk of the simulated world: folders, files with sizes, and a capacity.

It has what matters of a file system for products: a write needs space, a rename is atomic and
fails where the target is taken, and written files stay when their writer dies. A file holds JSON
or content that nobody reads. `Disk` notes every change of a committed product.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from absurd_contimg.products.manifest import MANIFEST_NAME

ROOT = "/simulated"
OUTPUT = f"{ROOT}/output/"
"""Below it lie committed products."""
INPUT = f"{ROOT}/input/"
"""Files of the telescope: always there, on a disk of their own."""
_INPUT_BYTES = 140_000_000
"""Of a sub-band file."""


@dataclass(slots=True, eq=False)
class File:
    """A file: its size in bytes, and its content if it has any. It never changes."""

    size: int
    content: Any = None
    elsewhere: bool = False
    """Its bytes are on another disk."""
    _description: tuple[int, str, bool] | None = None

    @property
    def description(self) -> tuple[int, str, bool]:
        """Everything in it, made once: all copies of a disk share its files."""
        if self._description is None:
            self._description = (self.size, repr(self.content), self.elsewhere)
        return self._description


class Disk:
    """One file system. Paths are plain text."""

    def __init__(self, capacity_bytes: int = 10**15) -> None:
        self.capacity_bytes = capacity_bytes
        self.used_bytes = 0
        self.files: dict[str, File] = {}
        self.folders: dict[str, dict[str, None]] = {ROOT: {}}
        """The names in each folder, in the order of their creation."""
        self.commits: dict[str, int] = {}
        """How often each product was renamed into place."""
        self.violations: list[str] = []
        """Changes of committed products, and renames without a manifest."""
        self.locks: dict[str, object] = {}
        """The holder of the lock on a file; a lock ends with its process and is in no copy."""

    @property
    def free_bytes(self) -> int:
        """The space that is left."""
        return self.capacity_bytes - self.used_bytes

    def fork(self) -> Disk:
        """An independent copy."""
        twin = Disk(self.capacity_bytes)
        twin.used_bytes = self.used_bytes
        twin.files = self.files.copy()
        twin.folders = {path: names.copy() for path, names in self.folders.items()}
        twin.commits = self.commits.copy()
        twin.violations = self.violations.copy()
        return twin

    def contents(self) -> tuple[object, ...]:
        """Everything that decides what the disk does, without locks: those belong to processes."""
        return (
            self.capacity_bytes,
            self.used_bytes,
            tuple([(path, file.description) for path, file in self.files.items()]),
            repr(self.folders),
            repr(self.commits),
            repr(self.violations),
        )

    # -- reading --------------------------------------------------------------------------

    def exists(self, path: str) -> bool:
        """Whether a file or a folder is there."""
        return path in self.files or path in self.folders or path.startswith(INPUT)

    def file(self, path: str) -> File:
        """A file; ENOENT if there is none."""
        file = self.files.get(path)
        if file is not None:
            return file
        if path.startswith(INPUT):
            return File(_INPUT_BYTES, path)
        raise _error(errno.EISDIR if path in self.folders else errno.ENOENT, path)

    def below(self, folder: str) -> Iterator[str]:
        """The paths of all files below a folder, in the order of their creation."""
        for name in self.folders.get(folder, ()):
            path = f"{folder}/{name}"
            if path in self.folders:
                yield from self.below(path)
            else:
                yield path

    def size(self, folder: str) -> int:
        """The bytes that the files below a folder hold; 0 when it is not there."""
        return sum(self.files[path].size for path in self.below(folder))

    def manifest(self, product: str) -> Mapping[str, Any] | None:
        """The content of the manifest in a product folder, if there is one."""
        file = self.files.get(f"{product}/{MANIFEST_NAME}")
        return None if file is None else file.content

    def has_manifest(self, product: str) -> bool:
        """Whether a product folder holds a manifest with content."""
        return self.manifest(product) is not None

    def product_paths(self) -> list[str]:
        """The folders of committed products."""
        return [path for path in self.commits if path in self.folders]

    # -- changing -------------------------------------------------------------------------

    def make_folder(self, path: str) -> None:
        """Make a folder and its parents; EEXIST if it is there."""
        if path in self.folders or path in self.files:
            raise _error(errno.EEXIST, path)
        self._note_change(path, "a folder was made in it")
        self._enter(path)
        self.folders[path] = {}

    def ensure_folder(self, path: str) -> None:
        """Make a folder unless another process has made it."""
        if path not in self.folders:
            self.make_folder(path)

    def write(self, path: str, size: int, content: Any = None) -> None:
        """Write or overwrite a file; ENOSPC when the disk is full."""
        folder, _, name = path.rpartition("/")
        if folder not in self.folders:
            raise _error(errno.ENOENT, path)
        before = self.files.get(path)
        more = size - (0 if before is None else before.size)
        if more > self.free_bytes:
            raise _error(errno.ENOSPC, path)
        self._note_change(path, f"{name} was written")
        self.used_bytes += more
        self.files[path] = File(size, content)
        self.folders[folder][name] = None

    def copy(self, file: File, to: str) -> None:
        """Write a file with another one's size and content; EEXIST when it is there."""
        if to in self.files:
            raise _error(errno.EEXIST, to)
        self.write(to, file.size, file.content)

    def rename(self, path: str, to: str) -> None:
        """Move a folder; ENOTEMPTY when the target is anything but an empty folder."""
        if path not in self.folders:
            raise _error(errno.ENOENT, path)
        if self.folders.get(to) or to in self.files:
            raise _error(errno.ENOTEMPTY, to)
        if to.rpartition("/")[0] not in self.folders:
            raise _error(errno.ENOENT, to)
        self._note_change(path, "it was moved away")
        self._note_change(to, "a folder was moved into it")
        self._leave(path)
        self._enter(to)
        self._move(path, to)
        if to.startswith(OUTPUT):
            self.commits[to] = self.commits.get(to, 0) + 1
            if f"{to}/{MANIFEST_NAME}" not in self.files:
                self.violations.append(f"{to}: renamed into place before its manifest was written")

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with everything in it; it may be absent."""
        if path not in self.folders and path not in self.files:
            return
        self._note_change(path, "it was removed")
        self._leave(path)
        for name in [path] if path in self.files else list(self.below(path)):
            file = self.files.pop(name)
            self.used_bytes -= 0 if file.elsewhere else file.size
        self._forget(path)

    def archive(self, path: str) -> None:
        """Move a product's bytes to another disk; the product stays in its place."""
        for name in list(self.below(path)):
            file = self.files[name]
            if not file.elsewhere:
                self.used_bytes -= file.size
                self.files[name] = File(file.size, file.content, elsewhere=True)

    def _enter(self, path: str) -> None:
        folder, _, name = path.rpartition("/")
        if folder not in self.folders:
            if folder in self.files or not folder.startswith(ROOT):
                raise _error(errno.ENOTDIR, path)
            self._enter(folder)
            self.folders[folder] = {}
        self.folders[folder][name] = None

    def _leave(self, path: str) -> None:
        folder, _, name = path.rpartition("/")
        del self.folders[folder][name]

    def _move(self, path: str, to: str) -> None:
        names = self.folders[to] = self.folders.pop(path)
        for name in names:
            old, new = f"{path}/{name}", f"{to}/{name}"
            if old in self.folders:
                self._move(old, new)
            else:
                self.files[new] = self.files.pop(old)

    def _forget(self, path: str) -> None:
        for name in self.folders.pop(path, ()):
            self._forget(f"{path}/{name}")

    def _note_change(self, path: str, change: str) -> None:
        if not path.startswith(OUTPUT):
            return
        folder = path
        while len(folder) > len(OUTPUT):
            if folder in self.commits and folder in self.folders:
                self.violations.append(f"{folder}: a committed product was changed: {change}")
                return
            folder = folder.rpartition("/")[0]


def _error(code: int, path: str) -> OSError:
    return OSError(code, os.strerror(code), path)
