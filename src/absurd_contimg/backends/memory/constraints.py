"""Rows that are written by hand: not-null, checks and unique keys.

Absurd's procedures write rows that obey them; ``insert`` and ``update`` come through here.
"""

from __future__ import annotations

from typing import Any

from absurd_contimg.backends.memory.catalog import AnyTable
from absurd_contimg.backends.memory.errors import EngineError, Unsupported
from absurd_contimg.backends.memory.transaction import Transaction
from absurd_contimg.backends.memory.values.text import uuid_out
from absurd_contimg.backends.memory.values.types import Row


def insert(tx: Transaction, table: AnyTable, values: list[Any]) -> Row:
    """Insert a row; 23502, 23514 or 23505 for one that breaks a constraint."""
    row = _checked(table, values)
    key = table.key_of(row)
    table.await_change(tx, key)  # another's uncommitted row of the same key
    if key in table.rows:
        raise _duplicate(table, row, "pkey", table.schema.primary_key)
    _check_idempotency_key(table, row)
    table.put(tx, row)
    return row


def replace(tx: Transaction, table: AnyTable, old: Any, values: list[Any]) -> Row:
    """Put a row of the same key in place of another, with the same errors."""
    row, key = _checked(table, values), table.key_of(old)
    table.lock(tx, key)
    if table.key_of(row) != key:
        raise Unsupported("changes of a primary key")
    _check_idempotency_key(table, row)
    table.put(tx, row)
    return row


def _check_idempotency_key(table: AnyTable, row: Row) -> None:
    if table.unique_key:
        owners = table.keys_with("idempotency_key", row[-1])
        if owners not in ((), (row[0],)):
            raise _duplicate(table, row, "idempotency_key_key", ("idempotency_key",))


def _duplicate(table: AnyTable, row: Row, suffix: str, columns: tuple[str, ...]) -> EngineError:
    shown = ", ".join(
        uuid_out(value) if column.type_name == "uuid" else str(value)
        for column, value in zip(table.schema.columns, row, strict=True)
        if column.name in columns
    )
    relation = table.relation_of(row[table.partition_column])
    return EngineError(
        "23505",
        f'duplicate key value violates unique constraint "{relation}_{suffix}"',
        detail=f"Key ({', '.join(columns)})=({shown}) already exists.",
        table=relation,
        constraint=f"{relation}_{suffix}",
    )


def _checked(table: AnyTable, values: list[Any]) -> Row:
    row: Row = table.schema.row(*values)
    table.schema.check_row(table.relation_of(row[table.partition_column]), row, table.name)
    return row
