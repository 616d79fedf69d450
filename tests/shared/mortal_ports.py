"""Ports whose n-th call kills the process that calls: for every crash point of code over ports."""

from __future__ import annotations

import asyncio
from typing import Any

_READS = (
    *("list_", "get_", "items", "unfinished", "current_time", "queue_stats", "schedules"),
    *("batches", "counts"),
)


class Killed(BaseException):
    """The death of the feeder's process at a call."""


class Mortal:
    """A port whose n-th call, counted over all ports of one feeder, kills the process.

    The call takes effect, or does not: both are tried. Reads are not counted: a death there leaves
    what a death at the next write leaves.
    """

    def __init__(self, port: Any, kill: Kill) -> None:
        self._port, self._kill = port, kill

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._port, name)
        if name.startswith(_READS):
            return method
        if asyncio.iscoroutinefunction(method):

            async def call(*arguments: Any, **options: Any) -> Any:
                self._kill.before()
                answer = await method(*arguments, **options)
                self._kill.after()
                return answer

            return call

        def call_now(*arguments: Any, **options: Any) -> Any:
            self._kill.before()
            answer = method(*arguments, **options)
            self._kill.after()
            return answer

        return call_now


class Kill:
    """Kills at the half call `at`: even before a call takes effect, odd after it."""

    def __init__(self, at: int) -> None:
        self._left = at
        self.killed = False

    def before(self) -> None:
        self._count()

    after = before

    def _count(self) -> None:
        if self._left == 0:
            self.killed = True
            raise Killed
        self._left -= 1
