"""A table: immutable rows by primary key, looked up by columns, and old rows for others to read."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from operator import itemgetter
from typing import Any, ClassVar, Generic, NamedTuple, Self, TypeVar

from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.schema import TableSchema, new_row
from absurd_contimg.backends.memory.transaction import RowLock, Transaction, WouldBlock
from absurd_contimg.backends.memory.values.text import uuid_out

R = TypeVar("R", bound=tuple[Any, ...])
_Keys = tuple[Hashable, ...]


class Partition(NamedTuple):
    """A partition by range of UUIDs, `lower` included; the default one has no bounds."""

    name: str
    lower: int | None = None
    upper: int | None = None

    @property
    def is_default(self) -> bool:
        """True for the partition that takes what the others do not."""
        return self.lower is None

    def takes(self, value: int) -> bool:
        """Whether the partition accepts a row with this key; the default accepts any."""
        return self.lower is None or self.upper is None or self.lower <= value < self.upper

    def overlaps(self, other: Partition) -> bool:
        """Whether both are ranges and have a value in common."""
        if self.lower is None or self.upper is None or other.lower is None or other.upper is None:
            return False
        return self.lower < other.upper and other.lower < self.upper


class Table(Generic[R]):
    """Rows by primary key; a column by which rows are looked up has an index from then on."""

    due_queues: ClassVar[tuple[str, ...]] = ()
    """The attributes of a subclass that are a `DueQueue`."""

    def __init__(self, schema: TableSchema, name: str) -> None:
        self.schema = schema
        self.name = name
        self.partitions: tuple[Partition, ...] | None = None
        self.unique_key = False
        """Whether an idempotency key may belong to one row only."""
        self.partition_column = schema.position(schema.partition_key or schema.primary_key[0])
        self._row: Any = schema.row
        self.rows: dict[Hashable, R] = {}
        self.row_locks: dict[Hashable, dict[Transaction, RowLock]] = {}
        self.uncommitted: dict[Hashable, tuple[Transaction, R | None]] = {}
        self._indexes: dict[str, dict[Hashable, _Keys]] = {}
        """By column and value, the keys of the rows; copies share these tuples."""
        self._places = {column.name: place for place, column in enumerate(schema.columns)}
        self.key_of: Callable[[R], Hashable] = itemgetter(*map(schema.position, schema.primary_key))
        """A row's primary key: a value, or a tuple of several."""

    def get(self, tx: Transaction, key: Hashable) -> R | None:
        """The row as `tx` sees it: its own changes, of others what is committed."""
        if self.uncommitted:
            mark = self.uncommitted.get(key)
            if mark is not None and mark[0] is not tx:
                return mark[1]
        return self.rows.get(key)

    def get_once(self, tx: Transaction, key: Hashable) -> R | None:
        """`get`; after a wait, what it returned before."""
        return self.rows.get(key) if tx.alone else tx.read_once(self.get, tx, key)

    def scan(self, tx: Transaction | None) -> Iterator[R]:
        """All rows that `tx` sees, in order of their insertion; None sees what is committed."""
        for key, row in list(self.rows.items()):
            mark = self.uncommitted.get(key)
            if mark is None or mark[0] is tx:
                yield row
            elif mark[1] is not None:
                yield mark[1]
        for key, (owner, before) in list(self.uncommitted.items()):
            if owner is not tx and before is not None and key not in self.rows:
                yield before

    def where(self, tx: Transaction, column: str, value: Hashable) -> list[R]:
        """The rows that `tx` sees with this value in a column."""
        if not self.rows and not self.uncommitted:
            return []
        if self.uncommitted:
            position = self.schema.position(column)
            return [row for row in self.scan(tx) if row[position] == value]
        return [self.rows[key] for key in self.keys_with(column, value)]

    def keys_with(self, column: str, value: Hashable) -> _Keys:
        """The keys of the rows with this value in a column, uncommitted ones too."""
        index = self._indexes.get(column)
        if index is None:
            index, place = self._indexes.setdefault(column, {}), self._places[column]
            for key, row in self.rows.items():
                if row[place] is not None:
                    index[row[place]] = (*index.get(row[place], ()), key)
        return index.get(value, ())

    def get_for_update(
        self, tx: Transaction, key: Hashable, mode: RowLock = RowLock.UPDATE
    ) -> R | None:
        """``select ... for update`` (or a weaker `mode`) of one row."""
        if tx.alone:
            return self.rows.get(key)
        if self.get(tx, key) is None:
            return None
        self.lock(tx, key, mode)
        return self.get(tx, key)

    def lock(self, tx: Transaction, key: Hashable, mode: RowLock = RowLock.UPDATE) -> None:
        """Take a row lock; `WouldBlock` if another transaction's is in the way."""
        if self.row_locks or tx.explicit:
            tx.lock_row(self, key, mode)

    def try_lock(self, tx: Transaction, key: Hashable, mode: RowLock = RowLock.UPDATE) -> bool:
        """``skip locked``: take a row lock if no other transaction's is in the way; whether so."""
        if tx.alone:
            return True
        if tx.row_holder(self, key, mode) is not None:
            return False
        self.lock(tx, key, mode)
        return True

    def await_change(self, tx: Transaction, key: Hashable) -> None:
        """`WouldBlock` while another transaction has changed the row and not ended.

        What ``on conflict do nothing`` does; it does not wait for a row that is only locked.
        """
        mark = self.uncommitted.get(key)
        if mark is not None and mark[0] is not tx:
            raise WouldBlock(mark[0])

    def put(self, tx: Transaction, row: R) -> R:
        """Insert the row, or replace the one of the same key."""
        key = self.key_of(row)
        old = self.rows.get(key)
        if tx.explicit or self.row_locks:
            self._take(tx, key, old, RowLock.UPDATE if old is None else RowLock.NO_KEY_UPDATE)
        if old is None and self.partitions is not None:
            self.relation_of(row[self.partition_column])
        tx.undo.append((self, key, old))
        self.rows[key] = row
        self.reindex(old, row)
        return row

    def update(self, tx: Transaction, row: R, **changes: object) -> R:
        """Put the row with these columns changed; ``row._replace`` takes twice as long."""
        values, places = list(row), self._places
        for name, value in changes.items():
            values[places[name]] = value
        return self.put(tx, new_row(self._row, values))

    def delete(self, tx: Transaction, key: Hashable) -> bool:
        """Delete the row if there is one; whether there was."""
        old = self.rows.get(key)
        if old is None and key not in self.row_locks:
            return False
        if tx.explicit or self.row_locks:
            self._take(tx, key, old, RowLock.UPDATE)
        if old is None:
            return False
        tx.undo.append((self, key, old))
        del self.rows[key]
        self.reindex(old, None)
        return True

    def delete_where(self, tx: Transaction, column: str, value: Hashable) -> None:
        """Delete the rows that `where` finds."""
        if self.rows or self.uncommitted:
            for row in self.where(tx, column, value):
                self.delete(tx, self.key_of(row))

    def _take(self, tx: Transaction, key: Hashable, old: R | None, mode: RowLock) -> None:
        tx.lock_row(self, key, mode)
        if tx.explicit:
            tx.mark(self, key, old)

    def restore_row(self, key: Hashable, row: R | None) -> None:
        """Put back what the undo log kept."""
        current = self.rows.get(key)
        if row is None:
            self.rows.pop(key, None)
        else:
            self.rows[key] = row
        self.reindex(current, row)

    def reindex(self, old: R | None, new: R | None) -> None:
        """Bring the indexes from `old` to `new`; either may be missing."""
        for column, keys in self._indexes.items():
            place = self._places[column]
            before = None if old is None else old[place]
            after = None if new is None else new[place]
            if before == after:
                continue
            if old is not None and before is not None:
                key = self.key_of(old)
                keys[before] = tuple([other for other in keys[before] if other != key])
                if not keys[before]:
                    del keys[before]
            if new is not None and after is not None:
                keys[after] = (*keys.get(after, ()), self.key_of(new))

    def partition_of(self, value: int | None) -> Partition | None:
        """The partition for this value of the partition key; None where there is none."""
        default = None
        for partition in self.partitions or ():
            if partition.is_default:
                default = partition
            elif value is not None and partition.takes(value):
                return partition
        return default

    def relation_of(self, value: int | None) -> str:
        """The relation that holds a row with this partition key; 23514 if no partition does."""
        if self.partitions is None:
            return self.name
        partition = self.partition_of(value)
        if partition is not None:
            return partition.name
        raise EngineError(
            "23514",
            f'no partition of relation "{self.name}" found for row',
            detail=f"Partition key of the failing row contains ({self.schema.partition_key}) = "
            f"({'null' if value is None else uuid_out(value)}).",
            table=self.name,
        )

    def copy(self) -> Self:
        """An independent table with the same committed rows, which are shared."""
        twin = self.__class__.__new__(self.__class__)
        twin.__dict__.update(self.__dict__)
        twin.rows = self.rows.copy()
        twin._indexes = {column: keys.copy() for column, keys in self._indexes.items()}
        for name in self.due_queues:
            twin.__dict__[name] = self.__dict__[name].copy()
        twin.row_locks, twin.uncommitted = {}, {}
        for key, (_, before) in self.uncommitted.items():
            twin.restore_row(key, before)
        return twin
