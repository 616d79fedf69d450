"""`SimulatedFiles`: the simulated disk as one process uses it.

Whatever changes the disk is a numbered effect of the process. Reading is none: between two
effects nothing changes, so a process that dies before a read dies after its last change.
"""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from typing_extensions import override

from absurd_contimg.core.records import Json
from absurd_contimg.owned_folders import Mark
from absurd_contimg.products.filesystem import FileSystem
from absurd_contimg.simulation.model.disk import INPUT, Disk
from absurd_contimg.simulation.model.effect_gateway import Effect, EffectGateway
from absurd_contimg.simulation.model.simulated_config import path_of

JSON_BYTES = 2000
"""The size of a manifest or a note on the simulated disk."""

_MAKE = Effect("file", "make", True)
_WRITE = Effect("file", "write", True)
_WRITE_JSON = Effect("file", "write manifest", True)
_COPY = Effect("file", "copy", True)
_RENAME = Effect("file", "rename", True)
_REMOVE = Effect("file", "remove", True)


class SimulatedFiles(FileSystem):
    """The disk, through the gateway of one process."""

    def __init__(self, gateway: EffectGateway, disk: Disk) -> None:
        self._gateway, self._disk = gateway, disk
        self._change = gateway.perform_now
        self._locks: dict[int, Callable[[], None]] = {}

    # -- reading --------------------------------------------------------------------------

    @override
    def exists(self, path: Path) -> bool:
        return self._disk.exists(str(path))

    @override
    def is_folder(self, path: Path) -> bool:
        return str(path) in self._disk.folders

    @override
    def is_file(self, path: Path) -> bool:
        text = str(path)
        return text in self._disk.files or text.startswith(INPUT)

    is_readable = is_file

    @override
    def sizes(self, folder: Path) -> Mapping[str, int]:
        start, files = len(str(folder)) + 1, self._disk.files
        return {path[start:]: files[path].size for path in sorted(self._disk.below(str(folder)))}

    @override
    def touched_at_ns(self, file: Path) -> int:
        """All at one time: nobody writes into a product of this world."""
        return 0

    @override
    def digest(self, file: Path) -> str:
        content = self._disk.file(str(file))
        return _digest(f"{content.size}\0{content.content}")

    @override
    def read_json(self, path: Path) -> Any:
        return self._disk.file(str(path)).content

    @override
    def matching(self, folder: Path, pattern: str) -> list[Path]:
        """As the port says, for patterns of names without ``**``."""
        paths = [str(folder)]
        for part in pattern.split("/"):
            if "*" in part:
                paths = [f"{path}/{name}" for path in paths for name in self._names(path, part)]
            else:
                folders = self._disk.folders
                paths = [f"{path}/{part}" for path in paths if part in folders.get(path, ())]
        return [path_of(path) for path in sorted(paths)]

    def _names(self, folder: str, pattern: str) -> Iterable[str]:
        names = self._disk.folders.get(folder, {})
        return names if pattern == "*" else fnmatch.filter(names, pattern)

    @override
    def tree_size(self, folder: Path) -> int:
        return self._disk.size(str(folder))

    @override
    def free_bytes(self, folder: Path) -> int:
        return self._disk.free_bytes

    # -- changing -------------------------------------------------------------------------

    def write(self, path: Path, size: int, content: Any = None) -> None:
        """Write a file, as a stage does."""
        self._change(_WRITE, self._disk.write, str(path), size, content)

    @override
    def write_json(self, path: Path, value: Json) -> None:
        self._change(_WRITE_JSON, self._disk.write, str(path), JSON_BYTES, value)

    @override
    def copy_file(self, source: Path, target: Path) -> None:
        file = self._disk.file(str(source))
        self._change(_COPY, self._disk.copy, file, str(target))

    @override
    def make_folder(self, folder: Path) -> None:
        self._change(_MAKE, self._disk.make_folder, str(folder))

    @override
    def ensure_folder(self, folder: Path) -> None:
        if str(folder) not in self._disk.folders:
            self._change(_MAKE, self._disk.ensure_folder, str(folder))

    @override
    def rename(self, source: Path, target: Path) -> None:
        self._change(_RENAME, self._disk.rename, str(source), str(target))

    @override
    def remove(self, file: Path) -> None:
        if str(file) in self._disk.files:
            self._change(_REMOVE, self._disk.remove, str(file))

    @override
    def take_folder(self, folder: Path, mark: Mark, is_left_over: Callable[[Path], bool]) -> None:
        self.ensure_folder(folder)

    @override
    def remove_tree(self, folder: Path, mark: Mark) -> None:
        if str(folder) in self._disk.folders:
            self._change(_REMOVE, self._disk.remove, str(folder))

    @override
    def mount_points(self, folder: Path) -> list[Path]:
        """Nothing is mounted in this world."""
        return []

    @override
    def flush(self, path: Path) -> None:
        """No effect: hosts of this world lose no power between two writes."""

    @override
    def flush_tree(self, folder: Path) -> None:
        """No effect, as `flush`."""

    # -- locks ----------------------------------------------------------------------------

    @override
    def try_lock(self, path: Path, *, create: bool = True) -> int | None:
        locks, files, text = self._disk.locks, self._disk.files, str(path)
        if text in locks or (not create and text not in files):
            return None
        if text not in files:
            self._disk.write(text, 0)
        locks[text] = self._gateway.process
        number = len(self._locks)
        release = partial(locks.__delitem__, text)
        self._locks[number] = self._gateway.process.release_at_death(release)
        return number

    @override
    def unlock(self, lock: int) -> None:
        self._locks[lock]()

    @override
    @contextmanager
    def locked(self, path: Path) -> Iterator[None]:
        """No process ever waits for it: what is done under it takes no time."""
        yield


@lru_cache(maxsize=4096)
def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()
