"""Functions of arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.sql.coercion import common_type, converted
from absurd_contimg.backends.memory.sql.comparison import sort_key
from absurd_contimg.backends.memory.sql.registry import (
    an_array,
    anything,
    polymorphic,
    polymorphic_unknown,
    textual,
    undefined_function,
    whole,
)
from absurd_contimg.backends.memory.sql.scope import Env, Expr
from absurd_contimg.backends.memory.sql.types import (
    ARRAYS,
    INT4,
    TEXT,
    UNKNOWN,
    ArrayType,
    SqlType,
)


def _array(expr: Expr) -> tuple[Expr, ArrayType]:
    if not isinstance(expr.kind, ArrayType):
        raise polymorphic_unknown()
    return expr, expr.kind


@polymorphic("cardinality", takes=(an_array,))
def _cardinality(arguments: list[Expr], name: str) -> Expr:
    array, _ = _array(arguments[0])

    def value(env: Env) -> int | None:
        items = array.value(env)
        return None if items is None else len(items)

    return Expr(INT4, value, name)


@polymorphic("array_length", "array_upper", "array_lower", takes=(an_array, whole))
def _length(arguments: list[Expr], name: str) -> Expr:
    array, _ = _array(arguments[0])
    dimension = converted(arguments[1], INT4).value

    def value(env: Env) -> int | None:
        items = array.value(env)
        if not items or dimension(env) != 1:
            return None
        return 1 if name == "array_lower" else len(items)

    return Expr(INT4, value, name)


def _with_element(arguments: list[Expr], name: str, at: int) -> tuple[Expr, Expr, ArrayType]:
    """The array and the element of a function of both, in one type."""
    array, other = arguments[at], arguments[1 - at]
    inner = array.kind.element if isinstance(array.kind, ArrayType) else UNKNOWN
    try:
        element = common_type([other.kind, inner] if at else [inner, other.kind], name)
    except EngineError:
        raise undefined_function(name, [item.kind for item in arguments]) from None
    kind = ARRAYS.get(element.name)
    if kind is None:
        raise EngineError("42704", f"could not find array type for data type {element.shown}")
    return converted(array, kind), converted(other, element), kind


@polymorphic("array_append", takes=(an_array, anything))
@polymorphic("array_prepend", takes=(anything, an_array))
def _append(arguments: list[Expr], name: str) -> Expr:
    first = name == "array_prepend"
    array, item, kind = _with_element(arguments, name, 1 if first else 0)

    def value(env: Env) -> list[Any]:
        items, one = array.value(env) or [], item.value(env)
        return [one, *items] if first else [*items, one]

    return Expr(kind, value, name)


@polymorphic("array_remove", takes=(an_array, anything))
def _remove(arguments: list[Expr], name: str) -> Expr:
    array, item, kind = _with_element(arguments, name, 0)

    def value(env: Env) -> list[Any] | None:
        items, one = array.value(env), item.value(env)
        if items is None:
            return None
        return [other for other in items if not _same(kind.element, other, one)]

    return Expr(kind, value, name)


@polymorphic("array_position", takes=(an_array, anything))
def _position(arguments: list[Expr], name: str) -> Expr:
    array, item, kind = _with_element(arguments, name, 0)

    def value(env: Env) -> int | None:
        items, one = array.value(env), item.value(env)
        for index, other in enumerate(items or []):
            if _same(kind.element, other, one):
                return index + 1
        return None

    return Expr(INT4, value, name)


@polymorphic("array_cat", takes=(an_array, an_array))
def _cat(arguments: list[Expr], name: str) -> Expr:
    inner = [item.kind.element for item in arguments if isinstance(item.kind, ArrayType)]
    try:
        kind = ARRAYS[common_type(inner, name).name]
    except EngineError:
        raise undefined_function(name, [item.kind for item in arguments]) from None
    first, second = (converted(item, kind) for item in arguments)

    def value(env: Env) -> list[Any] | None:
        a, b = first.value(env), second.value(env)
        return a if b is None else b if a is None else [*a, *b]

    return Expr(kind, value, name)


def _same(kind: SqlType, a: Any, b: Any) -> bool:
    if a is None or b is None:
        return a is None and b is None
    return bool(sort_key(kind, a) == sort_key(kind, b))


@polymorphic("array_to_string", takes=(an_array, textual, textual), optional=1)
def _to_string(arguments: list[Expr], name: str) -> Expr:
    array, kind = _array(arguments[0])
    others = [converted(item, TEXT).value for item in arguments[1:]]
    show: Callable[[Any, Any], str] = kind.element.show

    def value(env: Env) -> str | None:
        items = array.value(env)
        delimiter, *rest = (other(env) for other in others)
        if items is None or delimiter is None:
            return None
        null = rest[0] if rest else None
        shown = [null if item is None else show(item, env.session) for item in items]
        return str(delimiter).join([item for item in shown if item is not None])

    return Expr(TEXT, value, name)
