"""Operators: which types they take, and what they give."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from datetime import UTC
from decimal import ROUND_HALF_UP, Decimal, localcontext
from typing import Any

from absurd_contimg.backends.memory import jsonb, times
from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.session import Session
from absurd_contimg.backends.memory.sql.scope import Env, Evaluate, Expr
from absurd_contimg.backends.memory.sql.types import (
    BOOL,
    DATE,
    FLOAT8,
    INT4,
    INTEGERS,
    INTERVAL,
    JSONB,
    NUMBERS,
    NUMERIC,
    STRINGS,
    TEXT,
    TIMESTAMP,
    TIMESTAMPTZ,
    UNKNOWN,
    ArrayType,
    SqlType,
    cast_function,
    checked_number,
)
from absurd_contimg.backends.memory.times import Interval

_TIMES = (DATE, TIMESTAMP, TIMESTAMPTZ)


def undefined_operator(symbol: str, left: SqlType, right: SqlType) -> EngineError:
    """42883."""
    return EngineError(
        "42883",
        f"operator does not exist: {left.shown} {symbol} {right.shown}",
        hint="No operator matches the given name and argument types. You might need to add "
        "explicit type casts.",
    )


def converted(expr: Expr, target: SqlType) -> Expr:
    """The expression cast to `target`; a constant is cast only once."""
    if expr.kind is target:
        return expr
    cast = cast_function(expr.kind, target)
    if cast is None:
        raise EngineError("42846", f"cannot cast type {expr.kind.shown} to {target.shown}")
    inner = expr.value

    def value(env: Env) -> Any:
        raw = inner(env)
        return None if raw is None else cast(raw, env.session)

    return Expr(target, value, expr.name, expr.constant)


def common_type(kinds: list[SqlType], where: str) -> SqlType:
    """The type that ``case``, ``coalesce``, ``union`` and the like settle on."""
    known = [kind for kind in kinds if kind is not UNKNOWN]
    if not known:
        return TEXT
    chosen = known[0]
    for kind in known[1:]:
        if kind is chosen:
            continue
        if kind in NUMBERS and chosen in NUMBERS:
            chosen = max(kind, chosen, key=NUMBERS.index)
        elif kind in STRINGS and chosen in STRINGS:
            chosen = TEXT
        elif kind in _TIMES and chosen in _TIMES:
            chosen = max(kind, chosen, key=_TIMES.index)
        else:
            raise EngineError(
                "42804", f"{where} types {chosen.shown} and {kind.shown} cannot be matched"
            )
    return chosen


def unified(left: Expr, right: Expr, symbol: str) -> tuple[Expr, Expr, SqlType]:
    """Both sides in one type, for a comparison."""
    one, other = left.kind, right.kind
    if one is other:
        kind = TEXT if one is UNKNOWN else one
    elif one is UNKNOWN or other is UNKNOWN:
        kind = other if one is UNKNOWN else one
    else:
        try:
            kind = common_type([one, other], "")
        except EngineError:
            raise undefined_operator(symbol, one, other) from None
    return converted(left, kind), converted(right, kind), kind


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def sort_key(kind: SqlType, value: Any) -> Any:
    """What orders values of a type."""
    if kind is INTERVAL:
        return value.span()
    if kind is JSONB:
        return jsonb_key(value)
    if kind in (FLOAT8, NUMERIC) and value != value:  # noqa: PLR0124 - NaN sorts last
        return math.inf
    if isinstance(kind, ArrayType):
        return [
            (item is None, None if item is None else sort_key(kind.element, item)) for item in value
        ]
    return value


_JSON_ORDER = {"null": 0, "string": 1, "number": 2, "boolean": 3, "array": 4, "object": 5}


def jsonb_key(text: str) -> Any:
    """jsonb's order: by kind, then by number of members, then by their values."""
    kind = jsonb.kind(text)
    rank = _JSON_ORDER[kind]
    if kind == "number":
        return (rank, Decimal(text))
    if kind == "string":
        return (rank, jsonb.loads(text))
    if kind == "boolean":
        return (rank, text == "true")
    if kind == "array":
        items = [jsonb.dumps(item) for item in jsonb.loads(text)]
        return (rank, len(items), [jsonb_key(item) for item in items])
    if kind == "object":
        members = jsonb.loads(text)
        pairs = [(key, jsonb_key(jsonb.dumps(value))) for key, value in members.items()]
        return (rank, len(pairs), pairs)
    return (rank,)


def comparison(symbol: str, left: Expr, right: Expr) -> Expr:
    """``=``, ``<>``, ``<`` and so on."""
    one, other, kind = unified(left, right, symbol)
    compare = _COMPARE[symbol]
    first, second = one.value, other.value
    plain = kind not in (INTERVAL, JSONB, NUMERIC, FLOAT8) and not isinstance(kind, ArrayType)

    def value(env: Env) -> bool | None:
        a = first(env)
        if a is None:
            return None
        b = second(env)
        if b is None:
            return None
        if plain:
            return compare(a, b)
        return compare(sort_key(kind, a), sort_key(kind, b))

    return Expr(BOOL, value)


def distinct_from(left: Expr, right: Expr, *, negate: bool) -> Expr:
    """``is distinct from`` and, with `negate`, ``is not distinct from``."""
    one, other, kind = unified(left, right, "=")
    first, second = one.value, other.value

    def value(env: Env) -> bool:
        a, b = first(env), second(env)
        if a is None or b is None:
            same = a is None and b is None
        else:
            same = sort_key(kind, a) == sort_key(kind, b)
        return same if negate else not same

    return Expr(BOOL, value)


# -- arithmetic ---------------------------------------------------------------------------------

Binary = Callable[[Any, Any, Session], Any]


def _strict(kind: SqlType, left: Evaluate, right: Evaluate, work: Binary) -> Expr:
    def value(env: Env) -> Any:
        a = left(env)
        if a is None:
            return None
        b = right(env)
        return None if b is None else work(a, b, env.session)

    return Expr(kind, value)


def arithmetic(symbol: str, left: Expr, right: Expr) -> Expr:
    """``+ - * / % ^``."""
    left, right = _guess(symbol, left, right)
    one, other = left.kind, right.kind
    if one in NUMBERS and other in NUMBERS:
        return _number_arithmetic(symbol, left, right)
    work = _time_arithmetic(symbol, one, other)
    if work is None:
        raise undefined_operator(symbol, one, other)
    kind, function = work
    return _strict(kind, left.value, right.value, function)


def _guess(symbol: str, left: Expr, right: Expr) -> tuple[Expr, Expr]:
    """A literal of unknown type is taken for what the other side suggests."""
    if left.kind is UNKNOWN and right.kind is not UNKNOWN:
        left = converted(left, right.kind)
    elif right.kind is UNKNOWN and left.kind is not UNKNOWN:
        guess = INTERVAL if left.kind in _TIMES and symbol == "+" else left.kind
        right = converted(right, guess)
    return left, right


def _number_arithmetic(symbol: str, left: Expr, right: Expr) -> Expr:
    kind = max(left.kind, right.kind, key=NUMBERS.index)
    if symbol == "^":
        kind = NUMERIC if kind is NUMERIC else FLOAT8
    one, other = converted(left, kind), converted(right, kind)

    def work(a: Any, b: Any, _: Session) -> Any:
        if symbol in ("/", "%") and b == 0:
            raise EngineError("22012", "division by zero")
        if kind in INTEGERS:
            return checked_number(_integer_arithmetic(symbol, a, b), kind)
        if kind is FLOAT8:
            return _float_arithmetic(symbol, a, b)
        return _numeric_arithmetic(symbol, a, b)

    return _strict(kind, one.value, other.value, work)


def _integer_arithmetic(symbol: str, a: int, b: int) -> int:
    if symbol == "+":
        return a + b
    if symbol == "-":
        return a - b
    if symbol == "*":
        return a * b
    quotient = abs(a) // abs(b) * (1 if (a >= 0) == (b >= 0) else -1)
    return quotient if symbol == "/" else a - quotient * b


def _float_arithmetic(symbol: str, a: float, b: float) -> float:
    try:
        value = {
            "+": lambda: a + b,
            "-": lambda: a - b,
            "*": lambda: a * b,
            "/": lambda: a / b,
            "%": lambda: math.fmod(a, b),
            "^": lambda: math.pow(a, b),
        }[symbol]()
    except OverflowError:
        value = math.inf
    if math.isinf(value) and not (math.isinf(a) or math.isinf(b)):
        raise EngineError("22003", "value out of range: overflow")
    return value


def _numeric_arithmetic(symbol: str, a: Decimal, b: Decimal) -> Decimal:
    with localcontext() as context:
        context.prec = 400
        if symbol == "+":
            return a + b
        if symbol == "-":
            return a - b
        if symbol == "*":
            return a * b
        if symbol == "%":
            return a % b
        if symbol == "^":
            return a**b
        return divide_numeric(a, b)


def divide_numeric(a: Decimal, b: Decimal) -> Decimal:
    """``numeric / numeric``, to as many digits as Postgres gives."""
    with localcontext() as context:
        context.prec = 1200
        return (a / b).quantize(Decimal(1).scaleb(-_division_scale(a, b)), ROUND_HALF_UP)


def _division_scale(a: Decimal, b: Decimal) -> int:
    """Digits after the point of a quotient: 16 significant (numeric.c, select_div_scale)."""

    def weight_and_first(value: Decimal) -> tuple[int, int]:
        if not value:
            return 0, 0
        weight = value.adjusted() // 4
        return weight, int(abs(value).scaleb(-4 * weight))

    weight_a, first_a = weight_and_first(a)
    weight_b, first_b = weight_and_first(b)
    quotient_weight = weight_a - weight_b - (1 if first_a <= first_b else 0)
    scales = [max(0, -int(value.as_tuple().exponent)) for value in (a, b)]
    return min(max(16 - quotient_weight * 4, *scales, 0), 1000)


def _time_arithmetic(symbol: str, one: SqlType, other: SqlType) -> tuple[SqlType, Binary] | None:  # noqa: PLR0911 - one return a pair of types
    if one in (TIMESTAMPTZ, TIMESTAMP) and other is INTERVAL and symbol in "+-":
        return one, _add_to_time(one, subtract=symbol == "-")
    if one is INTERVAL and other in (TIMESTAMPTZ, TIMESTAMP) and symbol == "+":
        add = _add_to_time(other, subtract=False)
        return other, lambda a, b, session: add(b, a, session)
    if one is DATE and other is INTERVAL and symbol in "+-":
        add = _add_to_time(TIMESTAMP, subtract=symbol == "-")
        return TIMESTAMP, lambda a, b, session: add(a * times.DAY_US, b, session)
    if one is DATE and other in INTEGERS and symbol in "+-":
        sign = 1 if symbol == "+" else -1
        return DATE, lambda a, b, _: a + sign * b
    if one is DATE and other is DATE and symbol == "-":
        return INT4, lambda a, b, _: a - b
    if one in (TIMESTAMPTZ, TIMESTAMP) and other is one and symbol == "-":
        return INTERVAL, lambda a, b, _: times.subtract(a, b)
    if one is INTERVAL and other is INTERVAL and symbol in "+-":
        return INTERVAL, lambda a, b, _: _add_intervals(a, b if symbol == "+" else times.negate(b))
    if one is INTERVAL and other in NUMBERS and symbol in "*/":
        return INTERVAL, lambda a, b, _: scale_interval(a, float(b), divide=symbol == "/")
    if one in NUMBERS and other is INTERVAL and symbol == "*":
        return INTERVAL, lambda a, b, _: scale_interval(b, float(a))
    return None


def _add_to_time(kind: SqlType, *, subtract: bool) -> Binary:
    def add(time: int, span: Interval, session: Session) -> int:
        zone = session.zone if kind is TIMESTAMPTZ else UTC
        return times.add_interval(time, times.negate(span) if subtract else span, zone)

    return add


def _add_intervals(a: Interval, b: Interval) -> Interval:
    if a.is_infinite or b.is_infinite:
        if a.is_infinite and b.is_infinite and a != b:
            raise EngineError("22008", "interval out of range")
        return a if a.is_infinite else b
    return Interval(a.months + b.months, a.days + b.days, a.us + b.us)


def scale_interval(span: Interval, factor: float, *, divide: bool = False) -> Interval:
    """``interval * number``: fractions of months become days, of days time (timestamp.c)."""
    if divide:
        if factor == 0:
            raise EngineError("22012", "division by zero")
        factor = 1 / factor
    if span.is_infinite:
        return span if factor > 0 else times.negate(span)
    months = span.months * factor
    days = span.days * factor
    whole_months, whole_days = int(months), int(days)
    day_rest = (months - whole_months) * 30
    day_rest = round(day_rest, 6)
    rest = round((days - whole_days + day_rest - int(day_rest)) * 86_400, 6)
    whole_days += int(day_rest)
    if abs(rest) >= 86_400:
        whole_days += int(rest / 86_400)
        rest -= int(rest / 86_400) * 86_400
    return Interval(whole_months, whole_days, round(span.us * factor + rest * times.SECOND_US))


def negated(expr: Expr) -> Expr:
    """Unary minus."""
    if expr.kind is UNKNOWN:
        expr = converted(expr, FLOAT8)
    kind, inner = expr.kind, expr.value

    def value(env: Env) -> Any:
        raw = inner(env)
        if raw is None:
            return None
        if kind is INTERVAL:
            return times.negate(raw)
        return checked_number(-raw, kind) if kind in INTEGERS else -raw

    if kind not in NUMBERS and kind is not INTERVAL:
        raise EngineError(
            "42883",
            f"operator does not exist: - {kind.shown}",
            hint="No operator matches the given name and argument type. You might need to add "
            "an explicit type cast.",
        )
    return Expr(kind, value, "?column?", expr.constant)


# -- text and jsonb -----------------------------------------------------------------------------


def concatenated(left: Expr, right: Expr) -> Expr:
    """``||``."""
    if JSONB in (left.kind, right.kind):
        one, other = converted(left, JSONB), converted(right, JSONB)
        return _strict(JSONB, one.value, other.value, lambda a, b, _: join_json(a, b))
    if isinstance(left.kind, ArrayType) or isinstance(right.kind, ArrayType):
        return _array_concatenated(left, right)
    if left.kind not in STRINGS and right.kind not in STRINGS:
        raise undefined_operator("||", left.kind, right.kind)
    one, other = as_text(left), as_text(right)
    return _strict(TEXT, one.value, other.value, lambda a, b, _: a + b)


def _array_concatenated(left: Expr, right: Expr) -> Expr:
    kind = left.kind if isinstance(left.kind, ArrayType) else right.kind
    assert isinstance(kind, ArrayType)
    one, other = (
        side if isinstance(side.kind, ArrayType) else converted(side, kind.element)
        for side in (left, right)
    )

    def value(env: Env) -> Any:
        a, b = one.value(env), other.value(env)
        first = (a or []) if isinstance(one.kind, ArrayType) else [a]
        return [*first, *((b or []) if isinstance(other.kind, ArrayType) else [b])]

    return Expr(kind, value)


def as_text(expr: Expr) -> Expr:
    """The expression as text, by its type's output."""
    if expr.kind in STRINGS:
        return Expr(TEXT, expr.value, expr.name, expr.constant)
    inner, show = expr.value, expr.kind.show

    def value(env: Env) -> str | None:
        raw = inner(env)
        return None if raw is None else show(raw, env.session)

    return Expr(TEXT, value, expr.name, expr.constant)


def join_json(a: str, b: str) -> str:
    """``jsonb || jsonb``."""
    left, right = jsonb.tree(a), jsonb.tree(b)
    if isinstance(left, dict) and isinstance(right, dict):
        return jsonb.dumps({**left, **right})
    first = left if isinstance(left, list) else [left]
    return jsonb.dumps([*first, *(right if isinstance(right, list) else [right])])


def json_member(left: Expr, step: str | int, *, as_string: bool) -> Expr:
    """``->`` and ``->>`` with a constant key or index."""
    inner = left.value

    def value(env: Env) -> str | None:
        text = inner(env)
        if text is None:
            return None
        return json_step(text, step, as_string=as_string)

    return Expr(TEXT if as_string else JSONB, value)


def json_step(text: str, step: str | int, *, as_string: bool) -> str | None:
    """One step into a jsonb value; None where it leads nowhere."""
    tree = jsonb.tree(text)
    if isinstance(step, str):
        if not isinstance(tree, dict) or step not in tree:
            return None
        found = tree[step]
    else:
        if not isinstance(tree, list) or not -len(tree) <= step < len(tree):
            return None
        found = tree[step]
    return jsonb.as_text(found) if as_string else jsonb.dumps(found)


def json_path(left: Expr, right: Expr, *, as_string: bool) -> Expr:
    """``#>`` and ``#>>``."""

    def work(text: str, path: list[str | None], _: Session) -> str | None:
        current: str | None = text
        for position, step in enumerate(path):
            if current is None or step is None:
                return None
            last = as_string and position == len(path) - 1
            is_array = jsonb.kind(current) == "array"
            if is_array and not step.lstrip("-").isdigit():
                return None
            current = json_step(current, int(step) if is_array else step, as_string=last)
        if not path and as_string:
            return jsonb.as_text(jsonb.tree(text))
        return current

    from absurd_contimg.backends.memory.sql.types import ARRAYS  # noqa: PLC0415

    path = converted(right, ARRAYS["text"])
    return _strict(TEXT if as_string else JSONB, left.value, path.value, work)


def json_contains(a: str, b: str) -> bool:
    """``@>``."""
    return _contains(jsonb.tree(a), jsonb.tree(b), top=True)


def _contains(a: Any, b: Any, *, top: bool = False) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return all(key in a and _contains(a[key], item) for key, item in b.items())
    if isinstance(a, list) and isinstance(b, list):
        return all(any(_contains(mine, item) for mine in a) for item in b)
    if top and isinstance(a, list) and not isinstance(b, dict | list):
        return any(_contains(mine, b) for mine in a)
    return jsonb.equal(jsonb.dumps(a), jsonb.dumps(b))
