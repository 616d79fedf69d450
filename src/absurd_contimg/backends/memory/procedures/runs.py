"""``claim_task``, ``complete_run``, ``schedule_run``, ``fail_run``, ``extend_claim``."""

from __future__ import annotations

from typing import NamedTuple

from absurd_contimg.backends.memory import catalog, jsonb
from absurd_contimg.backends.memory.errors import EngineError, raise_exception
from absurd_contimg.backends.memory.procedures.checks import (
    checked_integer,
    refuse_ended_run,
    refuse_run,
)
from absurd_contimg.backends.memory.procedures.signatures import procedure
from absurd_contimg.backends.memory.procedures.tasks import (
    cancel_task,
    insert_run,
    retry_delay_seconds,
    rule_applies,
)
from absurd_contimg.backends.memory.schema import (
    Int4,
    Jsonb,
    RunRow,
    TaskRow,
    Text,
    Timestamptz,
    Uuid,
    new_row,
    not_null_violation,
    replacement,
)
from absurd_contimg.backends.memory.tables import LIVE, NO_LEASE, Runs, Tasks, rule_seconds
from absurd_contimg.backends.memory.transaction import LOCK_ROWS, READ, Transaction
from absurd_contimg.backends.memory.values.times import (
    SECOND_US,
    add_us,
    elapsed_us,
    seconds_us,
    timestamptz_out,
)


class Claim(NamedTuple):
    run_id: Uuid
    task_id: Uuid
    attempt: Int4
    task_name: Text
    params: Jsonb
    retry_strategy: Jsonb | None
    max_attempts: Int4 | None
    headers: Jsonb | None
    wake_event: Text | None
    event_payload: Jsonb | None


@procedure("3e2c5f50a55db820")
def claim_task(
    tx: Transaction,
    queue_name: Text | None,
    worker_id: Text | None,
    claim_timeout: Int4 | None = 30,
    qty: Int4 | None = 1,
) -> list[Claim]:
    now = tx.session.current_time()
    timeout = max(30 if claim_timeout is None else claim_timeout, 0)
    worker = worker_id or "worker"
    limit = max(1 if qty is None else qty, 1)
    until = add_us(now, timeout * SECOND_US) if timeout > 0 else None

    tasks = catalog.tasks(tx, queue_name, READ)
    if not tx.alone or tasks.ruled.is_due(now):
        for task_id in tx.read_once(late_tasks, tx, tasks, now):
            cancel_task(tx, queue_name, task_id)
    runs = catalog.runs(tx, queue_name, LOCK_ROWS)
    if not tx.alone or runs.leases.is_due(now):
        sweep_expired_leases(tx, queue_name, now, limit)

    if not tx.alone:  # it now writes
        runs, tasks = catalog.runs(tx, queue_name), catalog.tasks(tx, queue_name)
    waits = catalog.waits(tx, queue_name)
    claims: list[Claim] = []
    for candidate, task in due_runs(tx, runs, tasks, now, limit):
        run = _claimed_run(
            candidate,
            state="running",
            claimed_by=worker,
            claim_expires_at=until,
            started_at=now,
            available_at=now,
        )
        runs.put(tx, run)
        if tasks.rows[task.task_id] is task:  # an update changes a row once, by its first run
            changed = _claimed_task(
                task,
                state="running",
                attempts=max(task.attempts, run.attempt),
                first_started_at=now if task.first_started_at is None else task.first_started_at,
                last_attempt_run=run.run_id,
            )
            tasks.put(tx, changed)
        for wait in waits.where(tx, "run_id", run.run_id):
            if wait.timeout_at is not None and wait.timeout_at <= now:
                waits.delete(tx, (wait.run_id, wait.step_name))
        claims.append(new_row(Claim, (
            run.run_id, task.task_id, run.attempt, task.task_name, task.params,
            task.retry_strategy, task.max_attempts, task.headers, run.wake_event, run.event_payload,
        )))  # fmt: skip
    return claims


_claimed_run = replacement(RunRow, "state claimed_by claim_expires_at started_at available_at")
_claimed_task = replacement(TaskRow, "state attempts first_started_at last_attempt_run")


def late_tasks(tx: Transaction, tasks: Tasks, now: int) -> list[int]:
    """The live tasks that a cancellation rule ends at `now`, by id."""
    candidates: set[TaskRow] = set()
    while (task := tasks.ruled.pop(tx, tasks.rows, now)) is not None:
        candidates.add(task)
    for task in candidates:
        tasks.ruled.push(tasks.rows, task)
    if tasks.uncommitted:
        candidates = {row for row in tasks.scan(tx) if row.cancellation and row.state in LIVE}
    return [task.task_id for task in sorted(candidates) if rule_applies(task, now)]


def sweep_expired_leases(tx: Transaction, queue_name: str | None, now: int, limit: int) -> None:
    """Fail up to `limit` runs whose lease has ended, the longest ended first."""
    runs = catalog.runs(tx, queue_name, LOCK_ROWS)
    expired: dict[int, RunRow] = {}
    passed: list[RunRow] = []
    while len(expired) < limit and (run := runs.leases.pop(tx, runs.rows, now)) is not None:
        if runs.try_lock(tx, run.run_id):
            expired[run.run_id] = run
        else:
            passed.append(run)
    for run in passed:
        runs.leases.push(runs.rows, run)
    for run in expired.values():
        assert run.claim_expires_at is not None
        expired_at = timestamptz_out(run.claim_expires_at, tx.session.zone, iso=True)
        reason = jsonb.build_without_nulls(
            name='"$ClaimTimeout"',
            message='"worker did not finish task within claim interval"',
            workerId=None if run.claimed_by is None else jsonb.dumps(run.claimed_by),
            claimExpiredAt=jsonb.dumps(expired_at),
            attempt=str(run.attempt),
        )
        fail_run(tx, queue_name, run.run_id, reason, None)


def due_runs(
    tx: Transaction, runs: Runs, tasks: Tasks, now: int, limit: int
) -> list[tuple[RunRow, TaskRow]]:
    """Up to `limit` due runs of live tasks in order, both locked; locked ones are skipped."""
    due: dict[int, tuple[RunRow, TaskRow]] = {}
    passed: list[RunRow] = []
    while len(due) < limit and (run := runs.due.pop(tx, runs.rows, now)) is not None:
        task = tasks.rows.get(run.task_id)
        if task is None or task.state not in LIVE:
            passed.append(run)
        elif tx.alone or (runs.try_lock(tx, run.run_id) and tasks.try_lock(tx, run.task_id)):
            due[run.run_id] = run, task
        else:
            passed.append(run)
    for run in passed:
        runs.due.push(runs.rows, run)
    return list(due.values())


@procedure("a347e84bec785a57")
def complete_run(
    tx: Transaction, queue_name: Text | None, run_id: Uuid | None, state: Jsonb | None = None
) -> None:
    now = tx.session.current_time()
    run = catalog.runs(tx, queue_name, LOCK_ROWS).get_for_update(tx, run_id)
    if run is None:
        refuse_run(run_id, "not found", queue_name)
    if run.state != "running":
        refuse_ended_run(run, queue_name)
        refuse_run(run_id, "is not currently running", queue_name)
    runs = catalog.runs(tx, queue_name)
    runs.put(tx, _completed_run(run, state="completed", completed_at=now, result=state))
    tasks = catalog.tasks(tx, queue_name)
    task = tasks.get(tx, run.task_id)
    if task is not None:
        changed = _completed_task(
            task, state="completed", completed_payload=state, last_attempt_run=run.run_id
        )
        tasks.put(tx, changed)
    catalog.waits(tx, queue_name).delete_where(tx, "run_id", run.run_id)


_completed_run = replacement(RunRow, "state completed_at result")
_completed_task = replacement(TaskRow, "state completed_payload last_attempt_run")


@procedure("a004484882a7f8ba")
def schedule_run(
    tx: Transaction, queue_name: Text | None, run_id: Uuid | None, wake_at: Timestamptz | None
) -> None:
    runs = catalog.runs(tx, queue_name, LOCK_ROWS)
    run = runs.get(tx, run_id)
    if run is not None and run.state == "running":
        run = runs.get_for_update(tx, run_id)
    if run is None or run.state != "running":
        refuse_run(run_id, "is not currently running", queue_name)
    runs = catalog.runs(tx, queue_name)
    if wake_at is None:
        raise not_null_violation("available_at", runs.relation_of(run.run_id))
    runs.update(tx, run, state="sleeping", available_at=wake_at, wake_event=None, **NO_LEASE)
    update_task(tx, queue_name, run.task_id, state="sleeping")


def update_task(
    tx: Transaction, queue_name: str | None, task_id: int | None, **changes: object
) -> None:
    """Change these columns of the task, if there is one."""
    tasks = catalog.tasks(tx, queue_name)
    task = tasks.get(tx, task_id)
    if task is not None:
        tasks.update(tx, task, **changes)


@procedure("554984a4a9c64582")
def fail_run(
    tx: Transaction,
    queue_name: Text | None,
    run_id: Uuid | None,
    reason: Jsonb | None,
    retry_at: Timestamptz | None = None,
) -> None:
    now = tx.session.current_time()
    run = catalog.runs(tx, queue_name, LOCK_ROWS).get_for_update(tx, run_id)
    if run is None:
        refuse_run(run_id, "cannot be failed", queue_name)
    refuse_ended_run(run, queue_name)
    if run.state not in ("running", "sleeping"):
        refuse_run(run_id, "cannot be failed", queue_name)
    task = catalog.tasks(tx, queue_name, LOCK_ROWS).get_for_update(tx, run.task_id)
    runs = catalog.runs(tx, queue_name)
    runs.update(tx, run, state="failed", wake_event=None, failed_at=now, failure_reason=reason)

    next_attempt = checked_integer(run.attempt + 1)
    state_after, recorded_attempt, last_attempt_run = "failed", run.attempt, run.run_id
    cancelled_at: int | None = None
    max_attempts = None if task is None else task.max_attempts
    if max_attempts is None or next_attempt <= max_attempts:
        available_at = _next_available(tx, task, run.attempt, retry_at, now)
        if _exceeds_max_duration(task, available_at):
            state_after, cancelled_at = "cancelled", now
        elif available_at is not None:
            state_after = "sleeping" if available_at > now else "pending"
            recorded_attempt, last_attempt_run = next_attempt, tx.session.next_uuid()
            new_run = (last_attempt_run, run.task_id, next_attempt, state_after, available_at, now)
            insert_run(tx, queue_name, *new_run)

    tasks = catalog.tasks(tx, queue_name)
    if task is not None:
        tasks.update(
            tx,
            task,
            state=state_after,
            attempts=max(task.attempts, recorded_attempt),
            last_attempt_run=last_attempt_run,
            cancelled_at=cancelled_at if task.cancelled_at is None else task.cancelled_at,
        )
    catalog.waits(tx, queue_name).delete_where(tx, "run_id", run.run_id)


def _next_available(
    tx: Transaction, task: TaskRow | None, attempt: int, retry_at: int | None, now: int
) -> int | None:
    """When the next attempt may start; None where an old invalid strategy ends the task."""
    if retry_at is not None:
        return max(retry_at, now)
    try:
        delay = retry_delay_seconds(tx, None if task is None else task.retry_strategy, attempt)
    except EngineError as error:
        if error.sqlstate != "AB003":
            raise
        return None
    return max(add_us(now, seconds_us(delay)), now)


def _exceeds_max_duration(task: TaskRow | None, available_at: int | None) -> bool:
    """Whether the next attempt would only start after ``max_duration``."""
    if task is None or task.cancellation is None:
        return False
    max_duration = rule_seconds(task, "max_duration")
    if max_duration is None or task.first_started_at is None or available_at is None:
        return False
    return elapsed_us(available_at, task.first_started_at) >= max_duration * SECOND_US


@procedure("b92693ba920613a2")
def extend_claim(
    tx: Transaction, queue_name: Text | None, run_id: Uuid | None, extend_by: Int4 | None
) -> None:
    now = tx.session.current_time()
    if extend_by is None or extend_by <= 0:
        raise_exception("extend_by must be > 0")
    run, task = locked_run_and_task(tx, queue_name, run_id)
    if run is None or task is None:
        refuse_run(run_id, "not found", queue_name)
    refuse_ended_run(run, queue_name, task)
    if run.state != "running":
        refuse_run(run_id, "is not currently running", queue_name)
    if run.claim_expires_at is None:
        refuse_run(run_id, "does not have an active claim", queue_name)
    expires = add_us(now, extend_by * SECOND_US)
    catalog.runs(tx, queue_name).update(tx, run, claim_expires_at=expires)


def locked_run_and_task(
    tx: Transaction, queue_name: str | None, run_id: int | None
) -> tuple[RunRow | None, TaskRow | None]:
    """The run joined with its task, both locked; neither if either is missing."""
    runs = catalog.runs(tx, queue_name, LOCK_ROWS)
    tasks = catalog.tasks(tx, queue_name, LOCK_ROWS)
    run = runs.get(tx, run_id)
    if run is None or tasks.get(tx, run.task_id) is None:
        return None, None
    return runs.get_for_update(tx, run_id), tasks.get_for_update(tx, run.task_id)
