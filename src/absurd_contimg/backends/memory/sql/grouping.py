"""``group by``: what it names, which columns it allows, and the groups of rows."""

from __future__ import annotations

from typing import Any

from sqlglot import exp

from absurd_contimg.backends.memory import schema
from absurd_contimg.backends.memory.errors import EngineError, Unsupported
from absurd_contimg.backends.memory.sql.aggregates import Aggregate
from absurd_contimg.backends.memory.sql.dialect import name_of
from absurd_contimg.backends.memory.sql.operators import row_key
from absurd_contimg.backends.memory.sql.scope import Env, Expr, Grouping, Node, Scope
from absurd_contimg.backends.memory.sql.sources import letter_of


def grouping_of(node: exp.Select, scope: Scope) -> Grouping:
    """The keys of a query's ``group by``; without one there is one group."""
    clause = node.args.get("group")
    items = [] if clause is None else clause.expressions
    grouping = Grouping([_key(item.unnest(), node, scope) for item in items])
    for key in grouping.keys:
        if isinstance(key, exp.Column):
            table = name_of(key.args["table"]) if key.table else None
            place = scope.place_of(table, name_of(key.this))
            if place is not None:
                grouping.places.add(place)
    for index, source in enumerate(scope.sources):
        names = [column.name for column in source.columns]
        keys = schema.PRIMARY_KEYS.get(letter_of(source.relation or "") or "", ("",))
        if all(key in names and (index, names.index(key)) in grouping.places for key in keys):
            grouping.sources.add(index)
    return grouping


def _key(item: Node, node: exp.Select, scope: Scope) -> Node:
    """What an item groups by: an expression, or an output by its number or name."""
    outputs = node.expressions
    if isinstance(item, exp.Literal) and not item.is_string and str(item.this).isdigit():
        number = int(item.this)
        if any(output.is_star and not output.find(exp.Anonymous) for output in outputs[:number]):
            raise Unsupported("GROUP BY a number beside *")
        if not 1 <= number <= len(outputs):
            raise EngineError("42P10", f"GROUP BY position {number} is not in select list")
        return outputs[number - 1].unalias().unnest()
    if isinstance(item, exp.Literal | exp.Boolean | exp.Null | exp.Tuple):
        raise Unsupported("constants and lists in GROUP BY")
    if isinstance(item, exp.Column) and not item.table:
        name = name_of(item.this)
        for output in outputs if scope.place_of(None, name) is None else []:
            if isinstance(output, exp.Alias) and name_of(output.args["alias"]) == name:
                return output.this.unnest()
    return item


def group(
    env: Env, envs: list[Env], keys: list[Expr], aggregates: list[Aggregate], source_count: int
) -> list[Env]:
    """One environment for each group: the first of its rows, with the aggregates' values."""
    groups: dict[Any, list[Env]] = {} if keys else {(): []}
    kinds = [key.kind for key in keys]
    for each in envs:
        raw = [key.value(each) for key in keys]
        groups.setdefault(row_key(kinds, raw), []).append(each)
    found = []
    for members in groups.values():
        made = env.with_rows(members[0].rows if members else [None] * source_count)
        made.aggregates = [aggregate.value(members) for aggregate in aggregates]
        found.append(made)
    return found
