"""Postgres' own functions by name: which of a name's forms is meant, and how it is called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from absurd_contimg.backends.memory.errors import EngineError, unsupported
from absurd_contimg.backends.memory.sql.casts import is_implicit
from absurd_contimg.backends.memory.sql.coercion import converted
from absurd_contimg.backends.memory.sql.scope import Env, Expr
from absurd_contimg.backends.memory.sql.types import (
    BOOL,
    BYTEA,
    FLOAT8,
    INTERVAL,
    STRINGS,
    TEXT,
    TIMESTAMPTZ,
    UNKNOWN,
    SqlType,
)

Work = Callable[..., Any]


class Builtin(NamedTuple):
    """A strict function: argument types, result type, and what it does with (session, values)."""

    arguments: tuple[SqlType, ...]
    returns: SqlType
    work: Work
    optional: int = 0


Polymorphic = Callable[[list[Expr], str], Expr]
BUILTINS: dict[str, list[Builtin]] = {}
"""Functions by name; an argument that is null makes the result null."""
POLYMORPHIC: dict[str, Polymorphic] = {}
"""Functions that look at their arguments' types themselves, or take nulls."""

_MORE_FORMS = frozenset({"regexp_replace", "to_char", "to_timestamp", "uuidv7"})
"""Functions that Postgres has for types that are not known here."""


def builtin(
    name: str,
    arguments: tuple[SqlType, ...],
    returns: SqlType,
    work: Work,
    optional: int = 0,
) -> None:
    """Register a form of a strict function; its last `optional` arguments may be left out."""
    BUILTINS.setdefault(name, []).append(Builtin(arguments, returns, work, optional))


def polymorphic(*names: str) -> Callable[[Polymorphic], Polymorphic]:
    """Register a function that compiles its arguments itself."""

    def register(function: Polymorphic) -> Polymorphic:
        for name in names:
            POLYMORPHIC[name] = function
        return function

    return register


def call_builtin(name: str, arguments: list[Expr], shown_name: str | None = None) -> Expr | None:
    """A call of a function; None if there is none of this name."""
    compiled = POLYMORPHIC.get(name)
    if compiled is not None:
        return compiled(arguments, shown_name or name)
    forms = BUILTINS.get(name)
    if forms is None:
        return None
    chosen = _chosen(name, forms, arguments)
    given = [converted(expr, kind) for expr, kind in zip(arguments, chosen.arguments, strict=False)]
    values, work = [expr.value for expr in given], chosen.work
    known = [expr.value for expr in given if expr.constant]

    def value(env: Env) -> Any:
        for evaluate in known:  # Postgres' planner drops a call with a null that it knows
            if evaluate(env) is None:
                return None
        found = [evaluate(env) for evaluate in values]
        return None if None in found else work(env.session, *found)

    return Expr(chosen.returns, value, shown_name or name)


def _chosen(name: str, forms: Sequence[Builtin], arguments: list[Expr]) -> Builtin:
    """The form that fits best: most exact types, and text for what has no type."""
    kinds = [expr.kind for expr in arguments]
    scored: list[tuple[int, int, Builtin]] = []
    for form in forms:
        least = len(form.arguments) - form.optional
        if not least <= len(kinds) <= len(form.arguments):
            continue
        pairs = list(zip(kinds, form.arguments, strict=False))
        if not all(is_implicit(kind, wanted) for kind, wanted in pairs):
            continue
        score = sum(
            2 if kind is wanted else 1 if kind is UNKNOWN and wanted is TEXT else 0
            for kind, wanted in pairs
        )
        preferred = sum(kind is not wanted and wanted in _PREFERRED for kind, wanted in pairs)
        scored.append((score, preferred, form))
    if not scored and (name in _MORE_FORMS or BYTEA in kinds):
        raise unsupported(name, "this form of the function")
    if not scored:
        raise undefined_function(name, kinds)
    scored.sort(key=lambda one: one[:2], reverse=True)
    if len(scored) > 1 and scored[0][:2] == scored[1][:2]:
        raise ambiguous_function(name, kinds)
    return scored[0][2]


_PREFERRED = (TEXT, FLOAT8, TIMESTAMPTZ, INTERVAL, BOOL)
"""The type of each category that Postgres takes where others would do."""


def undefined_function(
    name: str, kinds: list[SqlType], names: list[str | None] | None = None
) -> EngineError:
    """42883; `names` are those of arguments that were given with them."""
    shown = ", ".join(
        kind.shown if given is None else f"{given} => {kind.shown}"
        for kind, given in zip(kinds, names or [None] * len(kinds), strict=True)
    )
    return EngineError(
        "42883",
        f"function {name}({shown}) does not exist",
        hint="No function matches the given name and argument types. You might need to add "
        "explicit type casts.",
    )


def polymorphic_unknown() -> EngineError:
    """42804 of a function whose result has the type of an argument that has none."""
    return EngineError(
        "42804", "could not determine polymorphic type because input has type unknown"
    )


def ambiguous_function(name: str, kinds: list[SqlType]) -> EngineError:
    """42725."""
    shown = ", ".join(kind.shown for kind in kinds)
    return EngineError(
        "42725",
        f"function {name}({shown}) is not unique",
        hint="Could not choose a best candidate function. You might need to add explicit type "
        "casts.",
    )


def is_text(expr: Expr) -> bool:
    """Whether an expression is text or may become it."""
    return expr.kind in STRINGS
