"""Weekly partitions by UUIDv7: their bounds, their names, and which may be detached.

A partition is bookkeeping: rows stay in their parent's table, which only refuses what no
partition takes. What can be seen of partitions is as in Postgres.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from absurd_contimg.backends.memory import catalog
from absurd_contimg.backends.memory.catalog import PARTITIONED, AnyTable, Relation, new_table
from absurd_contimg.backends.memory.errors import (
    EngineError,
    Unsupported,
    raise_exception,
    undefined_table,
)
from absurd_contimg.backends.memory.procedures.checks import require_queue
from absurd_contimg.backends.memory.procedures.signatures import procedure
from absurd_contimg.backends.memory.schema import Bool, QueueRow, Text, Timestamptz, Uuid
from absurd_contimg.backends.memory.table import Partition
from absurd_contimg.backends.memory.transaction import TableLock, Transaction
from absurd_contimg.backends.memory.uuid7 import floor_of, timestamp_ms
from absurd_contimg.backends.memory.values.intervals import negate
from absurd_contimg.backends.memory.values.times import (
    DAY_US,
    Interval,
    add_interval,
    is_finite,
    iso_week,
    timestamptz_out,
)

UUIDV7_MS_MAX = 281_474_976_710_655
_WEEK = Interval(days=7)
_INDEX_NAMES_END = ("_pkey", "_key", "_ci", "_sai", "_ti", "_cei", "_eai", "_eni")


@procedure("efb384cc90ff9a5e")
def portable_uuidv7(tx: Transaction) -> Uuid:
    return tx.session.next_uuid()


@procedure("7791e74e8297d130", attributes="immutable strict")
def uuidv7_timestamp(_: Transaction, id_: Uuid) -> Timestamptz | None:
    """``absurd.uuidv7_timestamp``: null for other versions.

    Postgres multiplies an interval in floating point, so times after the year 2255 are rounded.
    """
    ms = timestamp_ms(id_)
    return None if ms is None else round(ms * 1000.0)


@procedure("c1faa2f3bf3bbfd9", attributes="immutable strict")
def uuidv7_floor(tx: Transaction, ts: Timestamptz) -> Uuid:
    if not is_finite(ts):
        raise EngineError("0A000", "cannot convert infinity to bigint")
    ms = ts // 1000
    if not 0 <= ms <= UUIDV7_MS_MAX:
        shown = timestamptz_out(ts, tx.session.zone)
        raise_exception(f'Timestamp "{shown}" is outside UUIDv7 supported range')
    return floor_of(ms)


@procedure("06a42ab0e5bc3265", attributes="immutable strict")
def week_bucket_utc(_: Transaction, ts: Timestamptz) -> Timestamptz:
    """``absurd.week_bucket_utc``: Monday 00:00 UTC of the week."""
    if not is_finite(ts):
        return ts
    day = ts // DAY_US
    return (day - (day + 3) % 7) * DAY_US  # 1970-01-01 was a Thursday


@procedure("1a42e86969f4e57f", attributes="immutable strict")
def partition_week_tag(tx: Transaction, ts: Timestamptz) -> Text:
    """``absurd.partition_week_tag``: last digit of the ISO year and the ISO week."""
    if not is_finite(ts):
        raise EngineError("0A000", "cannot convert infinity to integer")
    year, week = iso_week(week_bucket_utc(tx, ts))
    return f"{year % 10}{week:02}"


@procedure("9f04cb004f69c816")
def ensure_partitions(tx: Transaction, queue_name: Text | None = None) -> None:
    now = tx.session.current_time()
    require_queue(tx, queue_name)
    for row in catalog.queue_rows(tx, queue_name):
        if row.storage_mode == "partitioned":
            _ensure_partitions_of(tx, row, now)


def _ensure_partitions_of(tx: Transaction, row: QueueRow, now: int) -> None:
    zone = tx.session.zone
    week = week_bucket_utc(tx, add_interval(now, negate(row.partition_lookback), zone))
    last = week_bucket_utc(tx, add_interval(now, row.partition_lookahead, zone))
    parents = [f"{letter}_{row.queue_name}" for letter in PARTITIONED]
    if row.default_partition == "enabled":
        for parent in parents:
            _create(tx, parent, Partition(f"{parent}_d"))
    while week <= last:
        tag = partition_week_tag(tx, week)
        following = add_interval(week, _WEEK, zone)  # seven days of the session's calendar
        lower, upper = uuidv7_floor(tx, week), uuidv7_floor(tx, following)
        for parent in parents:
            _create(tx, parent, Partition(f"{parent}_{tag}", lower, upper))
        week = following


def _create(tx: Transaction, parent_name: str, new: Partition) -> None:
    """``create table if not exists ... partition of ...``."""
    if catalog.find(tx, new.name) is not None:
        return
    parent = catalog.relation(tx, parent_name, TableLock.SHARE_UPDATE_EXCLUSIVE)
    table = parent.table
    if table.partitions is None:
        raise EngineError("42P17", f'"{parent_name}" is not partitioned')
    default = next((other for other in table.partitions if other.is_default), None)
    if new.is_default and default is not None:
        raise EngineError(
            "42P17",
            f'partition "{new.name}" conflicts with existing default partition "{default.name}"',
        )
    for other in table.partitions:
        if new.overlaps(other):
            raise EngineError(
                "42P17", f'partition "{new.name}" would overlap partition "{other.name}"'
            )
    if default is not None:
        lock_partition(tx, parent_name, default.name)
        rows = partition_rows(tx, table, default)
        if any(new.takes(row[table.partition_column]) for row in rows):
            raise EngineError(
                "23514",
                f'updated partition constraint for default partition "{default.name}" would be '
                "violated by some row",
            )
    relation = Relation(new.name, parent.letter, table, parent.name, new)
    catalog.relations(tx).put(tx, relation)
    tx.lock_table(new.name, TableLock.ACCESS_EXCLUSIVE)


def lock_partition(tx: Transaction, parent: str, name: str) -> None:
    """Lock a partition exclusively: a user of the parent counts as a user of the partition."""
    tx.check_table(parent, TableLock.ACCESS_EXCLUSIVE)
    tx.lock_table(name, TableLock.ACCESS_EXCLUSIVE)


def partition_rows(tx: Transaction, table: AnyTable, partition: Partition) -> list[tuple[Any, ...]]:
    """The rows that Postgres would keep in this partition."""
    column = table.partition_column
    return [row for row in table.scan(tx) if table.partition_of(row[column]) == partition]


def detach_default_partitions(tx: Transaction, queue_name: str) -> None:
    """What ``set_queue_policy`` does when the default partition is disabled."""
    for letter in PARTITIONED:
        parent_name = f"{letter}_{queue_name}"
        default = catalog.find(tx, f"{parent_name}_d")
        if default is None or default.partition is None or default.parent != parent_name:
            continue
        lock_partition(tx, parent_name, default.name)
        if partition_rows(tx, default.table, default.partition):
            raise_exception(
                f'Cannot disable default_partition for queue "{queue_name}": default partition '
                f'"{default.name}" is not empty'
            )
        tx.lock_table(parent_name, TableLock.ACCESS_EXCLUSIVE)
        catalog.relations(tx).delete(tx, default.name)


class Candidate(NamedTuple):
    queue_name: Text
    parent_table: Text
    partition_table: Text


@procedure("1ea82ec2e58ee760")
def list_detach_candidates(tx: Transaction, queue_name: Text | None = None) -> list[Candidate]:
    now = tx.session.current_time()
    require_queue(tx, queue_name)
    candidates: list[Candidate] = []
    for row in catalog.queue_rows(tx, queue_name):
        if row.storage_mode != "partitioned" or row.detach_mode != "empty":
            continue
        oldest = add_interval(now, negate(row.detach_min_age), tx.session.zone)
        for letter in PARTITIONED:
            parent = catalog.find(tx, f"{letter}_{row.queue_name}")
            for partition in (parent and parent.table.partitions) or ():
                ends_at = None if partition.upper is None else uuidv7_timestamp(tx, partition.upper)
                if parent is None or ends_at is None or ends_at >= oldest:
                    continue
                if not partition_rows(tx, parent.table, partition):
                    candidates.append(Candidate(row.queue_name, parent.name, partition.name))
    return candidates


@procedure("6d641cce122966cf")
def drop_detached_partition(
    tx: Transaction, partition_table: Text | None, _unschedule_job_name: Text | None = None
) -> Bool:
    """``absurd.drop_detached_partition``, on a server without pg_cron."""
    name = (partition_table or "").strip(" ")
    if not name:
        raise_exception("partition table must be provided")
    relation = catalog.find(tx, name)
    if relation is None and name.endswith(_INDEX_NAMES_END):
        raise Unsupported(f"indexes, which {name} may be")
    if relation is None or relation.partition is not None:
        return False
    drop_table(tx, relation)
    return True


def drop_table(tx: Transaction, relation: Relation) -> None:
    """``drop table``: its partitions go with it."""
    partitions = [partition.name for partition in relation.table.partitions or ()]
    for name in (*partitions, relation.name):
        tx.lock_table(name, TableLock.ACCESS_EXCLUSIVE)
        catalog.relations(tx).delete(tx, name)


def detach_partition(tx: Transaction, parent_name: str, name: str) -> None:
    """``alter table ... detach partition``: the partition becomes a table with its rows."""
    parent = catalog.relation(tx, parent_name, TableLock.ACCESS_EXCLUSIVE)
    if parent.table.partitions is None or parent.partition is not None:
        raise EngineError(
            "42809",
            f'ALTER action DETACH PARTITION cannot be performed on relation "{parent.name}"',
            detail="This operation is not supported for tables.",
        )
    child = catalog.find(tx, name)
    if child is None:
        raise undefined_table(name)
    if child.partition is None or child.parent != parent_name:
        raise EngineError(
            "42P01", f'relation "{name}" is not a partition of relation "{parent_name}"'
        )
    for partition in parent.table.partitions:
        if partition.is_default or partition is child.partition:
            tx.lock_table(partition.name, TableLock.ACCESS_EXCLUSIVE)
    rows = partition_rows(tx, parent.table, child.partition)
    table = new_table(parent.letter, name)
    for row in rows:
        parent.table.delete(tx, parent.table.key_of(row))
        table.put(tx, row)
    catalog.relations(tx).put(tx, Relation(name, parent.letter, table))
