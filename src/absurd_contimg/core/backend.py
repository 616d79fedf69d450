"""The two protocols of a database that runs Absurd: `Inspection` reads, `Backend` also acts.

Methods carry the names of Absurd's procedures; `Backend.fail_run_permanently` and some reads are
ours. A backend adds no retry, no cache and no policy: each method is one transaction, which has
either taken effect or raised what `core.errors` lists.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import datetime
from inspect import iscoroutinefunction
from typing import Protocol
from uuid import UUID

from absurd_contimg.core.records import (
    LIVE_STATES,
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
from absurd_contimg.core.task_queries import (
    RecentActivity,
    TaskFilter,
    activity_of,
    select_tasks,
)

_ALL = 10**9


class Inspection(Protocol):
    """The calls that change nothing.

    Those with a body answer from the histories of all tasks; a database answers the same in SQL.
    """

    async def current_time(self) -> datetime:
        """The database's clock, which decides about every lease and every wake-up."""

    async def schema_version(self) -> str:
        """The version of Absurd's schema."""

    async def list_queues(self) -> list[str]:
        """The names of all queues, in order."""

    async def get_queue_policy(self, queue_name: str) -> QueuePolicy | None:
        """The queue's policy, None if there is no such queue."""

    async def queue_created_at(self, queue_name: str) -> datetime | None:
        """When the queue was made, None if there is no such queue or nobody knows."""

    async def queue_stats(self, queue_name: str) -> QueueStats:
        """Counts for operators; see `QueueStats`."""

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
        """The newest `limit` tasks (by id, newest first) in any of the given states.

        `id_suffix` is the end of their id as text; `params` are members that theirs have.
        """

    async def find_tasks(
        self,
        queue_name: str,
        wanted: TaskFilter,
        *,
        before: UUID | None = None,
        limit: int = 100,
    ) -> list[Task]:
        """The newest `limit` tasks that are meant (by id, newest first), older than `before`."""
        matches = select_tasks(await self._all_histories(queue_name), wanted)
        older = [each.task for each in matches if before is None or each.task.task_id < before]
        return older[:limit]

    async def count_tasks(self, queue_name: str, wanted: TaskFilter) -> Mapping[State, int]:
        """How many of the tasks that are meant are in each state."""
        matches = select_tasks(await self._all_histories(queue_name), wanted)
        return dict(Counter(history.task.state for history in matches))

    async def recent_activity(self, queue_name: str, since: datetime) -> RecentActivity:
        """What has ended since a moment."""
        return activity_of(await self._all_histories(queue_name), since)

    async def suspect_tasks(self, queue_name: str, limit: int = 100) -> list[UUID]:
        """Tasks that have not ended, among them all that are stuck or block their queue.

        `history.queue_health` judges them; there may be more of them than `limit`.
        """
        tasks = await self.list_tasks(queue_name, states=LIVE_STATES, limit=_ALL)
        return [task.task_id for task in tasks]

    async def _all_histories(self, queue_name: str) -> list[History]:
        tasks = await self.list_tasks(queue_name, limit=_ALL)
        return await self.histories(queue_name, [task.task_id for task in tasks])

    async def list_runs(
        self,
        queue_name: str,
        *,
        states: Sequence[State] | None = None,
        claimed_by: str | None = None,
        limit: int = 1000,
    ) -> list[Run]:
        """The first `limit` runs by id in any of the given states, of the given worker."""

    async def histories(self, queue_name: str, task_ids: Sequence[UUID]) -> list[History]:
        """Everything known of these tasks, read in one snapshot with few queries.

        In the order of `task_ids`; tasks that do not exist are left out.
        """

    async def history(self, queue_name: str, task_id: UUID) -> History | None:
        """Everything known of one task; None if there is no such task."""
        return next(iter(await self.histories(queue_name, [task_id])), None)

    async def get_task_result(self, queue_name: str, task_id: UUID) -> TaskResult | None:
        """The task's state and outcome, None if there is no such task."""

    async def get_task_checkpoint_state(
        self, queue_name: str, task_id: UUID, step_name: str, include_pending: bool = False
    ) -> Checkpoint | None:
        """One checkpoint by name, None if there is none."""

    async def get_task_checkpoint_states(
        self, queue_name: str, task_id: UUID, run_id: UUID
    ) -> list[Checkpoint]:
        """All committed checkpoints that the run may see, in order of their last write."""


class Backend(Inspection, Protocol):
    """Absurd, in Postgres or emulated. Arguments and defaults are those of the schema."""

    def operator_lock(self) -> AbstractAsyncContextManager[None]:
        """Keeps other operators' actions that make tasks live away from this database.

        A backend within one process has no others.
        """
        return nullcontext()

    async def create_queue(
        self, queue_name: str, storage_mode: StorageMode = "unpartitioned"
    ) -> None:
        """Make the queue's tables; no effect if it exists in the same storage mode."""

    async def drop_queue(self, queue_name: str) -> None:
        """Remove the queue with everything in it; no effect if there is none."""

    async def set_queue_policy(self, queue_name: str, policy: Mapping[str, Json]) -> None:
        """Change the named fields of the queue's policy."""

    async def spawn_task(
        self, queue_name: str, task_name: str, params: Json, options: SpawnOptions | None = None
    ) -> SpawnedTask:
        """Enqueue a task, or find the one that already has the idempotency key."""

    async def claim_task(
        self, queue_name: str, worker_id: str, claim_timeout: int = 30, qty: int = 1
    ) -> list[ClaimedTask]:
        """Lease up to `qty` due runs for `claim_timeout` seconds.

        Also applies cancellation rules and fails up to `qty` runs whose lease has expired:
        nothing else in Absurd does.
        """

    async def complete_run(self, queue_name: str, run_id: UUID, state: Json = None) -> None:
        """Complete the run and its task with `state` as the result."""

    async def schedule_run(self, queue_name: str, run_id: UUID, wake_at: datetime) -> None:
        """Give the lease back; the same run can be claimed again from `wake_at` on."""

    async def fail_run(
        self, queue_name: str, run_id: UUID, reason: Json, retry_at: datetime | None = None
    ) -> None:
        """Fail the run; while attempts remain, the next one is due by strategy or `retry_at`."""

    async def fail_run_permanently(self, queue_name: str, run_id: UUID, reason: Json) -> None:
        """Fail the run and its task, however many attempts were left.

        Lowers the task's ``max_attempts`` to the run's attempt, so that an operator's
        ``retry_task`` still works. Locks the run row before the task row, as Absurd does.
        """

    async def retry_task(
        self, queue_name: str, task_id: UUID, options: Mapping[str, Json] | None = None
    ) -> SpawnedTask:
        """Run a failed task again, in place or (``spawn_new``) as a new task."""

    async def retry_tasks(
        self, queue_name: str, options: Mapping[UUID, Mapping[str, Json]]
    ) -> list[SpawnedTask]:
        """`retry_task` for each of these tasks, in one statement: all or none."""

    async def cancel_task(self, queue_name: str, task_id: UUID) -> None:
        """Cancel the task; its running run learns of it at its next checkpoint or heartbeat."""

    async def extend_claim(self, queue_name: str, run_id: UUID, extend_by: int) -> None:
        """Let the lease end `extend_by` seconds from now."""

    async def set_task_checkpoint_state(
        self,
        queue_name: str,
        task_id: UUID,
        step_name: str,
        state: Json,
        owner_run: UUID,
        extend_claim_by: int | None = None,
    ) -> None:
        """Write a step's checkpoint, unless a later attempt has written it."""

    async def await_event(
        self,
        queue_name: str,
        task_id: UUID,
        run_id: UUID,
        step_name: str,
        event_name: str,
        timeout: int | None = None,
    ) -> AwaitedEvent:
        """The event's payload, or the run put to sleep until it is emitted or time is up."""

    async def emit_event(self, queue_name: str, event_name: str, payload: Json = None) -> None:
        """Emit an event and wake who waits for it. The first payload of a name stays."""

    async def cleanup_tasks(self, queue_name: str, ttl_seconds: int, limit: int = 1000) -> int:
        """Delete up to `limit` tasks that ended over `ttl_seconds` ago; how many went."""

    async def cleanup_events(self, queue_name: str, ttl_seconds: int, limit: int = 1000) -> int:
        """Delete up to `limit` events emitted over `ttl_seconds` ago; how many went."""


def _calls(protocol: type) -> frozenset[str]:
    return frozenset(
        name
        for name, member in vars(protocol).items()
        if iscoroutinefunction(member) and not name.startswith("_")
    )


READS = _calls(Inspection)
"""The names of all calls that change nothing."""
CALLS = READS | _calls(Backend)
"""The names of all calls."""
