"""``cancel_task``, and the rules by which a claim cancels tasks that are late or last too long."""

from __future__ import annotations

from absurd_contimg.backends.memory import catalog, jsonb
from absurd_contimg.backends.memory.errors import EngineError, raise_exception, shown
from absurd_contimg.backends.memory.locks import ACCESS_SHARE, ROW_SHARE
from absurd_contimg.backends.memory.rows import TaskRow
from absurd_contimg.backends.memory.tables import LIVE, Tasks
from absurd_contimg.backends.memory.transaction import Transaction
from absurd_contimg.backends.memory.values.text import integer_in, uuid_out
from absurd_contimg.backends.memory.values.times import (
    INFINITY,
    NEG_INFINITY,
    SECOND_US,
    elapsed_us,
    is_finite,
)


def cancel_task(tx: Transaction, queue: str | None, task_id: int | None) -> None:
    """``absurd.cancel_task``."""
    now = tx.session.current_time()
    runs = catalog.runs(tx, queue, ROW_SHARE)
    if task_id is not None:
        for run in runs.of_task(tx, task_id):
            if run.state in LIVE:
                runs.lock(tx, run.run_id)
    tasks = catalog.tasks(tx, queue, ROW_SHARE)
    task = None
    if task_id is not None and tasks.get(tx, task_id) is not None:
        tasks.lock(tx, task_id)
        task = tasks.get(tx, task_id)
    if task is None or task_id is None:
        named = shown(None if task_id is None else uuid_out(task_id))
        raise_exception(f'Task "{named}" not found in queue "{queue}"')
    if task.state not in LIVE:
        return
    cancelled_at = now if task.cancelled_at is None else task.cancelled_at
    tasks = catalog.tasks(tx, queue)
    tasks.put(tx, task_id, task._replace(state="cancelled", cancelled_at=cancelled_at))
    runs = catalog.runs(tx, queue)
    for run in runs.of_task(tx, task_id):
        if run.state in LIVE:
            runs.put(
                tx,
                run.run_id,
                run._replace(state="cancelled", claimed_by=None, claim_expires_at=None),
            )
    waits = catalog.waits(tx, queue)
    for wait in waits.of_task(tx, task_id):
        waits.delete(tx, (wait.run_id, wait.step_name))


def rule_seconds(cancellation: str | None, rule: str) -> int | None:
    """``(cancellation->>rule)::bigint``."""
    text = jsonb.field_text(cancellation, rule)
    return None if text is None else integer_in(text, "bigint")


def rule_applies(task: TaskRow, now: int) -> bool:
    """Whether a rule of a live task cancels it at `now`; 22P02 for a malformed rule."""
    max_delay = rule_seconds(task.cancellation, "max_delay")
    started = task.first_started_at
    if (
        max_delay is not None
        and started is None
        and elapsed_us(now, task.enqueue_at) >= max_delay * SECOND_US
    ):
        return True
    max_duration = rule_seconds(task.cancellation, "max_duration")
    return (
        max_duration is not None
        and started is not None
        and elapsed_us(now, started) >= max_duration * SECOND_US
    )


def rule_due(task: TaskRow) -> int:
    """The earliest moment at which `rule_applies` can be true or raise."""
    try:
        max_delay = rule_seconds(task.cancellation, "max_delay")
        max_duration = rule_seconds(task.cancellation, "max_duration")
    except EngineError:
        return NEG_INFINITY
    since, seconds = task.enqueue_at, max_delay
    if task.first_started_at is not None:
        since, seconds = task.first_started_at, max_duration
    if seconds is None:
        return INFINITY
    return since + seconds * SECOND_US if is_finite(since) else NEG_INFINITY


Tasks.rule_due = staticmethod(rule_due)


def apply_cancellation_rules(tx: Transaction, queue: str | None, now: int) -> None:
    """Cancel every live task whose rule is due, by id, as a claim does first."""
    tasks = catalog.tasks(tx, queue, ACCESS_SHARE)
    if tasks.uncommitted:
        ruled = [row for row in tasks.scan(tx) if row.cancellation is not None]
        candidates = sorted(row for row in ruled if row.state in LIVE)
    elif tasks.deadlines and tasks.deadlines[0][0] <= now:
        candidates = [tasks.rows[task_id] for task_id in tasks.ruled_by(now)]
    else:
        return
    due = tx.session.read_once(
        ("rules", queue), lambda: [task.task_id for task in candidates if rule_applies(task, now)]
    )
    for task_id in due:
        cancel_task(tx, queue, task_id)
