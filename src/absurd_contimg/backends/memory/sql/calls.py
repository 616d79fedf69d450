"""Calls of Absurd's procedures: which one is meant, with which arguments, in which form."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from sqlglot import exp

from absurd_contimg.backends.memory.errors import EngineError, Unsupported
from absurd_contimg.backends.memory.procedures.signatures import PROCEDURES, Procedure
from absurd_contimg.backends.memory.sql.casts import converted, is_implicit, unmatched
from absurd_contimg.backends.memory.sql.dialect import name_of
from absurd_contimg.backends.memory.sql.scope import Env, Evaluate, Expr, Node, Source
from absurd_contimg.backends.memory.values.types import BY_NAME, ColumnInfo, Row, record_type


class Call(NamedTuple):
    """A resolved call: `rows` gives its rows, each a tuple of its columns."""

    procedure: Procedure
    columns: tuple[ColumnInfo, ...]
    rows: Callable[[Env], list[Row]]


def arguments(
    node: exp.Anonymous, compiled: Callable[[Node], Expr]
) -> tuple[list[Expr], list[str | None]]:
    """The arguments of a call, and their names where they have one."""
    named = [(isinstance(item, exp.Kwarg), item) for item in node.expressions]
    names = [name_of(item.this) if is_named else None for is_named, item in named]
    return [compiled(item.expression if is_named else item) for is_named, item in named], names


def procedure_call(schema: Node, node: Node, compiled: Callable[[Node], Expr]) -> Call:
    """The call of a procedure of the schema ``absurd``; 42883 if there is none that fits."""
    is_call = isinstance(schema, exp.Identifier) and isinstance(node, exp.Anonymous)
    if not is_call or name_of(schema) != "absurd":
        raise Unsupported("fields of a row and functions of other schemas")
    name = name_of(node.this) if isinstance(node.this, exp.Identifier) else node.name.lower()
    given, names = arguments(node, compiled)
    _check_names(names)
    for procedure in PROCEDURES.get(name, ()):
        placed = _placed(procedure, given, names)
        if placed is not None:
            return _call(procedure, placed)
    shown = ", ".join(
        expr.kind.shown if name is None else f"{name} => {expr.kind.shown}"
        for expr, name in zip(given, names, strict=True)
    )
    raise unmatched("function", f"absurd.{name}({shown})")


def _check_names(names: list[str | None]) -> None:
    """42601 for names of arguments, None where one has none, that Postgres does not take."""
    given = [name for name in names if name is not None]
    if names != [*[None] * (len(names) - len(given)), *given]:
        raise EngineError("42601", "positional argument cannot follow named argument")
    for name in given:
        if given.count(name) > 1:
            raise EngineError("42601", f'argument name "{name}" used more than once')


def _placed(
    procedure: Procedure, arguments: list[Expr], names: list[str | None]
) -> list[Evaluate] | None:
    """What gives each parameter's value, in the order as written; None if they do not fit."""
    known = [parameter.name for parameter in procedure.parameters]
    kinds = [BY_NAME[parameter.type_name] for parameter in procedure.parameters]
    if len(arguments) > len(known) or not set(names) <= {None, *known}:
        return None
    places = [n if name is None else known.index(name) for n, name in enumerate(names)]
    placed = dict(zip(places, arguments, strict=True))
    required = {n for n, parameter in enumerate(procedure.parameters) if not parameter.has_default}
    fits = all(is_implicit(argument.kind, kinds[place]) for place, argument in placed.items())
    if not fits or len(placed) < len(places) or not required <= placed.keys():
        return None
    given = {place: converted(expr, kinds[place]).value for place, expr in placed.items()}
    defaults = [parameter.value for parameter in procedure.parameters]
    return [given.get(n) or partial(_default, value) for n, value in enumerate(defaults)]


def _default(value: Any, _: Env) -> Any:
    return value


def _call(procedure: Procedure, values: list[Evaluate]) -> Call:
    run, many, name = procedure.run, procedure.many, procedure.name
    is_single, is_noted = not procedure.columns, name not in _NOT_NOTED

    def rows(env: Env) -> list[Row]:
        arguments, session = tuple([value(env) for value in values]), env.session
        if procedure.strict and None in arguments:
            return [(None,)]
        call = (session.clock, session.session_id, name, arguments)
        try:
            answer = run(env.tx, *arguments)
        except EngineError as error:  # a call that has to wait is noted when it has been answered
            if is_noted:
                session.db.noted.append((*call, f"{error.sqlstate} {error.message}", None))
            raise
        if is_noted:
            session.db.noted.append((*call, "ok", answer))
        if is_single:
            return [("" if procedure.returns == "void" else answer,)]
        return answer if many else [answer]

    columns = procedure.columns or ((name, procedure.returns),)
    return Call(procedure, tuple(ColumnInfo(name, BY_NAME[kind]) for name, kind in columns), rows)


_NOT_NOTED = frozenset({"current_time", "get_schema_version", "portable_uuidv7"})
"""Procedures that change nothing, which the timeline leaves out."""


def as_source(call: Call, alias: str | None) -> Source:
    """The call in a ``from``; the column of a scalar takes the alias."""
    columns, name = call.columns, alias or call.procedure.name
    if not call.procedure.columns:
        columns = (ColumnInfo(name, columns[0].kind),)
    return Source(name, columns, call.rows, lateral=True)


def as_expression(call: Call) -> Expr:
    """The call in an expression: a scalar, or the records of a procedure with columns."""
    rows, kinds = call.rows, [column.kind for column in call.columns]
    kind = kinds[0] if len(kinds) == 1 else record_type(kinds)
    several = None
    if call.procedure.many:
        several = rows if len(kinds) > 1 else lambda env: [row[0] for row in rows(env)]
    if not call.procedure.columns:
        return Expr(kind, lambda env: rows(env)[0][0], call.procedure.name)
    return Expr(kind, lambda env: rows(env)[0], call.procedure.name, rows=several)
