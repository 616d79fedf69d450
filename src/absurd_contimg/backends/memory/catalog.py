"""The relations of the schema ``absurd`` by name: which queue has which tables.

A relation is a row of a table of its own, so that creating and dropping queues is transactional
like everything else. Procedures ask for their tables here, as ``format('absurd.%I', ...)`` does.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, TypeVar, cast

from absurd_contimg.backends.memory import schema
from absurd_contimg.backends.memory.errors import EngineError, undefined_table
from absurd_contimg.backends.memory.schema import TABLES, QueueRow, TableSchema, Text
from absurd_contimg.backends.memory.table import Partition, Table
from absurd_contimg.backends.memory.tables import Runs, Tasks
from absurd_contimg.backends.memory.transaction import READ, WRITE, TableLock, Transaction

AnyTable = Table[Any]
T_co = TypeVar("T_co", bound=AnyTable, covariant=True)
IDENTIFIER_BYTES_MAX = 63
PARTITIONED = "trcw"
"""The letters of the tables that a partitioned queue has in parts."""


def new_table(letter: str, name: str) -> AnyTable:
    """An empty table."""
    if letter == "t":
        return Tasks(name)
    return Runs(name) if letter == "r" else Table(TABLES[letter], name)


class Relation(NamedTuple):
    """A table, or a partition of one: then `partition` is set and `table` is its parent's."""

    name: Text
    letter: str
    table: AnyTable
    parent: str | None = None
    partition: Partition | None = None


_RELATIONS = TableSchema(Relation, "name")


class Relations(Table[Relation]):
    """All relations of the schema, with the tables of each queue."""

    def __init__(self) -> None:
        super().__init__(_RELATIONS, "")
        self.of_queues: dict[str, dict[str | None, AnyTable]] = {letter: {} for letter in TABLES}

    def reindex(self, old: Relation | None, new: Relation | None) -> None:
        """Keep the tables of each queue, and the partitions of each table."""
        for relation in filter(None, (old, new)):
            table, partition = relation.table, relation.partition
            letter, _, queue = relation.name.partition("_")
            if partition is not None:
                others = tuple(known for known in table.partitions or () if known != partition)
                table.partitions = others if relation is old else (*others, partition)
            elif letter == relation.letter and relation is new:
                self.of_queues[letter][queue] = table
            elif letter == relation.letter:
                self.of_queues[letter].pop(queue, None)

    def copy(self) -> Relations:
        """Copies what is committed, every table once; partitions share their parent's copy."""
        twin = Relations()
        copies: dict[int, AnyTable] = {}
        for relation in self.scan(None):
            table = copies.get(id(relation.table))
            if table is None:
                table = copies[id(relation.table)] = relation.table.copy()
                table.partitions = None if table.partitions is None else ()
            name, letter, _, parent, partition = relation
            copied = twin.rows[name] = Relation(name, letter, table, parent, partition)
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


def relation(tx: Transaction, name: str, mode: TableLock = READ) -> Relation:
    """The relation of this name, locked in `mode`; 42P01 if there is none."""
    name = truncated(name)
    known = find(tx, name)
    if known is None:
        raise undefined_table(name)
    if tx.explicit or tx.db.table_locks:
        tx.lock_table(name, mode)
        if known.partition is None:
            for partition in known.table.partitions or ():
                tx.check_table(partition.name, mode)
    return known


class _TableOf(Protocol[T_co]):
    """The table of a queue, locked in `mode`; 42P01 if there is none, 22004 for a null name."""

    def __call__(self, tx: Transaction, queue: str | None, mode: TableLock = WRITE) -> T_co: ...


def _table_of(letter: str) -> _TableOf[Any]:
    def table(tx: Transaction, queue: str | None, mode: TableLock = WRITE) -> AnyTable:
        unlocked: AnyTable | None = tx.tables[letter].get(queue)
        if unlocked is not None:
            return unlocked
        if queue is None:
            raise EngineError("22004", "null values cannot be formatted as an SQL identifier")
        return relation(tx, f"{letter}_{queue}", mode).table

    return table


tasks: _TableOf[Tasks] = _table_of("t")
runs: _TableOf[Runs] = _table_of("r")
checkpoints: _TableOf[Table[schema.CheckpointRow]] = _table_of("c")
events: _TableOf[Table[schema.EventRow]] = _table_of("e")
waits: _TableOf[Table[schema.WaitRow]] = _table_of("w")
keys: _TableOf[Table[schema.KeyRow]] = _table_of("i")


def queues(tx: Transaction, mode: TableLock = READ) -> Table[QueueRow]:
    """``absurd.queues``."""
    return relation(tx, "queues", mode).table


def queue_rows(tx: Transaction, queue: str | None = None) -> list[QueueRow]:
    """The registered queues by name, or the one of this name."""
    rows = [row for row in queues(tx).scan(tx) if queue in (None, row.queue_name)]
    return sorted(rows, key=lambda row: row.queue_name.encode())
