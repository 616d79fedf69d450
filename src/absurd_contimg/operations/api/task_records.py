"""From histories to the records of the API."""

from __future__ import annotations

import json
from typing import Any

from absurd_contimg.core.forks import Fork, fork_points
from absurd_contimg.core.records import INFINITY, History, QueueStats, SpawnedTask, Task
from absurd_contimg.history.summary import summarize
from absurd_contimg.history.timeline import StepStart, group_in
from absurd_contimg.history.wait_explanation import WaitContext, explain_wait
from absurd_contimg.operations.client import (
    CheckpointEntry,
    ForkEntry,
    HistoryEntry,
    PauseEntry,
    QueueEntry,
    RunEntry,
    SpawnedEntry,
    StepEntry,
    TaskDetail,
    TaskEntry,
    WaitEntry,
)
from absurd_contimg.registry.queue_pauses import QueuePause

_VALUE_CHARACTERS_MAX = 200_000
"""Of parameters, results and checkpoints, so that a task can always be shown quickly."""
_GROUP_CHARACTERS_MAX = 200
"""So that a list stays small whatever another client has stored."""


def task_entry(queue: str, task: Task) -> TaskEntry:
    """A task in a list."""
    fork, group = Fork.of(task.headers), group_in(task.params)
    return TaskEntry(
        queue=queue,
        task_id=task.task_id,
        task_name=task.task_name,
        group=None if group is None else group[:_GROUP_CHARACTERS_MAX],
        state=task.state,
        attempts=task.attempts,
        enqueued_at=task.enqueue_at,
        first_started_at=task.first_started_at,
        idempotency_key=task.idempotency_key,
        forked_from=None if fork is None else ForkEntry(fork.queue, fork.task_id, fork.step),
    )


def task_detail(history: History) -> TaskDetail:
    """A task with what it has done."""
    summary, task = summarize(history), history.task
    failures = [run.failure_reason for run in history.runs if run.failure_reason is not None]
    return TaskDetail(
        task=task_entry(history.queue_name, task),
        params=_bounded(task.params),
        result=_bounded(task.completed_payload),
        failure=_bounded(failures[-1]) if failures else None,
        ended_at=summary.ended_at,
        worker=summary.worker,
        lease_ends_at=summary.lease_ends_at,
        steps=tuple(map(step_entry, summary.starts)),
        fork_points=tuple(fork_points(history)),
    )


def step_entry(start: StepStart) -> StepEntry:
    """One start of one step."""
    noted = start.noted
    return StepEntry(
        step=start.step,
        start=start.start,
        attempt=start.attempt,
        worker=start.worker,
        started_at=start.started_at,
        ended_at=start.ended_at,
        outcome=start.outcome,
        adopted=start.adopted,
        kind=None if noted is None else noted.kind,
        rule=None if noted is None else noted.rule,
        message=None if noted is None else noted.message,
        path=None if noted is None else noted.path,
        advice=None if noted is None else noted.advice,
    )


def history_entry(history: History) -> HistoryEntry:
    """Everything that the database knows of a task."""
    return HistoryEntry(
        task=task_entry(history.queue_name, history.task),
        runs=tuple(
            RunEntry(
                **{name: getattr(run, name) for name in RunEntry.__slots__}
                | {"failure_reason": _bounded(run.failure_reason)}
            )
            for run in history.runs
        ),
        checkpoints=tuple(
            CheckpointEntry(
                each.checkpoint_name, _bounded(each.state), each.owner_run_id, each.updated_at
            )
            for each in history.checkpoints
        ),
    )


def wait_entry(history: History, context: WaitContext) -> WaitEntry:
    """Why a task does nothing now, or what it does."""
    state = history.task.state
    explanation = explain_wait(history, context)
    if explanation is None:
        return WaitEntry(state, f"It has ended: {state}.", "ended", None, None)
    until = None if explanation.until == INFINITY else explanation.until
    return WaitEntry(state, explanation.sentence, explanation.fact, until, explanation.advice)


def spawned_entry(queue: str, task: SpawnedTask) -> SpawnedEntry:
    """A task that was spawned, retried or forked."""
    return SpawnedEntry(queue, task.task_id, task.run_id, task.attempt, task.created)


def queue_entry(stats: QueueStats, pause: QueuePause | None) -> QueueEntry:
    """A queue with its pause."""
    return QueueEntry(
        queue=stats.queue_name,
        tasks_by_state=stats.tasks_by_state,
        claimable=stats.claimable,
        oldest_claimable_seconds=stats.oldest_claimable_seconds,
        expired_leases=stats.expired_leases,
        pause=None if pause is None else pause_entry(pause),
    )


def pause_entry(pause: QueuePause) -> PauseEntry:
    """Why a queue is paused."""
    return PauseEntry(pause.queue, pause.reason, pause.since, pause.by)


def _bounded(value: Any) -> Any:
    """The value, or how long it is where it is too long to be shown."""
    characters = len(json.dumps(value, default=str))
    return value if characters <= _VALUE_CHARACTERS_MAX else {"left_out_characters": characters}
