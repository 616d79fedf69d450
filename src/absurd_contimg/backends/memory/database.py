"""`MemoryDatabase`: everything that a Postgres database with Absurd's schema holds.

One mutex guards it all. Time comes from the clock given, ids from the seed given. The wall clock
is read in one place, `MemoryDatabase.now`, and only where no clock was given.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime
from time import time_ns
from typing import TYPE_CHECKING, Any, NamedTuple

from absurd_contimg.backends.memory import schema
from absurd_contimg.backends.memory.catalog import Relation, Relations
from absurd_contimg.backends.memory.records import row_dict
from absurd_contimg.backends.memory.session import Session
from absurd_contimg.backends.memory.tables import Queues
from absurd_contimg.backends.memory.transaction import Transaction
from absurd_contimg.backends.memory.uuid7 import UuidSource
from absurd_contimg.backends.memory.values import times

if TYPE_CHECKING:
    from absurd_contimg.backends.memory.dbapi.connection import (
        AsyncMemoryConnection,
        MemoryConnection,
    )

Clock = Callable[[], datetime]
TIMELINE_LENGTH_MAX = 10_000


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
        outcome = self.outcome if self.answer in (None, "") else _answered(self.answer)
        return f"{moment}  s{self.session_id}  {self.procedure}({shown}) -> {outcome}"


def _answered(answer: object, rows_max: int = 3) -> str:
    """What a procedure gave back: a value, a row, or its first rows."""
    if isinstance(answer, tuple):
        return f"({', '.join(_brief(item, 30) for item in answer)})"
    if not isinstance(answer, list):
        return _brief(answer)
    rows = [_answered(row) for row in answer[:rows_max]]
    if len(answer) > rows_max:
        rows.append(f"and {len(answer) - rows_max} more")
    return "; ".join(rows) or "no rows"


def _brief(value: object, length_max: int = 60) -> str:
    if isinstance(value, int) and value.bit_length() > 64:
        return f"{value:032x}"[-8:]
    text = repr(value)
    return text if len(text) <= length_max else f"{text[: length_max - 3]}..."


class MemoryDatabase:
    """A database in memory with Absurd's schema and no queue yet.

    `seed` decides the random bits of every id. `clock` gives aware datetimes; without it the
    database follows the wall clock.
    """

    def __init__(self, seed: int = 0, clock: Clock | None = None) -> None:
        self.clock = clock
        self.mutex = threading.RLock()
        self.ended = threading.Condition(self.mutex)
        self.releases = 0
        self.table_locks: dict[str, dict[Transaction, set[int]]] = {}
        self.uuids = UuidSource(seed)
        self.relations = Relations()
        self.relations.rows["queues"] = Relation("queues", "queues", Queues())
        self.noted: deque[Noted] = deque(maxlen=TIMELINE_LENGTH_MAX)
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._sessions = 0
        self._latest: tuple[datetime, int] = times.EPOCH, 0
        """The last answer of the clock given, and the same in microseconds: it may stand still."""

    # -- time and ids -----------------------------------------------------------------------

    def now(self) -> int:
        """The clock in microseconds; TypeError if it gives a datetime without a zone."""
        if self.clock is None:
            return time_ns() // 1000
        moment = self.clock()
        if moment is self._latest[0]:
            return self._latest[1]
        try:
            self._latest = moment, times.from_datetime(moment)
        except TypeError:
            raise TypeError(
                f"MemoryDatabase(clock=...) must give aware datetimes, not {moment!r}; add "
                "tzinfo, as in datetime.now(UTC)"
            ) from None
        return self._latest[1]

    def random_uuid(self) -> int:
        """``gen_random_uuid()``, from the seed."""
        return self.uuids.random()

    # -- sessions ---------------------------------------------------------------------------

    def session(self) -> Session:
        """A new session."""
        with self.mutex:
            self._sessions += 1
            return Session(self, self._sessions)

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

    def connect(self, autocommit: bool = False, **options: Any) -> MemoryConnection:
        """A connection shaped as `psycopg.Connection`; `row_factory` is taken as psycopg does."""
        from absurd_contimg.backends.memory.dbapi.connection import (  # noqa: PLC0415
            MemoryConnection,
        )

        return MemoryConnection(self, autocommit=autocommit, **options)

    async def connect_async(
        self, autocommit: bool = False, **options: Any
    ) -> AsyncMemoryConnection:
        """A connection shaped as `psycopg.AsyncConnection`."""
        from absurd_contimg.backends.memory.dbapi.connection import (  # noqa: PLC0415
            AsyncMemoryConnection,
        )

        return AsyncMemoryConnection(self, autocommit=autocommit, **options)

    def patch_connect(self) -> AbstractContextManager[None]:
        """A block in which psycopg's ``connect`` leads here, whatever the URL."""
        from absurd_contimg.backends.memory.dbapi.patch_connect import patch_connect  # noqa: PLC0415

        return patch_connect(self)

    # -- copies -----------------------------------------------------------------------------

    def fork(self) -> MemoryDatabase:
        """An independent copy of everything committed, with the same future ids.

        Rows are shared, so this costs one reference a row. Sessions are not copied.
        """
        twin = MemoryDatabase.__new__(MemoryDatabase)
        with self.mutex:
            twin.__dict__.update(self.__dict__)
            twin.uuids = self.uuids.copy()
            twin.relations = self.relations.copy()
            twin.noted = self.noted.copy()
        twin.mutex = threading.RLock()
        twin.ended = threading.Condition(twin.mutex)
        twin.table_locks, twin._waiters = {}, []
        return twin

    def contents(self) -> tuple[object, ...]:
        """Everything committed that decides what the database does: equal contents, equal futures.

        Rows with their order, which shows where no other order is asked for, and the ids to come.
        The timeline is for people and no part of it.
        """
        tables = tuple(
            (name, one.parent, one.partition, one.table.partitions, tuple(one.table.rows.items()))
            for name, one in self.relations.rows.items()
        )
        return tables, self.uuids.position()

    def tables(self) -> dict[str, list[dict[str, object]]]:
        """Every table of the schema ``absurd`` with its committed rows, for pandas or the like.

        By name, as ``t_<queue>``; each row is a dict by column. Values are Python's: UUID, aware
        datetime in UTC, parsed JSON (JSON null and SQL NULL are both None), timedelta. Times
        outside of Python's range, infinity among them, are its first or last moment.
        """
        with self.mutex:
            return {
                relation.name: [
                    row_dict(schema.TABLES[relation.letter], row)
                    for row in relation.table.scan(None)
                ]
                for relation in self.relations.scan(None)
                if relation.partition is None
            }

    def snapshot(self) -> MemoryDatabase:
        """What `restore` takes: a fork that nobody works on."""
        return self.fork()

    def restore(self, snapshot: MemoryDatabase) -> None:
        """Go back to the snapshot, which may be restored again.

        Open transactions of this database's sessions are rolled back first by their owners; with
        one still open this raises RuntimeError.
        """
        with self.mutex:
            if self.table_locks:
                raise RuntimeError(
                    "restore: a transaction is open; commit it or roll it back first"
                )
            copy = snapshot.fork()
            self.uuids, self.relations = copy.uuids, copy.relations
            self.noted = copy.noted
            self.transaction_ended()

    @property
    def timeline(self) -> list[Operation]:
        """The latest operations, oldest first."""
        return [Operation(*one) for one in self.noted]

    def timeline_text(self) -> str:
        """The same, one a line."""
        return "\n".join(map(str, self.timeline))


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
