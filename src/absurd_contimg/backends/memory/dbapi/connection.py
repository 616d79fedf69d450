"""Connections: psycopg's, sync and async, each a session of the emulated database."""

from __future__ import annotations

from typing import Any, NoReturn, TypeVar

import psycopg
from psycopg._connection_base import BaseConnection
from psycopg.abc import PQGen
from psycopg.rows import tuple_row

from absurd_contimg.backends.memory.dbapi.cursor import (
    AsyncMemoryCursor,
    EngineCursor,
    MemoryCursor,
)
from absurd_contimg.backends.memory.dbapi.errors import not_supported, psycopg_error
from absurd_contimg.backends.memory.dbapi.pgconn import MemoryPGconn
from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.session import Session

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
        """There is no socket, of which psycopg warns when it is left open."""

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
        """Never: nothing runs while somebody could cancel it."""
        return False

    def pipeline(self) -> NoReturn:
        """Not supported."""
        raise not_supported("pipelines")

    def notifies(self, *, timeout: float | None = None, stop_after: int | None = None) -> NoReturn:
        """Not supported."""
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
