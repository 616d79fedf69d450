"""The select list: its columns, their order, and the rows that they make."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlglot import exp

from absurd_contimg.backends.memory.errors import EngineError, unsupported
from absurd_contimg.backends.memory.sql.comparison import null_key
from absurd_contimg.backends.memory.sql.dialect import sql_of
from absurd_contimg.backends.memory.sql.expressions import name_of, unwrapped
from absurd_contimg.backends.memory.sql.scope import Env, Expr, Node, Row, Scope, column_value

_INT4_END = 2**31


class Output(NamedTuple):
    """One column of the select list; one of ``*`` has no node but the `place` of its column."""

    name: str
    expr: Expr
    node: Node | None
    place: tuple[int, int] | None = None


class Order(NamedTuple):
    """One item of ``order by``; `position` where it is an output."""

    expr: Expr | None
    position: int | None
    descending: bool
    nulls_first: bool


def star_outputs(item: Node, scope: Scope, star: list[tuple[int, int]]) -> list[Output]:
    """The outputs of ``*`` or ``table.*``; `star` has the columns of the former."""
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
        value = column_value(index, position)
        expr = Expr(column.kind, value, column.name, modifier=column.modifier)
        if table is None and (index, position) in scope.merged.get(column.name, ()):
            expr = scope.find(None, column.name)
        outputs.append(Output(column.name, expr, None, (index, position)))
    if not outputs:
        if table is None:
            raise EngineError("42601", "SELECT * with no tables specified is not valid")
        raise EngineError("42P01", f'missing FROM-clause entry for table "{table}"')
    return outputs


def constant_position(node: Node, clause: str = "ORDER BY") -> int | None:
    """The number that stands for an output; 42601 for any other constant, None if it is none.

    Parentheses and signs belong to the number, as for Postgres' parser; a cast makes an expression.
    """
    if isinstance(node, exp.Paren):
        return constant_position(node.this, clause)
    if isinstance(node, exp.Neg) and not unwrapped(node.this).is_string:
        inner = constant_position(node.this, clause)
        return None if inner is None else -inner
    if isinstance(node, exp.Literal) and not node.is_string and node.this.isdigit():
        number = int(node.this)
        if number < _INT4_END:
            return number
    if isinstance(node, exp.Literal | exp.Boolean | exp.Null):
        raise EngineError("42601", f"non-integer constant in {clause}")
    return None


def output_position(node: Node, outputs: list[Output], clause: str = "ORDER BY") -> int | None:
    """Which output an ``order by`` or ``group by`` item names, by number or by name."""
    number = constant_position(node, clause)
    if number is not None and outputs:
        if not 1 <= number <= len(outputs):
            raise EngineError("42P10", f"{clause} position {number} is not in select list")
        return number - 1
    if isinstance(node, exp.Column) and not node.table:
        for position, out in enumerate(outputs):
            if out.name == name_of(node.this):
                return position
    return None


def check_distinct_order(node: exp.Select, order: list[Order], outputs: list[Output]) -> None:
    """42P10 for ``select distinct`` in an order that its columns do not tell."""
    if node.args["distinct"].args.get("on") is not None:
        _check_distinct_on(node, outputs)
        return
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


def _check_distinct_on(node: exp.Select, outputs: list[Output]) -> None:
    """42P10 for ``select distinct on`` in an order that does not begin with its expressions."""
    clause, order = node.args["distinct"].args["on"], node.args.get("order")
    if order is None:
        return
    wanted = {
        _told(item, outputs, "DISTINCT ON") for item in unwrapped(clause).expressions or [clause]
    }
    for item in order.expressions[: len(wanted)]:
        if _told(item.this, outputs) not in wanted:
            raise EngineError(
                "42P10", "SELECT DISTINCT ON expressions must match initial ORDER BY expressions"
            )


def _told(node: Node, outputs: list[Output], clause: str = "ORDER BY") -> str:
    position = output_position(node, outputs, clause)
    inner = node if position is None else outputs[position].node
    if inner is None:
        return name_of(node.this) if isinstance(node, exp.Column) else outputs[position or 0].name
    return name_of(inner.this) if isinstance(inner, exp.Column) else sql_of(inner)


def column_of_row(scope: Scope, number: int) -> Expr:
    """What ``order by`` names by number where there is no select list."""
    columns = scope.sources[0].columns
    if not 1 <= number <= len(columns):
        raise EngineError("42P10", f"ORDER BY position {number} is not in select list")
    return Expr(columns[number - 1].kind, column_value(0, number - 1))


def place_of(node: exp.Column, scope: Scope) -> tuple[int, int] | None:
    """The source and position of a column of this scope itself; None for another."""
    table = name_of(node.args["table"]) if node.args.get("table") else None
    for index, source in enumerate(scope.sources):
        if table is None or source.alias == table:
            for position, column in enumerate(source.columns):
                if column.name == name_of(node.this):
                    return index, position
    return None


def is_column(node: Node, scope: Scope) -> bool:
    """Whether a node is a column of this scope itself."""
    return isinstance(node, exp.Column) and place_of(node, scope) is not None


def projected(env: Env, values: list[Expr]) -> list[tuple[Env, Row]]:
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


def sort_rows(pairs: list[tuple[Env, Row]], order: list[Order]) -> list[tuple[Env, Row]]:
    """Sort by the items of ``order by``, the last first, for each sort keeps what was before."""
    for item in reversed(order):
        expr = item.expr
        assert expr is not None

        def key(pair: tuple[Env, Row], item: Order = item, expr: Expr = expr) -> Any:
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
