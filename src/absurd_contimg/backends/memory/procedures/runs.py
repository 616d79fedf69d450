"""The life of a run: ``claim_task``, ``complete_run``, ``schedule_run``, ``fail_run``,
``extend_claim``."""

from __future__ import annotations

from absurd_contimg.backends.memory import catalog, jsonb
from absurd_contimg.backends.memory.errors import (
    EngineError,
    raise_exception,
    run_already_failed,
    shown,
    task_cancelled,
)
from absurd_contimg.backends.memory.locks import ROW_SHARE
from absurd_contimg.backends.memory.procedures.cancellation import (
    apply_cancellation_rules,
    rule_seconds,
)
from absurd_contimg.backends.memory.procedures.tasks import (
    checked_integer,
    insert_run,
    retry_delay_seconds,
)
from absurd_contimg.backends.memory.rows import RunRow, TaskRow, made
from absurd_contimg.backends.memory.tables import LIVE, Runs, Tasks
from absurd_contimg.backends.memory.transaction import Transaction
from absurd_contimg.backends.memory.values.text import uuid_out
from absurd_contimg.backends.memory.values.times import SECOND_US, add_us, elapsed_us, seconds_us
from absurd_contimg.backends.memory.values.timestamps import timestamptz_out

Claimed = tuple[int, int, int, str, str, str | None, int | None, str | None, str | None, str | None]
"""run_id, task_id, attempt, task_name, params, retry_strategy, max_attempts, headers,
wake_event, event_payload."""


def named(run_id: int | None) -> str:
    """A run id as messages show it."""
    return shown(None if run_id is None else uuid_out(run_id))


def claim_task(
    tx: Transaction,
    queue: str | None,
    worker_id: str | None,
    claim_timeout: int | None = 30,
    qty: int | None = 1,
) -> list[Claimed]:
    """``absurd.claim_task``."""
    now = tx.session.current_time()
    timeout = max(30 if claim_timeout is None else claim_timeout, 0)
    worker = worker_id or "worker"
    limit = max(1 if qty is None else qty, 1)
    until = add_us(now, timeout * SECOND_US) if timeout > 0 else None

    apply_cancellation_rules(tx, queue, now)
    sweep_expired_leases(tx, queue, now, limit)

    runs = catalog.runs(tx, queue)
    tasks = catalog.tasks(tx, queue)
    waits = catalog.waits(tx, queue)
    candidates = due_runs(tx, runs, tasks, now, limit)
    claimed: list[Claimed] = []
    for run, task in candidates:
        (
            run_id, task_id, attempt, _, _, _, _, wake_event, event_payload,
            _, completed_at, failed_at, result, failure_reason, created_at,
        ) = run  # fmt: skip
        (
            _, task_name, params, headers, retry_strategy, max_attempts, cancellation, enqueue_at,
            first_started_at, _, attempts, _, completed_payload, cancelled_at, key,
        ) = task  # fmt: skip
        row = made(RunRow, (
            run_id, task_id, attempt, "running", worker, until, now, wake_event, event_payload,
            now, completed_at, failed_at, result, failure_reason, created_at,
        ))  # fmt: skip
        runs.put(tx, run_id, row)
        if tasks.rows[task_id] is task:  # a task is updated once, by its first run
            if first_started_at is None:
                first_started_at = now
            attempts = max(attempts, attempt)
            updated = made(TaskRow, (
                task_id, task_name, params, headers, retry_strategy, max_attempts, cancellation,
                enqueue_at, first_started_at, "running", attempts, run_id, completed_payload,
                cancelled_at, key,
            ))  # fmt: skip
            tasks.put(tx, task_id, updated)
        if waits.rows or waits.uncommitted:
            for wait in waits.of_run(tx, run_id):
                if wait.timeout_at is not None and wait.timeout_at <= now:
                    waits.delete(tx, (wait.run_id, wait.step_name))
        answer = (
            run_id, task_id, attempt, task_name, params, retry_strategy, max_attempts,
            headers, wake_event, event_payload,
        )  # fmt: skip
        claimed.append(answer)
    return claimed


def due_runs(
    tx: Transaction, runs: Runs, tasks: Tasks, now: int, limit: int
) -> list[tuple[RunRow, TaskRow]]:
    """Up to `limit` due runs in order, locked with their tasks; locked ones are skipped."""
    found: list[tuple[RunRow, TaskRow]] = []
    passed: list[RunRow] = []
    seen: set[int] = set()
    while len(found) < limit:
        run = runs.pop_due(now)
        if run is None:
            break
        if run.run_id in seen:
            continue
        seen.add(run.run_id)
        passed.append(run)
        task = tasks.rows.get(run.task_id)
        if task is None or task.state not in LIVE:
            continue
        if tx.alone:
            found.append((run, task))
        elif runs.may_lock(tx, run.run_id) and tasks.may_lock(tx, task.task_id):
            runs.lock(tx, run.run_id)
            tasks.lock(tx, task.task_id)
            found.append((run, task))
    if len(found) < len(passed):
        taken = {run.run_id for run, _ in found}
        for run in passed:
            if run.run_id not in taken:
                runs.push_due(run)
    return found


def sweep_expired_leases(tx: Transaction, queue: str | None, now: int, limit: int) -> None:
    """Fail up to `limit` runs whose lease has ended, the longest ended first."""
    runs = catalog.runs(tx, queue, ROW_SHARE)
    if not runs.leases or runs.leases[0][0] > now:
        return
    zone = tx.session.zone
    for run in _expired_runs(tx, runs, now, limit):
        assert run.claim_expires_at is not None
        expired_at = timestamptz_out(run.claim_expires_at, zone, iso=True)
        fail_run(
            tx,
            queue,
            run.run_id,
            jsonb.build_without_nulls(
                name='"$ClaimTimeout"',
                message='"worker did not finish task within claim interval"',
                workerId=None if run.claimed_by is None else jsonb.dumps(run.claimed_by),
                claimExpiredAt=jsonb.dumps(expired_at),
                attempt=str(run.attempt),
            ),
            None,
        )


def _expired_runs(tx: Transaction, runs: Runs, now: int, limit: int) -> list[RunRow]:
    found: list[RunRow] = []
    passed: list[RunRow] = []
    seen: set[int] = set()
    while len(found) < limit:
        run = runs.pop_expired(now)
        if run is None:
            break
        if run.run_id in seen:
            continue
        seen.add(run.run_id)
        passed.append(run)
        if runs.may_lock(tx, run.run_id):
            runs.lock(tx, run.run_id)
            found.append(run)
    for run in passed:
        runs.push_expired(run)
    return found


def locked_run(tx: Transaction, runs: Runs, run_id: int | None) -> RunRow | None:
    """``select ... for update`` on one run."""
    if run_id is not None and tx.alone:
        return runs.rows.get(run_id)
    if run_id is None or runs.get(tx, run_id) is None:
        return None
    runs.lock(tx, run_id)
    return runs.get(tx, run_id)


def refuse_ended_run(run: RunRow, queue: str | None) -> None:
    """AB001 for a cancelled run, AB002 for a failed one."""
    if run.state == "cancelled":
        raise task_cancelled()
    if run.state == "failed":
        raise run_already_failed(uuid_out(run.run_id), str(queue))


def delete_waits_of(tx: Transaction, queue: str | None, run_id: int) -> None:
    """Forget what the run waited for."""
    waits = catalog.waits(tx, queue)
    if waits.rows or waits.uncommitted:
        for wait in waits.of_run(tx, run_id):
            waits.delete(tx, (wait.run_id, wait.step_name))


def complete_run(
    tx: Transaction, queue: str | None, run_id: int | None, state: str | None = None
) -> None:
    """``absurd.complete_run``."""
    now = tx.session.current_time()
    runs = catalog.runs(tx, queue, ROW_SHARE)
    run = locked_run(tx, runs, run_id)
    if run is None:
        raise_exception(f'Run "{named(run_id)}" not found in queue "{queue}"')
    if run.state != "running":
        refuse_ended_run(run, queue)
        raise_exception(f'Run "{named(run_id)}" is not currently running in queue "{queue}"')
    (
        run_id, task_id, attempt, _, claimed_by, claim_expires_at, available_at, wake_event,
        event_payload, started_at, _, failed_at, _, failure_reason, created_at,
    ) = run  # fmt: skip
    row = made(RunRow, (
        run_id, task_id, attempt, "completed", claimed_by, claim_expires_at, available_at,
        wake_event, event_payload, started_at, now, failed_at, state, failure_reason, created_at,
    ))  # fmt: skip
    catalog.runs(tx, queue).put(tx, run_id, row)
    tasks = catalog.tasks(tx, queue)
    task = tasks.get(tx, task_id)
    if task is not None:
        (
            _, task_name, params, headers, retry_strategy, max_attempts, cancellation, enqueue_at,
            first_started_at, _, attempts, _, _, cancelled_at, key,
        ) = task  # fmt: skip
        updated = made(TaskRow, (
            task_id, task_name, params, headers, retry_strategy, max_attempts, cancellation,
            enqueue_at, first_started_at, "completed", attempts, run_id, state, cancelled_at, key,
        ))  # fmt: skip
        tasks.put(tx, task_id, updated)
    delete_waits_of(tx, queue, run_id)


def schedule_run(
    tx: Transaction, queue: str | None, run_id: int | None, wake_at: int | None
) -> None:
    """``absurd.schedule_run``."""
    runs = catalog.runs(tx, queue, ROW_SHARE)
    run = None if run_id is None else runs.get(tx, run_id)
    if run is not None and run.state == "running":
        run = locked_run(tx, runs, run_id)
    if run is None or run.state != "running":
        raise_exception(f'Run "{named(run_id)}" is not currently running in queue "{queue}"')
    runs = catalog.runs(tx, queue)
    if wake_at is None:
        raise not_null_violation("available_at", runs.name_for(run.run_id))
    runs.put(
        tx,
        run.run_id,
        run._replace(
            state="sleeping",
            claimed_by=None,
            claim_expires_at=None,
            available_at=wake_at,
            wake_event=None,
        ),
    )
    tasks = catalog.tasks(tx, queue)
    task = tasks.get(tx, run.task_id)
    if task is not None:
        tasks.put(tx, task.task_id, task._replace(state="sleeping"))


def not_null_violation(column: str, table: str) -> EngineError:
    """23502."""
    return EngineError(
        "23502",
        f'null value in column "{column}" of relation "{table}" violates not-null constraint',
        table=table,
        column=column,
    )


def fail_run(
    tx: Transaction,
    queue: str | None,
    run_id: int | None,
    reason: str | None,
    retry_at: int | None = None,
) -> None:
    """``absurd.fail_run``."""
    now = tx.session.current_time()
    runs = catalog.runs(tx, queue, ROW_SHARE)
    run = locked_run(tx, runs, run_id)
    if run is None:
        raise_exception(f'Run "{named(run_id)}" cannot be failed in queue "{queue}"')
    refuse_ended_run(run, queue)
    if run.state not in ("running", "sleeping"):
        raise_exception(f'Run "{named(run_id)}" cannot be failed in queue "{queue}"')

    tasks = catalog.tasks(tx, queue, ROW_SHARE)
    task = tasks.get(tx, run.task_id)
    if task is not None:
        tasks.lock(tx, task.task_id)
        task = tasks.get(tx, run.task_id)
    catalog.runs(tx, queue).put(
        tx,
        run.run_id,
        run._replace(state="failed", wake_event=None, failed_at=now, failure_reason=reason),
    )

    next_attempt = checked_integer(run.attempt + 1)
    state_after, recorded, last_run = "failed", run.attempt, run.run_id
    cancelled_at: int | None = None
    attempts_max = None if task is None else task.max_attempts
    if attempts_max is None or next_attempt <= attempts_max:
        available_at = _next_available(task, run.attempt, retry_at, now)
        if _lasts_too_long(task, available_at):
            state_after, cancelled_at = "cancelled", now
        elif available_at is not None:
            state_after = "sleeping" if available_at > now else "pending"
            last_run = tx.session.next_uuid()
            recorded = next_attempt
            insert_run(tx, queue, last_run, run.task_id, next_attempt, state_after, available_at)

    catalog.tasks(tx, queue)
    if task is not None:
        if task.cancelled_at is not None:
            cancelled_at = task.cancelled_at
        tasks.put(
            tx,
            task.task_id,
            task._replace(
                state=state_after,
                attempts=max(task.attempts, recorded),
                last_attempt_run=last_run,
                cancelled_at=cancelled_at,
            ),
        )
    delete_waits_of(tx, queue, run.run_id)


def _next_available(
    task: TaskRow | None, attempt: int, retry_at: int | None, now: int
) -> int | None:
    """When the next attempt may start; None where an old invalid strategy ends the task."""
    available_at = retry_at
    if available_at is None:
        try:
            delay = retry_delay_seconds(None if task is None else task.retry_strategy, attempt)
        except EngineError as error:
            if error.sqlstate != "AB003":
                raise
            return None
        available_at = None if delay is None else add_us(now, seconds_us(delay))
    return available_at if available_at is None else max(available_at, now)


def _lasts_too_long(task: TaskRow | None, available_at: int | None) -> bool:
    """Whether the next attempt would only start after ``max_duration``."""
    if task is None or task.cancellation is None:
        return False
    max_duration = rule_seconds(task.cancellation, "max_duration")
    if max_duration is None or task.first_started_at is None or available_at is None:
        return False
    return elapsed_us(available_at, task.first_started_at) >= max_duration * SECOND_US


def extend_claim(
    tx: Transaction, queue: str | None, run_id: int | None, extend_by: int | None
) -> None:
    """``absurd.extend_claim``."""
    now = tx.session.current_time()
    if extend_by is None or extend_by <= 0:
        raise_exception("extend_by must be > 0")
    run, task = locked_run_and_task(tx, queue, run_id)
    if run is None or task is None:
        raise_exception(f'Run "{named(run_id)}" not found in queue "{queue}"')
    if task.state == "cancelled":
        raise task_cancelled()
    if run.state != "running":
        if run.state == "failed":
            raise run_already_failed(uuid_out(run.run_id), str(queue))
        raise_exception(f'Run "{named(run_id)}" is not currently running in queue "{queue}"')
    if run.claim_expires_at is None:
        raise_exception(f'Run "{named(run_id)}" does not have an active claim in queue "{queue}"')
    expires = add_us(now, extend_by * SECOND_US)
    catalog.runs(tx, queue).put(tx, run.run_id, run._replace(claim_expires_at=expires))


def locked_run_and_task(
    tx: Transaction, queue: str | None, run_id: int | None
) -> tuple[RunRow | None, TaskRow | None]:
    """The run joined with its task, both locked; neither if either is missing."""
    runs = catalog.runs(tx, queue, ROW_SHARE)
    tasks = catalog.tasks(tx, queue, ROW_SHARE)
    run = None if run_id is None else runs.get(tx, run_id)
    task = None if run is None else tasks.get(tx, run.task_id)
    if run is None or task is None:
        return None, None
    runs.lock(tx, run.run_id)
    tasks.lock(tx, task.task_id)
    return runs.get(tx, run.run_id), tasks.get(tx, task.task_id)
