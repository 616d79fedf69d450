"""``await_event`` and ``emit_event``."""

from __future__ import annotations

from absurd_contimg.backends.memory import catalog, jsonb
from absurd_contimg.backends.memory.errors import EngineError, raise_exception, task_cancelled
from absurd_contimg.backends.memory.locks import RowLock, TableLock
from absurd_contimg.backends.memory.procedures.checkpoints import write_checkpoint
from absurd_contimg.backends.memory.procedures.runs import (
    locked_run_and_task,
    named,
    not_null_violation,
)
from absurd_contimg.backends.memory.rows import EventRow, RunRow, WaitRow
from absurd_contimg.backends.memory.transaction import Transaction
from absurd_contimg.backends.memory.values.times import INFINITY, SECOND_US, add_us

Awaited = tuple[bool, str | None]
"""should_suspend, payload."""

_EPOCH = 0


def await_event(  # noqa: PLR0912 - the steps of the SQL, in its order
    tx: Transaction,
    queue: str | None,
    task_id: int | None,
    run_id: int | None,
    step_name: str | None,
    event_name: str | None,
    timeout: int | None = None,
) -> Awaited:
    """``absurd.await_event``."""
    now = tx.session.current_time()
    if event_name is None or not event_name.strip(" "):
        raise_exception("event_name must be provided")
    timeout_at: int | None = None
    if timeout is not None:
        if timeout < 0:
            raise_exception("timeout must be non-negative")
        timeout_at = add_us(now, timeout * SECOND_US)
    available_at = INFINITY if timeout_at is None else timeout_at

    checkpoints = catalog.checkpoints(tx, queue, TableLock.ACCESS_SHARE)
    if task_id is not None and step_name is not None:
        key = (task_id, step_name)
        if tx.alone:
            checkpoint = checkpoints.get(tx, key)
        else:
            checkpoint = tx.session.read_once(
                ("checkpoint", queue, key), lambda: checkpoints.get(tx, key)
            )
        if checkpoint is not None and checkpoint.state is not None:
            return False, checkpoint.state

    payload = _share_event(tx, queue, event_name)
    run, task = locked_run_and_task(tx, queue, run_id)
    if run is None or task is None:
        raise_exception(f'Run "{named(run_id)}" not found while awaiting event')
    if task.state == "cancelled":
        raise task_cancelled()

    runs = catalog.runs(tx, queue, TableLock.ACCESS_SHARE)
    resolved: str | None = None
    received = run.event_payload
    if received is not None:
        runs = catalog.runs(tx, queue)
        run = run._replace(event_payload=None)
        runs.put(tx, run.run_id, run)
        if payload is not None and jsonb.equal(payload, received):
            resolved = received
    if run.state != "running":
        raise_exception(f'Run "{named(run_id)}" must be running to await events')
    if resolved is None and payload is not None:
        resolved = payload
    if resolved is not None:
        write_checkpoint(tx, queue, task_id, step_name, resolved, run.run_id, now)
        return False, resolved

    if run.wake_event == event_name and received is None:  # resumed because time was up
        catalog.runs(tx, queue).put(tx, run.run_id, run._replace(wake_event=None))
        return False, None

    _suspend(tx, queue, task_id, run, step_name, event_name, timeout_at, available_at, now)
    return True, None


def _share_event(tx: Transaction, queue: str | None, event_name: str) -> str | None:
    """The event's payload, its row locked against an emit; a placeholder where it has none."""
    events = catalog.events(tx, queue)
    if event_name not in events.rows or events.row_locks or tx.explicit:
        if events.rows.get(event_name) is None:
            events.put(tx, event_name, EventRow(event_name, None, _EPOCH))
        events.lock(tx, event_name, RowLock.SHARE)
    event = events.get(tx, event_name)
    return None if event is None else event.payload


def _suspend(
    tx: Transaction,
    queue: str | None,
    task_id: int | None,
    run: RunRow,
    step_name: str | None,
    event_name: str,
    timeout_at: int | None,
    available_at: int,
    now: int,
) -> None:
    waits = catalog.waits(tx, queue)
    if task_id is None or step_name is None:
        column = "task_id" if task_id is None else "step_name"
        raise not_null_violation(column, waits.name_for(run.run_id))
    key = (run.run_id, step_name)
    waiting = waits.get(tx, key)
    owner = task_id if waiting is None else waiting.task_id
    waits.put(tx, key, WaitRow(owner, run.run_id, step_name, event_name, timeout_at, now))
    catalog.runs(tx, queue).put(
        tx,
        run.run_id,
        run._replace(
            state="sleeping",
            claimed_by=None,
            claim_expires_at=None,
            available_at=available_at,
            wake_event=event_name,
            event_payload=None,
        ),
    )
    tasks = catalog.tasks(tx, queue)
    task = tasks.get(tx, task_id)
    if task is not None:
        tasks.put(tx, task_id, task._replace(state="sleeping"))


def emit_event(
    tx: Transaction, queue: str | None, event_name: str | None, payload: str | None = None
) -> None:
    """``absurd.emit_event``."""
    now = tx.session.current_time()
    payload = jsonb.NULL if payload is None else payload
    if event_name is None or not event_name.strip(" "):
        raise_exception("event_name must be provided")
    events = catalog.events(tx, queue)
    event = events.rows.get(event_name)
    if event is not None and (event.payload is not None or events.row_locks):
        events.lock(tx, event_name, RowLock.NO_KEY_UPDATE)
    if event is not None and event.payload is not None:
        return
    events.put(tx, event_name, EventRow(event_name, payload, now))
    _wake_waiters(tx, queue, event_name, payload, now)


def _wake_waiters(
    tx: Transaction, queue: str | None, event_name: str, payload: str, now: int
) -> None:
    waits = catalog.waits(tx, queue)
    runs = catalog.runs(tx, queue)
    catalog.checkpoints(tx, queue)
    tasks = catalog.tasks(tx, queue)
    waiting = waits.for_event(tx, event_name)
    expired = [wait for wait in waiting if wait.timeout_at is not None and wait.timeout_at <= now]
    affected = [wait for wait in waiting if wait.timeout_at is None or wait.timeout_at > now]
    woken: dict[int, RunRow] = {}
    for wait in affected:
        run = runs.get(tx, wait.run_id)
        if run is None or run.state != "sleeping" or run.run_id in woken:
            continue
        woken[run.run_id] = run
        runs.put(
            tx,
            run.run_id,
            run._replace(
                state="pending",
                available_at=now,
                wake_event=None,
                event_payload=payload,
                claimed_by=None,
                claim_expires_at=None,
            ),
        )
    written: set[tuple[int, str]] = set()
    for wait in affected:
        if wait.run_id not in woken:
            continue
        key = (wait.task_id, wait.step_name)
        if key in written:
            raise EngineError(
                "21000",
                "ON CONFLICT DO UPDATE command cannot affect row a second time",
                hint="Ensure that no rows proposed for insertion within the same command have "
                "duplicate constrained values.",
            )
        written.add(key)
        write_checkpoint(tx, queue, wait.task_id, wait.step_name, payload, wait.run_id, now)
    for task_id in dict.fromkeys(run.task_id for run in woken.values()):
        task = tasks.get(tx, task_id)
        if task is not None:
            tasks.put(tx, task_id, task._replace(state="pending"))
    gone = {(wait.run_id, wait.step_name) for wait in expired}
    gone |= {(wait.run_id, wait.step_name) for wait in waiting if wait.run_id in woken}
    for key in gone:
        waits.delete(tx, key)
