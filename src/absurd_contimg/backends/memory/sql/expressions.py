"""From sqlglot's expression trees to closures."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from sqlglot import exp


from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.intervals import interval_in
from absurd_contimg.backends.memory.sql import aggregates, calls, functions, operators
from absurd_contimg.backends.memory.sql.scope import Env, Expr, Scope, column_value, unsupported
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

PARAMETER = re.compile(r"__p(\d+)__\Z")

_TYPE_NAMES = {
    "TEXT": "text", "VARCHAR": "varchar", "CHAR": "text", "INT": "int4", "SMALLINT": "int2",
    "BIGINT": "int8", "DOUBLE": "float8", "FLOAT": "float8", "DECIMAL": "numeric",
    "BOOLEAN": "bool", "UUID": "uuid", "TIMESTAMPTZ": "timestamptz", "TIMESTAMP": "timestamp",
    "DATE": "date", "INTERVAL": "interval", "JSON": "json", "JSONB": "jsonb", "NAME": "name",
    "VARBINARY": "bytea", "REGCLASS": "regclass", "OID": "oid",
}  # fmt: skip
_COMPARISONS: dict[type[exp.Expression], str] = {
    exp.EQ: "=", exp.NEQ: "<>", exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">=",
}  # fmt: skip
_ARITHMETIC: dict[type[exp.Expression], str] = {
    exp.Add: "+", exp.Sub: "-", exp.Mul: "*", exp.Div: "/", exp.Mod: "%", exp.Pow: "^",
}  # fmt: skip
_NAMED: dict[type[exp.Expression], str] = {
    exp.Lower: "lower", exp.Upper: "upper", exp.Length: "length", exp.Left: "left",
    exp.Right: "right", exp.MD5: "md5", exp.CurrentUser: "current_user",
    exp.CurrentTimestamp: "now", exp.Uuid: "gen_random_uuid",
}  # fmt: skip
for _class, _name in (("CurrentDatabase", "current_database"), ("CurrentVersion", "version")):
    if hasattr(exp, _class):
        _NAMED[getattr(exp, _class)] = _name
_ROUNDING: dict[type[exp.Expression], str] = {
    exp.Round: "round", exp.Floor: "floor", exp.Ceil: "ceil", exp.Abs: "abs",
}  # fmt: skip
Subquery = Callable[
    [exp.Expression, Scope], tuple[list[Any], Callable[[Env], list[tuple[Any, ...]]]]
]


def sql_of(node: exp.Expression) -> str:
    """The node as SQL, for messages."""
    return str(node.sql(dialect="postgres"))


class Compiler:
    """Compiles expressions in one scope.

    `subquery` compiles a nested query. `found` collects aggregates; None where none may stand.
    """

    def __init__(
        self,
        scope: Scope,
        subquery: Subquery,
        found: list[aggregates.Aggregate] | None = None,
    ) -> None:
        self.scope = scope
        self.subquery = subquery
        self.found = found

    def compile(self, node: exp.Expression) -> Expr:
        """The compiled expression; 0A000 for what is not supported."""
        for kind in type(node).__mro__:
            method = _METHODS.get(kind)
            if method is not None:
                return method(self, node)
        unsupported(sql_of(node), "this expression")

    def boolean(self, node: exp.Expression, clause: str) -> Expr:
        """A condition; 42804 if it is none."""
        compiled = self.compile(node)
        if compiled.kind is UNKNOWN:
            return operators.converted(compiled, BOOL)
        if compiled.kind is not BOOL:
            raise EngineError(
                "42804",
                f"argument of {clause} must be type boolean, not type {compiled.kind.shown}",
            )
        return compiled

    # -- atoms ------------------------------------------------------------------------------

    def literal(self, node: exp.Literal) -> Expr:
        text = str(node.this)
        if node.is_string:
            return constant(UNKNOWN, text)
        if text.isdigit():
            number = int(text)
            kind = INT4 if number < 2**31 else INT8 if number < 2**63 else NUMERIC
            return constant(kind, number if kind is not NUMERIC else Decimal(number))
        return constant(NUMERIC, Decimal(text))

    def column(self, node: exp.Column) -> Expr:
        name, table = name_of(node.this), node.table or None
        match = PARAMETER.match(name)
        if match is not None and table is None:
            index = int(match.group(1))
            return Expr(self.scope.params[index], lambda env: env.params[index], constant=True)
        if table is not None:
            table = name_of(node.args["table"])
        try:
            return self.scope.find(table, name)
        except EngineError as error:
            special = self._special_column(name) if table is None else None
            if special is None or error.sqlstate != "42703":
                raise
            return special

    def _special_column(self, name: str) -> Expr | None:
        """Words without brackets that are functions, and whole rows."""
        if name in ("current_user", "session_user", "current_schema"):
            return functions.call_builtin(name, [])
        for index, source in enumerate(self.scope.sources):
            if source.alias == name:
                if len(source.columns) == 1:
                    return Expr(source.columns[0].kind, column_value(index, 0), name)
                return self._whole_row(index, name)
        return None

    def _whole_row(self, index: int, name: str) -> Expr:
        kinds = [column.kind for column in self.scope.sources[index].columns]

        def value(env: Env) -> Any:
            row = env.rows[index]
            if row is None:
                return None
            return tuple(
                None if item is None else kind.show(item, env.session)
                for item, kind in zip(row, kinds, strict=True)
            )

        return Expr(RECORD, value, name)

    def null(self, _: exp.Null) -> Expr:
        return constant(UNKNOWN, None)

    def truth(self, node: exp.Boolean) -> Expr:
        return constant(BOOL, bool(node.this))._replace(name="bool")

    def paren(self, node: exp.Paren) -> Expr:
        return self.compile(node.this)

    def escaped(self, node: exp.ByteString) -> Expr:
        return constant(UNKNOWN, str(node.this))

    def parameter(self, node: exp.Parameter) -> Expr:
        raise EngineError("42P02", f"there is no parameter {sql_of(node)}")

    # -- logic ------------------------------------------------------------------------------

    def both(self, node: exp.And) -> Expr:
        left, right = (self.boolean(side, "AND").value for side in (node.left, node.right))

        def value(env: Env) -> bool | None:
            a = left(env)
            if a is False:
                return False
            b = right(env)
            if b is False:
                return False
            return None if a is None or b is None else True

        return Expr(BOOL, value)

    def either(self, node: exp.Or) -> Expr:
        left, right = (self.boolean(side, "OR").value for side in (node.left, node.right))

        def value(env: Env) -> bool | None:
            a = left(env)
            if a is True:
                return True
            b = right(env)
            if b is True:
                return True
            return None if a is None or b is None else False

        return Expr(BOOL, value)

    def negation(self, node: exp.Not) -> Expr:
        return inverted(self.boolean(node.this, "NOT"))

    def is_(self, node: exp.Is) -> Expr:
        inner = self.compile(node.this).value
        wanted = node.expression
        negate = bool(node.args.get("negate"))
        if isinstance(wanted, exp.Null):
            return Expr(BOOL, lambda env: (inner(env) is None) is not negate)
        if isinstance(wanted, exp.Boolean):
            truth = bool(wanted.this)
            return Expr(BOOL, lambda env: (inner(env) is truth) is not negate)
        unsupported(sql_of(node), "this test")

    def between(self, node: exp.Between) -> Expr:
        inner = self.compile(node.this)
        low = operators.comparison(">=", inner, self.compile(node.args["low"])).value
        high = operators.comparison("<=", inner, self.compile(node.args["high"])).value

        def value(env: Env) -> bool | None:
            a, b = low(env), high(env)
            if a is False or b is False:
                return False
            return None if a is None or b is None else True

        return inverted(Expr(BOOL, value)) if node.args.get("negate") else Expr(BOOL, value)

    def comparison(self, node: exp.Binary) -> Expr:
        symbol = _COMPARISONS[type(node)]
        right = node.expression
        quantifier = self._quantifier(right)
        if quantifier is not None:
            return self._quantified(symbol, self.compile(node.left), *quantifier)
        if isinstance(node.left, exp.Tuple) and isinstance(right, exp.Tuple):
            return self._row_comparison(symbol, node.left, right)
        return operators.comparison(symbol, self.compile(node.left), self.compile(right))

    def _row_comparison(self, symbol: str, left: exp.Tuple, right: exp.Tuple) -> Expr:
        if symbol not in ("=", "<>"):
            unsupported(sql_of(left), "an ordering of rows")
        pairs = [
            operators.comparison("=", self.compile(a), self.compile(b)).value
            for a, b in zip(left.expressions, right.expressions, strict=True)
        ]

        def value(env: Env) -> bool | None:
            answers = [pair(env) for pair in pairs]
            if False in answers:
                return False
            return None if None in answers else True

        return inverted(Expr(BOOL, value)) if symbol == "<>" else Expr(BOOL, value)

    @staticmethod
    def _quantifier(node: exp.Expression) -> tuple[exp.Expression, bool] | None:
        """The operand of ``any`` or ``all``, and whether all must match."""
        if isinstance(node, exp.Any | exp.All):
            inner = node.this
            return (inner.this if isinstance(inner, exp.Paren) else inner), isinstance(
                node, exp.All
            )
        if isinstance(node, exp.Anonymous) and str(node.this).lower() in ("any", "some", "all"):
            return node.expressions[0], str(node.this).lower() == "all"
        return None

    def _quantified(self, symbol: str, left: Expr, operand: exp.Expression, every: bool) -> Expr:
        holder: list[Any] = [None]
        if isinstance(operand, exp.Subquery | exp.Query):
            return self._quantified_query(symbol, left, operand, every)
        array = self.compile(operand)
        if array.kind is UNKNOWN:
            element = TEXT if left.kind is UNKNOWN else left.kind
            array = operators.converted(array, ARRAYS[element.name])
        if not isinstance(array.kind, ArrayType):
            raise EngineError("42809", "op ANY/ALL (array) requires array on right side")
        test = operators.comparison(
            symbol, left, Expr(array.kind.element, lambda _: holder[0])
        ).value
        values = array.value

        def value(env: Env) -> bool | None:
            items = values(env)
            return None if items is None else _matches(items, holder, test, env, every)

        return Expr(BOOL, value)

    def _quantified_query(
        self, symbol: str, left: Expr, operand: exp.Expression, every: bool
    ) -> Expr:
        holder: list[Any] = [None]
        columns, rows = self.subquery(unwrapped(operand), self.scope.child())
        test = operators.comparison(symbol, left, Expr(columns[0].kind, lambda _: holder[0])).value

        def value(env: Env) -> bool | None:
            items = [row[0] for row in rows(env.child())]
            return _matches(items, holder, test, env, every)

        return Expr(BOOL, value)

    def in_(self, node: exp.In) -> Expr:
        left = self.compile(node.this)
        query = node.args.get("query")
        if query is not None:
            return self._quantified_query("=", left, query, every=False)
        tests = [
            operators.comparison("=", left, self.compile(item)).value for item in node.expressions
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

    def exists(self, node: exp.Exists) -> Expr:
        _, rows = self.subquery(unwrapped(node.this), self.scope.child())
        return Expr(BOOL, lambda env: bool(rows(env.child())), "exists")

    def scalar_query(self, node: exp.Subquery) -> Expr:
        columns, rows = self.subquery(unwrapped(node), self.scope.child())
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

    def case(self, node: exp.Case) -> Expr:
        subject = None if node.this is None else self.compile(node.this)
        tests, results = [], []
        for branch in node.args["ifs"]:
            if subject is None:
                tests.append(self.boolean(branch.this, "CASE/WHEN").value)
            else:
                tests.append(operators.comparison("=", subject, self.compile(branch.this)).value)
            results.append(self.compile(branch.args["true"]))
        default = node.args.get("default")
        otherwise = constant(UNKNOWN, None) if default is None else self.compile(default)
        kind = operators.common_type([expr.kind for expr in [otherwise, *results]], "CASE")
        values = [operators.converted(expr, kind).value for expr in results]
        last = operators.converted(otherwise, kind).value

        def value(env: Env) -> Any:
            for test, result in zip(tests, values, strict=True):
                if test(env) is True:
                    return result(env)
            return last(env)

        return Expr(kind, value, otherwise.name if otherwise.name != "?column?" else "case")

    # -- operators --------------------------------------------------------------------------

    def arithmetic(self, node: exp.Binary) -> Expr:
        return operators.arithmetic(
            _ARITHMETIC[type(node)], self.compile(node.left), self.compile(node.right)
        )

    def minus(self, node: exp.Neg) -> Expr:
        return operators.negated(self.compile(node.this))

    def concatenation(self, node: exp.DPipe) -> Expr:
        return operators.concatenated(self.compile(node.left), self.compile(node.right))

    def distinct(self, node: exp.Binary) -> Expr:
        return operators.distinct_from(
            self.compile(node.left),
            self.compile(node.right),
            negate=isinstance(node, exp.NullSafeEQ),
        )

    def like(self, node: exp.Binary) -> Expr:
        left = operators.as_text(self.compile(node.this)).value
        right = operators.as_text(self.compile(node.expression)).value
        flags = re.IGNORECASE if isinstance(node, exp.ILike) else 0

        def value(env: Env) -> bool | None:
            text, pattern = left(env), right(env)
            if text is None or pattern is None:
                return None
            return re.match(like_pattern(pattern), text, flags | re.DOTALL) is not None

        return inverted(Expr(BOOL, value)) if node.args.get("negate") else Expr(BOOL, value)

    def matches(self, node: exp.RegexpLike) -> Expr:
        left = operators.as_text(self.compile(node.this)).value
        right = operators.as_text(self.compile(node.expression)).value
        flags = re.IGNORECASE if isinstance(node, exp.RegexpILike) else 0

        def value(env: Env) -> bool | None:
            text, pattern = left(env), right(env)
            if text is None or pattern is None:
                return None
            return re.search(pattern, text, flags) is not None

        return Expr(BOOL, value)

    def json_member(self, node: exp.JSONExtract) -> Expr:
        left = self._json(node.this)
        as_string = isinstance(node, exp.JSONExtractScalar)
        path = node.expression
        if isinstance(path, exp.JSONPath):
            for part in path.expressions:
                if isinstance(part, exp.JSONPathKey | exp.JSONPathSubscript):
                    step = part.this
                    last = part is path.expressions[-1]
                    left = operators.json_member(left, step, as_string=as_string and last)
            return left
        return self._computed_member(left, self.compile(path), as_string=as_string)

    @staticmethod
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

    def _json(self, node: exp.Expression) -> Expr:
        left = self.compile(node)
        if left.kind is UNKNOWN:
            return operators.converted(left, JSONB)
        if left.kind.name not in ("jsonb", "json"):
            raise operators.undefined_operator("->", left.kind, UNKNOWN)
        return left

    def json_path(self, node: exp.Binary) -> Expr:
        as_string = isinstance(node, exp.JSONBExtractScalar)
        return operators.json_path(
            self._json(node.this), self.compile(node.expression), as_string=as_string
        )

    def has_key(self, node: exp.JSONBContains) -> Expr:
        from absurd_contimg.backends.memory import jsonb  # noqa: PLC0415

        left = self._json(node.this).value
        right = operators.converted(self.compile(node.expression), TEXT).value

        def value(env: Env) -> bool | None:
            text, key = left(env), right(env)
            return None if text is None or key is None else jsonb.has_key(text, key)

        return Expr(BOOL, value)

    def contains(self, node: exp.Binary) -> Expr:
        one, other = self.compile(node.this), self.compile(node.expression)
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

    # -- types ------------------------------------------------------------------------------

    def cast(self, node: exp.Cast) -> Expr:
        target = type_of(node.args["to"])
        inner = self.compile(node.this)
        compiled = operators.converted(inner, target)
        strong = inner.name != "?column?" and not isinstance(unwrapped(node.this), exp.Cast)
        named = inner.name if strong else target.name
        return compiled._replace(name=named)

    def interval(self, node: exp.Interval) -> Expr:
        unit = "" if node.args.get("unit") is None else f" {node.args['unit'].name}"
        span = interval_in(f"{node.this.name}{unit}")
        return constant(INTERVAL, span)._replace(name="interval")

    def array(self, node: exp.Array) -> Expr:
        items = [self.compile(item) for item in node.expressions]
        element = operators.common_type([item.kind for item in items], "ARRAY")
        values = [operators.converted(item, element).value for item in items]
        return Expr(ARRAYS[element.name], lambda env: [value(env) for value in values], "array")

    def bracket(self, node: exp.Bracket) -> Expr:
        inner = self.compile(node.this)
        if not isinstance(inner.kind, ArrayType):
            unsupported(sql_of(node), "this subscript")
        index = self.compile(node.expressions[0]).value  # sqlglot counts from 0

        def value(env: Env) -> Any:
            items, position = inner.value(env), index(env)
            if items is None or position is None or not 0 <= position < len(items):
                return None
            return items[position]

        return Expr(inner.kind.element, value, inner.name)

    def at_time_zone(self, node: exp.AtTimeZone) -> Expr:
        inner = self.compile(node.this)
        if inner.kind in STRINGS or inner.kind is DATE:
            inner = operators.converted(inner, TIMESTAMPTZ)
        zone = operators.converted(self.compile(node.args["zone"]), TEXT).value
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

    # -- functions --------------------------------------------------------------------------

    def named(self, node: exp.Expression) -> Expr:
        name = _NAMED[type(node)]
        arguments = [
            self.compile(child)
            for child in [node.args.get("this"), node.args.get("expression")]
            if isinstance(child, exp.Expression)
        ]
        return self._builtin(name, arguments, node)

    def _builtin(self, name: str, arguments: list[Expr], node: exp.Expression) -> Expr:
        compiled = functions.call_builtin(name, arguments)
        if compiled is None:
            unsupported(sql_of(node), f"the function {name}")
        return compiled

    def rounding(self, node: exp.Expression) -> Expr:
        digits = node.args.get("decimals")
        return functions.rounded(
            _ROUNDING[type(node)],
            self.compile(node.this),
            None if digits is None else self.compile(digits),
        )

    def substring(self, node: exp.Substring) -> Expr:
        parts = [node.this, node.args.get("start"), node.args.get("length")]
        return self._builtin("substring", [self.compile(part) for part in parts if part], node)

    def trim(self, node: exp.Trim) -> Expr:
        side = str(node.args.get("position") or "").upper()
        name = {"LEADING": "ltrim", "TRAILING": "rtrim"}.get(side, "btrim")
        parts = [node.this, node.args.get("expression")]
        return self._builtin(name, [self.compile(part) for part in parts if part], node)

    def position(self, node: exp.StrPosition) -> Expr:
        parts = [self.compile(node.this), self.compile(node.args["substr"])]
        return self._builtin("position", parts, node)

    def split_part(self, node: exp.SplitPart) -> Expr:
        parts = [node.this, node.args["delimiter"], node.args["part_index"]]
        return self._builtin("split_part", [self.compile(part) for part in parts], node)

    def starts_with(self, node: exp.StartsWith) -> Expr:
        parts = [self.compile(node.this), self.compile(node.expression)]
        return self._builtin("starts_with", parts, node)

    def coalesce(self, node: exp.Coalesce) -> Expr:
        items = [self.compile(item) for item in [node.this, *node.expressions]]
        kind = operators.common_type([item.kind for item in items], "COALESCE")
        values = [operators.converted(item, kind).value for item in items]

        def value(env: Env) -> Any:
            for evaluate in values:
                found = evaluate(env)
                if found is not None:
                    return found
            return None

        return Expr(kind, value, "coalesce")

    def nullif(self, node: exp.Nullif) -> Expr:
        left = self.compile(node.this)
        same = operators.comparison("=", left, self.compile(node.expression)).value
        kept = operators.converted(left, TEXT) if left.kind is UNKNOWN else left
        return Expr(kept.kind, lambda env: None if same(env) else kept.value(env), "nullif")

    def extreme(self, node: exp.Expression) -> Expr:
        name = "greatest" if isinstance(node, exp.Greatest) else "least"
        choose = max if name == "greatest" else min
        items = [self.compile(item) for item in [node.this, *node.expressions]]
        kind = operators.common_type([item.kind for item in items], name.upper())
        values = [operators.converted(item, kind).value for item in items]

        def value(env: Env) -> Any:
            found = [item for evaluate in values if (item := evaluate(env)) is not None]
            return choose(found, key=lambda item: operators.sort_key(kind, item)) if found else None

        return Expr(kind, value, name)

    def extract(self, node: exp.Extract) -> Expr:
        return functions.extract(node.this.name.lower(), self.compile(node.expression))

    def date_trunc(self, node: exp.Expression) -> Expr:
        unit = node.args["unit"].name.lower()
        unit = {"week(monday)": "week"}.get(unit, unit)
        return functions.date_trunc(unit, self.compile(node.this))

    def make_interval(self, node: exp.Expression) -> Expr:
        seconds = node.args.get("second")
        given = [key for key, value in node.args.items() if value is not None]
        if seconds is None or given != ["second"]:
            unsupported(sql_of(node), "make_interval with anything but secs")
        inner = seconds.expression if isinstance(seconds, exp.Kwarg) else seconds
        return self._builtin("make_interval", [self.compile(inner)], node)

    def replace(self, node: exp.Expression) -> Expr:
        parts = [node.this, node.args["expression"], node.args["replacement"]]
        return self._builtin("replace", [self.compile(part) for part in parts], node)

    def unnest(self, node: exp.Expression) -> Expr:
        array = self.compile(node.this if node.this is not None else node.expressions[0])
        if not isinstance(array.kind, ArrayType):
            raise EngineError("42725", "function unnest(unknown) is not unique")
        return Expr(
            array.kind.element,
            lambda env: next(iter(array.value(env) or []), None),
            "unnest",
            rows=lambda env: array.value(env) or [],
        )

    def concat(self, node: exp.Concat) -> Expr:
        return functions.concat([self.compile(item) for item in node.expressions])

    def format_text(self, node: exp.Expression) -> Expr:
        return functions.format_text(
            [self.compile(item) for item in [node.this, *node.expressions]]
        )

    def dotted(self, node: exp.Dot) -> Expr:
        """``absurd.function(...)``, or a function of ``pg_catalog``."""
        schema = name_of(node.this)
        call = node.expression
        if schema == "absurd" and isinstance(call, exp.Anonymous):
            return calls.as_expression(self.absurd_call(call))
        if schema == "pg_catalog":
            return self.compile(call)
        unsupported(sql_of(node), "this name")

    def absurd_call(self, call: exp.Anonymous) -> calls.Call:
        """The call of a function of the schema ``absurd``."""
        arguments: list[calls.Argument] = []
        for item in call.expressions:
            if isinstance(item, exp.Kwarg | exp.PropertyEQ):
                name = (
                    name_of(item.this) if isinstance(item.this, exp.Identifier) else item.this.name
                )
                arguments.append(calls.Argument(self.compile(item.expression), name))
            else:
                arguments.append(calls.Argument(self.compile(item)))
        return calls.resolve(str(call.this).lower(), arguments)

    def anonymous(self, node: exp.Anonymous) -> Expr:
        name = str(node.this).lower()
        if name in aggregates.ANONYMOUS:
            return self.aggregate(node)
        arguments = [self.compile(item) for item in node.expressions]
        special = _SPECIAL.get(name)
        if special is not None:
            return special(arguments, name)
        compiled = functions.call_builtin(name, arguments)
        if compiled is None:
            unsupported(sql_of(node), f"the function {name}")
        return compiled

    def aggregate(self, node: exp.Expression) -> Expr:
        if self.found is None:
            raise EngineError("42803", "aggregate functions are not allowed here")
        inner = Compiler(self.scope, self.subquery)
        made = aggregates.compile_aggregate(node, inner)
        if made is None:
            unsupported(sql_of(node), "this aggregate")
        index = len(self.found)
        self.found.append(made)
        return Expr(made.kind, lambda env: env.aggregates[index], made.name)


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
        unsupported(name, "age with one argument")
    return operators.arithmetic("-", arguments[0], arguments[1])._replace(name=name)


_SPECIAL: dict[str, Callable[[list[Expr], str], Expr]] = {
    "set_config": _set_config,
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


def constant(kind: SqlType, value: Any) -> Expr:
    """A literal."""
    return Expr(kind, lambda _: value, constant=True)


def inverted(expr: Expr) -> Expr:
    """``not``."""
    inner = expr.value

    def value(env: Env) -> bool | None:
        answer = inner(env)
        return None if answer is None else not answer

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


def name_of(identifier: exp.Expression) -> str:
    """An identifier as Postgres folds it: lower case unless quoted."""
    name = identifier.name
    return name if identifier.args.get("quoted") else name.lower()


def unwrapped(node: exp.Expression) -> exp.Expression:
    """The query inside brackets."""
    while isinstance(node, exp.Subquery | exp.Paren):
        node = node.this
    return node


def type_of(node: exp.Expression) -> SqlType:
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


Method = Callable[[Compiler, Any], Expr]
_METHODS: dict[type, Method] = {
    exp.Literal: Compiler.literal,
    exp.Column: Compiler.column,
    exp.Null: Compiler.null,
    exp.Boolean: Compiler.truth,
    exp.Paren: Compiler.paren,
    exp.ByteString: Compiler.escaped,
    exp.Parameter: Compiler.parameter,
    exp.And: Compiler.both,
    exp.Or: Compiler.either,
    exp.Not: Compiler.negation,
    exp.Is: Compiler.is_,
    exp.Between: Compiler.between,
    exp.In: Compiler.in_,
    exp.Exists: Compiler.exists,
    exp.Subquery: Compiler.scalar_query,
    exp.Case: Compiler.case,
    exp.Neg: Compiler.minus,
    exp.DPipe: Compiler.concatenation,
    exp.NullSafeEQ: Compiler.distinct,
    exp.NullSafeNEQ: Compiler.distinct,
    exp.Like: Compiler.like,
    exp.ILike: Compiler.like,
    exp.RegexpLike: Compiler.matches,
    exp.RegexpILike: Compiler.matches,
    exp.JSONExtract: Compiler.json_member,
    exp.JSONExtractScalar: Compiler.json_member,
    exp.JSONBExtract: Compiler.json_path,
    exp.JSONBExtractScalar: Compiler.json_path,
    exp.JSONBContains: Compiler.has_key,
    exp.ArrayContainsAll: Compiler.contains,
    exp.Cast: Compiler.cast,
    exp.Interval: Compiler.interval,
    exp.Array: Compiler.array,
    exp.Bracket: Compiler.bracket,
    exp.AtTimeZone: Compiler.at_time_zone,
    exp.Substring: Compiler.substring,
    exp.Trim: Compiler.trim,
    exp.StrPosition: Compiler.position,
    exp.SplitPart: Compiler.split_part,
    exp.StartsWith: Compiler.starts_with,
    exp.Coalesce: Compiler.coalesce,
    exp.Nullif: Compiler.nullif,
    exp.Greatest: Compiler.extreme,
    exp.Least: Compiler.extreme,
    exp.Extract: Compiler.extract,
    exp.TimestampTrunc: Compiler.date_trunc,
    exp.Concat: Compiler.concat,
    exp.Dot: Compiler.dotted,
    exp.Anonymous: Compiler.anonymous,
    exp.AggFunc: Compiler.aggregate,
    exp.Filter: Compiler.aggregate,
    exp.WithinGroup: Compiler.aggregate,
    **dict.fromkeys(_COMPARISONS, Compiler.comparison),
    **dict.fromkeys(_ARITHMETIC, Compiler.arithmetic),
    **dict.fromkeys(_NAMED, Compiler.named),
    **dict.fromkeys(_ROUNDING, Compiler.rounding),
}
for _class, _method in (
    ("JSONBContainsTopKey", Compiler.has_key),
    ("MakeInterval", Compiler.make_interval),
    ("Format", Compiler.format_text),
    ("Replace", Compiler.replace),
    ("Explode", Compiler.unnest),
    ("Unnest", Compiler.unnest),
):
    if hasattr(exp, _class):
        _METHODS[getattr(exp, _class)] = _method
