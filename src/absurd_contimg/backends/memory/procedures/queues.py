"""Queues and their policies; pg_cron's functions, as they answer on a server without pg_cron."""

from __future__ import annotations

from typing import Any, NamedTuple

from absurd_contimg.backends.memory import catalog, jsonb
from absurd_contimg.backends.memory.catalog import PARTITIONED, Relation, new_table, truncated
from absurd_contimg.backends.memory.errors import raise_exception, shown
from absurd_contimg.backends.memory.procedures.checks import (
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
from absurd_contimg.backends.memory.schema import TABLES, Int4, Int8, Jsonb, QueueRow, Span, Text
from absurd_contimg.backends.memory.transaction import WRITE, TableLock, Transaction
from absurd_contimg.backends.memory.values.intervals import interval_in
from absurd_contimg.backends.memory.values.text import integer_in


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
