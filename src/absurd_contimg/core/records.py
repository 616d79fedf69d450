"""The records of the `Backend` protocol: Absurd's rows, by Absurd's names.

JSON columns hold plain Python values. Times are aware datetimes in UTC; ``infinity`` (a wait
without a timeout) is `INFINITY`, the latest time Python has. The two records that every cycle of
a worker makes are named tuples, made in a third of the time of a frozen dataclass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple
from uuid import UUID

from absurd_contimg.core.errors import TaskNotCompleted

Json = str | int | float | bool | None | Sequence["Json"] | Mapping[str, "Json"]
"""A value that jsonb can hold."""

State = Literal["pending", "running", "sleeping", "completed", "failed", "cancelled"]
"""The states of a task and of a run."""

LIVE_STATES: tuple[State, ...] = ("pending", "running", "sleeping")
TERMINAL_STATES: frozenset[str] = frozenset({"completed", "failed", "cancelled"})

StorageMode = Literal["unpartitioned", "partitioned"]

INFINITY = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class SpawnOptions:
    """What ``spawn_task`` accepts beside name and parameters.

    A field left at None is not sent, so that the database's default holds. `max_attempts` None
    means without limit for Absurd; our worker enforces its own budgets.
    """

    max_attempts: int | None = None
    retry_strategy: Mapping[str, Json] | None = None
    headers: Mapping[str, Json] | None = None
    cancellation: Mapping[str, Json] | None = None
    idempotency_key: str | None = None

    def to_json(self) -> dict[str, Json]:
        """The ``p_options`` object; only the fields that are set."""
        names = ("headers", "retry_strategy", "max_attempts", "cancellation", "idempotency_key")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


class SpawnedTask(NamedTuple):
    """The answer of ``spawn_task`` and ``retry_task``.

    `created` is False when the idempotency key already had a task, which is then the one named.
    """

    task_id: UUID
    run_id: UUID
    attempt: int
    created: bool


class ClaimedTask(NamedTuple):
    """One run that ``claim_task`` leased to a worker."""

    run_id: UUID
    task_id: UUID
    attempt: int
    task_name: str
    params: Json
    retry_strategy: Json
    max_attempts: int | None
    headers: Json
    wake_event: str | None
    event_payload: Json


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A step's saved state."""

    checkpoint_name: str
    state: Json
    status: str
    owner_run_id: UUID | None
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class AwaitedEvent:
    """The answer of ``await_event``: suspend, or go on with the payload."""

    should_suspend: bool
    payload: Json


@dataclass(frozen=True, slots=True)
class TaskResult:
    """The answer of ``get_task_result``; `result` and `failure_reason` only in a final state."""

    task_id: UUID
    state: State
    result: Json
    failure_reason: Json

    def __repr__(self) -> str:
        failure = _failure_text(self.failure_reason)
        return (
            f"TaskResult({str(self.task_id)!r}, state={self.state!r}, result={self.result!r}"
            f"{failure and f', failure={failure!r}'})"
        )


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """A queue's row in ``absurd.queues``, without the time of its creation."""

    queue_name: str
    storage_mode: StorageMode
    default_partition: Literal["enabled", "disabled"]
    partition_lookahead: timedelta
    partition_lookback: timedelta
    cleanup_ttl: timedelta
    cleanup_limit: int
    detach_mode: Literal["none", "empty"]
    detach_min_age: timedelta


@dataclass(frozen=True, slots=True)
class Task:
    """A row of ``t_<queue>``: what is to be run."""

    task_id: UUID
    task_name: str
    params: Json
    headers: Json
    retry_strategy: Json
    max_attempts: int | None
    cancellation: Json
    enqueue_at: datetime
    first_started_at: datetime | None
    state: State
    attempts: int
    last_attempt_run: UUID | None
    completed_payload: Json
    cancelled_at: datetime | None
    idempotency_key: str | None


@dataclass(frozen=True, slots=True)
class Run:
    """A row of ``r_<queue>``: one attempt to run a task."""

    run_id: UUID
    task_id: UUID
    attempt: int
    state: State
    claimed_by: str | None
    claim_expires_at: datetime | None
    available_at: datetime
    wake_event: str | None
    event_payload: Json
    started_at: datetime | None
    completed_at: datetime | None
    failed_at: datetime | None
    result: Json
    failure_reason: Json
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Wait:
    """A row of ``w_<queue>``: a run that waits for an event."""

    task_id: UUID
    run_id: UUID
    step_name: str
    event_name: str
    timeout_at: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class History:
    """Everything that the database knows of one task.

    Runs are in order of attempt, checkpoints in order of their last write, ties by name.
    """

    queue_name: str
    task: Task
    runs: tuple[Run, ...]
    checkpoints: tuple[Checkpoint, ...] = ()
    waits: tuple[Wait, ...] = ()

    @property
    def checkpoint_states(self) -> dict[str, Json]:
        """The state of each checkpoint, by name."""
        return {saved.checkpoint_name: saved.state for saved in self.checkpoints}

    @property
    def result(self) -> Json:
        """What the handler has returned; raises `TaskNotCompleted` if the task is not completed."""
        if self.task.state != "completed":
            raise TaskNotCompleted(f"{self!r} has no result")
        return self.task.completed_payload

    def __repr__(self) -> str:
        reasons = (_failure_text(run.failure_reason) for run in reversed(self.runs))
        failure = "" if self.task.state == "completed" else next(filter(None, reasons), "")
        return (
            f"<History of task {self.task.task_name!r} ({self.task.task_id}) in queue "
            f"{self.queue_name!r}: {self.task.state}{failure and f' ({failure})'}, "
            f"{len(self.runs)} runs, {len(self.checkpoints)} checkpoints>"
        )


_SHOWN_MAX = 200


def _failure_text(reason: Json) -> str:
    """``ValueError: no such card``; empty if there is no failure."""
    if not isinstance(reason, Mapping):
        return "" if reason is None else str(reason)[:_SHOWN_MAX]
    parts = (str(reason[name]) for name in ("name", "message") if reason.get(name))
    return ": ".join(parts)[:_SHOWN_MAX]


@dataclass(frozen=True, slots=True)
class QueueStats:
    """How many tasks of a queue are in each state, and how old the oldest claimable run is.

    `claimable` counts runs that a claim would find now; `oldest_claimable_seconds` is how long
    the first of them has been waiting, None when there is none. `expired_leases` counts runs
    whose worker let the lease run out and that no claim has swept yet.
    """

    queue_name: str
    tasks_by_state: Mapping[str, int]
    claimable: int
    oldest_claimable_seconds: float | None
    expired_leases: int


def created_at(run_id: UUID, now: datetime) -> datetime:
    """When a run was made, by its id (UUID version 7); claims are in the order of such times."""
    if run_id.version != 7:
        return now
    return min(now, datetime.fromtimestamp((run_id.int >> 80) / 1000, UTC))
