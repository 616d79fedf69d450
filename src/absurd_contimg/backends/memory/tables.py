"""The tables whose rows have their moments: runs that come due or expire, tasks that are late."""

from __future__ import annotations

from collections.abc import Mapping

from absurd_contimg.backends.memory import jsonb
from absurd_contimg.backends.memory.due_queue import DueQueue
from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.schema import (
    TABLES,
    CheckpointRow,
    EventRow,
    KeyRow,
    QueueRow,
    RunRow,
    TaskRow,
    WaitRow,
)
from absurd_contimg.backends.memory.table import Table
from absurd_contimg.backends.memory.values.text import integer_in
from absurd_contimg.backends.memory.values.times import NEG_INFINITY, SECOND_US, is_finite
from absurd_contimg.core.records import LIVE_STATES

Queues = Table[QueueRow]
Checkpoints = Table[CheckpointRow]
Events = Table[EventRow]
Waits = Table[WaitRow]
Keys = Table[KeyRow]

LIVE = frozenset(LIVE_STATES)
CLAIMABLE = frozenset({"pending", "sleeping"})
NO_LEASE: Mapping[str, None] = {"claimed_by": None, "claim_expires_at": None}
"""The columns of a run that nobody holds."""


class Tasks(Table[TaskRow]):
    """``t_<queue>``, with the moments at which rules cancel tasks."""

    due_queues = ("ruled",)

    def __init__(self, name: str) -> None:
        super().__init__(TABLES["t"], name)
        self.ruled = DueQueue(rule_due)

    def reindex(self, old: TaskRow | None, new: TaskRow | None) -> None:
        """Also keep the moments."""
        Table.reindex(self, old, new)
        if new is not None and new.cancellation is not None:
            self.ruled.push(self.rows, new)


def rule_seconds(task: TaskRow, rule: str) -> int | None:
    """``(cancellation->>rule)::bigint``; 22P02 for a rule that is no number."""
    text = jsonb.field_text(task.cancellation, rule)
    return None if text is None else integer_in(text, "bigint")


def rule_due(task: TaskRow) -> int | None:
    """When a cancellation rule can first apply to the task, or raise; None if none can."""
    if task.cancellation is None or task.state not in LIVE:
        return None
    try:
        max_delay = rule_seconds(task, "max_delay")
        max_duration = rule_seconds(task, "max_duration")
    except EngineError:
        return NEG_INFINITY
    since, seconds = task.enqueue_at, max_delay
    if task.first_started_at is not None:
        since, seconds = task.first_started_at, max_duration
    if seconds is None:
        return None
    return since + seconds * SECOND_US if is_finite(since) else NEG_INFINITY


class Runs(Table[RunRow]):
    """``r_<queue>``, with the runs that can be claimed and the leases that can expire."""

    due_queues = ("due", "leases")

    def __init__(self, name: str) -> None:
        super().__init__(TABLES["r"], name)
        self.due = DueQueue(claimable_from)
        self.leases = DueQueue(lease_end)

    def reindex(self, old: RunRow | None, new: RunRow | None) -> None:
        """Also keep the moments."""
        Table.reindex(self, old, new)
        if new is None:
            return
        if new.state == "running":
            if old is None or lease_end(old) != new.claim_expires_at:
                self.leases.push(self.rows, new)
        elif old is None or claimable_from(old) != new.available_at:
            self.due.push(self.rows, new)


def claimable_from(run: RunRow) -> int | None:
    """When the run can first be claimed; None if it cannot."""
    return run.available_at if run.state in CLAIMABLE else None


def lease_end(run: RunRow) -> int | None:
    """When the run's lease ends; None for a run that does not run or has none."""
    return run.claim_expires_at if run.state == "running" else None
