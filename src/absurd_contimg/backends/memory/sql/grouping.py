"""``group by``: what it names, and which columns it allows."""

from __future__ import annotations

from sqlglot import exp

from absurd_contimg.backends.memory import schema
from absurd_contimg.backends.memory.errors import EngineError, unsupported
from absurd_contimg.backends.memory.sql import aggregates as aggregate_functions
from absurd_contimg.backends.memory.sql.dialect import sql_of
from absurd_contimg.backends.memory.sql.expressions import Compiler
from absurd_contimg.backends.memory.sql.grouping_sets import (
    Grouping,
    Key,
    columns_of,
    expand,
    has_sets,
    is_constant,
    without_brackets,
)
from absurd_contimg.backends.memory.sql.outputs import Output, is_column, output_position, place_of
from absurd_contimg.backends.memory.sql.scope import Node, Scope, Source
from absurd_contimg.backends.memory.sql.sources import letter_of


def read_keys(
    grouping: Grouping, node: exp.Select, outputs: list[Output], compiler: Compiler
) -> None:
    """Read the keys of a ``group by`` and the sets of them; without one there is one group."""
    clause = node.args.get("group")
    if clause is None:
        grouping.sets = [()]
        return

    def number_of(item: Node) -> int:
        key = _key(item, outputs, compiler)
        for number, known in enumerate(grouping.keys):
            if known.text == key.text or (key.place is not None and known.place == key.place):
                if known.position != key.position and has_sets(node):
                    raise unsupported(sql_of(clause), "one expression grouped by in two ways")
                return number
        grouping.keys.append(key)
        return len(grouping.keys) - 1

    grouping.sets = expand(clause, number_of)


def _key(item: Node, outputs: list[Output], compiler: Compiler) -> Key:
    """What an item groups by: an expression, or an output by its number or name."""
    item = without_brackets(item)
    position = output_position(item, outputs, "GROUP BY")
    if position is None and is_constant(item):  # it is a key where it is a whole output
        position = next((n for n, out in enumerate(outputs) if _is_written(item, out)), None)
    if position is not None and not is_column(item, compiler.scope):
        out = outputs[position]
        if out.node is None:
            return Key(out.expr, out.name, out.place, position)
        item = without_brackets(out.node)
    place = place_of(item, compiler.scope) if isinstance(item, exp.Column) else None
    return Key(compiler.compile(item), sql_of(item), place, position)


def _is_written(item: Node, output: Output) -> bool:
    node = output.node
    return node is not None and sql_of(without_brackets(node)) == sql_of(item)


def check_grouped(grouping: Grouping, outputs: list[Output], scope: Scope) -> None:
    """42803 for a column that is neither grouped nor aggregated."""
    if grouping.refusal is not None:
        raise grouping.refusal
    texts, places = {key.text for key in grouping.keys}, columns_of(grouping.keys)
    shared = grouping.shared
    sources = {
        index for index, source in enumerate(scope.sources) if _has_key(source, index, shared)
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
