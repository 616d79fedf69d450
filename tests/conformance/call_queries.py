"""Functions and operators with arguments of every type, and too few or too many of them."""

from __future__ import annotations

from itertools import product
from random import Random

from absurd_contimg.backends.memory.sql.registry import BUILTINS, POLYMORPHIC

ARGUMENTS = (
    "'5'", "null", "'ab'::text", "'ab'::varchar", "'ab'::name", "2::smallint", "3", "4::bigint",
    "1.5", "2.5::float8", "true", "date '2024-02-29'", "timestamp '2024-02-29 12:34:56'",
    "timestamptz '2024-02-29 12:34:56+00'", "interval '1 day 02:00'", "'{\"a\": 1}'::jsonb",
    "'[1]'::json", "'01980000-0000-7000-8000-000000000001'::uuid", "array['a','b']", "array[1,2]",
    "'\\x01'::bytea",
)  # fmt: skip
OPERATORS = (
    "||", "->", "->>", "#>", "#>>", "@>", "<@", "?", "?|", "?&", "-", "#-", "&&", "~", "~*", "!~",
    "like", "ilike", "similar to", "^@", "=", "<", "+", "*", "is distinct from", "at time zone",
)  # fmt: skip
TYPES = (
    "text", "varchar", "name", "smallint", "int", "bigint", "numeric", "float8", "bool", "date",
    "timestamp", "timestamptz", "interval", "jsonb", "json", "uuid", "text[]", "int[]", "bytea",
    "varchar(1)", "numeric(5,2)", "timestamptz(0)", "oid",
)  # fmt: skip
AGGREGATES = (
    "count", "sum", "avg", "min", "max", "bool_and", "bool_or", "every", "array_agg", "jsonb_agg",
    "json_agg", "stddev", "variance", "stddev_pop", "var_samp", "bit_and", "bit_or", "bit_xor",
    "any_value",
)  # fmt: skip
WINDOWS = ("rank", "ntile", "lag", "lead", "first_value", "last_value", "nth_value", "sum", "count")
_NOT_ALIKE = frozenset({
    "clock_timestamp", "current_catalog", "current_database", "gen_random_uuid", "now",
    "pg_backend_pid", "pg_sleep", "random", "set_config", "setseed", "statement_timestamp",
    "transaction_timestamp", "txid_current", "uuidv4", "uuidv7", "version",
})  # fmt: skip
"""They answer by chance, by the time, or by where they are."""
_OTHER_FORMS = frozenset({
    "array_position", "current_timestamp", "length", "localtimestamp", "overlay", "position",
    "row_to_json", "substring", "timezone", "to_regclass",
})  # fmt: skip
"""Postgres has forms of them, or refusals, that the emulator has not."""


def call_queries() -> list[str]:
    """Each function without arguments, with each one, and with some twos and threes."""
    chance = Random(1)
    pairs = list(product(ARGUMENTS, ARGUMENTS))
    calls: list[str] = []
    for name in sorted({*BUILTINS, *POLYMORPHIC} - _NOT_ALIKE - _OTHER_FORMS):
        calls.append(f"{name}()")
        calls += [f"{name}({one})" for one in ARGUMENTS]
        calls += [f"{name}({one}, {other})" for one, other in chance.sample(pairs, 100)]
        calls += [f"{name}({', '.join(chance.choices(ARGUMENTS, k=3))})" for _ in range(50)]
    return [f"select {call}" for call in calls + _operators() + _aggregates(chance)]


def _operators() -> list[str]:
    """Each operator between each two arguments, and each argument cast to each type."""
    found = [
        f"{one} {operator} {other}"
        for operator, one, other in product(OPERATORS, ARGUMENTS, ARGUMENTS)
        if operator not in ("@>", "<@") or not {one, other} & {"'5'", "null"}
    ]  # beside a literal of no type Postgres finds more of these, of ranges and points
    return found + [f"({one})::{kind}" for one, kind in product(ARGUMENTS, TYPES)]


def _aggregates(chance: Random) -> list[str]:
    """Each aggregate and window function of each argument."""
    found: list[str] = []
    for name, one in product(AGGREGATES, ARGUMENTS):
        other = chance.choice(ARGUMENTS)
        found += [f"{name}({one})", f"{name}(distinct {one})", f"{name}({one}, {other})"]
    for name, one in product(("string_agg", "jsonb_object_agg", "json_object_agg"), ARGUMENTS):
        found += [f"{name}({one}, {chance.choice(ARGUMENTS)})", f"{name}({one}, ',')"]
    for name, one in product(WINDOWS, ARGUMENTS):
        other, third = chance.choices(ARGUMENTS, k=2)
        found += [f"{name}({one}) over ()", f"{name}({one}, {other}) over (order by {third})"]
    ordered = ("mode()", "percentile_cont(0.5)", "percentile_disc(0.5)")
    return found + [
        f"{call} within group (order by {one})" for call, one in product(ordered, ARGUMENTS)
    ]
