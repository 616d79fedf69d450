"""From histories to the records of the API."""

from __future__ import annotations

from absurd_contimg.core.forks import Fork, fork_points
from absurd_contimg.core.records import History, QueueStats, SpawnedTask, Task
from absurd_contimg.history.summary import summarize
from absurd_contimg.history.timeline import StepStart, group_in
from absurd_contimg.operations.client import (
    ForkEntry,
    PauseEntry,
    QueueEntry,
    SpawnedEntry,
    StepEntry,
    TaskDetail,
    TaskEntry,
)
from absurd_contimg.registry.queue_pauses import QueuePause


def task_entry(queue: str, task: Task) -> TaskEntry:
    """A task in a list."""
    fork = Fork.of(task.headers)
    return TaskEntry(
        queue=queue,
        task_id=task.task_id,
        task_name=task.task_name,
        group=group_in(task.params),
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
        params=task.params,
        result=task.completed_payload,
        failure=failures[-1] if failures else None,
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
