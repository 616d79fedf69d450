"""Invocations: Postgres' own functions, aggregates, window functions, and Absurd's."""

from __future__ import annotations

from typing import Any

from sqlglot import exp

from absurd_contimg.backends.memory.errors import EngineError, unsupported
from absurd_contimg.backends.memory.sql import (
    aggregates,
    array_functions,
    calls,
    formatting,
    json_functions,
    number_functions,
    quoting,
    set_functions,
    system_functions,
    text_functions,
    time_fields,
    time_functions,
    time_truncation,
    windows,
)
from absurd_contimg.backends.memory.sql.aggregate_parts import Aggregate
from absurd_contimg.backends.memory.sql.dialect import sql_of
from absurd_contimg.backends.memory.sql.expressions import (
    Compiler,
    compiles,
    name_of,
)
from absurd_contimg.backends.memory.sql.grouping_sets import not_grouped
from absurd_contimg.backends.memory.sql.registry import call_builtin
from absurd_contimg.backends.memory.sql.scope import Expr, Node
from absurd_contimg.backends.memory.sql.types import ARRAYS, RecordType
from absurd_contimg.backends.memory.sql.values import field_of, row_of

REGISTERED = (
    array_functions,
    formatting,
    json_functions,
    number_functions,
    quoting,
    system_functions,
    text_functions,
    time_truncation,
)
"""Modules that are imported because they register functions."""


_WITHOUT_BRACKETS = frozenset({
    "current_catalog", "current_date", "current_role", "current_user", "session_user", "user",
})  # fmt: skip
_NEVER_EMPTY = frozenset({"coalesce", "greatest", "least"})


def _call(name: str, arguments: list[Expr], node: Node) -> Expr:
    found = call_builtin(name, arguments)
    if found is None:
        found = set_functions.in_select(name, arguments)
    if found is None:
        raise unsupported(sql_of(node), f"the function {name}")
    return found


@compiles(exp.Anonymous)
def _anonymous(compiler: Compiler, node: exp.Anonymous) -> Expr:
    name = str(node.this).lower()
    count = len(node.expressions)
    if name in _WITHOUT_BRACKETS or (name in _NEVER_EMPTY and not count):
        raise EngineError("42601", f'syntax error at or near "{name}("')
    if name == "nullif" and count != 2:
        raise EngineError("42601", "syntax error in the arguments of nullif")
    if name in aggregates.NAMES:
        return _aggregate(compiler, node)
    if name == "array":
        return _array_of_query(compiler, node)
    if name == "grouping":
        return _grouping(compiler, node)
    if name in windows.NAMES:
        raise EngineError("42809", f"window function {name} requires an OVER clause")
    named = [item for item in node.expressions if isinstance(item, exp.Kwarg | exp.PropertyEQ)]
    if name == "make_interval":
        given = [_named(item) for item in node.expressions]
        arguments = [compiler.compile(inner) for _, inner in given]
        calls.check_names([word for word, _ in given])
        return time_functions.make_interval(arguments, [word for word, _ in given])
    if named or any(not hasattr(item, "args") for item in node.expressions):
        raise unsupported(sql_of(node), "names of arguments here")
    arguments = [compiler.compile(item) for item in node.expressions]
    if name == "row":
        return row_of(arguments)
    return _call(name, arguments, node)


def _named(item: Node) -> tuple[str | None, Node]:
    """An argument with its name in named notation."""
    if not isinstance(item, exp.Kwarg | exp.PropertyEQ):
        return None, item
    name = name_of(item.this) if isinstance(item.this, exp.Identifier) else item.this.name.lower()
    return name, item.expression


def _grouping(compiler: Compiler, node: exp.Anonymous) -> Expr:
    """``grouping(...)``."""
    if compiler.found is None:
        where = f"in {compiler.clause}" if compiler.clause else "here"
        raise EngineError("42803", f"grouping operations are not allowed {where}")
    if compiler.grouped is None:
        raise not_grouped(node.expressions, compiler.scope)
    return compiler.grouped.mask_of(node.expressions)


def _array_of_query(compiler: Compiler, node: exp.Anonymous) -> Expr:
    """``array(select ...)``."""
    columns, rows = compiler.subquery(node.expressions[0], compiler.scope.child())
    if len(columns) != 1:
        raise EngineError("42601", "subquery must return only one column")
    kind = ARRAYS.get(columns[0].kind.name)
    if kind is None or isinstance(columns[0].kind, RecordType):
        raise unsupported(sql_of(node), f"arrays of {columns[0].kind.shown}")
    return Expr(kind, lambda env: [row[0] for row in rows(env.child())], "array")


@compiles(exp.Substring)
def _substring(compiler: Compiler, node: exp.Substring) -> Expr:
    parts = [node.this, node.args.get("start"), node.args.get("length")]
    return _call("substring", [compiler.compile(part) for part in parts if part], node)


@compiles(exp.Overlay)
def _overlay(compiler: Compiler, node: Node) -> Expr:
    parts = [
        node.this,
        node.expression,
        node.args.get("from_") or node.args.get("from"),
        node.args.get("for_") or node.args.get("for"),
    ]
    return _call("overlay", [compiler.compile(part) for part in parts if part], node)


@compiles(exp.Trim)
def _trim(compiler: Compiler, node: exp.Trim) -> Expr:
    side = str(node.args.get("position") or "").upper()
    name = {"LEADING": "ltrim", "TRAILING": "rtrim"}.get(side, "btrim")
    parts = [node.this, node.args.get("expression")]
    return _call(name, [compiler.compile(part) for part in parts if part], node)


@compiles(exp.StrPosition)
def _position(compiler: Compiler, node: exp.StrPosition) -> Expr:
    parts = [compiler.compile(node.this), compiler.compile(node.args["substr"])]
    return _call("position", parts, node)


@compiles(exp.Extract)
def _extract(compiler: Compiler, node: exp.Extract) -> Expr:
    return time_fields.extract(node.this.name.lower(), compiler.compile(node.expression))


@compiles(exp.Dot)
def _dotted(compiler: Compiler, node: exp.Dot) -> Expr:
    """``schema.function(...)``, or a field of a row."""
    if isinstance(node.this, exp.Identifier) and isinstance(node.expression, exp.Anonymous):
        schema = name_of(node.this)
        if schema == "absurd":
            return calls.as_expression(absurd_call(compiler, node.expression))
        if schema == "pg_catalog":
            return compiler.compile_set(node.expression)
        raise EngineError("3F000", f'schema "{schema}" does not exist')
    if not isinstance(node.expression, exp.Identifier):
        raise unsupported(sql_of(node), "this name")
    return field_of(compiler.compile_set(node.this), name_of(node.expression))


def absurd_call(compiler: Compiler, call: exp.Anonymous) -> calls.Call:
    """The call of a function of the schema ``absurd``."""
    arguments = [
        calls.Argument(compiler.compile(inner), name)
        for name, inner in map(_named, call.expressions)
    ]
    return calls.resolve(str(call.this).lower(), arguments)


@compiles(exp.Filter, exp.WithinGroup)
def _aggregate(compiler: Compiler, node: Node) -> Expr:
    if compiler.found is None:
        where = f"in {compiler.clause}" if compiler.clause else "here"
        raise EngineError("42803", f"aggregate functions are not allowed {where}")
    inner = Compiler(compiler.scope, compiler.subquery, clause="nested")
    made = _not_nested(node, inner)
    index = len(compiler.found)
    compiler.found.append(made)
    return Expr(made.kind, lambda env: env.aggregates[index], made.name)


def _not_nested(node: Node, compiler: Compiler) -> Aggregate:
    try:
        return aggregates.compile_aggregate(node, compiler)
    except EngineError as error:
        if error.message == "aggregate functions are not allowed in nested":
            raise EngineError("42803", "aggregate function calls cannot be nested") from None
        raise


@compiles(exp.Window)
def _window(compiler: Compiler, node: exp.Window) -> Expr:
    if compiler.windows is None:
        where = f"in {compiler.clause}" if compiler.clause else "here"
        raise EngineError("42P20", f"window functions are not allowed {where}")
    made: Any = windows.compile_window(node, compiler)
    index = len(compiler.windows)
    compiler.windows.append(made)
    return Expr(made.kind, lambda env: env.windows[index], made.name)
