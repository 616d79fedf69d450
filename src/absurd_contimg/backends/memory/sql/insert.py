"""``insert``, with what it does where a key is taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sqlglot import exp

from absurd_contimg.backends.memory.catalog import AnyTable
from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.sql.expressions import Compiler, name_of, unwrapped
from absurd_contimg.backends.memory.sql.queries import Query
from absurd_contimg.backends.memory.sql.scope import (
    Env,
    Expr,
    Node,
    Row,
    Scope,
    Source,
    column_value,
)
from absurd_contimg.backends.memory.sql.targets import (
    ROWS,
    Target,
    assigned,
    changed_row,
    check_row,
    conflict,
    default_of,
    insert_row,
    is_default,
    target_of,
)

if TYPE_CHECKING:
    from absurd_contimg.backends.memory.sql.modify import Modifier


def compile_insert(modifier: Modifier, node: exp.Insert, scope: Scope) -> Query:
    """See `Modifier.compile`."""
    into = node.this
    names: list[str] = []
    if isinstance(into, exp.Schema):
        names = [name_of(item) for item in into.expressions]
        into = into.this
    target = target_of(into)
    positions = [target.position(name) for name in names] or list(range(len(target.columns)))
    for name, count in Counter(names).items():
        if count > 1:
            raise EngineError("42701", f'column "{name}" specified more than once')
    produce = _produced(modifier, node, target, positions, scope, explicit=bool(names))
    settle = _on_conflict(modifier, node, target, scope)
    inner = Scope(
        [Source(target.alias, target.columns, lambda _: [])], scope, scope.ctes, scope.params
    )
    columns, project = modifier.returning(node, inner)

    def rows(env: Env) -> list[Row]:
        table = target.table(env.tx)
        found: list[Row] = []
        touched: set[Any] = set()
        for row in produce(env):
            check_row(target, table, row)
            kept = settle(env, table, row, touched)
            if kept is not None:
                here = env.child()
                here.rows = [kept]
                found.append(project(here))
        return found

    return columns, rows


def _produced(
    modifier: Modifier,
    node: exp.Insert,
    target: Target,
    positions: list[int],
    scope: Scope,
    *,
    explicit: bool,
) -> Callable[[Env], list[Row]]:
    """What gives whole rows of the table, defaults filled in."""
    source = node.args.get("expression")
    defaults = [default_of(target, index) for index in range(len(target.columns))]
    make = ROWS[target.letter]
    if source is None:
        return lambda env: [make(*[default(env) for default in defaults])]
    source = unwrapped(source)
    table: list[list[Callable[[Env], Any]]] | None = None
    query: Callable[[Env], list[Row]] | None = None
    if isinstance(source, exp.Values):
        table = [
            _value_row(modifier, row, target, positions, scope, explicit=explicit)
            for row in source.expressions
        ]
    else:
        modifier.planner.keep_unknown = True
        columns, rows = modifier.planner.query(source, scope.child())
        _check_count(len(columns), positions, explicit=explicit)
        casts = [
            assigned(
                Expr(column.kind, column_value(0, index)),
                target.columns[position].kind,
                target.columns[position].name,
            ).value
            for index, (column, position) in enumerate(zip(columns, positions, strict=False))
        ]
        query = rows

    def produce(env: Env) -> list[Row]:
        found: list[Row] = []
        if table is not None:
            for values in table:
                row = [default(env) for default in defaults]
                for value, position in zip(values, positions, strict=False):
                    row[position] = value(env)
                found.append(make(*row))
            return found
        assert query is not None
        for item in query(env.child()):
            here = env.child()
            here.rows = [item]
            row = [default(env) for default in defaults]
            for cast, position in zip(casts, positions, strict=False):
                row[position] = cast(here)
            found.append(make(*row))
        return found

    return produce


def _value_row(
    modifier: Modifier,
    row: Node,
    target: Target,
    positions: list[int],
    scope: Scope,
    *,
    explicit: bool,
) -> list[Callable[[Env], Any]]:
    items = row.expressions if isinstance(row, exp.Tuple) else [row]
    _check_count(len(items), positions, explicit=explicit)
    compiler = Compiler(scope, modifier.planner.query)
    found: list[Callable[[Env], Any]] = []
    for item, position in zip(items, positions, strict=False):
        column = target.columns[position]
        if is_default(item):
            found.append(default_of(target, position))
        else:
            found.append(assigned(compiler.compile(item), column.kind, column.name).value)
    return found


def _on_conflict(
    modifier: Modifier, node: exp.Insert, target: Target, scope: Scope
) -> Callable[[Env, AnyTable, Row, set[Any]], Row | None]:
    """What puts a row into the table, or does what ``on conflict`` says."""
    clause = node.args.get("conflict")
    if clause is None:

        def plain(env: Env, table: AnyTable, row: Row, _: set[Any]) -> Row:
            insert_row(env.tx, target, table, row)
            return row

        return plain
    inner = Scope(
        [
            Source(target.alias, target.columns, lambda _: []),
            Source("excluded", target.columns, lambda _: []),
        ],
        scope,
        scope.ctes,
        scope.params,
    )
    changes = modifier.assignments(clause.expressions, target, inner)
    where = clause.args.get("where")
    condition = (
        None
        if where is None
        else Compiler(inner, modifier.planner.query).boolean(where.this, "WHERE").value
    )

    def settle(env: Env, table: AnyTable, row: Row, touched: set[Any]) -> Row | None:
        broken = conflict(env.tx, table, row, table.key_of(row))
        if broken is None:
            table.put(env.tx, table.key_of(row), row)
            touched.add(table.key_of(row))
            return row
        if not changes:
            return None
        old = table.rows[
            table.key_of(row) if broken[0] == "pkey" else table.by_key[row[-1]]  # type: ignore[attr-defined]
        ]
        if table.key_of(old) in touched:
            raise EngineError(
                "21000",
                "ON CONFLICT DO UPDATE command cannot affect row a second time",
            )
        touched.add(table.key_of(old))
        here = env.child()
        here.rows = [old, row]
        table.lock(env.tx, table.key_of(old))
        if condition is not None and condition(here) is not True:
            return None
        return changed_row(env, here, target, table, old, changes)

    return settle


def _check_count(count: int, positions: list[int], *, explicit: bool) -> None:
    if count > len(positions):
        raise EngineError("42601", "INSERT has more expressions than target columns")
    if explicit and count < len(positions):
        raise EngineError("42601", "INSERT has more target columns than expressions")
