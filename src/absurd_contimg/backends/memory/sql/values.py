"""Values: literals, columns, parameters, operators, JSON, casts, arrays and time zones."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from sqlglot import exp

from absurd_contimg.backends.memory import jsonb
from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.intervals import interval_in
from absurd_contimg.backends.memory.sql import functions, operators
from absurd_contimg.backends.memory.sql.expressions import (
    PARAMETER,
    Compiler,
    compiles,
    constant,
    known,
    name_of,
    sql_of,
    unwrapped,
)
from absurd_contimg.backends.memory.sql.scope import Env, Expr, Node, column_value, unsupported
from absurd_contimg.backends.memory.sql.types import (
    ARRAYS,
    BOOL,
    BY_NAME,
    DATE,
    INT4,
    INT8,
    INTERVAL,
    JSONB,
    NUMERIC,
    RECORD,
    STRINGS,
    TEXT,
    TIMESTAMP,
    TIMESTAMPTZ,
    UNKNOWN,
    ArrayType,
    SqlType,
    from_local,
    to_local,
)
from absurd_contimg.backends.memory.text import session_zone

_ARITHMETIC: dict[type, str] = {
    exp.Add: "+", exp.Sub: "-", exp.Mul: "*", exp.Div: "/", exp.Mod: "%", exp.Pow: "^",
}  # fmt: skip
_TYPE_NAMES = {
    "TEXT": "text", "VARCHAR": "varchar", "CHAR": "text", "INT": "int4", "SMALLINT": "int2",
    "BIGINT": "int8", "DOUBLE": "float8", "FLOAT": "float8", "DECIMAL": "numeric",
    "BOOLEAN": "bool", "UUID": "uuid", "TIMESTAMPTZ": "timestamptz", "TIMESTAMP": "timestamp",
    "DATE": "date", "INTERVAL": "interval", "JSON": "json", "JSONB": "jsonb", "NAME": "name",
    "VARBINARY": "bytea", "REGCLASS": "regclass", "OID": "oid",
}  # fmt: skip


@compiles(exp.Literal)
def _literal(_compiler: Compiler, node: exp.Literal) -> Expr:
    text = str(node.this)
    if node.is_string:
        return constant(UNKNOWN, text)
    if text.isdigit():
        number = int(text)
        kind = INT4 if number < 2**31 else INT8 if number < 2**63 else NUMERIC
        return constant(kind, number if kind is not NUMERIC else Decimal(number))
    return constant(NUMERIC, Decimal(text))


@compiles(exp.Column)
def _column(compiler: Compiler, node: exp.Column) -> Expr:
    name, table = name_of(node.this), node.table or None
    match = PARAMETER.match(name)
    if match is not None and table is None:
        index = int(match.group(1))
        return Expr(compiler.scope.params[index], lambda env: env.params[index], constant=True)
    if table is not None:
        table = name_of(node.args["table"])
    try:
        return compiler.scope.find(table, name)
    except EngineError as error:
        special = _special_column(compiler, name) if table is None else None
        if special is None or error.sqlstate != "42703":
            raise
        return special


def _special_column(compiler: Compiler, name: str) -> Expr | None:
    """Words without brackets that are functions, and whole rows."""
    if name in ("current_user", "session_user", "current_schema"):
        return functions.call_builtin(name, [])
    for index, source in enumerate(compiler.scope.sources):
        if source.alias == name:
            if len(source.columns) == 1:
                return Expr(source.columns[0].kind, column_value(index, 0), name)
            return _whole_row(compiler, index, name)
    return None


def _whole_row(compiler: Compiler, index: int, name: str) -> Expr:
    kinds = [column.kind for column in compiler.scope.sources[index].columns]

    def value(env: Env) -> Any:
        row = env.rows[index]
        if row is None:
            return None
        return tuple(
            None if item is None else kind.show(item, env.session)
            for item, kind in zip(row, kinds, strict=True)
        )

    return Expr(RECORD, value, name)


@compiles(exp.Null)
def _null(_compiler: Compiler, _: exp.Null) -> Expr:
    return constant(UNKNOWN, None)


@compiles(exp.Boolean)
def _truth(_compiler: Compiler, node: exp.Boolean) -> Expr:
    return constant(BOOL, bool(node.this))._replace(name="bool")


@compiles(exp.Paren)
def _paren(compiler: Compiler, node: exp.Paren) -> Expr:
    return compiler.compile(node.this)


@compiles(exp.ByteString)
def _escaped(_compiler: Compiler, node: exp.ByteString) -> Expr:
    return constant(UNKNOWN, str(node.this))


@compiles(exp.Parameter)
def _parameter(_compiler: Compiler, node: exp.Parameter) -> Expr:
    raise EngineError("42P02", f"there is no parameter {sql_of(node)}")


@compiles(*_ARITHMETIC)
def _arithmetic(compiler: Compiler, node: exp.Binary) -> Expr:
    return operators.arithmetic(
        _ARITHMETIC[type(node)], compiler.compile(node.left), compiler.compile(node.right)
    )


@compiles(exp.Neg)
def _minus(compiler: Compiler, node: exp.Neg) -> Expr:
    return operators.negated(compiler.compile(node.this))


@compiles(exp.DPipe)
def _concatenation(compiler: Compiler, node: exp.DPipe) -> Expr:
    return operators.concatenated(compiler.compile(node.left), compiler.compile(node.right))


@compiles(exp.JSONExtract, exp.JSONExtractScalar)
def _json_member(compiler: Compiler, node: exp.JSONExtract) -> Expr:
    left = _json(compiler, node.this)
    as_string = isinstance(node, exp.JSONExtractScalar)
    path = node.expression
    if isinstance(path, exp.JSONPath):
        for part in path.expressions:
            if isinstance(part, exp.JSONPathKey | exp.JSONPathSubscript):
                step = part.this
                last = part is path.expressions[-1]
                left = operators.json_member(left, step, as_string=as_string and last)
        return left
    return _computed_member(left, compiler.compile(path), as_string=as_string)


def _computed_member(left: Expr, step: Expr, *, as_string: bool) -> Expr:
    if step.kind in STRINGS:
        step = operators.converted(step, TEXT)
    inner, key = left.value, step.value

    def value(env: Env) -> str | None:
        text, name = inner(env), key(env)
        if text is None or name is None:
            return None
        return operators.json_step(text, name, as_string=as_string)

    return Expr(TEXT if as_string else JSONB, value)


def _json(compiler: Compiler, node: Node) -> Expr:
    left = compiler.compile(node)
    if left.kind is UNKNOWN:
        return operators.converted(left, JSONB)
    if left.kind.name not in ("jsonb", "json"):
        raise operators.undefined_operator("->", left.kind, UNKNOWN)
    return left


@compiles(exp.JSONBExtract, exp.JSONBExtractScalar)
def _json_path(compiler: Compiler, node: exp.Binary) -> Expr:
    as_string = isinstance(node, exp.JSONBExtractScalar)
    return operators.json_path(
        _json(compiler, node.this), compiler.compile(node.expression), as_string=as_string
    )


@compiles(exp.JSONBContains)
@compiles(*known("JSONBContainsTopKey"))
def _has_key(compiler: Compiler, node: exp.JSONBContains) -> Expr:

    left = _json(compiler, node.this).value
    right = operators.converted(compiler.compile(node.expression), TEXT).value

    def value(env: Env) -> bool | None:
        text, key = left(env), right(env)
        return None if text is None or key is None else jsonb.has_key(text, key)

    return Expr(BOOL, value)


@compiles(exp.ArrayContainsAll)
def _contains(compiler: Compiler, node: exp.Binary) -> Expr:
    one, other = compiler.compile(node.this), compiler.compile(node.expression)
    if isinstance(node, exp.ArrayContainedBy if hasattr(exp, "ArrayContainedBy") else ()):
        one, other = other, one
    if isinstance(one.kind, ArrayType):
        other = operators.converted(other, one.kind)
        return Expr(BOOL, lambda env: set(other.value(env)) <= set(one.value(env)))
    left, right = (operators.converted(side, JSONB).value for side in (one, other))

    def value(env: Env) -> bool | None:
        a, b = left(env), right(env)
        return None if a is None or b is None else operators.json_contains(a, b)

    return Expr(BOOL, value)


@compiles(exp.Cast)
def _cast(compiler: Compiler, node: exp.Cast) -> Expr:
    target = type_of(node.args["to"])
    inner = compiler.compile(node.this)
    compiled = operators.converted(inner, target)
    weak = isinstance(unwrapped(node.this), exp.Cast | exp.Boolean)
    strong = inner.name != "?column?" and not weak
    named = inner.name if strong else target.name
    return compiled._replace(name=named)


@compiles(exp.Interval)
def _interval(_compiler: Compiler, node: exp.Interval) -> Expr:
    unit = "" if node.args.get("unit") is None else f" {node.args['unit'].name}"
    span = interval_in(f"{node.this.name}{unit}")
    return constant(INTERVAL, span)._replace(name="interval")


@compiles(exp.Array)
def _array(compiler: Compiler, node: exp.Array) -> Expr:
    items = [compiler.compile(item) for item in node.expressions]
    element = operators.common_type([item.kind for item in items], "ARRAY")
    values = [operators.converted(item, element).value for item in items]
    return Expr(ARRAYS[element.name], lambda env: [value(env) for value in values], "array")


@compiles(exp.Bracket)
def _bracket(compiler: Compiler, node: exp.Bracket) -> Expr:
    inner = compiler.compile(node.this)
    if not isinstance(inner.kind, ArrayType):
        raise unsupported(sql_of(node), "this subscript")
    index = compiler.compile(node.expressions[0]).value  # sqlglot counts from 0

    def value(env: Env) -> Any:
        items, position = inner.value(env), index(env)
        if items is None or position is None or not 0 <= position < len(items):
            return None
        return items[position]

    return Expr(inner.kind.element, value, inner.name)


@compiles(exp.Collate)
def _collated(compiler: Compiler, node: exp.Collate) -> Expr:
    if node.expression.name.upper() not in ("C", "POSIX", "UCS_BASIC"):
        raise unsupported(sql_of(node), "this collation")
    return compiler.compile(node.this)  # text is always compared by code point


@compiles(exp.AtTimeZone)
def _at_time_zone(compiler: Compiler, node: exp.AtTimeZone) -> Expr:
    inner = compiler.compile(node.this)
    if inner.kind in STRINGS or inner.kind is DATE:
        inner = operators.converted(inner, TIMESTAMPTZ)
    zone = operators.converted(compiler.compile(node.args["zone"]), TEXT).value
    convert = to_local if inner.kind is TIMESTAMPTZ else from_local

    def value(env: Env) -> int | None:
        time, name = inner.value(env), zone(env)
        if time is None or name is None:
            return None
        found = session_zone(name)
        if found is None:
            raise EngineError("22023", f'time zone "{name}" not recognized')
        return convert(time, found)

    kind = TIMESTAMP if inner.kind is TIMESTAMPTZ else TIMESTAMPTZ
    return Expr(kind, value, "timezone")


def type_of(node: Node) -> SqlType:
    """The type that a cast names; 42704 if there is none such."""
    named = node.this
    text = str(getattr(named, "value", named)).upper()
    if text == "ARRAY":
        return ARRAYS[type_of(node.expressions[0]).name]
    if text == "USERDEFINED":
        text = str(node.args.get("kind") or "").upper()
    known = _TYPE_NAMES.get(text)
    if known is None:
        raise EngineError("42704", f'type "{text.lower()}" does not exist')
    return BY_NAME[known]
