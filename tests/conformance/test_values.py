# ruff: noqa: E501 - a type's inputs are one list
"""What each type takes, prints and refuses: the same text gives the same on both sides."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from absurd_contimg.backends.memory import jsonb
from absurd_contimg.backends.memory.errors import EngineError

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
ZONES = (
    "UTC", "utc", "Europe/Berlin", "europe/berlin", "-3", "5.5", "3.7512", "0", "168", "+05:30", "-05:30", "5:30", "est5edt",
    "Foo5", "<+03>-3", "UTC-3", "GMT+5:30", "ABC", "PST", "Z", "Zulu", "", "UTC ", "posix/UTC", "No/Where",
    " 5", "F!o5", "FOO168", "FOO5BAR,", "FOO5BAR,M3", "FOO5:60", "23:59:59",
)  # fmt: skip


def answer(connection: Any, query: str, text: object) -> tuple[Any, ...]:
    """The rows, or the error with all that says what was wrong."""
    try:
        return ("rows", repr(connection.execute(query, [text]).fetchall()))
    except psycopg.Error as error:
        diag = error.diag
        return (error.sqlstate, diag.message_primary, diag.message_detail, diag.message_hint)


def differences(sides: tuple[Any, Any], query: str, texts: tuple[str, ...]) -> list[str]:
    """Where the two sides part, one a line."""
    found = []
    for text in texts:
        real, mine = (answer(connection, query, text) for connection in sides)
        if real != mine:
            found.append(f"{text[:60]!r}: postgres {real}, memory {mine}")
    return found


@pytest.mark.parametrize("name", ["smallint", "integer", "bigint"])
def test_integers(sides: tuple[Any, Any], name: str) -> None:
    """An overflow is seen before the letter behind it; all bases and underscores."""
    assert not differences(sides, f"select %s::text::{name}", INTEGERS)


def test_numerics(sides: tuple[Any, Any]) -> None:
    """Underscores and other bases, not-a-number, infinity, and too many digits."""
    assert not differences(sides, "select %s::numeric", NUMERICS)


def test_doubles(sides: tuple[Any, Any]) -> None:
    """Not-a-number with a sign, and both ends of the range."""
    assert not differences(sides, "select %s::text::float8", DOUBLES)


def test_jsonb(sides: tuple[Any, Any]) -> None:
    """``numeric``'s limits bind jsonb's numbers, however they are written."""
    assert not differences(sides, "select %s::text::jsonb::text", JSON)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.sampled_from(JSON_PARTS), max_size=7).map("".join))
def test_what_is_wrong_with_json(sides: tuple[Any, Any], text: str) -> None:
    """The detail says which token was not expected; ``json`` does not look at what is escaped."""
    assert not differences(sides, "select %s::text::jsonb::text", (text,))
    assert not differences(sides, "select %s::text::json::text", (text,))


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


def test_intervals(sides: tuple[Any, Any]) -> None:
    """Postgres' verbose form, ISO 8601 with designators and in both alternative forms."""
    assert not differences(sides, "select %s::text::interval::text", INTERVALS)


@pytest.mark.parametrize("zone", ["Etc/UTC", "Europe/Berlin", "America/New_York"])
def test_times(sides: tuple[Any, Any], zone: str) -> None:
    """Every form of a date that Postgres reads, in zones with gaps and overlaps."""
    for connection in sides:
        connection.execute(f"set timezone = '{zone}'")
    found = differences(sides, "select %s::text::timestamptz::text", TIMES)
    for connection in sides:
        connection.execute("reset timezone")
    assert not found


def test_zones(sides: tuple[Any, Any]) -> None:
    """Names in any case, hours east, POSIX's offsets west; how they are kept and what they mean."""
    query = "select set_config('timezone', %s, false)"
    found = []
    for text in ZONES:
        found += differences(sides, query, (text,))
        found += differences(
            sides, "select '2024-07-01 12:00'::timestamptz::text, now() at time zone %s is null", ("UTC",)
        )  # fmt: skip
        shown = [connection.execute("show timezone").fetchone() for connection in sides]
        if shown[0] != shown[1]:
            found.append(f"{text!r} is kept as {shown}")
    for connection in sides:
        connection.execute("reset timezone")
    assert not found
    query = "select '2024-07-01 12:00+00'::timestamptz at time zone %s"
    assert not differences(sides, query, ("5", "-5:30", "Foo5", "168"))


@pytest.mark.parametrize(
    "zone", ["CET-1CEST,M3.5.0,M10.5.0/3", "FOO5BAR", "FOO5BAR4", "FOO24", "30", "5 "]
)
def test_zones_refused(sides: tuple[Any, Any], zone: str) -> None:
    """What Postgres takes and Python's time zones cannot say is refused, wherever it stands."""
    real, mine = sides
    for query in ("select set_config('timezone', %s, false)", "select now() at time zone %s"):
        real.execute(query, [zone])
        with pytest.raises(psycopg.NotSupportedError, match=zone):
            mine.execute(query, [zone])
    real.execute("reset timezone")


def test_uuids_after_the_year_2255_have_rounded_times(sides: tuple[Any, Any]) -> None:
    """Postgres multiplies an interval in floating point."""
    ids = (
        "ffffffff-ffff-7fff-bfff-ffffffffffff", "7bd9e8a1-ff29-7d0e-4f2e-84fcb06dbee0",
        "019432e1-5c00-7000-8000-000000000000", "019432e1-5c00-4000-8000-000000000000",
    )  # fmt: skip
    assert not differences(sides, "select absurd.uuidv7_timestamp(%s)::text", ids)


def test_the_last_years_are_not_infinite(sides: tuple[Any, Any]) -> None:
    """Postgres' last moment lies beyond 2**63 microseconds after 1970."""
    last = (
        "294276-01-01",
        "294276-12-31 23:59:59.999999",
        "infinity",
        "294247-01-10 04:00:54.775807",
    )
    for function in ("week_bucket_utc", "partition_week_tag", "uuidv7_floor"):
        assert not differences(sides, f"select absurd.{function}(%s)::text", last)


def test_a_local_setting_lasts_for_the_statement(sides: tuple[Any, Any]) -> None:
    """``set_config(..., true)`` outside a transaction is seen by its own statement only."""
    query = (
        "select set_config('absurd.fake_now', %s, true), absurd.current_time()::text, "
        "current_setting('absurd.fake_now')"
    )
    assert not differences(sides, query, ("2024-05-01 10:00+00",))
    assert not differences(sides, "select current_setting('absurd.fake_now', true), %s", ("",))


CASTS = (
    "'\\x80000000'::bytea::int", "'\\x03'::bytea::int2", "'\\xff'::bytea::int", "'\\xffff'::bytea::int2", "''::bytea::int8",
    "'\\x0000000001'::bytea::int", "'\\xffffffffffffffffff'::bytea::int8", "5::bytea", "-1::int2::bytea", "(-2)::int8::bytea",
    "'NaN'::float8::int", "'infinity'::float8::int8", "'-infinity'::float8::int2", "2.5::float8::int", "3.5::float8::int",
    "1e300::float8::int8", "'NaN'::numeric::int", "'infinity'::numeric::int", "2.5::int", "-2.5::int",
)  # fmt: skip
ATTEMPTS = ("-2147483648", "-2147483647", "0", "1", "2147483647")


@pytest.mark.parametrize("text", CASTS)
def test_casts(sides: tuple[Any, Any], text: str) -> None:
    """Bytes are integers since Postgres 18; what is no number is out of range, or has no cast."""
    assert not differences(sides, f"select {text} where %s = ''", ("",))


def test_delay_of_an_attempt(sides: tuple[Any, Any]) -> None:
    """One is taken from the attempt before anything else, which the smallest integer does not bear."""
    query = "select absurd.retry_delay_seconds(%s, 1)"
    assert not differences(sides, query, ('{"kind": "fixed"}', '{"kind": "x"}'))
    for strategy in ("null", """'{"kind": "exponential"}'"""):
        query = f"select absurd.retry_delay_seconds({strategy}, %s::text::int)"
        assert not differences(sides, query, ATTEMPTS)
