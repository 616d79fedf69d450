"""Queues, their policies and their clean-up; pg_cron's functions as without pg_cron."""

from __future__ import annotations

from collections.abc import Hashable
from heapq import nsmallest
from typing import Any, NamedTuple, TypeVar

from absurd_contimg.backends.memory import catalog, jsonb
from absurd_contimg.backends.memory.catalog import (
    PARTITIONED,
    AnyTable,
    Relation,
    new_table,
    truncated,
)
from absurd_contimg.backends.memory.errors import EngineError, raise_exception, shown
from absurd_contimg.backends.memory.procedures.checks import (
    checked_integer,
    is_partitioned,
    require_queue,
    require_text,
    validate_queue_name,
)
from absurd_contimg.backends.memory.procedures.partitions import (
    detach_default_partitions,
    drop_table,
    ensure_partitions,
)
from absurd_contimg.backends.memory.procedures.signatures import procedure
from absurd_contimg.backends.memory.schema import (
    TABLES,
    Int4,
    Int8,
    Jsonb,
    QueueRow,
    Span,
    TaskRow,
    Text,
)
from absurd_contimg.backends.memory.tables import LIVE, Runs, Tasks
from absurd_contimg.backends.memory.transaction import WRITE, TableLock, Transaction
from absurd_contimg.backends.memory.values.intervals import interval_in
from absurd_contimg.backends.memory.values.text import integer_in
from absurd_contimg.backends.memory.values.times import SECOND_US, add_us


@procedure("4f5fe9d54974b24c")
def create_queue(tx: Transaction, queue_name: Text | None, storage_mode: Text | None) -> None:
    name = validate_queue_name(tx, queue_name)
    mode = (storage_mode or "").strip(" ").lower()
    if mode not in ("unpartitioned", "partitioned"):
        raise_exception(f'Unsupported queue storage mode "{shown(storage_mode)}"')
    queues = catalog.queues(tx, WRITE)
    defaults = [column.default for column in TABLES["queues"].columns[3:]]
    new = QueueRow(name, tx.session.current_time(), mode, *defaults)
    queues.await_change(tx, name)
    row = queues.get(tx, name) or queues.put(tx, new)
    if row.storage_mode != mode:
        raise_exception(f'Queue "{name}" already exists with storage mode "{row.storage_mode}"')
    ensure_queue_tables(tx, name)


@procedure("aa08f4c2d18bac11", name="create_queue")
def create_unpartitioned_queue(tx: Transaction, queue_name: Text | None) -> None:
    """``absurd.create_queue`` without a storage mode."""
    create_queue(tx, queue_name, "unpartitioned")


@procedure("519c277b409282b1")
def ensure_queue_tables(tx: Transaction, queue_name: Text | None) -> None:
    validate_queue_name(tx, queue_name)
    partitioned = is_partitioned(tx, queue_name)
    for letter in "trcewi" if partitioned else "trcew":
        name = truncated(f"{letter}_{queue_name}")
        if catalog.find(tx, name) is None:
            table = new_table(letter, name)
            table.partitions = () if partitioned and letter in PARTITIONED else None
            table.unique_key = letter == "t" and not partitioned
            catalog.relations(tx).put(tx, Relation(name, letter, table))
            tx.lock_table(name, TableLock.ACCESS_EXCLUSIVE)
    for letter in "rtwe":  # ``create index if not exists`` locks the table of an existing index
        catalog.relation(tx, f"{letter}_{queue_name}", TableLock.SHARE)
    if partitioned:
        ensure_partitions(tx, queue_name)


@procedure("15ef08651c12d290")
def drop_queue(tx: Transaction, queue_name: Text | None) -> None:
    queues = catalog.queues(tx, WRITE)
    if queues.get(tx, queue_name) is None:
        return
    for letter in "iwecrt":
        relation = catalog.find(tx, truncated(f"{letter}_{queue_name}"))
        if relation is not None:
            drop_table(tx, relation)
    queues.delete(tx, queue_name)


class QueueName(NamedTuple):
    queue_name: Text


@procedure("329ef5ebf2120e67")
def list_queues(tx: Transaction) -> list[QueueName]:
    return [QueueName(row.queue_name) for row in catalog.queue_rows(tx)]


class Policy(NamedTuple):
    """The columns of ``absurd.queues`` without ``created_at``."""

    queue_name: Text
    storage_mode: Text
    default_partition: Text
    partition_lookahead: Span
    partition_lookback: Span
    cleanup_ttl: Span
    cleanup_limit: Int4
    detach_mode: Text
    detach_min_age: Span


@procedure("7482cc6e16c767ce")
def get_queue_policy(tx: Transaction, queue_name: Text | None) -> list[Policy]:
    row = catalog.queues(tx).get(tx, queue_name)
    return [] if row is None else [Policy(row.queue_name, *row[2:])]


_POLICY_KEYS = (
    "partition_lookahead",
    "partition_lookback",
    "cleanup_ttl",
    "cleanup_limit",
    "detach_mode",
    "detach_min_age",
    "default_partition",
)
"""In the order in which the procedure casts and checks them."""


@procedure("50a323a7ce2b6d96")
def set_queue_policy(tx: Transaction, queue_name: Text | None, policy: Jsonb | None) -> None:
    name = validate_queue_name(tx, queue_name)
    policy = jsonb.EMPTY if policy is None else policy
    if jsonb.kind(policy) != "object":
        raise_exception("Queue policy must be a JSON object")
    for key in jsonb.keys(policy):
        if key not in _POLICY_KEYS:
            raise_exception(f'Unsupported queue policy key "{key}"')
    require_queue(tx, name)
    queues = catalog.queues(tx, WRITE)
    row = queues.get_for_update(tx, name)
    assert row is not None
    changes = {key: _cast(policy, key) for key in _POLICY_KEYS if jsonb.has_key(policy, key)}
    changed = row._replace(**changes)
    _check_policy(changed)
    if row.storage_mode != "partitioned" and "default_partition" in changes:
        raise_exception("default_partition policy is only supported for partitioned queues")
    TABLES["queues"].check_row("queues", changed)
    queues.put(tx, changed)
    if row.storage_mode == "partitioned" and row.default_partition != changed.default_partition:
        if changed.default_partition == "enabled":
            ensure_partitions(tx, name)
        else:
            detach_default_partitions(tx, name)


def _cast(policy: str, key: str) -> Any:
    text = jsonb.field_text(policy, key)
    if key in ("detach_mode", "default_partition"):
        return (text or "").strip(" ").lower()
    if text is None:
        return None
    return integer_in(text) if key == "cleanup_limit" else interval_in(text)


def _check_policy(row: QueueRow) -> None:
    """P0001 for the first value that its column's check refuses, in the procedure's words."""
    columns = {column.name: column for column in TABLES["queues"].columns}
    for key in _POLICY_KEYS:
        if not columns[key].accepts(getattr(row, key)):
            refusals = {
                "cleanup_limit": "cleanup_limit must be at least 1",
                "detach_mode": f'Unsupported detach mode "{row.detach_mode}"',
                "default_partition": "Unsupported default_partition mode "
                f'"{row.default_partition}"',
            }
            raise_exception(refusals.get(key, f"{key} must be non-negative"))


_UNAVAILABLE = "pg_cron is not available (missing cron.job)"


class Job(NamedTuple):
    job_name: Text
    job_id: Int8


class DetachJob(NamedTuple):
    job_name: Text
    job_id: Int8
    queue_name: Text
    partition_table: Text
    job_kind: Text


@procedure("6d492dbe1c8a08f8")
def enable_cron(
    tx: Transaction,
    queue_name: Text | None = None,
    partition_schedule: Text | None = "5 * * * *",
    cleanup_schedule: Text | None = "17 * * * *",
    detach_schedule: Text | None = "29 * * * *",
) -> list[Job]:
    require_queue(tx, queue_name)
    require_text(partition_schedule, "Partition schedule")
    require_text(cleanup_schedule, "Cleanup schedule")
    require_text(detach_schedule, "Detach schedule")
    raise_exception(_UNAVAILABLE)


@procedure("efdaed15d94b555f")
def disable_cron(tx: Transaction, queue_name: Text | None = None) -> list[Job]:
    if queue_name is not None:
        validate_queue_name(tx, queue_name)
    raise_exception(_UNAVAILABLE)


@procedure("44b4d0d1d30cafbf")
def schedule_detach_jobs(tx: Transaction, queue_name: Text | None = None) -> list[DetachJob]:
    if queue_name is not None:
        validate_queue_name(tx, queue_name)
    raise_exception(_UNAVAILABLE)


# -- clean-up -----------------------------------------------------------------------------------

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
    tx: Transaction, events: AnyTable, cutoff: int, limit: int | None
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
