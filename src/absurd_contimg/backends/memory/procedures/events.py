"""Checkpoints and events: what a run has written, and what it waits for."""

from __future__ import annotations

from typing import NamedTuple

from absurd_contimg.backends.memory import catalog, jsonb
from absurd_contimg.backends.memory.errors import EngineError, raise_exception, task_cancelled
from absurd_contimg.backends.memory.procedures.checks import (
    refuse_ended_run,
    refuse_run,
    require_text,
    shown_id,
)
from absurd_contimg.backends.memory.procedures.runs import locked_run_and_task, update_task
from absurd_contimg.backends.memory.procedures.signatures import procedure
from absurd_contimg.backends.memory.schema import (
    Bool,
    CheckpointRow,
    EventRow,
    Int4,
    Jsonb,
    RunRow,
    Text,
    Timestamptz,
    Uuid,
    WaitRow,
    new_row,
    not_null_violation,
)
from absurd_contimg.backends.memory.tables import NO_LEASE
from absurd_contimg.backends.memory.transaction import READ, RowLock, Transaction
from absurd_contimg.backends.memory.values.times import INFINITY, SECOND_US, add_us


class ShownCheckpoint(NamedTuple):
    checkpoint_name: Text
    state: Jsonb | None
    status: Text
    owner_run_id: Uuid | None
    updated_at: Timestamptz


@procedure("9dd08ecfe5480276")
def set_task_checkpoint_state(
    tx: Transaction,
    queue_name: Text | None,
    task_id: Uuid | None,
    step_name: Text | None,
    state: Jsonb | None,
    owner_run: Uuid | None,
    extend_claim_by: Int4 | None = None,
) -> None:
    now = tx.session.current_time()
    step_name = require_text(step_name, "step_name")
    runs = catalog.runs(tx, queue_name, READ)
    tasks = catalog.tasks(tx, queue_name, READ)

    run = runs.get_once(tx, owner_run)
    task = None if run is None else tasks.get_once(tx, run.task_id)
    if run is None or task is None:
        raise_exception(f'Run "{shown_id(owner_run)}" not found for checkpoint')
    refuse_ended_run(run, queue_name, task)

    if extend_claim_by is not None and extend_claim_by > 0:
        runs = catalog.runs(tx, queue_name)
        leased = runs.get(tx, owner_run)
        if leased is not None and leased.state == "running" and leased.claim_expires_at is not None:
            expires = add_us(now, extend_claim_by * SECOND_US)
            runs.update(tx, leased, claim_expires_at=expires)

    checkpoints = catalog.checkpoints(tx, queue_name, READ)
    existing = checkpoints.get_once(tx, (task_id, step_name))
    owner = None if existing is None else runs.get_once(tx, existing.owner_run_id)
    if owner is None or run.attempt >= owner.attempt:
        write_checkpoint(tx, queue_name, task_id, step_name, state, run.run_id, now)


def write_checkpoint(
    tx: Transaction,
    queue_name: str | None,
    task_id: int | None,
    step_name: str | None,
    state: str | None,
    owner_run: int,
    now: int,
) -> None:
    """Insert a committed checkpoint or replace the one of the same name."""
    checkpoints = catalog.checkpoints(tx, queue_name)
    if task_id is None or step_name is None:
        column = "task_id" if task_id is None else "checkpoint_name"
        raise not_null_violation(column, checkpoints.relation_of(task_id))
    row = new_row(CheckpointRow, (task_id, step_name, state, "committed", owner_run, now))
    checkpoints.put(tx, row)


@procedure("a21fa7abcbfc2d1d")
def get_task_checkpoint_state(
    tx: Transaction,
    queue_name: Text | None,
    task_id: Uuid | None,
    step_name: Text | None,
    include_pending: Bool | None = False,
) -> list[ShownCheckpoint]:
    row = catalog.checkpoints(tx, queue_name, READ).get(tx, (task_id, step_name))
    if row is None or not (include_pending or row.status == "committed"):
        return []
    return [ShownCheckpoint(*row[1:])]


@procedure("a870f96176fb4ab9")
def get_task_checkpoint_states(
    tx: Transaction, queue_name: Text | None, task_id: Uuid | None, run_id: Uuid | None
) -> list[ShownCheckpoint]:
    runs = catalog.runs(tx, queue_name, READ)
    run = runs.get(tx, run_id)
    if run is None:
        refuse_run(run_id, "not found", queue_name)
    if task_id is not None and run.task_id != task_id:
        refuse_run(run_id, f'does not belong to task "{shown_id(task_id)}"', queue_name)
    shown: list[ShownCheckpoint] = []
    for row in catalog.checkpoints(tx, queue_name, READ).where(tx, "task_id", task_id):
        owner = runs.get(tx, row.owner_run_id)
        if row.status == "committed" and (owner is None or owner.attempt <= run.attempt):
            shown.append(ShownCheckpoint(*row[1:]))
    return sorted(shown, key=lambda row: row.updated_at)


_EPOCH = 0


class Awaited(NamedTuple):
    should_suspend: Bool
    payload: Jsonb | None


@procedure("637100f67920d230")
def await_event(
    tx: Transaction,
    queue_name: Text | None,
    task_id: Uuid | None,
    run_id: Uuid | None,
    step_name: Text | None,
    event_name: Text | None,
    timeout: Int4 | None = None,
) -> Awaited:
    now = tx.session.current_time()
    event_name = require_text(event_name, "event_name")
    timeout_at: int | None = None
    if timeout is not None:
        if timeout < 0:
            raise_exception("timeout must be non-negative")
        timeout_at = add_us(now, timeout * SECOND_US)

    checkpoints = catalog.checkpoints(tx, queue_name, READ)
    checkpoint = checkpoints.get_once(tx, (task_id, step_name))
    if checkpoint is not None and checkpoint.state is not None:
        return Awaited(False, checkpoint.state)

    event_payload = _share_event(tx, queue_name, event_name)
    run, task = locked_run_and_task(tx, queue_name, run_id)
    if run is None or task is None:
        raise_exception(f'Run "{shown_id(run_id)}" not found while awaiting event')
    if task.state == "cancelled":
        raise task_cancelled()

    resolved: str | None = None
    received = run.event_payload
    if received is not None:
        run = catalog.runs(tx, queue_name).update(tx, run, event_payload=None)
        if event_payload is not None and jsonb.equal(event_payload, received):
            resolved = received
    if run.state != "running":
        raise_exception(f'Run "{shown_id(run_id)}" must be running to await events')
    if resolved is None:
        resolved = event_payload
    if resolved is not None:
        write_checkpoint(tx, queue_name, task_id, step_name, resolved, run.run_id, now)
        return Awaited(False, resolved)

    if run.wake_event == event_name and received is None:  # resumed because of the timeout
        catalog.runs(tx, queue_name).update(tx, run, wake_event=None)
        return Awaited(False, None)

    _write_wait(tx, queue_name, task_id, run, step_name, event_name, timeout_at, now)
    catalog.runs(tx, queue_name).update(
        tx,
        run,
        state="sleeping",
        available_at=INFINITY if timeout_at is None else timeout_at,
        wake_event=event_name,
        event_payload=None,
        **NO_LEASE,
    )
    update_task(tx, queue_name, task_id, state="sleeping")
    return Awaited(True, None)


def _share_event(tx: Transaction, queue_name: str | None, event_name: str) -> str | None:
    """The event's payload, its row locked against an emit; a placeholder where it has none."""
    events = catalog.events(tx, queue_name)
    if events.rows.get(event_name) is None:
        events.put(tx, EventRow(event_name, None, _EPOCH))
    events.lock(tx, event_name, RowLock.SHARE)
    event = events.get(tx, event_name)
    return None if event is None else event.payload


def _write_wait(
    tx: Transaction,
    queue_name: str | None,
    task_id: int | None,
    run: RunRow,
    step_name: str | None,
    event_name: str,
    timeout_at: int | None,
    now: int,
) -> None:
    """Insert the wait, or give the one of the same step this event; its task stays."""
    waits = catalog.waits(tx, queue_name)
    if task_id is None or step_name is None:
        column = "task_id" if task_id is None else "step_name"
        raise not_null_violation(column, waits.relation_of(run.run_id))
    waiting = waits.get(tx, (run.run_id, step_name))
    owner = task_id if waiting is None else waiting.task_id
    waits.put(tx, WaitRow(owner, run.run_id, step_name, event_name, timeout_at, now))


@procedure("4fb5541e0ea1f08c")
def emit_event(
    tx: Transaction, queue_name: Text | None, event_name: Text | None, payload: Jsonb | None = None
) -> None:
    now = tx.session.current_time()
    payload = jsonb.NULL if payload is None else payload
    event_name = require_text(event_name, "event_name")
    events = catalog.events(tx, queue_name)
    event = events.rows.get(event_name)
    if event is not None:
        events.lock(tx, event_name, RowLock.NO_KEY_UPDATE)
        if event.payload is not None:
            return
    events.put(tx, EventRow(event_name, payload, now))
    _wake_waiting_runs(tx, queue_name, event_name, payload, now)


def _wake_waiting_runs(
    tx: Transaction, queue_name: str | None, event_name: str, payload: str, now: int
) -> None:
    """One statement of the SQL: each part of it sees the rows as they were before."""
    waits = catalog.waits(tx, queue_name)
    runs = catalog.runs(tx, queue_name)
    catalog.checkpoints(tx, queue_name)
    catalog.tasks(tx, queue_name)
    waiting = waits.where(tx, "event_name", event_name)
    affected = [wait for wait in waiting if wait.timeout_at is None or wait.timeout_at > now]
    updated: dict[int, RunRow] = {}
    for wait in affected:
        run = runs.get(tx, wait.run_id)
        if run is not None and run.state == "sleeping":
            updated[run.run_id] = runs.update(
                tx,
                run,
                state="pending",
                available_at=now,
                wake_event=None,
                event_payload=payload,
                **NO_LEASE,
            )
    steps = [(wait.task_id, wait.step_name) for wait in affected if wait.run_id in updated]
    if len(steps) != len(set(steps)):
        raise EngineError(
            "21000",
            "ON CONFLICT DO UPDATE command cannot affect row a second time",
            hint="Ensure that no rows proposed for insertion within the same command have "
            "duplicate constrained values.",
        )
    for wait in affected:
        if wait.run_id in updated:
            write_checkpoint(
                tx, queue_name, wait.task_id, wait.step_name, payload, wait.run_id, now
            )
    for task_id in dict.fromkeys(run.task_id for run in updated.values()):
        update_task(tx, queue_name, task_id, state="pending")
    for wait in waiting:
        expired = wait.timeout_at is not None and wait.timeout_at <= now
        if expired or wait.run_id in updated:
            waits.delete(tx, (wait.run_id, wait.step_name))
