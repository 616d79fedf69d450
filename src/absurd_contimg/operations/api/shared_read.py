"""One answer for many askers: what takes long to read is read once for all who ask meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class SharedRead(Generic[T]):
    """Reads at most once in `seconds`, by the event loop's clock. Errors are not kept."""

    def __init__(self, read: Callable[[], Awaitable[T]], seconds: float) -> None:
        self._read = read
        self._seconds = seconds
        self._lock = asyncio.Lock()
        self._kept: tuple[float, T] | None = None

    async def __call__(self) -> T:
        """The answer, at most so many seconds old."""
        clock = asyncio.get_running_loop().time
        async with self._lock:
            if self._kept is None or clock() - self._kept[0] > self._seconds:
                self._kept = (clock(), await self._read())
            return self._kept[1]
