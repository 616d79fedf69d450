"""Functions that make times and intervals, and that tell ages and zones."""

from __future__ import annotations

import math
from datetime import UTC, tzinfo
from typing import Any

from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.session_state import SessionState as Session
from absurd_contimg.backends.memory.sql.casts import from_local, to_local
from absurd_contimg.backends.memory.sql.coercion import converted
from absurd_contimg.backends.memory.sql.registry import (
    ambiguous_function,
    builtin,
    polymorphic,
    undefined_function,
)
from absurd_contimg.backends.memory.sql.scope import Env, Expr
from absurd_contimg.backends.memory.sql.system_functions import today
from absurd_contimg.backends.memory.sql.time_truncation import zone_named
from absurd_contimg.backends.memory.sql.types import (
    BOOL,
    DATE,
    FLOAT8,
    INT2,
    INT4,
    INTERVAL,
    NUMBERS,
    STRINGS,
    TEXT,
    TIMESTAMP,
    TIMESTAMPTZ,
    UNKNOWN,
)
from absurd_contimg.backends.memory.values import dates, floats, times
from absurd_contimg.backends.memory.values import interval_arithmetic as spans
from absurd_contimg.backends.memory.values.times import Interval


@polymorphic("timezone")
def _timezone(arguments: list[Expr], name: str) -> Expr:
    """``timezone(zone, time)``, which is what ``time at time zone zone`` means."""
    if len(arguments) != 2:
        raise undefined_function(name, [item.kind for item in arguments])
    if arguments[0].kind not in STRINGS:
        raise undefined_function(f"pg_catalog.{name}", [item.kind for item in arguments])
    zone, inner = converted(arguments[0], TEXT).value, arguments[1]
    if inner.kind in (UNKNOWN, DATE):
        inner = converted(inner, TIMESTAMPTZ)
    if inner.kind not in (TIMESTAMPTZ, TIMESTAMP):
        raise undefined_function(f"pg_catalog.{name}", [item.kind for item in arguments])
    convert = to_local if inner.kind is TIMESTAMPTZ else from_local

    def value(env: Env) -> int | None:
        time, text = inner.value(env), zone(env)
        if time is None or text is None:
            return None
        return times.check_range(convert(time, zone_named(text)))

    return Expr(TIMESTAMP if inner.kind is TIMESTAMPTZ else TIMESTAMPTZ, value, name)


@polymorphic("age")
def _age(arguments: list[Expr], name: str) -> Expr:
    if len(arguments) not in (1, 2):
        raise undefined_function(name, [item.kind for item in arguments])
    kinds = {item.kind for item in arguments}
    zoned = bool(kinds & {TIMESTAMPTZ, DATE}) or kinds == {UNKNOWN}
    if kinds == {UNKNOWN} and len(arguments) == 1:  # it may be of a transaction too
        raise ambiguous_function(name, [UNKNOWN])
    kind = TIMESTAMPTZ if zoned else TIMESTAMP
    if any(item.kind not in (TIMESTAMPTZ, TIMESTAMP, DATE, UNKNOWN) for item in arguments):
        raise undefined_function(name, [item.kind for item in arguments])
    values = [converted(item, kind).value for item in arguments]

    def value(env: Env) -> Interval | None:
        zone = env.session.zone if zoned else UTC
        found = [one(env) for one in values]
        if len(found) == 1:
            midnight = today(env.session) * times.DAY_US
            found.insert(0, times.from_local(midnight, zone) if zoned else midnight)
        if None in found:
            return None
        return age(found[0], found[1], zone)

    return Expr(INTERVAL, value, name)


def age(later: int, earlier: int, zone: tzinfo) -> Interval:
    """The difference in years, months and days of the calendar."""
    if not (times.is_finite(later) and times.is_finite(earlier)):
        return times.subtract(later, earlier)
    sign, a, b = 1, later, earlier
    if later < earlier:
        sign, a, b = -1, earlier, later
    a += times.utc_offset_us(a, zone)
    b += times.utc_offset_us(b, zone)
    (day_a, us_a), (day_b, us_b) = divmod(a, times.DAY_US), divmod(b, times.DAY_US)
    year_a, month_a, dom_a = times.civil_from_days(day_a)
    year_b, month_b, dom_b = times.civil_from_days(day_b)
    us, days = us_a - us_b, dom_a - dom_b
    months = (year_a - year_b) * 12 + month_a - month_b
    if us < 0:
        us, days = us + times.DAY_US, days - 1
    if days < 0:
        days, months = days + times.days_in_month(year_b, month_b), months - 1
    return Interval(sign * months, sign * days, sign * us)


_SECONDS_TO_2000 = 946_684_800
_INTERVAL_PARTS = ("years", "months", "weeks", "days", "hours", "mins", "secs")


def make_interval(arguments: list[Expr], names: list[str | None]) -> Expr:
    """``make_interval``, which is called with names more often than not."""
    placed: dict[str, Expr] = {}
    for position, (expr, given) in enumerate(zip(arguments, names, strict=True)):
        name = _INTERVAL_PARTS[position] if given is None else given
        if name not in _INTERVAL_PARTS or name in placed:
            raise undefined_function("make_interval", [item.kind for item in arguments])
        placed[name] = expr
    if any(
        expr.kind not in ((*NUMBERS, UNKNOWN) if name == "secs" else (INT2, INT4, UNKNOWN))
        for name, expr in placed.items()
    ):
        raise undefined_function("make_interval", [item.kind for item in arguments], names)
    values = {
        name: converted(expr, FLOAT8 if name == "secs" else INT4).value
        for name, expr in placed.items()
    }

    def value(env: Env) -> Interval | None:
        found = {name: one(env) for name, one in values.items()}
        if None in found.values():
            return None
        seconds = found.get("secs", 0.0)
        if math.isfinite(seconds):
            floats.multiply(seconds, times.SECOND_US)  # whose overflow has an error of its own
        whole = found.get("hours", 0) * 3600 + found.get("mins", 0) * 60
        return spans.checked(
            found.get("years", 0) * 12 + found.get("months", 0),
            found.get("weeks", 0) * 7 + found.get("days", 0),
            whole * times.SECOND_US + times.seconds_us(seconds),
        )

    return Expr(INTERVAL, value, "make_interval")


def _make_date(_: Session, year: int, month: int, day: int) -> int:
    astronomical = year + 1 if year < 0 else year  # before Christ there was no year 0
    if not (year and 1 <= month <= 12 and 1 <= day <= times.days_in_month(astronomical, month)):
        raise EngineError("22008", f"date field value out of range: {year}-{month:02}-{day:02}")
    day_number = times.days_from_civil(astronomical, month, day)
    return dates.checked(day_number, f": {astronomical}-{month:02}-{day:02}")


def _make_time(
    session: Session, year: int, month: int, day: int, hour: int, minute: int, second: float
) -> int:
    days = _make_date(session, year, month, day)
    us = -1 if math.isnan(second) else round(second * times.SECOND_US)
    of_day = (hour * 60 + minute) * 60 * times.SECOND_US + us
    clock = f"{hour}:{minute:02}:{'NaN' if math.isnan(second) else f'{second:02g}'}"
    in_hour = 0 <= minute < 60 and 0 <= us <= 60 * times.SECOND_US
    if not (0 <= hour <= 24 and in_hour and of_day <= times.DAY_US):  # 24:00 and 60 seconds pass
        raise EngineError("22008", f"time field value out of range: {clock}")
    time = days * times.DAY_US + of_day
    if not times.MIN_TIME <= time < times.END_TIME:
        raise EngineError("22008", f"timestamp out of range: {year}-{month:02}-{day:02} {clock}")
    return time


def _make_timestamptz(session: Session, *parts: Any) -> int:
    zone = zone_named(parts[6]) if len(parts) == 7 else session.zone
    return times.from_local(_make_time(session, *parts[:6]), zone)


def _to_timestamp(_: Session, seconds: float) -> int:
    if math.isinf(seconds):
        return times.INFINITY if seconds > 0 else times.NEG_INFINITY
    if math.isnan(seconds):
        raise EngineError("22008", "timestamp cannot be NaN")
    if not times.MIN_TIME <= seconds * times.SECOND_US < times.END_TIME:
        raise EngineError("22008", f'timestamp out of range: "{seconds:g}"')
    since_2000 = round((seconds - _SECONDS_TO_2000) * times.SECOND_US)  # where Postgres counts from
    return times.check_range(since_2000 + _SECONDS_TO_2000 * times.SECOND_US)


builtin("make_date", (INT4, INT4, INT4), DATE, _make_date)
_PARTS = (INT4, INT4, INT4, INT4, INT4, FLOAT8)
builtin("make_timestamp", _PARTS, TIMESTAMP, _make_time)
builtin("make_timestamptz", (*_PARTS, TEXT), TIMESTAMPTZ, _make_timestamptz, 1)
for _name, _hours, _days in (
    ("justify_hours", True, False),
    ("justify_days", False, True),
    ("justify_interval", True, True),
):
    builtin(
        _name,
        (INTERVAL,),
        INTERVAL,
        lambda _, a, hours=_hours, days=_days: spans.justify(a, hours=hours, days=days),
    )
builtin("isfinite", (TIMESTAMPTZ,), BOOL, lambda _, a: times.is_finite(a))
builtin("isfinite", (TIMESTAMP,), BOOL, lambda _, a: times.is_finite(a))
builtin("isfinite", (INTERVAL,), BOOL, lambda _, a: not a.is_infinite)
builtin("isfinite", (DATE,), BOOL, lambda _, a: dates.is_finite(a))
builtin("to_timestamp", (FLOAT8,), TIMESTAMPTZ, _to_timestamp)
builtin("clock_timestamp", (), TIMESTAMPTZ, lambda s: s.db.now())
builtin("statement_timestamp", (), TIMESTAMPTZ, lambda s: s.clock)
for _name in ("now", "transaction_timestamp", "current_timestamp"):
    builtin(_name, (), TIMESTAMPTZ, lambda s: s.transaction_time())
builtin("localtimestamp", (), TIMESTAMP, lambda s: to_local(s.transaction_time(), s.zone))
builtin("current_date", (), DATE, today)
