"""Values: literals, columns, rows, parameters, operators, arrays and time zones."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from sqlglot import exp

from absurd_contimg.backends.memory.errors import EngineError, unsupported
from absurd_contimg.backends.memory.sql import operators
from absurd_contimg.backends.memory.sql.arithmetic import negated
from absurd_contimg.backends.memory.sql.coercion import (
    common_type,
    converted,
    determined,
    undefined_prefix,
)
from absurd_contimg.backends.memory.sql.dialect import sql_of
from absurd_contimg.backends.memory.sql.expressions import (
    PARAMETER,
    Compiler,
    compiles,
    constant,
    name_of,
    parameter,
)
from absurd_contimg.backends.memory.sql.registry import call_builtin
from absurd_contimg.backends.memory.sql.scope import Env, Expr, column_value
from absurd_contimg.backends.memory.sql.types import (
    ARRAYS,
    BOOL,
    INT4,
    INT8,
    INTEGERS,
    NUMERIC,
    STRINGS,
    UNKNOWN,
    RecordType,
    record_type,
)
from absurd_contimg.backends.memory.values.numerics import numeric_in

_ARITHMETIC: dict[type, str] = {
    exp.Add: "+", exp.Sub: "-", exp.Mul: "*", exp.Div: "/", exp.Mod: "%", exp.Pow: "^",
}  # fmt: skip
_WORDS: dict[type, str] = {
    exp.CurrentDate: "current_date", exp.CurrentTimestamp: "current_timestamp",
    exp.Localtimestamp: "localtimestamp", exp.CurrentUser: "current_user",
    exp.SessionUser: "session_user", exp.CurrentSchema: "current_schema",
    exp.CurrentCatalog: "current_catalog",
}  # fmt: skip
_SYSTEM_COLUMNS = ("ctid", "xmin", "xmax", "cmin", "cmax", "tableoid")


@compiles(exp.Literal)
def _literal(_compiler: Compiler, node: exp.Literal) -> Expr:
    text = str(node.this)
    return constant(UNKNOWN, text) if node.is_string else _number(text)


_JOINED = re.compile(r"-*[\d.]+[eE]\d+[+-].*")


def _number(text: str) -> Expr:
    """A number as it is written, with its sign: of the smallest type that holds it."""
    if not text.lstrip("-").isdigit():
        if _JOINED.fullmatch(text):  # sqlglot reads 1e3-1 as one number
            raise unsupported(text, "a sign right after an exponent; put a space before it")
        return constant(NUMERIC, numeric_in(text))
    number = int(text)
    if -(2**31) <= number < 2**31:
        return constant(INT4, number)
    return (
        constant(INT8, number) if -(2**63) <= number < 2**63 else constant(NUMERIC, Decimal(text))
    )


def _signed(node: Any) -> str | None:
    """The text of a number with all signs before it, None for what is not a plain number."""
    if isinstance(node, exp.Paren):
        return _signed(node.this)
    if isinstance(node, exp.Neg):
        inner = _signed(node.this)
        return None if inner is None else inner[1:] if inner.startswith("-") else f"-{inner}"
    return str(node.this) if isinstance(node, exp.Literal) and not node.is_string else None


@compiles(exp.ByteString, exp.RawString)
def _quoted(_compiler: Compiler, node: Any) -> Expr:
    return constant(UNKNOWN, str(node.this))


@compiles(exp.Null)
def _null(_compiler: Compiler, _: exp.Null) -> Expr:
    return constant(UNKNOWN, None)


@compiles(exp.Boolean)
def _truth(_compiler: Compiler, node: exp.Boolean) -> Expr:
    return constant(BOOL, bool(node.this))


@compiles(exp.Paren)
def _paren(compiler: Compiler, node: exp.Paren) -> Expr:
    return compiler.compile_set(node.this)


@compiles(exp.Parameter)
def _numbered(_compiler: Compiler, node: exp.Parameter) -> Expr:
    raise EngineError("42P02", f"there is no parameter {sql_of(node)}")


@compiles(*_WORDS)
def _word(_compiler: Compiler, node: Any) -> Expr:
    found = call_builtin(_WORDS[type(node)], [])
    assert found is not None
    return found


# -- columns and rows ---------------------------------------------------------------------------


@compiles(exp.Column)
def _column(compiler: Compiler, node: exp.Column) -> Expr:
    name = name_of(node.this)
    match = PARAMETER.fullmatch(name)
    if match is not None and not node.table:
        return parameter(compiler.scope, int(match.group(1)))
    table = name_of(node.args["table"]) if node.table else None
    if node.args.get("db"):
        compiler.scope.check_schema(name_of(node.args["db"]), str(table))
    try:
        return compiler.scope.find(table, name)
    except EngineError as error:
        if error.sqlstate != "42703":
            raise
        if name in _SYSTEM_COLUMNS:
            raise unsupported(sql_of(node), "system columns") from None
        special = _special_column(compiler, name) if table is None else None
        if special is None:
            raise
        return special


def _special_column(compiler: Compiler, name: str) -> Expr | None:
    """Words without brackets that are functions, and whole rows."""
    if name in ("user", "current_role"):
        return call_builtin("current_user", [], name)
    depth, scope = 0, compiler.scope
    while True:
        for index, source in enumerate(scope.sources):
            if source.alias == name:
                if len(source.columns) == 1 and source.is_function:
                    return Expr(source.columns[0].kind, column_value(index, 0, depth), name)
                return _whole_row(compiler, depth, index, name)
        if scope.parent is None:
            return None
        depth, scope = depth + 1, scope.parent


def _whole_row(compiler: Compiler, depth: int, index: int, name: str) -> Expr:
    scope = compiler.scope
    for _ in range(depth):
        assert scope.parent is not None
        scope = scope.parent
    source = scope.sources[index]
    kind = record_type(
        [column.name for column in source.columns],
        [column.kind for column in source.columns],
        is_table=source.relation is not None,
    )

    def value(env: Env) -> Any:
        for _ in range(depth):
            assert env.outer is not None
            env = env.outer
        return env.rows[index]

    return Expr(kind, value, name)


@compiles(exp.Tuple)
def _row(compiler: Compiler, node: exp.Tuple) -> Expr:
    return row_of([compiler.compile(item) for item in node.expressions])


def row_of(items: list[Expr]) -> Expr:
    """``row(...)``."""
    fields = [determined(item) for item in items]
    kind = record_type(
        [f"f{number + 1}" for number in range(len(fields))], [f.kind for f in fields]
    )
    return Expr(kind, lambda env: tuple([field.value(env) for field in fields]), "row")


def field_of(whole: Expr, name: str) -> Expr:
    """``(row).name``."""
    if not isinstance(whole.kind, RecordType):
        raise EngineError(
            "42809",
            f"column notation .{name} applied to type {whole.kind.shown}, which is not a "
            "composite type",
        )
    if name not in whole.kind.names:
        raise EngineError("42703", f'column "{name}" not found in data type {whole.kind.shown}')
    position = whole.kind.names.index(name)

    def value(env: Env) -> Any:
        row = whole.value(env)
        return None if row is None else row[position]

    rows = whole.rows
    several = None
    if rows is not None:

        def several(env: Env) -> list[Any]:
            assert rows is not None
            return [row[position] for row in rows(env)]

    return Expr(whole.kind.kinds[position], value, name, rows=several)


# -- operators ----------------------------------------------------------------------------------


@compiles(*_ARITHMETIC)
def _arithmetic(compiler: Compiler, node: exp.Binary) -> Expr:
    left, right = compiler.compile(node.left), compiler.compile(node.right)
    return operators.binary(_ARITHMETIC[type(node)], left, right)


@compiles(exp.Neg)
def _minus(compiler: Compiler, node: exp.Neg) -> Expr:
    text = _signed(node)  # Postgres too reads a number with its sign
    return negated(compiler.compile(node.this)) if text is None else _number(text)


@compiles(exp.BitwiseNot)
def _inverted_bits(compiler: Compiler, node: exp.BitwiseNot) -> Expr:
    inner = compiler.compile(node.this)
    if inner.kind not in INTEGERS:
        raise undefined_prefix("~", inner.kind)
    return operators.binary("#", inner, constant(INT4, -1))


@compiles(exp.Collate)
def _collated(compiler: Compiler, node: exp.Collate) -> Expr:
    if node.expression.name.upper() not in ("C", "POSIX", "UCS_BASIC"):
        raise unsupported(sql_of(node), "this collation")
    return compiler.compile(node.this)  # text is always compared by code point


# -- arrays -------------------------------------------------------------------------------------


@compiles(exp.Array)
def _array(compiler: Compiler, node: exp.Array) -> Expr:
    if any(isinstance(item, exp.Array) for item in node.expressions):
        raise unsupported(sql_of(node), "arrays of arrays")
    items = [compiler.compile(item) for item in node.expressions]
    if not items:
        raise EngineError(
            "42P18",
            "cannot determine type of empty array",
            hint="Explicitly cast to the desired type, for example ARRAY[]::integer[].",
        )
    element = common_type([item.kind for item in items], "ARRAY")
    values = [converted(item, element).value for item in items]
    if element.name not in ARRAYS or isinstance(element, RecordType):
        raise unsupported(sql_of(node), f"arrays of {element.shown}")
    return Expr(ARRAYS[element.name], lambda env: [value(env) for value in values], "array")


@compiles(exp.AtTimeZone)
def _at_time_zone(compiler: Compiler, node: exp.AtTimeZone) -> Expr:
    zone, inner = compiler.compile(node.args["zone"]), compiler.compile(node.this)
    if zone.kind not in STRINGS:
        raise unsupported(sql_of(node), "a time zone that is not text")
    found = call_builtin("timezone", [zone, inner])
    assert found is not None
    return found
