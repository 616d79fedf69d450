"""``get_task_result``, ``cleanup_tasks``, ``cleanup_events``, ``cleanup_all_queues``."""

from __future__ import annotations

from heapq import nsmallest
from typing import Any

from absurd_contimg.backends.memory import catalog
from absurd_contimg.backends.memory.catalog import AnyTable
from absurd_contimg.backends.memory.errors import EngineError, raise_exception
from absurd_contimg.backends.memory.locks import TableLock
from absurd_contimg.backends.memory.procedures.registry import require_queue, validate_queue_name
from absurd_contimg.backends.memory.procedures.tasks import INTEGER_MAX, storage_mode_of
from absurd_contimg.backends.memory.rows import TaskRow
from absurd_contimg.backends.memory.tables import LIVE, Runs
from absurd_contimg.backends.memory.transaction import Transaction
from absurd_contimg.backends.memory.values.times import SECOND_US, Interval, add_us

Result = tuple[int, str, str | None, str | None]
"""task_id, state, result, failure_reason."""


def get_task_result(tx: Transaction, queue: str | None, task_id: int | None) -> list[Result]:
    """``absurd.get_task_result``."""
    queue = validate_queue_name(queue)
    tasks = catalog.tasks(tx, queue, TableLock.ACCESS_SHARE)
    runs = catalog.runs(tx, queue, TableLock.ACCESS_SHARE)
    task = None if task_id is None else tasks.get(tx, task_id)
    if task is None:
        return []
    run = None if task.last_attempt_run is None else runs.get(tx, task.last_attempt_run)
    result = task.completed_payload if task.state == "completed" else None
    reason = run.failure_reason if task.state == "failed" and run is not None else None
    return [(task.task_id, task.state, result, reason)]


def cleanup_tasks(
    tx: Transaction, queue: str | None, ttl_seconds: int | None, limit: int | None = 1000
) -> int:
    """``absurd.cleanup_tasks``."""
    cutoff = _cutoff(tx, ttl_seconds)
    partitioned = storage_mode_of(tx, queue) == "partitioned"
    tasks = catalog.tasks(tx, queue)
    runs = catalog.runs(tx, queue)
    waits = catalog.waits(tx, queue)
    checkpoints = catalog.checkpoints(tx, queue)
    keys = catalog.keys(tx, queue) if partitioned else None

    def chosen() -> list[tuple[AnyTable, Any]]:
        ended = [
            (ended_at, task.task_id)
            for task in tasks.scan(tx)
            if (ended_at := terminal_at(tx, runs, task)) is not None and ended_at < cutoff
        ]
        found: list[tuple[AnyTable, Any]] = []
        for _, task_id in _first(ended, limit):
            found += [(waits, waits.key_of(row)) for row in waits.of_task(tx, task_id)]
            found += [
                (checkpoints, checkpoints.key_of(r)) for r in checkpoints.of_task(tx, task_id)
            ]
            found += [(runs, run.run_id) for run in runs.of_task(tx, task_id)]
            if keys is not None:
                found += [(keys, key) for key in keys.by_task.get(task_id, ())]
            found.append((tasks, task_id))
        return found

    to_delete = tx.session.read_once(("ended", queue), chosen)
    return sum(table.delete(tx, key) and table is tasks for table, key in to_delete)


def terminal_at(tx: Transaction, runs: Runs, task: TaskRow) -> int | None:
    """When the task ended; None while it lives or where nothing says so."""
    if task.state in LIVE:
        return None
    if task.state == "cancelled":
        return task.cancelled_at
    run = None if task.last_attempt_run is None else runs.get(tx, task.last_attempt_run)
    if run is None:
        return None
    return run.completed_at if task.state == "completed" else run.failed_at


def _cutoff(tx: Transaction, ttl_seconds: int | None) -> int:
    now = tx.session.current_time()
    if ttl_seconds is None or ttl_seconds < 0:
        raise_exception("TTL must be a non-negative number of seconds")
    return add_us(now, -ttl_seconds * SECOND_US)


def _first(items: list[tuple[int, int]], limit: int | None) -> list[tuple[int, int]]:
    """``order by ... limit``; ties in the order of the rows."""
    if limit is None:
        return items
    if limit < 0:
        raise EngineError("2201W", "LIMIT must not be negative")
    return nsmallest(limit, items, key=lambda item: item[0])


def cleanup_events(
    tx: Transaction, queue: str | None, ttl_seconds: int | None, limit: int | None = 1000
) -> int:
    """``absurd.cleanup_events``."""
    cutoff = _cutoff(tx, ttl_seconds)
    events = catalog.events(tx, queue)

    def chosen() -> list[str]:
        rows = [row for row in events.scan(tx) if row.emitted_at < cutoff]
        first = _first([(row.emitted_at, index) for index, row in enumerate(rows)], limit)
        return [rows[index].event_name for _, index in first]

    names = tx.session.read_once(("old", queue), chosen)
    return sum(events.delete(tx, name) for name in names)


def cleanup_all_queues(tx: Transaction, queue: str | None = None) -> list[tuple[str, int, int]]:
    """``absurd.cleanup_all_queues``: queue_name, tasks_deleted, events_deleted."""
    if queue is not None:
        require_queue(tx, validate_queue_name(queue))
    answer: list[tuple[str, int, int]] = []
    for row in sorted(catalog.queues(tx).scan(tx), key=lambda row: row.queue_name.encode()):
        if queue is not None and row.queue_name != queue:
            continue
        ttl = ttl_seconds(row.cleanup_ttl)
        name, limit = row.queue_name, row.cleanup_limit
        tasks = cleanup_tasks(tx, name, ttl, limit)
        answer.append((name, tasks, cleanup_events(tx, name, ttl, limit)))
    return answer


def ttl_seconds(span: Interval) -> int:
    """``greatest(floor(extract(epoch from span))::integer, 0)``."""
    if span.is_infinite:
        raise EngineError("0A000", "cannot convert infinity to integer")
    seconds = span.epoch_us() // SECOND_US
    if not -INTEGER_MAX - 1 <= seconds <= INTEGER_MAX:
        raise EngineError("22003", "integer out of range")
    return max(seconds, 0)
