"""What all sessions of a database share, tables apart: mutex, time, ids, timeline, waiting.

The wall clock is read in one place, `Store.now`, and only where no clock was given.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from datetime import datetime
from time import time_ns
from typing import Any, NamedTuple

from absurd_contimg.backends.memory.uuid7 import UuidSource
from absurd_contimg.backends.memory.values import times

_RECENT_US = 10**15
"""A number above this is a time: 2001 in microseconds."""

Noted = tuple[int, int, str, tuple[object, ...], str, object]
"""The fields of an `Operation`: plain, because each call notes one and few are ever read."""


class Operation(NamedTuple):
    """One call of a procedure, for people to read."""

    time: int
    session_id: int
    procedure: str
    arguments: tuple[object, ...]
    outcome: str
    answer: object = None

    def __str__(self) -> str:
        shown = ", ".join(_brief(argument) for argument in self.arguments)
        moment = times.to_datetime(self.time).isoformat(timespec="milliseconds")
        outcome = self.outcome if self.answer in (None, "") else _brief(self.answer)
        return f"{moment}  s{self.session_id}  {self.procedure}({shown}) -> {outcome}"


def _brief(value: object, length_max: int = 60) -> str:
    """An argument, an answer or a row of one."""
    if isinstance(value, tuple | list):
        shown = [_brief(item, 30) for item in value[:12]] or ["no rows"]
        return f"({', '.join(shown)})" if isinstance(value, tuple) else "; ".join(shown)
    if isinstance(value, int) and value.bit_length() > 64:
        return f"{value:032x}"[-8:]
    if isinstance(value, int) and value > _RECENT_US:
        return times.to_datetime(value).isoformat(timespec="milliseconds")
    text = repr(value)
    return text if len(text) <= length_max else f"{text[: length_max - 3]}..."


Clock = Callable[[], datetime]
TIMELINE_LENGTH_MAX = 10_000


class Store:
    """One mutex guards everything. Time comes from the clock given, ids from the seed given."""

    relations: Any
    """The `catalog.Relations`, which import this module; `catalog.relations` has the type."""

    def __init__(self, seed: int, clock: Clock | None) -> None:
        if clock is not None and not callable(clock):
            raise TypeError(f"MemoryDatabase(clock=...) must be a function, not {clock!r}")
        self.clock = clock
        self.mutex = threading.RLock()
        self.ended = threading.Condition(self.mutex)
        """Notified when a transaction ends."""
        self.is_running = False
        """Whether a statement runs."""
        self.abandoned: list[Any] = []
        """The sessions whose connections were forgotten meanwhile, in its own thread."""
        self.releases = 0
        """How many transactions have ended."""
        self.table_locks: dict[str, dict[Any, set[int]]] = {}
        """By table, the transactions with the locks that they hold on it."""
        self.uuids = UuidSource(seed)
        self.noted: deque[Noted] = deque(maxlen=TIMELINE_LENGTH_MAX)
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._sessions = 0
        self._latest: tuple[datetime, int] = times.EPOCH, 0
        """The last answer of the clock given, and the same in microseconds: it may stand still."""

    def now(self) -> int:
        """The clock in microseconds; TypeError if it gives a datetime without a zone."""
        if self.clock is None:
            return time_ns() // 1000
        moment = self.clock()
        if moment is self._latest[0]:
            return self._latest[1]
        try:
            self._latest = moment, times.from_datetime(moment)
        except (TypeError, AttributeError):
            raise TypeError(
                f"MemoryDatabase(clock=...) must give aware datetimes, not {moment!r}; add "
                "tzinfo, as in datetime.now(UTC)"
            ) from None
        return self._latest[1]

    def next_session_id(self) -> int:
        """The number of a new session."""
        with self.mutex:
            self._sessions += 1
            return self._sessions

    def transaction_ended(self) -> None:
        """Wake everybody who waits for a lock. The caller holds the mutex."""
        self.releases += 1
        self.ended.notify_all()
        waiters, self._waiters = self._waiters, []
        for loop, future in waiters:
            loop.call_soon_threadsafe(_wake, future)

    def wait_async(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """Done when the next transaction ends. The caller holds the mutex."""
        future: asyncio.Future[None] = loop.create_future()
        self._waiters.append((loop, future))
        return future


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
