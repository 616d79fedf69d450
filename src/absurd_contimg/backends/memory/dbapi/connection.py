# ruff: noqa: D102 - psycopg says what each method does
"""Connections and cursors: psycopg's, sync and async, over a session of the emulated database."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from operator import is_
from typing import Any, NoReturn, TypeVar
from weakref import ReferenceType

import psycopg
from psycopg import pq
from psycopg._connection_base import BaseConnection
from psycopg._cursor_base import BaseCursor
from psycopg.abc import Buffer, Params, PQGen, PyFormat, Query
from psycopg.adapt import AdaptersMap
from psycopg.rows import tuple_row
from psycopg.types.json import _JsonDumper

from absurd_contimg.backends.memory.dbapi.pgconn import (
    MemoryPGconn,
    not_supported,
    psycopg_error,
)
from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.records import uuid
from absurd_contimg.backends.memory.session import Session
from absurd_contimg.backends.memory.values.times import EPOCH
from absurd_contimg.backends.memory.values.types import ArrayType, SqlType

Load = Callable[[Any], Any]
_BINARY, _TEXT = pq.Format.BINARY, pq.Format.TEXT
_BINARY_PARAMETER, _TEXT_PARAMETER = PyFormat.BINARY, PyFormat.TEXT
_ANY_PARAMETER = PyFormat.AUTO
_UNCHANGED = frozenset({"int2", "int4", "int8", "text", "bool", "float8"})
"""The types whose values are the same in the engine and in Python."""


class Transformer(psycopg.adapt.Transformer):  # type: ignore[misc, valid-type]  # C or Python
    """psycopg's, which adapts parameters; rows are loaded from the engine's values.

    A loader that the user has registered, and psycopg's own of a less frequent type, load the
    value's text, as they do from a server.
    """

    __slots__ = ("loads", "pgconn", "result")

    @classmethod
    def of(cls, adapters: AdaptersMap, pgconn: Any) -> Transformer:
        """The transformer of a cursor. Its context is no connection: psycopg's needs libpq's."""
        transformer = cls(adapters)
        transformer.pgconn = pgconn
        return transformer

    @classmethod
    def for_parameters(cls, adapters: AdaptersMap, pgconn: MemoryPGconn) -> Transformer:
        """That of the statement before, with its dumpers, if this one would choose the same.

        psycopg copies what a map shares with others before it changes it: what is the same object
        and not the map's own has not changed.
        """
        dumpers, by_oid, types = adapters._dumpers, adapters._dumpers_by_oid, adapters.types
        chosen_by = (
            dumpers[_TEXT_PARAMETER], dumpers[_ANY_PARAMETER], by_oid[_TEXT], types._registry,
            _JsonDumper._dumps,
        )  # fmt: skip
        kept = pgconn.kept_transformer
        if kept is not None and all(map(is_, kept[0], chosen_by)):
            known: Transformer = kept[1]
            return known
        made = cls.of(AdaptersMap(adapters), pgconn)
        pgconn.kept_transformer = chosen_by, made
        return made

    def dump_sequence(
        self, params: Sequence[Any], formats: Sequence[PyFormat]
    ) -> Sequence[Buffer | None]:
        if _BINARY_PARAMETER in formats:
            raise not_supported("binary parameters (%b)")
        try:
            texts: Sequence[Buffer | None] = super().dump_sequence(
                params, [_TEXT_PARAMETER] * len(params)
            )
            return texts
        except psycopg.ProgrammingError:
            for value, form in zip(params, formats, strict=True):  # the error names the format
                if value is not None:
                    self.get_dumper(value, form)
            raise

    def set_pgresult(self, result: Any, **_: Any) -> None:
        self.result = result
        self.loads: list[Load | None] | None = None

    def load_rows(self, row0: int, row1: int, make_row: Any) -> list[Any]:
        loads = self.loads
        if loads is None:  # most results are never fetched
            loads = self.loads = [self._load(column.kind) for column in self.result.columns]
        return [
            make_row(
                [
                    value if load is None or value is None else load(value)
                    for value, load in zip(row, loads, strict=True)
                ]
            )
            for row in self.result.rows[row0:row1]
        ]

    def load_row(self, row: int, make_row: Any) -> Any:
        """One row; None after the last one, as psycopg 3.2 asks."""
        rows = self.load_rows(row, row + 1, make_row)
        return rows[0] if rows else None

    def _load(self, kind: SqlType) -> Load | None:
        """What makes Python's value of the engine's; None where they are the same."""
        known = self.adapters.get_loader(kind.oid, _TEXT)
        is_psycopgs = known is None or known.__module__.startswith("psycopg")
        if is_psycopgs and kind.name in _UNCHANGED:
            return None
        if is_psycopgs and kind.name == "uuid":
            return uuid
        loader, session = self.get_loader(kind.oid, _TEXT), self.pgconn.session

        def from_text(value: Any) -> Any:
            return loader.load(kind.show(value, session).encode())

        if not is_psycopgs:
            return from_text
        if isinstance(kind, ArrayType):
            item = self._load(kind.element) or (lambda value: value)
            return lambda values: [None if value is None else item(value) for value in values]
        if kind.name != "timestamptz":
            return from_text
        zone = psycopg.ConnectionInfo(self.pgconn).timezone

        def timestamptz(value: int) -> Any:
            try:
                return (EPOCH + timedelta(microseconds=value)).astimezone(zone)
            except OverflowError:
                return from_text(value)  # raises psycopg's error

        return timestamptz


class EngineCursor(BaseCursor[Any, Any]):
    """What both kinds of cursor do otherwise than psycopg's."""

    _pgconn: Any

    def _start_query(self, query: Query | None = None) -> PQGen[None]:
        if self.closed:
            raise psycopg.InterfaceError("the cursor is closed")
        self._reset()
        self._tx = Transformer.for_parameters(self._adapters, self._pgconn)
        yield from self._conn._start_query()

    @classmethod
    def _loaders_changed(cls, wself: ReferenceType[BaseCursor[Any, Any]], *_: Any) -> None:
        cursor = wself()
        if cursor is not None and cursor.pgresult is not None:
            cursor._tx.set_pgresult(cursor.pgresult)

    def _maybe_prepare_gen(
        self, pgq: Any, *, prepare: bool | None = None, binary: bool | None = None
    ) -> PQGen[None]:
        if binary or (binary is None and self.format == _BINARY):
            raise not_supported("binary cursors")
        results = yield from self._pgconn.execute(
            pgq.query, pgq.params, pgq.types, single=bool(prepare)
        )
        if not self._results:  # of `executemany`, the first ones are shown
            self._tx = Transformer.of(self._adapters, self._pgconn)
        self._set_results(results)

    def _run_many(
        self, query: Query, params_seq: Iterable[Params], *, returning: bool
    ) -> PQGen[None]:
        """Run a query once for each set of parameters.

        In autocommit an error of the database undoes them all; what the caller's own iterator
        raises keeps what came before it, as in psycopg's pipeline.
        """
        session = self._pgconn.session
        together = self._conn.autocommit and session.transaction is None
        if together:
            session.begin()
        try:
            yield from self._executemany_gen_no_pipeline(query, params_seq, returning)
        except BaseException as error:
            if together and isinstance(error, Exception) and not isinstance(error, psycopg.Error):
                session.commit()
            elif together:
                session.rollback()
            raise
        if together:
            session.commit()

    def _stream_send_gen(self, *_: Any, **__: Any) -> NoReturn:
        raise not_supported("stream() (iterate over execute())")

    def _start_copy_gen(self, *_: Any, **__: Any) -> NoReturn:
        raise not_supported("COPY")


class MemoryCursor(EngineCursor, psycopg.Cursor[Any]):
    """`psycopg.Cursor` over the emulator."""

    def executemany(
        self, query: Query, params_seq: Iterable[Params], *, returning: bool = False
    ) -> None:
        with self._conn.lock:
            self._conn.wait(self._run_many(query, params_seq, returning=returning))


class AsyncMemoryCursor(EngineCursor, psycopg.AsyncCursor[Any]):
    """`psycopg.AsyncCursor` over the emulator."""

    async def executemany(
        self, query: Query, params_seq: Iterable[Params], *, returning: bool = False
    ) -> None:
        async with self._conn.lock:
            await self._conn.wait(self._run_many(query, params_seq, returning=returning))


T = TypeVar("T")


class _EngineConnection(BaseConnection[Any]):
    """What both kinds of connection do otherwise than psycopg's."""

    pgconn: Any
    _engine_cursor: type[Any]

    def __init__(
        self, session: Session, *, autocommit: bool = False, row_factory: Any = tuple_row
    ) -> None:
        super().__init__(MemoryPGconn(session))  # type: ignore[arg-type]  # what psycopg uses of it
        self.row_factory = row_factory
        self._autocommit = autocommit
        self.server_cursor_factory: Any = _refuse_server_cursor

    def __del__(self, *_: Any) -> None:
        """A forgotten connection is rolled back, as a server does when its client is gone."""
        if hasattr(self, "pgconn"):
            self.session.abandon()

    @property
    def session(self) -> Session:
        """The session of the emulated database."""
        session: Session = self.pgconn.session
        return session

    @property
    def connection(self) -> None:  # type: ignore[override]  # the context of psycopg's adapters
        """None: psycopg then adapts and quotes values without libpq's connection."""

    @property
    def cursor_factory(self) -> Any:
        """The class of new cursors; psycopg's other ones, as `ClientCursor`, are refused."""
        return self._engine_cursor

    @cursor_factory.setter
    def cursor_factory(self, factory: Any) -> None:
        if factory in (psycopg.Cursor, psycopg.AsyncCursor):
            return
        if not issubclass(factory, EngineCursor):
            raise not_supported(f"cursors of the class {factory.__name__}")
        self._engine_cursor = factory

    def _exec_command(self, command: Any, result_format: Any = None) -> PQGen[Any]:
        self._check_connection_ok()
        text = command.encode() if isinstance(command, str) else command
        (result,) = yield from self.pgconn.execute(text)
        return result

    def _should_cancel(self) -> bool:
        return False

    def pipeline(self) -> NoReturn:
        raise not_supported("pipelines")

    def notifies(self, *, timeout: float | None = None, stop_after: int | None = None) -> NoReturn:
        raise not_supported("notifications (LISTEN, NOTIFY)")

    def _check_tpc(self) -> NoReturn:
        raise not_supported("two-phase commit")


def _refuse_server_cursor(*_: Any, **__: Any) -> NoReturn:
    raise not_supported("server-side cursors (leave out the name)")


class MemoryConnection(_EngineConnection, psycopg.Connection[Any]):
    """`psycopg.Connection` over the emulator."""

    _engine_cursor = MemoryCursor

    def wait(self, gen: PQGen[T], interval: float = 0, timeout: float | None = None) -> T:
        """Run psycopg's generator; wait in this thread for the locks of others."""
        try:
            while True:
                next(gen)
                self.session.wait(self.pgconn.blocked_by)
        except StopIteration as stop:
            answer: T = stop.value
            return answer
        except EngineError as error:
            raise psycopg_error(error) from None
        finally:
            gen.close()


class AsyncMemoryConnection(_EngineConnection, psycopg.AsyncConnection[Any]):
    """`psycopg.AsyncConnection` over the emulator."""

    _engine_cursor = AsyncMemoryCursor

    async def wait(self, gen: PQGen[T], interval: float = 0, timeout: float | None = None) -> T:
        """`MemoryConnection.wait` without blocking the event loop."""
        try:
            while True:
                next(gen)
                await self.session.wait_async(self.pgconn.blocked_by)
        except StopIteration as stop:
            answer: T = stop.value
            return answer
        except EngineError as error:
            raise psycopg_error(error) from None
        finally:
            gen.close()
