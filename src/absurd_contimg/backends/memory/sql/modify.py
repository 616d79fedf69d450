"""``insert``, ``update`` and ``delete`` on Absurd's tables, with ``returning``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlglot import exp

from absurd_contimg.backends.memory import catalog, schema
from absurd_contimg.backends.memory.errors import EngineError, Unsupported
from absurd_contimg.backends.memory.sql.casts import converted, is_implicit
from absurd_contimg.backends.memory.sql.dialect import name_of, part
from absurd_contimg.backends.memory.sql.expressions import Compiler, unwrapped
from absurd_contimg.backends.memory.sql.queries import compile_outputs, compile_query
from absurd_contimg.backends.memory.sql.scope import Env, Evaluate, Node, Query, Scope
from absurd_contimg.backends.memory.sql.sources import FromClause, letter_of, table_source
from absurd_contimg.backends.memory.transaction import TableLock, Transaction
from absurd_contimg.backends.memory.values.text import uuid_out
from absurd_contimg.backends.memory.values.types import NUMBERS, TEXT, ColumnInfo, Row


def compile_change(node: Node, scope: Scope) -> Query:
    """The columns of ``returning``, and what runs the change: without columns rows are empty."""
    return _CHANGES[type(node)](_Target(node, scope), node)


class _Target:
    """The table that a statement changes, source 0 of its scope."""

    def __init__(self, node: Node, scope: Scope) -> None:
        into = node.this.this if isinstance(node.this, exp.Schema) else node.this
        alias = into.args.get("alias")
        shown = None if alias is None or alias.this is None else name_of(alias.this)
        self.scope = scope
        self.sources = FromClause(scope, compile_query)
        source = table_source(into, shown, scope, TableLock.ROW_EXCLUSIVE)
        self.sources.add_source(source, exp.Join())
        self.name = str(source.relation)
        self.columns = source.columns
        self.letter = str(letter_of(self.name))

    def table(self, tx: Transaction) -> catalog.AnyTable:
        """The table, locked for writing."""
        return catalog.relation(tx, self.name, TableLock.ROW_EXCLUSIVE).table

    def position(self, column: str) -> int:
        """Where a column stands; 42703 for one that the table has not."""
        for index, info in enumerate(self.columns):
            if info.name == column:
                return index
        raise EngineError("42703", f'column "{column}" of relation "{self.name}" does not exist')

    def value_for(self, position: int, node: Node, compiler: Compiler) -> Evaluate:
        """A value for a column, or its default; 42804 where its type does not fit."""
        plain = isinstance(node, exp.Var) or (isinstance(node, exp.Column) and not node.table)
        if plain and str(node.name).upper() == "DEFAULT":
            return self.default(position)
        expr, (name, kind) = compiler.compile(node), self.columns[position]
        both_numbers = expr.kind in NUMBERS and kind in NUMBERS
        if not (is_implicit(expr.kind, kind) or kind is TEXT or both_numbers):
            raise EngineError(
                "42804",
                f'column "{name}" is of type {kind.shown} but expression is of type '
                f"{expr.kind.shown}",
                hint="You will need to rewrite or cast the expression.",
            )
        return converted(expr, kind).value

    def default(self, position: int) -> Evaluate:
        """What a column is where nothing is said."""
        default = schema.TABLES[self.letter].columns[position].default
        if default is schema.NOW:
            return lambda env: env.session.current_time()
        return lambda _: default

    def returning(self, node: Node) -> tuple[tuple[ColumnInfo, ...], Callable[[Env], Row]]:
        """The columns of ``returning``, and what gives their values."""
        clause = node.args.get("returning") or exp.Returning()
        compiler = Compiler(self.scope, compile_query, clause="RETURNING")
        outputs = compile_outputs(clause, compiler, self.sources)
        columns = tuple(ColumnInfo(out.name, out.expr.kind) for out in outputs)
        return columns, lambda env: tuple([out.expr.value(env) for out in outputs])

    def matching(self, node: Node) -> Callable[[Env], list[Env]]:
        """Each row where the condition holds once, with the first of the others' rows."""
        match = self.sources.matching(node.args.get("where"))

        def first(env: Env) -> list[Env]:
            table, matches = self.table(env.tx), dict[Any, Env]()
            for here in match(env):
                matches.setdefault(table.key_of(here.rows[0]), here)
            return list(matches.values())

        return first


def _insert(target: _Target, node: exp.Insert) -> Query:
    into, source = node.this, unwrapped(part(node, "expression"))
    if not isinstance(source, exp.Values):
        raise Unsupported("INSERT of other than VALUES")
    names = [name_of(item) for item in into.expressions] if isinstance(into, exp.Schema) else []
    positions = [target.position(name) for name in names] or list(range(len(target.columns)))
    for name in names:
        if names.count(name) > 1:
            raise EngineError("42701", f'column "{name}" specified more than once')
    compiler = Compiler(Scope(target.scope.plan), compile_query, clause="VALUES")
    rows = []
    for row in source.expressions:
        items = row.expressions if isinstance(row, exp.Tuple) else [row]
        if len(items) > len(positions):
            raise EngineError("42601", "INSERT has more expressions than target columns")
        if names and len(items) < len(positions):
            raise EngineError("42601", "INSERT has more target columns than expressions")
        values = [target.default(position) for position in range(len(target.columns))]
        for item, position in zip(items, positions, strict=False):
            values[position] = target.value_for(position, item, compiler)
        rows.append(values)
    columns, project = target.returning(node)

    def run(env: Env) -> list[Row]:
        table = target.table(env.tx)
        returned: list[Row] = []
        for values in rows:
            row = [value(env) for value in values]
            made = _insert_row(env.tx, table, row)
            returned.append(project(env.with_rows([made])))
        return returned

    return Query(columns, run)


def _delete(target: _Target, node: exp.Delete) -> Query:
    match = target.matching(node)
    columns, project = target.returning(node)

    def run(env: Env) -> list[Row]:
        table = target.table(env.tx)
        matches = match(env)
        for here in matches:
            key = table.key_of(here.rows[0])
            table.lock(env.tx, key)
            table.delete(env.tx, key)
        return [project(here) for here in matches]

    return Query(columns, run)


def _update(target: _Target, node: exp.Update) -> Query:
    clause, changes = part(node, "from"), dict[int, Evaluate]()
    if clause is not None:
        target.sources.add(clause.this, [])
    match = target.matching(node)
    compiler = Compiler(target.scope, compile_query, clause="UPDATE")
    for assignment in node.expressions:
        column = assignment.this
        if not (isinstance(assignment, exp.EQ) and isinstance(column, exp.Column)) or column.table:
            raise Unsupported("assignments to other than one column by its name")
        position = target.position(name_of(column.this))
        if position in changes:
            raise Unsupported("two assignments to one column")
        changes[position] = target.value_for(position, assignment.expression, compiler)
    columns, project = target.returning(node)

    def run(env: Env) -> list[Row]:
        table = target.table(env.tx)
        planned = []
        for here in match(env):
            values = list(here.rows[0] or ())
            for position, value in changes.items():
                values[position] = value(here)
            planned.append((here, values))
        returned: list[Row] = []
        for here, values in planned:
            old = here.rows[0]
            made = _replace_row(env.tx, table, old, values)
            returned.append(project(here.with_rows([made, *here.rows[1:]])))
        return returned

    return Query(columns, run)


# -- constraints --------------------------------------------------------------------------------


def _insert_row(tx: Transaction, table: catalog.AnyTable, values: list[Any]) -> Row:
    """Insert a row; 23502, 23514 or 23505 for one that breaks a constraint."""
    row = _checked(table, values)
    key = table.key_of(row)
    table.await_change(tx, key)  # another's uncommitted row of the same key
    if key in table.rows:
        raise _duplicate(table, row, "pkey", table.schema.primary_key)
    _check_idempotency_key(table, row)
    table.put(tx, row)
    return row


def _replace_row(tx: Transaction, table: catalog.AnyTable, old: Any, values: list[Any]) -> Row:
    """Put a row of the same key in place of another, with the same errors."""
    row, key = _checked(table, values), table.key_of(old)
    table.lock(tx, key)
    if table.key_of(row) != key:
        raise Unsupported("changes of a primary key")
    _check_idempotency_key(table, row)
    table.put(tx, row)
    return row


def _check_idempotency_key(table: catalog.AnyTable, row: Row) -> None:
    if table.unique_key:
        owners = table.keys_with("idempotency_key", row[-1])
        if owners not in ((), (row[0],)):
            raise _duplicate(table, row, "idempotency_key_key", ("idempotency_key",))


def _duplicate(
    table: catalog.AnyTable, row: Row, suffix: str, columns: tuple[str, ...]
) -> EngineError:
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


def _checked(table: catalog.AnyTable, values: list[Any]) -> Row:
    row: Row = table.schema.row(*values)
    table.schema.check_row(table.relation_of(row[table.partition_column]), row, table.name)
    return row


_CHANGES: dict[type, Callable[[_Target, Any], Query]] = {
    exp.Insert: _insert, exp.Update: _update, exp.Delete: _delete,
}  # fmt: skip
