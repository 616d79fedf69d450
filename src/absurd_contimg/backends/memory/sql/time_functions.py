"""Functions of times and intervals: clocks, ``extract(epoch)``, ``date_trunc``."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from absurd_contimg.backends.memory.errors import Unsupported
from absurd_contimg.backends.memory.session_state import SessionState
from absurd_contimg.backends.memory.sql.casts import converted
from absurd_contimg.backends.memory.sql.scope import Env, Evaluate, Expr
from absurd_contimg.backends.memory.values import intervals, times, types
from absurd_contimg.backends.memory.values.times import DAY_US, SECOND_US, Interval
from absurd_contimg.backends.memory.values.types import FLOAT8, INT4, INTERVAL, TIMESTAMPTZ

CLOCKS: dict[str, Callable[[SessionState], int]] = {
    "now": SessionState.transaction_time,
    "transaction_timestamp": SessionState.transaction_time,
    "current_timestamp": SessionState.transaction_time,
    "statement_timestamp": lambda session: session.clock,
    "clock_timestamp": lambda session: session.db.now(),
}


def extract(field: str, expr: Expr) -> Expr:
    """``extract(epoch from time or interval)``."""
    kind, inner = expr.kind, expr.value
    if kind not in (TIMESTAMPTZ, INTERVAL) or field != "epoch":
        raise Unsupported(f"extract({field} from {kind.shown})")

    def value(env: Env) -> Decimal | None:
        raw = inner(env)
        if raw is None:
            return None
        if raw.is_infinite if kind is INTERVAL else not times.is_finite(raw):
            is_positive = raw in (times.INFINITE, times.INFINITY)
            return Decimal("Infinity" if is_positive else "-Infinity")
        return Decimal(raw.epoch_us() if kind is INTERVAL else raw).scaleb(-6)

    return Expr(types.NUMERIC, value, "extract")


def date_trunc(arguments: list[Expr], name: str) -> Expr:
    """``date_trunc(unit, time)``, in the session's time zone."""
    kinds = [expr.kind for expr in arguments]
    if len(kinds) != 2 or kinds[0] not in types.STRINGS or kinds[1] is not TIMESTAMPTZ:
        raise Unsupported(f"{name}({', '.join(kind.shown for kind in kinds)})")
    word, inner = converted(arguments[0], types.TEXT).value, arguments[1].value

    def value(env: Env) -> int | None:
        unit, time = word(env), inner(env)
        if unit is None or time is None:
            return None
        zone = env.session.zone
        return times.from_local(_truncated(unit, time + times.utc_offset_us(time, zone)), zone)

    return Expr(TIMESTAMPTZ, value, name)


_SIZES = {"second": SECOND_US, "minute": 60 * SECOND_US, "hour": 3600 * SECOND_US, "day": DAY_US}


def _truncated(unit: str, local: int) -> int:
    """A local time at the start of its unit."""
    if not times.is_finite(local):
        raise Unsupported("date_trunc of infinity")
    if unit in _SIZES:
        return local - local % _SIZES[unit]
    day = local // DAY_US
    year, month, _ = times.civil_from_days(day)
    starts = {
        "week": day - (day + 3) % 7,
        "month": times.days_from_civil(year, month, 1),
        "year": times.days_from_civil(year, 1, 1),
    }
    if unit not in starts:
        raise Unsupported(f"date_trunc to {unit}")
    return starts[unit] * DAY_US


_INTERVAL_PARTS = ("years", "months", "weeks", "days", "hours", "mins", "secs")


def make_interval(arguments: list[Expr], names: list[str | None]) -> Expr:
    """``make_interval(days => 1)``."""
    placed: dict[str, Evaluate] = {}
    for expr, name in zip(arguments, names, strict=True):
        kind = FLOAT8 if name == "secs" else INT4
        takes = (types.UNKNOWN, *(types.NUMBERS if kind is FLOAT8 else types.NUMBERS[:2]))
        if name not in _INTERVAL_PARTS or name in placed or expr.kind not in takes:
            raise Unsupported("make_interval with these arguments")
        placed[name] = converted(expr, kind).value

    def value(env: Env) -> Interval | None:
        parts: dict[str, Any] = {name: evaluate(env) for name, evaluate in placed.items()}
        if None in parts.values():
            return None
        years, months, weeks, days, hours, mins, secs = (
            parts.get(name, 0) for name in _INTERVAL_PARTS
        )
        us = (hours * 3600 + mins * 60) * SECOND_US + times.seconds_us(secs)
        return intervals.checked(years * 12 + months, weeks * 7 + days, us)

    return Expr(INTERVAL, value, "make_interval")
