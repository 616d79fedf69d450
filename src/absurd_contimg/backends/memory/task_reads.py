"""The reads over tasks, in one transaction each.

Rows are looked at as they are kept: only what is asked for becomes records, so that a read of a
long queue costs what it returns and a look at each row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

from absurd_contimg.backends.memory import catalog, jsonb
from absurd_contimg.backends.memory.procedures import events
from absurd_contimg.backends.memory.records import dumped, python_values, time_us, uuid_int
from absurd_contimg.backends.memory.schema import RunRow, TaskRow
from absurd_contimg.backends.memory.tables import CLAIMABLE, LIVE
from absurd_contimg.backends.memory.transaction import Transaction
from absurd_contimg.backends.memory.values import times
from absurd_contimg.core.records import Checkpoint, History, QueueStats, Run, Task, Wait
from absurd_contimg.core.task_queries import RecentActivity, TaskFilter, activity_of, names_failure


def queue_created_at(tx: Transaction, queue: str) -> datetime | None:
    """When a queue was made; None if there is none."""
    row = catalog.queues(tx).get(tx, queue)
    return None if row is None else times.to_datetime(row.created_at)


def task_rows(
    tx: Transaction, queue: str, wanted: TaskFilter, before: int | None, limit: int | None
) -> list[TaskRow]:
    """The newest of the tasks that are meant, older than `before`."""
    members = None if wanted.params is None else dumped(wanted.params)
    ids = None if wanted.task_ids is None else {uuid_int(each) for each in wanted.task_ids}
    if wanted.failure is not None:
        failed = _tasks_with_failure(tx, queue, wanted.failure)
        ids = failed if ids is None else ids & failed
    since = None if wanted.enqueued_from is None else time_us(wanted.enqueued_from)
    until = None if wanted.enqueued_before is None else time_us(wanted.enqueued_before)
    rows = [
        row
        for row in catalog.tasks(tx, queue).scan(tx)
        if (before is None or row.task_id < before)
        and (wanted.states is None or row.state in wanted.states)
        and wanted.task_name in (None, row.task_name)
        and (ids is None or row.task_id in ids)
        and (since is None or row.enqueue_at >= since)
        and (until is None or row.enqueue_at < until)
        and (not wanted.id_suffix or str(UUID(int=row.task_id)).endswith(wanted.id_suffix))
        and (members is None or jsonb.contains(row.params, members))
    ]
    return sorted(rows, reverse=True)[:limit]


def _tasks_with_failure(tx: Transaction, queue: str, failure: str) -> set[int]:
    return {
        run.task_id
        for run in catalog.runs(tx, queue).scan(tx)
        if run.failure_reason is not None and names_failure(jsonb.tree(run.failure_reason), failure)
    }


def count_tasks(tx: Transaction, queue: str, wanted: TaskFilter) -> dict[str, int]:
    """The tasks that are meant, by state."""
    return dict(Counter(row.state for row in task_rows(tx, queue, wanted, None, None)))


def recent_activity(tx: Transaction, queue: str, since: datetime) -> RecentActivity:
    """What has ended since a moment."""
    since_us = time_us(since)
    ids = {
        run.task_id
        for run in catalog.runs(tx, queue).scan(tx)
        if any(at is not None and at >= since_us for at in (run.completed_at, run.failed_at))
    }
    return activity_of(histories(tx, queue, sorted(ids)), since)


def suspect_tasks(tx: Transaction, queue: str, limit: int) -> list[int]:
    """The first tasks that have not ended and may be stuck or block their queue."""
    now = tx.session.current_time()
    live_runs: Counter[int] = Counter()
    suspects: set[int] = set()
    for run in catalog.runs(tx, queue).scan(tx):
        if run.state not in LIVE:
            continue
        live_runs[run.task_id] += 1
        is_running = run.state == "running"
        until = run.claim_expires_at if is_running else run.available_at
        since = run.started_at if is_running else run.created_at
        if until is None or not times.is_finite(until) or (since is not None and since > now):
            suspects.add(run.task_id)
    for task in catalog.tasks(tx, queue).scan(tx):
        is_odd = task.cancellation is not None or live_runs[task.task_id] != 1
        if is_odd and task.state in LIVE:
            suspects.add(task.task_id)
    return sorted(suspects)[:limit]


def run_rows(
    tx: Transaction, queue: str, states: Collection[str] | None, worker: str | None, limit: int
) -> list[RunRow]:
    """The first runs by id in these states and of this worker; None stands for any."""
    rows = [
        row
        for row in catalog.runs(tx, queue).scan(tx)
        if (states is None or row.state in states) and worker in (None, row.claimed_by)
    ]
    return sorted(rows)[:limit]


def queue_stats(tx: Transaction, queue: str) -> QueueStats:
    """Tasks by state, claimable runs and ended leases."""
    now = tx.session.current_time()
    table = catalog.tasks(tx, queue)
    by_state = Counter(task.state for task in table.scan(tx))
    due: list[int] = []
    expired = 0
    for run in catalog.runs(tx, queue).scan(tx):
        if run.state in CLAIMABLE and run.available_at <= now:
            task = table.get(tx, run.task_id)
            if task is not None and task.state in LIVE:
                due.append(run.available_at)
        elif run.state == "running" and run.claim_expires_at is not None:
            expired += run.claim_expires_at <= now
    oldest = (now - min(due)) / times.SECOND_US if due else None
    return QueueStats(queue, dict(by_state), len(due), oldest, expired)


def histories(tx: Transaction, queue: str, task_ids: Sequence[int]) -> list[History]:
    """The histories of the tasks that exist."""
    records: list[History] = []
    for task_id in task_ids:
        task = catalog.tasks(tx, queue).get(tx, task_id)
        if task is None:
            continue
        attempts = catalog.runs(tx, queue).where(tx, "task_id", task_id)
        written = catalog.checkpoints(tx, queue).where(tx, "task_id", task_id)
        waits = catalog.waits(tx, queue).where(tx, "task_id", task_id)
        attempts.sort(key=lambda run: (run.attempt, run.run_id))
        written.sort(key=lambda row: (row.updated_at, row.checkpoint_name))
        shown = [events.ShownCheckpoint(*row[1:]) for row in written]
        records.append(
            History(
                queue,
                Task(*python_values(task)),
                tuple(Run(*python_values(run)) for run in attempts),
                tuple(Checkpoint(*python_values(row)) for row in shown),
                tuple(Wait(*python_values(wait)) for wait in sorted(waits)),
            )
        )
    return records
