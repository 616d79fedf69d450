"""``extract`` and ``date_trunc``."""

from __future__ import annotations

from datetime import UTC
from decimal import Decimal

from absurd_contimg.backends.memory import times
from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.session import Session
from absurd_contimg.backends.memory.sql.functions import undefined_function
from absurd_contimg.backends.memory.sql.operators import converted
from absurd_contimg.backends.memory.sql.scope import Env, Expr
from absurd_contimg.backends.memory.sql.types import (
    DATE,
    INTERVAL,
    NUMERIC,
    STRINGS,
    TEXT,
    TIMESTAMP,
    TIMESTAMPTZ,
)


def extract(field: str, expr: Expr) -> Expr:
    """``extract(field from time or interval)``, a numeric."""
    inner, kind = expr.value, expr.kind
    if kind in STRINGS:
        inner, kind = converted(expr, TIMESTAMPTZ).value, TIMESTAMPTZ
    if kind not in (TIMESTAMPTZ, TIMESTAMP, DATE, INTERVAL):
        raise undefined_function("pg_catalog.extract", [TEXT, kind])

    def value(env: Env) -> Decimal | None:
        raw = inner(env)
        if raw is None:
            return None
        if kind is INTERVAL:
            return _interval_field(field, raw)
        if kind is DATE:
            raw *= times.DAY_US
        return _time_field(field, raw, env.session if kind is TIMESTAMPTZ else None)

    return Expr(NUMERIC, value, "extract")


def _seconds(us: int) -> Decimal:
    return Decimal(us).scaleb(-6)


def _interval_field(field: str, span: times.Interval) -> Decimal | None:
    if field == "epoch":
        if span.is_infinite:
            return Decimal("Infinity" if span == times.INFINITE else "-Infinity")
        return _seconds(span.epoch_us())
    years = int(span.months / 12)
    seconds = abs(span.us) // times.SECOND_US
    sign = 1 if span.us >= 0 else -1
    whole = {
        "year": years,
        "month": span.months - 12 * years,
        "day": span.days,
        "hour": sign * (seconds // 3600),
        "minute": sign * (seconds // 60 % 60),
    }
    if field in whole:
        return Decimal(whole[field])
    if field == "second":
        return _seconds(sign * (abs(span.us) % (60 * times.SECOND_US)))
    raise EngineError("22023", f'unit "{field}" not recognized for type interval')


def _time_field(field: str, time: int, session: Session | None) -> Decimal | None:
    if not times.is_finite(time):
        if field in ("epoch", "year", "isoyear", "decade", "century", "millennium"):
            return Decimal("Infinity" if time > 0 else "-Infinity")
        return None
    if field == "epoch":
        return _seconds(time)
    local = time if session is None else time + times.utc_offset_us(time, session.zone)
    day, of_day = divmod(local, times.DAY_US)
    year, month, dom = times.civil_from_days(day)
    iso_year, week = times.iso_week(day)
    fields = {
        "year": year, "month": month, "day": dom, "hour": of_day // 3_600_000_000,
        "minute": of_day // 60_000_000 % 60, "isoyear": iso_year, "week": week,
        "dow": (day + 4) % 7, "isodow": (day + 3) % 7 + 1, "quarter": (month - 1) // 3 + 1,
        "doy": day - times.days_from_civil(year, 1, 1) + 1,
        "microseconds": of_day % 60_000_000,
    }  # fmt: skip
    if field == "second":
        return _seconds(of_day % 60_000_000)
    if field == "milliseconds":
        return Decimal(of_day % 60_000_000).scaleb(-3)
    if field not in fields:
        raise EngineError(
            "22023", f'unit "{field}" not recognized for type timestamp with time zone'
        )
    return Decimal(fields[field])


_UNITS_US = {
    "microseconds": 1,
    "milliseconds": 1000,
    "second": times.SECOND_US,
    "minute": 60 * times.SECOND_US,
    "hour": 3600 * times.SECOND_US,
}


def date_trunc(unit: str, expr: Expr) -> Expr:
    """``date_trunc(unit, time)``, in the session's time zone for ``timestamptz``."""
    if expr.kind in STRINGS or expr.kind is DATE:
        expr = converted(expr, TIMESTAMPTZ)
    inner, kind = expr.value, expr.kind

    def value(env: Env) -> int | None:
        raw = inner(env)
        if raw is None or not times.is_finite(raw):
            return None if raw is None else int(raw)
        zone = env.session.zone if kind is TIMESTAMPTZ else UTC
        local = raw + times.utc_offset_us(raw, zone)
        return times.from_local(truncated(unit, local), zone)

    return Expr(kind, value, "date_trunc")


def truncated(unit: str, local: int) -> int:
    """A local time at the start of its `unit`."""
    unit = unit.rstrip("s") if unit.rstrip("s") in {"second", "minute", "hour", "day"} else unit
    if unit in _UNITS_US:
        return local - local % _UNITS_US[unit]
    day = local // times.DAY_US
    year, month, _ = times.civil_from_days(day)
    starts = {
        "day": day,
        "week": day - (day + 3) % 7,
        "month": times.days_from_civil(year, month, 1),
        "quarter": times.days_from_civil(year, (month - 1) // 3 * 3 + 1, 1),
        "year": times.days_from_civil(year, 1, 1),
    }
    if unit not in starts:
        raise EngineError(
            "22023", f'unit "{unit}" not recognized for type timestamp with time zone'
        )
    return starts[unit] * times.DAY_US
