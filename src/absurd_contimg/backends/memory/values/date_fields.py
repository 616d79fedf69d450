"""How Postgres takes the text of a time or an interval apart into fields.

Both types share this first step (``ParseDateTime`` in Postgres): runs of digits with their
punctuation, words, signs. What the fields mean is for `timestamps` and `intervals` to say.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import NamedTuple

from absurd_contimg.backends.memory.errors import EngineError

SPACE = " \t\n\v\f\r"
FIELDS_MAX = 25
LENGTH_MAX = 153
_PUNCTUATION = frozenset("!\"#$%&'()*,/:;<=>?@[\\]^_`{|}~")
_INT_MAX = 2**31 - 1


class Kind(Enum):
    """What a field looks like."""

    NUMBER = "number"
    DATE = "date"
    TIME = "time"
    SIGNED = "signed"
    """A sign and digits: an offset from UTC, or a number of an interval."""
    WORD = "word"


class Field(NamedTuple):
    """A field, its letters in lower case."""

    kind: Kind
    text: str


class BadFormat(Exception):
    """The text is of no known form."""


class FieldOverflow(Exception):
    """A field's value is out of range; `is_month_or_day` where another order may be meant."""

    def __init__(self, *, is_month_or_day: bool = False) -> None:
        super().__init__()
        self.is_month_or_day = is_month_or_day


_SKIPPED = re.compile(rf"[{SPACE}]+")
_TIME = re.compile(r"\d+:[\d:.]*", re.ASCII)
_DATE = re.compile(r"\d+([-/.])(?:\d+(?:\1(?:\d|\1)*)?|(?!\d)(?:[A-Za-z0-9]|\1)*)", re.ASCII)
_DECIMAL = re.compile(r"\d+\.\d+", re.ASCII)
_NUMBER = re.compile(r"\d+|\.\d*", re.ASCII)
_WORD = re.compile(r"[A-Za-z]+")
_NAME = re.compile(r"[A-Za-z0-9+\-/_.:]+")
_SIGNED = re.compile(rf"([+-])[{SPACE}]*(\d[\d:.\-]*|[A-Za-z]+)", re.ASCII)


def split(text: str, words: frozenset[str]) -> list[Field]:
    """The fields of `text`; `words` may be followed by a digit without being a part of a name."""
    if len(text.encode()) > LENGTH_MAX:
        raise BadFormat
    fields: list[Field] = []
    position = 0
    while position < len(text):
        space = _SKIPPED.match(text, position)
        if space is not None:
            position = space.end()
            continue
        found = _field_at(text, position, words)
        if found is None:
            if text[position] not in _PUNCTUATION:
                raise BadFormat
            position += 1
            continue
        if len(fields) == FIELDS_MAX:
            raise BadFormat
        field, position = found
        fields.append(field)
    return fields


def _field_at(text: str, position: int, words: frozenset[str]) -> tuple[Field, int] | None:
    signed = _SIGNED.match(text, position)
    if signed is not None:
        kind = Kind.SIGNED if signed[2][0].isdigit() else Kind.WORD
        return Field(kind, (signed[1] + signed[2]).lower()), signed.end()
    for kind, pattern in ((Kind.TIME, _TIME), (Kind.DATE, _DATE), (Kind.NUMBER, _NUMBER)):
        match = pattern.match(text, position)
        if match is not None:
            is_decimal = kind is Kind.DATE and _DECIMAL.fullmatch(match[0])
            return Field(Kind.NUMBER if is_decimal else kind, match[0].lower()), match.end()
    word = _WORD.match(text, position)
    if word is None:
        return None
    following = text[word.end() : word.end() + 1]
    joined = following in ("-", "/", ".")
    if following == "+" or following in set("0123456789"):
        joined = word[0].lower() not in words
    if not joined:
        return Field(Kind.WORD, word[0].lower()), word.end()
    name = _NAME.match(text, position)
    assert name is not None
    return Field(Kind.DATE, name[0].lower()), name.end()


def leading_integer(text: str, size_max: int = _INT_MAX) -> tuple[int, str]:
    """The integer at the beginning (0 if there is none), and the rest."""
    match = re.match(r"[+-]?\d+", text, re.ASCII)
    if match is None:
        return 0, text
    value = int(match[0][:40])
    if not -size_max - 1 <= value <= size_max:
        raise FieldOverflow
    return value, text[match.end() :]


def fraction(text: str) -> float:
    """What ``.`` and digits stand for."""
    if text == ".":
        return 0.0
    if re.fullmatch(r"\.\d+", text, re.ASCII) is None:
        raise BadFormat
    return float(text)


def clock(text: str) -> tuple[int, int, int, int]:
    """Hours (not limited), minutes, seconds and microseconds of ``h:m``, ``h:m:s`` or ``m:s.f``."""
    hour, rest = leading_integer(text, 2**63 - 1)
    if rest[:1] != ":":
        raise BadFormat
    minute, rest = leading_integer(rest[1:])
    second = us = 0
    if rest[:1] == ".":
        hour, minute, second = 0, hour, minute
        us = round(fraction(rest) * 1e6)
    elif rest[:1] == ":":
        second, rest = leading_integer(rest[1:])
        if rest:
            us = round(fraction(rest) * 1e6)
    elif rest:
        raise BadFormat
    if hour < 0 or not 0 <= minute <= 59 or not 0 <= second <= 60:
        raise FieldOverflow
    return hour, minute, second, us


def refusal(error: Exception, type_name: str, text: str) -> EngineError:
    """Postgres' error for `BadFormat` and `FieldOverflow`."""
    if isinstance(error, FieldOverflow):
        if type_name == "interval":
            return EngineError("22015", f'interval field value out of range: "{text}"')
        hint = 'Perhaps you need a different "DateStyle" setting.'
        return EngineError(
            "22008",
            f'date/time field value out of range: "{text}"',
            hint=hint if error.is_month_or_day else None,
        )
    return EngineError("22007", f'invalid input syntax for type {type_name}: "{text}"')
