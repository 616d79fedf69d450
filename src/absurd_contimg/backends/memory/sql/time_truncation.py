"""``date_trunc`` and ``date_bin``: times at the start of a unit or a bin."""

from __future__ import annotations

from datetime import UTC, tzinfo
from typing import Any

from absurd_contimg.backends.memory.errors import EngineError, unsupported
from absurd_contimg.backends.memory.sql.coercion import converted
from absurd_contimg.backends.memory.sql.registry import (
    ambiguous_function,
    anything,
    polymorphic,
    textual,
    undefined_function,
)
from absurd_contimg.backends.memory.sql.scope import Env, Expr
from absurd_contimg.backends.memory.sql.time_fields import unit_of
from absurd_contimg.backends.memory.sql.types import (
    DATE,
    INTERVAL,
    TEXT,
    TIMESTAMP,
    TIMESTAMPTZ,
    UNKNOWN,
)
from absurd_contimg.backends.memory.values import times
from absurd_contimg.backends.memory.values.times import Interval
from absurd_contimg.backends.memory.values.zones import session_zone

_UNITS_US = {
    "microseconds": 1,
    "milliseconds": 1000,
    "second": times.SECOND_US,
    "minute": 60 * times.SECOND_US,
    "hour": 3600 * times.SECOND_US,
}


@polymorphic("date_trunc", takes=(textual, anything, textual), optional=1)
def _date_trunc(arguments: list[Expr], name: str) -> Expr:
    """``date_trunc(unit, time)``, in the session's time zone for ``timestamptz``."""
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
            zone = zone_named(text)
        local = raw + times.utc_offset_us(raw, zone) if times.is_finite(raw) else 0
        cut = truncated(unit_of(unit), local, unit, kind.shown)
        return times.check_range(times.from_local(cut, zone)) if times.is_finite(raw) else raw

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
    kind = TIMESTAMPTZ
    if TIMESTAMP in kinds and set(kinds[1:]) <= {TIMESTAMP, UNKNOWN}:
        kind = TIMESTAMP
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


def zone_named(name: str) -> tzinfo:
    """A time zone; 22023 for one that Postgres does not know."""
    found = session_zone(name)
    if found is None:
        raise EngineError("22023", f'time zone "{name}" not recognized')
    return found
