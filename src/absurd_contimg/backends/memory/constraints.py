"""What keeps rows that are written by hand in order: defaults, not-null, checks, unique keys.

Absurd's procedures write rows that obey them; ``insert`` and ``update`` come through here.
"""

from __future__ import annotations

from typing import Any

from absurd_contimg.backends.memory import schema
from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.procedures.registry import not_null
from absurd_contimg.backends.memory.rows import (
    CheckpointRow,
    EventRow,
    KeyRow,
    QueueRow,
    RunRow,
    TaskRow,
    WaitRow,
)
from absurd_contimg.backends.memory.table import Table
from absurd_contimg.backends.memory.tables import Tasks
from absurd_contimg.backends.memory.transaction import Transaction, WouldBlock
from absurd_contimg.backends.memory.values.text import uuid_out

AnyTable = Table[Any, Any]
Row = tuple[Any, ...]
_ROWS: dict[str, type[Row]] = {
    "t": TaskRow,
    "r": RunRow,
    "c": CheckpointRow,
    "e": EventRow,
    "w": WaitRow,
    "i": KeyRow,
    "queues": QueueRow,
}
_DEFAULTS: dict[str | None, Any] = {"0": 0, "'committed'": "committed"}


def default_of(letter: str, position: int) -> Any:
    """The default of a column, but for `schema.NOW`."""
    if letter == "queues" and position > 1:
        return QueueRow("", 0)[position]
    return _DEFAULTS.get(schema.TABLES[letter][position].default)


def insert(tx: Transaction, name: str, letter: str, table: AnyTable, values: list[Any]) -> Row:
    """Insert a row; 23502, 23514 or 23505 for one that breaks a constraint."""
    row = _checked(name, letter, table, values)
    _put_new(tx, letter, table, row)
    return row


def replace(
    tx: Transaction, name: str, letter: str, table: AnyTable, old: Any, values: list[Any]
) -> Row:
    """Put a row in place of another, with the same errors."""
    row, key = _checked(name, letter, table, values), table.key_of(old)
    table.lock(tx, key)
    if table.key_of(row) != key:
        table.delete(tx, key)
        _put_new(tx, letter, table, row)
        return row
    _check_idempotency_key(letter, table, row)
    table.put(tx, key, row)
    return row


def _put_new(tx: Transaction, letter: str, table: AnyTable, row: Row) -> None:
    """Insert, waiting for another's uncommitted row of the same key."""
    key = table.key_of(row)
    late = table.uncommitted.get(key)
    if late is not None and late[0] is not tx:
        raise WouldBlock(late[0])
    if key in table.rows:
        raise _duplicate(letter, table, row, "pkey", schema.PRIMARY_KEYS[letter])
    _check_idempotency_key(letter, table, row)
    table.put(tx, key, row)


def _check_idempotency_key(letter: str, table: AnyTable, row: Row) -> None:
    """23505 for an idempotency key that another task has."""
    if isinstance(table, Tasks) and table.unique_key and row[-1] is not None:
        owner = table.by_key.get(row[-1])
        if owner is not None and owner != row[0]:
            column = "idempotency_key"
            raise _duplicate(letter, table, row, f"{column}_key", (column,))


def _duplicate(
    letter: str, table: AnyTable, row: Row, suffix: str, columns: tuple[str, ...]
) -> EngineError:
    shown = ", ".join(
        uuid_out(value) if column.type_name == "uuid" else str(value)
        for column, value in zip(schema.TABLES[letter], row, strict=True)
        if column.name in columns
    )
    relation = _relation(table, row)
    return EngineError(
        "23505",
        f'duplicate key value violates unique constraint "{relation}_{suffix}"',
        detail=f"Key ({', '.join(columns)})=({shown}) already exists.",
        table=relation,
        constraint=f"{relation}_{suffix}",
    )


def _relation(table: AnyTable, row: Row) -> str:
    """The table that messages name for a row: its partition if there is one."""
    return table.name if table.partitions is None else table.name_for(row[table.partition_column])


def _checked(name: str, letter: str, table: AnyTable, values: list[Any]) -> Row:
    """The row; 23502 and 23514 for values that are null or not allowed, in that order."""
    row = _ROWS[letter](*values)
    relation = name if table.partitions is None else _relation(table, row)
    not_null(letter, relation, row)
    for column, value in zip(schema.TABLES[letter], row, strict=True):
        broken = column.check is not None and value not in column.check
        if column.check_text is not None and value is not None:
            number = value.span() if column.type_name == "interval" else value
            broken = number < (1 if column.check_text == ">= 1" else 0)
        if broken:
            constraint = f"{name}_{column.name}_check"
            raise EngineError(
                "23514",
                f'new row for relation "{relation}" violates check constraint "{constraint}"',
                table=relation,
                constraint=constraint,
            )
    return row
