"""Connections: psycopg's, sync and async, each a session of the emulated database."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from operator import attrgetter
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg.adapt import AdaptersMap
from psycopg.rows import tuple_row

from absurd_contimg.backends.memory.dbapi.base_cursor import Params, Query
from absurd_contimg.backends.memory.dbapi.cursor import AsyncMemoryCursor, MemoryCursor
from absurd_contimg.backends.memory.dbapi.info import MemoryInfo
from absurd_contimg.backends.memory.dbapi.transaction import (
    AsyncMemoryTransaction,
    MemoryTransaction,
)
from absurd_contimg.backends.memory.session import Session, TransactionStatus
from absurd_contimg.backends.memory.store import Store

_INSTEAD = {
    "commit": "Transaction will be automatically committed on successful exit from context.",
    "rollback": "Either raise Rollback() or allow an exception to propagate out of the context.",
}


class BaseConnection:
    """What both kinds of connection share."""

    def __init__(
        self,
        db: Store,
        *,
        autocommit: bool = False,
        row_factory: Any = tuple_row,
    ) -> None:
        self.db = db
        self.session: Session = Session(db)
        self.row_factory = row_factory
        self.adapters = AdaptersMap(psycopg.adapters)
        self.info = MemoryInfo(self)
        self.lock: Any = None
        self.prepare_threshold: int | None = 5
        self.prepared_max: int | None = 100
        self._isolation_level: psycopg.IsolationLevel | None = None
        self._read_only: bool | None = None
        self._deferrable: bool | None = None
        self._autocommit = autocommit
        self._closed = False
        self.transactions_open: list[Any] = []

    @property
    def connection(self) -> Any:
        """For psycopg's adapters, which ask any context for its connection."""
        return None

    @property
    def closed(self) -> bool:
        """Whether the connection was closed."""
        return self._closed

    @property
    def broken(self) -> bool:
        """Never: there is nothing to break."""
        return False

    @property
    def autocommit(self) -> bool:
        """Whether each statement is a transaction of its own."""
        return self._autocommit

    @property
    def isolation_level(self) -> psycopg.IsolationLevel | None:
        """The level of the transactions to come; None is the session's own."""
        return self._isolation_level

    @property
    def read_only(self) -> bool | None:
        """Whether the transactions to come may only read; None is as the session says."""
        return self._read_only

    @property
    def deferrable(self) -> bool | None:
        """Means nothing at the only level there is."""
        return self._deferrable

    def _check_idle(self, attribute: str) -> None:
        self.check_open()
        if self.session.status is TransactionStatus.IDLE:
            return
        why = "connection.transaction() context in progress"
        if not self.transactions_open:
            why = f"connection in transaction status {self.info.transaction_status.name}"
        raise psycopg.ProgrammingError(f"can't change {attribute!r} now: {why}")

    def _set_autocommit(self, value: bool) -> None:
        self._check_idle("autocommit")
        self._autocommit = bool(value)

    def _set_isolation_level(self, value: psycopg.IsolationLevel | None) -> None:
        self._check_idle("isolation_level")
        level = None if value is None else psycopg.IsolationLevel(value)
        if level is not None and level > psycopg.IsolationLevel.READ_COMMITTED:
            raise psycopg.NotSupportedError(
                f"the in-memory Absurd only has read committed, not: {level.name}"
            )
        self._isolation_level = level

    def _set_read_only(self, value: bool | None) -> None:
        self._check_idle("read_only")
        if value is not None:
            raise psycopg.NotSupportedError("the in-memory Absurd has no read_only transactions")

    def _set_deferrable(self, value: bool | None) -> None:
        self._check_idle("deferrable")
        if value is not None:
            raise psycopg.NotSupportedError("the in-memory Absurd has no deferrable transactions")

    def check_open(self) -> None:
        """OperationalError on a closed connection."""
        if self._closed:
            raise psycopg.OperationalError("the connection is closed")

    def check_cursor(self, name: str) -> None:
        """What stands against a new cursor."""
        self.check_open()
        if name:
            raise psycopg.NotSupportedError(
                f"the in-memory Absurd has no cursors on the server side, as {name!r}: make one "
                "without a name, and fetchmany() or stream() for a few rows at a time"
            )

    def before_statement(self) -> None:
        """Begin a transaction if it is time for one."""
        if not self._autocommit and self.session.transaction is None:
            self.begin()

    def begin(self) -> None:
        """Begin a transaction as the connection's attributes say."""
        self.session.begin()

    def _end(self, word: str, end: Callable[[], object]) -> None:
        self.check_open()
        if self.transactions_open:
            raise psycopg.ProgrammingError(
                f"Explicit {word}() forbidden within a Transaction context. ({_INSTEAD[word]})"
            )
        end()

    def _close(self) -> None:
        if not self._closed:
            self.session.close()
            self._closed = True

    def cancel(self) -> None:
        """No effect: nothing runs while somebody could cancel it."""

    def cancel_safe(self, *, timeout: float = 30.0) -> None:
        """No effect."""

    def add_notice_handler(self, callback: Callable[..., None]) -> None:
        """No effect: the emulator sends no notices."""

    def remove_notice_handler(self, callback: Callable[..., None]) -> None:
        """No effect."""

    def add_notify_handler(self, callback: Callable[..., None]) -> None:
        """No effect: the emulator has no notifications."""

    def remove_notify_handler(self, callback: Callable[..., None]) -> None:
        """No effect."""

    def __repr__(self) -> str:
        state = "closed" if self._closed else self.info.transaction_status.name
        return f"<{type(self).__name__} [{state}] session {self.session.session_id}>"


class MemoryConnection(BaseConnection):
    """`psycopg.Connection` over the emulator."""

    def __init__(self, db: Store, **options: Any) -> None:
        super().__init__(db, **options)
        self.lock = threading.RLock()
        self.cursor_factory: Any = MemoryCursor

    def set_autocommit(self, value: bool) -> None:
        """Set `autocommit`; ProgrammingError within a transaction."""
        self._set_autocommit(value)

    def set_isolation_level(self, value: psycopg.IsolationLevel | None) -> None:
        """Set `isolation_level`; ProgrammingError within a transaction."""
        self._set_isolation_level(value)

    def set_read_only(self, value: bool | None) -> None:
        """Set `read_only`; ProgrammingError within a transaction."""
        self._set_read_only(value)

    def set_deferrable(self, value: bool | None) -> None:
        """Set `deferrable`; ProgrammingError within a transaction."""
        self._set_deferrable(value)

    autocommit = property(attrgetter("_autocommit"), set_autocommit)
    isolation_level = property(attrgetter("_isolation_level"), set_isolation_level)
    read_only = property(attrgetter("_read_only"), set_read_only)
    deferrable = property(attrgetter("_deferrable"), set_deferrable)

    def cursor(
        self, name: str = "", *, binary: bool = False, row_factory: Any = None, **_: Any
    ) -> MemoryCursor:
        """A new cursor."""
        self.check_cursor(name)
        made: MemoryCursor = self.cursor_factory(self, row_factory or self.row_factory)
        return made

    def execute(
        self,
        query: Query,
        params: Params | None = None,
        *,
        prepare: bool | None = None,
        binary: bool = False,
    ) -> MemoryCursor:
        """Run a query in a new cursor."""
        return self.cursor().execute(query, params)

    def commit(self) -> None:
        """Commit the transaction."""
        self._end("commit", self.session.commit)

    def rollback(self) -> None:
        """Roll the transaction back."""
        self._end("rollback", self.session.rollback)

    def close(self) -> None:
        """Roll back what is open and close."""
        self._close()

    def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> MemoryTransaction:
        """A block that is a transaction, or a savepoint within one."""
        return MemoryTransaction(self, savepoint_name, force_rollback=force_rollback)

    @contextmanager
    def pipeline(self) -> Iterator[None]:
        """A block in which psycopg would send without waiting; here nothing changes."""
        yield

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._closed:
            return
        if kind is None:
            self.commit()
        else:
            self.rollback()
        self.close()


class AsyncMemoryConnection(BaseConnection):
    """`psycopg.AsyncConnection` over the emulator."""

    def __init__(self, db: Store, **options: Any) -> None:
        super().__init__(db, **options)
        self.lock = asyncio.Lock()
        self.cursor_factory: Any = AsyncMemoryCursor

    async def set_autocommit(self, value: bool) -> None:
        """Set `autocommit`; ProgrammingError within a transaction."""
        self._set_autocommit(value)

    async def set_isolation_level(self, value: psycopg.IsolationLevel | None) -> None:
        """Set `isolation_level`; ProgrammingError within a transaction."""
        self._set_isolation_level(value)

    async def set_read_only(self, value: bool | None) -> None:
        """Set `read_only`; ProgrammingError within a transaction."""
        self._set_read_only(value)

    async def set_deferrable(self, value: bool | None) -> None:
        """Set `deferrable`; ProgrammingError within a transaction."""
        self._set_deferrable(value)

    def cursor(
        self, name: str = "", *, binary: bool = False, row_factory: Any = None, **_: Any
    ) -> AsyncMemoryCursor:
        """A new cursor."""
        self.check_cursor(name)
        made: AsyncMemoryCursor = self.cursor_factory(self, row_factory or self.row_factory)
        return made

    async def execute(
        self,
        query: Query,
        params: Params | None = None,
        *,
        prepare: bool | None = None,
        binary: bool = False,
    ) -> AsyncMemoryCursor:
        """Run a query in a new cursor."""
        return await self.cursor().execute(query, params)

    async def commit(self) -> None:
        """Commit the transaction."""
        self._end("commit", self.session.commit)

    async def rollback(self) -> None:
        """Roll the transaction back."""
        self._end("rollback", self.session.rollback)

    async def close(self) -> None:
        """Roll back what is open and close."""
        self._close()

    def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> AsyncMemoryTransaction:
        """A block that is a transaction, or a savepoint within one."""
        return AsyncMemoryTransaction(self, savepoint_name, force_rollback=force_rollback)

    @asynccontextmanager
    async def pipeline(self) -> AsyncIterator[None]:
        """A block in which psycopg would send without waiting; here nothing changes."""
        yield

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._closed:
            return
        if kind is None:
            await self.commit()
        else:
            await self.rollback()
        await self.close()
