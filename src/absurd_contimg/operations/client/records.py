"""What the API answers with: one record for each thing, the same for server and client.

Times are aware and in UTC, durations are seconds. Imports nothing that takes time to import.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar
from uuid import UUID

from absurd_contimg.core.records import State

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list."""

    items: tuple[T, ...]
    next_cursor: str | None
    """Ask again with this for the next part; None: there is none."""


@dataclass(frozen=True, slots=True)
class Problem:
    """An error (RFC 9457)."""

    title: str
    status: int
    detail: str
    """What is wrong with what."""
    remedy: str = ""
    """What to do."""
    type: str = "about:blank"


@dataclass(frozen=True, slots=True)
class ForkEntry:
    """Where a task was forked."""

    queue: str
    task_id: UUID
    step: str


@dataclass(frozen=True, slots=True)
class TaskEntry:
    """A task in a list."""

    queue: str
    task_id: UUID
    task_name: str
    group: str | None
    """The observation group or window that it is about."""
    state: State
    attempts: int
    enqueued_at: datetime
    first_started_at: datetime | None
    idempotency_key: str | None
    forked_from: ForkEntry | None


@dataclass(frozen=True, slots=True)
class StepEntry:
    """One start of one step, and how it ended."""

    step: str
    start: int
    attempt: int
    worker: str
    started_at: datetime
    ended_at: datetime | None
    outcome: str
    """``done``, ``running``, ``died``, ``cancelled``, ``failed``, ``retry`` and so on."""
    adopted: bool
    """The product was already there."""
    kind: str | None
    """Of its failure; rule, message, path and advice too."""
    rule: str | None
    message: str | None
    path: str | None
    advice: str | None


@dataclass(frozen=True, slots=True)
class TaskDetail:
    """A task with what it has done; of values that are too long only the length is shown."""

    task: TaskEntry
    params: Any
    result: Any
    """None unless it has completed."""
    failure: Any
    """The reason of its last failed run."""
    ended_at: datetime | None
    worker: str | None
    """Who holds the lease."""
    lease_ends_at: datetime | None
    steps: tuple[StepEntry, ...]
    """All starts, in order of time."""
    fork_points: tuple[str, ...]
    """The steps at which a new task can begin."""


@dataclass(frozen=True, slots=True)
class SpawnedEntry:
    """A task that was spawned, retried or forked."""

    queue: str
    task_id: UUID
    run_id: UUID
    attempt: int
    created: bool
    """False: the idempotency key had this task already."""


@dataclass(frozen=True, slots=True)
class PauseEntry:
    """Why, since when and by whom a queue is paused."""

    queue: str
    reason: str
    since: str
    by: str


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """A queue: its tasks by state, and whether it is paused."""

    queue: str
    tasks_by_state: Mapping[str, int]
    claimable: int
    oldest_claimable_seconds: float | None
    expired_leases: int
    pause: PauseEntry | None


@dataclass(frozen=True, slots=True)
class Message:
    """What was done, in a sentence."""

    message: str


@dataclass(frozen=True, slots=True)
class HealthEntry:
    """Whether the API can answer."""

    status: Literal["live", "ready"]


@dataclass(frozen=True, slots=True)
class WaitEntry:
    """Why a task does nothing now, or what it does."""

    state: State
    why: str
    """One sentence for people, about the task."""
    fact: str
    """What decides, as ``event``, ``paused`` or ``no-worker``; ``ended`` if it has."""
    until: datetime | None
    """When it goes on by itself or gives up; None: never, or nobody knows."""
    advice: str | None


@dataclass(frozen=True, slots=True)
class RunEntry:
    """One attempt to run a task."""

    run_id: UUID
    attempt: int
    state: State
    claimed_by: str | None
    claim_expires_at: datetime | None
    available_at: datetime
    wake_event: str | None
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    failed_at: datetime | None
    failure_reason: Any


@dataclass(frozen=True, slots=True)
class CheckpointEntry:
    """The saved result of a step, or what the worker noted under a name with ``$``."""

    name: str
    state: Any
    owner_run_id: UUID | None
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """Everything that the database knows of a task; of values that are too long the length."""

    task: TaskEntry
    runs: tuple[RunEntry, ...]
    checkpoints: tuple[CheckpointEntry, ...]


@dataclass(frozen=True, slots=True)
class BatchEntry:
    """A batch, and how many of its items are in each state."""

    batch_id: str
    kind: str
    state: str
    queue: str
    created_at: str
    reason: str | None
    items_by_state: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class BatchItemEntry:
    """One task of a batch."""

    position: int
    name: str
    """Group or window."""
    state: str
    task_id: str | None


@dataclass(frozen=True, slots=True)
class ServiceEntry:
    """A process of the site, as it last wrote of itself; times are Unix seconds."""

    kind: str
    name: str
    host: str
    pid: int
    version: str
    queues: str
    started_at: float
    seen_at: float
    stopped_at: float | None
    activity: str
    problem: str
    clock_offset_seconds: float
    memory_bytes: float


@dataclass(frozen=True, slots=True)
class GroupEntry:
    """An observation group."""

    group_id: str
    status: str
    reason: str | None
    mid_mjd: float | None
    declination_deg: float | None
    ingest_state: str
    closed_reason: str | None
    subbands: int | None
    """Accepted; None while it is collected."""
    files_version: int
    task_id: str | None


@dataclass(frozen=True, slots=True)
class WindowMemberEntry:
    """A group of a window, and why it is not used."""

    group_id: str
    used: bool
    reason: str | None


@dataclass(frozen=True, slots=True)
class WindowEntry:
    """Neighbouring groups of which a mosaic is made."""

    window_id: str
    state: str
    start_mjd: float
    end_mjd: float
    declination_deg: float
    members: tuple[WindowMemberEntry, ...]
    closed_reason: str | None
    superseded_by: str | None
    task_id: str | None


@dataclass(frozen=True, slots=True)
class ProductEntry:
    """A committed product; `folder` is below the output folder."""

    key: str
    stage: str
    stage_version: int
    group_id: str
    folder: str
    created_at: str
    host: str
    size_bytes: int
    has_quicklook: bool


@dataclass(frozen=True, slots=True)
class ActionEntry:
    """What somebody did."""

    action_id: int
    at: str
    by: str
    source: str
    action: str
    target: str
    reason: str
    outcome: str
