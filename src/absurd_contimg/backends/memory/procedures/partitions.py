"""Weekly partitions by UUIDv7: their bounds, their names, and which may be detached.

A partition is bookkeeping: rows stay in their parent's table, which only refuses what no
partition takes. What can be seen of partitions is as in Postgres.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

from absurd_contimg.backends.memory import catalog
from absurd_contimg.backends.memory.catalog import CLASSES, PARTITIONED, AnyTable, Relation
from absurd_contimg.backends.memory.errors import EngineError, raise_exception, undefined_table
from absurd_contimg.backends.memory.locks import TableLock
from absurd_contimg.backends.memory.procedures.registry import require_queue, validate_queue_name
from absurd_contimg.backends.memory.rows import QueueRow
from absurd_contimg.backends.memory.table import Partition
from absurd_contimg.backends.memory.tables import Tasks
from absurd_contimg.backends.memory.transaction import Transaction
from absurd_contimg.backends.memory.uuid7 import floor_of, timestamp_ms
from absurd_contimg.backends.memory.values.intervals import negate
from absurd_contimg.backends.memory.values.times import (
    DAY_US,
    Interval,
    add_interval,
    is_finite,
    iso_week,
)
from absurd_contimg.backends.memory.values.timestamps import timestamptz_out

UUIDV7_MS_MAX = 281_474_976_710_655
_WEEK = Interval(days=7)


def uuidv7_timestamp(value: int | None) -> int | None:
    """``absurd.uuidv7_timestamp``: microseconds, None for other versions.

    Postgres multiplies an interval in floating point, so times after the year 2255 are rounded.
    """
    ms = None if value is None else timestamp_ms(value)
    return None if ms is None else round(ms * 1000.0)


def uuidv7_floor(tx: Transaction, time: int | None) -> int | None:
    """``absurd.uuidv7_floor``."""
    if time is None:
        return None
    if not is_finite(time):
        raise EngineError("0A000", "cannot convert infinity to bigint")
    ms = time // 1000
    if not 0 <= ms <= UUIDV7_MS_MAX:
        shown = timestamptz_out(time, tx.session.zone)
        raise_exception(f'Timestamp "{shown}" is outside UUIDv7 supported range')
    return floor_of(ms)


def week_bucket_utc(time: int | None) -> int | None:
    """``absurd.week_bucket_utc``: Monday 00:00 UTC of the week."""
    if time is None or not is_finite(time):
        return time
    day = time // DAY_US
    return (day - (day + 3) % 7) * DAY_US  # 1970-01-01 was a Thursday


def partition_week_tag(time: int | None) -> str | None:
    """``absurd.partition_week_tag``: last digit of the ISO year and the ISO week."""
    if time is None:
        return None
    if not is_finite(time):
        raise EngineError("0A000", "cannot convert infinity to integer")
    bucket = week_bucket_utc(time)
    assert bucket is not None
    year, week = iso_week(bucket // DAY_US)
    if year <= 0:  # Postgres has no year 0
        year -= 1
    last_digit = abs(year) % 10 * (1 if year > 0 else -1)
    return f"{last_digit}{week:02}"


def ensure_partitions(tx: Transaction, queue: str | None = None) -> None:
    """``absurd.ensure_partitions``."""
    now = tx.session.current_time()
    if queue is not None:
        require_queue(tx, validate_queue_name(queue))
    rows = sorted(catalog.queues(tx).scan(tx), key=lambda row: row.queue_name.encode())
    for row in rows:
        if row.storage_mode == "partitioned" and queue in (None, row.queue_name):
            _ensure_partitions_of(tx, row, now)


def _ensure_partitions_of(tx: Transaction, row: QueueRow, now: int) -> None:
    zone = tx.session.zone
    week = week_bucket_utc(add_interval(now, negate(row.partition_lookback), zone))
    last = week_bucket_utc(add_interval(now, row.partition_lookahead, zone))
    assert week is not None
    assert last is not None
    parents = [f"{letter}_{row.queue_name}" for letter in PARTITIONED]
    if row.default_partition == "enabled":
        for parent in parents:
            _create(tx, parent, Partition(f"{parent}_d"))
    while week <= last:
        tag = partition_week_tag(week)
        following = add_interval(week, _WEEK, zone)  # seven days of the session's calendar
        lower, upper = uuidv7_floor(tx, week), uuidv7_floor(tx, following)
        for parent in parents:
            _create(tx, parent, Partition(f"{parent}_{tag}", lower, upper))
        week = following


def _create(tx: Transaction, parent: str, partition: Partition) -> None:
    """``create table if not exists ... partition of ...``."""
    if catalog.find(tx, partition.name) is not None:
        return
    relation = catalog.relation(tx, parent, TableLock.SHARE_UPDATE_EXCLUSIVE)
    table = relation.table
    if table.partitions is None:
        raise EngineError("42P17", f'"{parent}" is not partitioned')
    if partition.is_default:
        for other in table.partitions:
            if other.is_default:
                raise EngineError(
                    "42P17",
                    f'partition "{partition.name}" conflicts with existing default partition '
                    f'"{other.name}"',
                )
    else:
        _check_bounds(tx, table, partition)
    attach(tx, relation, partition)
    tx.lock_table(partition.name, TableLock.ACCESS_EXCLUSIVE)


def _check_bounds(tx: Transaction, table: AnyTable, new: Partition) -> None:
    assert new.lower is not None
    assert new.upper is not None
    default = None
    for other in table.partitions or ():
        if other.lower is None or other.upper is None:
            default = other
        elif new.lower < other.upper and other.lower < new.upper:
            raise EngineError(
                "42P17", f'partition "{new.name}" would overlap partition "{other.name}"'
            )
    if default is None:
        return
    lock_partition(tx, table.name, default.name)
    if any(new.takes(row[table.partition_column]) for row in partition_rows(tx, table, default)):
        raise EngineError(
            "23514",
            f'updated partition constraint for default partition "{default.name}" would be '
            "violated by some row",
        )


def lock_partition(tx: Transaction, parent: str, name: str) -> None:
    """Lock a partition exclusively: whoever uses the parent is taken to use the partition."""
    tx.check_table(parent, TableLock.ACCESS_EXCLUSIVE)
    tx.lock_table(name, TableLock.ACCESS_EXCLUSIVE)


def partition_of(table: AnyTable, value: int) -> Partition | None:
    """The partition that holds rows with this key."""
    default = None
    for partition in table.partitions or ():
        if partition.is_default:
            default = partition
        elif partition.takes(value):
            return partition
    return default


def partition_rows(tx: Transaction, table: AnyTable, partition: Partition) -> list[tuple[Any, ...]]:
    """The rows that Postgres would keep in this partition."""
    column = table.partition_column
    return [row for row in table.scan(tx) if partition_of(table, row[column]) is partition]


def attach(tx: Transaction, parent: Relation, partition: Partition) -> None:
    """Add the partition to its parent; undone with the transaction."""
    table = parent.table
    before = table.partitions
    tx.undo.append(lambda: setattr(table, "partitions", before))
    table.partitions = (*(before or ()), partition)
    catalog.relations(tx).put(
        tx, partition.name, Relation(partition.name, parent.letter, table, parent.name, partition)
    )


def remove_partition(tx: Transaction, parent: Relation, partition: Partition) -> None:
    """Take the partition from its parent; undone with the transaction."""
    table = parent.table
    before = table.partitions
    tx.undo.append(lambda: setattr(table, "partitions", before))
    table.partitions = tuple(other for other in before or () if other is not partition)
    catalog.relations(tx).delete(tx, partition.name)


def detach_default_partitions(tx: Transaction, queue: str) -> None:
    """What ``set_queue_policy`` does when the default partition is disabled."""
    for letter in PARTITIONED:
        parent = catalog.find(tx, f"{letter}_{queue}")
        if parent is None:
            continue
        name = f"{parent.name}_d"
        default = next((part for part in parent.table.partitions or () if part.name == name), None)
        if default is None:
            continue
        lock_partition(tx, parent.name, name)
        if partition_rows(tx, parent.table, default):
            raise_exception(
                f'Cannot disable default_partition for queue "{queue}": default partition '
                f'"{name}" is not empty'
            )
        tx.lock_table(parent.name, TableLock.ACCESS_EXCLUSIVE)
        remove_partition(tx, parent, default)


def list_detach_candidates(tx: Transaction, queue: str | None = None) -> list[tuple[str, str, str]]:
    """``absurd.list_detach_candidates``: queue_name, parent_table, partition_table."""
    now = tx.session.current_time()
    if queue is not None:
        require_queue(tx, validate_queue_name(queue))
    found: list[tuple[str, str, str]] = []
    for row in sorted(catalog.queues(tx).scan(tx), key=lambda row: row.queue_name.encode()):
        wanted = row.storage_mode == "partitioned" and row.detach_mode == "empty"
        if not wanted or queue not in (None, row.queue_name):
            continue
        oldest = add_interval(now, negate(row.detach_min_age), tx.session.zone)
        for letter in PARTITIONED:
            parent = catalog.find(tx, f"{letter}_{row.queue_name}")
            if parent is None:
                continue
            found += [
                (row.queue_name, parent.name, partition.name)
                for partition in _ended(tx, parent.table, oldest)
            ]
    return found


def _ended(tx: Transaction, table: AnyTable, oldest: int) -> list[Partition]:
    """Empty partitions that end before `oldest`."""
    column = table.partition_column
    values = sorted(row[column] for row in table.scan(tx))
    found: list[Partition] = []
    for partition in table.partitions or ():
        ends_at = uuidv7_timestamp(partition.upper)
        if ends_at is None or ends_at >= oldest:
            continue
        assert partition.lower is not None
        assert partition.upper is not None
        if bisect_left(values, partition.lower) == bisect_left(values, partition.upper):
            found.append(partition)
    return found


def drop_detached_partition(
    tx: Transaction, partition_table: str | None, _unschedule_job_name: str | None = None
) -> bool:
    """``absurd.drop_detached_partition`` on a server without pg_cron."""
    name = ("" if partition_table is None else partition_table).strip(" ")
    if not name:
        raise_exception("partition table must be provided")
    relation = catalog.find(tx, name)
    if relation is None and catalog.is_free_index(tx, name):
        raise EngineError(
            "42809", f'"{name}" is not a table', hint="Use DROP INDEX to remove an index."
        )
    if relation is None or relation.partition is not None:
        return False
    drop_table(tx, relation)
    return True


def drop_table(tx: Transaction, relation: Relation) -> None:
    """``drop table``: its partitions go with it."""
    for partition in relation.table.partitions or ():
        tx.lock_table(partition.name, TableLock.ACCESS_EXCLUSIVE)
        catalog.relations(tx).delete(tx, partition.name)
    tx.lock_table(relation.name, TableLock.ACCESS_EXCLUSIVE)
    catalog.relations(tx).delete(tx, relation.name)


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
    table = CLASSES[parent.letter]()
    table.name = name
    if isinstance(table, Tasks):
        table.unique_key = False  # as in its parent
    for row in rows:
        key = parent.table.key_of(row)
        parent.table.delete(tx, key)
        table.put(tx, key, row)
    remove_partition(tx, parent, child.partition)
    catalog.relations(tx).put(tx, name, Relation(name, parent.letter, table))
