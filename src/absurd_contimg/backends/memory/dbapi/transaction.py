"""``connection.transaction()``: a block that is a transaction, or a savepoint within one."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

import psycopg
from psycopg.transaction import OutOfOrderTransactionNesting

from absurd_contimg.backends.memory.dbapi.results import psycopg_error
from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.session import in_failed_transaction

if TYPE_CHECKING:
    from absurd_contimg.backends.memory.dbapi.connection import BaseConnection

_log = logging.getLogger(__name__)


class BaseTransaction:
    """What both kinds share; entering and leaving never wait."""

    Status = psycopg.Transaction.Status

    def __init__(
        self, connection: BaseConnection, savepoint_name: str | None, *, force_rollback: bool
    ) -> None:
        self._conn = connection
        self.savepoint_name = savepoint_name or ""
        self.force_rollback = force_rollback
        self.status = self.Status.NOT_STARTED
        self._outer = False

    @property
    def connection(self) -> Any:
        """The connection."""
        return self._conn

    def __repr__(self) -> str:
        name = f"{self.savepoint_name!r} " if self.savepoint_name else ""
        return f"<{type(self).__name__} {name}({self.status.value}) of {self._conn!r}>"

    def _enter(self) -> None:
        if self.status is not self.Status.NOT_STARTED:
            raise TypeError("transaction blocks can be used only once")
        self._conn.check_open()
        self.status = self.Status.ACTIVE
        session, opened = self._conn.session, self._conn.transactions_open
        self._outer = session.transaction is None
        if not self.savepoint_name and not self._outer:
            self.savepoint_name = f"_pg3_{len(opened) + 1}"
        try:
            if self._outer:
                self._conn.begin()
            if self.savepoint_name:
                if session.failed:
                    raise in_failed_transaction()
                session.savepoint(self.savepoint_name)
        except EngineError as error:
            self.status = self.Status.ROLLED_BACK_WITH_ERROR
            raise psycopg_error(error) from None
        opened.append(self)

    def _exit(self, error: BaseException | None) -> bool:
        if self._conn.closed:
            self.status = self.Status.FAILED
            return False
        commit = error is None and not self.force_rollback
        out_of_order = self._conn.transactions_open.pop() is not self
        if commit:
            self.status = self.Status.COMMITTED
        elif self.force_rollback or isinstance(error, psycopg.Rollback):
            self.status = self.Status.ROLLED_BACK_EXPLICITLY
        else:
            self.status = self.Status.ROLLED_BACK_WITH_ERROR
        if out_of_order:
            word = "commit" if commit else "rollback"
            raise OutOfOrderTransactionNesting(
                f"transaction {word} at the wrong nesting level: {self}"
            )
        if commit:
            self._commit()
            return False
        try:
            self._rollback()
        except EngineError as failure:  # what the block raised tells more
            _log.warning("error ignored in rollback of %s: %s", self, failure)
            return False
        return isinstance(error, psycopg.Rollback) and (
            error.transaction is None or cast(object, error.transaction) is self
        )

    def _commit(self) -> None:
        session = self._conn.session
        try:
            if self._outer:
                session.commit()
            elif session.failed:
                raise in_failed_transaction()
            else:
                session.release_savepoint(self.savepoint_name)
        except EngineError as error:
            raise psycopg_error(error) from None

    def _rollback(self) -> None:
        session = self._conn.session
        if self._outer:
            session.rollback()
        else:
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
