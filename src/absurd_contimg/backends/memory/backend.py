# ruff: noqa: D102 - the protocol says what each method does
"""`MemoryBackend`: core's `Backend` protocol over the emulator.

Each method is one transaction. Nothing waits, except for a lock that a connection to the same
database holds in an open transaction; the event loop goes on meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import TypeVar, TypeVarTuple
from uuid import UUID

from absurd_contimg.backends.memory import catalog, jsonb
from absurd_contimg.backends.memory.database import MemoryDatabase
from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.procedures import checks, events, queues, runs, tasks
from absurd_contimg.backends.memory.records import (
    dumped,
    python_values,
    time_us,
    translated,
    uuid_int,
)
from absurd_contimg.backends.memory.schema import RunRow, TaskRow
from absurd_contimg.backends.memory.session import Session
from absurd_contimg.backends.memory.tables import CLAIMABLE, LIVE
from absurd_contimg.backends.memory.transaction import Transaction, WouldBlock
from absurd_contimg.backends.memory.values import times
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
    Wait,
)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


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

    async def set_queue_policy(self, queue_name: str, policy: Mapping[str, Json]) -> None:
        await self._run(queues.set_queue_policy, (queue_name, dumped(policy)))

    async def spawn_task(
        self, queue_name: str, task_name: str, params: Json, options: SpawnOptions | None = None
    ) -> SpawnedTask:
        chosen = jsonb.EMPTY if options is None else dumped(options.to_json())
        row = await self._run(tasks.spawn_task, (queue_name, task_name, dumped(params), chosen))
        return tuple.__new__(SpawnedTask, python_values(row))

    async def claim_task(
        self, queue_name: str, worker_id: str, claim_timeout: int = 30, qty: int = 1
    ) -> list[ClaimedTask]:
        rows = await self._run(runs.claim_task, (queue_name, worker_id, claim_timeout, qty))
        return [tuple.__new__(ClaimedTask, python_values(row)) for row in rows]

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
        return tuple.__new__(SpawnedTask, python_values(row))

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
        return await self._read(_queue_stats, (queue_name,))

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
        members = None if params is None else dumped(params)
        filters = (queue_name, states, task_name, id_suffix, members, limit)
        rows = await self._read(_task_rows, filters)
        return [Task(*python_values(row)) for row in rows]

    async def list_runs(
        self,
        queue_name: str,
        *,
        states: Sequence[State] | None = None,
        claimed_by: str | None = None,
        limit: int = 1000,
    ) -> list[Run]:
        rows = await self._read(_run_rows, (queue_name, states, claimed_by, limit))
        return [Run(*python_values(row)) for row in rows]

    async def histories(self, queue_name: str, task_ids: Sequence[UUID]) -> list[History]:
        keys = [uuid_int(task_id) for task_id in task_ids]
        return await self._read(_histories, (queue_name, keys))


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


def _task_rows(
    tx: Transaction,
    queue: str,
    states: Collection[str] | None,
    name: str | None,
    id_suffix: str | None,
    members: str | None,
    limit: int,
) -> list[TaskRow]:
    """The newest tasks in these states, of this name and so on; None stands for any."""
    rows = [
        row
        for row in catalog.tasks(tx, queue).scan(tx)
        if (states is None or row.state in states)
        and name in (None, row.task_name)
        and (id_suffix is None or str(UUID(int=row.task_id)).endswith(id_suffix))
        and (members is None or jsonb.contains(row.params, members))
    ]
    return sorted(rows, reverse=True)[:limit]


def _run_rows(
    tx: Transaction, queue: str, states: Collection[str] | None, worker: str | None, limit: int
) -> list[RunRow]:
    """The first runs by id in these states and of this worker; None stands for any."""
    rows = [
        row
        for row in catalog.runs(tx, queue).scan(tx)
        if (states is None or row.state in states) and worker in (None, row.claimed_by)
    ]
    return sorted(rows)[:limit]


def _queue_stats(tx: Transaction, queue: str) -> QueueStats:
    """Tasks by state, claimable runs and ended leases."""
    now = tx.session.current_time()
    table = catalog.tasks(tx, queue)
    by_state = Counter(task.state for task in table.scan(tx))
    due: list[int] = []
    expired = 0
    for run in catalog.runs(tx, queue).scan(tx):
        if run.state in CLAIMABLE and run.available_at <= now:
            task = table.get(tx, run.task_id)
            if task is not None and task.state in LIVE:
                due.append(run.available_at)
        elif run.state == "running" and run.claim_expires_at is not None:
            expired += run.claim_expires_at <= now
    oldest = (now - min(due)) / times.SECOND_US if due else None
    return QueueStats(queue, dict(by_state), len(due), oldest, expired)


def _histories(tx: Transaction, queue: str, task_ids: Sequence[int]) -> list[History]:
    """The histories of the tasks that exist."""
    histories: list[History] = []
    for task_id in task_ids:
        task = catalog.tasks(tx, queue).get(tx, task_id)
        if task is None:
            continue
        attempts = catalog.runs(tx, queue).where(tx, "task_id", task_id)
        written = catalog.checkpoints(tx, queue).where(tx, "task_id", task_id)
        waits = catalog.waits(tx, queue).where(tx, "task_id", task_id)
        attempts.sort(key=lambda run: (run.attempt, run.run_id))
        written.sort(key=lambda row: (row.updated_at, row.checkpoint_name))
        shown = [events.ShownCheckpoint(*row[1:]) for row in written]
        histories.append(
            History(
                queue,
                Task(*python_values(task)),
                tuple(Run(*python_values(run)) for run in attempts),
                tuple(Checkpoint(*python_values(row)) for row in shown),
                tuple(Wait(*python_values(wait)) for wait in sorted(waits)),
            )
        )
    return histories
