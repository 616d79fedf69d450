"""``connection.transaction()``: a block that is a transaction, or a savepoint within one."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

import psycopg

from absurd_contimg.backends.memory.dbapi.results import psycopg_error
from absurd_contimg.backends.memory.errors import EngineError

if TYPE_CHECKING:
    from absurd_contimg.backends.memory.dbapi.connection import BaseConnection


class BaseTransaction:
    """What both kinds share; entering and leaving never wait."""

    def __init__(
        self, connection: BaseConnection, savepoint_name: str | None, *, force_rollback: bool
    ) -> None:
        self._conn = connection
        self.savepoint_name = savepoint_name
        self.force_rollback = force_rollback
        self._outer = False
        self._entered = False

    @property
    def connection(self) -> Any:
        """The connection."""
        return self._conn

    def _enter(self) -> None:
        if self._entered:
            raise TypeError("transaction blocks can be used only once")
        self._entered = True
        self._conn.check_open()
        session, opened = self._conn.session, self._conn.transactions_open
        self._outer = session.transaction is None
        if self.savepoint_name is None and not self._outer:
            self.savepoint_name = f"_pg3_{len(opened) + 1}"
        try:
            if self._outer:
                session.begin()
            if self.savepoint_name:
                if session.failed:
                    raise EngineError(
                        "25P02",
                        "current transaction is aborted, commands ignored until end of "
                        "transaction block",
                    )
                session.savepoint(self.savepoint_name)
        except EngineError as error:
            raise psycopg_error(error) from None
        opened.append(self)

    def _exit(self, error: BaseException | None) -> bool:
        opened = self._conn.transactions_open
        if opened and opened[-1] is self:
            opened.pop()
        elif self in opened:
            opened.remove(self)
            raise psycopg.ProgrammingError(
                "transaction commit at the wrong nesting level: another block is still open"
            )
        if self._conn.closed:
            return False
        if error is None and not self.force_rollback:
            self._commit()
            return False
        self._rollback()
        return isinstance(error, psycopg.Rollback) and (
            error.transaction is None or cast(object, error.transaction) is self
        )

    def _commit(self) -> None:
        session = self._conn.session
        if session.failed:
            self._rollback()
            raise psycopg_error(
                EngineError(
                    "25P02",
                    "current transaction is aborted, commands ignored until end of transaction "
                    "block",
                )
            )
        if self.savepoint_name and not self._outer:
            session.release_savepoint(self.savepoint_name)
        if self._outer:
            session.commit()

    def _rollback(self) -> None:
        session = self._conn.session
        if self._outer:
            session.rollback()
        elif self.savepoint_name:
            session.rollback_to_savepoint(self.savepoint_name)
            session.release_savepoint(self.savepoint_name)


class MemoryTransaction(BaseTransaction):
    """`psycopg.Transaction` over the emulator."""

    def __enter__(self) -> Self:
        self._enter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        return self._exit(error)


class AsyncMemoryTransaction(BaseTransaction):
    """`psycopg.AsyncTransaction` over the emulator."""

    async def __aenter__(self) -> Self:
        self._enter()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        return self._exit(error)
