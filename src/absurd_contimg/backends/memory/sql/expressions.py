"""From sqlglot's expressions to closures."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sqlglot import exp

from absurd_contimg.backends.memory.errors import EngineError, Unsupported
from absurd_contimg.backends.memory.sql import calls, casts, functions, operators
from absurd_contimg.backends.memory.sql.casts import as_text, common_type, converted
from absurd_contimg.backends.memory.sql.dialect import PARAMETER, name_of, type_name
from absurd_contimg.backends.memory.sql.functions import AGGREGATES, Aggregate
from absurd_contimg.backends.memory.sql.operators import comparison, sort_key
from absurd_contimg.backends.memory.sql.scope import Env, Evaluate, Expr, Node, Query, Scope
from absurd_contimg.backends.memory.values import types
from absurd_contimg.backends.memory.values.numerics import numeric_in
from absurd_contimg.backends.memory.values.types import BOOL, UNKNOWN

Subquery = Callable[[Node, Scope], Query]
_OPERATORS: dict[type, str] = {
    exp.EQ: "=", exp.NEQ: "<>", exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">=",
    exp.Add: "+", exp.Sub: "-", exp.Mul: "*", exp.Div: "/", exp.Mod: "%", exp.Like: "~~",
    exp.ILike: "~~*",
}  # fmt: skip


FUNCTIONS = functions.NAMES | AGGREGATES
"""What is written as a function and compiled here."""


@dataclass(slots=True)
class Compiler:
    """Compiles the expressions of one query; `clause` says where no aggregates may stand."""

    scope: Scope
    subquery: Subquery
    aggregates: list[Aggregate] | None = None
    clause: str = ""

    def compile(self, node: Node) -> Expr:
        """The compiled expression."""
        made = self.compile_output(node)
        if made.rows is not None:
            raise Unsupported("procedures that return sets inside of expressions")
        return made

    def compile_output(self, node: Node) -> Expr:
        """The same for the select list, where a procedure may return a set."""
        grouping = self.scope.grouping
        if grouping is None or node not in grouping.keys:
            make = _COMPILERS.get(type(node))
            if make is None:
                raise Unsupported(f"this expression ({type(node).__name__})")
            return make(self, node)
        self.scope.grouping = None
        made = self.compile(node)
        self.scope.grouping = grouping
        return made

    def condition(self, node: Node, clause: str) -> Evaluate:
        """A condition; 42804 if it is none."""
        compiled = self.compile(node)
        if compiled.kind not in (UNKNOWN, BOOL):
            raise EngineError(
                "42804",
                f"argument of {clause} must be type boolean, not type {compiled.kind.shown}",
            )
        return converted(compiled, BOOL).value


def unwrapped(node: Node) -> Node:
    """What is inside of brackets."""
    while isinstance(node, exp.Subquery | exp.Paren):
        node = node.this
    return node


# -- values -------------------------------------------------------------------------------------


def _literal(compiler: Compiler, node: Node) -> Expr:
    """A quoted literal, or a number: Postgres too reads it with its signs."""
    text = _signed(node)
    if text is None and isinstance(node, exp.Neg):
        return operators.negated(compiler.compile(node.this))
    if text is None:
        return compiler.scope.plan.literal(str(node.this))
    if not re.fullmatch(r"-?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", text, re.IGNORECASE):
        raise Unsupported(f"the number {text}")  # sqlglot reads 1e3-1 as one
    raw: Any = numeric_in(text)
    kind = types.NUMERIC
    if text.lstrip("-").isdigit() and abs(raw + Decimal("0.5")) < 1 << 63:
        raw = int(text)  # of the smallest type that holds it
        kind = types.INT4 if -(1 << 31) <= raw < 1 << 31 else types.INT8
    return Expr(kind, lambda _: raw)


def _signed(node: Node) -> str | None:
    """The text of a number with all signs before it, None for what is not a plain number."""
    node = unwrapped(node)
    if isinstance(node, exp.Neg):
        inner = _signed(node.this)
        return None if inner is None else f"-{inner}".removeprefix("--")
    return str(node.this) if isinstance(node, exp.Literal) and not node.is_string else None


def _column(compiler: Compiler, node: exp.Column) -> Expr:
    if isinstance(node.this, exp.Star):
        raise Unsupported("whole rows")
    name, table = name_of(node.this), name_of(node.args["table"]) if node.table else None
    match = PARAMETER.fullmatch(name)
    if match is not None and table is None:
        return compiler.scope.plan.parameter(int(match[1]))
    return compiler.scope.find(table, name)


def _cast(compiler: Compiler, node: exp.Cast) -> Expr:
    name, is_array = type_name(node.args["to"])
    target = types.BY_NAME.get(name)
    if target is None or (is_array and target not in types.ARRAYS):
        raise Unsupported(f"the type {node.args['to'].sql(dialect='postgres')}")
    inner = compiler.compile(node.this)
    made = converted(inner, types.ARRAYS[target] if is_array else target)
    if inner.name != "?column?" and not inner.weak:
        return Expr(made.kind, made.value, inner.name)
    return Expr(made.kind, made.value, target.name, weak=True)


def _case(compiler: Compiler, node: exp.Case) -> Expr:
    subject = None if node.this is None else as_text(compiler.compile(node.this))
    tests, results = [], []
    for branch in node.args["ifs"]:
        if subject is None:
            tests.append(compiler.condition(branch.this, "CASE/WHEN"))
        else:
            tests.append(comparison("=", subject, compiler.compile(branch.this)).value)
        results.append(compiler.compile(branch.args["true"]))
    default = node.args.get("default")
    last = compiler.scope.plan.literal(None) if default is None else compiler.compile(default)
    kind = common_type([last.kind, *(result.kind for result in results)], "CASE")
    values = [converted(result, kind).value for result in results]
    otherwise = converted(last, kind).value

    def value(env: Env) -> Any:
        for test, result in zip(tests, values, strict=True):
            if test(env) is True:
                return result(env)
        return otherwise(env)

    if last.name != "?column?" and not last.weak:
        return Expr(kind, value, last.name)
    return Expr(kind, value, "case", weak=True)


# -- conditions ---------------------------------------------------------------------------------


def _first(tests: list[Evaluate], decisive: bool) -> Expr:
    """``and`` or ``or`` of tests: the first decisive answer, null if one is null."""

    def value(env: Env) -> bool | None:
        unknown = False
        for test in tests:
            answer: bool | None = test(env)
            if answer is decisive:
                return decisive
            unknown = unknown or answer is None
        return None if unknown else not decisive

    return Expr(BOOL, value)


def _logic(compiler: Compiler, node: exp.Connector) -> Expr:
    word = "OR" if isinstance(node, exp.Or) else "AND"
    tests = [compiler.condition(side, word) for side in (node.left, node.right)]
    return _first(tests, decisive=word == "OR")


def _inverted(inner: Evaluate) -> Expr:
    def value(env: Env) -> bool | None:
        answer = inner(env)
        return None if answer is None else not answer

    return Expr(BOOL, value)


def _is(compiler: Compiler, node: exp.Is) -> Expr:
    inner, negate = casts.determined(compiler.compile(node.this)), bool(node.args.get("negate"))
    if not isinstance(node.expression, exp.Null) or isinstance(inner.kind, types.RecordType):
        raise Unsupported("this test with IS")
    return Expr(BOOL, lambda env: (inner.value(env) is None) is not negate)


def _between(compiler: Compiler, node: exp.Between) -> Expr:
    inner, low, high = (
        compiler.compile(part) for part in (node.this, node.args["low"], node.args["high"])
    )
    tests = [comparison(">=", inner, low).value, comparison("<=", inner, high).value]
    return _first(tests, decisive=False)


def _binary(compiler: Compiler, node: exp.Binary) -> Expr:
    symbol, right = _OPERATORS.get(type(node)) or str(node.args["operator"]), node.right
    if symbol == "=" and isinstance(right, exp.Any):
        return _any(compiler, node)
    negate = bool(node.args.get("negate"))
    symbol = f"!{symbol}" if negate else symbol
    left = compiler.compile(node.left)
    made = operators.BINARY[symbol](symbol, left, compiler.compile(right))
    return _inverted(made.value) if negate else made


def _any(compiler: Compiler, node: exp.Binary) -> Expr:
    operand = unwrapped(node.right.this)
    left, array = compiler.compile(node.left), compiler.compile(operand)
    if array.kind is UNKNOWN:
        if as_text(left).kind not in types.ARRAYS:
            raise Unsupported(f"arrays of {left.kind.shown}")
        array = converted(array, types.ARRAYS[as_text(left).kind])
    if not isinstance(array.kind, types.ArrayType):
        raise EngineError("42809", "op ANY/ALL (array) requires array on right side")
    element = array.kind.element
    left = converted(left, element) if left.kind is UNKNOWN else left
    pair = [Expr.column(kind, (0, n)) for n, kind in enumerate((left.kind, element))]
    test, items, inner = comparison("=", *pair).value, array.value, left.value

    def value(env: Env) -> bool | None:
        members, raw = items(env), inner(env)
        if members is None:
            return None
        answers = [test(env.with_rows([(raw, member)])) for member in members]
        return True if True in answers else None if None in answers else False

    return Expr(BOOL, value)


def _in(compiler: Compiler, node: exp.In) -> Expr:
    query = node.args.get("query")
    if query is not None:
        return _in_query(compiler, node.this, unwrapped(query))
    left = compiler.compile(node.this)
    members = [compiler.compile(item) for item in node.expressions]
    if left.kind is UNKNOWN:
        left = converted(left, common_type([item.kind for item in members], "IN"))
    return _first([comparison("=", left, item).value for item in members], decisive=True)


# -- subqueries ---------------------------------------------------------------------------------


def _nested(compiler: Compiler, node: Node, refusal: str = "") -> Query:
    """A subquery; one that does not depend on the row around it runs once a statement."""
    scope = Scope(compiler.scope.plan, compiler.scope, tables=compiler.scope.tables)
    query = compiler.subquery(node, scope)
    if len(query.columns) != 1 and refusal:
        raise EngineError("42601", f"subquery {refusal}")

    def rows(env: Env) -> Any:
        inside = Env(env.tx, env.values, env)
        return query.rows(inside) if scope.correlated else query.rows_once(env, inside)

    return Query(query.columns, rows)


def _in_query(compiler: Compiler, subject: Node, node: Node) -> Expr:
    """``a in (select ...)``, by hashing where the query runs once."""
    left = compiler.compile(subject)
    query = _nested(compiler, node, "has too many columns")
    item = Expr.column(query.columns[0].kind, (0, 0))
    first, second, kind = casts.unified(left, item, "=")
    operators.check_ordered(kind, "IN")

    def key(raw: Any) -> Any:
        return None if raw is None else sort_key(kind, raw)

    def value(env: Env) -> bool | None:
        rows = query.rows(env)
        known = env.cache.get(query.rows)
        if known is None or known[0] is not rows:
            known = rows, {key(second.value(env.with_rows([row]))) for row in rows}
            env.cache[query.rows] = known
        keys, wanted = known[1], key(first.value(env))
        if not keys:
            return False
        if wanted is None:
            return None
        return True if wanted in keys else None if None in keys else False

    return Expr(BOOL, value)


def _exists(compiler: Compiler, node: exp.Exists) -> Expr:
    query = _nested(compiler, unwrapped(node.this))
    return Expr(BOOL, lambda env: bool(query.rows(env)), "exists")


def _scalar_query(compiler: Compiler, node: exp.Subquery) -> Expr:
    query = _nested(compiler, unwrapped(node), "must return only one column")

    def value(env: Env) -> Any:
        rows = query.rows(env)
        if len(rows) > 1:
            raise EngineError(
                "21000", "more than one row returned by a subquery used as an expression"
            )
        return rows[0][0] if rows else None

    return Expr(query.columns[0].kind, value, query.columns[0].name)


# -- calls --------------------------------------------------------------------------------------


def _call(compiler: Compiler, node: exp.Anonymous) -> Expr:
    name = str(node.this).lower()
    if name in AGGREGATES:
        return _aggregate(compiler, node)
    return functions.call(name, *calls.arguments(node, compiler.compile))


def _extract(compiler: Compiler, node: exp.Extract) -> Expr:
    if node.this.name.lower() != "epoch":
        raise Unsupported(f"extract({node.this.name})")
    return functions.call("extract", [compiler.compile(node.expression)], [])


def _aggregate(compiler: Compiler, node: Node) -> Expr:
    """An aggregate, perhaps with ``filter``; it is computed once for each group."""
    if compiler.aggregates is None:
        refusal = f"aggregate functions are not allowed in {compiler.clause}"
        if compiler.clause == "nested":
            refusal = "aggregate function calls cannot be nested"
        raise EngineError("42803", refusal)
    scope, condition, call = compiler.scope, None, node
    grouping, scope.grouping = scope.grouping, None
    inner = Compiler(scope, compiler.subquery, clause="nested")
    if isinstance(node, exp.Filter):
        condition, call = inner.condition(node.expression.this, "FILTER"), node.this
    made = functions.compile_aggregate(call, scope, inner.compile, condition)
    scope.grouping = grouping
    index = len(compiler.aggregates)
    compiler.aggregates.append(made)
    return Expr(made.kind, lambda env: env.aggregates[index], str(call.this).lower())


_COMPILERS: dict[type, Callable[[Compiler, Any], Expr]] = {
    exp.Literal: _literal, exp.Neg: _literal, exp.Column: _column, exp.Cast: _cast,
    exp.Boolean: lambda _, node: Expr(BOOL, lambda _: bool(node.this)),
    exp.Null: lambda compiler, _: compiler.scope.plan.literal(None),
    exp.Paren: lambda compiler, node: compiler.compile(node.this),
    exp.Interval: lambda compiler, node: converted(
        compiler.scope.plan.literal(str(node.this.this)), types.INTERVAL
    )._replace(name="interval", weak=True),
    exp.CurrentTimestamp: lambda _, __: functions.call("current_timestamp", [], []),
    exp.Extract: _extract, exp.Case: _case, exp.And: _logic, exp.Or: _logic, exp.Is: _is,
    exp.Not: lambda compiler, node: _inverted(compiler.condition(node.this, "NOT")),
    exp.Between: _between, exp.Operator: _binary, exp.In: _in, exp.Exists: _exists,
    exp.Subquery: _scalar_query, exp.Anonymous: _call, exp.Filter: _aggregate,
    exp.Dot: lambda compiler, node: calls.as_expression(
        calls.procedure_call(node.this, node.expression, compiler.compile)
    ),
    **dict.fromkeys(_OPERATORS, _binary),
}  # fmt: skip
