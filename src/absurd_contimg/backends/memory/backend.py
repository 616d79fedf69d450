"""`MemoryBackend`: core's `Backend` protocol over the emulator.

Each method is one transaction. Nothing waits, except for a lock that a connection to the same
database holds in an open transaction; the event loop goes on meanwhile.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, TypeVar, TypeVarTuple, cast
from uuid import UUID

from absurd_contimg.backends.memory import catalog, jsonb
from absurd_contimg.backends.memory.database import MemoryDatabase
from absurd_contimg.backends.memory.errors import EngineError, raise_exception
from absurd_contimg.backends.memory.procedures import (
    cancellation,
    checkpoints,
    cleanup,
    events,
    queues,
    runs,
    tasks,
)
from absurd_contimg.backends.memory.records import (
    checkpoint_of,
    claimed_task,
    delta_of,
    dumped,
    loaded,
    run_of,
    spawned_task,
    task_of,
    time_of,
    time_us,
    translated,
    uuid_int,
)
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
SCHEMA_VERSION = "0.5.1"


class MemoryBackend(Backend):
    """Absurd in memory, for tests and simulation."""

    def __init__(self, db: MemoryDatabase) -> None:
        self.db = db
        self._session = Session(db)

    async def _run(self, name: str, work: Callable[[Transaction, *Ts], T], *arguments: *Ts) -> T:
        """Run one procedure as a transaction of its own, and note it in the timeline."""
        session, db, mutex = self._session, self.db, self.db.mutex
        try:
            while True:
                try:
                    mutex.acquire()  # half the time of `with`
                    try:
                        answer = session.attempt(work, *arguments)
                        break
                    finally:
                        mutex.release()
                except WouldBlock as blocked:
                    await session.wait_async(blocked.holder)
        except EngineError as error:
            if name:
                outcome = f"{error.sqlstate} {error.message}"
                db.noted.append((session.clock, session.session_id, name, arguments, outcome, None))
            raise translated(error) from None
        if name:
            db.noted.append((session.clock, session.session_id, name, arguments, "ok", answer))
        return answer

    def _read(self, work: Callable[[Transaction, *Ts], T], *arguments: *Ts) -> Awaitable[T]:
        """The same for what only reads, which is not noted."""
        return self._run("", work, *arguments)

    # -- queues -----------------------------------------------------------------------------

    async def create_queue(
        self, queue_name: str, storage_mode: StorageMode = "unpartitioned"
    ) -> None:
        """See `Backend.create_queue`."""
        await self._run("create_queue", queues.create_queue, queue_name, storage_mode)

    async def drop_queue(self, queue_name: str) -> None:
        """See `Backend.drop_queue`."""
        await self._run("drop_queue", queues.drop_queue, queue_name)

    async def list_queues(self) -> list[str]:
        """See `Backend.list_queues`."""
        return await self._read(queues.list_queues)

    async def get_queue_policy(self, queue_name: str) -> QueuePolicy | None:
        """See `Backend.get_queue_policy`."""
        found = await self._read(queues.get_queue_policy, queue_name)
        if not found:
            return None
        values = [delta_of(value) if type(value) is times.Interval else value for value in found[0]]
        return QueuePolicy(*cast(list[Any], values))

    async def set_queue_policy(self, queue_name: str, policy: Mapping[str, Json]) -> None:
        """See `Backend.set_queue_policy`."""
        text = dumped(policy)
        await self._run("set_queue_policy", queues.set_queue_policy, queue_name, text)

    # -- tasks ------------------------------------------------------------------------------

    async def spawn_task(
        self,
        queue_name: str,
        task_name: str,
        params: Json,
        options: SpawnOptions | None = None,
    ) -> SpawnedTask:
        """See `Backend.spawn_task`."""
        text = dumped(params)
        chosen = jsonb.EMPTY if options is None else dumped(options.to_json())
        answer = await self._run(
            "spawn_task", tasks.spawn_task, queue_name, task_name, text, chosen
        )
        return spawned_task(answer)

    async def claim_task(
        self, queue_name: str, worker_id: str, claim_timeout: int = 30, qty: int = 1
    ) -> list[ClaimedTask]:
        """See `Backend.claim_task`."""
        found = await self._run(
            "claim_task", runs.claim_task, queue_name, worker_id, claim_timeout, qty
        )
        return [claimed_task(row) for row in found]

    async def complete_run(self, queue_name: str, run_id: UUID, state: Json = None) -> None:
        """See `Backend.complete_run`."""
        key, text = uuid_int(run_id), dumped(state)
        await self._run("complete_run", runs.complete_run, queue_name, key, text)

    async def schedule_run(self, queue_name: str, run_id: UUID, wake_at: datetime) -> None:
        """See `Backend.schedule_run`."""
        key, moment = uuid_int(run_id), time_us(wake_at)
        await self._run(
            "schedule_run",
            lambda tx, *_: runs.schedule_run(tx, queue_name, key, moment),
            queue_name,
            key,
            wake_at,
        )

    async def fail_run(
        self, queue_name: str, run_id: UUID, reason: Json, retry_at: datetime | None = None
    ) -> None:
        """See `Backend.fail_run`."""
        key, text = uuid_int(run_id), dumped(reason)
        moment = None if retry_at is None else time_us(retry_at)
        await self._run(
            "fail_run",
            lambda tx, *_: runs.fail_run(tx, queue_name, key, text, moment),
            queue_name,
            key,
            text,
            retry_at,
        )

    async def fail_run_permanently(self, queue_name: str, run_id: UUID, reason: Json) -> None:
        """See `Backend.fail_run_permanently`."""
        key, text = uuid_int(run_id), dumped(reason)

        def work(tx: Transaction, *_: object) -> None:
            run_table = catalog.runs(tx, queue_name)
            run = runs.locked_run(tx, run_table, key)
            if run is None:
                raise_exception(f'Run "{run_id}" cannot be failed in queue "{queue_name}"')
            task_table = catalog.tasks(tx, queue_name)
            task = task_table.get(tx, run.task_id)
            if task is not None and run.state in ("running", "sleeping"):
                task_table.lock(tx, task.task_id)
                task_table.put(tx, task.task_id, task._replace(max_attempts=run.attempt))
            runs.fail_run(tx, queue_name, key, text)

        await self._run("fail_run_permanently", work, queue_name, key, text)

    async def retry_task(
        self, queue_name: str, task_id: UUID, options: Mapping[str, Json] | None = None
    ) -> SpawnedTask:
        """See `Backend.retry_task`."""
        key, text = uuid_int(task_id), jsonb.EMPTY if options is None else dumped(options)
        answer = await self._run("retry_task", tasks.retry_task, queue_name, key, text)
        return spawned_task(answer)

    async def cancel_task(self, queue_name: str, task_id: UUID) -> None:
        """See `Backend.cancel_task`."""
        key = uuid_int(task_id)
        await self._run("cancel_task", cancellation.cancel_task, queue_name, key)

    async def get_task_result(self, queue_name: str, task_id: UUID) -> TaskResult | None:
        """See `Backend.get_task_result`."""
        key = uuid_int(task_id)
        found = await self._read(cleanup.get_task_result, queue_name, key)
        if not found:
            return None
        _, state, result, reason = found[0]
        return TaskResult(UUID(int=key), cast(State, state), loaded(result), loaded(reason))

    # -- leases and checkpoints -------------------------------------------------------------

    async def extend_claim(self, queue_name: str, run_id: UUID, extend_by: int) -> None:
        """See `Backend.extend_claim`."""
        key = uuid_int(run_id)
        await self._run("extend_claim", runs.extend_claim, queue_name, key, extend_by)

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
        task, run, text = uuid_int(task_id), uuid_int(owner_run), dumped(state)
        await self._run(
            "set_task_checkpoint_state",
            checkpoints.set_task_checkpoint_state,
            queue_name,
            task,
            step_name,
            text,
            run,
            extend_claim_by,
        )

    async def get_task_checkpoint_state(
        self, queue_name: str, task_id: UUID, step_name: str, include_pending: bool = False
    ) -> Checkpoint | None:
        """See `Backend.get_task_checkpoint_state`."""
        key = uuid_int(task_id)
        found = await self._read(
            checkpoints.get_task_checkpoint_state, queue_name, key, step_name, include_pending
        )
        return checkpoint_of(found[0]) if found else None

    async def get_task_checkpoint_states(
        self, queue_name: str, task_id: UUID, run_id: UUID
    ) -> list[Checkpoint]:
        """See `Backend.get_task_checkpoint_states`."""
        task, run = uuid_int(task_id), uuid_int(run_id)
        found = await self._read(checkpoints.get_task_checkpoint_states, queue_name, task, run)
        return [checkpoint_of(row) for row in found]

    # -- events -----------------------------------------------------------------------------

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
        task, run = uuid_int(task_id), uuid_int(run_id)
        should_suspend, payload = await self._run(
            "await_event", events.await_event, queue_name, task, run, step_name, event_name, timeout
        )
        return AwaitedEvent(should_suspend, loaded(payload))

    async def emit_event(self, queue_name: str, event_name: str, payload: Json = None) -> None:
        """See `Backend.emit_event`."""
        text = dumped(payload)
        await self._run("emit_event", events.emit_event, queue_name, event_name, text)

    # -- clean-up ---------------------------------------------------------------------------

    async def cleanup_tasks(self, queue_name: str, ttl_seconds: int, limit: int = 1000) -> int:
        """See `Backend.cleanup_tasks`."""
        return await self._run(
            "cleanup_tasks", cleanup.cleanup_tasks, queue_name, ttl_seconds, limit
        )

    async def cleanup_events(self, queue_name: str, ttl_seconds: int, limit: int = 1000) -> int:
        """See `Backend.cleanup_events`."""
        return await self._run(
            "cleanup_events", cleanup.cleanup_events, queue_name, ttl_seconds, limit
        )

    # -- inspection, read only --------------------------------------------------------------

    async def current_time(self) -> datetime:
        """See `Backend.current_time`."""
        return times.to_datetime(await self._read(lambda tx: tx.session.current_time()))

    async def schema_version(self) -> str:
        """See `Backend.schema_version`."""
        return SCHEMA_VERSION

    async def queue_stats(self, queue_name: str) -> QueueStats:
        """See `Backend.queue_stats`."""

        def work(tx: Transaction) -> QueueStats:
            now = tx.session.current_time()
            tasks = catalog.tasks(tx, queue_name)
            by_state: dict[str, int] = {}
            for task in tasks.scan(tx):
                by_state[task.state] = by_state.get(task.state, 0) + 1
            due: list[int] = []
            expired = 0
            for run in catalog.runs(tx, queue_name).scan(tx):
                if run.state in CLAIMABLE and run.available_at <= now:
                    owner = tasks.get(tx, run.task_id)
                    if owner is not None and owner.state in LIVE:
                        due.append(run.available_at)
                elif run.state == "running" and run.claim_expires_at is not None:
                    expired += run.claim_expires_at <= now
            oldest = (now - min(due)) / times.SECOND_US if due else None
            return QueueStats(queue_name, by_state, len(due), oldest, expired)

        return await self._read(work)

    async def list_tasks(
        self,
        queue_name: str,
        *,
        states: Sequence[State] | None = None,
        task_name: str | None = None,
        limit: int = 100,
    ) -> list[Task]:
        """See `Backend.list_tasks`."""

        def work(tx: Transaction) -> list[Task]:
            rows = sorted(catalog.tasks(tx, queue_name).scan(tx), reverse=True)
            wanted = (
                row
                for row in rows
                if (states is None or row.state in states)
                and (task_name is None or row.task_name == task_name)
            )
            return [task_of(row) for row in islice(wanted, limit)]

        return await self._read(work)

    async def list_runs(
        self,
        queue_name: str,
        *,
        states: Sequence[State] | None = None,
        claimed_by: str | None = None,
        limit: int = 1000,
    ) -> list[Run]:
        """See `Backend.list_runs`."""

        def work(tx: Transaction) -> list[Run]:
            rows = sorted(catalog.runs(tx, queue_name).scan(tx))
            wanted = (
                row
                for row in rows
                if (states is None or row.state in states)
                and (claimed_by is None or row.claimed_by == claimed_by)
            )
            return [run_of(row) for row in islice(wanted, limit)]

        return await self._read(work)

    async def histories(self, queue_name: str, task_ids: Sequence[UUID]) -> list[History]:
        """See `Inspection.histories`."""
        keys = list(map(uuid_int, task_ids))

        def work(tx: Transaction) -> list[History]:
            found = (_history(tx, queue_name, key) for key in keys)
            return [history for history in found if history is not None]

        return await self._read(work)


def _history(tx: Transaction, queue_name: str, key: int) -> History | None:
    task = catalog.tasks(tx, queue_name).get(tx, key)
    if task is None:
        return None
    runs = catalog.runs(tx, queue_name).of_task(tx, key)
    written = catalog.checkpoints(tx, queue_name).of_task(tx, key)
    waits = catalog.waits(tx, queue_name).of_task(tx, key)
    return History(
        queue_name,
        task_of(task),
        tuple(run_of(run) for run in sorted(runs, key=lambda run: (run.attempt, run.run_id))),
        tuple(
            checkpoint_of(row[1:])
            for row in sorted(written, key=lambda row: (row.updated_at, row.checkpoint_name))
        ),
        tuple(
            Wait(
                UUID(int=wait.task_id),
                UUID(int=wait.run_id),
                wait.step_name,
                wait.event_name,
                time_of(wait.timeout_at),
                times.to_datetime(wait.created_at),
            )
            for wait in sorted(waits)
        ),
    )
