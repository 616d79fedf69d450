"""Conditions: logic, comparisons, ``in``, ``any``, ``like``, ``case`` and subqueries."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from sqlglot import exp

from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.sql import operators
from absurd_contimg.backends.memory.sql.expressions import (
    PARAMETER,
    Compiler,
    compiles,
    constant,
    inverted,
    sql_of,
    unwrapped,
)
from absurd_contimg.backends.memory.sql.scope import Env, Expr, Node, unsupported
from absurd_contimg.backends.memory.sql.types import (
    ARRAYS,
    BOOL,
    TEXT,
    UNKNOWN,
    ArrayType,
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
    subject = compiler.compile(node.this)
    match = PARAMETER.match(node.this.name) if isinstance(node.this, exp.Column) else None
    if match is not None and subject.kind is UNKNOWN:
        number = int(match[1]) + 1
        raise EngineError("42P18", f"could not determine data type of parameter ${number}")
    inner = subject.value
    wanted = node.expression
    negate = bool(node.args.get("negate"))
    if isinstance(wanted, exp.Null):
        return Expr(BOOL, lambda env: (inner(env) is None) is not negate)
    if isinstance(wanted, exp.Boolean):
        truth = bool(wanted.this)
        return Expr(BOOL, lambda env: (inner(env) is truth) is not negate)
    raise unsupported(sql_of(node), "this test")


@compiles(exp.Between)
def _between(compiler: Compiler, node: exp.Between) -> Expr:
    inner = compiler.compile(node.this)
    low = operators.comparison(">=", inner, compiler.compile(node.args["low"])).value
    high = operators.comparison("<=", inner, compiler.compile(node.args["high"])).value

    def value(env: Env) -> bool | None:
        a, b = low(env), high(env)
        if a is False or b is False:
            return False
        return None if a is None or b is None else True

    return inverted(Expr(BOOL, value)) if node.args.get("negate") else Expr(BOOL, value)


@compiles(*_COMPARISONS)
def _comparison(compiler: Compiler, node: exp.Binary) -> Expr:
    symbol = _COMPARISONS[type(node)]
    right = node.expression
    quantifier = _quantifier(right)
    if quantifier is not None:
        return _quantified(compiler, symbol, compiler.compile(node.left), *quantifier)
    if isinstance(node.left, exp.Tuple) and isinstance(right, exp.Tuple):
        return _row_comparison(compiler, symbol, node.left, right)
    return operators.comparison(symbol, compiler.compile(node.left), compiler.compile(right))


def _row_comparison(compiler: Compiler, symbol: str, left: exp.Tuple, right: exp.Tuple) -> Expr:
    if symbol not in ("=", "<>"):
        raise unsupported(sql_of(left), "an ordering of rows")
    pairs = [
        operators.comparison("=", compiler.compile(a), compiler.compile(b)).value
        for a, b in zip(left.expressions, right.expressions, strict=True)
    ]

    def value(env: Env) -> bool | None:
        answers = [pair(env) for pair in pairs]
        if False in answers:
            return False
        return None if None in answers else True

    return inverted(Expr(BOOL, value)) if symbol == "<>" else Expr(BOOL, value)


def _quantifier(node: Node) -> tuple[Node, bool] | None:
    """The operand of ``any`` or ``all``, and whether all must match."""
    if isinstance(node, exp.Any | exp.All):
        inner = node.this
        return (inner.this if isinstance(inner, exp.Paren) else inner), isinstance(node, exp.All)
    if isinstance(node, exp.Anonymous) and str(node.this).lower() in ("any", "some", "all"):
        return node.expressions[0], str(node.this).lower() == "all"
    return None


def _quantified(compiler: Compiler, symbol: str, left: Expr, operand: Node, every: bool) -> Expr:
    holder: list[Any] = [None]
    if isinstance(operand, exp.Subquery | exp.Query):
        return _quantified_query(compiler, symbol, left, operand, every)
    array = compiler.compile(operand)
    if array.kind is UNKNOWN:
        element = TEXT if left.kind is UNKNOWN else left.kind
        array = operators.converted(array, ARRAYS[element.name])
    if not isinstance(array.kind, ArrayType):
        raise EngineError("42809", "op ANY/ALL (array) requires array on right side")
    test = operators.comparison(symbol, left, Expr(array.kind.element, lambda _: holder[0])).value
    values = array.value

    def value(env: Env) -> bool | None:
        items = values(env)
        return None if items is None else _matches(items, holder, test, env, every)

    return Expr(BOOL, value)


def _quantified_query(
    compiler: Compiler, symbol: str, left: Expr, operand: Node, every: bool
) -> Expr:
    holder: list[Any] = [None]
    columns, rows = compiler.subquery(unwrapped(operand), compiler.scope.child())
    test = operators.comparison(symbol, left, Expr(columns[0].kind, lambda _: holder[0])).value

    def value(env: Env) -> bool | None:
        items = [row[0] for row in rows(env.child())]
        return _matches(items, holder, test, env, every)

    return Expr(BOOL, value)


@compiles(exp.In)
def _in(compiler: Compiler, node: exp.In) -> Expr:
    left = compiler.compile(node.this)
    query = node.args.get("query")
    if query is not None:
        return _quantified_query(compiler, "=", left, query, every=False)
    tests = [
        operators.comparison("=", left, compiler.compile(item)).value for item in node.expressions
    ]

    def value(env: Env) -> bool | None:
        unknown = False
        for test in tests:
            answer = test(env)
            if answer:
                return True
            unknown = unknown or answer is None
        return None if unknown else False

    return Expr(BOOL, value)


@compiles(exp.Exists)
def _exists(compiler: Compiler, node: exp.Exists) -> Expr:
    _, rows = compiler.subquery(unwrapped(node.this), compiler.scope.child())
    return Expr(BOOL, lambda env: bool(rows(env.child())), "exists")


@compiles(exp.Subquery)
def _scalar_query(compiler: Compiler, node: exp.Subquery) -> Expr:
    columns, rows = compiler.subquery(unwrapped(node), compiler.scope.child())
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
    tests, results = [], []
    for branch in node.args["ifs"]:
        if subject is None:
            tests.append(compiler.boolean(branch.this, "CASE/WHEN").value)
        else:
            tests.append(operators.comparison("=", subject, compiler.compile(branch.this)).value)
        results.append(compiler.compile(branch.args["true"]))
    default = node.args.get("default")
    otherwise = constant(UNKNOWN, None) if default is None else compiler.compile(default)
    kind = operators.common_type([expr.kind for expr in [otherwise, *results]], "CASE")
    values = [operators.converted(expr, kind).value for expr in results]
    last = operators.converted(otherwise, kind).value

    def value(env: Env) -> Any:
        for test, result in zip(tests, values, strict=True):
            if test(env) is True:
                return result(env)
        return last(env)

    return Expr(kind, value, otherwise.name if otherwise.name != "?column?" else "case")


@compiles(exp.NullSafeEQ, exp.NullSafeNEQ)
def _distinct(compiler: Compiler, node: exp.Binary) -> Expr:
    return operators.distinct_from(
        compiler.compile(node.left),
        compiler.compile(node.right),
        negate=isinstance(node, exp.NullSafeEQ),
    )


@compiles(exp.Like, exp.ILike)
def _like(compiler: Compiler, node: exp.Binary) -> Expr:
    left = operators.as_text(compiler.compile(node.this)).value
    right = operators.as_text(compiler.compile(node.expression)).value
    flags = re.IGNORECASE if isinstance(node, exp.ILike) else 0

    def value(env: Env) -> bool | None:
        text, pattern = left(env), right(env)
        if text is None or pattern is None:
            return None
        return re.match(like_pattern(pattern), text, flags | re.DOTALL) is not None

    return inverted(Expr(BOOL, value)) if node.args.get("negate") else Expr(BOOL, value)


@compiles(exp.RegexpLike, exp.RegexpILike)
def _regular(compiler: Compiler, node: exp.RegexpLike) -> Expr:
    left = operators.as_text(compiler.compile(node.this)).value
    right = operators.as_text(compiler.compile(node.expression)).value
    flags = re.IGNORECASE if isinstance(node, exp.RegexpILike) else 0

    def value(env: Env) -> bool | None:
        text, pattern = left(env), right(env)
        if text is None or pattern is None:
            return None
        return re.search(pattern, text, flags) is not None

    return Expr(BOOL, value)


def _matches(
    items: list[Any], holder: list[Any], test: Callable[[Env], Any], env: Env, every: bool
) -> bool | None:
    """``any`` or, with `every`, ``all`` over the items, put one by one where `test` looks."""
    unknown = False
    for item in items:
        holder[0] = item
        answer = test(env)
        if answer is None:
            unknown = True
        elif answer is not every:
            return not every
    return None if unknown else every


def like_pattern(pattern: str) -> str:
    """A LIKE pattern as a regular expression."""
    pieces: list[str] = []
    characters = iter(pattern)
    for character in characters:
        if character == "%":
            pieces.append(".*")
        elif character == "_":
            pieces.append(".")
        elif character == "\\":
            pieces.append(re.escape(next(characters, "\\")))
        else:
            pieces.append(re.escape(character))
    return "".join(pieces) + r"\Z"
