"""`SimulatedFiles`: the simulated disk as one process reaches it; see `FileSystem`.

Whatever changes the disk is a numbered effect of the process. Reading is none: between two
effects nothing changes, so a process that dies before it has read died after its last change.
"""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from absurd_contimg.core.records import Json
from absurd_contimg.simulation.model.disk import INPUT, Disk
from absurd_contimg.simulation.model.effect_gateway import Effect, EffectGateway

JSON_BYTES = 2000
"""What a manifest or a note takes on the simulated disk."""

_MAKE = Effect("file", "make", True)
_WRITE = Effect("file", "write", True)
_SEAL = Effect("file", "write manifest", True)
_RENAME = Effect("file", "rename", True)
_REMOVE = Effect("file", "remove", True)


class SimulatedFiles:
    """The disk, perform the gateway of one process.

    With `observed` false what is done is no crash point: a process does so before its first
    breath.
    """

    def __init__(self, gateway: EffectGateway, disk: Disk, *, observed: bool = True) -> None:
        self._doors, self._disk = gateway, disk
        self._observed = observed

    def _change(self, effect: Effect, act: Any, *arguments: Any) -> None:
        if self._observed:
            self._doors.perform_now(effect, act, *arguments)
        else:
            act(*arguments)

    # -- reading --------------------------------------------------------------------------

    def exists(self, path: Path) -> bool:
        """See `FileSystem`."""
        return self._disk.exists(str(path))

    def is_folder(self, path: Path) -> bool:
        """See `FileSystem`."""
        return str(path) in self._disk.folders

    def is_file(self, path: Path) -> bool:
        """See `FileSystem`."""
        text = str(path)
        return text in self._disk.files or text.startswith(INPUT)

    def is_readable(self, path: Path) -> bool:
        """See `FileSystem`; nobody takes rights away here."""
        return self.is_file(path)

    def sizes(self, folder: Path) -> Mapping[str, int]:
        """See `FileSystem`."""
        start, files = len(str(folder)) + 1, self._disk.files
        return {one[start:]: files[one].size for one in sorted(self._disk.below(str(folder)))}

    def digest(self, file: Path) -> str:
        """See `FileSystem`; of the size and of what the file says."""
        return digest_of(self._disk.file(str(file)))

    def read_json(self, path: Path) -> Any:
        """See `FileSystem`."""
        return self._disk.file(str(path)).content

    def matching(self, folder: Path, pattern: str) -> list[Path]:
        """See `FileSystem`; a pattern of names, without ``**``."""
        found = [str(folder)]
        for part in pattern.split("/"):
            found = [
                f"{one}/{name}"
                for one in found
                for name in self._disk.folders.get(one, ())
                if _matches(name, part)
            ]
        return [Path(one) for one in sorted(found)]

    def tree_size(self, folder: Path) -> int:
        """See `FileSystem`."""
        return self._disk.size(str(folder))

    def free_bytes(self, folder: Path) -> int:
        """See `FileSystem`."""
        return self._disk.free_bytes

    # -- changing -------------------------------------------------------------------------

    def write(self, path: Path, size: int, content: Any = None) -> None:
        """Write a file as a stage does."""
        self._change(_WRITE, self._disk.write, str(path), size, content)

    def write_json(self, path: Path, value: Json) -> None:
        """See `FileSystem`."""
        self._change(_SEAL, self._disk.write, str(path), JSON_BYTES, value)

    def make_folder(self, folder: Path) -> None:
        """See `FileSystem`."""
        self._change(_MAKE, self._disk.make_folder, str(folder))

    def ensure_folder(self, folder: Path) -> None:
        """See `FileSystem`."""
        if str(folder) not in self._disk.folders:
            self.make_folder(folder)

    def rename(self, source: Path, target: Path) -> None:
        """See `FileSystem`."""
        self._change(_RENAME, self._disk.rename, str(source), str(target))

    def remove(self, file: Path) -> None:
        """See `FileSystem`."""
        if str(file) in self._disk.files:
            self._change(_REMOVE, self._disk.remove, str(file))

    def remove_tree(self, folder: Path) -> None:
        """See `FileSystem`."""
        if str(folder) in self._disk.folders:
            self._change(_REMOVE, self._disk.remove, str(folder))

    def flush(self, path: Path) -> None:
        """See `FileSystem`. No effect: hosts of this world lose no power between two writes."""

    def flush_tree(self, folder: Path) -> None:
        """See `flush`."""

    # -- locks ----------------------------------------------------------------------------

    def try_lock(self, path: Path, *, create: bool = True) -> int | None:
        """See `FileSystem`."""
        disk, text = self._disk, str(path)
        if text in disk.locks or (not create and text not in disk.files):
            return None
        if text not in disk.files:
            disk.write(text, 0)
        process = self._doors.process

        def release() -> None:
            del disk.locks[text]

        disk.locks[text] = process
        process.at_death(("lock", text), release)
        return _Lock(0, text)

    def unlock(self, lock: int) -> None:
        """See `FileSystem`."""
        assert isinstance(lock, _Lock)
        self._disk.locks.pop(lock.path, None)
        self._doors.process.at_death(("lock", lock.path), None)

    @contextmanager
    def locked(self, path: Path) -> Iterator[None]:
        """See `FileSystem`. Nobody ever holds it: what is done under it takes no time."""
        yield


class _Lock(int):
    """A descriptor that knows its file."""

    path: str

    def __new__(cls, number: int, path: str) -> _Lock:
        """Like an int."""
        found = super().__new__(cls, number)
        found.path = path
        return found


def digest_of(file: Any) -> str:
    """Stands for the digest of a file's bytes."""
    return _digest(f"{file.size}\0{file.content}")


@lru_cache(maxsize=4096)
def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


def _matches(name: str, pattern: str) -> bool:
    if "*" not in pattern:
        return name == pattern
    if pattern == "*":
        return not name.startswith(".")
    return fnmatch.fnmatchcase(name, pattern)
