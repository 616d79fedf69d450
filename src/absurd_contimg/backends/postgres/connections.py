"""Connections to Postgres: a pool, the queries of a backend, and the translation of errors.

Connections are checked when they are taken from the pool, so that after a restart of the server
new ones are made. JSON goes in and out as jsonb, times in UTC. Knows no procedure of Absurd.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import cache
from typing import Any, NoReturn, TypeVar

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.rows import class_row
from psycopg.types.datetime import TimestamptzLoader
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from absurd_contimg.backends.postgres.schema import unavailable
from absurd_contimg.core.errors import (
    BackendError,
    BackendUnavailable,
    InvalidRetryStrategy,
    QueueNotFound,
    RunAlreadyFailed,
    SchemaMissing,
    TaskCancelled,
)
from absurd_contimg.core.records import INFINITY

_Row = TypeVar("_Row")

_CONNECT_TIMEOUT_SECONDS = 10
_POOL_TIMEOUT_SECONDS = 15.0
"""How long a call waits for a connection before the database counts as unreachable."""
_POOL_REQUEST_SECONDS = 0.5
"""How long one request to the pool waits before it is repeated."""


class Connections:
    """A pool of connections whose errors are those of `core.errors`."""

    def __init__(self, url: str, min_size: int, max_size: int) -> None:
        self._url = url
        self._pool: AsyncConnectionPool[AsyncConnection[Any]] = AsyncConnectionPool(
            url,
            min_size=min_size,
            max_size=max_size,
            open=False,
            timeout=_POOL_TIMEOUT_SECONDS,
            reconnect_timeout=0,  # give up an attempt at once: the pool tries again when asked
            check=AsyncConnectionPool.check_connection,
            configure=_configure,
            kwargs={"autocommit": True, "connect_timeout": _CONNECT_TIMEOUT_SECONDS},
        )

    async def open(self) -> None:
        """Connect; raise `BackendUnavailable` with the reason if that fails."""
        try:
            # One plain connection first: its error says why, the pool's only says "timeout".
            async with await AsyncConnection.connect(
                self._url, connect_timeout=_CONNECT_TIMEOUT_SECONDS
            ):
                pass
        except (psycopg.OperationalError, psycopg.ProgrammingError) as error:
            raise unavailable(error) from error
        await self._pool.open()

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.close()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection[Any]]:
        """A connection in autocommit mode."""
        try:
            connection = await self._take()
            try:
                async with connection:  # ends its transaction, if there is one
                    yield connection
            finally:
                await self._pool.putconn(connection)
        except psycopg.Error as error:
            _translate(error)

    async def _take(self) -> AsyncConnection[Any]:
        # Many short requests: the pool connects when it is asked and not while somebody waits,
        # so one long wait would outlast the restart of a server by far.
        clock = asyncio.get_running_loop().time
        give_up = clock() + _POOL_TIMEOUT_SECONDS
        while True:
            try:
                return await self._pool.getconn(_POOL_REQUEST_SECONDS)
            except PoolTimeout as error:
                if clock() >= give_up:
                    raise BackendUnavailable(
                        f"The database gave no connection within {_POOL_TIMEOUT_SECONDS:g} s: "
                        f"{error}"
                    ) from error

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[AsyncConnection[Any]]:
        """A connection in a read-only transaction that sees one moment."""
        async with self.connection() as connection, connection.transaction():
            await connection.execute("set transaction isolation level repeatable read read only")
            yield connection

    async def call(self, procedure: str, *arguments: object) -> Any:
        """The single value that one of Absurd's procedures returns."""
        async with self.connection() as connection:
            cursor = await connection.execute(_call_of(procedure, len(arguments)), arguments)
            ((value,),) = await cursor.fetchall()
            return value

    async def rows_of(self, record: type[_Row], procedure: str, *arguments: object) -> list[_Row]:
        """The rows that one of Absurd's procedures returns."""
        query = _call_of(procedure, len(arguments), columns(record))
        return await self.rows(record, query, *arguments)

    async def row_of(self, record: type[_Row], procedure: str, *arguments: object) -> _Row:
        """The single row that one of Absurd's procedures always returns."""
        (row,) = await self.rows_of(record, procedure, *arguments)
        return row

    async def rows(
        self, record: type[_Row], query: sql.Composed | bytes, *arguments: object
    ) -> list[_Row]:
        """The rows of a query."""
        async with self.connection() as connection:
            cursor = connection.cursor(row_factory=class_row(record))
            await cursor.execute(query, arguments)
            return await cursor.fetchall()


def columns(record: type[object]) -> tuple[str, ...]:
    """The fields of a dataclass or named tuple: the columns of its table or procedure."""
    return tuple(inspect.get_annotations(record))


@cache
def _call_of(procedure: str, arguments: int, names: tuple[str, ...] = ()) -> bytes:
    call = f"absurd.{procedure}({', '.join(['%s'] * arguments)})"
    return (f"select {', '.join(names)} from {call}" if names else f"select {call}").encode()


class _InfiniteTimestamptzLoader(TimestamptzLoader):
    """Reads ``infinity`` (a wait without a timeout), which psycopg's own loader refuses."""

    def load(self, data: bytes | bytearray | memoryview) -> datetime:
        if bytes(data) == b"infinity":
            return INFINITY
        return super().load(data).astimezone(UTC)


async def _configure(connection: AsyncConnection[Any]) -> None:
    connection.adapters.register_loader("timestamptz", _InfiniteTimestamptzLoader)
    await connection.execute("set time zone 'UTC'")


_UNREACHABLE_CLASSES = ("08", "57P")
"""Connection exceptions, and the server shutting down or starting up."""


def _translate(error: psycopg.Error) -> NoReturn:
    state = error.sqlstate
    message = error.diag.message_primary or str(error).strip()
    match state:
        case "AB001":
            raise TaskCancelled(message) from error
        case "AB002":
            raise RunAlreadyFailed(message) from error
        case "AB003":
            raise InvalidRetryStrategy(message, state) from error
        case "3F000" | "42883":
            raise SchemaMissing(
                f"The database holds no Absurd schema ({message}). Run: contimg db init", state
            ) from error
        case "42P01":
            raise QueueNotFound(
                f"The queue does not exist ({message}). Run: contimg db init", state
            ) from error
        case None if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
            raise unavailable(error) from error
        case str() if state.startswith(_UNREACHABLE_CLASSES):
            raise unavailable(error) from error
        case _:
            raise BackendError(message, state) from error
