"""Random queries from the grammar of the supported statements: answered as Postgres does."""

from __future__ import annotations

from random import Random

from conformance.databases import Names
from conformance.test_supported_statements import Sides, answer, sides

__all__ = ["sides"]
QUERIES = 200
LEAVES = {
    "int": ("t.attempts", "t.max_attempts", "0", "3", "null::int", "(t.params ->> 'i')::int"),
    "numeric": ("1.50", "-2.5", "(t.params ->> 'f')::numeric", "null::numeric"),
    "text": ("t.task_name", "t.state", "'t1'", "''", "(t.params ->> 's')", "(t.headers ->> 'h')"),
    "bool": ("true", "null::bool", "(t.attempts = 1)", "(t.headers is null)"),
    "jsonb": ("t.params", "t.headers", "(t.params -> 'l')", "'[1, {\"a\": null}]'::jsonb"),
    "time": ("t.enqueue_at", "t.cancelled_at", "timestamptz '2026-11-01 00:00+00'"),
    "span": ("interval '1 day'", "interval '90 minutes'", "interval '-1 month 3 days'"),
}
FORMS = {
    "int": (
        "({int} + {int})", "({int} * {int})", "({int} / nullif({int}, 0))", "- {int}", "abs({int})",
        "length({text})", "coalesce({int}, {int})", "({int} % nullif({int}, 0))",
        "case when {bool} then {int} else {int} end", "greatest({int}, {int})", "({bool})::int",
        "(select count(*)::int from absurd.r_q r where r.task_id = t.task_id and r.attempt <= 2)",
    ),
    "numeric": (
        "({numeric} + {int})", "({numeric} * {numeric})", "round({numeric}, 1)",
        "({int} / nullif({numeric}, 0))", "extract(epoch from {span})", "abs({numeric})",
    ),
    "text": (
        "({text} || {text})", "upper({text})", "left({text}, {int})", "({int})::text",
        "({jsonb})::text", "({numeric})::text", "({span})::text", "({time})::text",
        "coalesce({text}, 'none')", "nullif({text}, {text})", "jsonb_typeof({jsonb})",
    ),
    "bool": (
        "({bool} and {bool})", "({bool} or {bool})", "not {bool}", "({int} < {int})",
        "({text} >= {text})", "({text} like '%1')", "({jsonb} ? 'i')", "({jsonb} @> {jsonb})",
        "({text} in ({text}, 't1'))", "({time} < {time})", "({numeric} = {int})",
        "({int} between {int} and {int})", "({span} > {span})", "({text} is null)",
        "({int} in (select attempt from absurd.r_q))", "({int} = any('{{1,2}}'))",
        "exists (select 1 from absurd.r_q r where r.task_id = t.task_id and r.attempt = {int})",
    ),
    "jsonb": ("({jsonb} -> 'o')", "({jsonb} -> 0)", "to_jsonb({numeric})", "to_jsonb({time})"),
    "time": ("({time} + {span})", "date_trunc('day', {time})", "coalesce({time}, {time})"),
    "span": ("({span} + {span})", "({time} - {time})", "({span} * {numeric})", "- {span}"),
}  # fmt: skip
AGGREGATES = (
    "count(*)", "count(distinct {text})", "sum({int})", "min({time})", "max({span})",
    "avg({numeric})", "count(t.*) filter (where {bool})",
)  # fmt: skip
SOURCES = (
    "absurd.t_q t", "absurd.t_p t", "absurd.t_q t join absurd.r_q u using (task_id)",
    "absurd.t_q t left join absurd.c_q u on u.task_id = t.task_id", "(select * from absurd.t_q) t",
)  # fmt: skip


def expression(random: Random, kind: str, depth: int) -> str:
    """An expression of a type."""
    if depth == 0 or random.random() < 0.3:
        return random.choice(LEAVES[kind])
    return filled(random, random.choice(FORMS[kind]), depth - 1)


def filled(random: Random, form: str, depth: int) -> str:
    """A form with random expressions in its places."""
    parts = {kind: expression(random, kind, depth) for kind in LEAVES}
    return form.format(**parts)


def query(seed: int) -> str:
    """A query that orders by all of its columns, so that the order of its rows is known."""
    random = Random(seed)
    source, condition = random.choice(SOURCES), expression(random, "bool", 2)
    kinds = random.choices([kind for kind in LEAVES if kind != "jsonb"], k=random.randint(1, 3))
    columns = [expression(random, kind, 2) for kind in kinds]
    group = ""
    if random.random() < 0.4:
        group = f" group by {', '.join(str(n + 1) for n in range(len(columns)))}"
        columns.append(filled(random, random.choice(AGGREGATES), 1))
    named = [f"{column} as c{n}" for n, column in enumerate(columns)]
    order = ", ".join(f"c{n}" for n in range(len(columns)))
    return f"select {', '.join(named)} from {source} where {condition}{group} order by {order}"


def test_random_queries_are_answered_as_postgres_answers_them(sides: Sides) -> None:
    """Rows, types and errors; none of them is refused."""
    differences = []
    for seed in range(QUERIES):
        text = query(seed)
        real, emulated = (answer(connection, Names(), text) for connection in sides)
        if real != emulated:
            differences.append(f"{seed}: {text}\n  postgres {real}\n  emulator {emulated}")
    assert not differences, f"{len(differences)} of {QUERIES}\n" + "\n".join(differences[:10])
