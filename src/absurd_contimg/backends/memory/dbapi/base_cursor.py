"""What both kinds of cursor share: running, results and fetching, without any waiting.

`BaseCursor._work` runs a query step by step and yields the transaction that it has to wait for;
the two kinds of cursor differ only in how they wait.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import Column, pq, sql
from psycopg.adapt import Transformer

from absurd_contimg.backends.memory.dbapi.params import (
    dumped,
    ordered,
    prepare,
    query_text,
)
from absurd_contimg.backends.memory.dbapi.results import (
    Load,
    MemoryResult,
    load_row,
    loaders,
    psycopg_error,
)
from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.session import TransactionStatus
from absurd_contimg.backends.memory.sql.commands import check_outside_block, is_command
from absurd_contimg.backends.memory.sql.result import Result
from absurd_contimg.backends.memory.sql.statements import (
    Statement,
    compiled,
    run_statement,
    split,
)
from absurd_contimg.backends.memory.sql.types import SqlType
from absurd_contimg.backends.memory.transaction import Transaction, WouldBlock

if TYPE_CHECKING:
    from absurd_contimg.backends.memory.dbapi.connection import BaseConnection

Query = str | bytes | sql.Composable
Params = Sequence[Any] | Mapping[str, Any]
Waits = Generator[Transaction, None, None]


_WITH_ROWS = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.SINGLE_TUPLE)


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
        self._tag: str | None = None

    # -- what can be asked ------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether the cursor was closed."""
        return self._closed

    @property
    def description(self) -> list[Column] | None:
        """The columns of the result, None if it has none."""
        result = self.pgresult
        if result is None or result.status not in _WITH_ROWS:
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
        if self.pgresult is None:
            return self._tag
        return self.pgresult.command_status.decode() or None

    def __repr__(self) -> str:
        status = "closed" if self._closed else "no result"
        if self.pgresult is not None:
            status = self.pgresult.status.name
        return f"<{type(self).__name__} [{status}] of {self._conn!r}>"

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

    def _work(self, query: Query, params: Params | None, *, single: bool = False) -> Waits:
        """Run all statements of a query; yields what has to be waited for.

        There may be several only without parameters and if not `single`.
        """
        self._check_open()
        self._reset()
        self._conn.before_statement()
        text = query_text(query, self._context)
        types: tuple[SqlType, ...] = ()
        texts: list[str | None] = []
        values: Sequence[Any] = ()
        if params is not None:
            prepared = prepare(text)
            values = ordered(prepared, params)
            text = prepared.text
            if values:
                types, texts = dumped(values, prepared.formats, Transformer(self._context))
        session = self._conn.session
        try:
            statements = split(text)
            if values and statements and is_command(statements[0]):
                raise EngineError("42601", f"syntax error, no parameters are taken by: {text}")
            if len(statements) > 1 and (params or single):
                raise EngineError(
                    "42601", "cannot insert multiple commands into a prepared statement"
                )
            yield from self._run_all(statements, types, texts)
        except EngineError as error:
            session.fail()
            raise psycopg_error(error) from None
        if self._results:
            self._select(0)

    def _work_many(self, query: Query, params_seq: Iterable[Params], *, returning: bool) -> Waits:
        """Run a query once for each set of parameters.

        In autocommit an error of the database undoes them all; what the caller's own iterator
        raises leaves what came before it, as in psycopg's pipeline.
        """
        self._check_open()
        self._reset()
        self._conn.before_statement()
        session = self._conn.session
        together = session.transaction is None
        count, kept, tag = 0, list[Result](), None
        if together:
            session.begin()
        try:
            for params in params_seq:
                yield from self._work(query, params, single=True)
                count, tag = count + max(self.rowcount, 0), self.statusmessage
                kept.extend(self._results)
        except BaseException as error:
            self._reset()
            self._count, self._tag = count, tag
            if together:
                own = isinstance(error, Exception) and getattr(error, "sqlstate", None) is None
                if own:
                    session.commit()
                else:
                    session.rollback()
            raise
        if together:
            session.commit()
        self._reset()
        if not returning:
            self._count, self._tag = count, tag
        elif kept:
            self._results = kept
            self._select(0)

    def _work_stream(self, query: Query, params: Params | None, size: int) -> Waits:
        """Run a query whose rows are to be given one by one."""
        if size < 1:
            raise ValueError("size must be >= 1")
        yield from self._work(query, params, single=True)
        if self.pgresult is None or self.pgresult.status is not pq.ExecStatus.TUPLES_OK:
            raise psycopg.ProgrammingError("the operation in stream() didn't produce a result")

    def _streamed(self) -> Iterator[Any]:
        result = self.pgresult
        assert result is not None
        rows, load, make = self._results[self._index].rows, self._load, self._make
        result.stream()
        for row in rows:
            yield make(load_row(row, load))

    def _run_all(
        self, texts: tuple[str, ...], types: tuple[SqlType, ...], params: list[str | None]
    ) -> Waits:
        session = self._conn.session
        together = len(texts) > 1 and session.transaction is None
        if together:
            session.begin()
        try:
            for text in texts:
                statement = self._compiled(text, types)
                if together and statement.control is not None:
                    check_outside_block(text)
                    together = False
                yield from self._run(statement, params)
        except BaseException:
            if together:
                session.rollback()
            raise
        if together:
            session.commit()
        if not texts:
            self._results.append(Result(None, [], "", empty=True))

    def _compiled(self, text: str, types: tuple[SqlType, ...]) -> Statement:
        session = self._conn.session
        if session.status is TransactionStatus.FAILED:
            statement = compiled(text, types) if is_command(text) else None
            if statement is None or statement.control is None:
                raise EngineError(
                    "25P02",
                    "current transaction is aborted, commands ignored until end of transaction "
                    "block",
                )
            return statement
        return compiled(text, types)

    def _run(self, statement: Statement, params: list[str | None]) -> Waits:
        session = self._conn.session
        if statement.control is not None:
            self._results.append(statement.control(session))
            return
        work = run_statement(statement, params)
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

    def _set_result(self, index: int) -> None:
        count = len(self._results)
        if not -count <= index < count:
            raise IndexError(f"index {index} out of range: {count} result(s) available")
        self._select(index % count)

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
            name = result.status.name
            detail = f" (command status: {status})" if status else f" (result status: {name})"
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
