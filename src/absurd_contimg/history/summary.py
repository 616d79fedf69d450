"""Summaries of tasks for people and programs: state, steps, failures, why a task waits.

Steps come from the journal: no stage is named here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from absurd_contimg.core.backend import Inspection
from absurd_contimg.core.forks import Fork
from absurd_contimg.core.records import TERMINAL_STATES, History, Json, State, Task
from absurd_contimg.history.failures import FailedRun, failed_runs
from absurd_contimg.history.timeline import (
    SECONDARY_TASKS,
    StepStart,
    group_in,
    kind_of,
    step_starts,
)
from absurd_contimg.history.wait_reason import WaitReason, find_wait_reason


@dataclass(frozen=True, slots=True)
class TaskSummary:
    """One task as it stands."""

    task_id: UUID
    task_name: str
    group: str | None
    """The observation group or the window, for tasks that are about one."""
    state: State
    attempts: int
    enqueued_at: datetime
    ended_at: datetime | None
    starts: tuple[StepStart, ...]
    """Every start of every tracked step, in order of time."""
    failures: tuple[FailedRun, ...]
    waiting: WaitReason | None
    """None if the task runs or has ended."""
    worker: str | None
    """Who holds the lease."""
    lease_ends_at: datetime | None
    result: Json
    forked_from: Fork | None = None
    """Where the task begins in another one; what came before is not among the starts."""

    @property
    def steps(self) -> Mapping[str, StepStart]:
        """The last start of each step, in the order in which the steps were first started."""
        return {start.step: start for start in self.starts}

    @property
    def last_failure(self) -> FailedRun | None:
        """The reason of the last failed run."""
        return self.failures[-1] if self.failures else None


def summarize(history: History) -> TaskSummary:
    """The summary of one history."""
    task = history.task
    holder = next((run for run in history.runs if run.state == "running"), None)
    return TaskSummary(
        task_id=task.task_id,
        task_name=task.task_name,
        group=group_in(task.params),
        state=task.state,
        attempts=task.attempts,
        enqueued_at=task.enqueue_at,
        ended_at=ended_at(history),
        starts=tuple(step_starts(history)),
        failures=tuple(failed_runs(history)),
        waiting=find_wait_reason(history),
        worker=None if holder is None else holder.claimed_by,
        lease_ends_at=None if holder is None else holder.claim_expires_at,
        result=task.completed_payload,
        forked_from=Fork.of(task.headers),
    )


_SUPERSEDED_SEARCHED = 2000
"""Among so many of the newest tasks a later one of a group is looked for."""


async def superseded_failures(inspection: Inspection, queue_name: str) -> frozenset[UUID]:
    """The failed tasks, among the newest, whose group or window has a later task of its kind."""
    return superseded(await inspection.list_tasks(queue_name, limit=_SUPERSEDED_SEARCHED))


def superseded(tasks: Iterable[Task]) -> frozenset[UUID]:
    """The failed tasks among these whose group or window has a later one of its kind."""
    later: set[tuple[str, str]] = set()
    failures = set()
    for task in sorted(tasks, key=lambda task: task.task_id, reverse=True):  # the newest first
        group = group_in(task.params)
        if group is None:
            continue
        kind = kind_of(task.task_name)
        if task.state == "failed" and (group, kind) in later:
            failures.add(task.task_id)
        later.add((group, kind))
    return frozenset(failures)


def command_after_cancellation(task: Task) -> str:
    """The command that spawns another task for the group or window of a cancelled one, or nothing.

    Not for tasks about what another one has made, and mosaics of a night or a span.
    """
    if task.task_name in SECONDARY_TASKS or not isinstance(task.params, Mapping):
        return ""
    group, window = task.params.get("group_id"), task.params.get("window_id")
    if isinstance(window, str) and window.startswith("W"):
        return f"contimg mosaic make {window} --again"
    return f"contimg spawn --group {group} --respawn" if isinstance(group, str) else ""


def ended_at(history: History) -> datetime | None:
    """When the task reached its final state; None if it has not."""
    task = history.task
    if task.state not in TERMINAL_STATES:
        return None
    ends = [run.completed_at or run.failed_at for run in history.runs]
    known = [end for end in (task.cancelled_at, *ends) if end is not None]
    return max(known, default=None)


async def read_histories(
    inspection: Inspection,
    queue_name: str,
    *,
    states: Sequence[State] | None = None,
    limit: int = 10_000,
) -> list[History]:
    """The newest `limit` tasks in any of the states, newest first, with two reads in all."""
    tasks = await inspection.list_tasks(queue_name, states=states, limit=limit)
    return await inspection.histories(queue_name, [task.task_id for task in tasks])
