"""Cursors: psycopg's, sync and async."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from types import TracebackType
from typing import Any, Self

import psycopg

from absurd_contimg.backends.memory.dbapi.base_cursor import BaseCursor, Params, Query
from absurd_contimg.backends.memory.dbapi.results import psycopg_error
from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.transaction import Transaction


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
        with self._conn.lock:
            for holder in self._work_many(query, params_seq, returning=returning):
                self._wait(holder)

    def stream(
        self,
        query: Query,
        params: Params | None = None,
        *,
        binary: bool | None = None,
        size: int = 1,
    ) -> Iterator[Any]:
        """Run a query and give its rows one by one."""
        with self._conn.lock:
            for holder in self._work_stream(query, params, size):
                self._wait(holder)
        yield from self._streamed()

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

    def set_result(self, index: int) -> Self:
        """The cursor at one of its results; a negative `index` counts from the end."""
        self._set_result(index)
        return self

    def copy(self, statement: Query, params: Params | None = None) -> Any:
        """Not supported."""
        raise psycopg.NotSupportedError(f"the in-memory Absurd has no COPY: {statement!r}")

    def close(self) -> None:
        """Close the cursor."""
        self._close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        if self._position >= len(self._rows()):
            raise StopIteration("no more records to return")
        return self._one()

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
        async with self._conn.lock:
            for holder in self._work_many(query, params_seq, returning=returning):
                await self._wait(holder)

    async def stream(
        self,
        query: Query,
        params: Params | None = None,
        *,
        binary: bool | None = None,
        size: int = 1,
    ) -> AsyncIterator[Any]:
        """Run a query and give its rows one by one."""
        async with self._conn.lock:
            for holder in self._work_stream(query, params, size):
                await self._wait(holder)
        for row in self._streamed():
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

    async def results(self) -> AsyncIterator[Self]:
        """The cursor at each of its results in turn."""
        if self._results:
            yield self
            while self.nextset():
                yield self

    async def set_result(self, index: int) -> Self:
        """The cursor at one of its results; a negative `index` counts from the end."""
        self._set_result(index)
        return self

    def copy(self, statement: Query, params: Params | None = None) -> Any:
        """Not supported."""
        raise psycopg.NotSupportedError(f"the in-memory Absurd has no COPY: {statement!r}")

    async def close(self) -> None:
        """Close the cursor."""
        self._close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        if self._position >= len(self._rows()):
            raise StopAsyncIteration("no more records to return")
        return self._one()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
