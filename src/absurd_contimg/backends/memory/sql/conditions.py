"""Conditions: logic, comparisons, ``in``, ``any``, ``like``, ``case`` and subqueries."""

from __future__ import annotations

from typing import Any

from sqlglot import exp

from absurd_contimg.backends.memory.errors import EngineError, unsupported
from absurd_contimg.backends.memory.sql import operators
from absurd_contimg.backends.memory.sql.coercion import (
    common_type,
    converted,
    determined,
)
from absurd_contimg.backends.memory.sql.comparison import (
    comparison,
    distinct_from,
    row_comparison,
)
from absurd_contimg.backends.memory.sql.dialect import sql_of
from absurd_contimg.backends.memory.sql.expressions import (
    Compiler,
    compiles,
    constant,
    inverted,
    is_weak,
    unwrapped,
)
from absurd_contimg.backends.memory.sql.scope import Env, Expr, Node, column_value
from absurd_contimg.backends.memory.sql.types import (
    ARRAYS,
    BOOL,
    TEXT,
    UNKNOWN,
    ArrayType,
    RecordType,
    SqlType,
)

_COMPARISONS: dict[type, str] = {
    exp.EQ: "=", exp.NEQ: "<>", exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">=",
}  # fmt: skip


@compiles(exp.And)
def _both(compiler: Compiler, node: exp.And) -> Expr:
    left, right = (compiler.boolean(side, "AND").value for side in (node.left, node.right))

    def value(env: Env) -> bool | None:
        a = left(env)
        if a is False:
            return False
        b = right(env)
        if b is False:
            return False
        return None if a is None or b is None else True

    return Expr(BOOL, value)


@compiles(exp.Or)
def _either(compiler: Compiler, node: exp.Or) -> Expr:
    left, right = (compiler.boolean(side, "OR").value for side in (node.left, node.right))

    def value(env: Env) -> bool | None:
        a = left(env)
        if a is True:
            return True
        b = right(env)
        if b is True:
            return True
        return None if a is None or b is None else False

    return Expr(BOOL, value)


@compiles(exp.Not)
def _negation(compiler: Compiler, node: exp.Not) -> Expr:
    return inverted(compiler.boolean(node.this, "NOT"))


@compiles(exp.Is)
def _is(compiler: Compiler, node: exp.Is) -> Expr:
    wanted, negate = node.expression, bool(node.args.get("negate"))
    if isinstance(wanted, exp.Boolean):
        truth = bool(wanted.this)
        condition = compiler.boolean(node.this, "IS TRUE" if truth else "IS FALSE").value
        return Expr(BOOL, lambda env: (condition(env) is truth) is not negate)
    if not isinstance(wanted, exp.Null):
        raise unsupported(sql_of(node), "this test")
    subject = compiler.compile(node.this)
    inner = determined(subject).value
    if isinstance(subject.kind, RecordType):
        return Expr(BOOL, lambda env: _is_null_row(inner(env)) is not negate)
    return Expr(BOOL, lambda env: (inner(env) is None) is not negate)


def _is_null_row(row: tuple[Any, ...] | None) -> bool:
    """A row is null if all of its fields are."""
    return row is None or all(item is None for item in row)


@compiles(exp.Between)
def _between(compiler: Compiler, node: exp.Between) -> Expr:
    inner, first, last = (
        compiler.compile(part) for part in (node.this, node.args["low"], node.args["high"])
    )
    inside = _within(inner, first, last)
    if not node.args.get("symmetric"):
        return inside
    outside = _within(inner, last, first)

    def value(env: Env) -> bool | None:
        a, b = inside.value(env), outside.value(env)
        if a is True or b is True:
            return True
        return None if a is None or b is None else False

    return Expr(BOOL, value)


def _within(inner: Expr, first: Expr, last: Expr) -> Expr:
    low, high = comparison(">=", inner, first).value, comparison("<=", inner, last).value

    def value(env: Env) -> bool | None:
        a, b = low(env), high(env)
        if a is False or b is False:
            return False
        return None if a is None or b is None else True

    return Expr(BOOL, value)


# -- comparisons and other operators ------------------------------------------------------------


@compiles(exp.Operator)
def _operator(compiler: Compiler, node: exp.Operator) -> Expr:
    symbol = str(node.args["operator"]).removeprefix("pg_catalog.")
    if quantifier(node.expression) is not None:
        return quantified(compiler, symbol, node)
    left, right = compiler.compile(node.this), compiler.compile(node.expression)
    return operators.binary(symbol, left, right)


@compiles(*_COMPARISONS)
def _comparison(compiler: Compiler, node: exp.Binary) -> Expr:
    symbol = _COMPARISONS[type(node)]
    right = node.expression
    if quantifier(right) is not None:
        return quantified(compiler, symbol, node)
    rows = [_row_items(node.this), _row_items(right)]
    if rows[0] is not None and isinstance(right, exp.Subquery):
        raise unsupported(sql_of(node), "a row compared with a subquery")
    if rows[0] is not None and rows[1] is not None:
        return _rows_compared(compiler, symbol, rows[0], rows[1])
    return comparison(symbol, compiler.compile(node.this), compiler.compile(right))


def _row_items(node: Node) -> list[Node] | None:
    """The items of ``(a, b)`` or ``row(a, b)``."""
    node = unwrapped(node)
    if isinstance(node, exp.Tuple):
        return list(node.expressions)
    if isinstance(node, exp.Anonymous) and str(node.this).lower() == "row":
        return list(node.expressions)
    return None


def _rows_compared(compiler: Compiler, symbol: str, left: list[Node], right: list[Node]) -> Expr:
    if len(left) != len(right):
        raise EngineError("42601", "unequal number of entries in row expressions")
    pairs = [(compiler.compile(a), compiler.compile(b)) for a, b in zip(left, right, strict=True)]
    return row_comparison(symbol, pairs)


def quantifier(node: Node) -> tuple[Node, bool] | None:
    """The operand of ``any`` or ``all``, and whether all must match."""
    if isinstance(node, exp.Any | exp.All):
        return unwrapped(node.this), isinstance(node, exp.All)
    if isinstance(node, exp.Anonymous) and str(node.this).lower() in ("any", "some", "all"):
        return unwrapped(node.expressions[0]), str(node.this).lower() == "all"
    return None


def quantified(compiler: Compiler, symbol: str, node: Node) -> Expr:
    """``a = any(...)`` and its like, of an array or a subquery."""
    found = quantifier(node.expression)
    assert found is not None
    operand, every = found
    if isinstance(operand, exp.Query | exp.Values):
        return _quantified_query(compiler, symbol, node.this, operand, every)
    left = compiler.compile(node.this)
    array = compiler.compile(operand)
    if array.kind is UNKNOWN:
        element = TEXT if left.kind is UNKNOWN else left.kind
        array = converted(array, ARRAYS[element.name])
    if not isinstance(array.kind, ArrayType):
        raise EngineError("42809", "op ANY/ALL (array) requires array on right side")
    test = _Test(symbol, [left], [array.kind.element])
    values = array.value

    def value(env: Env) -> bool | None:
        items = values(env)
        return None if items is None else test.matches([(item,) for item in items], env, every)

    return Expr(BOOL, value)


def _quantified_query(
    compiler: Compiler, symbol: str, left: Node, query: Node, every: bool
) -> Expr:
    items = _row_items(left)
    subjects = [compiler.compile(item) for item in (items or [left])]
    columns, rows = compiler.subquery(query, compiler.scope.child())
    if len(columns) != len(subjects):
        word = "many" if len(columns) > len(subjects) else "few"
        raise EngineError("42601", f"subquery has too {word} columns")
    test = _Test(symbol, subjects, [column.kind for column in columns])
    return Expr(BOOL, lambda env: test.matches(rows(env.child()), env, every))


class _Test:
    """A comparison of the left side with one row after the other."""

    def __init__(self, symbol: str, left: list[Expr], kinds: list[SqlType]) -> None:
        known = [
            converted(expr, kind) if expr.kind is UNKNOWN else expr
            for expr, kind in zip(left, kinds, strict=True)
        ]
        self._left = [expr.value for expr in known]
        pairs = [
            (Expr(expr.kind, column_value(0, index)), Expr(kind, column_value(1, index)))
            for index, (expr, kind) in enumerate(zip(known, kinds, strict=True))
        ]
        compared = (
            operators.binary(symbol, *pairs[0])
            if len(pairs) == 1
            else row_comparison(symbol, pairs)
        )
        if compared.kind is not BOOL:
            raise EngineError("42809", "op ANY/ALL (array) requires operator to yield boolean")
        self._test = compared.value

    def matches(self, items: list[Any], env: Env, every: bool) -> bool | None:
        """``any`` or, with `every`, ``all``."""
        left = tuple([value(env) for value in self._left])
        probe = Env(env.tx, env.params)
        unknown = False
        for item in items:
            probe.rows = [left, item]
            answer = self._test(probe)
            if answer is None:
                unknown = True
            elif answer is not every:
                return not every
        return None if unknown else every


@compiles(exp.In)
def _in(compiler: Compiler, node: exp.In) -> Expr:
    query = node.args.get("query")
    if query is not None:
        return _quantified_query(compiler, "=", node.this, unwrapped(query), every=False)
    items = _row_items(node.this)
    if items is not None:
        tests = []
        for item in node.expressions:
            right = _row_items(item)
            if right is None:
                raise unsupported(sql_of(node), "this list of rows")
            tests.append(_rows_compared(compiler, "=", items, right).value)
    else:
        left = compiler.compile(node.this)
        members = [compiler.compile(item) for item in node.expressions]
        if left.kind is UNKNOWN:
            left = converted(left, common_type([item.kind for item in members], "IN"))
        tests = [comparison("=", left, item).value for item in members]

    def value(env: Env) -> bool | None:
        unknown = False
        for test in tests:
            answer = test(env)
            if answer:
                return True
            unknown = unknown or answer is None
        return None if unknown else False

    return Expr(BOOL, value)


# -- subqueries ---------------------------------------------------------------------------------


@compiles(exp.Exists)
def _exists(compiler: Compiler, node: exp.Exists) -> Expr:
    _, rows = compiler.subquery(unwrapped(node.this), compiler.scope.child())
    return Expr(BOOL, lambda env: bool(rows(env.child())), "exists")


@compiles(exp.Subquery)
def _scalar_query(compiler: Compiler, node: exp.Subquery) -> Expr:
    columns, rows = compiler.subquery(node, compiler.scope.child())
    if len(columns) != 1:
        raise EngineError("42601", "subquery must return only one column")

    def value(env: Env) -> Any:
        found = rows(env.child())
        if len(found) > 1:
            raise EngineError(
                "21000", "more than one row returned by a subquery used as an expression"
            )
        return found[0][0] if found else None

    return Expr(columns[0].kind, value, columns[0].name)


@compiles(exp.Case)
def _case(compiler: Compiler, node: exp.Case) -> Expr:
    subject = None if node.this is None else compiler.compile(node.this)
    if subject is not None and subject.kind is UNKNOWN:
        subject = converted(subject, TEXT)
    tests, results = [], []
    for branch in node.args["ifs"]:
        if subject is None:
            tests.append(compiler.boolean(branch.this, "CASE/WHEN").value)
        else:
            tests.append(comparison("=", subject, compiler.compile(branch.this)).value)
        results.append(compiler.compile(branch.args["true"]))
    default = node.args.get("default")
    otherwise = constant(UNKNOWN, None) if default is None else compiler.compile(default)
    kind = common_type([expr.kind for expr in [otherwise, *results]], "CASE")
    values = [converted(expr, kind).value for expr in results]
    last = converted(otherwise, kind).value

    def value(env: Env) -> Any:
        for test, result in zip(tests, values, strict=True):
            if test(env) is True:
                return result(env)
        return last(env)

    strong = otherwise.name != "?column?" and not is_weak(default, otherwise)
    return Expr(kind, value, otherwise.name if strong else "case")


@compiles(exp.NullSafeEQ, exp.NullSafeNEQ)
def _distinct(compiler: Compiler, node: exp.Binary) -> Expr:
    negate = isinstance(node, exp.NullSafeEQ)
    left, right = compiler.compile(node.this), compiler.compile(node.expression)
    others = ((node.this, right), (node.expression, left))
    beside_null = next((expr for written, expr in others if isinstance(written, exp.Null)), None)
    if beside_null is not None:  # Postgres asks whether the other is null
        inner = determined(beside_null).value
        return Expr(BOOL, lambda env: (inner(env) is None) is negate)
    return distinct_from(left, right, negate=negate)
