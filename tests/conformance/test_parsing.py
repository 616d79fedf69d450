# ruff: noqa: E501 - a statement is one line
"""What is found out before a statement runs, and in which order: the same error on both sides."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

Sides = tuple[Any, Any]


def answer(connection: Any, text: str, params: Any = None) -> tuple[Any, ...]:
    """The columns' types and the rows, the tag without rows, or all that says what was wrong."""
    try:
        cursor = connection.execute(text, params)
        if cursor.description is None:
            return (cursor.statusmessage, cursor.rowcount)
        return ([column.type_code for column in cursor.description], repr(cursor.fetchall()))
    except psycopg.Error as error:
        diag = error.diag
        return (error.sqlstate, diag.message_primary, diag.message_detail, diag.message_hint)


def check(sides: Sides, text: str, params: Any = None) -> tuple[Any, ...]:
    """The answer of both sides, which is one."""
    real, ours = (answer(connection, text, params) for connection in sides)
    assert ours == real
    return real


@pytest.mark.parametrize(
    "number",
    [
        "-2147483648", "- 2147483648", "-(2147483648)", "-(-2147483648)", "- - 5", "2147483648", "-2147483649",
        "-9223372036854775808", "-(-9223372036854775808)", "9223372036854775808", "-9223372036854775809",
        "-0", "-0.0", "-(0.5)", "1 - -2147483648", "-2147483648::int4", "(-2147483648)::int4",
    ],
)  # fmt: skip
def test_a_number_is_read_with_its_sign(sides: Sides, number: str) -> None:
    """The smallest int4 and int8 are of their types though their digits alone are not."""
    check(sides, f"select {number}")


@pytest.mark.parametrize(
    "call",
    [
        "absurd.create_queue(p_queue_name => 'q', 'x')",
        "absurd.create_queue(p_queue_name => 'q', p_queue_name => 'x')",
        "absurd.nosuch(p_queue_name => 'q', 'x')",
    ],
)
def test_names_of_arguments_come_last_and_once(sides: Sides, call: str) -> None:
    """42601 with Postgres' words, whether there is such a function or not."""
    assert check(sides, f"select {call}")[0] == "42601"


@pytest.mark.parametrize(
    "text",
    [
        "select absurd.nosuch('x'::uuid)",
        "select absurd.cancel_task(5, 'x'::uuid)",
        "select 1 + cast('x' as uuid)",
        "select 'a'::int + 'b'::uuid",
        "select timestamptz 'x', nocolumn",
        "select nocolumn, timestamptz 'x'",
        "select coalesce(1, 'x'), absurd.nosuch(1)",
        "select 1 = 'x', absurd.nosuch(1)",
        "select absurd.nosuch(1), 1 = 'x'",
        "select 1 = 'x' from nosuch",
        "select absurd.extend_claim('q', 'x')",
        "select 'a'::int where 'b'::uuid is null",
        "select 1 where 'x'::uuid is null order by nocolumn",
        "select 1 limit 'x' offset 'y'",
        "insert into absurd.queues (queue_name, cleanup_limit, nocolumn) values ('a', 'b', 1)",
    ],
)
def test_what_is_wrong_first_is_reported(sides: Sides, text: str) -> None:
    """A literal is read where it stands: before the function around it is looked up."""
    check(sides, text)


@pytest.mark.parametrize(
    ("text", "params"),
    [
        ("select %s::int where %s::uuid is null", ["a", "b"]),
        ("select (select %s::int) from (select %s::uuid) x", ["a", "b"]),
        ("select %(b)s::int, %(a)s::uuid, %(b)s::text", {"a": "x", "b": "y"}),
        ("select %s::int limit %s offset %s", ["1", "x", "y"]),
        ("select absurd.cancel_task(%s, %s)", ["q", "x"]),
        ("select absurd.nosuch(%s::uuid)", ["x"]),
        ("select 'x'::int, %s", [Jsonb({"a": "\0"})]),
        ("select %s::uuid, %s::jsonb", ["x", Jsonb({"a": "\0"})]),
        ("select %s::jsonb, %s::uuid", [Jsonb({"a": "\0"}), "x"]),
    ],
)  # fmt: skip
def test_parameters_are_read_in_order_after_the_statement(
    sides: Sides, text: str, params: Any
) -> None:
    """Whatever is wrong with the statement comes first, then the first parameter that is bad."""
    check(sides, text, params)
