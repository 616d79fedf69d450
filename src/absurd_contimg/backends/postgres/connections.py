"""Connections to Postgres: a pool, the queries of a backend, and the translation of errors.

Every wait has a bound that holds even when the server or the network says nothing: a caller that
is cancelled or out of time closes its connection at once, and a connection that has been idle is
asked for a sign of life before it is used. JSON goes in and out as jsonb, times in UTC. Knows no
procedure of Absurd.
"""

from __future__ import annotations

import asyncio
import math
import select
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import cache
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg import capabilities, generators, sql, waiting
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus
from psycopg.pq.abc import PGcancelConn, PGconn
from psycopg.rows import class_row
from typing_extensions import override

from absurd_contimg.backends.postgres.columns import selected
from absurd_contimg.backends.postgres.database_errors import (
    MAY_BE_MADE,
    raise_translated,
    unavailable,
)
from absurd_contimg.backends.postgres.lock_holders import explain_wait, standby_is_missing
from absurd_contimg.backends.postgres.sessions import (
    READ_WRITE,
    AsyncSession,
    transaction_settings,
)
from absurd_contimg.backends.postgres.synchronous_standby import (
    COMMIT_SECONDS,
    CommitUnconfirmed,
    Unanswered,
    bounded,
)
from absurd_contimg.core.errors import BackendUnavailable

_T = TypeVar("_T")
_Row = TypeVar("_Row")

_CALL_SECONDS = 60.0
"""Of one call with all its statements; a worker's calls have shorter bounds, by its lease."""
CONNECT_SECONDS = 15.0
"""How long a call tries to connect before the database counts as unreachable."""
_CONNECT_PAUSE_SECONDS = 0.25
_TRUSTED_SECONDS = 1.0
"""A connection that was idle for longer is asked for a sign of life first,"""
_SIGN_OF_LIFE_SECONDS = 0.5
"""and is given up after this time: a new connection takes a few milliseconds."""
_CANCEL_SECONDS = 2.0
_LIFETIME_SECONDS = 3600.0
_READING = ("get_", "current_time")
"""How the names of Absurd's procedures begin that change nothing."""


class BoundedConnection(AsyncSession):
    """A connection that can be abandoned: closed at once, whatever the other side does."""

    opened_at = used_at = 0.0
    """By the event loop's clock."""
    changes = False
    """Its statements change something, and their commits may wait for a standby."""

    def __init__(self, pgconn: PGconn) -> None:
        super().__init__(pgconn)
        self.cancellations: set[asyncio.Task[None]] = set()

    @override
    async def wait(self, gen: PQGen[_T], interval: float = 0.1, timeout: float | None = None) -> _T:
        """As psycopg's, which after a cancellation waits up to 10 s for the server.

        Raises `CommitUnconfirmed` where a change waits, and a standby for which the server waits.
        """
        bound = {} if timeout is None else {"timeout": timeout}
        seconds = COMMIT_SECONDS if self.changes else math.inf
        try:
            while True:
                part = bounded(gen, seconds)
                try:
                    return await waiting.wait_async(part, self.pgconn.socket, interval, **bound)
                except Unanswered:
                    if await standby_is_missing(self.url):
                        raise CommitUnconfirmed from None
        except (asyncio.CancelledError, CommitUnconfirmed):
            self.abandon()
            raise

    def abandon(self) -> None:
        """Close the socket, and ask the server in the background to stop the statement."""
        is_active = self.pgconn.transaction_status == TransactionStatus.ACTIVE
        if is_active and capabilities.has_cancel_safe():
            request = asyncio.create_task(_cancel(self.pgconn.cancel_conn()))
            self.cancellations.add(request)
            request.add_done_callback(self.cancellations.discard)
        self.pgconn.finish()


async def _cancel(request: PGcancelConn) -> None:
    # A statement that waits for a lock would otherwise keep its place in the server.
    with suppress(psycopg.Error, TimeoutError):  # it ends with the statement, or with the server
        async with asyncio.timeout(_CANCEL_SECONDS):
            request.start()
            await waiting.wait_conn_async(generators.cancel(request), interval=0.1)


class Connections:
    """A pool of connections whose errors are those of `core.errors`."""

    def __init__(
        self,
        url: str,
        max_size: int,
        recover: Callable[[], None] | None = None,
        connect_seconds: float = CONNECT_SECONDS,
    ) -> None:
        self._url = url
        self._connect_seconds = connect_seconds
        self._recover = recover
        self._idle: list[BoundedConnection] = []
        """The one that was used last is taken first."""
        self._slots = asyncio.Semaphore(max_size)
        self._cancellations: set[asyncio.Task[None]] = set()
        self._closed = False

    async def open(self) -> None:
        """Connect; raise `BackendUnavailable` with the reason if that fails."""
        self._give_back(await self._connect())

    async def close(self) -> None:
        """Close all connections."""
        self._closed = True
        self._close_idle()
        if self._cancellations:
            await asyncio.wait(self._cancellations)

    def _close_idle(self) -> None:
        for connection in self._idle:  # of which one that is open may not be collected
            connection.pgconn.finish()
        self._idle.clear()

    @asynccontextmanager
    async def connection(
        self, mode: LiteralString = "", *, changes: bool = False
    ) -> AsyncIterator[AsyncSession]:
        """A connection for a bounded time; in autocommit mode, or a transaction of this mode.

        With `changes`, the error for want of an answer says that the change may be made.
        """
        sentences = [f"The database did not answer within {_CALL_SECONDS:g} s."]
        try:
            async with asyncio.timeout(_CALL_SECONDS), self._slots:
                connection = await self._take()
                connection.changes = changes
                if changes:
                    sentences.append(MAY_BE_MADE)
                try:
                    if mode or connection.pooled:
                        async with _transaction(connection, mode or READ_WRITE):
                            yield connection
                    else:
                        yield connection
                finally:
                    self._give_back(connection)
        except TimeoutError as error:
            sentences.append(await explain_wait(self._url))
            raise BackendUnavailable(" ".join(sentences).strip()) from error
        except psycopg.Error as error:
            raise_translated(error)

    async def _take(self) -> BoundedConnection:
        clock = asyncio.get_running_loop().time
        while self._idle:
            connection = self._idle.pop()
            if await _is_alive(connection, clock()):
                return connection
            connection.abandon()
            self._close_idle()  # what has cut off one has cut off the others
        give_up = clock() + self._connect_seconds
        while True:
            try:
                return await self._connect()
            except BackendUnavailable:
                if self._recover is not None:
                    await asyncio.to_thread(self._recover)
                if clock() + _CONNECT_PAUSE_SECONDS >= give_up:
                    raise
                await asyncio.sleep(_CONNECT_PAUSE_SECONDS)

    async def _connect(self) -> BoundedConnection:
        if self._closed:
            raise BackendUnavailable("The connections to the database are closed.")
        try:
            connection = await BoundedConnection.connect(self._url, autocommit=True)
        except psycopg.OperationalError as error:
            raise unavailable(error) from error
        connection.cancellations = self._cancellations
        connection.opened_at = asyncio.get_running_loop().time()
        return connection

    def _give_back(self, connection: BoundedConnection) -> None:
        now = connection.used_at = asyncio.get_running_loop().time()
        is_idle = connection.pgconn.transaction_status == TransactionStatus.IDLE
        if is_idle and not self._closed and now - connection.opened_at < _LIFETIME_SECONDS:
            self._idle.append(connection)
        else:
            connection.abandon()
            for other in self._idle:  # what was wrong with this one may be wrong with them
                other.used_at = -math.inf

    def snapshot(self) -> AbstractAsyncContextManager[AsyncSession]:
        """A connection in a read-only transaction that sees one moment."""
        return self.connection("repeatable read read only")

    @staticmethod
    def changes(procedure: str) -> bool:
        """Whether one of Absurd's procedures changes something."""
        return not procedure.startswith(_READING)

    async def call(self, procedure: str, *arguments: object) -> Any:
        """The single value that one of Absurd's procedures returns."""
        async with self.connection(changes=self.changes(procedure)) as connection:
            cursor = await connection.execute(_call_of(procedure, len(arguments)), arguments)
            ((value,),) = await cursor.fetchall()
            return value

    async def rows_of(self, record: type[_Row], procedure: str, *arguments: object) -> list[_Row]:
        """The rows that one of Absurd's procedures returns."""
        query = _call_of(procedure, len(arguments), selected(record))
        changes = self.changes(procedure)
        return await self.rows(record, query, *arguments, changes=changes)

    async def row_of(self, record: type[_Row], procedure: str, *arguments: object) -> _Row:
        """The single row that one of Absurd's procedures always returns."""
        (row,) = await self.rows_of(record, procedure, *arguments)
        return row

    async def rows(
        self,
        record: type[_Row],
        query: sql.Composed | bytes,
        *arguments: object,
        changes: bool = False,
    ) -> list[_Row]:
        """The rows of a query."""
        async with self.connection(changes=changes) as connection:
            cursor = connection.cursor(row_factory=class_row(record))
            await cursor.execute(query, arguments)
            return await cursor.fetchall()


@asynccontextmanager
async def _transaction(session: AsyncSession, mode: LiteralString) -> AsyncIterator[None]:
    """A transaction with the settings of this package, whatever server it meets."""
    async with session.transaction():
        if session.pooled:
            for statement in transaction_settings(session.info, mode):
                await session.execute(statement)
        else:
            await session.execute(f"set transaction isolation level {mode}")
        yield


@cache
def _call_of(procedure: str, arguments: int, names: str = "") -> bytes:
    call = f"absurd.{procedure}({', '.join(['%s'] * arguments)})"
    return (f"select {names} from {call}" if names else f"select {call}").encode()


async def _is_alive(connection: BoundedConnection, now: float) -> bool:
    """Whether an idle connection answers; one in use until just now need not be asked.

    Input that nobody asked for is the server's farewell, or a notice.
    """
    poll = select.poll()
    poll.register(connection.pgconn.socket, select.POLLIN)
    if now - connection.used_at < _TRUSTED_SECONDS and not poll.poll(0):
        return True
    try:
        async with asyncio.timeout(_SIGN_OF_LIFE_SECONDS):
            await connection.execute("")
    except (TimeoutError, psycopg.Error):
        return False
    return True
