"""Functions called with arguments of every type, and too few or too many of them."""

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
    return [f"select {call}" for call in calls]
