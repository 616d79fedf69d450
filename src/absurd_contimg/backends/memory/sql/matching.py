"""Texts and patterns: ``like``, ``ilike`` and ``similar to``."""

from __future__ import annotations

from sqlglot import exp

from absurd_contimg.backends.memory.errors import EngineError, unsupported
from absurd_contimg.backends.memory.sql import operators, patterns
from absurd_contimg.backends.memory.sql.arithmetic import strict
from absurd_contimg.backends.memory.sql.coercion import (
    converted,
    undefined_operator,
)
from absurd_contimg.backends.memory.sql.conditions import quantified, quantifier
from absurd_contimg.backends.memory.sql.dialect import sql_of
from absurd_contimg.backends.memory.sql.expressions import (
    Compiler,
    compiles,
)
from absurd_contimg.backends.memory.sql.registry import undefined_function
from absurd_contimg.backends.memory.sql.scope import Expr, Node
from absurd_contimg.backends.memory.sql.types import (
    BOOL,
    STRINGS,
    TEXT,
)


@compiles(exp.Like, exp.ILike)
def _like(compiler: Compiler, node: exp.Binary) -> Expr:
    return _liked(compiler, node, "\\")


@compiles(exp.Escape)
def _escaped(compiler: Compiler, node: exp.Escape) -> Expr:
    escape = node.expression
    if not isinstance(node.this, exp.Like | exp.ILike) or not (
        isinstance(escape, exp.Literal) and escape.is_string
    ):
        raise unsupported(sql_of(node), "this escape")
    if len(escape.this) > 1:
        raise EngineError(
            "22025", "invalid escape string", hint="Escape string must be empty or one character."
        )
    return _liked(compiler, node.this, str(escape.this))


@compiles(exp.SimilarTo)
def _similar(compiler: Compiler, node: exp.SimilarTo) -> Expr:
    left, right = (compiler.compile(side) for side in (node.this, node.expression))
    if right.kind not in STRINGS:
        raise undefined_function("pg_catalog.similar_to_escape", [right.kind])
    if left.kind not in STRINGS:
        raise undefined_operator("~", left.kind, TEXT)
    one, other = converted(left, TEXT), converted(right, TEXT)
    return strict(BOOL, one, other, lambda a, b, _: patterns.similar(b).match(a) is not None)


def _liked(compiler: Compiler, node: Node, escape: str) -> Expr:
    symbol = "~~*" if isinstance(node, exp.ILike) else "~~"
    if node.args.get("negate"):
        symbol = f"!{symbol}"
    if quantifier(node.expression) is not None:
        return quantified(compiler, symbol, node)
    if isinstance(node.expression, exp.Tuple):
        raise unsupported(sql_of(node), "like with several patterns")
    return operators.like(
        symbol, compiler.compile(node.this), compiler.compile(node.expression), escape
    )
