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
    "text": ("t.task_name", "t.state", "'t1'", "''", "'é'", "(t.params->>'s')", "(t.headers->>'h')"),
    "bool": ("true", "false", "null::bool", "(t.attempts = 1)", "(t.headers is null)"),
    "jsonb": ("t.params", "t.headers", "(t.params->'l')", "(t.params->'o')", "'[1, {\"a\": null}]'::jsonb"),
    "time": ("t.enqueue_at", "t.cancelled_at", "timestamptz '2026-11-01 00:00+00'"),
    "interval": ("interval '1 day'", "interval '90 minutes'", "interval '-1 month 3 days'"),
}  # fmt: skip
_FORMS: dict[str, tuple[str, ...]] = {
    "int": (
        "({int} + {int})", "({int} * {int})", "({int} / nullif({int}, 0))", "({int} % nullif({int}, 0))", "- {int}",
        "length({text})", "coalesce({int}, {int})", "jsonb_array_length(t.params->'l')", "abs({int})",
        "case when {bool} then {int} else {int} end", "nullif({int}, {int})", "({bool})::int",
        "strpos({text}, {text})", "({numeric})::int", "greatest({int}, {int})", "div({int}, nullif({int}, 0))::int",
        "array_length(string_to_array({text}, 't'), 1)", "(array[{int}, {int}])[2]", "least({int}, {int}, {int})",
        "(select count(*)::int from absurd.c_q c where c.task_id = t.task_id)", "position({text} in {text})",
        "num_nulls({int}, {text}, {jsonb})", "coalesce(array_position(array[{text}, 't1'], {text}), 0)", "octet_length({text})",
        "int '7' * {int}", "extract(epoch from {interval})::int", "({int} & {int})", "sign({int})::int",
    ),
    "numeric": (
        "({numeric} + {int})", "({numeric} * {numeric})", "round({numeric}, 1)", "({int} / nullif({numeric}, 0))",
        "extract(epoch from {interval})", "extract(hour from {time})", "extract(dow from {time})", "trunc({numeric}, 1)",
        "ceil({numeric})", "abs({numeric})", "({numeric} - {numeric})", "coalesce({numeric}, {int})", "({numeric} % nullif({numeric}, 0))",
        "case when {bool} then {numeric} else {int} end", "numeric '1.20' * {int}", "(select sum(r.attempt) from absurd.r_q r where r.task_id = t.task_id)",
    ),
    "text": (
        "({text} || {text})", "upper({text})", "left({text}, {int})", "({int})::text", "({jsonb})::text",
        "({jsonb} ->> 'i')", "replace({text}, 't', {text})", "({numeric})::text", "({interval})::text",
        "coalesce({text}, 'none')", "split_part({text}, 't', 1)", "lpad({text}, 3, 'x')", "({time})::text",
        "jsonb_typeof({jsonb})", "substr({text}, 2)", "concat({text}, {int}, {bool})", "md5({text})",
        "concat_ws('-', {text}, ({int})::text, {text})", "format('%s/%s', {text}, {int})", "initcap({text})", "reverse({text})",
        "to_char({time}, 'YYYY-MM-DD HH24:MI TZ')", "regexp_replace({text}, '[0-9]+', '#')", "trim(both 't' from {text})",
        "({text} || {int})", "case when {bool} then {text} end", "nullif({text}, {text})", "date '2026-01-05'::text || {text}",
        "array_to_string(array[{text}, {text}], '+', '?')", "substring({text} from 1 for 2)", "repeat({text}, 2)", "({bool})::text",
        "translate({text}, 't1', 'x')", "(select string_agg(r.state, ',' order by r.state) from absurd.r_q r where r.task_id = t.task_id)",
    ),
    "bool": (
        "({bool} and {bool})", "({bool} or {bool})", "not {bool}", "({int} < {int})", "({text} >= {text})",
        "({int} is distinct from {int})", "({text} like '%1')", "({jsonb} ? 'i')", "({jsonb} @> {jsonb})",
        "({text} in ({text}, 't1'))", "({time} < {time})", "({numeric} = {int})", "({jsonb} = {jsonb})",
        "({int} between {int} and {int})", "({interval} > {interval})", "({text} ~ '^t')", "(({bool}) is true)",
        "exists (select 1 from absurd.r_q r where r.task_id = t.task_id and r.attempt = {int})",
        "({int} = any (array[{int}, {int}]))", "({text} <> all (array[{text}, 't1']))", "({int} in (select attempt from absurd.r_q))",
        "({int} not in (1, {int}))", "({text} similar to 't(0|1)%')", "({text} ilike {text})", "(({int}, {text}) < ({int}, {text}))",
        "({jsonb} <@ {jsonb})", "({jsonb} ?| array['i', {text}])", "({bool} is not distinct from {bool})", "({bool} is unknown)",
        "({time} between {time} and {time})", "starts_with({text}, 't')",
    ),
    "jsonb": (
        "({jsonb} -> 'l')", "({jsonb} || {jsonb})", "({jsonb} #> '{{o,x}}')", "to_jsonb({int})",
        "to_jsonb({text})", "jsonb_build_object('k', {jsonb}, 'n', {numeric})", "jsonb_build_array({text}, {bool})",
        "(t.params - 'i')", "({jsonb} -> -1)", "jsonb_set(t.params, '{{i}}', {jsonb})",
        "({jsonb} -> {int})", "to_jsonb({numeric})", "to_jsonb({time})", "to_jsonb({interval})", "to_jsonb({bool})", "jsonb_strip_nulls({jsonb})",
        "to_jsonb(array[{int}, {int}])", "jsonb_build_object('a', {text}, 'b', {time}, 'c', array[{text}, 'c'])", "coalesce({jsonb}, {jsonb})",
        "(select jsonb_agg(r.state order by r.state) from absurd.r_q r where r.task_id = t.task_id)", "(t.params #- '{{o}}')", "row_to_json(row({int}, {text}))::jsonb",
        "to_jsonb(row({int}, {jsonb}, {interval}))", "jsonb_insert(t.params, '{{l,0}}', coalesce({jsonb}, '0'))", "case when {bool} then {jsonb} end",
    ),
    "time": (
        "({time} + {interval})", "({time} - {interval})", "date_trunc('day', {time})", "coalesce({time}, {time})",
        "date_trunc('week', {time})", "date_bin('15 minutes', {time}, timestamptz '2026-01-01')", "greatest({time}, {time})", "({time})::date::timestamptz",
        "to_timestamp({int})", "(({time} at time zone 'America/Los_Angeles') at time zone 'UTC')", "case when {bool} then {time} else {time} end",
    ),
    "interval": (
        "({interval} + {interval})", "({interval} * {int})", "({time} - {time})", "- {interval}", "make_interval(days => {int}, hours => {int})",
        "justify_hours({interval})", "coalesce({interval}, {interval})", "least({interval}, {interval})", "({interval} / 2)", "({int} * interval '1 hour')",
        "age({time}, {time})",
    ),
}  # fmt: skip
_AGGREGATES = (
    "count(*)",
    "count({text})",
    "sum({int})",
    "min({text})",
    "max({time})",
    "avg({int})",
    "bool_or({bool})",
    "string_agg({text}, ',' order by t.task_id, avg_of.a)",
    "count(distinct {text})",
    "round(sum({numeric}), 6)",
    "count(*) filter (where {bool})",
    "jsonb_agg({jsonb} order by t.task_id, avg_of.a)",
    "array_agg({int} order by t.task_id, avg_of.a)",
    "round(stddev({int}), 6)",
    "round(variance({numeric}), 6)",
    "bool_and({bool})",
    "max({text})",
    "min({interval})",
    "percentile_disc(0.5) within group (order by {text})",
    "percentile_cont(0.25) within group (order by {int})",
    "jsonb_object_agg(coalesce({text}, ''), {int} order by t.task_id, avg_of.a)",
    "count(distinct {int})",
    "sum({interval})",
    "avg({interval})",
    "array_agg(distinct {text} order by {text})",
    "string_agg(distinct {text}, ',')",
    "sum({int}) filter (where {bool})",
    "round(avg({numeric}), 6)",
    "round(min({numeric}), 6)",
    "every({bool})",
    "max({int}) - min({int})",
)
_WINDOWS = (
    "row_number() over ({over})", "rank() over (partition by {key})", "sum({int}) over ({over})", "count(*) over (partition by {key})",
    "lag({text}) over ({over})", "lead({int}, 2, 0) over ({over})", "first_value({text}) over ({over})", "ntile(3) over ({over})",
    "sum({int}) over ({over} rows between 1 preceding and current row)", "count({text}) over ({over} rows between 1 following and 2 following)",
    "last_value({int}) over ({over} rows between unbounded preceding and unbounded following)", "nth_value({text}, 2) over ({over})",
    "max({int}) over (partition by {key} order by t.task_name)", "avg({int}) over (order by t.task_name range between current row and unbounded following)",
    "dense_rank() over (order by {key} nulls first)", "string_agg({text}, '.') over ({over} rows 2 preceding)", "percent_rank() over (order by {key})",
)  # fmt: skip
_FROM = (
    "absurd.t_q t cross join (select avg(max_attempts) a from absurd.t_q) avg_of",
    "absurd.t_p t cross join (values (2.0), (0.5)) avg_of(a)",
    "absurd.t_q t left join (select task_id, attempt / 2.0 a from absurd.r_q where state = 'running') "
    "avg_of using (task_id)",
    "absurd.t_q t cross join lateral (select max(r.attempt) + 0.5 a from absurd.r_q r where r.task_id = t.task_id) avg_of",
    "absurd.t_q t cross join lateral (select (e.n / 2.0)::numeric a from jsonb_array_elements(t.params->'l') with ordinality e(v, n)) avg_of",
    "(select i / 2.0 a from generate_series(1, 3) i) avg_of left join absurd.t_q t on t.attempts > avg_of.a",
    "(select * from absurd.t_q where state = 'running') t right join (select attempt + 0.25 a, run_id from absurd.r_q) avg_of "
    "on avg_of.run_id = t.last_attempt_run",
    "absurd.t_q t full join (values (1.0, 't1'), (2.5, 'zz')) avg_of(a, n) on avg_of.n = t.task_name",
    "(select *, row_number() over (order by task_id) rn from absurd.t_q) t join (select 0.1::numeric a) avg_of on t.rn % 2 = 0",
)


def expression(random: Random, kind: str, depth: int) -> str:
    """A random expression of a type."""
    if depth == 0 or random.random() < 0.25:
        return random.choice(_LEAVES[kind])
    return filled(random, random.choice(_FORMS[kind]), depth - 1)


def column(random: Random, kind: str, depth: int) -> str:
    """An expression to order by: numerics of one scale, so that equal ones are told apart."""
    made = expression(random, kind, depth)
    return f"round({made}, 6)" if kind == "numeric" else made


def filled(random: Random, form: str, depth: int) -> str:
    """A form with random expressions in its places."""
    kinds = {kind for kind in _LEAVES if "{" + kind + "}" in form}
    for kind in sorted(kinds):
        while "{" + kind + "}" in form:
            form = form.replace("{" + kind + "}", expression(random, kind, depth), 1)
    return form.replace("{{", "{").replace("}}", "}")


def windowed(random: Random) -> str:
    """A window function over rows in an order that is told whole."""
    form = random.choice(_WINDOWS)
    key = expression(random, random.choice(("text", "bool", "int")), 1)
    part = f"partition by {key} " if random.random() < 0.5 else ""
    form = form.replace("{over}", f"{part}order by t.task_id, avg_of.a").replace("{key}", key)
    return filled(random, form, 1)


def query(random: Random) -> str:
    """A random query."""
    source = random.choice(_FROM)
    where = f" where {expression(random, 'bool', 2)}" if random.random() < 0.5 else ""
    if random.random() < 0.3:
        return _grouped(random, source, where)
    if random.random() < 0.1:
        return _combined(random)
    kinds = random.choices(sorted(_LEAVES), k=random.randint(1, 3))
    items = [column(random, kind, 3) for kind in kinds]
    if random.random() < 0.25:
        items.append(windowed(random))
    order = ", ".join(
        f"{number}{random.choice(('', ' desc', ' nulls first'))}"
        for number in range(1, len(items) + 1)
    )
    distinct = "distinct " if random.random() < 0.2 else ""
    limit = f" limit {random.randint(1, 6)}" if random.random() < 0.2 else ""
    text = f"select {distinct}{', '.join(items)} from {source}{where} order by {order}{limit}"
    if random.random() < 0.1:
        names = ", ".join(f"c{number}" for number in range(1, len(items) + 1))
        return f"with w({names}) as ({text}) select *, count(*) over () from w order by {order}"
    return text


def _grouped(random: Random, source: str, where: str) -> str:
    key = expression(random, random.choice(("text", "bool", "int")), 1)
    made = ", ".join(filled(random, random.choice(_AGGREGATES), 1) for _ in range(2))
    having = f" having count(*) > {random.randrange(3)}" if random.random() < 0.3 else ""
    other = expression(random, random.choice(("text", "bool", "int")), 1)
    if random.random() < 0.6 or other == key:
        return f"select {key} k, {made} from {source}{where} group by 1{having} order by 1, 2, 3"
    sets = random.choice(_SETS)
    return (
        f"select {key} k, {other} l, grouping({key}, {other}) g, {made} from {source}{where} "
        f"group by {sets}{having} order by 1, 2, 3, 4, 5"
    )


_SETS = (
    "rollup(1, 2)",
    "rollup(2, 1)",
    "cube(1, 2)",
    "1, rollup(2)",
    "grouping sets ((1), (2), ())",
    "distinct rollup((1, 2)), cube(1)",
)


def _combined(random: Random) -> str:
    """Two queries of the same types in a set operation."""
    word = random.choice(("union", "union all", "intersect", "except", "except all"))
    kinds = random.choices(sorted(_LEAVES), k=2)
    sides = []
    for _ in range(2):
        items = ", ".join(column(random, kind, 2) for kind in kinds)
        sides.append(f"select {items} from {random.choice(_FROM)}")
    return f"{sides[0]} {word} {sides[1]} order by 1, 2"
