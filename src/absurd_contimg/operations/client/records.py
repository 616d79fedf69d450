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
    """A task with what it has done."""

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
