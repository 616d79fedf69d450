"""``group by``: its keys, which columns it allows, and the groups."""

from __future__ import annotations

from typing import Any

from sqlglot import exp

from absurd_contimg.backends.memory import schema
from absurd_contimg.backends.memory.errors import EngineError, unsupported
from absurd_contimg.backends.memory.sql import aggregates as aggregate_functions
from absurd_contimg.backends.memory.sql.aggregates import Aggregate
from absurd_contimg.backends.memory.sql.comparison import row_key
from absurd_contimg.backends.memory.sql.expressions import Compiler, sql_of
from absurd_contimg.backends.memory.sql.outputs import Output, is_column, output_position, place_of
from absurd_contimg.backends.memory.sql.scope import Env, Expr, Node, Scope, Source
from absurd_contimg.backends.memory.sql.sources import letter_of


def group_keys(node: exp.Select, outputs: list[Output], compiler: Compiler) -> list[Expr] | None:
    """What the ``group by`` groups by; None without one."""
    clause = node.args.get("group")
    if clause is None:
        return None
    for unusual in ("grouping_sets", "cube", "rollup"):
        if clause.args.get(unusual):
            raise unsupported(sql_of(clause), "grouping sets")
    keys: list[Expr] = []
    for item in clause.expressions:
        position = output_position(item, outputs, "GROUP BY")
        if position is not None and not is_column(item, compiler.scope):
            out = outputs[position]
            keys.append(out.expr if out.node is None else compiler.compile(out.node))
        else:
            keys.append(compiler.compile(item))
    return keys


def check_grouped(node: exp.Select, outputs: list[Output], scope: Scope) -> None:
    """42803 for a column that is neither grouped nor aggregated."""
    clause = node.args.get("group")
    texts, places = set[str](), set[tuple[int, int]]()
    for item in [] if clause is None else clause.expressions:
        position = output_position(item, outputs, "GROUP BY")
        inner = item
        if position is not None and outputs[position].node is not None:
            inner = outputs[position].node
        texts.add(sql_of(inner))
        place = place_of(inner, scope) if isinstance(inner, exp.Column) else None
        if position is not None and outputs[position].place is not None:
            place = outputs[position].place
        if place is not None:
            places.add(place)
    sources = {
        index for index, source in enumerate(scope.sources) if _has_key(source, index, places)
    }
    for out in outputs:
        if out.node is None:
            _check_place(out.place, places, sources, scope)
            continue
        for column in _free_columns(out.node, texts):
            _check_place(place_of(column, scope), places, sources, scope)


def _check_place(
    place: tuple[int, int] | None,
    places: set[tuple[int, int]],
    sources: set[int],
    scope: Scope,
) -> None:
    if place is None or place in places or place[0] in sources:
        return
    source = scope.sources[place[0]]
    raise EngineError(
        "42803",
        f'column "{source.alias}.{source.columns[place[1]].name}" must appear in the GROUP BY '
        "clause or be used in an aggregate function",
    )


def _has_key(source: Source, index: int, places: set[tuple[int, int]]) -> bool:
    """Whether the primary key of a table is grouped by: then all of its columns are told."""
    letter = None if source.relation is None else letter_of(source.relation)
    if letter is None:
        return False
    names = [column.name for column in source.columns]
    keys = schema.PRIMARY_KEYS[letter]
    return all(name in names and (index, names.index(name)) in places for name in keys)


def _free_columns(node: Node, grouped: set[str]) -> list[exp.Column]:
    """Columns outside aggregates and outside grouped expressions."""
    if sql_of(node) in grouped or isinstance(node, exp.Query):
        return []
    if aggregate_functions.is_aggregate(node):
        return []
    if isinstance(node, exp.Column):
        return [node]
    return [column for child in node.iter_expressions() for column in _free_columns(child, grouped)]


def grouped_rows(
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
