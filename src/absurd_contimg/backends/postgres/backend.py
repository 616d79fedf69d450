"""`PostgresBackend`: Absurd's stored procedures, called through a pool of psycopg connections.

A thin door: every method is one transaction. Connections are checked when they are taken from
the pool, so that a restarted server is met with new ones. JSON goes in and out as jsonb, times
in UTC.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, LiteralString, NoReturn, Self, TypeVar
from uuid import UUID

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.rows import class_row, scalar_row
from psycopg.types.datetime import TimestamptzLoader
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from absurd_contimg.backends.postgres.schema import require_version, unavailable
from absurd_contimg.core.errors import (
    BackendError,
    BackendUnavailable,
    InvalidRetryStrategy,
    QueueNotFound,
    RunAlreadyFailed,
    SchemaMissing,
    TaskCancelled,
)
from absurd_contimg.core.records import (
    INFINITY,
    AwaitedEvent,
    Checkpoint,
    ClaimedTask,
    History,
    Json,
    QueuePolicy,
    QueueStats,
    Run,
    SpawnedTask,
    SpawnOptions,
    State,
    StorageMode,
    Task,
    TaskResult,
    Wait,
)

_Row = TypeVar("_Row")

_CONNECT_TIMEOUT_SECONDS = 10
_POOL_TIMEOUT_SECONDS = 15.0
"""How long a call waits for a connection before the database counts as unreachable."""
_POOL_ASKING_SECONDS = 0.5
"""How long one request to the pool waits before it is made anew."""


class PostgresBackend:
    """Absurd in a real Postgres. Use as an async context manager, or `open` and `close`.

    The pool's sizes are those of the operations guide (2 to 10). Raises what
    `absurd_contimg.core.errors` lists.
    """

    def __init__(self, url: str, *, pool_min_size: int = 2, pool_max_size: int = 10) -> None:
        self._pool: AsyncConnectionPool[AsyncConnection[Any]] = AsyncConnectionPool(
            url,
            min_size=pool_min_size,
            max_size=pool_max_size,
            open=False,
            timeout=_POOL_TIMEOUT_SECONDS,
            reconnect_timeout=0,  # give up an attempt at once: the pool tries anew when asked
            check=AsyncConnectionPool.check_connection,
            configure=_configure,
            kwargs={"autocommit": True, "connect_timeout": _CONNECT_TIMEOUT_SECONDS},
        )
        self._url = url

    async def open(self) -> Self:
        """Connect; raise `BackendUnavailable`, or `SchemaMissing` if there is no such schema."""
        try:
            # One plain connection first: its error says why, where the pool's only says "timeout".
            async with await AsyncConnection.connect(
                self._url, connect_timeout=_CONNECT_TIMEOUT_SECONDS
            ):
                pass
        except (psycopg.OperationalError, psycopg.ProgrammingError) as error:
            raise unavailable(error) from error
        await self._pool.open()
        try:
            require_version(await self.schema_version())
        except BaseException:
            await self.close()
            raise
        return self

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.close()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    # -- queues ---------------------------------------------------------------------------

    async def create_queue(
        self, queue_name: str, storage_mode: StorageMode = "unpartitioned"
    ) -> None:
        """See `Backend.create_queue`."""
        await self._call("select absurd.create_queue(%s, %s)", queue_name, storage_mode)

    async def drop_queue(self, queue_name: str) -> None:
        """See `Backend.drop_queue`."""
        await self._call("select absurd.drop_queue(%s)", queue_name)

    async def list_queues(self) -> list[str]:
        """See `Backend.list_queues`."""
        async with self._connection() as connection:
            cursor = connection.cursor(row_factory=scalar_row)
            await cursor.execute("select queue_name from absurd.list_queues() order by 1")
            return await cursor.fetchall()

    async def get_queue_policy(self, queue_name: str) -> QueuePolicy | None:
        """See `Backend.get_queue_policy`."""
        return await self._one(
            QueuePolicy,
            "select queue_name, storage_mode, default_partition, partition_lookahead,"
            " partition_lookback, cleanup_ttl, cleanup_limit, detach_mode, detach_min_age"
            " from absurd.queues where queue_name = %s",
            queue_name,
        )

    async def set_queue_policy(self, queue_name: str, policy: Mapping[str, Json]) -> None:
        """See `Backend.set_queue_policy`."""
        await self._call("select absurd.set_queue_policy(%s, %s)", queue_name, Jsonb(dict(policy)))

    # -- tasks ----------------------------------------------------------------------------

    async def spawn_task(
        self,
        queue_name: str,
        task_name: str,
        params: Json,
        options: SpawnOptions | None = None,
    ) -> SpawnedTask:
        """See `Backend.spawn_task`."""
        spawned = await self._one(
            SpawnedTask,
            "select task_id, run_id, attempt, created from absurd.spawn_task(%s, %s, %s, %s)",
            queue_name,
            task_name,
            Jsonb(params),
            Jsonb((options or SpawnOptions()).to_json()),
        )
        return _answered(spawned)

    async def claim_task(
        self, queue_name: str, worker_id: str, claim_timeout: int = 30, qty: int = 1
    ) -> list[ClaimedTask]:
        """See `Backend.claim_task`."""
        return await self._all(
            ClaimedTask,
            "select run_id, task_id, attempt, task_name, params, retry_strategy, max_attempts,"
            " headers, wake_event, event_payload from absurd.claim_task(%s, %s, %s, %s)",
            queue_name,
            worker_id,
            claim_timeout,
            qty,
        )

    async def complete_run(self, queue_name: str, run_id: UUID, state: Json = None) -> None:
        """See `Backend.complete_run`."""
        await self._call("select absurd.complete_run(%s, %s, %s)", queue_name, run_id, Jsonb(state))

    async def schedule_run(self, queue_name: str, run_id: UUID, wake_at: datetime) -> None:
        """See `Backend.schedule_run`."""
        await self._call("select absurd.schedule_run(%s, %s, %s)", queue_name, run_id, wake_at)

    async def fail_run(
        self, queue_name: str, run_id: UUID, reason: Json, retry_at: datetime | None = None
    ) -> None:
        """See `Backend.fail_run`."""
        await self._call(
            "select absurd.fail_run(%s, %s, %s, %s)", queue_name, run_id, Jsonb(reason), retry_at
        )

    async def fail_run_permanently(self, queue_name: str, run_id: UUID, reason: Json) -> None:
        """See `Backend.fail_run_permanently`."""
        lock_run = sql.SQL("select task_id from absurd.{} where run_id = %s for update").format(
            sql.Identifier(f"r_{queue_name}")
        )
        cap_attempts = sql.SQL(
            "update absurd.{} t set max_attempts = r.attempt from absurd.{} r"
            " where r.run_id = %s and t.task_id = r.task_id and r.state in ('running', 'sleeping')"
        ).format(sql.Identifier(f"t_{queue_name}"), sql.Identifier(f"r_{queue_name}"))
        async with self._connection() as connection, connection.transaction():
            await connection.execute(lock_run, (run_id,))
            await connection.execute(cap_attempts, (run_id,))
            await connection.execute(
                "select absurd.fail_run(%s, %s, %s)", (queue_name, run_id, Jsonb(reason))
            )

    async def retry_task(
        self, queue_name: str, task_id: UUID, options: Mapping[str, Json] | None = None
    ) -> SpawnedTask:
        """See `Backend.retry_task`."""
        spawned = await self._one(
            SpawnedTask,
            "select task_id, run_id, attempt, created from absurd.retry_task(%s, %s, %s)",
            queue_name,
            task_id,
            Jsonb(dict(options or {})),
        )
        return _answered(spawned)

    async def cancel_task(self, queue_name: str, task_id: UUID) -> None:
        """See `Backend.cancel_task`."""
        await self._call("select absurd.cancel_task(%s, %s)", queue_name, task_id)

    async def get_task_result(self, queue_name: str, task_id: UUID) -> TaskResult | None:
        """See `Backend.get_task_result`."""
        return await self._one(
            TaskResult,
            "select task_id, state, result, failure_reason from absurd.get_task_result(%s, %s)",
            queue_name,
            task_id,
        )

    # -- leases and checkpoints -----------------------------------------------------------

    async def extend_claim(self, queue_name: str, run_id: UUID, extend_by: int) -> None:
        """See `Backend.extend_claim`."""
        await self._call("select absurd.extend_claim(%s, %s, %s)", queue_name, run_id, extend_by)

    async def set_task_checkpoint_state(
        self,
        queue_name: str,
        task_id: UUID,
        step_name: str,
        state: Json,
        owner_run: UUID,
        extend_claim_by: int | None = None,
    ) -> None:
        """See `Backend.set_task_checkpoint_state`."""
        await self._call(
            "select absurd.set_task_checkpoint_state(%s, %s, %s, %s, %s, %s)",
            queue_name,
            task_id,
            step_name,
            Jsonb(state),
            owner_run,
            extend_claim_by,
        )

    async def get_task_checkpoint_state(
        self, queue_name: str, task_id: UUID, step_name: str, include_pending: bool = False
    ) -> Checkpoint | None:
        """See `Backend.get_task_checkpoint_state`."""
        return await self._one(
            Checkpoint,
            "select checkpoint_name, state, status, owner_run_id, updated_at"
            " from absurd.get_task_checkpoint_state(%s, %s, %s, %s)",
            queue_name,
            task_id,
            step_name,
            include_pending,
        )

    async def get_task_checkpoint_states(
        self, queue_name: str, task_id: UUID, run_id: UUID
    ) -> list[Checkpoint]:
        """See `Backend.get_task_checkpoint_states`."""
        return await self._all(
            Checkpoint,
            "select checkpoint_name, state, status, owner_run_id, updated_at"
            " from absurd.get_task_checkpoint_states(%s, %s, %s)",
            queue_name,
            task_id,
            run_id,
        )

    # -- events ---------------------------------------------------------------------------

    async def await_event(
        self,
        queue_name: str,
        task_id: UUID,
        run_id: UUID,
        step_name: str,
        event_name: str,
        timeout: int | None = None,
    ) -> AwaitedEvent:
        """See `Backend.await_event`."""
        awaited = await self._one(
            AwaitedEvent,
            "select should_suspend, payload from absurd.await_event(%s, %s, %s, %s, %s, %s)",
            queue_name,
            task_id,
            run_id,
            step_name,
            event_name,
            timeout,
        )
        return _answered(awaited)

    async def emit_event(self, queue_name: str, event_name: str, payload: Json = None) -> None:
        """See `Backend.emit_event`."""
        await self._call(
            "select absurd.emit_event(%s, %s, %s)", queue_name, event_name, Jsonb(payload)
        )

    # -- clean-up -------------------------------------------------------------------------

    async def cleanup_tasks(self, queue_name: str, ttl_seconds: int, limit: int = 1000) -> int:
        """See `Backend.cleanup_tasks`."""
        return int(
            await self._call(
                "select absurd.cleanup_tasks(%s, %s, %s)", queue_name, ttl_seconds, limit
            )
        )

    async def cleanup_events(self, queue_name: str, ttl_seconds: int, limit: int = 1000) -> int:
        """See `Backend.cleanup_events`."""
        return int(
            await self._call(
                "select absurd.cleanup_events(%s, %s, %s)", queue_name, ttl_seconds, limit
            )
        )

    # -- inspection -----------------------------------------------------------------------

    async def current_time(self) -> datetime:
        """See `Backend.current_time`."""
        now: datetime = await self._call("select absurd.current_time()")
        return now

    async def schema_version(self) -> str:
        """See `Backend.schema_version`."""
        return str(await self._call("select absurd.get_schema_version()"))

    async def queue_stats(self, queue_name: str) -> QueueStats:
        """See `Backend.queue_stats`."""
        tasks, runs = sql.Identifier(f"t_{queue_name}"), sql.Identifier(f"r_{queue_name}")
        count = sql.SQL("select state, count(*) from absurd.{} group by 1 order by 1").format(tasks)
        due = sql.SQL(
            "select count(*), extract(epoch from absurd.current_time() - min(r.available_at))"
            " from absurd.{} r join absurd.{} t using (task_id)"
            " where r.state in ('pending', 'sleeping')"
            " and t.state in ('pending', 'sleeping', 'running')"
            " and r.available_at <= absurd.current_time()"
        ).format(runs, tasks)
        expired = sql.SQL(
            "select count(*) from absurd.{}"
            " where state = 'running' and claim_expires_at <= absurd.current_time()"
        ).format(runs)
        async with self._snapshot() as connection:
            by_state = {
                state: int(number)
                for state, number in await (await connection.execute(count)).fetchall()
            }
            claimable, oldest = _answered(await (await connection.execute(due)).fetchone())
            (leases,) = _answered(await (await connection.execute(expired)).fetchone())
        return QueueStats(
            queue_name=queue_name,
            tasks_by_state=by_state,
            claimable=int(claimable),
            oldest_claimable_seconds=None if oldest is None else float(oldest),
            expired_leases=int(leases),
        )

    async def list_tasks(
        self,
        queue_name: str,
        *,
        states: Sequence[State] | None = None,
        task_name: str | None = None,
        limit: int = 100,
    ) -> list[Task]:
        """See `Backend.list_tasks`."""
        query = sql.SQL(
            "select {} from absurd.{} where (%s::text[] is null or state = any(%s))"
            " and (%s::text is null or task_name = %s) order by task_id desc limit %s"
        ).format(_columns(Task), sql.Identifier(f"t_{queue_name}"))
        wanted = None if states is None else list(states)
        return await self._all(Task, query, wanted, wanted, task_name, task_name, limit)

    async def list_runs(
        self,
        queue_name: str,
        *,
        states: Sequence[State] | None = None,
        claimed_by: str | None = None,
        limit: int = 1000,
    ) -> list[Run]:
        """See `Backend.list_runs`."""
        query = sql.SQL(
            "select {} from absurd.{} where (%s::text[] is null or state = any(%s))"
            " and (%s::text is null or claimed_by = %s) order by run_id limit %s"
        ).format(_columns(Run), sql.Identifier(f"r_{queue_name}"))
        wanted = None if states is None else list(states)
        return await self._all(Run, query, wanted, wanted, claimed_by, claimed_by, limit)

    async def history(self, queue_name: str, task_id: UUID) -> History | None:
        """See `Backend.history`."""

        def query(table: str, record: type[object], order: LiteralString) -> sql.Composed:
            return sql.SQL("select {} from absurd.{} where task_id = %s order by {}").format(
                _columns(record), sql.Identifier(f"{table}_{queue_name}"), sql.SQL(order)
            )

        async with self._snapshot() as connection:

            async def rows(record: type[_Row], table: str, order: LiteralString) -> list[_Row]:
                cursor = connection.cursor(row_factory=class_row(record))
                await cursor.execute(query(table, record, order), (task_id,))
                return await cursor.fetchall()

            tasks = await rows(Task, "t", "task_id")
            if not tasks:
                return None
            return History(
                queue_name=queue_name,
                task=tasks[0],
                runs=tuple(await rows(Run, "r", "attempt, run_id")),
                checkpoints=tuple(await rows(Checkpoint, "c", "updated_at, checkpoint_name")),
                waits=tuple(await rows(Wait, "w", "run_id, step_name")),
            )

    # -- how it is done -------------------------------------------------------------------

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection[Any]]:
        """A connection whose errors arrive as those of `core.errors`."""
        try:
            connection = await self._take()
            async with self._given_back(connection):
                yield connection
        except psycopg.Error as error:
            _translate(error)

    async def _take(self) -> AsyncConnection[Any]:
        """A connection from the pool.

        Asked for again and again: the pool tries to connect when it is asked and not while
        somebody waits, so one long wait would outlast the restart of a server by far.
        """
        clock = asyncio.get_running_loop().time
        give_up = clock() + _POOL_TIMEOUT_SECONDS
        while True:
            try:
                return await self._pool.getconn(_POOL_ASKING_SECONDS)
            except PoolTimeout as error:
                if clock() >= give_up:
                    raise BackendUnavailable(
                        f"The database gave no connection within {_POOL_TIMEOUT_SECONDS:g} s: "
                        f"{error}"
                    ) from error

    @asynccontextmanager
    async def _given_back(self, connection: AsyncConnection[Any]) -> AsyncIterator[None]:
        try:
            async with connection:  # ends its transaction, if there is one
                yield
        finally:
            await self._pool.putconn(connection)

    @asynccontextmanager
    async def _snapshot(self) -> AsyncIterator[AsyncConnection[Any]]:
        """A connection in a read-only transaction that sees one moment."""
        async with self._connection() as connection, connection.transaction():
            await connection.execute("set transaction isolation level repeatable read read only")
            yield connection

    async def _call(self, query: LiteralString, *arguments: object) -> Any:
        async with self._connection() as connection:
            row = await (await connection.execute(query, arguments)).fetchone()
            return None if row is None else row[0]

    async def _all(
        self, record: type[_Row], query: LiteralString | sql.Composed, *arguments: object
    ) -> list[_Row]:
        async with self._connection() as connection:
            cursor = connection.cursor(row_factory=class_row(record))
            await cursor.execute(query, arguments)
            return await cursor.fetchall()

    async def _one(
        self, record: type[_Row], query: LiteralString, *arguments: object
    ) -> _Row | None:
        rows = await self._all(record, query, *arguments)
        return rows[0] if rows else None


class _InfiniteTimestamptzLoader(TimestamptzLoader):
    """Reads ``infinity`` (a wait without a timeout), which psycopg's own loader refuses."""

    def load(self, data: bytes | bytearray | memoryview) -> datetime:
        if bytes(data) == b"infinity":
            return INFINITY
        return super().load(data).astimezone(UTC)


async def _configure(connection: AsyncConnection[Any]) -> None:
    connection.adapters.register_loader("timestamptz", _InfiniteTimestamptzLoader)
    await connection.execute("set time zone 'UTC'")


def _columns(record: type[object]) -> sql.Composable:
    names = record.__dataclass_fields__  # type: ignore[attr-defined]
    return sql.SQL(", ").join(sql.Identifier(name) for name in names)


def _answered(row: _Row | None) -> _Row:
    """The one row that a procedure always returns."""
    if row is None:
        raise BackendError("A procedure of Absurd returned no row where it always returns one.")
    return row


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
