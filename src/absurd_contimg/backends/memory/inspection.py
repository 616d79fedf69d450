"""What core's `Inspection` reads beside Absurd's procedures: tasks, runs, histories, counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from absurd_contimg.backends.memory import catalog
from absurd_contimg.backends.memory.procedures.events import ShownCheckpoint
from absurd_contimg.backends.memory.records import python_values
from absurd_contimg.backends.memory.schema import RunRow, TaskRow
from absurd_contimg.backends.memory.tables import CLAIMABLE, LIVE
from absurd_contimg.backends.memory.transaction import Transaction
from absurd_contimg.backends.memory.values.times import SECOND_US
from absurd_contimg.core.records import Checkpoint, History, QueueStats, Run, Task, Wait


def tasks(
    tx: Transaction, queue: str, states: Collection[str] | None, name: str | None, limit: int
) -> list[TaskRow]:
    """The newest tasks in these states and of this name; None stands for any."""
    rows = [
        row
        for row in catalog.tasks(tx, queue).scan(tx)
        if (states is None or row.state in states) and name in (None, row.task_name)
    ]
    return sorted(rows, reverse=True)[:limit]


def runs(
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
    oldest = (now - min(due)) / SECOND_US if due else None
    return QueueStats(queue, dict(by_state), len(due), oldest, expired)


def histories(tx: Transaction, queue: str, task_ids: Sequence[int]) -> list[History]:
    """The histories of the tasks that exist."""
    histories: list[History] = []
    for task_id in task_ids:
        task = catalog.tasks(tx, queue).get(tx, task_id)
        if task is None:
            continue
        runs = catalog.runs(tx, queue).where(tx, "task_id", task_id)
        checkpoints = catalog.checkpoints(tx, queue).where(tx, "task_id", task_id)
        waits = catalog.waits(tx, queue).where(tx, "task_id", task_id)
        runs.sort(key=lambda run: (run.attempt, run.run_id))
        checkpoints.sort(key=lambda row: (row.updated_at, row.checkpoint_name))
        shown = [ShownCheckpoint(*row[1:]) for row in checkpoints]
        histories.append(
            History(
                queue,
                Task(*python_values(task)),
                tuple(Run(*python_values(run)) for run in runs),
                tuple(Checkpoint(*python_values(row)) for row in shown),
                tuple(Wait(*python_values(wait)) for wait in sorted(waits)),
            )
        )
    return histories
