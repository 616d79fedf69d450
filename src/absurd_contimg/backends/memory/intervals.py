"""The text forms of ``interval``: Postgres' verbose form, ISO 8601, and what it prints."""

from __future__ import annotations

import re
from decimal import ROUND_HALF_EVEN, Decimal

from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.times import (
    DAY_US,
    INFINITE,
    NEG_INFINITE,
    SECOND_US,
    Interval,
)

_UNITS: dict[str, tuple[str, int]] = {}
for _names, _kind, _factor in (
    ("us usec usecs usecond useconds microsecon microsecond microseconds", "us", 1),
    ("ms msec msecs msecond mseconds millisecon millisecond milliseconds", "ms", 1000),
    ("s sec secs second seconds", "second", SECOND_US),
    ("m min mins minute minutes", "minute", 60 * SECOND_US),
    ("h hr hrs hour hours", "hour", 3600 * SECOND_US),
    ("d day days", "day", 1),
    ("w week weeks", "week", 7),
    ("mon mons month months", "month", 1),
    ("y yr yrs year years", "year", 12),
    ("dec decs decade decades", "decade", 120),
    ("c cent century centuries", "century", 1200),
    ("mil mils millennia millennium", "millennium", 12_000),
):
    for _name in _names.split():
        _UNITS[_name] = (_kind, _factor)

_DAY_UNITS = {"day", "week"}
_MONTH_UNITS = {"month", "year", "decade", "century", "millennium"}
_TOKEN = re.compile(
    r"\s*(?:(?P<clock>[+-]?\d+:\d+(?::\d+(?:\.\d*)?)?(?!\d))"
    r"|(?P<years>[+-]?\d+)-(?P<months>\d+)(?![\d:])"
    r"|(?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)"
    r"|(?P<word>[A-Za-z]+)|(?P<at>@))"
)
_ISO = re.compile(
    r"P(?=.)(?:(?P<Y>[+-]?[\d.]+)Y)?(?:(?P<M>[+-]?[\d.]+)M)?(?:(?P<W>[+-]?[\d.]+)W)?"
    r"(?:(?P<D>[+-]?[\d.]+)D)?"
    r"(?:T(?=.)(?:(?P<h>[+-]?[\d.]+)H)?(?:(?P<m>[+-]?[\d.]+)M)?(?:(?P<s>[+-]?[\d.]+)S)?)?\Z"
)
_ISO_KINDS = (
    ("Y", "year"), ("M", "month"), ("W", "week"), ("D", "day"),
    ("h", "hour"), ("m", "minute"), ("s", "second"),
)  # fmt: skip


class _Sum:
    """Adds fields up; a fraction goes over into the smaller units, as Postgres does it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.months = self.days = self.us = 0
        self.seen: set[str] = set()

    def add(self, number: Decimal, unit: str) -> None:
        kind, factor = _UNITS[unit]
        if kind in self.seen:
            raise invalid_interval(self.text)
        self.seen.add(kind)
        whole = int(number)
        fraction = number - whole
        if kind in _MONTH_UNITS:
            self.months += whole * factor
            if kind == "month":
                self._add_days(fraction * 30)
            else:
                self.months += int((fraction * factor).to_integral_value(ROUND_HALF_EVEN))
        elif kind in _DAY_UNITS:
            self.days += whole * factor
            self._add_days(fraction * factor)
        else:
            self.us += int((number * factor).to_integral_value(ROUND_HALF_EVEN))

    def _add_days(self, days: Decimal) -> None:
        whole = int(days)
        self.days += whole
        self.us += int(((days - whole) * DAY_US).to_integral_value(ROUND_HALF_EVEN))

    def add_clock(self, clock: str) -> None:
        if "clock" in self.seen or self.seen & {"hour", "minute", "second"}:
            raise invalid_interval(self.text)
        self.seen |= {"clock", "hour", "minute", "second"}
        parts = clock.lstrip("+-").split(":")
        hours, minutes = int(parts[0]), int(parts[1])
        seconds = Decimal(parts[2]) if len(parts) == 3 else Decimal(0)
        if minutes > 59 or seconds >= 61:
            raise _out_of_range(self.text)
        size = (hours * 60 + minutes) * 60 * SECOND_US
        size += int((seconds * SECOND_US).to_integral_value(ROUND_HALF_EVEN))
        self.us += -size if clock.startswith("-") else size

    def result(self, *, negative: bool = False) -> Interval:
        sign = -1 if negative else 1
        span = Interval(sign * self.months, sign * self.days, sign * self.us)
        small = -(2**31) <= span.months < 2**31 and -(2**31) <= span.days < 2**31
        if not small or not -(2**63) <= span.us < 2**63 or span.is_infinite:
            raise _out_of_range(self.text)
        return span


def invalid_interval(text: str) -> EngineError:
    """22007."""
    return EngineError("22007", f'invalid input syntax for type interval: "{text}"')


def _out_of_range(text: str) -> EngineError:
    return EngineError("22015", f'interval field value out of range: "{text}"')


def interval_in(text: str) -> Interval:
    """``interval`` input."""
    word = text.strip()
    special = {"infinity": INFINITE, "+infinity": INFINITE, "-infinity": NEG_INFINITE}
    if word.lower() in special:
        return special[word.lower()]
    if word[:1] == "P":
        return _iso_in(word, text)
    return _verbose_in(word, text)


def _iso_in(word: str, text: str) -> Interval:
    match = _ISO.match(word)
    if match is None:
        raise invalid_interval(text)
    total = _Sum(text)
    for group, unit in _ISO_KINDS:
        if match[group] is not None:
            try:
                number = Decimal(match[group])
            except ArithmeticError:
                raise invalid_interval(text) from None
            total.add(number, unit)
    return total.result()


def _verbose_in(word: str, text: str) -> Interval:  # noqa: PLR0912 - one branch a kind of token
    total = _Sum(text)
    pending: Decimal | None = None
    negative = False
    position = 0
    fields = 0
    while position < len(word):
        match = _TOKEN.match(word, position)
        if match is None or negative:
            raise invalid_interval(text)
        position = match.end()
        if match["word"] is not None:
            unit = match["word"].lower()
            if pending is not None and unit in _UNITS:
                total.add(pending, unit)
                pending = None
            elif unit == "ago" and fields and pending is None:
                negative = True
            else:
                raise invalid_interval(text)
            continue
        if match["at"] is not None:
            if fields:
                raise invalid_interval(text)
            continue
        fields += 1
        if match["number"] is not None:
            if pending is not None:
                raise invalid_interval(text)
            pending = Decimal(match["number"])
            continue
        if match["years"] is not None:
            _add_years_months(total, match, text)
            continue
        if pending is not None:  # '1 02:03:04' means a day and a time
            total.add(pending, "day")
            pending = None
        total.add_clock(match["clock"])
    if pending is not None:
        total.add(pending, "second")
        fields += 1
    if not fields:
        raise invalid_interval(text)
    return total.result(negative=negative)


def _add_years_months(total: _Sum, match: re.Match[str], text: str) -> None:
    months = int(match["months"])
    if months > 11:
        raise _out_of_range(text)
    sign = -1 if match["years"].startswith("-") else 1
    total.add(Decimal(match["years"]), "year")
    total.add(Decimal(sign * months), "month")


def interval_out(span: Interval) -> str:
    """``interval`` output in the style ``postgres``."""
    if span.is_infinite:
        return "infinity" if span == INFINITE else "-infinity"
    years, months = divmod(abs(span.months), 12)
    sign = -1 if span.months < 0 else 1
    parts: list[str] = []
    before = False
    for value, unit in ((sign * years, "year"), (sign * months, "mon"), (span.days, "day")):
        if value:
            plus = "+" if before and value > 0 else ""
            parts.append(f"{plus}{value} {unit}{'' if value == 1 else 's'}")
            before = value < 0
    if span.us or not parts:
        minus = "-" if span.us < 0 else "+" if before else ""
        seconds, us = divmod(abs(span.us), SECOND_US)
        fraction = f".{us:06}".rstrip("0") if us else ""
        clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        parts.append(f"{minus}{clock}{fraction}")
    return " ".join(parts)
