"""``extract`` and ``date_part``: the fields of times and intervals."""

from __future__ import annotations

from decimal import Decimal

from absurd_contimg.backends.memory.errors import EngineError, unsupported
from absurd_contimg.backends.memory.session_state import SessionState as Session
from absurd_contimg.backends.memory.sql.coercion import converted
from absurd_contimg.backends.memory.sql.registry import (
    ambiguous_function,
    anything,
    polymorphic,
    textual,
    undefined_function,
)
from absurd_contimg.backends.memory.sql.scope import Env, Expr
from absurd_contimg.backends.memory.sql.types import (
    DATE,
    FLOAT8,
    INTERVAL,
    NUMERIC,
    TEXT,
    TIMESTAMP,
    TIMESTAMPTZ,
    UNKNOWN,
)
from absurd_contimg.backends.memory.values import dates, numerics, times
from absurd_contimg.backends.memory.values.times import Interval

_EPOCH_UNITS = {
    "year": "year", "years": "year", "y": "year", "month": "month", "months": "month",
    "mon": "month", "day": "day", "days": "day", "d": "day", "hour": "hour", "hours": "hour",
    "h": "hour", "minute": "minute", "minutes": "minute", "min": "minute", "m": "minute",
    "second": "second", "seconds": "second", "sec": "second", "s": "second", "weeks": "week",
    "w": "week", "quarters": "quarter", "decades": "decade", "centuries": "century",
}  # fmt: skip


def unit_of(word: str) -> str:
    """A field by any of its names."""
    lower = word.lower()
    return _EPOCH_UNITS.get(lower, lower)


def extract(field: str, expr: Expr, *, name: str = "extract") -> Expr:
    """``extract(field from time or interval)``, a numeric; ``date_part`` gives a float."""
    if expr.kind is UNKNOWN:
        raise ambiguous_function(f"pg_catalog.{name}", [UNKNOWN, UNKNOWN])
    kind, inner, unit = expr.kind, expr.value, unit_of(field)
    if kind not in (TIMESTAMPTZ, TIMESTAMP, DATE, INTERVAL):
        raise undefined_function(f"pg_catalog.{name}", [UNKNOWN, kind])

    def value(env: Env) -> Decimal | None:
        raw = inner(env)
        if raw is None:
            return None
        if kind is INTERVAL:
            return _interval_field(unit, raw, field)
        if kind is DATE:
            if unit in ("hour", "minute", "second", "milliseconds", "microseconds", "timezone"):
                raise EngineError("0A000", f'unit "{field}" not supported for type date')
            raw = dates.to_local(raw)
        session = env.session if kind is TIMESTAMPTZ else None
        found = _time_field(unit, raw, session, field, kind.shown)
        if kind is DATE and unit in ("epoch", "julian") and found is not None and found.is_finite():
            return Decimal(int(found))
        return found

    return Expr(NUMERIC, value, name)


@polymorphic("date_part", takes=(textual, anything))
def _date_part(arguments: list[Expr], name: str) -> Expr:
    if arguments[1].kind is UNKNOWN:
        raise ambiguous_function(name, [item.kind for item in arguments])
    word, expr = converted(arguments[0], TEXT).value, arguments[1]

    def value(env: Env) -> float | None:
        field = word(env)
        if field is None:
            return None
        found = extract(field, expr).value(env)
        return None if found is None else float(found)

    if expr.kind not in (TIMESTAMPTZ, TIMESTAMP, DATE, INTERVAL):
        raise undefined_function(name, [item.kind for item in arguments])
    if expr.kind is DATE:
        expr = converted(expr, TIMESTAMP)
    return Expr(FLOAT8, value, name)


_JULIAN_OF_1970 = 2_440_588


def _seconds(us: int) -> Decimal:
    return Decimal(us).scaleb(-6)


def _interval_field(unit: str, span: Interval, field: str) -> Decimal | None:
    if unit in ("dow", "doy", "isodow", "isoyear", "julian", "timezone"):
        raise EngineError("0A000", f'unit "{field}" not supported for type interval')
    if span.is_infinite:
        if unit in ("epoch", "year", "decade", "century", "millennium", "day", "hour"):
            return Decimal("Infinity" if span == times.INFINITE else "-Infinity")
        return None
    if unit == "epoch":
        return _seconds(span.epoch_us())
    years = int(span.months / 12)
    seconds = abs(span.us) // times.SECOND_US
    sign = 1 if span.us >= 0 else -1
    whole = {
        "year": years,
        "decade": int(years / 10),
        "century": int(years / 100),
        "millennium": int(years / 1000),
        "month": span.months - 12 * years,
        "quarter": (span.months - 12 * years) // 3 + 1
        if span.months >= 0
        else -(-(span.months - 12 * years) // 3 + 1),
        "week": int(span.days / 7),
        "day": span.days,
        "hour": sign * (seconds // 3600),
        "minute": sign * (seconds // 60 % 60),
        "microseconds": sign * (abs(span.us) % (60 * times.SECOND_US)),
    }
    if unit in whole:
        return Decimal(whole[unit])
    part = sign * (abs(span.us) % (60 * times.SECOND_US))
    if unit == "second":
        return _seconds(part)
    if unit == "milliseconds":
        return Decimal(part).scaleb(-3)
    raise EngineError("22023", f'unit "{field}" not recognized for type interval')


def _time_field(  # noqa: PLR0911 - one return a kind of field
    unit: str, time: int, session: Session | None, field: str, shown: str
) -> Decimal | None:
    if not times.is_finite(time):
        lasting = ("epoch", "year", "isoyear", "decade", "century", "millennium", "julian")
        return Decimal("Infinity" if time > 0 else "-Infinity") if unit in lasting else None
    if unit == "epoch":
        return _seconds(time)
    offset = 0 if session is None else times.utc_offset_us(time, session.zone)
    day, of_day = divmod(time + offset, times.DAY_US)
    year, month, dom = times.civil_from_days(day)
    iso_year, week = times.iso_week(day)
    if year <= 0 and unit in ("year", "decade", "century", "millennium", "isoyear"):
        raise unsupported(field, "years before Christ in extract")
    fields = {
        "year": year, "month": month, "day": dom, "hour": of_day // 3_600_000_000,
        "minute": of_day // 60_000_000 % 60, "isoyear": iso_year, "week": week,
        "dow": (day + 4) % 7, "isodow": (day + 3) % 7 + 1, "quarter": (month - 1) // 3 + 1,
        "doy": day - times.days_from_civil(year, 1, 1) + 1,
        "microseconds": of_day % 60_000_000, "decade": year // 10,
        "century": (year + 99) // 100, "millennium": (year + 999) // 1000,
    }  # fmt: skip
    if unit == "second":
        return _seconds(of_day % 60_000_000)
    if unit == "milliseconds":
        return Decimal(of_day % 60_000_000).scaleb(-3)
    if unit == "julian":
        part = numerics.divide(Decimal(of_day), Decimal(times.DAY_US))
        return numerics.add(Decimal(day + _JULIAN_OF_1970), part)
    if unit in ("timezone", "timezone_hour", "timezone_minute"):
        return _zone_field(unit, offset, session, field, shown)
    if unit not in fields:
        raise EngineError("22023", f'unit "{field}" not recognized for type {shown}')
    return Decimal(fields[unit])


def _zone_field(unit: str, offset: int, session: Session | None, field: str, shown: str) -> Decimal:
    if session is None:
        raise EngineError("0A000", f'unit "{field}" not supported for type {shown}')
    seconds = offset // times.SECOND_US
    if unit == "timezone":
        return Decimal(seconds)
    sign = 1 if seconds >= 0 else -1
    return Decimal(
        sign * (abs(seconds) // 3600 if unit.endswith("hour") else abs(seconds) // 60 % 60)
    )
