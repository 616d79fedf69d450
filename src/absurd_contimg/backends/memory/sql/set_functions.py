"""Functions that return rows: series, and the members of arrays and of jsonb."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC
from decimal import Decimal
from typing import Any

from absurd_contimg.backends.memory import jsonb
from absurd_contimg.backends.memory.errors import EngineError, unsupported
from absurd_contimg.backends.memory.sql import matches, patterns, text_functions
from absurd_contimg.backends.memory.sql.coercion import converted
from absurd_contimg.backends.memory.sql.registry import ambiguous_function, undefined_function
from absurd_contimg.backends.memory.sql.scope import ColumnInfo, Env, Expr, Row
from absurd_contimg.backends.memory.sql.types import (
    ARRAYS,
    DATE,
    INT2,
    INT4,
    INT8,
    INTERVAL,
    JSON,
    JSONB,
    NUMERIC,
    TEXT,
    TIMESTAMP,
    TIMESTAMPTZ,
    UNKNOWN,
    ArrayType,
    SqlType,
)
from absurd_contimg.backends.memory.values import times

TableFunction = tuple[tuple[ColumnInfo, ...], Callable[[Env], list[Row]]]


def table_function(name: str, arguments: list[Expr]) -> TableFunction | None:
    """A function of Postgres' own that returns rows; None if we have none of this name."""
    make = _MAKERS.get(name)
    return None if make is None else make(name, arguments)


def in_select(name: str, arguments: list[Expr]) -> Expr | None:
    """The same in a select list, where each row becomes several; None if there is none such."""
    made = table_function(name, arguments)
    if made is None:
        return None
    columns, rows = made
    if len(columns) != 1:
        raise unsupported(name, "this function outside FROM")

    def values(env: Env) -> list[Any]:
        return [row[0] for row in rows(env)]

    return Expr(columns[0].kind, lambda env: next(iter(values(env)), None), name, rows=values)


def _unnest(name: str, arguments: list[Expr]) -> TableFunction:
    for array in arguments:
        if array.kind is UNKNOWN:
            raise ambiguous_function(name, [array.kind])
        if not isinstance(array.kind, ArrayType):
            raise undefined_function(name, [array.kind])

    def rows(env: Env) -> list[Row]:
        lists = [array.value(env) or [] for array in arguments]
        size = max(map(len, lists))
        return [
            tuple([items[index] if index < len(items) else None for items in lists])
            for index in range(size)
        ]

    columns = [
        ColumnInfo("unnest", array.kind.element)
        for array in arguments
        if isinstance(array.kind, ArrayType)
    ]
    return tuple(columns), rows


def _subscripts(name: str, arguments: list[Expr]) -> TableFunction:
    if len(arguments) != 2 or not isinstance(arguments[0].kind, ArrayType):
        raise undefined_function(name, [item.kind for item in arguments])
    array, dimension = arguments[0].value, converted(arguments[1], INT4).value

    def rows(env: Env) -> list[Row]:
        items = array(env)
        if not items or dimension(env) != 1:
            return []
        return [(number,) for number in range(1, len(items) + 1)]

    return (ColumnInfo(name, INT4),), rows


def _series(name: str, arguments: list[Expr]) -> TableFunction:
    kinds = [item.kind for item in arguments]
    if not 2 <= len(kinds) <= 3:
        raise undefined_function(name, kinds)
    if any(kind in (TIMESTAMPTZ, TIMESTAMP, DATE) for kind in kinds[:2]):
        return _time_series(name, arguments)
    kind: SqlType = INT4
    for wider in (INT8, NUMERIC):
        if wider in kinds:
            kind = wider
    if any(item not in (INT2, INT4, INT8, NUMERIC, UNKNOWN) for item in kinds):
        raise undefined_function(name, kinds)
    if all(item is UNKNOWN for item in kinds):
        raise ambiguous_function(name, kinds)
    values = [converted(item, kind).value for item in arguments]

    def rows(env: Env) -> list[Row]:
        found = [value(env) for value in values]
        if None in found:
            return []
        start, end, *rest = found
        step = rest[0] if rest else 1
        if step == 0:
            raise EngineError("22023", "step size cannot equal zero")
        if kind is not NUMERIC:
            return [(item,) for item in range(start, end + (1 if step > 0 else -1), step)]
        made: list[Row] = []
        current = start + Decimal(0) * step
        while current <= end if step > 0 else current >= end:
            made.append((current,))
            current += step
        return made

    return (ColumnInfo("generate_series", kind),), rows


def _time_series(name: str, arguments: list[Expr]) -> TableFunction:
    if len(arguments) != 3:
        raise undefined_function(name, [item.kind for item in arguments])
    zoned = any(item.kind in (TIMESTAMPTZ, DATE) for item in arguments[:2])
    kind = TIMESTAMPTZ if zoned else TIMESTAMP
    start, end = (converted(item, kind).value for item in arguments[:2])
    span = converted(arguments[2], INTERVAL).value

    def rows(env: Env) -> list[Row]:
        current, last, step = start(env), end(env), span(env)
        if current is None or last is None or step is None:
            return []
        if step.span() == 0:
            raise EngineError("22023", "step size cannot equal zero")
        zone = env.session.zone if zoned else UTC
        made: list[Row] = []
        while current <= last if step.span() > 0 else current >= last:
            made.append((current,))
            current = times.add_interval(current, step, zone)
        return made

    return (ColumnInfo("generate_series", kind),), rows


def _json(name: str, arguments: list[Expr]) -> Expr:
    if len(arguments) != 1:
        raise undefined_function(name, [item.kind for item in arguments])
    wanted = JSONB if name.startswith("jsonb_") else JSON
    if arguments[0].kind not in (wanted, UNKNOWN):
        raise undefined_function(name, [arguments[0].kind])
    return converted(arguments[0], wanted)


def _members(name: str, arguments: list[Expr]) -> TableFunction:
    source = _json(name, arguments)
    as_string = name == "jsonb_each_text"

    def rows(env: Env) -> list[Row]:
        text = source.value(env)
        if text is None:
            return []
        if jsonb.kind(text) != "object":
            if name == "jsonb_object_keys":
                word = "an array" if jsonb.kind(text) == "array" else "a scalar"
                raise EngineError("22023", f"cannot call {name} on {word}")
            raise EngineError("22023", f"cannot call {name} on a non-object")
        members = jsonb.tree(text)
        if name == "jsonb_object_keys":
            return [(key,) for key in members]
        show = jsonb.as_text if as_string else jsonb.dumps
        return [(key, show(value)) for key, value in members.items()]

    if name == "jsonb_object_keys":
        return (ColumnInfo(name, TEXT),), rows
    return (ColumnInfo("key", TEXT), ColumnInfo("value", TEXT if as_string else JSONB)), rows


def _elements(name: str, arguments: list[Expr]) -> TableFunction:
    source = _json(name, arguments)
    as_string = name.endswith("_text")

    def rows(env: Env) -> list[Row]:
        text = source.value(env)
        if text is None:
            return []
        if jsonb.kind(text) != "array":
            word = "an object" if jsonb.kind(text) == "object" else "a scalar"
            raise EngineError("22023", f"cannot extract elements from {word}")
        show = jsonb.as_text if as_string else jsonb.dumps
        return [(show(item),) for item in jsonb.tree(text)]

    return (ColumnInfo("value", TEXT if as_string else JSONB),), rows


def _split(name: str, arguments: list[Expr]) -> TableFunction:
    """``string_to_table``."""
    if len(arguments) != 2:
        raise undefined_function(name, [item.kind for item in arguments])
    text, delimiter = (converted(item, TEXT).value for item in arguments)

    def rows(env: Env) -> list[Row]:
        source, between = text(env), delimiter(env)
        if not source:
            return []
        parts = list(source) if between is None else source.split(between) if between else [source]
        return [(part,) for part in parts]

    return (ColumnInfo(name, TEXT),), rows


def _pattern_split(name: str, arguments: list[Expr]) -> TableFunction:
    """``regexp_split_to_table``."""
    array = text_functions.split_by_pattern(arguments, name)
    return (ColumnInfo(name, TEXT),), lambda env: [(part,) for part in array.value(env) or []]


def _matches(name: str, arguments: list[Expr]) -> TableFunction:
    """``regexp_matches``."""
    if not 2 <= len(arguments) <= 3:
        raise undefined_function(name, [item.kind for item in arguments])
    values = [converted(item, TEXT).value for item in arguments]

    def rows(env: Env) -> list[Row]:
        found = [value(env) for value in values]
        if None in found:
            return []
        flags = found[2] if len(found) > 2 else ""
        pattern = patterns.regular(found[1], flags, parts=True)
        made = [
            (list(match.groups()) if pattern.groups else [match.group()],)
            for match in matches.every(pattern, found[0])
        ]
        return list(made if "g" in flags else made[:1])

    return (ColumnInfo(name, ARRAYS["text"]),), rows


_MAKERS: dict[str, Callable[[str, list[Expr]], TableFunction]] = {
    "generate_subscripts": _subscripts,
    "unnest": _unnest,
    "generate_series": _series,
    **dict.fromkeys(("jsonb_each", "jsonb_each_text", "jsonb_object_keys"), _members),
    **dict.fromkeys(("jsonb_array_elements", "jsonb_array_elements_text"), _elements),
    "string_to_table": _split,
    "regexp_split_to_table": _pattern_split,
    "regexp_matches": _matches,
}
