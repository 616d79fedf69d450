"""Invocations: Postgres' functions that sqlglot has classes for, those it has not, and Absurd's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlglot import exp

from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.sql import (
    aggregates,
    calls,
    functions,
    operators,
    time_functions,
)
from absurd_contimg.backends.memory.sql.expressions import (
    Compiler,
    compiles,
    constant,
    known,
    name_of,
    sql_of,
)
from absurd_contimg.backends.memory.sql.scope import Env, Expr, Node, unsupported
from absurd_contimg.backends.memory.sql.types import (
    BOOL,
    INT4,
    TEXT,
    UNKNOWN,
    ArrayType,
)

_NAMED: dict[type, str] = {
    exp.Lower: "lower", exp.Upper: "upper", exp.Length: "length", exp.Left: "left",
    exp.Right: "right", exp.MD5: "md5", exp.CurrentUser: "current_user",
    exp.CurrentTimestamp: "now", exp.Uuid: "gen_random_uuid",
}  # fmt: skip
for _class, _name in (
    ("CurrentDatabase", "current_database"),
    ("CurrentVersion", "version"),
    ("CurrentDate", "current_date"),
):
    if hasattr(exp, _class):
        _NAMED[getattr(exp, _class)] = _name
_ROUNDING: dict[type, str] = {
    exp.Round: "round", exp.Floor: "floor", exp.Ceil: "ceil", exp.Abs: "abs",
}  # fmt: skip


def _set_config(arguments: list[Expr], name: str) -> Expr:
    setting, text, local = (
        operators.converted(expr, kind).value
        for expr, kind in zip(arguments, (TEXT, TEXT, BOOL), strict=True)
    )

    def value(env: Env) -> str | None:
        target = setting(env)
        env.session.set(target, text(env), local=bool(local(env)))
        return env.session.setting(target) or ""

    return Expr(TEXT, value, name)


def _age(arguments: list[Expr], name: str) -> Expr:
    if len(arguments) != 2:
        raise unsupported(name, "age with one argument")
    return operators.arithmetic("-", arguments[0], arguments[1])._replace(name=name)


def _array_size(arguments: list[Expr], name: str) -> Expr:
    array = arguments[0]
    if not isinstance(array.kind, ArrayType):
        raise functions.undefined_function(name, [item.kind for item in arguments])
    empty = 0 if name == "cardinality" else None

    def value(env: Env) -> int | None:
        items = array.value(env)
        return None if items is None else len(items) or empty

    return Expr(INT4, value, name)


_SPECIAL: dict[str, Callable[[list[Expr], str], Expr]] = {
    "set_config": _set_config,
    "cardinality": _array_size,
    "age": _age,
    "to_jsonb": lambda arguments, name: functions.to_json(arguments[0], name),
    "to_json": lambda arguments, name: functions.to_json(arguments[0], name),
    "jsonb_build_object": functions.build_object,
    "json_build_object": functions.build_object,
    "jsonb_build_array": functions.build_array,
    "ceiling": lambda arguments, _: functions.rounded("ceil", arguments[0]),
    "trunc": lambda arguments, _: functions.rounded("trunc", *arguments),
    "pg_typeof": lambda arguments, name: constant(TEXT, arguments[0].kind.shown)._replace(
        name=name
    ),
}


@compiles(*_NAMED)
def _named(compiler: Compiler, node: Node) -> Expr:
    name = _NAMED[type(node)]
    arguments = [
        compiler.compile(child)
        for child in [node.args.get("this"), node.args.get("expression")]
        if child is not None
    ]
    return _builtin(compiler, name, arguments, node)


def _builtin(_compiler: Compiler, name: str, arguments: list[Expr], node: Node) -> Expr:
    compiled = functions.call_builtin(name, arguments)
    if compiled is None:
        raise unsupported(sql_of(node), f"the function {name}")
    return compiled


@compiles(*_ROUNDING)
def _rounding(compiler: Compiler, node: Node) -> Expr:
    digits = node.args.get("decimals")
    return functions.rounded(
        _ROUNDING[type(node)],
        compiler.compile(node.this),
        None if digits is None else compiler.compile(digits),
    )


@compiles(exp.Substring)
def _substring(compiler: Compiler, node: exp.Substring) -> Expr:
    parts = [node.this, node.args.get("start"), node.args.get("length")]
    return _builtin(compiler, "substring", [compiler.compile(part) for part in parts if part], node)


@compiles(exp.Trim)
def _trim(compiler: Compiler, node: exp.Trim) -> Expr:
    side = str(node.args.get("position") or "").upper()
    name = {"LEADING": "ltrim", "TRAILING": "rtrim"}.get(side, "btrim")
    parts = [node.this, node.args.get("expression")]
    return _builtin(compiler, name, [compiler.compile(part) for part in parts if part], node)


@compiles(exp.StrPosition)
def _position(compiler: Compiler, node: exp.StrPosition) -> Expr:
    parts = [compiler.compile(node.this), compiler.compile(node.args["substr"])]
    return _builtin(compiler, "position", parts, node)


@compiles(exp.SplitPart)
def _split_part(compiler: Compiler, node: exp.SplitPart) -> Expr:
    parts = [node.this, node.args["delimiter"], node.args["part_index"]]
    return _builtin(compiler, "split_part", [compiler.compile(part) for part in parts], node)


@compiles(exp.StartsWith)
def _starts_with(compiler: Compiler, node: exp.StartsWith) -> Expr:
    parts = [compiler.compile(node.this), compiler.compile(node.expression)]
    return _builtin(compiler, "starts_with", parts, node)


@compiles(exp.Coalesce)
def _coalesce(compiler: Compiler, node: exp.Coalesce) -> Expr:
    items = [compiler.compile(item) for item in [node.this, *node.expressions]]
    kind = operators.common_type([item.kind for item in items], "COALESCE")
    values = [operators.converted(item, kind).value for item in items]

    def value(env: Env) -> Any:
        for evaluate in values:
            found = evaluate(env)
            if found is not None:
                return found
        return None

    return Expr(kind, value, "coalesce")


@compiles(exp.Nullif)
def _nullif(compiler: Compiler, node: exp.Nullif) -> Expr:
    left = compiler.compile(node.this)
    same = operators.comparison("=", left, compiler.compile(node.expression)).value
    kept = operators.converted(left, TEXT) if left.kind is UNKNOWN else left
    return Expr(kept.kind, lambda env: None if same(env) else kept.value(env), "nullif")


@compiles(exp.Greatest, exp.Least)
def _extreme(compiler: Compiler, node: Node) -> Expr:
    name = "greatest" if isinstance(node, exp.Greatest) else "least"
    choose = max if name == "greatest" else min
    items = [compiler.compile(item) for item in [node.this, *node.expressions]]
    kind = operators.common_type([item.kind for item in items], name.upper())
    values = [operators.converted(item, kind).value for item in items]

    def value(env: Env) -> Any:
        found = [item for evaluate in values if (item := evaluate(env)) is not None]
        return choose(found, key=lambda item: operators.sort_key(kind, item)) if found else None

    return Expr(kind, value, name)


@compiles(exp.Extract)
def _extract(compiler: Compiler, node: exp.Extract) -> Expr:
    return time_functions.extract(node.this.name.lower(), compiler.compile(node.expression))


@compiles(exp.TimestampTrunc)
def _date_trunc(compiler: Compiler, node: Node) -> Expr:
    unit = node.args["unit"].name.lower()
    unit = {"week(monday)": "week"}.get(unit, unit)
    return time_functions.date_trunc(unit, compiler.compile(node.this))


@compiles(*known("MakeInterval"))
def _make_interval(compiler: Compiler, node: Node) -> Expr:
    seconds = node.args.get("second")
    given = [key for key, value in node.args.items() if value is not None]
    if seconds is None or given != ["second"]:
        raise unsupported(sql_of(node), "make_interval with anything but secs")
    inner = seconds.expression if isinstance(seconds, exp.Kwarg) else seconds
    return _builtin(compiler, "make_interval", [compiler.compile(inner)], node)


@compiles(*known("Replace"))
def _replace(compiler: Compiler, node: Node) -> Expr:
    parts = [node.this, node.args["expression"], node.args["replacement"]]
    return _builtin(compiler, "replace", [compiler.compile(part) for part in parts], node)


@compiles(*known("Explode", "Unnest"))
def _unnest(compiler: Compiler, node: Node) -> Expr:
    array = compiler.compile(node.this if node.this is not None else node.expressions[0])
    if not isinstance(array.kind, ArrayType):
        raise EngineError("42725", "function unnest(unknown) is not unique")
    return Expr(
        array.kind.element,
        lambda env: next(iter(array.value(env) or []), None),
        "unnest",
        rows=lambda env: array.value(env) or [],
    )


@compiles(exp.Concat)
def _concat(compiler: Compiler, node: exp.Concat) -> Expr:
    return functions.concat([compiler.compile(item) for item in node.expressions])


@compiles(*known("Format"))
def _format_text(compiler: Compiler, node: Node) -> Expr:
    return functions.format_text(
        [compiler.compile(item) for item in [node.this, *node.expressions]]
    )


@compiles(exp.Dot)
def _dotted(compiler: Compiler, node: exp.Dot) -> Expr:
    """``absurd.function(...)``, or a function of ``pg_catalog``."""
    schema = name_of(node.this)
    call = node.expression
    if schema == "absurd" and isinstance(call, exp.Anonymous):
        return calls.as_expression(absurd_call(compiler, call))
    if schema == "pg_catalog":
        return compiler.compile(call)
    raise unsupported(sql_of(node), "this name")


def absurd_call(compiler: Compiler, call: exp.Anonymous) -> calls.Call:
    """The call of a function of the schema ``absurd``."""
    arguments: list[calls.Argument] = []
    for item in call.expressions:
        if isinstance(item, exp.Kwarg | exp.PropertyEQ):
            name = name_of(item.this) if isinstance(item.this, exp.Identifier) else item.this.name
            arguments.append(calls.Argument(compiler.compile(item.expression), name))
        else:
            arguments.append(calls.Argument(compiler.compile(item)))
    return calls.resolve(str(call.this).lower(), arguments)


@compiles(exp.Anonymous)
def _anonymous(compiler: Compiler, node: exp.Anonymous) -> Expr:
    name = str(node.this).lower()
    if name in aggregates.ANONYMOUS:
        return _aggregate(compiler, node)
    arguments = [compiler.compile(item) for item in node.expressions]
    special = _SPECIAL.get(name)
    if special is not None:
        return special(arguments, name)
    compiled = functions.call_builtin(name, arguments)
    if compiled is None:
        raise unsupported(sql_of(node), f"the function {name}")
    return compiled


@compiles(exp.AggFunc, exp.Filter, exp.WithinGroup)
def _aggregate(compiler: Compiler, node: Node) -> Expr:
    if compiler.found is None:
        raise EngineError("42803", "aggregate functions are not allowed here")
    inner = Compiler(compiler.scope, compiler.subquery)
    made = aggregates.compile_aggregate(node, inner)
    if made is None:
        raise unsupported(sql_of(node), "this aggregate")
    index = len(compiler.found)
    compiler.found.append(made)
    return Expr(made.kind, lambda env: env.aggregates[index], made.name)
