"""Functions of times and intervals."""

from __future__ import annotations

from datetime import UTC, tzinfo
from decimal import Decimal
from typing import Any

from absurd_contimg.backends.memory import times
from absurd_contimg.backends.memory.errors import EngineError, unsupported
from absurd_contimg.backends.memory.session import Session
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
from absurd_contimg.backends.memory.sql.types import (
    BOOL,
    DATE,
    FLOAT8,
    INT4,
    INTERVAL,
    NUMERIC,
    TEXT,
    TIMESTAMP,
    TIMESTAMPTZ,
    UNKNOWN,
)
from absurd_contimg.backends.memory.times import Interval
from absurd_contimg.backends.memory.zones import session_zone

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
            raw *= times.DAY_US
        session = env.session if kind is TIMESTAMPTZ else None
        found = _time_field(unit, raw, session, field, kind.shown)
        if kind is DATE and unit == "epoch" and found is not None:
            return Decimal(int(found))
        return found

    return Expr(NUMERIC, value, name)


@polymorphic("date_part")
def _date_part(arguments: list[Expr], name: str) -> Expr:
    if len(arguments) != 2:
        raise undefined_function(name, [item.kind for item in arguments])
    if arguments[1].kind is UNKNOWN:
        raise ambiguous_function(name, [UNKNOWN, UNKNOWN])
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


def _seconds(us: int) -> Decimal:
    return Decimal(us).scaleb(-6)


def _interval_field(unit: str, span: Interval, field: str) -> Decimal | None:
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
    known = ("dow", "doy", "isodow", "isoyear", "julian", "timezone")
    word, state = ("supported", "0A000") if unit in known else ("recognized", "22023")
    raise EngineError(state, f'unit "{field}" not {word} for type interval')


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
        if of_day:
            raise unsupported(field, "julian days with a time")
        return Decimal(day + 2_440_588)
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


# -- truncation ---------------------------------------------------------------------------------

_UNITS_US = {
    "microseconds": 1,
    "milliseconds": 1000,
    "second": times.SECOND_US,
    "minute": 60 * times.SECOND_US,
    "hour": 3600 * times.SECOND_US,
}


@polymorphic("date_trunc")
def _date_trunc(arguments: list[Expr], name: str) -> Expr:
    """``date_trunc(unit, time)``, in the session's time zone for ``timestamptz``."""
    if not 2 <= len(arguments) <= 3:
        raise undefined_function(name, [item.kind for item in arguments])
    word, expr = converted(arguments[0], TEXT).value, arguments[1]
    given = None if len(arguments) == 2 else converted(arguments[2], TEXT).value
    if expr.kind is UNKNOWN and given is None:
        raise ambiguous_function(name, [item.kind for item in arguments])
    if expr.kind in (DATE, UNKNOWN) or (given is not None and expr.kind is TIMESTAMP):
        expr = converted(expr, TIMESTAMPTZ)
    kind, inner = expr.kind, expr.value
    if kind not in (TIMESTAMPTZ, TIMESTAMP, INTERVAL) or (given and kind is INTERVAL):
        raise undefined_function(name, [item.kind for item in arguments])

    def value(env: Env) -> Any:
        raw, unit = inner(env), word(env)
        if raw is None or unit is None:
            return None
        if kind is INTERVAL:
            return _truncated_interval(unit_of(unit), raw, unit)
        zone: tzinfo = env.session.zone if kind is TIMESTAMPTZ else UTC
        if given is not None:
            text = given(env)
            if text is None:
                return None
            zone = _zone(text)
        local = raw + times.utc_offset_us(raw, zone) if times.is_finite(raw) else 0
        cut = truncated(unit_of(unit), local, unit, kind.shown)
        return times.from_local(cut, zone) if times.is_finite(raw) else raw

    return Expr(kind, value, name)


def truncated(unit: str, local: int, word: str, shown: str) -> int:
    """A local time at the start of its `unit`."""
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
        "decade": times.days_from_civil(year // 10 * 10, 1, 1),
        "century": times.days_from_civil((year - 1) // 100 * 100 + 1, 1, 1),
        "millennium": times.days_from_civil((year - 1) // 1000 * 1000 + 1, 1, 1),
    }
    if unit not in starts:
        known = ("epoch", "dow", "doy", "isodow", "isoyear", "julian", "timezone")
        state, word_of = ("0A000", "supported") if unit in known else ("22023", "recognized")
        raise EngineError(state, f'unit "{word}" not {word_of} for type {shown}')
    if year <= 0 and unit in ("decade", "century", "millennium"):
        raise unsupported(word, "years before Christ in date_trunc")
    return starts[unit] * times.DAY_US


@polymorphic("date_bin")
def _date_bin(arguments: list[Expr], name: str) -> Expr:
    """``date_bin(stride, time, origin)``: the start of the time's bin."""
    kinds = [item.kind for item in arguments]
    if len(kinds) != 3 or kinds[0] not in (INTERVAL, UNKNOWN):
        raise undefined_function(name, kinds)
    kind = TIMESTAMP if set(kinds[1:]) <= {TIMESTAMP, UNKNOWN} else TIMESTAMPTZ
    if set(kinds[1:]) == {UNKNOWN}:
        raise ambiguous_function(name, kinds)
    if not all(item in (kind, TIMESTAMP, DATE, UNKNOWN) for item in kinds[1:]):
        raise undefined_function(name, kinds)
    stride = converted(arguments[0], INTERVAL).value
    source, origin = (converted(item, kind).value for item in arguments[1:])

    def value(env: Env) -> Any:
        step, time, start = stride(env), source(env), origin(env)
        if step is None or time is None or start is None:
            return None
        if not times.is_finite(time):
            return time
        if not times.is_finite(start):
            raise EngineError("22008", "origin out of range")
        if step.is_infinite:
            raise EngineError("22008", "timestamps cannot be binned into infinite intervals")
        if step.months:
            raise EngineError(
                "0A000",
                "timestamps cannot be binned into intervals containing months or years",
            )
        size = step.days * times.DAY_US + step.us
        if size <= 0:
            raise EngineError("22008", "stride must be greater than zero")
        return start + (time - start) // size * size

    return Expr(kind, value, name)


def _truncated_interval(unit: str, span: Interval, word: str) -> Interval:
    if span.is_infinite:
        return span
    if unit in _UNITS_US:
        size = _UNITS_US[unit]
        return Interval(span.months, span.days, int(span.us / size) * size)
    if unit == "day":
        return Interval(span.months, span.days, 0)
    sizes = {"month": 1, "quarter": 3, "year": 12, "decade": 120, "century": 1200}
    sizes["millennium"] = 12_000
    if unit not in sizes:
        known = unit in ("week", "epoch", "dow", "doy", "isodow", "isoyear")
        state, word_of = ("0A000", "supported") if known else ("22023", "recognized")
        raise EngineError(
            state,
            f'unit "{word}" not {word_of} for type interval',
            detail="Months usually have fractional weeks." if unit == "week" else None,
        )
    return Interval(int(span.months / sizes[unit]) * sizes[unit], 0, 0)


# -- zones --------------------------------------------------------------------------------------


def _zone(name: str) -> tzinfo:
    found = session_zone(name)
    if found is None:
        raise EngineError("22023", f'time zone "{name}" not recognized')
    return found


@polymorphic("timezone")
def _timezone(arguments: list[Expr], name: str) -> Expr:
    """``timezone(zone, time)``, which is what ``time at time zone zone`` means."""
    if len(arguments) != 2:
        raise undefined_function(name, [item.kind for item in arguments])
    zone, inner = converted(arguments[0], TEXT).value, arguments[1]
    if inner.kind in (UNKNOWN, DATE):
        inner = converted(inner, TIMESTAMPTZ)
    if inner.kind not in (TIMESTAMPTZ, TIMESTAMP):
        raise undefined_function(f"pg_catalog.{name}", [item.kind for item in arguments])
    convert = to_local if inner.kind is TIMESTAMPTZ else from_local

    def value(env: Env) -> int | None:
        time, text = inner.value(env), zone(env)
        return None if time is None or text is None else convert(time, _zone(text))

    return Expr(TIMESTAMP if inner.kind is TIMESTAMPTZ else TIMESTAMPTZ, value, name)


# -- age and making -----------------------------------------------------------------------------


@polymorphic("age")
def _age(arguments: list[Expr], name: str) -> Expr:
    if len(arguments) not in (1, 2):
        raise undefined_function(name, [item.kind for item in arguments])
    zoned = any(item.kind in (TIMESTAMPTZ, DATE) for item in arguments)
    if all(item.kind is UNKNOWN for item in arguments):
        raise ambiguous_function(name, [item.kind for item in arguments])
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


_INTERVAL_PARTS = ("years", "months", "weeks", "days", "hours", "mins", "secs")


def make_interval(arguments: list[Expr], names: list[str | None]) -> Expr:
    """``make_interval``, which is called with names more often than not."""
    placed: dict[str, Expr] = {}
    for position, (expr, given) in enumerate(zip(arguments, names, strict=True)):
        name = _INTERVAL_PARTS[position] if given is None else given
        if name not in _INTERVAL_PARTS or name in placed:
            raise undefined_function("make_interval", [item.kind for item in arguments])
        placed[name] = expr
    values = {
        name: converted(expr, FLOAT8 if name == "secs" else INT4).value
        for name, expr in placed.items()
    }

    def value(env: Env) -> Interval | None:
        found = {name: one(env) for name, one in values.items()}
        if None in found.values():
            return None
        whole = found.get("hours", 0) * 3600 + found.get("mins", 0) * 60
        return Interval(
            found.get("years", 0) * 12 + found.get("months", 0),
            found.get("weeks", 0) * 7 + found.get("days", 0),
            whole * times.SECOND_US + times.seconds_us(found.get("secs", 0.0)),
        )

    return Expr(INTERVAL, value, "make_interval")


def _make_date(_: Session, year: int, month: int, day: int) -> int:
    if year < 1 or not 1 <= month <= 12 or not 1 <= day <= times.days_in_month(year, month):
        raise EngineError("22008", f"date field value out of range: {year}-{month:02}-{day:02}")
    return times.days_from_civil(year, month, day)


def _make_time(
    session: Session, year: int, month: int, day: int, hour: int, minute: int, second: float
) -> int:
    days = _make_date(session, year, month, day)
    if not (0 <= hour < 24 and 0 <= minute < 60 and 0 <= second < 60):
        raise EngineError(
            "22008", f"time field value out of range: {hour}:{minute:02}:{second:02g}"
        )
    us = (hour * 60 + minute) * 60 * times.SECOND_US + round(second * times.SECOND_US)
    return days * times.DAY_US + us


def _make_timestamptz(session: Session, *parts: Any) -> int:
    zone = _zone(parts[6]) if len(parts) == 7 else session.zone
    return times.from_local(_make_time(session, *parts[:6]), zone)


def _justify(span: Interval, *, hours: bool, days: bool) -> Interval:
    months, dom, us = span.months, span.days, span.us
    if span.is_infinite:
        return span
    if days and hours and ((dom > 0 and us < 0) or (dom < 0 and us > 0)):
        carry = int(us / times.DAY_US)
        dom, us = dom + carry, us - carry * times.DAY_US
    if hours:
        carry = int(us / times.DAY_US)
        dom, us = dom + carry, us - carry * times.DAY_US
    if days:
        carry = int(dom / 30)
        months, dom = months + carry, dom - carry * 30
        if months > 0 and (dom < 0 or (dom == 0 and us < 0 and hours)):
            dom, months = dom + 30, months - 1
        elif months < 0 and (dom > 0 or (dom == 0 and us > 0 and hours)):
            dom, months = dom - 30, months + 1
    if hours:
        if dom > 0 and us < 0:
            us, dom = us + times.DAY_US, dom - 1
        elif dom < 0 and us > 0:
            us, dom = us - times.DAY_US, dom + 1
    return Interval(months, dom, us)


def _to_timestamp(_: Session, seconds: float) -> int:
    if seconds in (float("inf"), float("-inf")):
        return times.INFINITY if seconds > 0 else times.NEG_INFINITY
    if seconds != seconds:  # noqa: PLR0124 - NaN
        raise EngineError("22008", "timestamp cannot be NaN")
    return times.check_range(round(seconds * times.SECOND_US))


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
        lambda _, a, hours=_hours, days=_days: _justify(a, hours=hours, days=days),
    )
builtin("isfinite", (TIMESTAMPTZ,), BOOL, lambda _, a: times.is_finite(a))
builtin("isfinite", (TIMESTAMP,), BOOL, lambda _, a: times.is_finite(a))
builtin("isfinite", (INTERVAL,), BOOL, lambda _, a: not a.is_infinite)
builtin("isfinite", (DATE,), BOOL, lambda *_: True)
builtin("to_timestamp", (FLOAT8,), TIMESTAMPTZ, _to_timestamp)
builtin("clock_timestamp", (), TIMESTAMPTZ, lambda s: s.db.now())
builtin("statement_timestamp", (), TIMESTAMPTZ, lambda s: s.db.now())
for _name in ("now", "transaction_timestamp", "current_timestamp"):
    builtin(_name, (), TIMESTAMPTZ, lambda s: s.transaction_time())
builtin("localtimestamp", (), TIMESTAMP, lambda s: to_local(s.transaction_time(), s.zone))
builtin("current_date", (), DATE, today)
