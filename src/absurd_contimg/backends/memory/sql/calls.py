"""Calls of Absurd's functions: which one is meant, with which arguments, in which form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.procedures.signatures import PROCEDURES, Procedure
from absurd_contimg.backends.memory.sql.casts import is_implicit
from absurd_contimg.backends.memory.sql.coercion import converted
from absurd_contimg.backends.memory.sql.registry import undefined_function
from absurd_contimg.backends.memory.sql.scope import ColumnInfo, Env, Expr, Row, Source
from absurd_contimg.backends.memory.sql.types import BY_NAME, record_type


class Argument(NamedTuple):
    """An argument of a call, with its name in named notation."""

    expr: Expr
    name: str | None = None


class Call(NamedTuple):
    """A resolved call: `rows` gives its rows, each a tuple of its columns."""

    procedure: Procedure
    columns: tuple[ColumnInfo, ...]
    rows: Callable[[Env], list[Row]]
    function_name: str


def resolve(name: str, arguments: list[Argument]) -> Call:
    """The function of the schema ``absurd`` that the call means; 42883 if there is none."""
    check_names([argument.name for argument in arguments])
    for procedure in PROCEDURES.get(name, ()):
        placed = _placed(procedure, arguments)
        if placed is not None:
            return _call(procedure, placed)
    kinds = [argument.expr.kind for argument in arguments]
    error = undefined_function(f"absurd.{name}", kinds)
    if any(argument.name for argument in arguments):
        shown = ", ".join(
            (f"{argument.name} => " if argument.name else "") + argument.expr.kind.shown
            for argument in arguments
        )
        error = EngineError(
            "42883", f"function absurd.{name}({shown}) does not exist", hint=error.hint
        )
    raise error


def check_names(names: list[str | None]) -> None:
    """42601 for names of arguments, None where one has none, that Postgres does not take."""
    seen: set[str] = set()
    for name in names:
        if name is None and seen:
            raise EngineError("42601", "positional argument cannot follow named argument")
        if name in seen:
            raise EngineError("42601", f'argument name "{name}" used more than once')
        if name is not None:
            seen.add(name)


def _placed(procedure: Procedure, arguments: list[Argument]) -> list[Expr | None] | None:
    """The arguments in order of the parameters, None for defaults; None if they do not fit.

    They are converted in the order in which they are written, because literals are read then.
    """
    parameters = procedure.parameters
    if len(arguments) > len(parameters):
        return None
    placed: list[Expr | None] = [None] * len(parameters)
    written: list[tuple[int, Expr]] = []
    names = {parameter.name: index for index, parameter in enumerate(parameters)}
    for position, argument in enumerate(arguments):
        index = position if argument.name is None else names.get(argument.name, -1)
        if index < 0 or placed[index] is not None:
            return None
        if not is_implicit(argument.expr.kind, BY_NAME[parameters[index].type_name]):
            return None
        placed[index] = argument.expr
        written.append((index, argument.expr))
    if any(
        expr is None and not parameter.has_default
        for expr, parameter in zip(placed, parameters, strict=True)
    ):
        return None
    for index, expr in written:
        placed[index] = converted(expr, BY_NAME[parameters[index].type_name])
    return placed


def _call(procedure: Procedure, placed: list[Expr | None]) -> Call:
    values: list[Callable[[Env], Any]] = []
    for expr, parameter in zip(placed, procedure.parameters, strict=True):
        values.append(_default(parameter.value) if expr is None else expr.value)
    run, many, strict = procedure.run, procedure.many, procedure.strict
    single = not procedure.columns
    noted = procedure.name

    def rows(env: Env) -> list[Row]:
        arguments = [value(env) for value in values]
        if strict and None in arguments:
            return [(None,)]
        answer = _noted(env, noted, run, arguments)
        if single:
            return [("" if procedure.returns == "void" else answer,)]
        return answer if many else [answer]

    columns = tuple(ColumnInfo(name, BY_NAME[kind]) for name, kind in procedure.columns)
    if single:
        columns = (ColumnInfo(procedure.name, BY_NAME[procedure.returns]),)
    return Call(procedure, columns, rows, procedure.name)


def _default(value: Any) -> Callable[[Env], Any]:
    return lambda _: value


_UNNOTED = frozenset({"current_time", "get_schema_version", "portable_uuidv7"})


def _noted(env: Env, name: str, run: Callable[..., Any], arguments: list[Any]) -> Any:
    """Run the procedure and note it in the database's timeline."""
    if name in _UNNOTED:
        return run(env.tx, *arguments)
    session, given = env.session, tuple(arguments)
    note = session.db.noted.append
    try:
        answer = run(env.tx, *arguments)
    except EngineError as error:  # a call that has to wait is noted when it has been answered
        outcome = f"{error.sqlstate} {error.message}"
        note((session.clock, session.session_id, name, given, outcome, None))
        raise
    note((session.clock, session.session_id, name, given, "ok", answer))
    return answer


def as_source(call: Call, alias: str | None, names: list[str]) -> Source:
    """The call in a ``from``."""
    columns = list(call.columns)
    if not call.procedure.columns and alias is not None:
        columns = [ColumnInfo(alias, columns[0].kind)]  # a scalar's column takes the alias
    for position, name in enumerate(names[: len(columns)]):
        columns[position] = ColumnInfo(name, columns[position].kind)
    return Source(
        alias or call.function_name, tuple(columns), call.rows, lateral=True, is_function=True
    )


def as_expression(call: Call) -> Expr:
    """The call in an expression: a scalar, or records of a function with columns."""
    name = call.function_name
    columns = call.procedure.columns
    if not columns:
        kind = call.columns[0].kind
        return Expr(kind, lambda env: call.rows(env)[0][0], name)
    kinds = [column.kind for column in call.columns]
    if len(kinds) == 1:
        return Expr(
            kinds[0],
            lambda env: next(iter(call.rows(env)), (None,))[0],
            name,
            rows=lambda env: [row[0] for row in call.rows(env)],
        )

    kind = record_type([column.name for column in call.columns], kinds)
    if call.procedure.many:
        return Expr(kind, lambda env: next(iter(call.rows(env)), None), name, rows=call.rows)
    return Expr(kind, lambda env: call.rows(env)[0], name, rows=call.rows)
