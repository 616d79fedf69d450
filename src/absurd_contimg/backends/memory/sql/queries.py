"""``select`` and ``values``: from the select list to the order of the rows."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlglot import exp

from absurd_contimg.backends.memory.errors import EngineError, Unsupported
from absurd_contimg.backends.memory.sql.casts import as_text, common_type, converted
from absurd_contimg.backends.memory.sql.dialect import PARAMETER, name_of, part
from absurd_contimg.backends.memory.sql.expressions import Compiler, unwrapped
from absurd_contimg.backends.memory.sql.functions import AGGREGATES, Aggregate
from absurd_contimg.backends.memory.sql.operators import check_ordered, row_key, sort_key
from absurd_contimg.backends.memory.sql.scope import Env, Expr, Grouping, Node, Query, Scope
from absurd_contimg.backends.memory.sql.sources import FromClause, Pairs, renamed, row_locks
from absurd_contimg.backends.memory.transaction import TableLock
from absurd_contimg.backends.memory.values.types import INT8, ColumnInfo, Row, SqlType


class Output(NamedTuple):
    """A column of the select list; one of ``*`` has no node."""

    name: str
    expr: Expr
    node: Node | None


class Order(NamedTuple):
    """An item of ``order by``; `position` is that of the output that it names."""

    expr: Expr
    position: int | None
    descending: bool
    nulls_first: bool


def compile_query(node: Node, scope: Scope) -> Query:
    """A query in a scope of its own."""
    node = unwrapped(node)
    if isinstance(node, exp.Values):
        return _values(node, scope)
    if not isinstance(node, exp.Select):
        raise Unsupported(f"{type(node).__name__.upper()} inside of a query")
    clause = part(node, "with")
    for item in [] if clause is None else clause.expressions:
        _common_table(item, scope)
    return _select(node, scope)


def _common_table(item: exp.CTE, scope: Scope) -> None:
    """A query of a ``with``: it runs once, when its rows are first wanted."""
    if scope.parent is not None:
        raise Unsupported("WITH inside of a query")
    alias = item.args["alias"]
    name = name_of(alias.this)
    if name in scope.tables:
        raise EngineError("42712", f'WITH query name "{name}" specified more than once')
    query = compile_query(item.this, Scope(scope.plan, scope, tables=scope.tables))

    names = [name_of(column) for column in alias.columns]
    columns = renamed(f'WITH query "{name}"', query.columns, names)
    scope.tables[name] = Query(columns, lambda env: query.rows_once(env, env.with_rows(())))


def _values(node: exp.Values, scope: Scope) -> Query:
    compiler = Compiler(scope, compile_query, clause="VALUES")
    table = [[compiler.compile(item) for item in row.expressions] for row in node.expressions]
    if len({len(row) for row in table}) > 1:
        raise EngineError("42601", "VALUES lists must all be the same length")
    kinds = [common_type([row[n].kind for row in table], "VALUES") for n in range(len(table[0]))]
    values = [
        [converted(expr, kind).value for expr, kind in zip(row, kinds, strict=True)]
        for row in table
    ]
    columns = tuple(ColumnInfo(f"column{n + 1}", kind) for n, kind in enumerate(kinds))
    return Query(columns, lambda env: [tuple([value(env) for value in row]) for row in values])


# -- select -------------------------------------------------------------------------------------


def _select(node: exp.Select, scope: Scope) -> Query:
    """One ``select``, its clauses in the order in which Postgres looks at them."""
    clause = part(node, "from")
    mode = TableLock.ROW_SHARE if node.args.get("locks") else TableLock.ACCESS_SHARE
    sources = FromClause(scope, compile_query, mode)
    if clause is not None:
        sources.add(clause.this, node.args.get("joins") or [])
    is_grouped = _is_grouped(node)
    grouping = scope.grouping = _grouping_of(node, scope) if is_grouped else None
    aggregates: list[Aggregate] = []
    compiler = Compiler(scope, compile_query, aggregates)
    outputs = compile_outputs(node, compiler, sources)
    scope.grouping = None
    match = sources.matching(node.args.get("where"))
    keys = _group_keys(grouping.keys if grouping is not None else [], scope)
    scope.grouping = grouping
    having = node.args.get("having")
    kept = None if having is None else compiler.condition(having.this, "HAVING")
    order = _order(node, compiler, outputs)
    offset, limit = _number(node, "offset", scope), _number(node, "limit", scope)
    lock, is_distinct = row_locks(node, scope), node.args.get("distinct") is not None
    if lock is not None and (is_grouped or is_distinct):
        raise Unsupported("locks of grouped or distinct rows")
    kinds = [out.expr.kind for out in outputs]
    for kind in kinds if is_distinct else []:
        check_ordered(kind, "DISTINCT")
    values, source_count = [out.expr.value for out in outputs], len(scope.sources)

    def matching(env: Env) -> list[Env]:
        envs = match(env)
        if is_grouped:
            envs = _group(env, envs, keys, aggregates, source_count)
        return [each for each in envs if kept is None or kept(each) is True]

    def rows(env: Env) -> list[Row]:
        pairs = [(each, tuple([value(each) for value in values])) for each in matching(env)]
        if is_distinct:
            pairs = _distinct(pairs, kinds)
        pairs = _sorted(pairs, order)
        start, end = _bounds(env, limit, offset)
        if lock is not None:
            pairs = lock(pairs, end)
        return [row for _, row in pairs[start:end]]

    columns = tuple(ColumnInfo(out.name, out.expr.kind) for out in outputs)
    several = outputs[0].expr.rows if len(outputs) == 1 else None
    is_plain = not (
        clause or node.args.get("where") or is_grouped or order or limit or offset or is_distinct
    )
    if any(out.expr.rows for out in outputs) and (several is None or not is_plain):
        raise Unsupported("procedures that return sets beside other columns or clauses")
    if several is not None:
        return Query(columns, lambda env: [(raw,) for raw in several(env)])
    if is_plain:
        return Query(columns, lambda env: [tuple([value(env) for value in values])])
    return Query(columns, rows)


def compile_outputs(clause: Node, compiler: Compiler, sources: FromClause) -> list[Output]:
    """The columns of a ``select`` or ``returning``."""
    outputs, scope = list[Output](), compiler.scope
    for item in clause.expressions:
        inner = item.this if isinstance(item, exp.Alias) else item
        places = sources.star if isinstance(inner, exp.Star) else None
        if places == []:
            raise EngineError("42601", "SELECT * with no tables specified is not valid")
        if isinstance(inner, exp.Column) and isinstance(inner.this, exp.Star):
            places = scope.places_of(name_of(inner.args["table"]))
        for index, position in places or []:
            scope.check_grouped((index, position))
            name, kind = scope.sources[index].columns[position]
            outputs.append(Output(name, Expr.column(kind, (index, position), name), None))
        if places is None:
            expr = as_text(compiler.compile_output(inner))
            name = name_of(item.args["alias"]) if isinstance(item, exp.Alias) else expr.name
            outputs.append(Output(name, expr, inner))
    return outputs


def _group_keys(nodes: list[Node], scope: Scope) -> list[Expr]:
    compiler = Compiler(scope, compile_query, clause="GROUP BY")
    keys = [as_text(compiler.compile(node)) for node in nodes]
    for key in keys:
        check_ordered(key.kind, "GROUP BY")
    return keys


def _is_grouped(node: exp.Select) -> bool:
    """Whether a query has groups: by its clauses, or for an aggregate outside of subqueries."""
    parts = [*node.expressions, node.args.get("order")]
    return bool(node.args.get("group") or node.args.get("having")) or any(
        isinstance(inner, exp.Anonymous) and str(inner.this).lower() in AGGREGATES
        for item in parts
        if item is not None
        for inner in item.walk(prune=lambda each: isinstance(each, exp.Select))
    )


# -- order, distinct, limit ---------------------------------------------------------------------


def _order(node: exp.Select, compiler: Compiler, outputs: list[Output]) -> list[Order]:
    clause, items = node.args.get("order"), list[Order]()
    for item in [] if clause is None else clause.expressions:
        position = _output_position(item.this, outputs)
        if position is not None:
            expr = outputs[position].expr
        elif node.args.get("distinct") is None:
            expr = as_text(compiler.compile(item.this))
        else:
            raise EngineError(
                "42P10", "for SELECT DISTINCT, ORDER BY expressions must appear in select list"
            )
        check_ordered(expr.kind, "ORDER BY")
        flags = bool(item.args.get("desc")), bool(item.args.get("nulls_first"))
        items.append(Order(expr, position, *flags))
    return items


def _output_position(node: Node, outputs: list[Output]) -> int | None:
    """Which output an ``order by`` item names: by number, by name, or by being the same."""
    node = unwrapped(node)
    if isinstance(node, exp.Literal) and str(node.this).isdigit() and not node.is_string:
        number = int(str(node.this))
        if not 1 <= number <= len(outputs):
            raise EngineError("42P10", f"ORDER BY position {number} is not in select list")
        return number - 1
    if isinstance(node, exp.Literal | exp.Boolean | exp.Null | exp.Neg):
        raise Unsupported("constants in ORDER BY")
    if isinstance(node, exp.Column) and not node.table:
        named = [n for n, out in enumerate(outputs) if out.name == name_of(node.this)]
        if len(named) > 1:
            raise Unsupported("ORDER BY of a name that several columns have")
        if named:
            return named[0]
    return next((n for n, out in enumerate(outputs) if out.node == node), None)


def _sorted(pairs: Pairs, order: list[Order]) -> Pairs:
    """Sort by the items of ``order by``, the last first, for each sort keeps what was before."""
    for expr, position, descending, nulls_first in reversed(order):
        null = (-1 if nulls_first is not descending else 1, 0)

        def key(pair: tuple[Env, Row]) -> tuple[int, Any]:
            env, row = pair
            raw = expr.value(env) if position is None else row[position]  # noqa: B023 - used at once
            return null if raw is None else (0, sort_key(expr.kind, raw))  # noqa: B023 - used at once

        pairs = sorted(pairs, key=key, reverse=descending)
    return pairs


def _distinct(pairs: Pairs, kinds: list[SqlType]) -> Pairs:
    seen: dict[Any, tuple[Env, Row]] = {}
    for pair in pairs:
        seen.setdefault(row_key(kinds, pair[1]), pair)
    return list(seen.values())


def _number(node: exp.Select, name: str, scope: Scope) -> Expr | None:
    clause = node.args.get(name)
    if clause is None:
        return None
    if any(not PARAMETER.fullmatch(column.name) for column in clause.find_all(exp.Column)):
        raise Unsupported(f"columns in {name.upper()}")
    compiler = Compiler(scope, compile_query, clause=name.upper())
    return converted(compiler.compile(clause.expression), INT8)


def _bounds(env: Env, limit: Expr | None, offset: Expr | None) -> tuple[int, int | None]:
    start = 0 if offset is None else (offset.value(env) or 0)
    most = None if limit is None else limit.value(env)
    if start < 0:
        raise EngineError("2201X", "OFFSET must not be negative")
    if most is not None and most < 0:
        raise EngineError("2201W", "LIMIT must not be negative")
    return start, None if most is None else start + most


# -- group by -----------------------------------------------------------------------------------


def _grouping_of(node: exp.Select, scope: Scope) -> Grouping:
    """What a query groups by; a primary key allows all columns of its table."""
    clause = node.args.get("group")
    items = [] if clause is None else clause.expressions
    grouping = Grouping([_key(_bare(item), node, scope) for item in items])
    for key in grouping.keys:
        if isinstance(key, exp.Column):
            table = name_of(key.args["table"]) if key.table else None
            place = scope.place_of(table, name_of(key.this))
            if place is not None:
                grouping.places.add(place)
    for index, source in enumerate(scope.sources):
        names = [column.name for column in source.columns]
        keys = source.primary_key
        if all(key in names and (index, names.index(key)) in grouping.places for key in keys):
            grouping.places |= {(index, position) for position in range(len(names))}
    return grouping


def _bare(node: Node) -> Node:
    return _bare(node.this) if isinstance(node, exp.Paren) else node


def _key(item: Node, node: exp.Select, scope: Scope) -> Node:
    """What an item groups by: an expression, or an output by its number or name."""
    outputs = node.expressions
    if isinstance(item, exp.Literal) and not item.is_string and str(item.this).isdigit():
        number = int(item.this)
        if any(output.is_star and not output.find(exp.Anonymous) for output in outputs[:number]):
            raise Unsupported("GROUP BY a number beside *")
        if not 1 <= number <= len(outputs):
            raise EngineError("42P10", f"GROUP BY position {number} is not in select list")
        return _bare(outputs[number - 1].unalias())
    if isinstance(item, exp.Literal | exp.Boolean | exp.Null | exp.Tuple):
        raise Unsupported("constants and lists in GROUP BY")
    if isinstance(item, exp.Column) and not item.table:
        name = name_of(item.this)
        for output in outputs if scope.place_of(None, name) is None else []:
            if isinstance(output, exp.Alias) and name_of(output.args["alias"]) == name:
                return _bare(output.this)
    return item


def _group(
    env: Env, envs: list[Env], keys: list[Expr], aggregates: list[Aggregate], source_count: int
) -> list[Env]:
    """One environment for each group: the first of its rows, with the aggregates' values."""
    groups: dict[Any, list[Env]] = {} if keys else {(): []}
    kinds = [key.kind for key in keys]
    for each in envs:
        raw = [key.value(each) for key in keys]
        groups.setdefault(row_key(kinds, raw), []).append(each)
    group_envs = []
    for members in groups.values():
        made = env.with_rows(members[0].rows if members else [None] * source_count)
        made.aggregates = [aggregate.value(members) for aggregate in aggregates]
        group_envs.append(made)
    return group_envs
