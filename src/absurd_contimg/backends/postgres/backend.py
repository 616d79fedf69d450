"""`PostgresBackend`: Absurd's stored procedures, each called in a transaction of its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import LiteralString, Self, TypeVar
from uuid import UUID

from psycopg import sql
from psycopg.types.json import Jsonb
from typing_extensions import override

from absurd_contimg.backends.postgres.columns import selected
from absurd_contimg.backends.postgres.combined_calls import CombinedCalls
from absurd_contimg.backends.postgres.connections import CONNECT_SECONDS, Connections
from absurd_contimg.backends.postgres.database_errors import READ_ONLY, TAKES_NO_CHANGES
from absurd_contimg.backends.postgres.lock_holders import explain_wait
from absurd_contimg.backends.postgres.operator_lock import operator_lock
from absurd_contimg.backends.postgres.queue_additions import ADD
from absurd_contimg.backends.postgres.queue_listener import listening
from absurd_contimg.backends.postgres.queue_sites import QueueSites
from absurd_contimg.backends.postgres.schema import (
    IS_ASIDE,
    require_version,
    require_whole_restoration,
)
from absurd_contimg.backends.postgres.synchronous_standby import MISSING, WAIT_FOR_STANDBY
from absurd_contimg.backends.postgres.task_queries import TaskQueries, table
from absurd_contimg.backends.postgres.transaction_ids import TAKE_ID
from absurd_contimg.core.arguments import with_checked_arguments
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.errors import BackendError
from absurd_contimg.core.records import (
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
from absurd_contimg.core.task_queries import RecentActivity, TaskFilter
from absurd_contimg.core.worker import Worker

_Row = TypeVar("_Row")


@with_checked_arguments
class PostgresBackend(Backend):
    """Absurd in a real Postgres. Use as an async context manager, or `open` and `close`.

    Up to `pool_max_size` connections, as many as are needed at a time; a refused one is tried again
    for `connect_seconds`. `recover` is called in a thread when the server cannot be reached. Raises
    what `absurd_contimg.core.errors` lists.
    """

    def __init__(
        self,
        url: str,
        *,
        pool_max_size: int = 10,
        recover: Callable[[], None] | None = None,
        connect_seconds: float = CONNECT_SECONDS,
    ) -> None:
        self._url = url
        self._database = Connections(url, pool_max_size, recover, connect_seconds)
        self._queries = TaskQueries(self._database)
        self.sites = QueueSites(self._database)
        """Whose the queues are."""
        self._saves = CombinedCalls(
            self._database,
            "set_task_checkpoint_state",
            ("text", "uuid", "text", "jsonb", "uuid", "integer"),
        )
        self._completions = CombinedCalls(self._database, "complete_run", ("text", "uuid", "jsonb"))
        self._loads = CombinedCalls(
            self._database,
            "get_task_checkpoint_states",
            ("text", "uuid", "uuid"),
            selected(Checkpoint),
        )

    async def open(self) -> Self:
        """Connect; raise `BackendUnavailable`, or `SchemaMissing` if there is no such schema.

        So it is, too, after a restoration that was killed.
        """
        await self._database.open()
        try:
            async with self._database.connection() as connection:
                cursor = await connection.execute(IS_ASIDE)
                ((is_aside,),) = await cursor.fetchall()
            require_whole_restoration(is_aside)
            require_version(await self.schema_version())
        except BaseException:
            await self.close()
            raise
        return self

    async def close(self) -> None:
        """Close all connections."""
        await self._database.close()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def listening(self, *workers: Worker) -> AbstractAsyncContextManager[None]:
        """Within it these workers, of different queues, claim as soon as a run is due.

        And not only when they poll. Where the trigger is missing (`contimg doctor` says so), this
        holds for runs that sleep until a time.
        """
        return listening(self._url, workers)

    async def lock_holders(self) -> str:
        """For whom calls wait, as for a lock or a standby, and what to do; empty if not known."""
        return await explain_wait(self._url)

    @override
    def operator_lock(self) -> AbstractAsyncContextManager[None]:
        return operator_lock(self._url)

    async def require_writable(self) -> None:
        """Raise `BackendError` where the database answers and takes no changes.

        It is a standby, a primary whose commits wait for a synchronous standby that is gone, or
        one whose transaction IDs are used up.
        """
        async with self._database.connection() as connection:
            query = sql.SQL("select pg_catalog.pg_is_in_recovery(), exists ({})").format(
                sql.SQL(MISSING)
            )
            ((is_standby, waits),) = await (await connection.execute(query)).fetchall()
            if is_standby or waits:
                text = READ_ONLY if is_standby else WAIT_FOR_STANDBY
                raise BackendError(text, TAKES_NO_CHANGES)
            async with connection.transaction(force_rollback=True):
                await connection.execute(TAKE_ID)

    @override
    async def current_time(self) -> datetime:
        now: datetime = await self._database.call("current_time")
        return now

    @override
    async def schema_version(self) -> str:
        return str(await self._database.call("get_schema_version"))

    @override
    async def list_queues(self) -> list[str]:
        async with self._database.connection() as connection:
            cursor = await connection.execute(
                "select queue_name from absurd.list_queues() order by 1"
            )
            return [name for (name,) in await cursor.fetchall()]

    @override
    async def get_queue_policy(self, queue_name: str) -> QueuePolicy | None:
        query = sql.SQL("select {} from absurd.queues where queue_name = %s")
        return _first(
            await self._database.rows(QueuePolicy, query.format(_columns(QueuePolicy)), queue_name)
        )

    @override
    async def queue_created_at(self, queue_name: str) -> datetime | None:
        async with self._database.connection() as connection:
            query = "select created_at from absurd.queues where queue_name = %s"
            row = await (await connection.execute(query, (queue_name,))).fetchone()
            return None if row is None else row[0]

    @override
    async def queue_stats(self, queue_name: str) -> QueueStats:
        return await self._queries.stats(queue_name)

    @override
    async def list_tasks(
        self,
        queue_name: str,
        *,
        states: Sequence[State] | None = None,
        task_name: str | None = None,
        id_suffix: str | None = None,
        params: Mapping[str, Json] | None = None,
        limit: int = 100,
    ) -> list[Task]:
        wanted = TaskFilter(states, task_name, id_suffix, params)
        return await self._queries.find(queue_name, wanted, None, limit)

    @override
    async def find_tasks(
        self,
        queue_name: str,
        wanted: TaskFilter,
        *,
        before: UUID | None = None,
        limit: int = 100,
    ) -> list[Task]:
        return await self._queries.find(queue_name, wanted, before, limit)

    @override
    async def count_tasks(self, queue_name: str, wanted: TaskFilter) -> dict[State, int]:
        return await self._queries.count(queue_name, wanted)

    @override
    async def recent_activity(self, queue_name: str, since: datetime) -> RecentActivity:
        return await self._queries.activity(queue_name, since)

    @override
    async def suspect_tasks(self, queue_name: str, limit: int = 100) -> list[UUID]:
        return await self._queries.suspects(queue_name, limit)

    @override
    async def list_runs(
        self,
        queue_name: str,
        *,
        states: Sequence[State] | None = None,
        claimed_by: str | None = None,
        limit: int = 1000,
    ) -> list[Run]:
        query = sql.SQL(
            "select {} from absurd.{} where (%s::text[] is null or state = any(%s))"
            " and (%s::text is null or claimed_by = %s) order by run_id limit %s"
        ).format(_columns(Run), table("r", queue_name))
        wanted = None if states is None else list(states)
        arguments = (wanted, wanted, claimed_by, claimed_by, limit)
        return await self._database.rows(Run, query, *arguments)

    @override
    async def histories(self, queue_name: str, task_ids: Sequence[UUID]) -> list[History]:
        async with self._database.snapshot() as connection:

            async def rows(
                record: type[_Row], kind: str, order: LiteralString
            ) -> dict[UUID, list[_Row]]:
                query = sql.SQL(
                    "select task_id, {} from absurd.{} where task_id = any(%s) order by {}"
                ).format(_columns(record), table(kind, queue_name), sql.SQL(order))
                by_task: dict[UUID, list[_Row]] = defaultdict(list)
                cursor = await connection.execute(query, (list(task_ids),))
                for task_id, *values in await cursor.fetchall():
                    by_task[task_id].append(record(*values))
                return by_task

            tasks = await rows(Task, "t", "task_id")
            runs = await rows(Run, "r", "attempt, run_id")
            checkpoints = await rows(Checkpoint, "c", "updated_at, checkpoint_name")
            waits = await rows(Wait, "w", "run_id, step_name")
        return [
            History(
                queue_name,
                task,
                tuple(runs[task_id]),
                tuple(checkpoints[task_id]),
                tuple(waits[task_id]),
            )
            for task_id in task_ids
            for task in tasks[task_id]
        ]

    @override
    async def get_task_result(self, queue_name: str, task_id: UUID) -> TaskResult | None:
        return _first(
            await self._database.rows_of(TaskResult, "get_task_result", queue_name, task_id)
        )

    @override
    async def get_task_checkpoint_state(
        self, queue_name: str, task_id: UUID, step_name: str, include_pending: bool = False
    ) -> Checkpoint | None:
        arguments = (queue_name, task_id, step_name, include_pending)
        return _first(
            await self._database.rows_of(Checkpoint, "get_task_checkpoint_state", *arguments)
        )

    @override
    async def get_task_checkpoint_states(
        self, queue_name: str, task_id: UUID, run_id: UUID
    ) -> list[Checkpoint]:
        rows = await self._loads(queue_name, task_id, run_id)
        return [Checkpoint(*row) for row in rows]

    @override
    async def create_queue(
        self, queue_name: str, storage_mode: StorageMode = "unpartitioned"
    ) -> None:
        await self._database.call("create_queue", queue_name, storage_mode)
        async with self._database.connection(changes=True) as connection:
            await connection.execute(ADD)

    @override
    async def drop_queue(self, queue_name: str) -> None:
        await self._database.call("drop_queue", queue_name)

    @override
    async def set_queue_policy(self, queue_name: str, policy: Mapping[str, Json]) -> None:
        await self._database.call("set_queue_policy", queue_name, Jsonb(dict(policy)))

    @override
    async def spawn_task(
        self, queue_name: str, task_name: str, params: Json, options: SpawnOptions | None = None
    ) -> SpawnedTask:
        chosen = Jsonb((options or SpawnOptions()).to_json())
        arguments = (queue_name, task_name, Jsonb(params), chosen)
        return await self._database.row_of(SpawnedTask, "spawn_task", *arguments)

    @override
    async def claim_task(
        self, queue_name: str, worker_id: str, claim_timeout: int = 30, qty: int = 1
    ) -> list[ClaimedTask]:
        arguments = (queue_name, worker_id, claim_timeout, qty)
        return await self._database.rows_of(ClaimedTask, "claim_task", *arguments)

    @override
    async def complete_run(self, queue_name: str, run_id: UUID, state: Json = None) -> None:
        await self._completions(queue_name, run_id, Jsonb(state))

    @override
    async def schedule_run(self, queue_name: str, run_id: UUID, wake_at: datetime) -> None:
        await self._database.call("schedule_run", queue_name, run_id, wake_at)

    @override
    async def fail_run(
        self, queue_name: str, run_id: UUID, reason: Json, retry_at: datetime | None = None
    ) -> None:
        await self._database.call("fail_run", queue_name, run_id, Jsonb(reason), retry_at)

    @override
    async def fail_run_permanently(self, queue_name: str, run_id: UUID, reason: Json) -> None:
        tables = {"tasks": table("t", queue_name), "runs": table("r", queue_name)}
        lock_run = sql.SQL("select task_id from absurd.{runs} where run_id = %s for update")
        cap_attempts = sql.SQL(
            "update absurd.{tasks} t set max_attempts = r.attempt from absurd.{runs} r"
            " where r.run_id = %s and t.task_id = r.task_id and r.state in ('running', 'sleeping')"
        )
        async with (
            self._database.connection(changes=True) as connection,
            connection.transaction(),
        ):
            await connection.execute(lock_run.format(**tables), (run_id,))
            await connection.execute(cap_attempts.format(**tables), (run_id,))
            await connection.execute(
                "select absurd.fail_run(%s, %s, %s)", (queue_name, run_id, Jsonb(reason))
            )

    @override
    async def retry_task(
        self, queue_name: str, task_id: UUID, options: Mapping[str, Json] | None = None
    ) -> SpawnedTask:
        arguments = (queue_name, task_id, Jsonb(dict(options or {})))
        return await self._database.row_of(SpawnedTask, "retry_task", *arguments)

    @override
    async def retry_tasks(
        self, queue_name: str, options: Mapping[UUID, Mapping[str, Json]]
    ) -> list[SpawnedTask]:
        query = sql.SQL(
            "select {} from unnest(%s::uuid[], %s::jsonb[]) as wanted (id, options),"
            " lateral absurd.retry_task(%s, wanted.id, wanted.options) as retried"
        ).format(_columns(SpawnedTask))
        values = [Jsonb(dict(each)) for each in options.values()]
        return await self._database.rows(SpawnedTask, query, list(options), values, queue_name)

    @override
    async def cancel_task(self, queue_name: str, task_id: UUID) -> None:
        await self._database.call("cancel_task", queue_name, task_id)

    @override
    async def extend_claim(self, queue_name: str, run_id: UUID, extend_by: int) -> None:
        await self._database.call("extend_claim", queue_name, run_id, extend_by)

    @override
    async def set_task_checkpoint_state(
        self,
        queue_name: str,
        task_id: UUID,
        step_name: str,
        state: Json,
        owner_run: UUID,
        extend_claim_by: int | None = None,
    ) -> None:
        written = (queue_name, task_id, step_name, Jsonb(state), owner_run, extend_claim_by)
        await self._saves(*written)

    @override
    async def await_event(
        self,
        queue_name: str,
        task_id: UUID,
        run_id: UUID,
        step_name: str,
        event_name: str,
        timeout: int | None = None,
    ) -> AwaitedEvent:
        arguments = (queue_name, task_id, run_id, step_name, event_name, timeout)
        return await self._database.row_of(AwaitedEvent, "await_event", *arguments)

    @override
    async def emit_event(self, queue_name: str, event_name: str, payload: Json = None) -> None:
        await self._database.call("emit_event", queue_name, event_name, Jsonb(payload))

    @override
    async def cleanup_tasks(self, queue_name: str, ttl_seconds: int, limit: int = 1000) -> int:
        return int(await self._database.call("cleanup_tasks", queue_name, ttl_seconds, limit))

    @override
    async def cleanup_events(self, queue_name: str, ttl_seconds: int, limit: int = 1000) -> int:
        return int(await self._database.call("cleanup_events", queue_name, ttl_seconds, limit))


def _columns(record: type[object]) -> sql.SQL:
    return sql.SQL(selected(record))


def _first(rows: Sequence[_Row]) -> _Row | None:
    return rows[0] if rows else None
