"""``cancel_task``, and the rules by which a claim cancels tasks that are late or last too long."""

from __future__ import annotations

from absurd_contimg.backends.memory import catalog
from absurd_contimg.backends.memory.errors import raise_exception
from absurd_contimg.backends.memory.locks import LOCK_ROWS
from absurd_contimg.backends.memory.procedures.checks import shown_id
from absurd_contimg.backends.memory.procedures.signatures import procedure
from absurd_contimg.backends.memory.schema import TaskRow, Text, Uuid
from absurd_contimg.backends.memory.tables import LIVE, NO_LEASE, rule_seconds
from absurd_contimg.backends.memory.transaction import Transaction
from absurd_contimg.backends.memory.values.times import SECOND_US, elapsed_us


@procedure("74fba7e3f47b1c86")
def cancel_task(tx: Transaction, queue_name: Text | None, task_id: Uuid | None) -> None:
    now = tx.session.current_time()
    runs = catalog.runs(tx, queue_name, LOCK_ROWS)
    for run in sorted(runs.where(tx, "task_id", task_id)):
        if run.state in LIVE:
            runs.lock(tx, run.run_id)
    task = catalog.tasks(tx, queue_name, LOCK_ROWS).get_for_update(tx, task_id)
    if task is None:
        raise_exception(f'Task "{shown_id(task_id)}" not found in queue "{queue_name}"')
    if task.state not in LIVE:
        return
    cancelled_at = now if task.cancelled_at is None else task.cancelled_at
    catalog.tasks(tx, queue_name).update(tx, task, state="cancelled", cancelled_at=cancelled_at)
    runs = catalog.runs(tx, queue_name)
    for run in runs.where(tx, "task_id", task_id):
        if run.state in LIVE:
            runs.update(tx, run, state="cancelled", **NO_LEASE)
    waits = catalog.waits(tx, queue_name)
    for wait in waits.where(tx, "task_id", task_id):
        waits.delete(tx, (wait.run_id, wait.step_name))


def rule_applies(task: TaskRow, now: int) -> bool:
    """Whether a rule of a live task cancels it at `now`; 22P02 for a malformed rule."""
    started = task.first_started_at
    max_delay = rule_seconds(task, "max_delay")
    max_duration = rule_seconds(task, "max_duration")
    since, seconds = (task.enqueue_at, max_delay) if started is None else (started, max_duration)
    return seconds is not None and elapsed_us(now, since) >= seconds * SECOND_US
