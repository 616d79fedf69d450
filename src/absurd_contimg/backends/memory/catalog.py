"""The relations of the schema ``absurd`` by name: which queue has which tables.

A relation is a row of a table of its own, so that creating and dropping queues is transactional
like everything else. Procedures ask for their tables here, as ``format('absurd.%I', ...)`` does.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar, cast

from absurd_contimg.backends.memory.errors import null_identifier, undefined_table
from absurd_contimg.backends.memory.locks import TableLock
from absurd_contimg.backends.memory.schema import IDENTIFIER_BYTES_MAX, index_names
from absurd_contimg.backends.memory.table import Partition, Table
from absurd_contimg.backends.memory.tables import (
    Checkpoints,
    Events,
    Keys,
    Queues,
    Runs,
    Tasks,
    Waits,
)
from absurd_contimg.backends.memory.transaction import Transaction

AnyTable = Table[Any, Any]
T = TypeVar("T", bound=AnyTable)
PARTITIONED = "trcw"
"""The letters of the tables that a partitioned queue has in parts."""

CLASSES: dict[str, type[AnyTable]] = {
    "t": Tasks,
    "r": Runs,
    "c": Checkpoints,
    "e": Events,
    "w": Waits,
    "i": Keys,
    "queues": Queues,
}


class Relation(NamedTuple):
    """A table, or a partition of one: then `partition` is set and `table` is its parent's."""

    name: str
    letter: str
    table: AnyTable
    parent: str | None = None
    partition: Partition | None = None


class Relations(Table[str, Relation]):
    """All relations of the schema, with the tables of each queue."""

    def __init__(self) -> None:
        super().__init__()
        self.of_queues: dict[str, dict[str | None, AnyTable]] = {letter: {} for letter in CLASSES}

    def reindex(self, old: Relation | None, new: Relation | None) -> None:
        """See `Table.reindex`."""
        for one in (old, new):
            if one is None or one.partition is not None:
                continue
            letter, _, queue = one.name.partition("_")
            if letter == one.letter:
                if one is new:
                    self.of_queues[letter][queue] = one.table
                else:
                    self.of_queues[letter].pop(queue, None)

    def copy(self) -> Relations:
        """Copies every table once; partitions share their parent's copy."""
        twin = super().copy()
        twin.of_queues = {letter: {} for letter in CLASSES}
        tables: dict[int, AnyTable] = {}
        for name, relation in twin.rows.items():
            table = tables.get(id(relation.table))
            if table is None:
                table = tables[id(relation.table)] = relation.table.copy()
            twin.rows[name] = copied = relation._replace(table=table)
            twin.reindex(None, copied)
        return twin


def truncated(name: str) -> str:
    """An identifier as Postgres keeps it: at most 63 bytes, cut between characters."""
    if len(name) * 4 <= IDENTIFIER_BYTES_MAX:
        return name
    return name.encode()[:IDENTIFIER_BYTES_MAX].decode(errors="ignore")


def relations(tx: Transaction) -> Relations:
    """All relations."""
    return cast(Relations, tx.db.relations)


def find(tx: Transaction, name: str) -> Relation | None:
    """The relation that `tx` sees under this name."""
    return relations(tx).get(tx, name)


def is_free_index(tx: Transaction, name: str) -> bool:
    """Whether an index of this name exists that is no partition of another one."""
    registered = {f"_{row.queue_name}" for row in queues(tx).scan(tx)}
    return any(
        name
        in index_names(
            found.letter,
            found.name,
            unique_key=isinstance(found.table, Tasks) and found.table.unique_key,
            detached=found.letter in PARTITIONED and found.name[1:] not in registered,
        )
        for found in relations(tx).scan(tx)
        if found.partition is None
    )


def relation(tx: Transaction, name: str, mode: TableLock = TableLock.ACCESS_SHARE) -> Relation:
    """The relation of this name, locked in `mode`; 42P01 if there is none."""
    name = truncated(name)
    found = relations(tx).get(tx, name)
    if found is None:
        raise undefined_table(name)
    if tx.explicit or tx.db.table_locks:
        tx.lock_table(name, mode)
        if found.partition is None:
            for partition in found.table.partitions or ():
                tx.check_table(partition.name, mode)
    return found


def _table(tx: Transaction, letter: str, queue: str | None, mode: TableLock) -> AnyTable:
    if queue is None:
        raise null_identifier()
    return relation(tx, f"{letter}_{queue}", mode).table


_READ, _LOCK, _WRITE = TableLock.ACCESS_SHARE, TableLock.ROW_SHARE, TableLock.ROW_EXCLUSIVE


def queues(tx: Transaction, mode: TableLock = _READ) -> Queues:
    """``absurd.queues``."""
    return cast(Queues, relation(tx, "queues", mode).table)


def tasks(tx: Transaction, queue: str | None, mode: TableLock = _WRITE) -> Tasks:
    """``absurd.t_<queue>``."""
    return tx.tables["t"].get(queue) or _table(tx, "t", queue, mode)  # type: ignore[return-value]


def runs(tx: Transaction, queue: str | None, mode: TableLock = _WRITE) -> Runs:
    """``absurd.r_<queue>``."""
    return tx.tables["r"].get(queue) or _table(tx, "r", queue, mode)  # type: ignore[return-value]


def checkpoints(tx: Transaction, queue: str | None, mode: TableLock = _WRITE) -> Checkpoints:
    """``absurd.c_<queue>``."""
    return tx.tables["c"].get(queue) or _table(tx, "c", queue, mode)  # type: ignore[return-value]


def events(tx: Transaction, queue: str | None, mode: TableLock = _WRITE) -> Events:
    """``absurd.e_<queue>``."""
    return tx.tables["e"].get(queue) or _table(tx, "e", queue, mode)  # type: ignore[return-value]


def waits(tx: Transaction, queue: str | None, mode: TableLock = _WRITE) -> Waits:
    """``absurd.w_<queue>``."""
    return tx.tables["w"].get(queue) or _table(tx, "w", queue, mode)  # type: ignore[return-value]


def keys(tx: Transaction, queue: str | None, mode: TableLock = _WRITE) -> Keys:
    """``absurd.i_<queue>``."""
    return tx.tables["i"].get(queue) or _table(tx, "i", queue, mode)  # type: ignore[return-value]
