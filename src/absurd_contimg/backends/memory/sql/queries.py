"""``select``, ``values``, ``union`` and ``with``: from a tree to something that gives rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from sqlglot import exp

from absurd_contimg.backends.memory import catalog
from absurd_contimg.backends.memory.errors import EngineError, unsupported
from absurd_contimg.backends.memory.locks import RowLock, TableLock, WouldBlock
from absurd_contimg.backends.memory.sql import (
    aggregates as aggregate_functions,
)
from absurd_contimg.backends.memory.sql import (
    casting,
    conditions,
    invocations,
    recursion,
    values,
)
from absurd_contimg.backends.memory.sql.aggregates import Aggregate
from absurd_contimg.backends.memory.sql.coercion import common_type, converted
from absurd_contimg.backends.memory.sql.comparison import null_key, row_key
from absurd_contimg.backends.memory.sql.expressions import (
    Compiler,
    name_of,
    sql_of,
    unwrapped,
)
from absurd_contimg.backends.memory.sql.joins import Joiner
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
from absurd_contimg.backends.memory.sql.sources import SourceCompiler
from absurd_contimg.backends.memory.sql.types import INT8, TEXT, UNKNOWN, SqlType
from absurd_contimg.backends.memory.sql.windows import Window

REGISTERED = (casting, conditions, invocations, values)
"""Modules that are imported because they register what compiles expressions."""

Rows = Callable[[Env], list[Row]]
Query = tuple[list[ColumnInfo], Rows]


class _Output(NamedTuple):
    """One column of the select list."""

    name: str
    expr: Expr
    node: Node | None


class _Order(NamedTuple):
    expr: Expr | None
    position: int | None
    descending: bool
    nulls_first: bool


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
            columns.append(ColumnInfo(one.name, kind))
            casts.append((_caster(one, kind), _caster(other, kind)))
        distinct = bool(node.args.get("distinct"))
        kinds = [column.kind for column in columns]

        def rows(env: Env) -> list[Row]:
            first = [_cast_row(row, casts, 0, env) for row in left_rows(env.child())]
            second = [_cast_row(row, casts, 1, env) for row in right_rows(env.child())]
            if isinstance(node, exp.Union):
                found = first + second
            else:
                keep = isinstance(node, exp.Intersect)
                found = _matched(first, second, kinds, keep=keep, all_rows=not distinct)
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
        _name_windows(node, scope)
        for clause in ("qualify", "laterals", "sample"):
            if node.args.get(clause):
                raise unsupported(sql_of(node), f"the clause {clause}")
        outer_lock, self.table_lock = self.table_lock, TableLock.ACCESS_SHARE
        if node.args.get("locks"):
            self.table_lock = TableLock.ROW_SHARE
        joiner = Joiner(SourceCompiler(self, scope), self.query, scope)
        combine = joiner.compile(part(node, "from"), node.args.get("joins") or [])
        self.table_lock = outer_lock
        where = node.args.get("where")
        condition = (
            None
            if where is None
            else Compiler(scope, self.query, clause="WHERE").boolean(where.this, "WHERE").value
        )
        aggregates: list[Aggregate] = []
        windows: list[Window] = []
        compiler = Compiler(scope, self.query, aggregates, windows=windows)
        outputs = self._outputs(node, compiler, joiner.star)
        having = node.args.get("having")
        kept = (
            None
            if having is None
            else (
                Compiler(scope, self.query, aggregates, clause="HAVING")
                .boolean(having.this, "HAVING")
                .value
            )
        )
        order = self._order(node, compiler, outputs)
        limit, offset = self._limit(node, compiler)
        group = self._group(node, outputs, Compiler(scope, self.query, clause="GROUP BY"))
        locks = self._locks(node, scope)
        columns = [
            ColumnInfo(
                out.name,
                TEXT if out.expr.kind is UNKNOWN and not keep_unknown else out.expr.kind,
            )
            for out in outputs
        ]
        if _is_plain(node, outputs, scope) and not aggregates:
            return columns, scope.sources[0].fetch
        if aggregates or group is not None or having is not None:
            self._check_grouped(node, outputs, scope)
        values = [out.expr for out in outputs]
        distinct = self._distinct(node, compiler, values)
        if distinct is not None and node.args["distinct"].args.get("on") is None:
            _check_distinct_order(node, order, outputs)
        grouping = bool(aggregates) or group is not None or having is not None

        def rows(env: Env) -> list[Row]:
            envs = combine(env)
            if condition is not None:
                envs = [item for item in envs if condition(item) is True]
            if grouping:
                envs = _grouped(envs, group, aggregates, env, len(scope.sources))
                if kept is not None:
                    envs = [item for item in envs if kept(item) is True]
            for window in windows:
                window.fill(envs)
            if locks is not None and not order:
                envs = locks(envs, limit, offset, env)
            found = [pair for item in envs for pair in _project(item, values)]
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

    def _outputs(
        self, node: exp.Select, compiler: Compiler, star: list[tuple[int, int]]
    ) -> list[_Output]:
        outputs: list[_Output] = []
        for item in node.expressions:
            if isinstance(item, exp.Star) or (
                isinstance(item, exp.Column) and isinstance(item.this, exp.Star)
            ):
                outputs += _star(item, compiler.scope, star)
                continue
            inner = item.this if isinstance(item, exp.Alias) else item
            expr = compiler.compile_set(inner)
            name = name_of(item.args["alias"]) if isinstance(item, exp.Alias) else expr.name
            outputs.append(_Output(name, expr, inner))
        return outputs

    def _order(self, node: Node, compiler: Compiler, outputs: list[_Output]) -> list[_Order]:
        clause = node.args.get("order")
        found: list[_Order] = []
        for item in [] if clause is None else clause.expressions:
            inner = item.this
            flags = bool(item.args.get("desc")), bool(item.args.get("nulls_first"))
            position = output_position(inner, outputs)
            if position is not None:
                found.append(_Order(outputs[position].expr, position, *flags))
            elif isinstance(inner, exp.Literal) and not inner.is_string:
                found.append(_Order(_column_of_row(compiler.scope, int(inner.this)), None, *flags))
            else:
                found.append(_Order(compiler.compile(inner), None, *flags))
        return found

    def _limit(self, node: Node, compiler: Compiler) -> tuple[Any, Any]:
        found: list[Any] = []
        for name in ("limit", "offset"):
            clause = node.args.get(name)
            if clause is None:
                found.append(None)
                continue
            inner = clause.args.get("count") or clause.expression
            found.append(converted(compiler.compile(inner), INT8).value)
        return found[0], found[1]

    def _group(
        self, node: exp.Select, outputs: list[_Output], compiler: Compiler
    ) -> list[Expr] | None:
        clause = node.args.get("group")
        if clause is None:
            return None
        for unusual in ("grouping_sets", "cube", "rollup"):
            if clause.args.get(unusual):
                raise unsupported(sql_of(clause), "grouping sets")
        keys: list[Expr] = []
        for item in clause.expressions:
            position = output_position(item, outputs, "GROUP BY")
            if position is not None and not _is_column(item, compiler.scope):
                inner = outputs[position].node
                keys.append(compiler.compile(item if inner is None else inner))
            else:
                keys.append(compiler.compile(item))
        return keys

    @staticmethod
    def _check_grouped(node: exp.Select, outputs: list[_Output], scope: Scope) -> None:
        """42803 for a column that is neither grouped nor aggregated."""
        clause = node.args.get("group")
        texts, places = set[str](), set[tuple[int, int]]()
        for item in [] if clause is None else clause.expressions:
            position = output_position(item, outputs, "GROUP BY")
            inner = item
            if position is not None and outputs[position].node is not None:
                inner = outputs[position].node
            texts.add(sql_of(inner))
            place = _place(inner, scope) if isinstance(inner, exp.Column) else None
            if place is not None:
                places.add(place)
        sources = {index for index, position in places if position == 0}
        for out in outputs:
            if out.node is None:
                continue
            for column in _free_columns(out.node, texts):
                place = _place(column, scope)
                if place is None or place in places or place[0] in sources:
                    continue
                shown = f"{scope.sources[place[0]].alias}.{column.name}"
                raise EngineError(
                    "42803",
                    f'column "{shown}" must appear in the GROUP BY clause or be used in an '
                    "aggregate function",
                )

    def _distinct(
        self, node: exp.Select, compiler: Compiler, values: list[Expr]
    ) -> Callable[[list[tuple[Env, Row]]], list[tuple[Env, Row]]] | None:
        clause = node.args.get("distinct")
        if clause is None:
            return None
        on = clause.args.get("on")
        keys = None
        if on is not None:
            keys = [compiler.compile(item) for item in unwrapped(on).expressions or [on]]
        kinds = [item.kind for item in (keys or values)]

        def first(pairs: list[tuple[Env, Row]]) -> list[tuple[Env, Row]]:
            seen: dict[Any, tuple[Env, Row]] = {}
            for env, row in pairs:
                found = row if keys is None else tuple([key.value(env) for key in keys])
                seen.setdefault(row_key(kinds, found), (env, row))
            return list(seen.values())

        return first

    def _locks(
        self, node: exp.Select, scope: Scope
    ) -> Callable[[list[Env], Any, Any, Env], list[Env]] | None:
        """``for update`` and its like: locks rows in order until the limit is reached."""
        clauses = node.args.get("locks")
        if not clauses:
            return None
        wanted = [(_lock_mode(clause), clause.args.get("wait"), clause) for clause in clauses]

        def lock(envs: list[Env], limit: Any, offset: Any, env: Env) -> list[Env]:
            most = None if limit is None else limit(env)
            start = 0 if offset is None else (offset(env) or 0)
            found: list[Env] = []
            for item in envs:
                if most is not None and len(found) >= most + start:
                    break
                if all(_lock_rows(item, scope, *each) for each in wanted):
                    found.append(item)
            return found

        return lock


def _lock_mode(clause: exp.Lock) -> RowLock:
    update, key = bool(clause.args.get("update")), bool(clause.args.get("key"))
    if update:
        return RowLock.NO_KEY_UPDATE if key else RowLock.UPDATE
    return RowLock.KEY_SHARE if key else RowLock.SHARE


def _lock_rows(item: Env, scope: Scope, mode: RowLock, wait: Any, clause: exp.Lock) -> bool:
    """Lock the current row of each table; False where ``skip locked`` skips it."""
    named = {name_of(table.this) for table in clause.expressions}
    for index, source in enumerate(scope.sources):
        row = item.rows[index]
        if source.relation is None or row is None or (named and source.alias not in named):
            continue
        table = catalog.relation(item.tx, source.relation, TableLock.ROW_SHARE).table
        key = table.key_of(row)
        if wait is False and not table.may_lock(item.tx, key, mode):
            return False
        try:
            table.lock(item.tx, key, mode)
        except WouldBlock:
            if wait is not True:
                raise
            raise EngineError(
                "55P03", f'could not obtain lock on row in relation "{source.relation}"'
            ) from None
    return True


def _name_windows(node: exp.Select, scope: Scope) -> None:
    for named in node.args.get("windows") or []:
        name = name_of(named.this)
        if name in scope.windows:
            raise EngineError("42P20", f'window "{name}" is already defined')
        scope.windows[name] = named


def _star(item: Node, scope: Scope, star: list[tuple[int, int]]) -> list[_Output]:
    table = None if isinstance(item, exp.Star) else name_of(item.args["table"])
    if any(source.partial and table in (None, source.alias) for source in scope.sources):
        raise unsupported(sql_of(item), "all columns of such a table")
    places = star
    if table is not None:
        places = [
            (index, position)
            for index, source in enumerate(scope.sources)
            if source.alias == table
            for position in range(len(source.columns))
        ]
    outputs = []
    for index, position in places:
        column = scope.sources[index].columns[position]
        expr = Expr(column.kind, column_value(index, position), column.name)
        if table is None and (index, position) in scope.merged.get(column.name, ()):
            expr = scope.find(None, column.name)
        outputs.append(_Output(column.name, expr, None))
    if not outputs:
        if table is None:
            raise EngineError("42601", "SELECT * with no tables specified is not valid")
        raise EngineError("42P01", f'missing FROM-clause entry for table "{table}"')
    return outputs


def _is_plain(node: exp.Select, outputs: list[_Output], scope: Scope) -> bool:
    """Whether the query is ``select * from`` one source and nothing else."""
    clauses = ("where", "group", "having", "order", "limit", "offset", "distinct", "locks", "joins")
    return (
        len(scope.sources) == 1
        and len(node.expressions) == 1
        and isinstance(node.expressions[0], exp.Star)
        and len(outputs) == len(scope.sources[0].columns)
        and not any(node.args.get(clause) for clause in clauses)
    )


def output_position(node: Node, outputs: list[_Output], clause: str = "ORDER BY") -> int | None:
    """Which output an ``order by`` or ``group by`` item names, by number or by name."""
    if isinstance(node, exp.Literal) and not node.is_string and outputs:
        number = int(node.this)
        if not 1 <= number <= len(outputs):
            raise EngineError("42P10", f"{clause} position {number} is not in select list")
        return number - 1
    if isinstance(node, exp.Column) and not node.table:
        for position, out in enumerate(outputs):
            if out.name == name_of(node.this):
                return position
    return None


def _check_distinct_order(node: exp.Select, order: list[_Order], outputs: list[_Output]) -> None:
    """42P10 for ``select distinct`` in an order that its columns do not tell."""
    shown = {sql_of(out.node) for out in outputs if out.node is not None}
    names = {out.name for out in outputs}
    clause = node.args.get("order")
    for item, inner in zip(order, [] if clause is None else clause.expressions, strict=True):
        column = isinstance(inner.this, exp.Column) and name_of(inner.this.this) in names
        if item.position is None and not column and sql_of(inner.this) not in shown:
            raise EngineError(
                "42P10",
                "for SELECT DISTINCT, ORDER BY expressions must appear in select list",
            )


def _column_of_row(scope: Scope, number: int) -> Expr:
    columns = scope.sources[0].columns
    if not 1 <= number <= len(columns):
        raise EngineError("42P10", f"ORDER BY position {number} is not in select list")
    return Expr(columns[number - 1].kind, column_value(0, number - 1))


def _place(node: exp.Column, scope: Scope) -> tuple[int, int] | None:
    table = name_of(node.args["table"]) if node.args.get("table") else None
    for index, source in enumerate(scope.sources):
        if table is None or source.alias == table:
            for position, column in enumerate(source.columns):
                if column.name == name_of(node.this):
                    return index, position
    return None


def _is_column(node: Node, scope: Scope) -> bool:
    return isinstance(node, exp.Column) and _place(node, scope) is not None


def _free_columns(node: Node, grouped: set[str]) -> list[exp.Column]:
    """Columns outside aggregates and outside grouped expressions."""
    if sql_of(node) in grouped or isinstance(node, exp.Query):
        return []
    if aggregate_functions.is_aggregate(node):
        return []
    if isinstance(node, exp.Column):
        return [node]
    return [column for child in node.iter_expressions() for column in _free_columns(child, grouped)]


def _grouped(
    envs: list[Env],
    keys: list[Expr] | None,
    aggregates: list[Aggregate],
    outer: Env,
    width: int,
) -> list[Env]:
    """One environment a group: its first row, and its aggregates."""
    groups: dict[Any, list[Env]] = {} if keys is not None else {(): []}
    kinds = [expr.kind for expr in keys or []]
    for env in envs:
        key = row_key(kinds, tuple([expr.value(env) for expr in keys or []]))
        groups.setdefault(key, []).append(env)
    found: list[Env] = []
    for members in groups.values():
        if members:
            env = members[0]
        else:
            env = outer
            env.rows = [None] * width
        env.aggregates = [aggregate.value(members) for aggregate in aggregates]
        found.append(env)
    return found


def _project(env: Env, values: list[Expr]) -> list[tuple[Env, Row]]:
    """The output rows of one input row: more than one where a function returns a set."""
    if all(expr.rows is None for expr in values):
        return [(env, tuple([expr.value(env) for expr in values]))]
    sets = [None if expr.rows is None else expr.rows(env) for expr in values]
    longest = max(len(items) for items in sets if items is not None)
    return [
        (
            env,
            tuple(
                expr.value(env) if items is None else items[index] if index < len(items) else None
                for expr, items in zip(values, sets, strict=True)
            ),
        )
        for index in range(longest)
    ]


def sort_rows(pairs: list[tuple[Env, Row]], order: list[_Order]) -> list[tuple[Env, Row]]:
    """Sort by the items of ``order by``, the last first, for each sort keeps what was before."""
    for item in reversed(order):
        expr = item.expr
        assert expr is not None

        def key(pair: tuple[Env, Row], item: _Order = item, expr: Expr = expr) -> Any:
            env, row = pair
            value = expr.value(env) if item.position is None else row[item.position]
            return null_key(expr.kind, value, nulls_first=item.nulls_first is not item.descending)

        pairs = sorted(pairs, key=key, reverse=item.descending)
    return pairs


def cut(rows: list[Row], limit: Any, offset: Any, env: Env) -> list[Row]:
    """``limit`` and ``offset``."""
    start = 0 if offset is None else (offset(env) or 0)
    if start < 0:
        raise EngineError("2201X", "OFFSET must not be negative")
    most = None if limit is None else limit(env)
    if most is not None and most < 0:
        raise EngineError("2201W", "LIMIT must not be negative")
    return rows[start:] if most is None else rows[start : start + most]


def _matched(
    first: list[Row], second: list[Row], kinds: list[SqlType], *, keep: bool, all_rows: bool
) -> list[Row]:
    """``intersect`` and ``except``; with ``all`` a row of `second` matches one of `first`."""
    others = Counter(row_key(kinds, row) for row in second)
    found: list[Row] = []
    for row in first:
        key = row_key(kinds, row)
        matched = others[key] > 0
        if matched and all_rows:
            others[key] -= 1
        if matched is keep:
            found.append(row)
    return found


def unique_rows(rows: list[Row], kinds: list[SqlType]) -> list[Row]:
    """Rows without duplicates, in order of their first."""
    return list({row_key(kinds, row): row for row in reversed(rows)}.values())[::-1]


def _caster(column: ColumnInfo, kind: Any) -> Callable[[Any, Env], Any]:
    if column.kind is kind or column.kind is UNKNOWN:
        return lambda value, _: value

    def cast(value: Any, env: Env) -> Any:
        expr = converted(Expr(column.kind, lambda _: value), kind)
        return expr.value(env)

    return cast


def _cast_row(
    row: Row,
    casts: list[tuple[Callable[[Any, Env], Any], Callable[[Any, Env], Any]]],
    side: int,
    env: Env,
) -> Row:
    return tuple(
        None if value is None else cast[side](value, env)
        for value, cast in zip(row, casts, strict=True)
    )
