"""Casts as they are written: ``x::type``, ``cast(x as type)``, ``type 'x'``, ``interval '...'``."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from sqlglot import exp

from absurd_contimg.backends.memory.errors import EngineError, unsupported
from absurd_contimg.backends.memory.sql import system_functions
from absurd_contimg.backends.memory.sql.coercion import converted
from absurd_contimg.backends.memory.sql.dialect import sql_of
from absurd_contimg.backends.memory.sql.expressions import (
    Compiler,
    compiles,
    constant,
    is_weak,
    name_of,
)
from absurd_contimg.backends.memory.sql.scope import Env, Expr, Node
from absurd_contimg.backends.memory.sql.types import (
    ARRAYS,
    BY_NAME,
    INTERVAL,
    NUMERIC,
    TIMESTAMP,
    TIMESTAMPTZ,
    UNKNOWN,
    ArrayType,
    SqlType,
)
from absurd_contimg.backends.memory.values import numerics, times
from absurd_contimg.backends.memory.values.intervals import interval_in

_TYPE_NAMES = {
    "TEXT": "text", "VARCHAR": "varchar", "INT": "int4", "SMALLINT": "int2", "BIGINT": "int8",
    "DOUBLE": "float8", "DECIMAL": "numeric", "BOOLEAN": "bool", "UUID": "uuid",
    "TIMESTAMPTZ": "timestamptz", "TIMESTAMP": "timestamp", "DATE": "date",
    "INTERVAL": "interval", "JSON": "json", "JSONB": "jsonb", "NAME": "name",
    "VARBINARY": "bytea", "REGCLASS": "regclass",
}  # fmt: skip
_OTHER_NAMES = frozenset(
    [
        "bit",
        "box",
        "char",
        "cidr",
        "circle",
        "cstring",
        "inet",
        "line",
        "lseg",
        "macaddr",
        "money",
        "path",
        "pg_lsn",
        "point",
        "polygon",
        "record",
        "regnamespace",
        "regproc",
        "regprocedure",
        "regrole",
        "regtype",
        "tsquery",
        "tsvector",
        "txid_snapshot",
        "void",
        "xml",
        "bpchar",
        "oid",
        "xid",
        "xid8",
        "tid",
        "refcursor",
        "int4range",
        "int8range",
        "numrange",
        "tsrange",
        "tstzrange",
        "daterange",
        "jsonpath",
        "float4",
        "real",
        "timetz",
        "time",
    ]
)
"""Types that Postgres has and the emulator has not."""


@compiles(exp.Cast)
def _cast(compiler: Compiler, node: exp.Cast) -> Expr:
    target = type_of(node.args["to"])
    inner = _empty_array(node.this) or compiler.compile(node.this)
    if target.name == "regclass" and inner.kind is not target:
        return system_functions.to_regclass(inner, "regclass", must_exist=True)
    compiled = converted(inner, target)
    modifier = _modifier(node.args["to"], target)
    if modifier is not None:
        plain, limit = compiled.value, modifier

        def limited(env: Env) -> Any:
            raw = plain(env)
            return None if raw is None else limit(raw)

        compiled = Expr(target, limited, compiled.name)
    strong = inner.name != "?column?" and not is_weak(node.this, inner)
    shown = target.name.removeprefix("_")
    return compiled._replace(
        name=inner.name if strong else shown,
        parameter=None,
        modifier=_modifier_number(node.args["to"], target),
    )


def _empty_array(node: Node) -> Expr | None:
    """``array[]``, which has a type only by its cast."""
    if isinstance(node, exp.Array) and not node.expressions:
        return constant(UNKNOWN, "{}")._replace(name="array")
    return None


@compiles(exp.Interval)
def _interval(_compiler: Compiler, node: exp.Interval) -> Expr:
    unit = node.args.get("unit")
    text = node.this.name
    if unit is not None:
        if not text.strip().lstrip("+-").isdigit():
            raise unsupported(sql_of(node), "this interval")
        text = f"{text} {unit.name}"
    return constant(INTERVAL, interval_in(text))._replace(name="interval")


def type_of(node: Node) -> SqlType:
    """The type that a cast names; 42704 if there is none such."""
    named = node.this
    text = str(getattr(named, "value", named)).upper()
    if text == "ARRAY":
        element = type_of(node.expressions[0])
        if element.name.startswith("_"):
            raise unsupported(sql_of(node), "arrays of arrays")
        return ARRAYS[element.name]
    if text == "INTERVAL" and not isinstance(named, exp.Interval):
        text = "INTERVAL"
    if text == "USERDEFINED":
        return _named_type(node)
    known = _TYPE_NAMES.get(text)
    if known is None or isinstance(named, exp.Interval):
        raise unsupported(sql_of(node), "this type")
    return BY_NAME[known]


def _named_type(node: Node) -> SqlType:
    kind = node.args.get("kind")
    name = kind.expression if isinstance(kind, exp.Dot) else kind
    word = name_of(name) if isinstance(name, exp.Identifier) else str(name).lower()
    if isinstance(kind, exp.Dot) and name_of(kind.this) != "pg_catalog":
        raise EngineError("42704", f'type "{kind.sql()}" does not exist')
    if word in BY_NAME and word not in _OTHER_NAMES:
        return BY_NAME[word]
    if word in _OTHER_NAMES:
        raise unsupported(sql_of(node), "this type")
    raise EngineError("42704", f'type "{word}" does not exist')


def _modifier(node: Node, target: SqlType) -> Callable[[Any], Any] | None:
    """What ``(n)`` after a type's name does."""
    if isinstance(target, ArrayType):
        limit = _modifier(node.expressions[0], target.element)
        return (
            None
            if limit is None
            else lambda items: [None if item is None else limit(item) for item in items]
        )
    given = node.expressions
    if not given:
        return None
    numbers = [int(item.this.this) for item in given]
    if target.name == "varchar":
        return lambda value: value[: numbers[0]]
    if target is NUMERIC:
        return _numeric_limit(numbers[0], numbers[1] if len(numbers) > 1 else 0)
    unit = 10 ** max(6 - numbers[0], 0)
    if target in (TIMESTAMP, TIMESTAMPTZ):
        return lambda time: _rounded(time, unit) if times.is_finite(time) else time
    if target is INTERVAL:
        return lambda span: (
            span
            if span.is_infinite
            else times.Interval(span.months, span.days, _rounded(span.us, unit))
        )
    raise unsupported(sql_of(node), "a precision of this type")


def _modifier_number(node: Node, target: SqlType) -> int:
    """The type modifier as ``pg_attribute.atttypmod`` has it; -1 for none."""
    if isinstance(target, ArrayType):
        return _modifier_number(node.expressions[0], target.element)
    numbers = [int(item.this.this) for item in node.expressions]
    if not numbers:
        return -1
    if target is NUMERIC:
        return (numbers[0] << 16 | (numbers[1] if len(numbers) > 1 else 0)) + 4
    if target is INTERVAL:
        return 0x7FFF << 16 | numbers[0]
    return numbers[0] + 4 if target.name == "varchar" else numbers[0]


def _rounded(us: int, unit: int) -> int:
    """Microseconds to a multiple of `unit`, halves away from zero, as Postgres rounds them."""
    rounded = (abs(us) + unit // 2) // unit * unit
    return rounded if us >= 0 else -rounded


def _numeric_limit(precision: int, scale: int) -> Callable[[Any], Any]:
    def limit(value: Decimal) -> Decimal:
        if not value.is_finite():
            if value.is_nan():
                return value
        else:
            value = numerics.rounded(value, scale)
        if not value.is_finite() or value.copy_abs() >= Decimal(10) ** (precision - scale):
            whole = precision - scale
            bound = f"10^{whole}" if whole else "1"
            raise EngineError(
                "22003",
                "numeric field overflow",
                detail=f"A field with precision {precision}, scale {scale} must round to an "
                f"absolute value less than {bound}."
                if value.is_finite()
                else f"A field with precision {precision}, scale {scale} cannot hold an infinite "
                "value.",
            )
        return value

    return limit
