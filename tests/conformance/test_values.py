# ruff: noqa: E501 - a type's inputs are one list
"""What each type reads, prints and refuses: as Postgres does, or refused as not supported.

Of each list `READ` holds what has to be read; the others hold what may be refused with 0A000, but
never be answered otherwise than by Postgres.
"""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from absurd_contimg.backends.memory import jsonb
from absurd_contimg.backends.memory.errors import EngineError

READ: dict[str, tuple[str, ...]] = {
    "int": ("0", "-0", "+7", "2147483647", "2147483648", "-2147483648", " 5 ", "", "x", "1.0"),
    "bigint": ("9223372036854775807", "9223372036854775808"),
    "numeric": ("0", "-1.50", ".5", "5.", "1e3", "1.5e-3", " 7 ", "x", "", "1e"),
    "float8": ("0", "-1.5", "1e300", "1e-300", "nan", "-Infinity", "1e400", "x", ""),
    "bool": ("t", "true", "yes", "on", "1", "f", "no", "off", "0", "x", "o", ""),
    "uuid": ("00000000-0000-0000-0000-000000000001", "{00000000000000000000000000000001}", "x", ""),
    "interval": (
        "1 day", "3 days", "-1 day", "2 hours 30 minutes", "1 week", "1 month", "1 mon 1 day", "1 year 2 months", "90 s", "0",
        "1.5 days", "1.5 hours", "0.25 s", "1 day 02:03:04.5", "-01:30:00", "1 day, 0:00:05", "-1 day, 23:59:59",
        "36 hours", "5 min", "100 ms", "infinity", "-infinity", "soon", "", "1 parsec", "3 fortnights",
    ),
    "timestamptz": (
        "2024-12-31", "2024-12-31 10:11", "2024-12-31 10:11:12", "2024-12-31 10:11:12.5", "2024-12-31T10:11:12Z", "2024-12-31T10:11:12.123456+00:00",
        "2024-12-31 10:11:12+01", "2024-12-31 10:11:12-05:30", "2024-12-31 10:11:12 UTC", "2024-12-31 10:11:12+0100", "infinity", "-infinity",
        "epoch", "2024-02-30", "2024-13-01", "2024-1-5", "2024-12-31 24:00", "2024-12-31 25:00", "never", "", "2024-03-31 02:30", "2024-10-27 02:30",
        "2024-12-31 10:11:12+16", "0000-01-01", "0002-01-01", "9999-12-31",
    ),
}  # fmt: skip
INTEGERS = (
    "0", "-0", "+7", "2147483647", "2147483648", "-2147483648", "-2147483649", "10000000000.0", "1.0",
    "10000000000x", "5x", "", " 5 ", "0x1F", "0x", "0o17", "0b101", "0b2", "1_000", "1__0", "_1", "1_",
    "0x_1", "+-1", "214748364x", "0x800000000z", "92233720368547758070.0", "9223372036854775808", "- 1",
)  # fmt: skip
NUMERICS = (
    "1_000", "0x1F", "-0b101", "0o17", "1_0.5_0e1_0", "0x_1F", "1__0", "_1", "1_", "1_.5", "1._5", "0x1F.5",
    "0x", "- 1", "", "+5", ".5", "5.", " 7 ", "inf", "-INF", "nan", "-nan", "snan", "nan5", "1e5000000000",
    "1e-5000000000", "1e2147483647", "٣", "1e", "0e200000", "0.0e-17000", "+infinity", "Infinity", "0X1f",
    "0xg",
)  # fmt: skip
DOUBLES = (
    "-nan", "+nan", "nan", "Infinity", "-inf", "1e400", "1e-400", "5e-324", ".5", "5.", "1e", "0x1p3",
    "1_0", "", " 1 ", "1x", "0e400", "-0.0",
)  # fmt: skip
JSON = (
    "1e131071", "1e131073", "0e131073", "1e-16383", "1e-16384", "9" * 131_073, "-0.0", "1.50E+3",
    '{"b":1,"aa":2,"b":3}', '"\\ud834"', '"\\ud834\\udd1e"', '"\\u0000"', "[1,]", "\f1", "",
)  # fmt: skip
JSON_PARTS = (
    "{", "}", "[", "]", ",", ":", '"a"', '"b', '"', " ", "1", "-", "-1.", "1e", "01", ".5", "1e5x", "true", "tru",
    "null", "\\", "\\u", "\\u00", "\\u0041", "\\ud834", "\\udd1e", "\\u0000", "\\x", "\\n", "\n", "\x01", "é", '"é"',
    "\\é", "NaN", "-Infinity", "+", '{"a":', '{"a":1', "[1,", '"\\ud834\\udd1e"', "_", "\t", "/", '"\\ud834"',
)  # fmt: skip
"""Texts of a few of them are mostly wrong, each in its own way."""
INTERVALS = (
    "1.5 us", "-1.5 us", "0.0000015 s", "2.5 us", "1e2 s", "1.5e1 hours", "2147483647 years", "178956971 years",
    "1_0 h", "PT", "P1", "P1DT", "P0001-02-03T04:05:06", "PT1", "P00010203T040506", "PT040506", "P-1-2", "P1-2",
    "P1Y2M3DT4H5M6.7S", "P1.5M", "P1W", "-P1D", "p1d", "P", "PT1:2:3", "P1DT1:2",
    "1 day, 2 hours", "1:", "1::2", ":1", '"1 day"', "1 day;", "1:30", "-1:30:15.5", "1:60", "1 1:30", "-1 1:30",
    "1-2", "1-12", "-1-2", "1-2 3 4:05:06", "1 day ago", "ago 1 day", "1 day ago 1 hour", "1 week 2 days",
    "1.5 mons", "1.1 years", "1.04 years", "0.1 mons", "1.7 centuries", "1 day 1 day", "1 sec 1 msec", "1.5 s 1 ms",
    "1 hour 1:00", "1", "1 2", "1 2 3", "day", "1 fortnight", "1 quarter", "infinity", "-infinity", "infinity ago",
    "1 day infinity", "@ 1 day", "", "soon", "9223372036855 s", "2147483648 days", "1 DAYS", "1d2h", "3 +days",
)  # fmt: skip
TIMES = (
    "2024-12-31", "20241231", "241231", "2024.12.31", "2024-366", "2023-366", "2024366", "2024-367", "J2460676",
    "J2460676.5", "j2460676-05", "12/31/2024", "31/12/2024", "31.12.2024", "1/2/3", "12-31-2024", "99-01-01", "999-1-1",
    "Dec 31 2024", "31 Dec 2024", "31-Dec-24", "2024 Dec 31", "Tue, 31 Dec 2024 10:11:12 +0100", "Mon 2024-12-31",
    "2024-12-31 10", "2024-12-31 10:11", "2024-12-31 1:2:3.4", "2024-12-31T101112", "20241231T101112Z", "20241231T1011-05",
    "20241231T101112.5", "2024-12-31 101112.25", "2024-12-31 T10:11", "2024-12-31 10:11:12.1234567", "2024-12-31 10:11:60",
    "2024-12-31 10:11:61", "2024-12-31 24:00", "2024-12-31 24:00:01", "2024-12-31 PM", "2024-12-31 12:30 AM",
    "2024-12-31 0:30 AM", "2024-12-31 13:00 PM", "2024-12-31 10:11+01", "2024-12-31 10:11 +01:30:15", "2024-12-31 10:11 +1:2",
    "2024-12-31 10:11 +12345", "2024-12-31 10:11-16", "2024-12-31 10:11:12Z", "2024-12-31 10:11 UTC+3",
    "2024-12-31 10:11 America/New_York", "2024-06-30 10:11 america/new_york", "2024-12-31 10:11 Nowhere/X",
    "2024-12-31 10:11 nowhere", "2024-12-31 10:11 PST", "2024-06-30 10:11 EDT", "2024-12-31 10:11 PST DST",
    "2024-12-31 10:11 IST", "2024-12-31 10:11 PST8PDT", "2024-12-31-10", "2024--12-31", "2024-12--31", "2024_1_1", "(2024-12-31)",
    "2024-12-31 on 10:11", "2024-12-31, 10:11", "2024-12-31 BC", "0000-12-31", "0000-12-31 BC", "-0001-01-01",
    "4714-11-24 BC", "4714-11-23 BC", "4715-01-01 BC", "294276-12-31 23:59:59.999999", "294276-12-31 23:59:59.9999999",
    "294277-01-01", "2147483648-01-01", "2024-99999999999-01", "2024-02-30", "2024-13-01", "2024-1-32", "2024-0-1",
    "epoch", "epoch 10:00", "infinity", "+infinity", "-infinity", "infinity UTC", "2024-12-31 allballs", "2024-12-31 10:11 10:12",
    "2024-12-31 2024-12-31", "10:11", "now 10:00", "", "  ", "never", "2024-12-31 é", "1700000000", "2024-03-31 02:30",
    "2024-10-27 02:30", "2024-03-10 02:30", "2024-11-03 01:30", "9999-07-01 12:00", "12345-07-01 12:00", "0044-03-15 BC",
)  # fmt: skip
ANY: dict[str, tuple[str, ...]] = {
    "smallint": INTEGERS, "int": INTEGERS, "bigint": INTEGERS, "numeric": NUMERICS, "float8": DOUBLES, "interval": INTERVALS,
    "timestamptz": TIMES,
}  # fmt: skip


def answer(connection: Any, query: str, text: object) -> tuple[Any, ...]:
    """The rows, or the error with all that says what was wrong."""
    try:
        return ("rows", repr(connection.execute(query, [text]).fetchall()))
    except psycopg.Error as error:
        diag = error.diag
        return (error.sqlstate, diag.message_primary, diag.message_detail, diag.message_hint)


def differences(
    sides: tuple[Any, Any], query: str, texts: tuple[str, ...], *, may_refuse: bool = False
) -> list[str]:
    """Where the two sides differ, one a line."""
    result = []
    for text in texts:
        real, emulated = (answer(connection, query, text) for connection in sides)
        is_refused = emulated[0] == "0A000" and "in-memory Absurd" in emulated[1]
        if real != emulated and not (may_refuse and is_refused):
            result.append(f"{text[:60]!r}: postgres {real}, emulator {emulated}")
    return result


@pytest.mark.parametrize("name", READ)
def test_usual_texts_are_read_as_in_postgres(sides: tuple[Any, Any], name: str) -> None:
    """Values, canonical text and errors."""
    result = differences(sides, f"select %s::text::{name}::text", READ[name])
    assert not result, "\n".join(result)


@pytest.mark.parametrize("name", ANY)
def test_other_texts_are_refused_or_read_as_in_postgres(sides: tuple[Any, Any], name: str) -> None:
    """Never another value, never another error."""
    result = differences(sides, f"select %s::text::{name}::text", ANY[name], may_refuse=True)
    assert not result, "\n".join(result)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York"])
def test_times_in_zones_with_gaps_and_overlaps(sides: tuple[Any, Any], zone: str) -> None:
    """The clock before a gap counts, in an overlap standard time."""
    for connection in sides:
        connection.execute(f"set timezone = '{zone}'")
    result = differences(sides, "select %s::text::timestamptz::text", READ["timestamptz"])
    result += differences(sides, "select %s::text::timestamptz::text", TIMES, may_refuse=True)
    for connection in sides:
        connection.execute("reset timezone")
    assert not result


def test_zones(sides: tuple[Any, Any]) -> None:
    """Names in any case, and how they are kept; offsets are refused."""
    names = ("UTC", "europe/berlin", "GMT", "Zulu", "Asia/Tokyo", "No/Where", "", "5", "Foo5")
    query = "select set_config('timezone', %s, false), '2024-07-01 12:00'::timestamptz::text"
    result = differences(sides, query, names, may_refuse=True)
    for connection in sides:
        connection.execute("reset timezone")
    assert not result


def test_jsonb(sides: tuple[Any, Any]) -> None:
    """``numeric``'s limits bind jsonb's numbers, however they are written."""
    query = "select %s::text::jsonb::text"
    for text in JSON:
        real, emulated = (answer(connection, query, text)[:2] for connection in sides)
        assert emulated == real, text


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.sampled_from(JSON_PARTS), max_size=7).map("".join))
def test_what_is_wrong_with_json(sides: tuple[Any, Any], text: str) -> None:
    """The error is Postgres', its detail in words of Python; or it is refused."""
    query = "select %s::text::jsonb::text"
    real, emulated = (answer(connection, query, text) for connection in sides)
    assert emulated[0] == "0A000" or emulated[:2] == real[:2]


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.text("abA", max_size=4),
    st.text("ab%_\\", max_size=5) | st.text("a%_", max_size=4).map("{}\\".format),
    st.sampled_from(("like", "not like", "ilike")),
)
def test_like(sides: tuple[Any, Any], text: str, pattern: str, operator: str) -> None:
    """A backslash at the end of a pattern is wrong only where matching reaches it."""
    query = f"select %s, '{text}' {operator} '{pattern.replace('%', '%%')}'"
    assert not differences(sides, query, ("",))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text("ab%\\\"\0\x7fé𝄞", max_size=4)
    | st.sampled_from(("\ud834", "\ud834𝄞", "a\udd1e", "\ud834\ud834")),
    lambda values: st.lists(values, max_size=4)
    | st.dictionaries(st.text("abé%\n", max_size=3) | st.integers(-2, 2) | st.booleans() | st.none(), values, max_size=5),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(JSON_VALUES)
def test_the_normal_form_of_a_python_value(sides: tuple[Any, Any], value: Any) -> None:
    """What the Backend stores without a connection is what Postgres makes of psycopg's text."""
    real = answer(sides[0], "select %s::jsonb::text", Jsonb(value))
    try:
        stored: tuple[Any, ...] = ("rows", repr([(jsonb.dumps(value),)]))
    except EngineError as error:
        stored = (error.sqlstate, error.message, error.detail, error.hint)
    assert stored == real


def test_uuids_after_the_year_2255_have_rounded_times(sides: tuple[Any, Any]) -> None:
    """Postgres multiplies an interval in floating point."""
    ids = (
        "ffffffff-ffff-7fff-bfff-ffffffffffff", "0bd9e8a1-ff29-7d0e-4f2e-84fcb06dbee0",
        "019432e1-5c00-7000-8000-000000000000", "019432e1-5c00-4000-8000-000000000000",
    )  # fmt: skip
    assert not differences(sides, "select absurd.uuidv7_timestamp(%s)::text", ids, may_refuse=True)


def test_a_local_setting_lasts_for_the_statement(sides: tuple[Any, Any]) -> None:
    """``set_config(..., true)`` outside a transaction is seen by its own statement only."""
    query = (
        "select set_config('absurd.fake_now', %s, true), absurd.current_time()::text, "
        "current_setting('absurd.fake_now')"
    )
    assert not differences(sides, query, ("2024-05-01 10:00+00",))
    assert not differences(sides, "select current_setting('absurd.fake_now', true), %s", ("",))


ATTEMPTS = ("-2147483648", "-2147483647", "0", "1", "2147483647")


def test_delay_of_an_attempt(sides: tuple[Any, Any]) -> None:
    """One is taken from the attempt before anything else, which the smallest integer does not bear."""
    query = "select absurd.retry_delay_seconds(%s, 1)"
    assert not differences(sides, query, ('{"kind": "fixed"}', '{"kind": "x"}'))
    for strategy in ("null", """'{"kind": "exponential"}'"""):
        query = f"select absurd.retry_delay_seconds({strategy}, %s::text::int)"
        assert not differences(sides, query, ATTEMPTS)
