"""Tasks from ``spawn_task`` to ``get_task_result``; retry strategies and cancellation rules."""

from __future__ import annotations

import math
from typing import NamedTuple

from absurd_contimg.backends.memory import catalog, jsonb
from absurd_contimg.backends.memory.errors import EngineError, invalid_strategy, raise_exception
from absurd_contimg.backends.memory.procedures.checks import (
    INTEGER_MAX,
    checked_integer,
    is_partitioned,
    require_text,
    shown_id,
    validate_queue_name,
)
from absurd_contimg.backends.memory.procedures.signatures import procedure
from absurd_contimg.backends.memory.schema import (
    Bool,
    Float8,
    Int4,
    Jsonb,
    KeyRow,
    RunRow,
    TaskRow,
    Text,
    Uuid,
    new_row,
)
from absurd_contimg.backends.memory.tables import LIVE, NO_LEASE, Tasks, cancellation_rule
from absurd_contimg.backends.memory.transaction import (
    LOCK_ROWS,
    READ,
    RowLock,
    Transaction,
    WouldBlock,
)
from absurd_contimg.backends.memory.values.text import boolean_in, double_in, integer_in
from absurd_contimg.backends.memory.values.times import SECOND_US, elapsed_us

RETRY_DELAY_SECONDS_MAX = 86_400.0


class Spawned(NamedTuple):
    task_id: Uuid
    run_id: Uuid | None
    attempt: Int4
    created: Bool


@procedure("43560fadce2c15e0", attributes="immutable")
def retry_delay_seconds(_: Transaction, strategy: Jsonb | None, attempt: Int4 | None) -> Float8:
    """``absurd.retry_delay_seconds``: AB003 for an invalid strategy."""
    if attempt == -INTEGER_MAX - 1:
        raise EngineError("22003", "integer out of range")  # attempt - 1
    try:
        return _delay_seconds(strategy, attempt)
    except EngineError as error:
        if error.sqlstate not in ("22P02", "22003"):
            raise
        raise invalid_strategy("retry_strategy contains an invalid number") from None


def _delay_seconds(strategy: str | None, attempt: int | None) -> float:
    exponent = max((1 if attempt is None else attempt) - 1, 0)
    if strategy is None:
        return 0.0
    if jsonb.kind(strategy) != "object":
        raise invalid_strategy("retry_strategy must be a JSON object")
    kind = jsonb.field_text(strategy, "kind")
    if kind is None:
        kind = "none"
    if kind not in ("none", "fixed", "exponential"):
        raise invalid_strategy(f'Unsupported retry strategy kind "{kind}"')
    if kind == "none":
        return 0.0
    base = _number(strategy, "base_seconds", 60.0 if kind == "fixed" else 30.0)
    if not 0 <= base <= RETRY_DELAY_SECONDS_MAX:
        raise invalid_strategy("retry_strategy.base_seconds must be between 0 and 86400")
    if kind == "fixed":
        return base
    factor = _number(strategy, "factor", 2.0)
    seconds_max = _number(strategy, "max_seconds", RETRY_DELAY_SECONDS_MAX)
    if factor < 0 or not math.isfinite(factor):
        raise invalid_strategy("retry_strategy.factor must be a finite non-negative number")
    if not 0 <= seconds_max <= RETRY_DELAY_SECONDS_MAX:
        raise invalid_strategy("retry_strategy.max_seconds must be between 0 and 86400")
    if base == 0:
        return 0.0
    return _exponential(base, factor, exponent, seconds_max)


def _exponential(base: float, factor: float, exponent: int, seconds_max: float) -> float:
    """``least(base * factor ^ exponent, max)``; over- and underflow saturate."""
    try:
        power = math.pow(factor, exponent)
        delay = base * power
    except OverflowError:
        delay = power = math.inf
    underflow = (power == 0 and factor != 0) or (delay == 0 and power != 0)
    if math.isinf(delay) or underflow:
        return 0.0 if factor < 1 else seconds_max
    return min(delay, seconds_max)


def _number(strategy: str, key: str, default: float) -> float:
    text = jsonb.field_text(strategy, key)
    return default if text is None else double_in(text)


@procedure("c559abf5a363cef7")
def spawn_task(
    tx: Transaction,
    queue_name: Text | None,
    task_name: Text | None,
    params: Jsonb | None,
    options: Jsonb | None = jsonb.EMPTY,
) -> Spawned:
    task_id, run_id = tx.session.next_uuid(), tx.session.next_uuid()
    now = tx.session.current_time()
    task_name = require_text(task_name, "task_name")

    headers = retry_strategy = cancellation = idempotency_key = None
    max_attempts: int | None = None
    if options is not None and options != jsonb.EMPTY:
        headers = jsonb.field(options, "headers")
        retry_strategy = jsonb.field(options, "retry_strategy")
        retry_delay_seconds(tx, retry_strategy, 1)
        max_attempts = _max_attempts(options)
        cancellation = jsonb.field(options, "cancellation")
        idempotency_key = jsonb.field_text(options, "idempotency_key")

    if idempotency_key is not None:
        if is_partitioned(tx, queue_name):
            existing = _reserve_key(tx, queue_name, idempotency_key, task_id)
        else:
            existing = _task_with_key(tx, catalog.tasks(tx, queue_name), idempotency_key)
        if existing is not None:
            return Spawned(existing.task_id, existing.last_attempt_run, existing.attempts, False)

    params = jsonb.NULL if params is None else params
    row = new_row(TaskRow, (
        task_id, task_name, params, headers, retry_strategy, max_attempts, cancellation, now, None,
        "pending", 1, run_id, None, None, idempotency_key,
    ))  # fmt: skip
    catalog.tasks(tx, queue_name).put(tx, row)
    insert_run(tx, queue_name, run_id, task_id, 1, "pending", now, now)
    return new_row(Spawned, (task_id, run_id, 1, True))


def _max_attempts(options: str) -> int | None:
    text = jsonb.field_text(options, "max_attempts")
    value = None if text is None else integer_in(text)
    if value is not None and value < 1:
        raise_exception("max_attempts must be >= 1")
    return value


def insert_run(
    tx: Transaction,
    queue: str | None,
    run_id: int,
    task_id: int,
    attempt: int,
    state: str,
    at: int,
    now: int,
) -> None:
    """Insert a run that can be claimed from `at` on."""
    row = new_row(RunRow, (
        run_id, task_id, attempt, state, None, None, at, None, None, None, None, None, None, None,
        now,
    ))  # fmt: skip
    catalog.runs(tx, queue).put(tx, row)


def _task_with_key(tx: Transaction, tasks: Tasks, key: str) -> TaskRow | None:
    """The task that owns an idempotency key; waits for another's uncommitted one."""
    for task_id, (holder, before) in tasks.uncommitted.items():
        after = tasks.rows.get(task_id)
        inserted_or_deleted = (before or after) if before is None or after is None else None
        owned = inserted_or_deleted and inserted_or_deleted.idempotency_key
        if holder is not tx and owned == key:
            raise WouldBlock(holder)
    for task_id in tasks.keys_with("idempotency_key", key):
        tasks.await_change(tx, task_id)
        return tasks.get(tx, task_id)
    return None


def _reserve_key(tx: Transaction, queue_name: str | None, key: str, task_id: int) -> TaskRow | None:
    """Reserve the key in ``i_<queue>``; the existing task if it is taken."""
    keys = catalog.keys(tx, queue_name)
    taken = keys.rows.get(key)
    if taken is None:
        keys.put(tx, KeyRow(key, task_id))
        return None
    keys.await_change(tx, key)
    tasks = catalog.tasks(tx, queue_name, READ)
    keys.lock(tx, key, RowLock.KEY_SHARE)
    task = tasks.get(tx, taken.task_id)
    if task is None:
        raise EngineError(
            "40001",
            f'Idempotency key "{key}" in queue "{queue_name}" was concurrently cleaned up',
            hint="Retry spawn_task with the same idempotency key.",
        )
    if task.last_attempt_run is None:
        raise_exception(
            f'Idempotency key "{key}" in queue "{queue_name}" resolved to task '
            f'"{shown_id(task.task_id)}" without a run'
        )
    return task


@procedure("8ce7715a4d8b272e")
def retry_task(
    tx: Transaction,
    queue_name: Text | None,
    task_id: Uuid | None,
    options: Jsonb | None = jsonb.EMPTY,
) -> Spawned:
    now = tx.session.current_time()
    spawn_new = False
    requested_max_attempts: int | None = None
    if options is not None:
        text = jsonb.field_text(options, "spawn_new")
        spawn_new = text is not None and boolean_in(text)
        requested_max_attempts = _max_attempts(options)

    task = catalog.tasks(tx, queue_name, LOCK_ROWS).get_for_update(tx, task_id)
    if task is None:
        raise_exception(f'Task "{shown_id(task_id)}" not found in queue "{queue_name}"')
    if task.state != "failed":
        named = shown_id(task_id)
        raise_exception(f'Task "{named}" is not currently failed in queue "{queue_name}"')

    if spawn_new:
        max_attempts = requested_max_attempts or task.max_attempts
        spawn_options = jsonb.build_without_nulls(
            headers=task.headers,
            retry_strategy=task.retry_strategy,
            max_attempts=None if max_attempts is None else str(max_attempts),
            cancellation=task.cancellation,
        )
        return spawn_task(tx, queue_name, task.task_name, task.params, spawn_options)

    if requested_max_attempts is None:
        base = task.attempts if task.max_attempts is None else task.max_attempts
        requested_max_attempts = checked_integer(base + 1)
    if requested_max_attempts <= task.attempts:
        raise_exception(
            f"max_attempts ({requested_max_attempts}) must be greater than current attempts "
            f"({task.attempts})"
        )
    run_id = tx.session.next_uuid()
    attempt = checked_integer(task.attempts + 1)
    insert_run(tx, queue_name, run_id, task.task_id, attempt, "pending", now, now)
    catalog.tasks(tx, queue_name).update(
        tx,
        task,
        state="pending",
        attempts=max(task.attempts, attempt),
        max_attempts=requested_max_attempts,
        last_attempt_run=run_id,
        cancelled_at=None,
    )
    return Spawned(task.task_id, run_id, attempt, False)


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
    catalog.waits(tx, queue_name).delete_where(tx, "task_id", task_id)


def rule_applies(task: TaskRow, now: int) -> bool:
    """Whether a rule of a live task cancels it at `now`; 22P02 for a malformed rule."""
    since, seconds = cancellation_rule(task)
    return seconds is not None and elapsed_us(now, since) >= seconds * SECOND_US


class Result(NamedTuple):
    task_id: Uuid
    state: Text
    result: Jsonb | None
    failure_reason: Jsonb | None


@procedure("464a8e1adc973350")
def get_task_result(tx: Transaction, queue_name: Text | None, task_id: Uuid | None) -> list[Result]:
    validate_queue_name(tx, queue_name)
    task = catalog.tasks(tx, queue_name, READ).get(tx, task_id)
    runs = catalog.runs(tx, queue_name, READ)
    if task is None:
        return []
    run = runs.get(tx, task.last_attempt_run)
    result = task.completed_payload if task.state == "completed" else None
    reason = run.failure_reason if task.state == "failed" and run is not None else None
    return [Result(task.task_id, task.state, result, reason)]
