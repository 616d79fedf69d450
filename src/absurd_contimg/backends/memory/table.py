"""A table: immutable rows by primary key, and old rows for those who read late."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any, ClassVar, Generic, NamedTuple, Self, TypeVar

from absurd_contimg.backends.memory.due_queue import DueQueue
from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.locks import RowLock
from absurd_contimg.backends.memory.transaction import Transaction, WouldBlock
from absurd_contimg.backends.memory.values.text import uuid_out

K = TypeVar("K", bound=Hashable)
R = TypeVar("R", bound=tuple[Any, ...])


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


class Table(Generic[K, R]):
    """Rows by primary key. A subclass keeps the indexes."""

    key_columns: ClassVar[tuple[int, ...]] = (0,)
    partition_column: ClassVar[int] = 0
    partition_key: ClassVar[str] = "task_id"
    nested: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        self.partitions: tuple[Partition, ...] | None = None
        self.name = ""
        self.rows: dict[K, R] = {}
        self.row_locks: dict[Hashable, dict[Transaction, RowLock]] = {}
        self.uncommitted: dict[Hashable, tuple[Transaction, R | None]] = {}

    def key_of(self, row: R) -> K:
        """The primary key."""
        columns = self.key_columns
        if len(columns) == 1:
            return row[columns[0]]  # type: ignore[no-any-return]
        return tuple(row[column] for column in columns)  # type: ignore[return-value]

    # -- reading ----------------------------------------------------------------------------

    def get(self, tx: Transaction, key: K) -> R | None:
        """The row as `tx` sees it: its own changes, of others what is committed."""
        if self.uncommitted:
            late = self.uncommitted.get(key)
            if late is not None and late[0] is not tx:
                return late[1]
        return self.rows.get(key)

    def scan(self, tx: Transaction | None) -> Iterator[R]:
        """All rows that `tx` sees, in order of their insertion; None sees what is committed."""
        if not self.uncommitted:
            yield from list(self.rows.values())
            return
        late = self.uncommitted
        for key, row in list(self.rows.items()):
            mark = late.get(key)
            if mark is None or mark[0] is tx:
                yield row
            elif mark[1] is not None:
                yield mark[1]
        for gone, (owner, before) in list(late.items()):
            if owner is not tx and before is not None and gone not in self.rows:
                yield before

    # -- writing ----------------------------------------------------------------------------

    def lock(self, tx: Transaction, key: K, mode: RowLock = RowLock.UPDATE) -> None:
        """``select ... for update`` (or a weaker `mode`) on one row."""
        if self.row_locks or tx.explicit:
            tx.lock_row(self, key, mode)

    def may_lock(self, tx: Transaction, key: K, mode: RowLock = RowLock.UPDATE) -> bool:
        """What ``skip locked`` asks."""
        return not self.row_locks or tx.may_lock(self, key, mode)

    def await_change(self, tx: Transaction, key: K) -> None:
        """`WouldBlock` while another transaction has changed the row and not ended.

        What ``on conflict do nothing`` does; a row that is only locked does not hold it up.
        """
        late = self.uncommitted.get(key) if self.uncommitted else None
        if late is not None and late[0] is not tx:
            raise WouldBlock(late[0])

    def put(self, tx: Transaction, key: K, row: R) -> None:
        """Insert, or replace the row of the same key."""
        old = self.rows.get(key)
        if tx.explicit or self.row_locks:
            mode = RowLock.UPDATE if old is None else RowLock.NO_KEY_UPDATE
            tx.lock_row(self, key, mode)
            if tx.explicit:
                tx.mark(self, key, old)
        if self.partitions is not None and old is None:
            self._route(row)
        tx.undo.append((self, key, old))
        self.rows[key] = row
        self.reindex(old, row)

    def name_for(self, value: int | None) -> str:
        """The relation that messages name for a row with this partition key."""
        if self.partitions is None:
            return self.name
        default = None
        for partition in self.partitions:
            if partition.is_default:
                default = partition.name
            elif value is not None and partition.takes(value):
                return partition.name
        if default is None:
            raise self._no_partition(value)
        return default

    def _route(self, row: R) -> None:
        """Refuse a row that no partition takes."""
        value = row[self.partition_column]
        for partition in self.partitions or ():
            if partition.takes(value):
                return
        raise self._no_partition(value)

    def _no_partition(self, value: int | None) -> EngineError:
        return EngineError(
            "23514",
            f'no partition of relation "{self.name}" found for row',
            detail=f"Partition key of the failing row contains ({self.partition_key}) = "
            f"({'null' if value is None else uuid_out(value)}).",
            table=self.name,
        )

    def delete(self, tx: Transaction, key: K) -> bool:
        """Delete the row if there is one; whether there was."""
        old = self.rows.get(key)
        if tx.explicit or self.row_locks:
            if old is None and key not in self.row_locks:
                return False
            tx.lock_row(self, key, RowLock.UPDATE)
            if tx.explicit:
                tx.mark(self, key, old)
        if old is None:
            return False
        tx.undo.append((self, key, old))
        del self.rows[key]
        self.reindex(old, None)
        return True

    def restore_row(self, key: K, row: R | None) -> None:
        """Put back what the undo log kept."""
        current = self.rows.get(key)
        if row is None:
            self.rows.pop(key, None)
        else:
            self.rows[key] = row
        self.reindex(current, row)

    def reindex(self, old: R | None, new: R | None) -> None:
        """Bring the indexes from `old` to `new`; either may be missing."""

    # -- copying ----------------------------------------------------------------------------

    def copy(self) -> Self:
        """An independent table with the same committed rows, which are shared."""
        twin = self.__class__.__new__(self.__class__)
        for name, value in self.__dict__.items():
            twin.__dict__[name] = (
                value.copy() if isinstance(value, dict | list | DueQueue) else value
            )
        for name in self.nested:
            groups = twin.__dict__[name]
            twin.__dict__[name] = {value: keys.copy() for value, keys in groups.items()}
        twin.row_locks, twin.uncommitted = {}, {}
        for key, (_, before) in self.uncommitted.items():
            twin.restore_row(key, before)  # type: ignore[arg-type]
        return twin
