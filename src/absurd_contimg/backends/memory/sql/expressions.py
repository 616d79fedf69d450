"""From sqlglot's expression trees to closures.

`Compiler` looks up what compiles a node by the node's class. The compilers themselves are in
`values`, `conditions`, `casting` and `invocations`, which register them here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sqlglot import exp

from absurd_contimg.backends.memory.errors import EngineError, unsupported
from absurd_contimg.backends.memory.sql import constants
from absurd_contimg.backends.memory.sql.aggregate_parts import Aggregate
from absurd_contimg.backends.memory.sql.coercion import converted
from absurd_contimg.backends.memory.sql.dialect import sql_of
from absurd_contimg.backends.memory.sql.scope import Env, Expr, Node, Scope
from absurd_contimg.backends.memory.sql.types import BOOL, UNKNOWN, SqlType

if TYPE_CHECKING:
    from absurd_contimg.backends.memory.sql.grouping_sets import Grouping

PARAMETER = re.compile(r"__absurd_parameter_(\d+)__")
"""What a placeholder has become before the SQL is parsed."""

Subquery = Callable[[Node, Scope], tuple[list[Any], Callable[[Env], list[tuple[Any, ...]]]]]
Compile = Callable[["Compiler", Any], Expr]
_COMPILERS: dict[type, Compile] = {}


def compiles(*kinds: type) -> Callable[[Compile], Compile]:
    """Register what compiles nodes of these classes."""

    def register(function: Compile) -> Compile:
        for kind in kinds:
            _COMPILERS[kind] = function
        return function

    return register


class Compiler:
    """Compiles expressions in one scope.

    `subquery` compiles a nested query. `found` collects aggregates; None where none may stand,
    and `clause` says where that is. `windows` collects window functions in the same way. `grouped`
    are the keys of a ``group by`` with several sets of them.
    """

    def __init__(
        self,
        scope: Scope,
        subquery: Subquery,
        found: list[Aggregate] | None = None,
        *,
        clause: str = "",
        windows: list[Any] | None = None,
        grouped: Grouping | None = None,
    ) -> None:
        self.scope = scope
        self.subquery = subquery
        self.found = found
        self.clause = clause
        self.windows = windows
        self.grouped = grouped

    def compile(self, node: Node) -> Expr:
        """The compiled expression; 0A000 for what is not supported."""
        made = self.compile_set(node)
        if made.rows is not None:
            raise unsupported(sql_of(node), "a function that returns a set inside an expression")
        return made

    def compile_set(self, node: Node) -> Expr:
        """The same where a function may return a set: as a whole column of the select list."""
        key = None if self.grouped is None else self.grouped.value_of(node)
        if key is not None:
            return key
        method = _COMPILERS.get(type(node))
        if method is None:
            raise unsupported(sql_of(node), "this expression")
        return method(self, node)

    def boolean(self, node: Node, clause: str) -> Expr:
        """A condition; 42804 if it is none."""
        compiled = self.compile(node)
        if compiled.kind is UNKNOWN:
            return converted(compiled, BOOL)
        if compiled.kind is not BOOL:
            raise EngineError(
                "42804",
                f"argument of {clause} must be type boolean, not type {compiled.kind.shown}",
            )
        return compiled


def constant(kind: SqlType, value: Any) -> Expr:
    """A literal."""
    return Expr(kind, lambda _: value, constant=True)


def parameter(scope: Scope, number: int) -> Expr:
    """A parameter; one of unknown type is of the type it was first used as."""
    if number >= len(scope.params):
        raise EngineError("42P02", f"there is no parameter ${number + 1}")
    kind = scope.params[number]
    if kind is not UNKNOWN:
        return Expr(kind, lambda env: env.params[number], constant=True)
    found = constants.current()
    known = None if found is None else found.found.get(number)
    if known is not None:
        return Expr(known[0], known[1], constant=True)
    return Expr(kind, lambda env: env.params[number], constant=True, parameter=number)


def inverted(expr: Expr) -> Expr:
    """``not``."""
    inner = expr.value

    def value(env: Env) -> bool | None:
        answer = inner(env)
        return None if answer is None else not answer

    return Expr(BOOL, value)


def name_of(identifier: Node) -> str:
    """An identifier as Postgres folds it: lower case unless quoted."""
    name = str(identifier.name)
    return name if identifier.args.get("quoted") else name.lower()


def unwrapped(node: Node) -> Node:
    """The query inside brackets."""
    while isinstance(node, exp.Subquery | exp.Paren):
        node = node.this
    return node


def is_weak(node: Node, compiled: Expr) -> bool:
    """Whether a name gives way to that of a cast or ``case`` around it."""
    node = unwrapped(node)
    if isinstance(node, exp.Boolean | exp.Interval):
        return True
    if isinstance(node, exp.Cast):
        return compiled.name == compiled.kind.name.removeprefix("_")
    return isinstance(node, exp.Case) and compiled.name == "case"
