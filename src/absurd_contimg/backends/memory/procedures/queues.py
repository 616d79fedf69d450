"""Queues: ``create_queue``, ``drop_queue``, ``list_queues`` and their policies."""

from __future__ import annotations

from typing import Any

from absurd_contimg.backends.memory import catalog, jsonb
from absurd_contimg.backends.memory.catalog import CLASSES, Relation, truncated
from absurd_contimg.backends.memory.errors import raise_exception
from absurd_contimg.backends.memory.locks import TableLock
from absurd_contimg.backends.memory.procedures.partitions import (
    detach_default_partitions,
    drop_table,
    ensure_partitions,
)
from absurd_contimg.backends.memory.procedures.registry import (
    not_null,
    require_queue,
    validate_queue_name,
)
from absurd_contimg.backends.memory.rows import QueueRow
from absurd_contimg.backends.memory.tables import Tasks
from absurd_contimg.backends.memory.transaction import Transaction
from absurd_contimg.backends.memory.values.intervals import interval_in
from absurd_contimg.backends.memory.values.text import integer_in
from absurd_contimg.backends.memory.values.times import Interval

STORAGE_MODES = ("unpartitioned", "partitioned")
INDEXED = {"r": TableLock.SHARE, "t": TableLock.SHARE, "w": TableLock.SHARE, "e": TableLock.SHARE}
"""Tables on which ``create index if not exists`` is run, which locks them even if it exists."""


def create_queue(
    tx: Transaction, queue: str | None, storage_mode: str | None = "unpartitioned"
) -> None:
    """``absurd.create_queue``."""
    name = validate_queue_name(queue)
    mode = ("" if storage_mode is None else storage_mode).strip(" ").lower()
    if mode not in STORAGE_MODES:
        shown = "<NULL>" if storage_mode is None else storage_mode
        raise_exception(f'Unsupported queue storage mode "{shown}"')
    queues = catalog.queues(tx, TableLock.ROW_EXCLUSIVE)
    created = QueueRow(name, tx.session.current_time(), mode)
    queues.await_change(tx, name)
    existing = queues.get(tx, name)
    if existing is None:
        existing = created
        queues.put(tx, name, created)
    if existing.storage_mode != mode:
        raise_exception(
            f'Queue "{name}" already exists with storage mode "{existing.storage_mode}"'
        )
    ensure_queue_tables(tx, name)


def ensure_queue_tables(tx: Transaction, queue: str | None) -> None:
    """``absurd.ensure_queue_tables``."""
    name = validate_queue_name(queue)
    row = catalog.queues(tx).get(tx, name)
    partitioned = row is not None and row.storage_mode == "partitioned"
    for letter in "trcewi" if partitioned else "trcew":
        relation_name = truncated(f"{letter}_{name}")
        if catalog.find(tx, relation_name) is None:
            table = CLASSES[letter]()
            table.name = relation_name
            if partitioned and letter in "trcw":
                table.partitions = ()
            if isinstance(table, Tasks):
                table.unique_key = not partitioned
            catalog.relations(tx).put(tx, relation_name, Relation(relation_name, letter, table))
            tx.lock_table(relation_name, TableLock.ACCESS_EXCLUSIVE)
    for letter, mode in INDEXED.items():
        catalog.relation(tx, f"{letter}_{name}", mode)
    if partitioned:
        ensure_partitions(tx, name)


def drop_queue(tx: Transaction, queue: str | None) -> None:
    """``absurd.drop_queue``."""
    queues = catalog.queues(tx, TableLock.ROW_EXCLUSIVE)
    if queue is None or queues.get(tx, queue) is None:
        return
    for letter in "iwecrt":
        relation = catalog.find(tx, truncated(f"{letter}_{queue}"))
        if relation is not None:
            drop_table(tx, relation)
    queues.delete(tx, queue)


def list_queues(tx: Transaction) -> list[str]:
    """``absurd.list_queues``."""
    return sorted((row.queue_name for row in catalog.queues(tx).scan(tx)), key=str.encode)


Policy = tuple[str, str, str, Interval, Interval, Interval, int, str, Interval]
"""The columns of ``absurd.queues`` without ``created_at``."""


def get_queue_policy(tx: Transaction, queue: str | None) -> list[Policy]:
    """``absurd.get_queue_policy``."""
    row = None if queue is None else catalog.queues(tx).get(tx, queue)
    return [] if row is None else [(row[0], *row[2:])]


POLICY_KEYS = (
    "partition_lookahead",
    "partition_lookback",
    "cleanup_ttl",
    "cleanup_limit",
    "detach_mode",
    "detach_min_age",
    "default_partition",
)


def set_queue_policy(tx: Transaction, queue: str | None, policy: str | None) -> None:
    """``absurd.set_queue_policy``."""
    name = validate_queue_name(queue)
    policy = jsonb.EMPTY if policy is None else policy
    if jsonb.kind(policy) != "object":
        raise_exception("Queue policy must be a JSON object")
    for key in jsonb.keys(policy):
        if key not in POLICY_KEYS:
            raise_exception(f'Unsupported queue policy key "{key}"')
    require_queue(tx, name)
    queues = catalog.queues(tx, TableLock.ROW_EXCLUSIVE)
    queues.lock(tx, name)
    row = queues.get(tx, name)
    assert row is not None
    changes = _changes(policy)
    _check_changes({**row._asdict(), **changes})
    if row.storage_mode != "partitioned" and jsonb.has_key(policy, "default_partition"):
        raise_exception("default_partition policy is only supported for partitioned queues")
    changed = row._replace(**changes)
    not_null("queues", "queues", changed)
    queues.put(tx, name, changed)
    if row.storage_mode == "partitioned" and row.default_partition != changed.default_partition:
        if changed.default_partition == "enabled":
            ensure_partitions(tx, name)
        else:
            detach_default_partitions(tx, name)


def _changes(policy: str) -> dict[str, Any]:
    """The named fields, cast to their types in the order in which the procedure does it."""
    changes: dict[str, Any] = {}
    for key in POLICY_KEYS:
        if not jsonb.has_key(policy, key):
            continue
        text = jsonb.field_text(policy, key)
        if key in ("detach_mode", "default_partition"):
            changes[key] = (text or "").strip(" ").lower()
        elif text is None:
            changes[key] = None
        elif key == "cleanup_limit":
            changes[key] = integer_in(text)
        else:
            changes[key] = interval_in(text)
    return changes


def _check_changes(fields: dict[str, Any]) -> None:
    _check_not_negative(fields, "partition_lookahead")
    _check_not_negative(fields, "partition_lookback")
    _check_not_negative(fields, "cleanup_ttl")
    if fields["cleanup_limit"] is not None and fields["cleanup_limit"] < 1:
        raise_exception("cleanup_limit must be at least 1")
    if fields["detach_mode"] not in ("none", "empty"):
        raise_exception(f'Unsupported detach mode "{fields["detach_mode"]}"')
    _check_not_negative(fields, "detach_min_age")
    if fields["default_partition"] not in ("enabled", "disabled"):
        raise_exception(f'Unsupported default_partition mode "{fields["default_partition"]}"')


def _check_not_negative(fields: dict[str, Any], name: str) -> None:
    span: Interval | None = fields[name]
    if span is not None and span.span() < 0:
        raise_exception(f"{name} must be non-negative")
