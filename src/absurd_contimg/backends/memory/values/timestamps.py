"""The text forms of ``timestamptz``: everything that Postgres reads (with ``DateStyle`` ISO, MDY),
and what it prints."""

from __future__ import annotations

import re
from datetime import UTC, tzinfo

from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.values import times
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
from absurd_contimg.backends.memory.values.times import DAY_US, SECOND_US
from absurd_contimg.backends.memory.values.zones import DAYLIGHT, abbreviation_us, session_zone

_MONTHS: dict[str, int] = {}
for _number, _names in enumerate(
    (
        "jan january", "feb february", "mar march", "apr april", "may", "jun june", "jul july",
        "aug august", "sep sept september", "oct october", "nov november", "dec december",
    ),
    1,
):  # fmt: skip
    _MONTHS.update(dict.fromkeys(_names.split(), _number))
_DAYS_OF_WEEK = frozenset({
    "sun", "sunday", "mon", "monday", "tue", "tues", "tuesday", "wed", "weds", "wednesday", "thu",
    "thur", "thurs", "thursday", "fri", "friday", "sat", "saturday",
})  # fmt: skip
_JULIAN = frozenset(("j", "jd", "julian"))
_UNITS = frozenset({
    "d", "dow", "doy", "h", "isodow", "isoyear", "m", "mm", "qtr", "s", "timezone", "y",
})  # fmt: skip
_DAY_WORDS = {"yesterday": -1, "today": 0, "tomorrow": 1}
_ENDS = {
    "infinity": times.INFINITY,
    "+infinity": times.INFINITY,
    "-infinity": times.NEG_INFINITY,
    "epoch": 0,
}
WORDS = (
    frozenset(["ad", "allballs", "am", "at", "bc", "dst", "now", "on", "pm", "t"])
    | _DAYS_OF_WEEK | _JULIAN | _UNITS | frozenset(_MONTHS) | frozenset(_DAY_WORDS)
    | frozenset(_ENDS)
)  # fmt: skip
"""Postgres' own words in dates."""
_JULIAN_OF_1970 = 2_440_588
_OFFSET_HOURS_MAX = 15
_DATE = frozenset({"year", "month", "day"})
_TIME = frozenset({"time"})
_ZONE = frozenset({"zone"})
_ISO = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?(?:Z|([+-])(\d\d):?(\d\d)?)\Z",
    re.ASCII,
)


def timestamptz_in(
    text: str, zone: tzinfo, now: int, type_name: str = "timestamp with time zone"
) -> int:
    """``timestamptz`` input: `time_in` within the range that Postgres has for times."""
    time = time_in(text, zone, now, type_name)
    if times.MIN_TIME <= time < times.END_TIME or not times.is_finite(time):
        return time
    raise EngineError("22008", f'timestamp out of range: "{text}"')


def time_in(text: str, zone: tzinfo, now: int, type_name: str) -> int:
    """The time that a text means; `zone` for one without, `now` for the words that mean it.

    `type_name` is for the message of an error.
    """
    iso = _ISO.match(text)
    if iso is not None:
        time = _plain(iso)
        if time is not None:
            return time
    reader = _Reader(zone, now)
    try:
        reader.read(split(text.strip(SPACE), WORDS))
        return reader.time()
    except _ZoneOverflow:
        raise EngineError("22009", f'time zone displacement out of range: "{text}"') from None
    except (BadFormat, FieldOverflow) as error:
        raise refusal(error, type_name, text) from None


def _plain(match: re.Match[str]) -> int | None:
    """The usual form read at once, as long as nothing in it is out of the ordinary."""
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    offset_hours, offset_minutes = int(match[9] or 0), int(match[10] or 0)
    usual = (
        year >= 1
        and 1 <= month <= 12
        and 1 <= day <= times.days_in_month(year, month)
        and hour < 24
        and minute < 60
        and second < 60
        and offset_hours <= _OFFSET_HOURS_MAX
        and offset_minutes < 60
    )
    if not usual:
        return None
    us = int((match[7] or "0").ljust(6, "0"))
    offset = (offset_hours * 60 + offset_minutes) * 60 * SECOND_US
    of_day = ((hour * 60 + minute) * 60 + second) * SECOND_US + us
    local = times.days_from_civil(year, month, day) * DAY_US + of_day
    return local + offset if match[8] == "-" else local - offset


class _ZoneOverflow(Exception):
    """An offset from UTC is out of range."""


class _Reader:
    """Reads fields one after the other; each says what it gives, and nothing may be given twice."""

    def __init__(self, zone: tzinfo, now: int) -> None:
        self.session_zone = zone
        self.now = now
        self.given: set[str] = set()
        self.year = self.month = self.day = 0
        self.day_of_year = 0
        self.us = 0  # of the day
        self.hour = 0
        self.offset = 0
        self.named: tzinfo | None = None
        self.expects: str | None = None  # what a label says the next field is
        self.is_before_christ = False
        self.is_julian = False
        self.year_has_two_digits = False
        self.month_is_text = False
        self.half: str | None = None
        self.end: int | None = None

    def read(self, fields: list[Field]) -> None:
        """All fields."""
        for field in fields:
            given = _READERS[field.kind](self, field.text)
            if given & self.given:
                raise BadFormat
            self.given |= given
        if self.expects is not None:
            raise BadFormat

    def time(self) -> int:
        """What the fields say."""
        if self.end is not None:
            return self.end
        self._validate_date()
        self._apply_half()
        if not self.given >= _DATE:
            raise BadFormat
        local = times.days_from_civil(self.year, self.month, self.day) * DAY_US
        local += self.hour * 3600 * SECOND_US + self.us
        has_modifier = "dst modifier" in self.given
        if self.named is not None or "zone" not in self.given:
            if has_modifier:
                raise BadFormat
            return times.from_local(local, self.named or self.session_zone)
        return local - self.offset

    def _validate_date(self) -> None:
        if "year" in self.given and not self.is_julian:
            if self.is_before_christ:
                if self.year <= 0:
                    raise FieldOverflow
                self.year = 1 - self.year
            elif self.year_has_two_digits:
                if self.year < 0:
                    raise FieldOverflow
                self.year += 2000 if self.year < 70 else 1900 if self.year < 100 else 0
            elif self.year <= 0:
                raise FieldOverflow
        if self.day_of_year:
            first = times.days_from_civil(self.year, 1, 1)
            parts = times.civil_from_days(first + self.day_of_year - 1)
            self.year, self.month, self.day = parts
        if "month" in self.given and not 1 <= self.month <= 12:
            raise FieldOverflow(is_month_or_day=True)
        if "day" in self.given and not 1 <= self.day <= 31:
            raise FieldOverflow(is_month_or_day=True)
        if self.given >= _DATE and self.day > times.days_in_month(self.year, self.month):
            raise FieldOverflow

    def _apply_half(self) -> None:
        if self.half is None:
            return
        if self.hour > 12:
            raise FieldOverflow
        self.hour = self.hour % 12 + (12 if self.half == "pm" else 0)

    # -- fields -----------------------------------------------------------------------------

    def signed(self, text: str) -> frozenset[str]:
        """An offset from UTC."""
        try:
            hours, rest = leading_integer(text[1:])
            minutes = seconds = 0
            if rest[:1] == ":":
                minutes, rest = leading_integer(rest[1:])
                if rest[:1] == ":":
                    seconds, rest = leading_integer(rest[1:])
            elif not rest and len(text) > 3:
                hours, minutes = divmod(hours, 100)
        except FieldOverflow:
            raise _ZoneOverflow from None
        in_range = 0 <= minutes <= 59 and 0 <= seconds <= 59
        if not 0 <= hours <= _OFFSET_HOURS_MAX or not in_range:
            raise _ZoneOverflow
        if rest:
            raise BadFormat
        size = ((hours * 60 + minutes) * 60 + seconds) * SECOND_US
        self.offset = -size if text[0] == "-" else size
        return _ZONE

    def clock(self, text: str) -> frozenset[str]:
        """``hh:mm`` and longer."""
        self._take_label("time")
        self._set_clock(*clock(text))
        return _TIME

    def _set_clock(self, hour: int, minute: int, second: int, us: int) -> None:
        self.hour = hour
        self.us = (minute * 60 + second) * SECOND_US + us
        if hour > 24 or hour * 3600 * SECOND_US + self.us > DAY_US:
            raise FieldOverflow

    def _take_label(self, wanted: str) -> None:
        if self.expects not in (None, wanted):
            raise BadFormat
        self.expects = None

    def date(self, text: str) -> frozenset[str]:
        """A date with separators; after one, a time zone's name or a time with an offset."""
        if self.expects == "julian":
            return self._julian_day(text)
        if self.expects is None and not self.given >= {"month", "day"}:
            return self._date_parts(text)
        if text[0].isdigit() or self.expects is not None:
            self._take_label("time")
            number, minus, offset = text.partition("-")
            if "time" in self.given or not minus:
                raise BadFormat
            zone = self.signed(minus + offset)
            return self._joined_number(number, self.given) | zone
        self.named = session_zone(text)
        if self.named is None:
            raise EngineError("22023", f'time zone "{text}" not recognized')
        return _ZONE

    def _date_parts(self, text: str) -> frozenset[str]:
        parts = re.findall(r"\d+|[A-Za-z]+", text, re.ASCII)
        if not text[-1].isalnum():
            raise BadFormat
        given: set[str] = set()
        numbers = []
        for part in parts:
            if part.isdigit():
                numbers.append(part)
                continue
            if part in ("at", "on"):
                continue
            month = _MONTHS.get(part)
            if month is None or "month" in self.given | given:
                raise BadFormat
            self.month, self.month_is_text = month, True
            given.add("month")
        for number in numbers:
            more = self._lone_number(number, self.given | given)
            if more & (self.given | given):
                raise BadFormat
            given |= more
        if (self.given | given) - {"zone", "day of year"} != _DATE:
            raise BadFormat
        return frozenset(given)

    def number(self, text: str) -> frozenset[str]:
        """A field of digits, perhaps with a point in it."""
        if self.expects is not None:
            return self._labelled_number(text)
        whole, point, _ = text.partition(".")
        if point and not self.given & _DATE:
            return self._date_parts(text)
        has_both = bool(self.given & _DATE) and "time" in self.given
        is_joined = len(whole) > 2 if point else len(text) >= 6 and not has_both
        if is_joined:
            return self._joined_number(text, self.given)
        return self._lone_number(text, self.given)

    def _labelled_number(self, text: str) -> frozenset[str]:
        label, self.expects = self.expects, None
        if label == "time":
            given = self._joined_number(text, self.given | _DATE)
            if given != _TIME:
                raise BadFormat
            return given
        if label == "julian":
            return self._julian_day(text)
        raise BadFormat

    def _julian_day(self, text: str) -> frozenset[str]:
        self.expects = None
        day, rest = leading_integer(text)
        self.year, self.month, self.day = times.civil_from_days(day - _JULIAN_OF_1970)
        self.is_julian = True
        if rest[:1] in ("+", "-"):
            self.signed(rest)
            return _DATE | _TIME | _ZONE
        if not rest:
            return _DATE
        self.hour, self.us = 0, int(fraction(rest) * DAY_US)
        return _DATE | _TIME

    def _joined_number(self, text: str, given: set[str] | frozenset[str]) -> frozenset[str]:
        """``yyyymmdd``, ``yymmdd``, ``hhmmss`` or ``hhmm``."""
        whole, point, digits = text.partition(".")
        if not point and not given >= _DATE and len(whole) >= 6:
            self.year = leading_integer(whole[:-4])[0]
            self.month, self.day = int(whole[-4:-2]), int(whole[-2:])
            self.year_has_two_digits = len(whole) == 6
            return _DATE
        if "time" in given or len(whole) not in (4, 6):
            raise BadFormat
        us = round(fraction(point + digits) * 1e6) if point else 0
        hour, minute, second = int(whole[:2]), int(whole[2:4]), int(whole[4:] or 0)
        self.hour, self.us = hour, (minute * 60 + second) * SECOND_US + us
        return _TIME

    def _lone_number(self, text: str, given: set[str] | frozenset[str]) -> frozenset[str]:
        """A year, a month or a day, by what is known already and by how many digits it has."""
        value, rest = leading_integer(text)
        length = len(text)
        if rest:
            if len(text) - len(rest) > 2:
                return self._joined_number(text, given | _DATE)
            self.us = round(fraction(rest) * 1e6)
        known = given & _DATE
        if length == 3 and known == {"year"} and 1 <= value <= 366:
            self.day_of_year = value
            return frozenset({"month", "day", "day of year"})
        if known == _DATE:
            return self._joined_number(text, given)
        part = self._next_part(known, length)
        if part == "other day":  # what was taken for the year was the day
            self.day, self.year, self.year_has_two_digits = self.year, value, False
            return frozenset({"day"})
        setattr(self, part, value)
        if part == "year":
            self.year_has_two_digits = length <= 2
        return frozenset({part})

    def _next_part(self, known: set[str] | frozenset[str], length: int) -> str:
        if not known:
            return "year" if length >= 3 else "month"
        if known in ({"year"}, {"day"}):
            return "month"
        if known == {"month"}:
            return "year" if self.month_is_text and length >= 3 else "day"
        if known == {"year", "month"}:
            wrong = self.month_is_text and length >= 3 and self.year_has_two_digits
            return "other day" if wrong else "day"
        if known == {"month", "day"}:
            return "year"
        raise BadFormat

    def word(self, text: str) -> frozenset[str]:  # noqa: PLR0911, PLR0912 - one a kind of word
        """A month, a time zone, a word that means a time."""
        offset = abbreviation_us(text)
        if offset is not None:
            self.offset = offset
            return _ZONE | {"daylight"} if text in DAYLIGHT else _ZONE
        if text in ("at", "on"):
            return frozenset()
        if text in _ENDS:
            self.end = _ENDS[text]
            return _DATE | _TIME | _ZONE
        if text == "now":
            self.end = self.now
            return _DATE | _TIME | _ZONE
        if text in _DAY_WORDS:
            local = self.now + times.utc_offset_us(self.now, self.session_zone)
            day = local // DAY_US + _DAY_WORDS[text]
            self.year, self.month, self.day = times.civil_from_days(day)
            self.is_julian = True  # a year as the calendar has it
            return _DATE
        if text == "allballs":
            self.hour = self.us = self.offset = 0
            return _TIME | _ZONE
        if text in _MONTHS:
            return self._month(_MONTHS[text])
        if text == "dst":
            self.offset += 3600 * SECOND_US
            return frozenset({"dst modifier", "daylight"})
        if text in ("am", "pm"):
            self.half = text
            return frozenset({"half"})
        if text in ("ad", "bc"):
            self.is_before_christ = text == "bc"
            return frozenset({"era"})
        if text in _DAYS_OF_WEEK:
            return frozenset({"day of week"})
        if text == "t" or text in _JULIAN or text in _UNITS:
            return self._label(text)
        self.named = session_zone(text) if text.isalpha() else None
        if self.named is None:
            raise BadFormat
        return _ZONE

    def _month(self, number: int) -> frozenset[str]:
        given = {"month"}
        numeric = "month" in self.given and not self.month_is_text
        if numeric and "day" not in self.given and 1 <= self.month <= 31:
            self.day = self.month
            given = {"day"}
        self.month, self.month_is_text = number, True
        return frozenset(given)

    def _label(self, text: str) -> frozenset[str]:
        if self.expects is not None or (text == "t" and not self.given >= _DATE):
            raise BadFormat
        self.expects = "time" if text == "t" else "julian" if text in _JULIAN else text
        return frozenset()


_READERS = {
    Kind.NUMBER: _Reader.number,
    Kind.DATE: _Reader.date,
    Kind.TIME: _Reader.clock,
    Kind.SIGNED: _Reader.signed,
    Kind.WORD: _Reader.word,
}


def timestamptz_out(time: int, zone: tzinfo, *, iso: bool = False) -> str:
    """``timestamptz`` output; with `iso` as JSON has it (``T``, minutes in the offset)."""
    if time == times.INFINITY:
        return "infinity"
    if time == times.NEG_INFINITY:
        return "-infinity"
    offset = 0 if zone is UTC else times.utc_offset_us(time, zone)
    day, of_day = divmod(time + offset, DAY_US)
    year, month, dom = times.civil_from_days(day)
    seconds, us = divmod(of_day, SECOND_US)
    era = ""
    if year <= 0:
        year, era = 1 - year, " BC"
    shown_clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    shown_us = f".{us:06}".rstrip("0") if us else ""
    sign = "-" if offset < 0 else "+"
    minutes, rest = divmod(abs(offset) // SECOND_US, 60)
    shown = f"{sign}{minutes // 60:02}"
    if minutes % 60 or rest or iso:
        shown += f":{minutes % 60:02}"
    if rest:
        shown += f":{rest:02}"
    return f"{year:04}-{month:02}-{dom:02}{'T' if iso else ' '}{shown_clock}{shown_us}{shown}{era}"
