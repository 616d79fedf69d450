"""The health of a queue: tasks that no worker can take up, tasks that block the queue, and why.

A task that has not ended must be claimable, leased, or waiting with a deadline, else it stays for
ever. A task whose cancellation rule is no number makes every claim of its queue fail.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import cast
from uuid import UUID

from absurd_contimg.core.backend import Inspection
from absurd_contimg.core.blocking_tasks import is_bigint, malformed
from absurd_contimg.core.records import INFINITY, LIVE_STATES, TERMINAL_STATES, Run, Task

_CLOCK_STEP_MIN = timedelta(minutes=1)
"""A smaller step of the database's clock is none that an operator has to know."""

_TIME = "%Y-%m-%d %H:%M:%S UTC"


@dataclass(frozen=True, slots=True)
class QueueProblem:
    """One task that is stuck, or that blocks its queue."""

    task_id: UUID
    problem: str
    remedy: str
    blocks_the_queue: bool = False
    """Nothing on its queue can be claimed until it is gone."""

    def __str__(self) -> str:
        return f"task {self.task_id}: {self.problem} {self.remedy}"


async def find_problems(
    inspection: Inspection, queue_name: str, limit: int = 1000
) -> list[QueueProblem]:
    """The problems of a queue, those that block it first; with two queries.

    Of more than `limit` tasks that may have one, the oldest.
    """
    suspects = await inspection.suspect_tasks(queue_name, limit)
    if not suspects:
        return []
    problems = []
    now = await inspection.current_time()
    for history in await inspection.histories(queue_name, suspects):
        task_id = history.task.task_id
        if (text := malformed(history.task)) is not None:
            remedy = f"Nothing can be claimed until it is gone: contimg cancel {task_id}"
            problems.append(QueueProblem(task_id, text, remedy, blocks_the_queue=True))
        if (text := _clock_step(history.task, history.runs, now)) is not None:
            remedy = (
                f"Wait until then, or: contimg cancel {task_id}, and then: contimg spawn "
                "--group GROUP --respawn"
            )
            problems.append(QueueProblem(task_id, text, remedy))
        remedy = f"contimg history {task_id}, then: contimg cancel {task_id}"
        problems += [
            QueueProblem(task_id, text, remedy) for text in stuck(history.task, history.runs)
        ]
    return sorted(problems, key=lambda problem: not problem.blocks_the_queue)


def stuck(task: Task, runs: Sequence[Run]) -> Iterator[str]:
    """Why a task can never go on by itself: neither claimable, leased, nor with a deadline."""
    if task.state in TERMINAL_STATES:
        return
    live = [run for run in runs if run.state in LIVE_STATES]
    if not live:
        yield f"It is {task.state}, and no run of it can be claimed."
    if len(live) > 1:
        yield f"It has {len(live)} runs at once: workers may run it side by side."
    for run in live:
        if run.state == "running" and run.claim_expires_at in (None, INFINITY):
            yield f"Run {run.attempt} has a lease without an end."
        if run.state == "sleeping" and run.available_at == INFINITY and not _has_deadline(task):
            waits = f"for event {run.wake_event!r}" if run.wake_event else "for nothing"
            yield f"Run {run.attempt} waits {waits} without a deadline."


def _clock_step(task: Task, runs: Sequence[Run], now: datetime) -> str | None:
    """What a step back of the database's clock means for a task; None if it met none.

    What was spawned or claimed by the wrong time is due, or its lease ends, by that time only.
    """
    if task.state in TERMINAL_STATES:
        return None
    for run in runs:
        is_running = run.state == "running"
        since = run.started_at if is_running else run.created_at
        until = run.claim_expires_at if is_running else run.available_at
        if run.state not in LIVE_STATES or since is None or until is None:
            continue
        if since - now >= _CLOCK_STEP_MIN:
            what = "claimed" if is_running else "made"
            end = "its lease ends" if is_running else "it is due"
            return (
                f"Run {run.attempt} was {what} in the future, at {since:{_TIME}}: the clock of the "
                f"database was put back since. Now {end} at {until:{_TIME}}."
            )
    return None


def _has_deadline(task: Task) -> bool:
    """Whether Absurd cancels it at some time, however long it waits."""
    rules = task.cancellation if isinstance(task.cancellation, Mapping) else {}
    limit = cast(Mapping[str, object], rules).get("max_duration")
    return limit is not None and is_bigint(limit)
