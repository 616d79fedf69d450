# ruff: noqa: E501 - a form is one word
"""Random queries on Absurd's tables: expressions by type, conditions, grouping, order.

Every query orders by all of its columns, so that the order of its rows is told. No form may fail at
some values, for which of several errors comes first is up to Postgres' planner.
"""

from __future__ import annotations

from random import Random

_LEAVES: dict[str, tuple[str, ...]] = {
    "int": ("t.attempts", "t.max_attempts", "0", "1", "-2", "7", "null::int"),
    "numeric": ("1.50", "0.001", "-2.5", "(t.params->>'f')::numeric", "avg_of.a"),
    "text": ("t.task_name", "t.state", "'t1'", "''", "'é'", "t.params->>'s'", "t.headers->>'h'"),
    "bool": ("true", "false", "null::bool", "t.attempts = 1", "t.headers is null"),
    "jsonb": ("t.params", "t.headers", "t.params->'l'", "t.params->'o'", "'[1, {\"a\": null}]'::jsonb"),
    "time": ("t.enqueue_at", "t.cancelled_at", "timestamptz '2026-11-01 00:00+00'"),
    "interval": ("interval '1 day'", "interval '90 minutes'", "interval '-1 month 3 days'"),
}  # fmt: skip
_FORMS: dict[str, tuple[str, ...]] = {
    "int": (
        "({int} + {int})", "({int} * {int})", "({int} / nullif({int}, 0))", "({int} % nullif({int}, 0))", "- {int}",
        "length({text})", "coalesce({int}, {int})", "jsonb_array_length(t.params->'l')", "abs({int})",
        "case when {bool} then {int} else {int} end", "nullif({int}, {int})", "({bool})::int",
        "strpos({text}, {text})", "({numeric})::int", "greatest({int}, {int})",
    ),
    "numeric": (
        "({numeric} + {int})", "({numeric} * {numeric})", "round({numeric}, 1)", "({int} / nullif({numeric}, 0))",
        "extract(epoch from {interval})", "extract(hour from {time})",
    ),
    "text": (
        "({text} || {text})", "upper({text})", "left({text}, {int})", "({int})::text", "({jsonb})::text",
        "({jsonb} ->> 'i')", "replace({text}, 't', {text})", "({numeric})::text", "({interval})::text",
        "coalesce({text}, 'none')", "split_part({text}, 't', 1)", "lpad({text}, 3, 'x')", "({time})::text",
        "jsonb_typeof({jsonb})", "substr({text}, 2)", "concat({text}, {int}, {bool})", "md5({text})",
    ),
    "bool": (
        "({bool} and {bool})", "({bool} or {bool})", "not {bool}", "({int} < {int})", "({text} >= {text})",
        "({int} is distinct from {int})", "({text} like '%1')", "({jsonb} ? 'i')", "({jsonb} @> {jsonb})",
        "({text} in ({text}, 't1'))", "({time} < {time})", "({numeric} = {int})", "({jsonb} = {jsonb})",
        "({int} between {int} and {int})", "({interval} > {interval})", "({text} ~ '^t')", "({bool}) is true",
        "exists (select 1 from absurd.r_q r where r.task_id = t.task_id and r.attempt = {int})",
    ),
    "jsonb": (
        "({jsonb} -> 'l')", "({jsonb} || {jsonb})", "({jsonb} #> '{{o,x}}')", "to_jsonb({int})",
        "to_jsonb({text})", "jsonb_build_object('k', {jsonb}, 'n', {numeric})", "jsonb_build_array({text}, {bool})",
        "(t.params - 'i')", "({jsonb} -> -1)", "jsonb_set(t.params, '{{i}}', {jsonb})",
    ),
    "time": (
        "({time} + {interval})", "({time} - {interval})", "date_trunc('day', {time})", "coalesce({time}, {time})",
    ),
    "interval": ("({interval} + {interval})", "({interval} * {int})", "({time} - {time})"),
}  # fmt: skip
_AGGREGATES = (
    "count(*)", "count({text})", "sum({int})", "min({text})", "max({time})", "avg({int})", "bool_or({bool})",
    "string_agg({text}, ',' order by t.task_id, avg_of.a)", "count(distinct {text})", "sum({numeric})",
    "count(*) filter (where {bool})", "jsonb_agg({jsonb} order by t.task_id, avg_of.a)",
)  # fmt: skip
_FROM = (
    "absurd.t_q t cross join (select avg(max_attempts) a from absurd.t_q) avg_of",
    "absurd.t_p t cross join (values (2.0), (0.5)) avg_of(a)",
    "absurd.t_q t left join (select task_id, attempt / 2.0 a from absurd.r_q where state = 'running') "
    "avg_of using (task_id)",
)


def expression(random: Random, kind: str, depth: int) -> str:
    """A random expression of a type."""
    if depth == 0 or random.random() < 0.25:
        return random.choice(_LEAVES[kind])
    return filled(random, random.choice(_FORMS[kind]), depth - 1)


def filled(random: Random, form: str, depth: int) -> str:
    """A form with random expressions in its places."""
    kinds = {kind for kind in _LEAVES if "{" + kind + "}" in form}
    for kind in sorted(kinds):
        while "{" + kind + "}" in form:
            form = form.replace("{" + kind + "}", expression(random, kind, depth), 1)
    return form.replace("{{", "{").replace("}}", "}")


def query(random: Random) -> str:
    """A random query."""
    source = random.choice(_FROM)
    where = f" where {expression(random, 'bool', 2)}" if random.random() < 0.5 else ""
    if random.random() < 0.35:
        key = expression(random, random.choice(("text", "bool", "int")), 1)
        made = filled(random, random.choice(_AGGREGATES), 1)
        having = f" having count(*) > {random.randrange(3)}" if random.random() < 0.3 else ""
        return f"select {key} k, {made} from {source}{where} group by 1{having} order by 1, 2"
    kinds = random.choices(sorted(_LEAVES), k=random.randint(1, 3))
    items = ", ".join(expression(random, kind, 3) for kind in kinds)
    order = ", ".join(
        f"{number}{random.choice(('', ' desc', ' nulls first'))}"
        for number in range(1, len(kinds) + 1)
    )
    distinct = "distinct " if random.random() < 0.2 else ""
    limit = f" limit {random.randint(1, 6)}" if random.random() < 0.2 else ""
    return f"select {distinct}{items} from {source}{where} order by {order}{limit}"
