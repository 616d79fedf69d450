"""``insert``, ``update`` and ``delete`` on Absurd's tables, with the tables' own rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from sqlglot import exp

from absurd_contimg.backends.memory import catalog, schema
from absurd_contimg.backends.memory.catalog import AnyTable
from absurd_contimg.backends.memory.errors import EngineError, unsupported
from absurd_contimg.backends.memory.locks import TableLock, WouldBlock
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
from absurd_contimg.backends.memory.sql.expressions import Compiler, name_of, sql_of, unwrapped
from absurd_contimg.backends.memory.sql.joins import Joiner
from absurd_contimg.backends.memory.sql.queries import Planner, Query, part
from absurd_contimg.backends.memory.sql.scope import (
    ColumnInfo,
    Env,
    Expr,
    Node,
    Row,
    Scope,
    Source,
    column_value,
)
from absurd_contimg.backends.memory.sql.sources import (
    SourceCompiler,
    letter_of,
    rows_of,
    table_columns,
)
from absurd_contimg.backends.memory.sql.types import NUMBERS, SqlType
from absurd_contimg.backends.memory.tables import Tasks
from absurd_contimg.backends.memory.transaction import Transaction

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


class _Target(NamedTuple):
    name: str
    alias: str
    letter: str
    columns: tuple[ColumnInfo, ...]

    def table(self, tx: Transaction) -> AnyTable:
        return catalog.relation(tx, self.name, TableLock.ROW_EXCLUSIVE).table

    def position(self, column: str) -> int:
        for index, info in enumerate(self.columns):
            if info.name == column:
                return index
        raise EngineError("42703", f'column "{column}" of relation "{self.name}" does not exist')


def _target(node: Node) -> _Target:
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
    return _Target(name, shown, letter, table_columns(letter))


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


def check_row(target: _Target, table: AnyTable, row: tuple[Any, ...]) -> None:
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


def insert_row(tx: Transaction, target: _Target, table: AnyTable, row: tuple[Any, ...]) -> None:
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
    tx: Transaction, target: _Target, row: tuple[Any, ...], columns: tuple[str, ...]
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


class Modifier:
    """Compiles data-modifying statements."""

    def __init__(self) -> None:
        self.planner = Planner(self.compile)

    def compile(self, node: Node, scope: Scope) -> Query:
        """The statement's ``returning`` columns, and what runs it and gives their rows.

        Without ``returning`` the rows are empty tuples, so that they can be counted.
        """
        if isinstance(node, exp.Insert):
            return self._insert(node, scope)
        if isinstance(node, exp.Update):
            return self._update(node, scope)
        if isinstance(node, exp.Delete):
            return self._delete(node, scope)
        raise unsupported(sql_of(node))

    # -- shared -----------------------------------------------------------------------------

    def _matching(
        self, node: Node, target: _Target, scope: Scope, others: list[Node]
    ) -> Callable[[Env], list[Env]]:
        """Target rows (source 0) with the rows of the other tables, where the condition holds."""
        scope.sources.append(
            Source(
                target.alias,
                target.columns,
                lambda env: rows_of(env.tx, catalog.relation(env.tx, target.name)),
                relation=target.name,
            )
        )
        joiner = Joiner(SourceCompiler(self.planner, scope), self.planner.query, scope)
        steps = [joiner._join(exp.Join(this=other.copy(), kind="CROSS")) for other in others]
        where = node.args.get("where")
        condition = None
        if where is not None:
            condition = (
                Compiler(scope, self.planner.query, clause="WHERE")
                .boolean(where.this, "WHERE")
                .value
            )

        def match(env: Env) -> list[Env]:
            target.table(env.tx)
            combined: list[list[Row | None]] = [[row] for row in scope.sources[0].fetch(env)]
            for step in steps:
                combined = step(env, combined)
            envs = []
            for rows in combined:
                here = env.child()
                here.outer, here.rows = env.outer, rows
                if condition is None or condition(here) is True:
                    envs.append(here)
            return envs

        return match

    def _returning(self, node: Node, scope: Scope) -> tuple[list[ColumnInfo], Callable[[Env], Row]]:
        clause = node.args.get("returning")
        if clause is None:
            return [], lambda _: ()
        for column in clause.find_all(exp.Column):
            table = name_of(column.args["table"]) if column.table else ""
            known = {source.alias for source in scope.sources}
            if table in ("old", "new") and table not in known:
                raise unsupported(sql_of(column), "old and new rows in RETURNING")
        select = exp.Select(expressions=[item.copy() for item in clause.expressions])
        star = [
            (index, position)
            for index, source in enumerate(scope.sources)
            for position in range(len(source.columns))
        ]
        outputs = self.planner._outputs(select, Compiler(scope, self.planner.query), star)
        values = [out.expr.value for out in outputs]
        columns = [ColumnInfo(out.name, out.expr.kind) for out in outputs]
        return columns, lambda env: tuple([value(env) for value in values])

    # -- the statements ---------------------------------------------------------------------

    def _delete(self, node: exp.Delete, scope: Scope) -> Query:
        target = _target(node.this)
        match = self._matching(node, target, scope, list(node.args.get("using") or []))
        columns, project = self._returning(node, scope)

        def rows(env: Env) -> list[Row]:
            table = target.table(env.tx)
            found: list[Row] = []
            gone: set[Any] = set()
            for here in match(env):
                row = here.rows[0]
                assert row is not None
                key = table.key_of(row)
                if key not in gone:
                    gone.add(key)
                    table.lock(env.tx, key)
                    table.delete(env.tx, key)
                    found.append(project(here))
            return found

        return columns, rows

    def _update(self, node: exp.Update, scope: Scope) -> Query:
        target = _target(node.this)
        clause = part(node, "from")
        others = [] if clause is None else [clause.this]
        match = self._matching(node, target, scope, others)
        changes = self._assignments(node.expressions, target, scope)
        columns, project = self._returning(node, scope)

        def rows(env: Env) -> list[Row]:
            table = target.table(env.tx)
            found: list[Row] = []
            changed: set[Any] = set()
            for here in match(env):
                old = here.rows[0]
                assert old is not None
                key = table.key_of(old)
                if key in changed:
                    continue
                changed.add(key)
                here.rows[0] = self._changed(env, here, target, table, old, changes)
                found.append(project(here))
            return found

        return columns, rows

    @staticmethod
    def _changed(
        env: Env,
        here: Env,
        target: _Target,
        table: AnyTable,
        old: Row,
        changes: list[tuple[int, Callable[[Env], Any]]],
    ) -> Row:
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
                "duplicate key value violates unique constraint "
                f'"{target.name}_idempotency_key_key"',
                detail=f"Key (idempotency_key)=({row[-1]}) already exists.",
                table=target.name,
                constraint=f"{target.name}_idempotency_key_key",
            )
        table.put(env.tx, key, row)
        return row

    def _assignments(
        self, nodes: list[Node], target: _Target, scope: Scope
    ) -> list[tuple[int, Callable[[Env], Any]]]:
        compiler = Compiler(scope, self.planner.query)
        found = []
        for node in nodes:
            if not isinstance(node, exp.EQ):
                raise unsupported(sql_of(node), "this assignment")
            pairs = [(node.this, node.expression)]
            if isinstance(node.this, exp.Tuple):
                right = node.expression
                if not isinstance(right, exp.Tuple):
                    raise unsupported(sql_of(node), "this assignment")
                pairs = list(zip(node.this.expressions, right.expressions, strict=True))
            for column, value in pairs:
                name = name_of(column.this)
                position = target.position(name)
                kind = target.columns[position].kind
                if _is_default(value):
                    found.append((position, _default(target, position)))
                else:
                    expr = assigned(compiler.compile(value), kind, name)
                    found.append((position, expr.value))
                if sum(place == position for place, _ in found) > 1:
                    raise EngineError("42601", f'multiple assignments to same column "{name}"')
        return found

    def _insert(self, node: exp.Insert, scope: Scope) -> Query:
        into = node.this
        names: list[str] = []
        if isinstance(into, exp.Schema):
            names = [name_of(item) for item in into.expressions]
            into = into.this
        target = _target(into)
        positions = [target.position(name) for name in names] or list(range(len(target.columns)))
        for name, count in Counter(names).items():
            if count > 1:
                raise EngineError("42701", f'column "{name}" specified more than once')
        produce = self._produced(node, target, positions, scope, explicit=bool(names))
        settle = self._on_conflict(node, target, scope)
        inner = Scope(
            [Source(target.alias, target.columns, lambda _: [])], scope, scope.ctes, scope.params
        )
        columns, project = self._returning(node, inner)

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
        self,
        node: exp.Insert,
        target: _Target,
        positions: list[int],
        scope: Scope,
        *,
        explicit: bool,
    ) -> Callable[[Env], list[Row]]:
        """What gives whole rows of the table, defaults filled in."""
        source = node.args.get("expression")
        defaults = [_default(target, index) for index in range(len(target.columns))]
        make = ROWS[target.letter]
        if source is None:
            return lambda env: [make(*[default(env) for default in defaults])]
        source = unwrapped(source)
        table: list[list[Callable[[Env], Any]]] | None = None
        query: Callable[[Env], list[Row]] | None = None
        if isinstance(source, exp.Values):
            table = [
                self._value_row(row, target, positions, scope, explicit=explicit)
                for row in source.expressions
            ]
        else:
            self.planner.keep_unknown = True
            columns, rows = self.planner.query(source, scope.child())
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
        self,
        row: Node,
        target: _Target,
        positions: list[int],
        scope: Scope,
        *,
        explicit: bool,
    ) -> list[Callable[[Env], Any]]:
        items = row.expressions if isinstance(row, exp.Tuple) else [row]
        _check_count(len(items), positions, explicit=explicit)
        compiler = Compiler(scope, self.planner.query)
        found: list[Callable[[Env], Any]] = []
        for item, position in zip(items, positions, strict=False):
            column = target.columns[position]
            if _is_default(item):
                found.append(_default(target, position))
            else:
                found.append(assigned(compiler.compile(item), column.kind, column.name).value)
        return found

    def _on_conflict(
        self, node: exp.Insert, target: _Target, scope: Scope
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
        changes = self._assignments(clause.expressions, target, inner)
        where = clause.args.get("where")
        condition = (
            None
            if where is None
            else Compiler(inner, self.planner.query).boolean(where.this, "WHERE").value
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
            return self._changed(env, here, target, table, old, changes)

        return settle


def _check_count(count: int, positions: list[int], *, explicit: bool) -> None:
    if count > len(positions):
        raise EngineError("42601", "INSERT has more expressions than target columns")
    if explicit and count < len(positions):
        raise EngineError("42601", "INSERT has more target columns than expressions")


def _is_default(node: Node) -> bool:
    if isinstance(node, exp.Var):
        return node.name.upper() == "DEFAULT"
    return isinstance(node, exp.Column) and node.name.upper() == "DEFAULT" and not node.table


def _default(target: _Target, position: int) -> Callable[[Env], Any]:
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
