"""``spawn_task``, ``retry_task`` and the retry strategy."""

from __future__ import annotations

import math

from absurd_contimg.backends.memory import catalog, jsonb
from absurd_contimg.backends.memory.errors import (
    EngineError,
    invalid_strategy,
    raise_exception,
    shown,
)
from absurd_contimg.backends.memory.locks import RowLock, TableLock
from absurd_contimg.backends.memory.rows import KeyRow, RunRow, TaskRow, made
from absurd_contimg.backends.memory.tables import Tasks
from absurd_contimg.backends.memory.transaction import Transaction, WouldBlock
from absurd_contimg.backends.memory.values.text import boolean_in, double_in, integer_in, uuid_out

Spawned = tuple[int | None, int | None, int | None, bool]
"""task_id, run_id, attempt, created."""

_INT4_MIN = -(2**31)
RETRY_DELAY_SECONDS_MAX = 86_400.0
INTEGER_MAX = 2**31 - 1


def retry_delay_seconds(strategy: str | None, attempt: int | None) -> float | None:
    """Seconds before the attempt after `attempt`; AB003 for an invalid strategy."""
    if attempt == _INT4_MIN:
        raise EngineError("22003", "integer out of range")  # by the one that is taken from it
    try:
        return _retry_delay_seconds(strategy, attempt)
    except EngineError as error:
        if error.sqlstate not in ("22P02", "22003"):
            raise
        raise invalid_strategy("retry_strategy contains an invalid number") from None


def _retry_delay_seconds(strategy: str | None, attempt: int | None) -> float | None:
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


def storage_mode_of(tx: Transaction, queue: str | None) -> str:
    """The queue's storage mode; unpartitioned if it is not registered."""
    table = catalog.queues(tx)
    row = None if queue is None else table.get(tx, queue)
    return "unpartitioned" if row is None else row.storage_mode


def spawn_task(
    tx: Transaction,
    queue: str | None,
    task_name: str | None,
    params: str | None,
    options: str | None = jsonb.EMPTY,
) -> Spawned:
    """``absurd.spawn_task``."""
    session = tx.session
    task_id = session.next_uuid()
    run_id = session.next_uuid()
    now = session.current_time()
    if params is None:
        params = jsonb.NULL
    if task_name is None or not task_name.strip(" "):
        raise_exception("task_name must be provided")

    headers = retry_strategy = cancellation = key = None
    max_attempts: int | None = None
    if options is not None and options != jsonb.EMPTY:
        headers = jsonb.field(options, "headers")
        retry_strategy = jsonb.field(options, "retry_strategy")
        retry_delay_seconds(retry_strategy, 1)
        max_attempts = _max_attempts(options)
        cancellation = jsonb.field(options, "cancellation")
        key = jsonb.field_text(options, "idempotency_key")

    row = made(TaskRow, (
        task_id, task_name, params, headers, retry_strategy, max_attempts, cancellation,
        now, None, "pending", 1, run_id, None, None, key,
    ))  # fmt: skip
    if key is None:
        insert_task(tx, catalog.tasks(tx, queue), row)
    elif storage_mode_of(tx, queue) == "partitioned":
        existing = _reserve_key(tx, queue, key, task_id)
        if existing is not None:
            return existing
        insert_task(tx, catalog.tasks(tx, queue), row)
    else:
        tasks = catalog.tasks(tx, queue)
        owner = task_with_key(tx, tasks, key)
        if owner is not None:
            return owner.task_id, owner.last_attempt_run, owner.attempts, False
        insert_task(tx, tasks, row)

    insert_run(tx, queue, run_id, task_id, 1, "pending", now)
    return task_id, run_id, 1, True


def _max_attempts(options: str) -> int | None:
    if not jsonb.has_key(options, "max_attempts"):
        return None
    text = jsonb.field_text(options, "max_attempts")
    value = None if text is None else integer_in(text)
    if value is not None and value < 1:
        raise_exception("max_attempts must be >= 1")
    return value


def insert_task(tx: Transaction, tasks: Tasks, row: TaskRow) -> None:
    """Insert the new task."""
    tasks.put(tx, row.task_id, row)


def insert_run(
    tx: Transaction,
    queue: str | None,
    run_id: int,
    task_id: int,
    attempt: int,
    state: str,
    available_at: int,
) -> None:
    """Insert a run that nobody has claimed yet."""
    created_at = tx.session.current_time()
    row = made(RunRow, (
        run_id, task_id, attempt, state, None, None, available_at, None, None,
        None, None, None, None, None, created_at,
    ))  # fmt: skip
    catalog.runs(tx, queue).put(tx, run_id, row)


def task_with_key(tx: Transaction, tasks: Tasks, key: str) -> TaskRow | None:
    """The task that owns an idempotency key; waits for another's uncommitted one."""
    if tasks.uncommitted:
        for other_id, (holder, before) in tasks.uncommitted.items():
            if holder is tx:
                continue
            current = tasks.rows.get(other_id)  # type: ignore[call-overload]
            for version in (current, before):
                gone = current is None or before is None
                if gone and version is not None and version.idempotency_key == key:
                    raise WouldBlock(holder)
    task_id = tasks.by_key.get(key)
    if task_id is None:
        return None
    tasks.await_change(tx, task_id)
    return tasks.get(tx, task_id)


def _reserve_key(tx: Transaction, queue: str | None, key: str, task_id: int) -> Spawned | None:
    """Reserve the key in ``i_<queue>``; the existing task if it is taken."""
    keys = catalog.keys(tx, queue)
    taken = keys.rows.get(key)
    if taken is None:
        keys.put(tx, key, KeyRow(key, task_id))
        return None
    late = keys.uncommitted.get(key)
    if late is not None and late[0] is not tx:
        raise WouldBlock(late[0])
    tasks = catalog.tasks(tx, queue, TableLock.ACCESS_SHARE)
    keys.lock(tx, key, RowLock.KEY_SHARE)
    task = tasks.get(tx, taken.task_id)
    if task is None:
        raise EngineError(
            "40001",
            f'Idempotency key "{key}" in queue "{queue}" was concurrently cleaned up',
            hint="Retry spawn_task with the same idempotency key.",
        )
    if task.last_attempt_run is None:
        raise_exception(
            f'Idempotency key "{key}" in queue "{queue}" resolved to task '
            f'"{uuid_out(task.task_id)}" without a run'
        )
    return task.task_id, task.last_attempt_run, task.attempts, False


def retry_task(
    tx: Transaction, queue: str | None, task_id: int | None, options: str | None = jsonb.EMPTY
) -> Spawned:
    """``absurd.retry_task``."""
    now = tx.session.current_time()
    spawn_new = False
    requested: int | None = None
    if options is not None:
        if jsonb.has_key(options, "spawn_new"):
            text = jsonb.field_text(options, "spawn_new")
            spawn_new = text is not None and boolean_in(text)
        requested = _max_attempts(options)

    tasks = catalog.tasks(tx, queue, TableLock.ROW_SHARE)
    task = None if task_id is None else tasks.get(tx, task_id)
    if task is not None:
        tasks.lock(tx, task.task_id)
        task = tasks.get(tx, task.task_id)
    named = shown(None if task_id is None else uuid_out(task_id))
    if task is None:
        raise_exception(f'Task "{named}" not found in queue "{queue}"')
    if task.state != "failed":
        raise_exception(f'Task "{named}" is not currently failed in queue "{queue}"')

    if spawn_new:
        attempts_max = task.max_attempts if requested is None else requested
        return spawn_task(
            tx,
            queue,
            task.task_name,
            task.params,
            jsonb.build_without_nulls(
                headers=task.headers,
                retry_strategy=task.retry_strategy,
                max_attempts=None if attempts_max is None else str(attempts_max),
                cancellation=task.cancellation,
            ),
        )

    if requested is None:
        base = task.attempts if task.max_attempts is None else task.max_attempts
        requested = checked_integer(base + 1)
    if requested <= task.attempts:
        raise_exception(
            f"max_attempts ({requested}) must be greater than current attempts ({task.attempts})"
        )
    run_id = tx.session.next_uuid()
    attempt = checked_integer(task.attempts + 1)
    insert_run(tx, queue, run_id, task.task_id, attempt, "pending", now)
    catalog.tasks(tx, queue).put(
        tx,
        task.task_id,
        task._replace(
            state="pending",
            attempts=max(task.attempts, attempt),
            max_attempts=requested,
            last_attempt_run=run_id,
            cancelled_at=None,
        ),
    )
    return task.task_id, run_id, attempt, False


def checked_integer(value: int) -> int:
    """Integer arithmetic's result; 22003 if it does not fit."""
    if not -INTEGER_MAX - 1 <= value <= INTEGER_MAX:
        raise EngineError("22003", "integer out of range")
    return value
