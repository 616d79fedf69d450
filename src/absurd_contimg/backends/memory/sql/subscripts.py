"""Subscripts: elements and slices of arrays, members and elements of jsonb."""

from __future__ import annotations

from typing import Any

from sqlglot import exp

from absurd_contimg.backends.memory.errors import EngineError, unsupported
from absurd_contimg.backends.memory.sql import json_operators
from absurd_contimg.backends.memory.sql.arithmetic import strict
from absurd_contimg.backends.memory.sql.coercion import as_text, converted
from absurd_contimg.backends.memory.sql.dialect import sql_of
from absurd_contimg.backends.memory.sql.expressions import Compiler, compiles
from absurd_contimg.backends.memory.sql.scope import Env, Expr, Node
from absurd_contimg.backends.memory.sql.types import (
    INT2,
    INT4,
    JSONB,
    NUMBERS,
    STRINGS,
    UNKNOWN,
    ArrayType,
)


@compiles(exp.Bracket)
def _bracket(compiler: Compiler, node: exp.Bracket) -> Expr:
    if isinstance(node.this, exp.Bracket):
        nested = _nested(compiler, node)
        if nested is not None:
            return nested
    inner = compiler.compile(node.this)
    if len(node.expressions) != 1:
        raise unsupported(sql_of(node), "this subscript")
    step = node.expressions[0]
    if inner.kind is JSONB:
        if isinstance(step, exp.Slice):
            raise EngineError("42804", "jsonb subscript does not support slices")
        return _member(inner, compiler.compile(step))._replace(name=inner.name)
    if not isinstance(inner.kind, ArrayType):
        raise EngineError(
            "42804",
            f"cannot subscript type {inner.kind.shown} because it does not support subscripting",
        )
    if isinstance(step, exp.Slice):
        return _slice(inner, inner.kind, [_bound(compiler, step, name) for name in _BOUNDS])
    return strict(
        inner.kind.element,
        inner,
        _number(compiler, step),
        lambda items, position, _: items[position - 1] if 1 <= position <= len(items) else None,
    )._replace(name=inner.name)


def _nested(compiler: Compiler, node: exp.Bracket) -> Expr | None:
    """An element by several numbers: null, for all arrays here have one dimension."""
    base, steps = node, list[Node]()
    while isinstance(base, exp.Bracket):
        steps += base.expressions
        base = base.this
    inner = compiler.compile(base)
    if not isinstance(inner.kind, ArrayType):
        return None
    if any(isinstance(step, exp.Slice) for step in steps):
        raise unsupported(sql_of(node), "slices of arrays of arrays")
    for step in steps:
        _number(compiler, step)
    return Expr(inner.kind.element, lambda _: None, inner.name)


def _member(inner: Expr, step: Expr) -> Expr:
    """A member by its name, or an element by its number: what ``#>`` with one step gives."""
    if step.kind not in (INT2, INT4, *STRINGS):
        raise EngineError(
            "42804",
            f"subscript type {step.kind.shown} is not supported",
            hint="jsonb subscript must be coercible to either integer or text.",
        )
    return strict(
        JSONB,
        inner,
        as_text(step),
        lambda text, key, _: json_operators.follow(text, [key], as_string=False),
    )


_BOUNDS = ("this", "expression")


def _bound(compiler: Compiler, step: exp.Slice, name: str) -> Expr | None:
    node: Node | None = step.args.get(name)
    return None if node is None else _number(compiler, node)


def _number(compiler: Compiler, node: Node) -> Expr:
    expr = compiler.compile(node)
    if expr.kind not in (*NUMBERS, UNKNOWN):
        raise EngineError("42804", "array subscript must have type integer")
    return converted(expr, INT4)


def _slice(inner: Expr, kind: ArrayType, bounds: list[Expr | None]) -> Expr:
    """``array[lower:upper]``, both included; counted from 1 again."""

    def value(env: Env) -> Any:
        items = inner.value(env)
        lower, upper = (None if bound is None else bound.value(env) for bound in bounds)
        given = zip(bounds, (lower, upper), strict=True)
        if items is None or any(bound is not None and end is None for bound, end in given):
            return None
        first = 1 if lower is None else lower
        return items[max(first, 1) - 1 : len(items) if upper is None else max(upper, 0)]

    return Expr(kind, value, inner.name)
