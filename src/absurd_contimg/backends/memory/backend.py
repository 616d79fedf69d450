# ruff: noqa: D102 - the protocol says what each method does
"""`MemoryBackend`: core's `Backend` protocol over the emulator.

Each method is one transaction. Nothing waits, except for a lock that a connection to the same
database holds in an open transaction; the event loop goes on meanwhile.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import TypeVar, TypeVarTuple, cast
from uuid import UUID

from absurd_contimg.backends.memory import catalog, jsonb, task_reads
from absurd_contimg.backends.memory.database import MemoryDatabase
from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.procedures import checks, events, queues, runs, tasks
from absurd_contimg.backends.memory.records import (
    dumped,
    loader,
    python_values,
    time_us,
    translated,
    uuid_int,
)
from absurd_contimg.backends.memory.schema import new_row
from absurd_contimg.backends.memory.session import Session
from absurd_contimg.backends.memory.transaction import Transaction, WouldBlock
from absurd_contimg.backends.memory.values import times
from absurd_contimg.core.arguments import with_checked_arguments
from absurd_contimg.core.backend import Backend
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
)
from absurd_contimg.core.task_queries import RecentActivity, TaskFilter

_spawned_values, _claimed_values = loader(tasks.Spawned), loader(runs.Claim)
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@with_checked_arguments
class MemoryBackend(Backend):
    """Absurd in memory, for tests and simulation."""

    def __init__(self, db: MemoryDatabase) -> None:
        self.db = db
        self._session = Session(db)

    async def _run(
        self, work: Callable[[Transaction, *Ts], T], arguments: tuple[*Ts], *, noted: bool = True
    ) -> T:
        """Run one procedure as a transaction of its own, and note it in the timeline."""
        session = self._session
        try:
            while True:
                try:
                    answer = session.attempt(work, arguments)
                    break
                except WouldBlock as blocked:
                    await session.wait_async(blocked.holder)
        except EngineError as error:
            if noted:
                call = (session.clock, session.session_id, work.__name__, arguments)
                self.db.noted.append((*call, f"{error.sqlstate} {error.message}", None))
            raise translated(error) from None
        if noted:
            ended = (session.clock, session.session_id, work.__name__, arguments, "ok", answer)
            self.db.noted.append(ended)
        return answer

    def _read(self, work: Callable[[Transaction, *Ts], T], arguments: tuple[*Ts]) -> Awaitable[T]:
        """Run what changes nothing, which is not noted."""
        return self._run(work, arguments, noted=False)

    async def create_queue(
        self, queue_name: str, storage_mode: StorageMode = "unpartitioned"
    ) -> None:
        await self._run(queues.create_queue, (queue_name, storage_mode))

    async def drop_queue(self, queue_name: str) -> None:
        await self._run(queues.drop_queue, (queue_name,))

    async def list_queues(self) -> list[str]:
        return [row.queue_name for row in await self._read(queues.list_queues, ())]

    async def get_queue_policy(self, queue_name: str) -> QueuePolicy | None:
        rows = await self._read(queues.get_queue_policy, (queue_name,))
        return QueuePolicy(*python_values(rows[0])) if rows else None

    async def queue_created_at(self, queue_name: str) -> datetime | None:
        return await self._read(task_reads.queue_created_at, (queue_name,))

    async def set_queue_policy(self, queue_name: str, policy: Mapping[str, Json]) -> None:
        await self._run(queues.set_queue_policy, (queue_name, dumped(policy)))

    async def spawn_task(
        self, queue_name: str, task_name: str, params: Json, options: SpawnOptions | None = None
    ) -> SpawnedTask:
        chosen = jsonb.EMPTY if options is None else dumped(options.to_json())
        row = await self._run(tasks.spawn_task, (queue_name, task_name, dumped(params), chosen))
        return new_row(SpawnedTask, _spawned_values(row))

    async def claim_task(
        self, queue_name: str, worker_id: str, claim_timeout: int = 30, qty: int = 1
    ) -> list[ClaimedTask]:
        rows = await self._run(runs.claim_task, (queue_name, worker_id, claim_timeout, qty))
        return [new_row(ClaimedTask, _claimed_values(row)) for row in rows]

    async def complete_run(self, queue_name: str, run_id: UUID, state: Json = None) -> None:
        await self._run(runs.complete_run, (queue_name, uuid_int(run_id), dumped(state)))

    async def schedule_run(self, queue_name: str, run_id: UUID, wake_at: datetime) -> None:
        await self._run(runs.schedule_run, (queue_name, uuid_int(run_id), time_us(wake_at)))

    async def fail_run(
        self, queue_name: str, run_id: UUID, reason: Json, retry_at: datetime | None = None
    ) -> None:
        at = None if retry_at is None else time_us(retry_at)
        await self._run(runs.fail_run, (queue_name, uuid_int(run_id), dumped(reason), at))

    async def fail_run_permanently(self, queue_name: str, run_id: UUID, reason: Json) -> None:
        await self._run(fail_run_permanently, (queue_name, uuid_int(run_id), dumped(reason)))

    async def retry_task(
        self, queue_name: str, task_id: UUID, options: Mapping[str, Json] | None = None
    ) -> SpawnedTask:
        chosen = jsonb.EMPTY if options is None else dumped(options)
        row = await self._run(tasks.retry_task, (queue_name, uuid_int(task_id), chosen))
        return new_row(SpawnedTask, _spawned_values(row))

    async def retry_tasks(
        self, queue_name: str, options: Mapping[UUID, Mapping[str, Json]]
    ) -> list[SpawnedTask]:
        wanted = [(uuid_int(task_id), dumped(each)) for task_id, each in options.items()]
        rows = await self._run(_retry_tasks, (queue_name, wanted))
        return [SpawnedTask._make(python_values(row)) for row in rows]

    async def cancel_task(self, queue_name: str, task_id: UUID) -> None:
        await self._run(tasks.cancel_task, (queue_name, uuid_int(task_id)))

    async def get_task_result(self, queue_name: str, task_id: UUID) -> TaskResult | None:
        rows = await self._read(tasks.get_task_result, (queue_name, uuid_int(task_id)))
        return TaskResult(*python_values(rows[0])) if rows else None

    async def extend_claim(self, queue_name: str, run_id: UUID, extend_by: int) -> None:
        await self._run(runs.extend_claim, (queue_name, uuid_int(run_id), extend_by))

    async def set_task_checkpoint_state(
        self,
        queue_name: str,
        task_id: UUID,
        step_name: str,
        state: Json,
        owner_run: UUID,
        extend_claim_by: int | None = None,
    ) -> None:
        task, text, run = uuid_int(task_id), dumped(state), uuid_int(owner_run)
        arguments = (queue_name, task, step_name, text, run, extend_claim_by)
        await self._run(events.set_task_checkpoint_state, arguments)

    async def get_task_checkpoint_state(
        self, queue_name: str, task_id: UUID, step_name: str, include_pending: bool = False
    ) -> Checkpoint | None:
        key, read = uuid_int(task_id), events.get_task_checkpoint_state
        rows = await self._read(read, (queue_name, key, step_name, include_pending))
        return Checkpoint(*python_values(rows[0])) if rows else None

    async def get_task_checkpoint_states(
        self, queue_name: str, task_id: UUID, run_id: UUID
    ) -> list[Checkpoint]:
        task, run = uuid_int(task_id), uuid_int(run_id)
        rows = await self._read(events.get_task_checkpoint_states, (queue_name, task, run))
        return [Checkpoint(*python_values(row)) for row in rows]

    async def await_event(
        self,
        queue_name: str,
        task_id: UUID,
        run_id: UUID,
        step_name: str,
        event_name: str,
        timeout: int | None = None,
    ) -> AwaitedEvent:
        task, run = uuid_int(task_id), uuid_int(run_id)
        row = await self._run(
            events.await_event, (queue_name, task, run, step_name, event_name, timeout)
        )
        return AwaitedEvent(*python_values(row))

    async def emit_event(self, queue_name: str, event_name: str, payload: Json = None) -> None:
        await self._run(events.emit_event, (queue_name, event_name, dumped(payload)))

    async def cleanup_tasks(self, queue_name: str, ttl_seconds: int, limit: int = 1000) -> int:
        return await self._run(queues.cleanup_tasks, (queue_name, ttl_seconds, limit))

    async def cleanup_events(self, queue_name: str, ttl_seconds: int, limit: int = 1000) -> int:
        return await self._run(queues.cleanup_events, (queue_name, ttl_seconds, limit))

    async def current_time(self) -> datetime:
        return times.to_datetime(await self._read(checks.current_time, ()))

    async def schema_version(self) -> str:
        return await self._read(checks.get_schema_version, ())

    async def queue_stats(self, queue_name: str) -> QueueStats:
        return await self._read(task_reads.queue_stats, (queue_name,))

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
        return await self.find_tasks(queue_name, wanted, limit=limit)

    async def find_tasks(
        self,
        queue_name: str,
        wanted: TaskFilter,
        *,
        before: UUID | None = None,
        limit: int = 100,
    ) -> list[Task]:
        key = None if before is None else uuid_int(before)
        rows = await self._read(task_reads.task_rows, (queue_name, wanted, key, limit))
        return [Task(*python_values(row)) for row in rows]

    async def count_tasks(self, queue_name: str, wanted: TaskFilter) -> Mapping[State, int]:
        counts = await self._read(task_reads.count_tasks, (queue_name, wanted))
        return cast(Mapping[State, int], counts)

    async def recent_activity(self, queue_name: str, since: datetime) -> RecentActivity:
        return await self._read(task_reads.recent_activity, (queue_name, since))

    async def suspect_tasks(self, queue_name: str, limit: int = 100) -> list[UUID]:
        return [
            UUID(int=key) for key in await self._read(task_reads.suspect_tasks, (queue_name, limit))
        ]

    async def list_runs(
        self,
        queue_name: str,
        *,
        states: Sequence[State] | None = None,
        claimed_by: str | None = None,
        limit: int = 1000,
    ) -> list[Run]:
        rows = await self._read(task_reads.run_rows, (queue_name, states, claimed_by, limit))
        return [Run(*python_values(row)) for row in rows]

    async def histories(self, queue_name: str, task_ids: Sequence[UUID]) -> list[History]:
        keys = [uuid_int(task_id) for task_id in task_ids]
        return await self._read(task_reads.histories, (queue_name, keys))


def _retry_tasks(
    tx: Transaction, queue_name: str, wanted: Sequence[tuple[int, str]]
) -> list[tasks.Spawned]:
    """The same as one `retry_task` for each, in one transaction."""
    return [tasks.retry_task(tx, queue_name, task_id, options) for task_id, options in wanted]


def fail_run_permanently(tx: Transaction, queue_name: str, run_id: int, reason: str) -> None:
    """Leave the task no attempt after this run, then fail the run."""
    run = catalog.runs(tx, queue_name).get_for_update(tx, run_id)
    if run is not None and run.state in ("running", "sleeping"):
        table = catalog.tasks(tx, queue_name)
        task = table.get_for_update(tx, run.task_id)
        if task is not None:
            table.update(tx, task, max_attempts=run.attempt)
    runs.fail_run(tx, queue_name, run_id, reason)
