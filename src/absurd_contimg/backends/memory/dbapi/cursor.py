"""Cursors: psycopg's, sync and async, on one piece of logic without waiting.

`_Cursor._work` runs a query step by step and yields the transaction that it has to wait for; the
two kinds of cursor differ only in how they wait.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import psycopg
from psycopg import Column, pq, sql
from psycopg.adapt import Transformer

from absurd_contimg.backends.memory.dbapi.params import (
    dumped,
    ordered,
    prepare,
    query_text,
    read,
)
from absurd_contimg.backends.memory.dbapi.results import (
    Load,
    MemoryResult,
    load_row,
    loaders,
    psycopg_error,
)
from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.locks import WouldBlock
from absurd_contimg.backends.memory.session import TransactionStatus
from absurd_contimg.backends.memory.sql.statements import (
    Result,
    Statement,
    compiled,
    run_statement,
    split,
)
from absurd_contimg.backends.memory.sql.types import SqlType
from absurd_contimg.backends.memory.transaction import Transaction

if TYPE_CHECKING:
    from absurd_contimg.backends.memory.dbapi.connection import BaseConnection

Query = str | bytes | sql.Composable
Params = Sequence[Any] | Mapping[str, Any]
Waits = Generator[Transaction, None, None]


class _Context:
    """What psycopg's adapters ask of a connection; they need no more than the adapters."""

    connection = None

    def __init__(self, adapters: Any) -> None:
        self.adapters = adapters


class BaseCursor:
    """What both kinds of cursor share."""

    def __init__(self, connection: BaseConnection, row_factory: Any) -> None:
        self._conn = connection
        self._row_factory = row_factory
        self.adapters = connection.adapters
        self._context = _Context(self.adapters)
        self.arraysize = 1
        self.format = pq.Format.TEXT
        self._encoding = "utf-8"
        self._closed = False
        self._reset()

    def _reset(self) -> None:
        self._results: list[Result] = []
        self._index = 0
        self._position = 0
        self.pgresult: MemoryResult | None = None
        self._load: list[Load | None] = []
        self._make: Any = None
        self._count: int | None = None

    # -- what can be asked ------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether the cursor was closed."""
        return self._closed

    @property
    def description(self) -> list[Column] | None:
        """The columns of the result, None if it has none."""
        result = self.pgresult
        if result is None or result.status is not pq.ExecStatus.TUPLES_OK:
            return None
        return [Column(self, index) for index in range(result.nfields)]  # type: ignore[arg-type]

    @property
    def rowcount(self) -> int:
        """How many rows the last statement gave or changed; -1 if that makes no sense."""
        if self._count is not None:
            return self._count
        if self.pgresult is None or self.pgresult.command_tuples is None:
            return -1
        return self.pgresult.command_tuples

    @property
    def rownumber(self) -> int | None:
        """Index of the next row to fetch, None without a result."""
        result = self.pgresult
        return self._position if result and result.status is pq.ExecStatus.TUPLES_OK else None

    @property
    def statusmessage(self) -> str | None:
        """The command tag."""
        return None if self.pgresult is None else self.pgresult.command_status.decode() or None

    @property
    def row_factory(self) -> Any:
        """What makes rows."""
        return self._row_factory

    @row_factory.setter
    def row_factory(self, factory: Any) -> None:
        self._row_factory = factory
        if self.pgresult is not None:
            self._make = factory(self)

    def setinputsizes(self, sizes: Sequence[Any]) -> None:
        """DB-API: no effect."""

    def setoutputsize(self, size: Any, column: int | None = None) -> None:
        """DB-API: no effect."""

    # -- running ----------------------------------------------------------------------------

    def _work(self, query: Query, params: Params | None) -> Waits:
        """Run all statements of a query; yields what has to be waited for."""
        self._check_open()
        self._reset()
        text = query_text(query, self._context)
        types: tuple[SqlType, ...] = ()
        texts: list[str | None] = []
        if params is not None:
            prepared = prepare(text)
            values = ordered(prepared, params)
            text = prepared.text
            if values:
                types, texts = dumped(values, Transformer(self._context))
        session = self._conn.session
        try:
            statements = split(text)
            if len(statements) > 1 and params:
                raise EngineError(
                    "42601", "cannot insert multiple commands into a prepared statement"
                )
            yield from self._run_all(statements, types, texts)
        except EngineError as error:
            session.fail()
            raise psycopg_error(error) from None
        if self._results:
            self._select(0)

    def _run_all(
        self, texts: tuple[str, ...], types: tuple[SqlType, ...], params: list[str | None]
    ) -> Waits:
        session = self._conn.session
        self._conn.before_statement()
        together = len(texts) > 1 and session.transaction is None
        if together:
            session.begin()
        try:
            for text in texts:
                statement = self._compiled(text, types)
                if together and statement.control is not None:
                    together = False
                yield from self._run(statement, types, params)
        except BaseException:
            if together:
                session.rollback()
            raise
        if together:
            session.commit()
        if not texts:
            self._results.append(Result(None, [], ""))

    def _compiled(self, text: str, types: tuple[SqlType, ...]) -> Statement:
        session = self._conn.session
        if session.status is TransactionStatus.FAILED:
            statement = compiled(text, types) if _is_control(text) else None
            if statement is None or statement.control is None:
                raise EngineError(
                    "25P02",
                    "current transaction is aborted, commands ignored until end of transaction "
                    "block",
                )
            return statement
        return compiled(text, types)

    def _run(
        self, statement: Statement, types: tuple[SqlType, ...], params: list[str | None]
    ) -> Waits:
        session = self._conn.session
        if statement.control is not None:
            self._results.append(statement.control(session))
            return
        values = read(types, params, session) if params else []
        work = run_statement(statement, values)
        while True:
            try:
                with session.db.mutex:
                    self._results.append(session.attempt(work))
            except WouldBlock as blocked:
                yield blocked.holder
            else:
                return

    def _select(self, index: int) -> None:
        """Make one of the results the current one."""
        result = self._results[index]
        self._index, self._position = index, 0
        session = self._conn.session
        self.pgresult = MemoryResult(result, session)
        if result.columns is not None:
            kinds = [column.kind for column in result.columns]
            self._load = loaders(kinds, self.adapters, session, self._context)
        self._make = self._row_factory(self)

    def nextset(self) -> bool | None:
        """Move to the next statement's result; None if there is none."""
        if self._index + 1 >= len(self._results):
            return None
        self._select(self._index + 1)
        return True

    def _check_open(self) -> None:
        if self._closed:
            raise psycopg.InterfaceError("the cursor is closed")
        self._conn.check_open()

    # -- fetching ---------------------------------------------------------------------------

    def _rows(self) -> list[Any]:
        if self._closed:
            raise psycopg.InterfaceError("the cursor is closed")
        result = self.pgresult
        if result is None:
            raise psycopg.ProgrammingError("no result available")
        if result.status is not pq.ExecStatus.TUPLES_OK:
            status = result.command_status.decode()
            detail = f" (command status: {status})" if status else " (result status: COMMAND_OK)"
            raise psycopg.ProgrammingError(f"the last operation didn't produce records{detail}")
        return self._results[self._index].rows

    def _one(self) -> Any:
        rows = self._rows()
        if self._position >= len(rows):
            return None
        row = load_row(rows[self._position], self._load)
        self._position += 1
        return self._make(row)

    def _many(self, size: int) -> list[Any]:
        rows = self._rows()[self._position : self._position + (size or self.arraysize)]
        loaded = [self._make(load_row(row, self._load)) for row in rows]
        self._position += len(rows)
        return loaded

    def _all(self) -> list[Any]:
        rows = self._rows()[self._position :]
        loaded = [self._make(load_row(row, self._load)) for row in rows]
        self._position += len(rows)
        return loaded

    def _scroll(self, value: int, mode: str) -> None:
        rows = self._rows()
        if mode not in ("relative", "absolute"):
            raise ValueError(f"bad mode: {mode}. It should be 'relative' or 'absolute'")
        position = value + (self._position if mode == "relative" else 0)
        if not 0 <= position < len(rows):
            raise IndexError("position out of bound")
        self._position = position

    def _close(self) -> None:
        self._reset()
        self._closed = True

    def _collect(self, total: int, kept: list[Result], *, returning: bool) -> int:
        """Account for one round of ``executemany``."""
        if returning:
            kept.extend(self._results)
        return total + max(self.rowcount, 0)

    def _collected(self, total: int, kept: list[Result], *, returning: bool) -> None:
        if returning and kept:
            self._results = kept
            self._select(0)
        else:
            self._count = total


def _is_control(text: str) -> bool:
    word = text.lstrip().split(None, 1)[0].lower().rstrip(";") if text.strip() else ""
    words = ("commit", "end", "rollback", "abort", "savepoint", "release", "begin", "start")
    return word in words


class MemoryCursor(BaseCursor):
    """`psycopg.Cursor` over the emulator."""

    @property
    def connection(self) -> Any:
        """The connection."""
        return self._conn

    def execute(
        self,
        query: Query,
        params: Params | None = None,
        *,
        prepare: bool | None = None,
        binary: bool | None = None,
    ) -> Self:
        """Run a query; returns the cursor."""
        with self._conn.lock:
            for holder in self._work(query, params):
                self._wait(holder)
        return self

    def _wait(self, holder: Transaction) -> None:
        try:
            self._conn.session.wait(holder)
        except EngineError as error:
            raise psycopg_error(error) from None

    def executemany(
        self, query: Query, params_seq: Iterable[Params], *, returning: bool = False
    ) -> None:
        """Run a query once for each set of parameters."""
        total, kept = 0, list[Result]()
        for params in params_seq:
            self.execute(query, params)
            total = self._collect(total, kept, returning=returning)
        self._collected(total, kept, returning=returning)

    def stream(
        self,
        query: Query,
        params: Params | None = None,
        *,
        binary: bool | None = None,
        size: int = 1,
    ) -> Iterator[Any]:
        """Run a query and give its rows one by one."""
        self.execute(query, params)
        yield from self

    def fetchone(self) -> Any:
        """The next row, None at the end."""
        return self._one()

    def fetchmany(self, size: int = 0) -> list[Any]:
        """The next `size` rows, by default `arraysize`."""
        return self._many(size)

    def fetchall(self) -> list[Any]:
        """The rest of the rows."""
        return self._all()

    def scroll(self, value: int, mode: str = "relative") -> None:
        """Move in the result; IndexError outside it."""
        self._scroll(value, mode)

    def results(self) -> Iterator[Self]:
        """The cursor at each of its results in turn."""
        if self._results:
            yield self
            while self.nextset():
                yield self

    def copy(self, statement: Query, params: Params | None = None) -> Any:
        """Not supported."""
        raise psycopg.NotSupportedError(f"the in-memory Absurd has no COPY: {statement!r}")

    def close(self) -> None:
        """Close the cursor."""
        self._close()

    def __iter__(self) -> Iterator[Any]:
        self._rows()
        while self._position < len(self._rows()):
            yield self._one()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class AsyncMemoryCursor(BaseCursor):
    """`psycopg.AsyncCursor` over the emulator."""

    @property
    def connection(self) -> Any:
        """The connection."""
        return self._conn

    async def execute(
        self,
        query: Query,
        params: Params | None = None,
        *,
        prepare: bool | None = None,
        binary: bool | None = None,
    ) -> Self:
        """Run a query; returns the cursor."""
        async with self._conn.lock:
            for holder in self._work(query, params):
                await self._wait(holder)
        return self

    async def _wait(self, holder: Transaction) -> None:
        try:
            await self._conn.session.wait_async(holder)
        except EngineError as error:
            raise psycopg_error(error) from None

    async def executemany(
        self, query: Query, params_seq: Iterable[Params], *, returning: bool = False
    ) -> None:
        """Run a query once for each set of parameters."""
        total, kept = 0, list[Result]()
        for params in params_seq:
            await self.execute(query, params)
            total = self._collect(total, kept, returning=returning)
        self._collected(total, kept, returning=returning)

    async def stream(
        self,
        query: Query,
        params: Params | None = None,
        *,
        binary: bool | None = None,
        size: int = 1,
    ) -> AsyncIterator[Any]:
        """Run a query and give its rows one by one."""
        await self.execute(query, params)
        async for row in self:
            yield row

    async def fetchone(self) -> Any:
        """The next row, None at the end."""
        return self._one()

    async def fetchmany(self, size: int = 0) -> list[Any]:
        """The next `size` rows, by default `arraysize`."""
        return self._many(size)

    async def fetchall(self) -> list[Any]:
        """The rest of the rows."""
        return self._all()

    async def scroll(self, value: int, mode: str = "relative") -> None:
        """Move in the result; IndexError outside it."""
        self._scroll(value, mode)

    def copy(self, statement: Query, params: Params | None = None) -> Any:
        """Not supported."""
        raise psycopg.NotSupportedError(f"the in-memory Absurd has no COPY: {statement!r}")

    async def close(self) -> None:
        """Close the cursor."""
        self._close()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._iterate()

    async def _iterate(self) -> AsyncIterator[Any]:
        self._rows()
        while self._position < len(self._rows()):
            yield self._one()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
