"""Configuration and paths of the simulated world: defaults, and folders that nowhere exist.

Paths cache what is joined to them, because a world uses the same ones again and again and `pathlib`
parses text at every ``/``: that took a tenth of an exploration.
"""

from __future__ import annotations

import sys
from functools import cache, lru_cache
from pathlib import Path, PosixPath

from typing_extensions import override

from absurd_contimg.config import PathsConfig, PipelineConfig
from absurd_contimg.core.records import Json
from absurd_contimg.simulation.model.disk import ROOT

_PARSES = sys.version_info < (3, 12)
"""Later versions parse a path only when they have to."""
_KEPT_MAX = 2000
"""Cached names of one folder: a long campaign makes new ones all the time."""


class KeptPath(PosixPath):
    """A path like any other; each joined path is made once."""

    _kept: dict[object, KeptPath] | None = None

    def __truediv__(self, name: object) -> KeptPath:
        """As in `pathlib.PurePath`, from the cache."""
        kept = self._kept
        if kept is None:
            kept = self._kept = {}
        joined = kept.get(name)
        if joined is None:
            if len(kept) >= _KEPT_MAX:
                kept.clear()
            joined = kept[name] = self._joined(name)
        return joined

    def _joined(self, name: object) -> KeptPath:
        if _PARSES and type(name) is str and "/" not in name and name not in ("", "."):
            parts = [*self._parts, name]  # type: ignore[attr-defined]
            return self._from_parsed_parts(self._drv, self._root, parts)  # type: ignore[attr-defined,no-any-return]
        return super().__truediv__(name)  # type: ignore[operator]

    def is_relative_to(self, *other: object) -> bool:
        """As in `pathlib.PurePath`, for one other path, by their texts."""
        (folder,) = other
        below, above = str(self), str(folder)
        return below.startswith(above) and (below == above or below[len(above)] == "/")

    def relative_to(self, *other: object) -> Path:  # type: ignore[override]  # newer versions: more
        """As in `pathlib.PurePath`, for one other path, by their texts."""
        (folder,) = other
        if not self.is_relative_to(folder):
            raise ValueError(f"{self} is not below {folder}")
        return path_of(str(self)[len(str(folder)) + 1 :])


@lru_cache(maxsize=4096)
def path_of(text: str) -> Path:
    """The same path for the same text; only the first of a folder is parsed."""
    folder, _, name = text.rpartition("/")
    return path_of(folder) / name if folder else KeptPath(text)


class _SimulatedConfig(PipelineConfig):
    """Computes its reference once, and not for each future."""

    @override
    def reference(self) -> dict[str, Json]:
        return _reference()


_FOLDERS = ("input", "output", "scratch", "state")
_PATHS = PathsConfig(**{f"{name}_dir": path_of(ROOT) / name for name in _FOLDERS})
SIMULATED_CONFIG = _SimulatedConfig(paths=_PATHS)


@cache
def _reference() -> dict[str, Json]:
    return PipelineConfig(paths=_PATHS).reference()
