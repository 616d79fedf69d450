"""`PostgresBackend`: Absurd's stored procedures, each called in a transaction of its own."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import TracebackType
from typing import Self
from uuid import UUID

from psycopg import sql
from psycopg.types.json import Jsonb
from typing_extensions import override

from absurd_contimg.backends.postgres.connections import Connections
from absurd_contimg.backends.postgres.inspection import PostgresInspection, table
from absurd_contimg.backends.postgres.schema import require_version
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.records import (
    AwaitedEvent,
    ClaimedTask,
    Json,
    SpawnedTask,
    SpawnOptions,
    StorageMode,
)


class PostgresBackend(PostgresInspection, Backend):
    """Absurd in a real Postgres. Use as an async context manager, or `open` and `close`.

    The pool's sizes are those of the operations guide (2 to 10). Raises what
    `absurd_contimg.core.errors` lists.
    """

    def __init__(self, url: str, *, pool_min_size: int = 2, pool_max_size: int = 10) -> None:
        super().__init__(Connections(url, pool_min_size, pool_max_size))

    async def open(self) -> Self:
        """Connect; raise `BackendUnavailable`, or `SchemaMissing` if there is no such schema."""
        await self._database.open()
        try:
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

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    # -- queues ---------------------------------------------------------------------------

    @override
    async def create_queue(
        self, queue_name: str, storage_mode: StorageMode = "unpartitioned"
    ) -> None:
        await self._database.call("create_queue", queue_name, storage_mode)

    @override
    async def drop_queue(self, queue_name: str) -> None:
        await self._database.call("drop_queue", queue_name)

    @override
    async def set_queue_policy(self, queue_name: str, policy: Mapping[str, Json]) -> None:
        await self._database.call("set_queue_policy", queue_name, Jsonb(dict(policy)))

    # -- tasks and runs -------------------------------------------------------------------

    @override
    async def spawn_task(
        self,
        queue_name: str,
        task_name: str,
        params: Json,
        options: SpawnOptions | None = None,
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
        await self._database.call("complete_run", queue_name, run_id, Jsonb(state))

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
        async with self._database.connection() as connection, connection.transaction():
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
    async def cancel_task(self, queue_name: str, task_id: UUID) -> None:
        await self._database.call("cancel_task", queue_name, task_id)

    @override
    async def extend_claim(self, queue_name: str, run_id: UUID, extend_by: int) -> None:
        await self._database.call("extend_claim", queue_name, run_id, extend_by)

    # -- checkpoints and events -----------------------------------------------------------

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
        arguments = (queue_name, task_id, step_name, Jsonb(state), owner_run, extend_claim_by)
        await self._database.call("set_task_checkpoint_state", *arguments)

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

    # -- clean-up -------------------------------------------------------------------------

    @override
    async def cleanup_tasks(self, queue_name: str, ttl_seconds: int, limit: int = 1000) -> int:
        return int(await self._database.call("cleanup_tasks", queue_name, ttl_seconds, limit))

    @override
    async def cleanup_events(self, queue_name: str, ttl_seconds: int, limit: int = 1000) -> int:
        return int(await self._database.call("cleanup_events", queue_name, ttl_seconds, limit))
