"""Paths that keep what was joined to them: a simulated world asks for the same ones all the time.

`pathlib` parses text at every ``/``, which took a tenth of an exploration.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path, PosixPath, PurePath

_KEPT_MAX = 2000
"""Names kept in one folder; a long campaign makes ever new ones."""


class KeptPath(PosixPath):
    """A path like any other; what is joined to it is made once."""

    __slots__ = ("_kept",)
    _kept: dict[str | PurePath, KeptPath]

    def __truediv__(self, name: object) -> KeptPath:
        """See `pathlib.PurePath`."""
        try:
            return self._kept[name]  # type: ignore[index]
        except AttributeError:
            self._kept = {}
        except KeyError:
            if len(self._kept) >= _KEPT_MAX:
                self._kept.clear()
        joined = super().__truediv__(name)  # type: ignore[operator]
        self._kept[name] = joined  # type: ignore[index]
        return joined


@lru_cache(maxsize=4096)
def path_of(text: str) -> Path:
    """The same path for the same text."""
    return KeptPath(text)
