"""The tables that statements change: their columns, defaults and rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from sqlglot import exp

from absurd_contimg.backends.memory import catalog, schema
from absurd_contimg.backends.memory.catalog import AnyTable
from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.locks import TableLock
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
from absurd_contimg.backends.memory.sql.casts import is_implicit
from absurd_contimg.backends.memory.sql.coercion import converted
from absurd_contimg.backends.memory.sql.expressions import name_of
from absurd_contimg.backends.memory.sql.scope import ColumnInfo, Env, Expr, Node
from absurd_contimg.backends.memory.sql.sources import letter_of, table_columns
from absurd_contimg.backends.memory.sql.types import NUMBERS, SqlType
from absurd_contimg.backends.memory.tables import Tasks
from absurd_contimg.backends.memory.transaction import Transaction, WouldBlock

ROWS: dict[str, type[tuple[Any, ...]]] = {
    "t": TaskRow,
    "r": RunRow,
    "c": CheckpointRow,
    "e": EventRow,
    "w": WaitRow,
    "i": KeyRow,
    "queues": QueueRow,
}
_DEFAULTS: dict[str, Any] = {"0": 0, "'committed'": "committed"}


class Target(NamedTuple):
    """A table of Absurd's as a statement names it."""

    name: str
    alias: str
    letter: str
    columns: tuple[ColumnInfo, ...]

    def table(self, tx: Transaction) -> AnyTable:
        """The table, locked for writing."""
        return catalog.relation(tx, self.name, TableLock.ROW_EXCLUSIVE).table

    def position(self, column: str) -> int:
        """Where a column stands; 42703 for one that the table has not."""
        for index, info in enumerate(self.columns):
            if info.name == column:
                return index
        raise EngineError("42703", f'column "{column}" of relation "{self.name}" does not exist')


def target_of(node: Node) -> Target:
    """What a statement changes; 42P01 where there is no such table."""
    database = node.args.get("db")
    name = name_of(node.this)
    if database is None or name_of(database) != "absurd":
        shown = name if database is None else f"{name_of(database)}.{name}"
        raise EngineError("42P01", f'relation "{shown}" does not exist')
    letter = letter_of(name)
    if letter is None:
        raise EngineError("42P01", f'relation "absurd.{name}" does not exist')
    alias = node.args.get("alias")
    shown = name if alias is None or alias.this is None else name_of(alias.this)
    return Target(name, shown, letter, table_columns(letter))


def check_row(target: Target, table: AnyTable, row: tuple[Any, ...]) -> None:
    """23502 and 23514: not-null and check constraints, in that order."""
    relation = target.name
    if table.partitions is not None:
        relation = table.name_for(row[table.partition_column])
    not_null(target.letter, relation, row)
    for column, value in zip(schema.TABLES[target.letter], row, strict=True):
        broken = column.check is not None and value not in column.check
        if column.check_text is not None and value is not None:
            number = value.span() if column.type_name == "interval" else value
            broken = number < (1 if column.check_text == ">= 1" else 0)
        if broken:
            raise EngineError(
                "23514",
                f'new row for relation "{relation}" violates check constraint '
                f'"{target.name}_{column.name}_check"',
                table=relation,
                constraint=f"{target.name}_{column.name}_check",
            )


def insert_row(tx: Transaction, target: Target, table: AnyTable, row: tuple[Any, ...]) -> None:
    """Insert; 23505 for a key that is taken, waiting for another's uncommitted one."""
    key = table.key_of(row)
    constraint = conflict(tx, table, row, key)
    if constraint is not None:
        suffix, columns = constraint
        shown = f"({', '.join(columns)})=({_shown_key(tx, target, row, columns)})"
        relation = target.name
        if table.partitions is not None:
            relation = table.name_for(row[table.partition_column])
        raise EngineError(
            "23505",
            f'duplicate key value violates unique constraint "{relation}_{suffix}"',
            detail=f"Key {shown} already exists.",
            table=relation,
            constraint=f"{relation}_{suffix}",
        )
    table.put(tx, key, row)


def _shown_key(
    tx: Transaction, target: Target, row: tuple[Any, ...], columns: tuple[str, ...]
) -> str:
    places = [target.position(name) for name in columns]
    return ", ".join(target.columns[place].kind.show(row[place], tx.session) for place in places)


def conflict(
    tx: Transaction, table: AnyTable, row: tuple[Any, ...], key: Any
) -> tuple[str, tuple[str, ...]] | None:
    """The unique constraint that the row would break."""
    late = table.uncommitted.get(key)
    if late is not None and late[0] is not tx:
        raise WouldBlock(late[0])
    if key in table.rows:
        names = tuple(row._fields[index] for index in table.key_columns)  # type: ignore[attr-defined]
        return "pkey", names
    if isinstance(table, Tasks) and table.unique_key:
        word = row[-1]
        owner = None if word is None else table.by_key.get(word)
        if owner is not None and owner != key:
            return "idempotency_key_key", ("idempotency_key",)
    return None


def changed_row(
    env: Env,
    here: Env,
    target: Target,
    table: AnyTable,
    old: tuple[Any, ...],
    changes: list[tuple[int, Callable[[Env], Any]]],
) -> tuple[Any, ...]:
    """Put the row with its changes in place of the old one; what `here` calls its own."""
    values = list(old)
    for position, value in changes:
        values[position] = value(here)
    row = ROWS[target.letter](*values)
    check_row(target, table, row)
    key, new_key = table.key_of(old), table.key_of(row)
    table.lock(env.tx, key)
    if new_key != key:
        table.delete(env.tx, key)
        insert_row(env.tx, target, table, row)
        return row
    broken = isinstance(table, Tasks) and row[-1] != old[-1]
    if broken and table.unique_key and row[-1] is not None and row[-1] in table.by_key:  # type: ignore[attr-defined]
        raise EngineError(
            "23505",
            f'duplicate key value violates unique constraint "{target.name}_idempotency_key_key"',
            detail=f"Key (idempotency_key)=({row[-1]}) already exists.",
            table=target.name,
            constraint=f"{target.name}_idempotency_key_key",
        )
    table.put(env.tx, key, row)
    return row


def assigned(expr: Expr, kind: SqlType, column: str) -> Expr:
    """The expression as a value for a column; 42804 where its type does not fit."""
    same = expr.kind is kind or is_implicit(expr.kind, kind)
    numbers = expr.kind in NUMBERS and kind in NUMBERS
    times = expr.kind.name in _TIME_NAMES and kind.name in _TIME_NAMES
    if not (same or numbers or times or kind.name == "text"):
        if (expr.kind.name, kind.name) == ("json", "jsonb"):
            return converted(expr, kind)
        raise EngineError(
            "42804",
            f'column "{column}" is of type {kind.shown} but expression is of type '
            f"{expr.kind.shown}",
            hint="You will need to rewrite or cast the expression.",
        )
    return converted(expr, kind)


_TIME_NAMES = ("timestamptz", "timestamp", "date")


def is_default(node: Node) -> bool:
    """Whether a value is the word ``default``."""
    if isinstance(node, exp.Var):
        return node.name.upper() == "DEFAULT"
    return isinstance(node, exp.Column) and node.name.upper() == "DEFAULT" and not node.table


def default_of(target: Target, position: int) -> Callable[[Env], Any]:
    """What a column is where nothing is said."""
    text = schema.TABLES[target.letter][position].default
    if text is None:
        return lambda _: None
    if text == schema.NOW:
        return lambda env: env.session.current_time()
    if target.letter == "queues":
        value = QueueRow("", 0)[position]
        return lambda _: value
    value = _DEFAULTS[text]
    return lambda _: value
