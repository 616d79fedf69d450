"""``cleanup_tasks``, ``cleanup_events``, ``cleanup_all_queues``."""

from __future__ import annotations

from collections.abc import Hashable
from heapq import nsmallest
from typing import Any, NamedTuple, TypeVar

from absurd_contimg.backends.memory import catalog
from absurd_contimg.backends.memory.catalog import AnyTable
from absurd_contimg.backends.memory.errors import EngineError, raise_exception
from absurd_contimg.backends.memory.procedures.checks import (
    checked_integer,
    is_partitioned,
    require_queue,
)
from absurd_contimg.backends.memory.procedures.signatures import procedure
from absurd_contimg.backends.memory.schema import Int4, TaskRow, Text
from absurd_contimg.backends.memory.tables import LIVE, Events, Runs, Tasks
from absurd_contimg.backends.memory.transaction import Transaction
from absurd_contimg.backends.memory.values.times import SECOND_US, add_us

T = TypeVar("T")
_Tables = tuple[AnyTable, ...]


class Cleaned(NamedTuple):
    queue_name: Text
    tasks_deleted: Int4
    events_deleted: Int4


@procedure("f910961cc5661f3d")
def cleanup_tasks(
    tx: Transaction, queue_name: Text | None, ttl_seconds: Int4 | None, limit: Int4 | None = 1000
) -> Int4:
    cutoff = _cutoff(tx, ttl_seconds)
    partitioned = is_partitioned(tx, queue_name)
    tasks = catalog.tasks(tx, queue_name)
    runs = catalog.runs(tx, queue_name)
    of_tasks: _Tables = catalog.waits(tx, queue_name), catalog.checkpoints(tx, queue_name), runs
    if partitioned:
        of_tasks = (*of_tasks, catalog.keys(tx, queue_name))
    rows = tx.read_once(_old_tasks, tx, tasks, runs, of_tasks, cutoff, limit)
    return sum(table.delete(tx, key) and table is tasks for table, key in rows)


def _old_tasks(
    tx: Transaction, tasks: Tasks, runs: Runs, of_tasks: _Tables, cutoff: int, limit: int | None
) -> list[tuple[AnyTable, Hashable]]:
    """The keys of tasks that ended before `cutoff`, each after those of its rows elsewhere."""
    ended = ((_terminal_at(tx, runs, task), task.task_id) for task in tasks.scan(tx))
    old = [(at, task_id) for at, task_id in ended if at is not None and at < cutoff]
    keys: list[tuple[AnyTable, Hashable]] = []
    for _, task_id in _earliest(old, limit):
        for table in of_tasks:
            keys += [(table, table.key_of(row)) for row in table.where(tx, "task_id", task_id)]
        keys.append((tasks, task_id))
    return keys


def _terminal_at(tx: Transaction, runs: Runs, task: TaskRow) -> int | None:
    """When the task ended; None while it is live or where no row tells."""
    if task.state in LIVE:
        return None
    if task.state == "cancelled":
        return task.cancelled_at
    run = runs.get(tx, task.last_attempt_run)
    if run is None:
        return None
    return run.completed_at if task.state == "completed" else run.failed_at


def _cutoff(tx: Transaction, ttl_seconds: int | None) -> int:
    now = tx.session.current_time()
    if ttl_seconds is None or ttl_seconds < 0:
        raise_exception("TTL must be a non-negative number of seconds")
    return add_us(now, -ttl_seconds * SECOND_US)


def _earliest(items: list[tuple[int, T]], limit: int | None) -> list[tuple[int, T]]:
    """``order by ... limit``; ties in the order of the rows."""
    if limit is None:
        return items
    if limit < 0:
        raise EngineError("2201W", "LIMIT must not be negative")
    return nsmallest(limit, items, key=lambda item: item[0])


@procedure("539a571a1849c752")
def cleanup_events(
    tx: Transaction, queue_name: Text | None, ttl_seconds: Int4 | None, limit: Int4 | None = 1000
) -> Int4:
    cutoff = _cutoff(tx, ttl_seconds)
    events = catalog.events(tx, queue_name)
    old = tx.read_once(_old_events, tx, events, cutoff, limit)
    return sum(events.delete(tx, name) for _, name in old)


def _old_events(
    tx: Transaction, events: Events, cutoff: int, limit: int | None
) -> list[tuple[int, str]]:
    rows = (row for row in events.scan(tx) if row.emitted_at < cutoff)
    return _earliest([(row.emitted_at, row.event_name) for row in rows], limit)


@procedure("097a8cc0432ab36f")
def cleanup_all_queues(tx: Transaction, queue_name: Text | None = None) -> list[Cleaned]:
    require_queue(tx, queue_name)
    answer: list[Cleaned] = []
    for row in catalog.queue_rows(tx, queue_name):
        if row.cleanup_ttl.is_infinite:
            raise EngineError("0A000", "cannot convert infinity to integer")
        ttl = max(checked_integer(row.cleanup_ttl.epoch_us() // SECOND_US), 0)
        arguments: Any = (tx, row.queue_name, ttl, row.cleanup_limit)
        answer.append(
            Cleaned(row.queue_name, cleanup_tasks(*arguments), cleanup_events(*arguments))
        )
    return answer
