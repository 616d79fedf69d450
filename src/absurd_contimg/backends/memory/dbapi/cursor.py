"""Cursors: psycopg's, with the engine where psycopg talks to a server."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn
from weakref import ReferenceType

import psycopg
from psycopg import pq
from psycopg._cursor_base import BaseCursor
from psycopg.abc import Params, PQGen, Query

from absurd_contimg.backends.memory.dbapi.errors import not_supported
from absurd_contimg.backends.memory.dbapi.results import Transformer


class EngineCursor(BaseCursor[Any, Any]):
    """What both kinds of cursor do otherwise than psycopg's."""

    _pgconn: Any

    def _start_query(self, query: Query | None = None) -> PQGen[None]:
        if self.closed:
            raise psycopg.InterfaceError("the cursor is closed")
        self._reset()
        self._tx = Transformer.of(self.adapters, self._pgconn)
        yield from self._conn._start_query()

    @classmethod
    def _loaders_changed(cls, wself: ReferenceType[BaseCursor[Any, Any]], *_: Any) -> None:
        cursor = wself()
        if cursor is not None and cursor.pgresult is not None:
            cursor._tx.set_pgresult(cursor.pgresult)

    def _maybe_prepare_gen(
        self, pgq: Any, *, prepare: bool | None = None, binary: bool | None = None
    ) -> PQGen[None]:
        if binary or (binary is None and self.format == pq.Format.BINARY):
            raise not_supported("binary cursors")
        results = yield from self._pgconn.execute(
            pgq.query, pgq.params, pgq.types, single=bool(prepare)
        )
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
        """Run a query once for each set of parameters."""
        with self._conn.lock:
            self._conn.wait(self._run_many(query, params_seq, returning=returning))


class AsyncMemoryCursor(EngineCursor, psycopg.AsyncCursor[Any]):
    """`psycopg.AsyncCursor` over the emulator."""

    async def executemany(
        self, query: Query, params_seq: Iterable[Params], *, returning: bool = False
    ) -> None:
        """Run a query once for each set of parameters."""
        async with self._conn.lock:
            await self._conn.wait(self._run_many(query, params_seq, returning=returning))
