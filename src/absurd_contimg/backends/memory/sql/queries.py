"""``select``, ``values``, ``union`` and ``with``: from a tree to something that gives rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlglot import exp

from absurd_contimg.backends.memory.errors import EngineError, unsupported
from absurd_contimg.backends.memory.locks import TableLock
from absurd_contimg.backends.memory.sql import (
    casting,
    conditions,
    invocations,
    matching,
    recursion,
    subscripts,
    values,
)
from absurd_contimg.backends.memory.sql.aggregate_parts import Aggregate
from absurd_contimg.backends.memory.sql.coercion import common_type, converted
from absurd_contimg.backends.memory.sql.comparison import row_key
from absurd_contimg.backends.memory.sql.dialect import sql_of
from absurd_contimg.backends.memory.sql.expressions import (
    Compiler,
    name_of,
    unwrapped,
)
from absurd_contimg.backends.memory.sql.grouping import check_grouped, read_keys
from absurd_contimg.backends.memory.sql.grouping_sets import Grouping, has_sets
from absurd_contimg.backends.memory.sql.joins import Joiner
from absurd_contimg.backends.memory.sql.outputs import (
    Order,
    Output,
    check_distinct_order,
    column_of_row,
    constant_position,
    cut,
    is_column,
    output_position,
    projected,
    sort_rows,
    star_outputs,
)
from absurd_contimg.backends.memory.sql.row_locks import row_locks
from absurd_contimg.backends.memory.sql.scope import (
    ColumnInfo,
    Env,
    Evaluate,
    Node,
    Row,
    Scope,
    Source,
)
from absurd_contimg.backends.memory.sql.set_rows import cast_row, caster, matched_rows, unique_rows
from absurd_contimg.backends.memory.sql.sources import SourceCompiler
from absurd_contimg.backends.memory.sql.types import INT8, TEXT, UNKNOWN
from absurd_contimg.backends.memory.sql.windows import Window

REGISTERED = (casting, conditions, invocations, matching, subscripts, values)
"""Modules that are imported because they register what compiles expressions."""

Rows = Callable[[Env], list[Row]]
Query = tuple[list[ColumnInfo], Rows]


def part(node: Node, name: str) -> Any:
    """A clause; sqlglot renamed those that are Python's keywords."""
    return node.args.get(f"{name}_") or node.args.get(name)


class Planner:
    """Compiles queries. `modify` compiles the data-modifying ones in a ``with``."""

    def __init__(self, modify: Callable[[Node, Scope], Query]) -> None:
        self.modify = modify
        self.table_lock = TableLock.ACCESS_SHARE
        self.keep_unknown = False
        """Set for the query of an ``insert``: its literals take the type of their column."""

    def query(self, node: Node, scope: Scope) -> Query:
        """A query in its own scope: its columns, and what gives its rows in an environment."""
        node = unwrapped(node)
        keep_unknown, self.keep_unknown = self.keep_unknown, False
        prepare = self.common_tables(node, scope)
        if isinstance(node, exp.SetOperation):
            columns, rows = self._set_operation(node, scope)
        elif isinstance(node, exp.Values):
            columns, rows = self._values(node, scope)
        elif isinstance(node, exp.Select):
            columns, rows = self._select(node, scope, keep_unknown=keep_unknown)
        elif isinstance(node, exp.Insert | exp.Update | exp.Delete):
            columns, rows = self.modify(node, scope)
        else:
            raise unsupported(sql_of(node), "this query")
        if prepare is None:
            return columns, rows

        def prepared(env: Env) -> list[Row]:
            prepare(env)
            return rows(env)

        return columns, prepared

    def common_tables(self, node: Node, scope: Scope) -> Callable[[Env], None] | None:
        """The ``with`` clause: adds its tables to the scope; what fills them."""
        clause = part(node, "with")
        if clause is None:
            return None
        made: list[tuple[str, Rows]] = []
        for item in clause.expressions:
            name = name_of(item.args["alias"].this)
            if clause.args.get("recursive") and recursion.refers(item.this, name):
                columns, rows = recursion.compile_recursive(self, item, name, scope)
            else:
                columns, rows = self.query(item.this, scope.child())
            if any(name == known for known, _ in made):
                raise EngineError("42712", f'WITH query name "{name}" specified more than once')
            scope.ctes[name] = recursion.renamed(item, columns)
            made.append((name, rows))

        def fill(env: Env) -> None:
            for name, rows in made:
                env.ctes[name] = rows(env.child())

        return fill

    # -- set operations and values ----------------------------------------------------------

    def _set_operation(self, node: exp.SetOperation, scope: Scope) -> Query:
        left, left_rows = self.query(node.this, scope.child())
        right, right_rows = self.query(node.expression, scope.child())
        word = type(node).__name__.upper()
        if len(left) != len(right):
            raise EngineError("42601", f"each {word} query must have the same number of columns")
        columns, casts = [], []
        for one, other in zip(left, right, strict=True):
            kind = common_type([one.kind, other.kind], word)
            modifier = one.modifier if one.modifier == other.modifier else -1
            columns.append(ColumnInfo(one.name, kind, modifier))
            casts.append((caster(one, kind), caster(other, kind)))
        distinct = bool(node.args.get("distinct"))
        kinds = [column.kind for column in columns]

        def rows(env: Env) -> list[Row]:
            first = [cast_row(row, casts, 0, env) for row in left_rows(env.child())]
            second = [cast_row(row, casts, 1, env) for row in right_rows(env.child())]
            if isinstance(node, exp.Union):
                found = first + second
            else:
                keep = isinstance(node, exp.Intersect)
                found = matched_rows(first, second, kinds, keep=keep, all_rows=not distinct)
            return unique_rows(found, kinds) if distinct else found

        ordered = self._ordered_rows(node, columns, scope, rows)
        return columns, ordered

    def _ordered_rows(
        self, node: Node, columns: list[ColumnInfo], scope: Scope, rows: Rows
    ) -> Rows:
        """``order by`` and ``limit`` on the columns of a set operation or of values."""
        inner = Scope([Source("", tuple(columns), lambda _: [])], scope, scope.ctes, scope.params)
        compiler = Compiler(inner, self.query)
        order = self._order(node, compiler, [])
        limit, offset = self._limit(node, compiler)

        def ordered(env: Env) -> list[Row]:
            found = []
            for row in rows(env):
                child = env.child()
                child.rows = [row]
                found.append((child, row))
            found = sort_rows(found, order)
            return cut([row for _, row in found], limit, offset, env)

        return ordered

    def _values(self, node: exp.Values, scope: Scope) -> Query:
        compiler = Compiler(scope, self.query)
        table = [[compiler.compile(item) for item in row.expressions] for row in node.expressions]
        columns: list[ColumnInfo] = []
        for index in range(len(table[0])):
            kind = common_type([row[index].kind for row in table], "VALUES")
            columns.append(ColumnInfo(f"column{index + 1}", kind))
        values = [
            [converted(expr, column.kind).value for expr, column in zip(row, columns, strict=True)]
            for row in table
        ]

        def rows(env: Env) -> list[Row]:
            return [tuple(value(env) for value in row) for row in values]

        return columns, self._ordered_rows(node, columns, scope, rows)

    # -- select -----------------------------------------------------------------------------

    def _select(self, node: exp.Select, scope: Scope, *, keep_unknown: bool) -> Query:
        _refuse_clauses(node)
        _name_windows(node, scope)
        combine, star = self._sources(node, scope)
        aggregates: list[Aggregate] = []
        windows: list[Window] = []
        keys, grouping, sets = Compiler(scope, self.query, clause="GROUP BY"), Grouping(scope), None
        if has_sets(node):  # what is grouped by decides what the select list means
            named = Compiler(scope, self.query, [], windows=[], grouped=Grouping(scope))
            read_keys(grouping, node, self._outputs(node, named, star), keys)
            sets = grouping
        compiler = Compiler(scope, self.query, aggregates, windows=windows, grouped=sets)
        outputs = self._outputs(node, compiler, star)
        condition = _condition(node, "where", Compiler(scope, self.query, clause="WHERE"))
        inner = Compiler(scope, self.query, aggregates, clause="HAVING", grouped=sets)
        kept = _condition(node, "having", inner)
        order = self._order(node, compiler, outputs)
        if sets is None:
            read_keys(grouping, node, outputs, keys)
        limit, offset = self._limit(node, compiler)
        locks = row_locks(node, scope)
        columns = [
            ColumnInfo(
                out.name,
                TEXT if out.expr.kind is UNKNOWN and not keep_unknown else out.expr.kind,
                out.expr.modifier,
            )
            for out in outputs
        ]
        if _is_plain(node, outputs, scope) and not aggregates:
            return columns, scope.sources[0].fetch
        grouped = bool(aggregates) or any(node.args.get(name) for name in ("group", "having"))
        if grouped:
            check_grouped(grouping, outputs, scope)
        values = [out.expr for out in outputs]
        distinct = self._distinct(node, compiler, outputs)
        if distinct is not None:
            check_distinct_order(node, order, outputs)

        def rows(env: Env) -> list[Row]:
            envs = combine(env)
            if condition is not None:
                envs = [item for item in envs if condition(item) is True]
            if grouped:
                envs = grouping.rows(envs, aggregates, env, len(scope.sources))
                if kept is not None:
                    envs = [item for item in envs if kept(item) is True]
            for window in windows:
                window.fill(envs)
            if locks is not None and not order:
                envs = locks(envs, limit, offset, env)
            found = [pair for item in envs for pair in projected(item, values)]
            if distinct is not None:
                found = distinct(sort_rows(found, order))
            elif order:
                found = sort_rows(found, order)
                if locks is not None:
                    kept_envs = locks([item for item, _ in found], limit, offset, env)
                    ids = {id(item) for item in kept_envs}
                    found = [pair for pair in found if id(pair[0]) in ids]
            return cut([row for _, row in found], limit, offset, env)

        return columns, rows

    def _sources(
        self, node: exp.Select, scope: Scope
    ) -> tuple[Callable[[Env], list[Env]], list[tuple[int, int]]]:
        """The ``from``: what gives an environment for each row, and the columns of ``*``."""
        outer_lock, self.table_lock = self.table_lock, TableLock.ACCESS_SHARE
        if node.args.get("locks"):
            self.table_lock = TableLock.ROW_SHARE
        joiner = Joiner(SourceCompiler(self, scope), self.query, scope)
        combine = joiner.compile(part(node, "from"), node.args.get("joins") or [])
        self.table_lock = outer_lock
        return combine, joiner.star

    def _outputs(
        self, node: exp.Select, compiler: Compiler, star: list[tuple[int, int]]
    ) -> list[Output]:
        outputs: list[Output] = []
        for item in node.expressions:
            if isinstance(item, exp.Star) or (
                isinstance(item, exp.Column) and isinstance(item.this, exp.Star)
            ):
                outputs += star_outputs(item, compiler.scope, star)
                continue
            inner = item.this if isinstance(item, exp.Alias) else item
            key = None if compiler.grouped is None else compiler.grouped.output(len(outputs))
            expr = compiler.compile_set(inner) if key is None else key
            name = name_of(item.args["alias"]) if isinstance(item, exp.Alias) else expr.name
            outputs.append(Output(name, expr, inner))
        return outputs

    def _order(self, node: Node, compiler: Compiler, outputs: list[Output]) -> list[Order]:
        clause = node.args.get("order")
        found: list[Order] = []
        for item in [] if clause is None else clause.expressions:
            inner = item.this
            flags = bool(item.args.get("desc")), bool(item.args.get("nulls_first"))
            position = output_position(inner, outputs)
            if position is not None:
                found.append(Order(outputs[position].expr, position, *flags))
            elif (number := constant_position(inner)) is not None:
                found.append(Order(column_of_row(compiler.scope, number), None, *flags))
            else:
                found.append(Order(compiler.compile(inner), None, *flags))
                if isinstance(node, exp.SetOperation) and not isinstance(inner, exp.Column):
                    raise EngineError(
                        "0A000",
                        "invalid UNION/INTERSECT/EXCEPT ORDER BY clause",
                        detail="Only result column names can be used, not expressions or "
                        "functions.",
                        hint="Add the expression/function to every SELECT, or move the UNION into "
                        "a FROM clause.",
                    )
        return found

    def _limit(self, node: Node, compiler: Compiler) -> tuple[Any, Any]:
        found: dict[str, Any] = {}
        for name in ("offset", "limit"):  # in Postgres' order
            clause = node.args.get(name)
            if clause is not None:
                inner = (
                    clause.args.get("count") if isinstance(clause, exp.Fetch) else clause.expression
                )
                if isinstance(inner, exp.Var) and inner.name.upper() == "ALL":
                    continue
                inner = inner or exp.Literal.number(1)  # fetch first row only
                parts = inner.walk(prune=lambda one: isinstance(one, exp.Query))
                if any(is_column(item, compiler.scope) for item in parts):
                    raise EngineError(
                        "42P10", f"argument of {name.upper()} must not contain variables"
                    )
                found[name] = converted(compiler.compile(inner), INT8).value
        return found.get("limit"), found.get("offset")

    def _distinct(
        self, node: exp.Select, compiler: Compiler, outputs: list[Output]
    ) -> Callable[[list[tuple[Env, Row]]], list[tuple[Env, Row]]] | None:
        clause = node.args.get("distinct")
        if clause is None:
            return None
        on = clause.args.get("on")
        keys = None
        if on is not None:
            keys = []
            for item in unwrapped(on).expressions or [on]:
                place = output_position(item, outputs, "DISTINCT ON")
                keys.append(compiler.compile(item) if place is None else outputs[place].expr)
        kinds = [item.kind for item in (keys or [out.expr for out in outputs])]

        def first(pairs: list[tuple[Env, Row]]) -> list[tuple[Env, Row]]:
            seen: dict[Any, tuple[Env, Row]] = {}
            for env, row in pairs:
                found = row if keys is None else tuple([key.value(env) for key in keys])
                seen.setdefault(row_key(kinds, found), (env, row))
            return list(seen.values())

        return first


def _condition(node: exp.Select, name: str, compiler: Compiler) -> Evaluate | None:
    """The condition of ``where`` or ``having``."""
    clause = node.args.get(name)
    return None if clause is None else compiler.boolean(clause.this, name.upper()).value


def _refuse_clauses(node: exp.Select) -> None:
    for clause in ("qualify", "laterals", "sample"):
        if node.args.get(clause):
            raise unsupported(sql_of(node), f"the clause {clause}")


def _name_windows(node: exp.Select, scope: Scope) -> None:
    for named in node.args.get("windows") or []:
        name = name_of(named.this)
        if name in scope.windows:
            raise EngineError("42P20", f'window "{name}" is already defined')
        scope.windows[name] = named


def _is_plain(node: exp.Select, outputs: list[Output], scope: Scope) -> bool:
    """Whether the query is ``select * from`` one source and nothing else."""
    clauses = ("where", "group", "having", "order", "limit", "offset", "distinct", "locks", "joins")
    return (
        len(scope.sources) == 1
        and len(node.expressions) == 1
        and isinstance(node.expressions[0], exp.Star)
        and len(outputs) == len(scope.sources[0].columns)
        and not any(node.args.get(clause) for clause in clauses)
    )
