"""The text forms of ``interval``: Postgres' verbose form, ISO 8601, and what it prints."""

from __future__ import annotations

import re

from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.values.date_fields import (
    SPACE,
    BadFormat,
    Field,
    FieldOverflow,
    Kind,
    clock,
    fraction,
    leading_integer,
    refusal,
    split,
)
from absurd_contimg.backends.memory.values.times import (
    DAY_US,
    INFINITE,
    NEG_INFINITE,
    SECOND_US,
    Interval,
)
from absurd_contimg.backends.memory.values.timestamps import WORDS

_UNITS: dict[str, str] = {}
for _names, _kind in (
    ("us usec usecs usecond useconds microsecon", "us"),
    ("ms msec msecs msecond mseconds millisecon", "ms"),
    ("s sec secs second seconds", "second"),
    ("m min mins minute minutes", "minute"),
    ("h hr hrs hour hours", "hour"),
    ("d day days", "day"),
    ("w week weeks", "week"),
    ("mon mons month months", "month"),
    ("y yr yrs year years", "year"),
    ("dec decs decade decades", "decade"),
    ("c cent century centuries", "century"),
    ("mil mils millennia millennium", "millennium"),
):
    _UNITS.update(dict.fromkeys(_names.split(), _kind))

_FRACTION_OF_MONTH_DAYS = 30
_MICROSECONDS = {"us": 1, "ms": 1000, "second": SECOND_US, "minute": 60 * SECOND_US,
                 "hour": 3600 * SECOND_US}  # fmt: skip
_YEARS = {"year": 1, "decade": 10, "century": 100, "millennium": 1000}
_INT_MAX = 2**31 - 1
_INT64_MAX = 2**63 - 1
_WORD_LENGTH_MAX = 10
"""Postgres compares no more of a word."""
_ISO_NUMBER = re.compile(r"-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_ISO_NUMBER_MAX = 1e15


def _small(value: int) -> int:
    """`value` if 32 bits hold it."""
    if not -_INT_MAX - 1 <= value <= _INT_MAX:
        raise FieldOverflow
    return value


class _Sum:
    """Adds numbers with units up; a fraction goes over into smaller units, as Postgres does it."""

    def __init__(self) -> None:
        self.years = self.months = self.days = self.us = 0

    def add(self, whole: int, part: float, kind: str) -> None:
        if kind in _MICROSECONDS:
            self._add_us(whole * _MICROSECONDS[kind])
            self._add_part_us(part, _MICROSECONDS[kind])
        elif kind in _YEARS:
            self.years = _small(self.years + _small(_small(whole) * _YEARS[kind]))
            self.months = _small(self.months + round(part * _YEARS[kind] * 12))
        elif kind == "month":
            self.months = _small(self.months + _small(whole))
            self._add_part_days(part, _FRACTION_OF_MONTH_DAYS)
        elif kind == "week":
            self.days = _small(self.days + _small(_small(whole) * 7))
            self._add_part_days(part, 7)
        else:
            self.days = _small(self.days + _small(whole))
            self._add_part_us(part, DAY_US)

    def _add_us(self, us: int) -> None:
        self.us += us
        if not -_INT64_MAX - 1 <= self.us <= _INT64_MAX:
            raise FieldOverflow

    def _add_part_us(self, part: float, size: int) -> None:
        """Half a microsecond is rounded toward zero."""
        exact = part * size
        whole = int(exact)
        rest = exact - whole
        self._add_us(whole + (1 if rest > 0.5 else -1 if rest < -0.5 else 0))

    def _add_part_days(self, part: float, size: int) -> None:
        exact = part * size
        whole = int(exact)
        self.days = _small(self.days + whole)
        self._add_part_us(exact - whole, DAY_US)

    def add_clock(self, text: str, *, negative: bool = False) -> None:
        hour, minute, second, us = clock(text)
        size = ((hour * 60 + minute) * 60 + second) * SECOND_US + us
        self._add_us(-size if negative else size)

    def result(self, *, negative: bool = False) -> Interval:
        sign = -1 if negative else 1
        months = sign * (self.years * 12 + self.months)
        span = Interval(months, sign * self.days, sign * self.us)
        if not -_INT_MAX - 1 <= span.months <= _INT_MAX or span.is_infinite:
            raise EngineError("22008", "interval out of range")
        return span


def interval_in(text: str) -> Interval:
    """``interval`` input."""
    word = text.strip(SPACE)
    try:
        try:
            return _verbose_in(split(word, WORDS))
        except BadFormat:
            return _iso_in(word)
    except (BadFormat, FieldOverflow) as error:
        raise refusal(error, "interval", text) from None


def _verbose_in(fields: list[Field]) -> Interval:
    """Postgres' own form. It is read from its end, so that a unit comes before its number."""
    total = _Sum()
    given: set[str] = set()
    unit: str | None = None
    waiting = negative = False  # whether the unit's number has yet to come
    last = len(fields) - 1
    for index in range(last, -1, -1):
        kind, text = fields[index]
        if kind is Kind.WORD:
            if text in ("@", "at", "on"):
                continue
            if waiting:
                raise BadFormat
            if text in _INFINITE and index == last:
                if last > 0:
                    raise BadFormat
                return _INFINITE[text]
            if text == "ago" and index == last:
                negative = True
                continue
            unit = _UNITS.get(text[:_WORD_LENGTH_MAX])
            if unit is None:
                raise BadFormat
            waiting = True
            continue
        waiting = False
        if _add_clock(total, kind, text):
            more, unit = _CLOCK, "day"
        else:
            more, unit = _add_number(total, text, unit or "second")
        if more & given:
            raise BadFormat
        given |= more
    if not given or waiting:
        raise BadFormat
    return total.result(negative=negative)


_INFINITE = {"infinity": INFINITE, "+infinity": INFINITE, "-infinity": NEG_INFINITE}
_SECONDS = frozenset({"second", "ms", "us"})
_CLOCK = _SECONDS | {"hour", "minute"}


def _add_clock(total: _Sum, kind: Kind, text: str) -> bool:
    """Whether the field is ``hh:mm`` or longer, with or without a sign."""
    if kind is Kind.TIME:
        total.add_clock(text)
        return True
    if kind is not Kind.SIGNED or ":" not in text:
        return False
    try:
        total.add_clock(text[1:], negative=text[0] == "-")
    except (BadFormat, FieldOverflow):
        return False
    return True


def _add_number(total: _Sum, text: str, unit: str) -> tuple[frozenset[str], str]:
    """What is given by it, and the unit of a number before it that names none."""
    whole, rest = leading_integer(text, _INT64_MAX)
    part = 0.0
    if rest[:1] == "-":  # years-months
        months, rest = leading_integer(rest[1:])
        if not 0 <= months < 12:
            raise FieldOverflow
        if rest:
            raise BadFormat
        whole, unit = whole * 12 + (-months if text[0] == "-" else months), "month"
    elif rest:
        part = fraction(rest) * (-1 if text[0] == "-" else 1)
    total.add(whole, part, unit)
    given = _SECONDS if unit == "second" and part else frozenset({unit})
    return given, "day" if unit == "hour" else unit


# -- ISO 8601 -----------------------------------------------------------------------------------

_ISO_DATE = {"Y": "year", "M": "month", "W": "week", "D": "day"}
_ISO_TIME = {"H": "hour", "M": "minute", "S": "second"}


def _iso_in(word: str) -> Interval:
    """``P...``: with designators, or in one of the alternative forms."""
    if len(word) < 2 or word[0] != "P":
        raise BadFormat
    total = _Sum()
    position, units, alone = 1, _ISO_DATE, True
    while position < len(word):
        if word[position] == "T":
            position, units, alone = position + 1, _ISO_TIME, True
            continue
        whole, part, end = _iso_number(word, position)
        unit = word[end : end + 1]
        if unit in units:
            total.add(whole, part, units[unit])
            position, alone = end + 1, False
            continue
        if unit not in ("", "T", "-" if units is _ISO_DATE else ":") or not alone:
            raise BadFormat
        position = _iso_alternative(total, word, position, units)
    return total.result()


def _iso_number(word: str, position: int) -> tuple[int, float, int]:
    match = _ISO_NUMBER.match(word, position)
    if match is None:
        raise BadFormat
    value = float(match[0])
    if not -_ISO_NUMBER_MAX <= value <= _ISO_NUMBER_MAX:
        raise FieldOverflow
    whole = int(value)
    return whole, value - whole, match.end()


def _iso_alternative(total: _Sum, word: str, position: int, units: dict[str, str]) -> int:
    """``yyyy-mm-dd``, ``yyyymmdd``, ``hh:mm:ss`` or ``hhmmss``; where it ends."""
    is_date = units is _ISO_DATE
    whole, part, end = _iso_number(word, position)
    joined = re.match(r"-?(\d+)", word[position:], re.ASCII)
    unit = word[end : end + 1]
    if unit in ("", "T") and joined is not None and len(joined[1]) == (8 if is_date else 6):
        if unit == "T" and not is_date:
            raise BadFormat
        names = ("year", "month", "day") if is_date else ("hour", "minute", "second")
        sign = -1 if whole < 0 else 1
        size = abs(whole)
        for name, value in zip(names, (size // 10_000, size // 100 % 100, size % 100), strict=True):
            total.add(sign * value, 0.0, name)
        total.add(0, part, "day" if is_date else "us")
        return end
    separator, names = ("-", ("year", "month", "day")) if is_date else (
        ":", ("hour", "minute", "second")
    )  # fmt: skip
    for name in names:
        whole, part, end = _iso_number(word, position)
        total.add(whole, part, name)
        if end == len(word) or (is_date and word[end] == "T"):
            return end
        if word[end] != separator:
            raise BadFormat
        position = end + 1
    raise BadFormat


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
