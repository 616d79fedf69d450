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
    INT2,
    INT4,
    INTERVAL,
    STRINGS,
    TEXT,
    TIMESTAMPTZ,
    UNKNOWN,
    ArrayType,
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
Takes = Callable[[SqlType], bool]
"""Whether an argument of a type will do."""
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


def anything(_: SqlType) -> bool:
    """Any argument will do."""
    return True


def textual(kind: SqlType) -> bool:
    """Text, or what may become it unasked."""
    return kind in STRINGS


def whole(kind: SqlType) -> bool:
    """An integer of four bytes, or what may become it unasked."""
    return kind in (INT2, INT4, UNKNOWN)


def an_array(kind: SqlType) -> bool:
    """An array, or a literal that may become one."""
    return kind is UNKNOWN or isinstance(kind, ArrayType)


def polymorphic(
    *names: str, takes: tuple[Takes, ...] = (), optional: int = 0, more: Takes | None = None
) -> Callable[[Polymorphic], Polymorphic]:
    """Register a function that compiles its arguments itself.

    What it `takes` is checked before, if that is said: one test of a type for each argument, of
    which the last `optional` ones may be left out, and `more` for any that follow.
    """

    def checked(function: Polymorphic) -> Polymorphic:
        def compiled(arguments: list[Expr], name: str) -> Expr:
            kinds = [item.kind for item in arguments]
            surplus = len(kinds) - len(takes)
            tests = [*takes, *[more] * surplus] if more is not None else takes
            fits = -optional <= surplus and len(kinds) <= len(tests)
            if not fits or not all(test(kind) for test, kind in zip(tests, kinds, strict=False)):
                raise undefined_function(name, kinds)
            return function(arguments, name)

        return compiled

    def register(function: Polymorphic) -> Polymorphic:
        POLYMORPHIC.update(dict.fromkeys(names, checked(function) if takes else function))
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
    if name == "to_char" and scored and kinds[0] is UNKNOWN:  # it may be a number too
        raise ambiguous_function(name, kinds)
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
