# ruff: noqa: E501 - a statement is one line
"""The contract of the emulator's SQL: what it supports, by construct, and what it refuses.

Every statement of `SUPPORTED` runs on Postgres and on the emulator, in this order, and everything
that a client sees is compared. They are what absurd-sdk, absurdctl and our Postgres backend send,
and what a person sends who looks at the tables. Every statement of `REFUSED` is refused before
anything of it runs. Add a statement here before you add it to `absurd_contimg.backends.memory.sql`.
"""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

Statement = str | tuple[str, Any]
ID = UUID(int=5)
DAY = dt.datetime(2026, 11, 22, tzinfo=dt.UTC)
NIL = "00000000-0000-0000-0000-000000000001"

SDK: tuple[Statement, ...] = (
    ("SELECT absurd.create_queue(%s)", ("sdk",)),
    ("SELECT absurd.create_queue(%s, %s)", ("sdk2", "partitioned")),
    ("SELECT absurd.set_queue_policy(%s, %s::jsonb)", ("sdk", '{"cleanup_ttl": "2 days"}')),
    (
        "SELECT queue_name, storage_mode, default_partition, partition_lookahead, partition_lookback, cleanup_ttl, cleanup_limit, detach_mode, detach_min_age FROM absurd.get_queue_policy(%s)",
        ("sdk",),
    ),
    "SELECT * FROM absurd.list_queues()",
    (
        "SELECT task_id, run_id, attempt FROM absurd.spawn_task(%s, %s, %s, %s)",
        ("sdk", "a", Jsonb({"b": 1}), Jsonb({"max_attempts": 2})),
    ),
    (
        "SELECT run_id, task_id, attempt, task_name, params, retry_strategy, max_attempts, headers, wake_event, event_payload FROM absurd.claim_task(%s, %s, %s, %s)",
        ("sdk", "w", 60, 1),
    ),
    (
        "SELECT checkpoint_name, state, status, owner_run_id, updated_at FROM absurd.get_task_checkpoint_states(%s, %s, %s)",
        ("sdk", ID, ID),
    ),
    (
        "SELECT checkpoint_name, state, status, owner_run_id, updated_at FROM absurd.get_task_checkpoint_state(%s, %s, %s)",
        ("sdk", ID, "s"),
    ),
    (
        "SELECT absurd.set_task_checkpoint_state(%s, %s, %s, %s, %s, %s)",
        ("sdk", ID, "s", Jsonb(1), ID, 60),
    ),
    ("SELECT absurd.extend_claim(%s, %s, %s)", ("sdk", ID, 60)),
    (
        "SELECT should_suspend, payload FROM absurd.await_event(%s, %s, %s, %s, %s, %s)",
        ("sdk", ID, ID, "s", "e", None),
    ),
    ("SELECT absurd.emit_event(%s, %s, %s)", ("sdk", "e", Jsonb(None))),
    (
        "SELECT absurd.schedule_run(%s, %s, absurd.current_time() + make_interval(secs => %s::double precision))",
        ("sdk", ID, 1.5),
    ),
    (
        "SELECT absurd.schedule_run(%s, %s, absurd.current_time() + make_interval(secs => %s::int))",
        ("sdk", ID, 5),
    ),
    ("SELECT absurd.complete_run(%s, %s, %s)", ("sdk", ID, Jsonb({}))),
    ("SELECT absurd.fail_run(%s, %s, %s, %s)", ("sdk", ID, Jsonb({}), None)),
    (
        "SELECT task_id, run_id, attempt, created FROM absurd.retry_task(%s, %s, %s)",
        ("sdk", ID, Jsonb({})),
    ),
    ("SELECT absurd.cancel_task(%s, %s)", ("sdk", ID)),
    ("SELECT state, result, failure_reason FROM absurd.get_task_result(%s, %s)", ("sdk", str(ID))),
    ("SELECT absurd.drop_queue(%s)", ("sdk",)),
    ("SELECT absurd.drop_queue(%s)", ("sdk2",)),
)

ABSURDCTL: tuple[Statement, ...] = (
    ("SELECT COUNT(*) FROM absurd.queues WHERE queue_name = %s;", ("q",)),
    "SELECT absurd.get_schema_version();",
    (
        "SELECT COUNT(*) FROM absurd.t_q t LEFT JOIN absurd.r_q r ON r.run_id = t.last_attempt_run WHERE t.state IN ('completed', 'failed', 'cancelled') AND ((t.state = 'completed' AND r.completed_at < NOW() - make_interval(secs => %(ttl)s::int)) OR (t.state = 'failed' AND r.failed_at < NOW() - make_interval(secs => %(ttl)s::int)) OR (t.state = 'cancelled' AND t.cancelled_at < NOW() - make_interval(secs => %(ttl)s::int)));",
        {"ttl": "60"},
    ),
    (
        "SELECT COUNT(*) FROM absurd.e_q WHERE emitted_at < NOW() - make_interval(secs => %s::int);",
        ("0",),
    ),
    ("SELECT absurd.cleanup_tasks(%s, %s::int, %s::int);", ("q", "100000", "10")),
    ("SELECT absurd.cleanup_events(%s, %s::int, %s::int);", ("q", "100000", "10")),
    (
        "SELECT queue_name, partition_lookahead::text, partition_lookback::text, cleanup_ttl::text, cleanup_limit, detach_min_age::text FROM absurd.get_queue_policy(%s)",
        ("p",),
    ),
    "SELECT job_name, job_id FROM absurd.disable_cron(null::text) ORDER BY job_name",
    (
        "SELECT queue_name, parent_table, partition_table FROM absurd.list_detach_candidates(null::text) WHERE partition_table = %s ORDER BY queue_name, parent_table, partition_table",
        ("x",),
    ),
    ("SELECT absurd.drop_detached_partition(%s);", ("x",)),
    (
        "SELECT t.task_id, r.run_id, t.task_name, %s as queue_name, t.state, r.attempt, t.max_attempts, COALESCE(r.completed_at, r.failed_at, r.started_at, r.created_at) AS updated_at FROM absurd.t_q t LEFT JOIN absurd.r_q r ON r.run_id = t.last_attempt_run WHERE t.state = %s AND t.task_name = %s ORDER BY updated_at DESC, 1 LIMIT 50",
        ("q", "pending", "t1"),
    ),
    ("SELECT task_id FROM absurd.r_q WHERE run_id = %s;", (str(ID),)),
    (
        "SELECT t.task_id, r.run_id, r.state as run_state, t.params, COALESCE(r.failure_reason, r.result) AS final_state, COALESCE(r.completed_at, r.failed_at, r.started_at, r.created_at) AS updated_at, r.claimed_by FROM absurd.t_q t JOIN absurd.r_q r ON r.task_id = t.task_id WHERE t.task_name = %s ORDER BY r.attempt DESC, 1",
        ("t2",),
    ),
    (
        "SELECT checkpoint_name, state, status, owner_run_id, updated_at FROM absurd.c_q WHERE task_id = %s AND owner_run_id = %s ORDER BY updated_at DESC",
        (str(ID), str(ID)),
    ),
    "SELECT CASE WHEN r.wake_event IS NOT NULL THEN 'event' WHEN r.available_at IS NOT NULL THEN 'sleep' ELSE NULL END AS wait_type, r.available_at, w.step_name, r.event_payload, e.payload as event_payload_emitted, e.emitted_at, COALESCE(w.created_at, r.started_at) as updated_at FROM absurd.r_q r LEFT JOIN absurd.w_q w ON w.run_id = r.run_id LEFT JOIN absurd.e_q e ON e.event_name = r.wake_event AND e.payload IS NOT NULL ORDER BY r.run_id",
    ("SELECT absurd.emit_event(%s, %s, %s::jsonb);", ("q", "e2", '{"a": 1}')),
)

BACKEND: tuple[Statement, ...] = (
    "select queue_name from absurd.list_queues() order by 1",
    "select state, count(*) from absurd.t_q group by 1 order by 1",
    "select count(*), extract(epoch from absurd.current_time() - min(r.available_at)) from absurd.r_q r join absurd.t_q t using (task_id) where r.state in ('pending', 'sleeping') and t.state in ('pending', 'sleeping', 'running') and r.available_at <= absurd.current_time()",
    "select count(*) from absurd.r_q where state = 'running' and claim_expires_at <= absurd.current_time()",
    (
        "select task_id, task_name from absurd.t_q where (%s::text[] is null or state = any(%s)) and (%s::text is null or task_name = %s) order by task_id desc limit %s",
        (["pending", "running"], ["pending", "running"], None, None, 3),
    ),
    (
        "select run_id, state from absurd.r_q where (%s::text[] is null or state = any(%s)) and (%s::text is null or claimed_by = %s) order by run_id limit %s",
        (None, None, "w", "w", 100),
    ),
    ("select task_id from absurd.r_q where run_id = %s for update", (ID,)),
    (
        "update absurd.t_q t set max_attempts = r.attempt from absurd.r_q r where r.run_id = %s and t.task_id = r.task_id and r.state in ('running', 'sleeping')",
        (ID,),
    ),
    "set time zone 'UTC'",
    "select absurd.current_time()",
)

PROCEDURES: tuple[Statement, ...] = (
    "select absurd.list_queues()",
    "select attempt, created from absurd.spawn_task('q', 'extra', '{}', '{\"idempotency_key\": \"k\"}')",
    "select attempt, created from absurd.spawn_task(p_queue_name => 'q', p_task_name => 'extra', p_params => '{}', p_options => '{\"idempotency_key\": \"k\"}')",
    "select run_id from absurd.claim_task('q', 'w', p_qty => 0) as c where true",
    "select absurd.uuidv7_timestamp(absurd.uuidv7_floor('2026-11-22')), absurd.week_bucket_utc(null), absurd.partition_week_tag('2026-11-22')",
    'select absurd.retry_delay_seconds(\'{"kind": "fixed", "base_seconds": 7}\', 3)',
    'select a, absurd.retry_delay_seconds(a, b) from (values (\'{"kind": "exponential"}\'::jsonb, 1), (null, 2)) as v(a, b)',
    "select t.task_name, r.state from absurd.t_q t, absurd.get_task_result('q', t.task_id) r order by t.task_id",
    "select t.task_name, r.state from absurd.t_q t cross join absurd.get_task_result('q', t.task_id) r where t.task_name = 't1' order by t.task_id",
    "select q.queue_name, p.cleanup_limit from absurd.list_queues() q, absurd.get_queue_policy(q.queue_name) p order by 1",
    "select absurd.nosuch(1)",
    "select absurd.create_queue(1)",
    "select absurd.create_queue(p_name => 'x')",
    "select absurd.spawn_task('q', '', '{}')",
    "select absurd.spawn_task('q', 't', '{')",
    "select absurd.spawn_task('q', 't', '{}', '{\"retry_strategy\": 5}')",
    "select absurd.claim_task('none', 'w')",
    ("select absurd.cancel_task(%s, %s)", ("q", "x")),
    "select absurd.create_queue(p_queue_name => 'q', 'x')",
    "select absurd.spawn_task('q', 't') from absurd.t_q",
)

SESSIONS: tuple[Statement, ...] = (
    "set absurd.note = 'a'", "select current_setting('absurd.note')", "show absurd.note", "set local absurd.note = 'b'",
    "select set_config('absurd.note', 'b', false)", "reset absurd.note", "select current_setting('absurd.note', true)",
    "set absurd.note = default", "select current_setting('absurd.nope')", "select current_setting('absurd.nope', true)",
    "show timezone", "set timezone = 'Europe/Vienna'", "select timestamptz '2026-07-01 12:00+00'::text, '2026-07-01 12:00'::timestamptz",
    "select enqueue_at::text, to_jsonb(enqueue_at), date_trunc('day', enqueue_at) from absurd.t_q order by task_id limit 1",
    "set timezone = 'Nowhere'", "set timezone to default", "set lock_timeout = '50ms'", "show lock_timeout", "reset lock_timeout",
    "begin", "select 1", "savepoint a", "select 1 / 0", "select 1", "rollback to savepoint a",
    "release savepoint a", "commit", "savepoint a",
    "begin", "select 1 / 0", "commit", "start transaction", "end", "abort", "rollback", "show time zone",
    "select 1; select 2", "", "-- nothing",
)  # fmt: skip

READS: tuple[Statement, ...] = (
    "select * from absurd.t_q order by task_id",
    "select * from absurd.r_q order by run_id",
    "select * from absurd.c_q order by checkpoint_name, task_id",
    "select * from absurd.e_q order by event_name",
    "select * from absurd.w_q",
    "select * from absurd.i_p",
    "select queue_name, storage_mode, cleanup_ttl from absurd.queues order by queue_name",
    "select t.* from absurd.t_q t where attempts >= 1 order by t.task_id",
    'select task_name as "Task Name", t.state s from absurd.t_q as t order by task_id offset 2 limit 3',
    "select count(*) from absurd.t_p_d",
    "select task_name n, attempts from absurd.t_q order by n desc nulls last, attempts asc, 2, task_id limit 5",
    "select headers ->> 'h' as h from absurd.t_q order by h nulls first, 1",
    "select headers ->> 'h' as h from absurd.t_q order by h desc nulls last",
    "select headers ->> 'h' as h from absurd.t_q order by h desc",
    "select distinct state, task_name from absurd.t_q order by 2, 1",
    "select distinct task_name from absurd.t_q order by task_name limit 2 offset 1",
    "select distinct state from absurd.t_q order by task_name",
    "select task_name from absurd.t_q where state = 'pending' and not attempts > 3 or task_name <> 't1' and state != 'x' order by task_id",
    "select task_name from absurd.t_q where attempts between 1 and 2 and max_attempts not between 5 and 9 order by task_id",
    "select task_name from absurd.t_q where headers is null and params is not null order by task_id",
    "select task_name from absurd.t_q where task_name like 't%' and task_name not like '%2' order by task_id",
    "select task_name from absurd.t_q where task_name ilike 'T_' and task_name not ilike 'T1' order by task_id",
    ("select count(*) from absurd.t_q where task_name like %s", ("t%",)),
    "select 'a_c' like 'a\\_c', 'abc' like 'a\\_c', 'a' like null, 'É' ilike 'é'",
    "select count(*) from absurd.t_q where state in ('pending', 'running') and attempts not in (7, 8)",
    ("select count(*) from absurd.t_q where state in (%s, %s)", ("pending", "sleeping")),
    ("select count(*) from absurd.t_q where state = any(%s)", (["pending", "running"],)),
    ("select count(*) from absurd.t_q where not state = any(%s)", (["pending", "running"],)),
    ("select count(*) from absurd.t_q where attempts = any(%s)", ([0, 1],)),
    ("select count(*) from absurd.t_q where task_id = any(%s)", ([ID],)),
    ("select count(*) from absurd.t_q where task_id = any(%s::uuid[])", ([str(ID)],)),
    "select count(*) from absurd.t_q where state = any('{failed,pending}') or attempts = any('{1}')",
    ("select count(*) from absurd.t_q where task_id = %s or task_id = %s", (ID, str(ID))),
    ("select count(*) from absurd.t_q where enqueue_at < %s and enqueue_at >= %s", (DAY + dt.timedelta(days=1), DAY)),
    ("select task_name from absurd.t_q where params @> %s order by task_id", (Jsonb({"o": {"x": {}}}),)),
    ("select %s, %s, %s, %s, %s, %s, %s, %s, %s", (1, 2**40, 1.5, True, "x", ID, DAY, dt.timedelta(days=1, seconds=3), None)),
    ("select %s::text, %s::int + 1, %s::numeric, %s", (5, "7", Decimal("1.50"), Decimal("2.5"))),
    ("select %(a)s::int + %(b)s, %(a)s", {"a": 1, "b": 2}),
    ("select %(a)s, %(a)s", {"a": "x"}),
    ("select %s is null", ("x",)),
    ("select jsonb_build_object('a', %s)", ("x",)),
    ("select jsonb_build_object('a', %s::text, 'b', %s)", ("x", 5)),
    "select nosuch from absurd.t_q", "select x.state from absurd.t_q", "select t.nosuch from absurd.t_q t", "select 1 from absurd.nosuch",
    "select 1 from absurd.t_nosuch", "select 1 from nosuch", "select state from absurd.t_q, absurd.r_q", "select state from absurd.t_q t join absurd.r_q t on true",
    "select state from absurd.t_q order by 3", "select state from absurd.t_q limit -1", "select state from absurd.t_q offset -1",
    "select state = 1 from absurd.t_q", "select state from absurd.t_q where attempts", "select task_id = 'x' from absurd.t_q where false",
    ("select state from absurd.t_q where task_id = %s", ("x",)),
    f"select task_id from absurd.t_q where task_id = '{NIL}'",
    "select state from absurd.t_q where state = 'running' order by task_id for update skip locked",
    "select state from absurd.t_q t where task_name = 't1' order by task_id for no key update nowait",
    "select task_id from absurd.t_q order by task_id limit 1 for share",
)  # fmt: skip

EXPRESSIONS: tuple[Statement, ...] = (
    "select 1, -1, 2147483648, -2147483648, 9223372036854775808, 1.50, 'x', true, null, 1e3",
    "select 1::text, '1'::int, 1.5::int, 2.5::int, 2.5::float8::int, 'yes'::bool, true::int, 1::bigint, 1::smallint, cast('7' as numeric), 1.5::float8, 1::bool",
    "select 'abc'::int", "select 'x'::uuid", "select 'maybe'::bool", "select ''::jsonb", "select '2026-13-01'::timestamptz", "select 'foo'::timestamptz", "select 70000::smallint",
    "select '{\"b\": 1, \"a\": [1.50, null]}'::jsonb, '[1, 2]'::jsonb::text, '5'::jsonb::int, '\"x\"'::jsonb #>> '{}', 'true'::jsonb::bool",
    "select '\"x\"'::jsonb::int",
    "select nullif(1, 1), nullif('a', 'b'), nullif(1, 2.5), coalesce(null, 1), coalesce(null, null, 'x'), coalesce(1, 2.5), greatest(1, null, 3), least('b', 'a'), greatest(1, 2.5)",
    "select coalesce(1, 'a')", "select coalesce(1, true)",
    "select case when 1 = 2 then 'a' when true then 'b' end, case 3 when 3 then 'three' else 'other' end, case when true then 1 else 2.5 end, case when false then 1 end",
    "select case when true then 1 else 'a' end",
    "select 1 = 1.0, '1' = 1, 'a' < 'b', null = null, 1 <> 2, 2 >= 1, true and null, false or null, not false, true = false, 1 between 0 and 2",
    "select 1 in (1, 2, null), 3 in (1, 2, null), 3 not in (1, 2), 'a' in ('a', 'b'), 1 = any('{1,2}')",
    "select (attempts = 1) = (state = 'running') from absurd.t_q order by task_id limit 2",
    "select 7 / 2, -7 / 2, 7 % 3, -7 % 3, 1.0 / 3, 10 / 4.0, 2.5 * 2, 5::float8 / 2, 1 + 2 * 3, (1 + 2) * 3, 2 - 1.5, - (-3), 1::smallint + 1::bigint",
    "select 1 / 0", "select 2147483647 + 1", "select 9223372036854775807 + 1", "select 1.0 / 0", "select 1::float8 / 0", "select 'a' + 1", "select '1' + '2'", "select state + 1 from absurd.t_q",
    "select 'a' || 'b' || 1, 'a' || null, 1 || 'b', task_name || '/' || state from absurd.t_q order by task_id limit 1",
    "select params -> 'o' -> 'x', params ->> 's', params -> 'l' -> 0, params -> 'l' ->> -1, params #> '{o,x}', params #>> '{o,x,y}', params #>> '{l,0}' from absurd.t_q order by task_id limit 2",
    "select params -> 'nope', params ->> 'n', params ->> 'f', (params ->> 'i')::int * 2, (params -> 'i')::int, params -> 'i' = '1' from absurd.t_q order by task_id limit 3",
    "select params ? 'i', params ? 'zz', params @> '{\"i\": 1}', '[1, [2]]'::jsonb @> '[[2]]', '[\"a\"]'::jsonb ? 'a' from absurd.t_q order by task_id limit 2",
    ("select params -> %s, params ->> %s from absurd.t_q order by task_id limit 1", ("i", "s")),
    "select jsonb_typeof(params -> 'l'), jsonb_array_length(params -> 'l'), jsonb_typeof(params) from absurd.t_q order by task_id limit 1",
    "select jsonb_array_length('{}')", "select jsonb_array_length('5')",
    "select jsonb_build_object('t', task_name, 'n', attempts, 'at', enqueue_at, 'p', params, 'x', null, 'b', true, 'f', 1.50) from absurd.t_q order by task_id limit 1",
    "select to_jsonb(1), to_jsonb('a'::text), to_jsonb(true), to_jsonb(1.50), to_jsonb(1.5::float8), to_jsonb(null::text), to_jsonb(interval '1 day'), to_jsonb(uuid '00000000-0000-0000-0000-000000000001')",
    "select jsonb_build_object(null::text, 1)",
    "select length('abc'), lower('ABC'), upper('straße'), length(task_name), left('hello', 2), left('hello', -2), left(task_id::text, 0) from absurd.t_q order by task_id limit 1",
    "select round(2.5), round(-2.5), round(1.005, 2), round(0.5::float8), abs(-5), abs(-1.5), abs(-1.5::float8), round(7)",
    "select now() = transaction_timestamp(), clock_timestamp() >= now(), current_timestamp = now(), now() - interval '1 hour' < now(), statement_timestamp() >= now()",
    "select timestamptz '2026-01-31 10:00+00' + interval '1 month', timestamptz '2026-01-31' - interval '1 day 2 hours', timestamptz '2026-03-01' - timestamptz '2026-02-01 12:00+00', interval '1 day' + interval '90 minutes', interval '1 hour' * 2.5, 3 * interval '1 day', interval '1 day' / 2, - interval '1 day'",
    "select interval '36 hours', interval '1 mon 1 day'::text, '1 day 02:03:04.5'::interval, interval '1 day' > interval '23 hours', '-1 hour'::interval, interval '3 weeks', interval '1.5 days', 'infinity'::interval::text",
    "select 'soon'::interval", "select '1 parsec'::interval",
    "select extract(epoch from interval '1 hour 5.5 seconds'), extract(epoch from timestamptz '2026-01-01 00:00+00'), round(extract(epoch from interval '1 hour') / 60, 1) from absurd.t_q limit 1",
    "select date_trunc('hour', timestamptz '2026-03-11 10:22:33+00'), date_trunc('day', enqueue_at), date_trunc('week', enqueue_at), date_trunc('month', enqueue_at), date_trunc('year', enqueue_at), date_trunc('minute', enqueue_at)::text from absurd.t_q limit 1",
    "select '2026-01-31T10:00:00Z'::timestamptz, '2026-01-31 10:00:00.5+01:30'::timestamptz, '2026-01-31'::timestamptz, 'infinity'::timestamptz::text, '2026-01-31 10:00 UTC'::timestamptz, '2026-02-30'::timestamptz",
    "select make_interval(secs => 5), make_interval(secs => 1.5)::text",
    "select (select count(*) from absurd.t_q), exists (select 1 from absurd.t_q where state = 'x'), (select 1 where false), 1 in (select attempts from absurd.t_q)",
    "select (select task_id from absurd.t_q)", "select (select 1, 2)", "select 1 in (select 1, 2)",
    "values (1, 'a'), (2, null)",
)  # fmt: skip

JOINS: tuple[Statement, ...] = (
    "select t.task_name, r.state, r.attempt from absurd.t_q t join absurd.r_q r on r.task_id = t.task_id order by t.task_id, r.attempt",
    "select task_name, r.state, task_id from absurd.t_q t join absurd.r_q r using (task_id) order by task_id",
    "select * from absurd.r_q r join absurd.t_q t using (task_id) order by run_id",
    "select * from absurd.t_q t left join absurd.w_q w using (task_id) order by task_id",
    "select t.task_name, c.checkpoint_name from absurd.t_q t left join absurd.c_q c on c.task_id = t.task_id and c.status = 'committed' order by t.task_id, 2",
    "select t.task_name, w.step_name from absurd.t_q t left join absurd.w_q w on t.task_id = w.task_id where w.task_id is null order by t.task_id",
    "select t.task_name, r.state, c.state from absurd.t_q t inner join absurd.r_q r on t.task_id = r.task_id join absurd.c_q c on c.task_id = t.task_id and c.owner_run_id = r.run_id order by t.task_id",
    "select count(*) from absurd.t_q t cross join absurd.queues",
    "select t.task_name, r.state from absurd.t_q t, absurd.r_q r where t.task_id = r.task_id and r.attempt = 1 order by t.task_id",
    "select a.task_name from absurd.t_q a join absurd.t_p b on a.task_name = b.task_name and a.attempts = b.attempts order by 1",
    "select x.n, t.task_name from (select task_name, count(*) as n from absurd.t_q group by task_name) x join absurd.t_q t on t.task_name = x.task_name order by t.task_id",
    "select count(*) from absurd.t_q t join absurd.r_q r on t.enqueue_at < r.created_at or t.task_id = r.task_id",
    "select 1 from absurd.t_q join absurd.r_q using (nosuch)",
    "select task_id from absurd.t_q t join absurd.r_q r on true",
)  # fmt: skip

GROUPS: tuple[Statement, ...] = (
    "select task_name, state, count(*) as n, min(enqueue_at) as oldest, max(attempts) from absurd.t_q group by task_name, state order by task_name, state",
    "select count(*), count(headers), count(distinct task_name), sum(attempts), min(task_name), max(enqueue_at), avg(attempts) from absurd.t_q",
    "select sum(attempts), avg(attempts), min(attempts), count(*) from absurd.t_q where false",
    "select count(*) filter (where state = 'running') as running, count(*) filter (where state in ('pending', 'sleeping')) as waiting from absurd.t_q",
    "select count(t.*), count(r.*) from absurd.t_q t left join absurd.r_q r on r.task_id = t.task_id and r.state = 'running'",
    "select state, count(t.*) from absurd.t_q t group by state order by count(t.*) desc, state",
    "select sum(1.5), avg(2::bigint), sum(2::bigint), avg(1.5::float8), sum(interval '1 hour'), avg(interval '1 hour'), max(1.5) from absurd.t_q",
    "select t.task_name, avg(r.started_at - r.created_at), max(r.claim_expires_at - r.started_at) from absurd.t_q t join absurd.r_q r using (task_id) group by t.task_name order by 1",
    "select date_trunc('minute', enqueue_at) as m, count(*) from absurd.t_q group by 1 order by 1",
    "select date_trunc('hour', enqueue_at), count(*) from absurd.t_q group by date_trunc('hour', enqueue_at) order by 2",
    "select coalesce(idempotency_key, 'none') as k, count(*) from absurd.t_q group by k order by k",
    "select state, count(*) from absurd.t_q group by state having count(*) > 1 and state <> 'x' order by 2 desc, 1",
    "select 1 from absurd.t_q having count(*) > 1",
    "select t.task_id, t.task_name, t.state, count(r.run_id) from absurd.t_q t left join absurd.r_q r on r.task_id = t.task_id group by t.task_id order by t.task_id",
    "select case when state = 'running' then 'busy' else 'idle' end as s, count(*) from absurd.t_q group by s order by s",
    "select params ->> 'i' as i, count(*) * 2 + 1 from absurd.t_q group by params ->> 'i' order by i",
    "select round(avg(extract(epoch from absurd.current_time() - created_at)), 2), round(100.0 * count(*) filter (where state = 'running') / count(*), 1) from absurd.r_q",
    "select distinct count(*) from absurd.t_q group by state order by 1",
    "select state, (select count(*) from absurd.r_q r where r.state = t.state) from absurd.t_q t group by state order by 1",
    "select count(*), state from absurd.t_q", "select task_id, count(*) from absurd.t_q group by state", "select state from absurd.t_q where count(*) > 1",
    "select sum(state) from absurd.t_q", "select sum(count(*)) from absurd.t_q", "select state from absurd.t_q group by 5",
    "select t.state, (select t.task_name) from absurd.t_q t group by t.state",
    "select (select count(*) from absurd.r_q r where r.task_id = t.task_id) as runs, count(*) from absurd.t_q t group by 1 order by 1",
)  # fmt: skip

SUBSELECTS: tuple[Statement, ...] = (
    "select task_name, (select count(*) from absurd.r_q r where r.task_id = t.task_id) as runs from absurd.t_q t order by task_id",
    "select task_name from absurd.t_q t where exists (select 1 from absurd.r_q r where r.task_id = t.task_id and r.state = 'running') order by task_id",
    "select task_name from absurd.t_q t where not exists (select from absurd.r_q r where r.task_id = t.task_id and r.state = 'running') order by task_id",
    "select task_name from absurd.t_q where task_id in (select task_id from absurd.r_q where state = 'running') order by task_id",
    "select task_name from absurd.t_q where task_id not in (select task_id from absurd.r_q where state = 'running') order by task_id",
    "select task_name from absurd.t_q t where attempts in (select attempt from absurd.r_q r where r.task_id = t.task_id) order by task_id",
    "select s.state, s.n from (select state, count(*) as n from absurd.t_q group by state) s where s.n > 1 order by s.n desc, s.state",
    "select * from (select task_name, state from absurd.t_q order by task_id limit 2) x",
    "with s as (select state, count(*) as n from absurd.t_q group by state) select s.state, s.n, (select sum(n) from s) from s order by s.state",
    "with a as (select * from absurd.t_q), b(id, st) as (select task_id, state from absurd.r_q) select a.task_name, b.st from a join b on b.id = a.task_id order by a.task_id, b.st",
    "with a as (select 1 as x), b as (select x + 1 as y from a) select a.x, b.y from a, b",
    "with a as (select 1), a as (select 2) select 1",
    "select max(n) from (select count(*) as n from absurd.t_q group by task_name) as x",
    "select column1, column2 from (values (1, 'a'), (2, 'b')) as v order by column1 desc",
    "select v.a, v.b from (values (1, null), (null, 2.5)) as v(a, b) order by a nulls first",
)  # fmt: skip

CHANGES: tuple[Statement, ...] = (
    "insert into absurd.e_q (event_name, payload) values ('in1', '{\"a\": 1}'), ('in2', null) returning event_name, payload, emitted_at",
    "insert into absurd.e_q values ('in3')",
    ("insert into absurd.e_q (event_name, payload) values (%s, %s)", ("in4", Jsonb([1]))),
    "insert into absurd.e_q (event_name, emitted_at) values ('in5', default) returning *",
    "insert into absurd.e_q (event_name) values ('in1')",
    "insert into absurd.e_q (payload) values ('1')",
    "insert into absurd.e_q (nosuch) values (1)",
    "insert into absurd.e_q (event_name) values (1, 2)",
    "insert into absurd.queues (queue_name, cleanup_limit) values ('odd', 0)",
    f"insert into absurd.t_q (task_id, task_name, params, state) values ('{NIL}', 'x', '{{}}', 'pending') returning task_id, attempts, enqueue_at",
    f"insert into absurd.t_q (task_id, task_name, params, state) values ('{NIL}', 'x', '{{}}', 'odd')",
    "update absurd.t_q set max_attempts = max_attempts + 1 where task_name = 't1' returning task_name, max_attempts",
    "update absurd.t_q as t set cancellation = null, headers = '{\"z\": 1}' where t.task_name = 't2'",
    ("update absurd.r_q set available_at = available_at - interval '1 hour', event_payload = %s where state = 'pending' returning available_at, event_payload", (Jsonb({"p": 1}),)),
    "update absurd.r_q set claim_expires_at = absurd.current_time() where state = 'running' returning claim_expires_at",
    "update absurd.t_q t set task_name = 'renamed' from absurd.r_q r where r.task_id = t.task_id and r.state = 'running' and t.task_name = 't0' returning t.task_name, r.state",
    f"update absurd.t_q set attempts = default where task_id = '{NIL}' returning attempts",
    "update absurd.t_q set state = 'odd'", "update absurd.t_q set state = null", "update absurd.t_q set attempts = 'x'", "update absurd.t_q set attempts = true",
    "update absurd.t_q set nosuch = 1", "update absurd.nosuch set a = 1", "update absurd.t_q set attempts = 2147483648",
    "delete from absurd.e_q where event_name like 'in%' returning event_name",
    f"delete from absurd.t_q where task_id = '{NIL}'",
    "delete from absurd.c_q c where not exists (select 1 from absurd.t_q t where t.task_id = c.task_id)",
    "delete from absurd.e_q",
    "select count(*) from absurd.e_q",
)  # fmt: skip

SUPPORTED: dict[str, tuple[Statement, ...]] = {
    "sdk": SDK, "absurdctl": ABSURDCTL, "backend": BACKEND, "procedures": PROCEDURES, "sessions": SESSIONS,
    "reads": READS, "expressions": EXPRESSIONS, "joins": JOINS, "groups": GROUPS, "subselects": SUBSELECTS, "changes": CHANGES,
}  # fmt: skip

REFUSED: tuple[str, ...] = (
    "create table absurd.mine (a int)", "vacuum absurd.queues", "explain select 1", "select * from pg_class",
    "select * from information_schema.tables", "copy absurd.t_q to stdout", "listen x", "truncate absurd.t_q",
    "merge into absurd.queues q using absurd.queues r on true when matched then delete",
    "select row_number() over (order by task_id) from absurd.t_q", "select 1 union select 2", "select 1 intersect select 1",
    "with recursive n(i) as (select 1 union all select i + 1 from n where i < 5) select * from n",
    "with d as (delete from absurd.t_q returning 1) select count(*) from d",
    "select (with x as (select 1 as a) select a from x)",
    "select state from absurd.t_q group by rollup (state)", "select state from absurd.t_q group by cube (state)",
    "select distinct on (state) state from absurd.t_q", "select 'a' ~ '^a'", "select 'a' similar to 'a'", "select to_char(now(), 'YYYY')",
    "select string_agg(state, ',') from absurd.t_q", "select array_agg(state) from absurd.t_q", "select stddev(attempts) from absurd.t_q",
    "select percentile_cont(0.5) within group (order by attempts) from absurd.t_q", "select count(attempts order by attempts) from absurd.t_q",
    "select generate_series(1, 3)", "select * from generate_series(1, 3)", "select unnest(array[1, 2])", "select jsonb_each('{}')",
    "select (array[1, 2])[1]", "select params['i'] from absurd.t_q", "select row(1, 2)", "select (1, 2) = (1, 2)", "select t from absurd.t_q t",
    "select 1 & 2", "select 2 ^ 3", "select 1 << 2", "select '[1]'::jsonb - 0", "select '{}'::jsonb #- '{a}'", "select '{}'::jsonb <@ '{}'",
    "select 'a' collate \"C\"", "select 1::numeric(4, 1)", "select 'x'::bytea", "select '10:00'::time", "select 'a'::varchar(3)",
    "select * from absurd.t_q t right join absurd.r_q r using (task_id)", "select * from absurd.t_q t full join absurd.r_q r using (task_id)",
    "select * from absurd.t_q natural join absurd.r_q", "select * from absurd.t_q t, lateral (select t.state) x",
    "select * from absurd.t_q tablesample system (10)", "select state from absurd.t_q fetch first 1 row with ties",
    "insert into absurd.e_q (event_name) select task_name from absurd.t_q", "insert into absurd.e_q values ('a') on conflict do nothing",
    "update absurd.t_q set (attempts, state) = (1, 'x')", "lock absurd.t_q", "discard all", "select ctid from absurd.t_q",
    "select 'Jan 1 2026'::timestamptz", "select 'P1D'::interval",
    "select 1::varchar", "select 1::date", "select current_date", "select to_json(1)", "select extract(epoch from '5')", "select extract(year from now())", "select array[1]",
    "select 1 is distinct from 2", "select true is true", "select 1 <> all('{1}')", "select make_interval(days => 1)", "select make_interval(1)",
    "select 1e3-1", "select coalesce()", "select interval '1 day' = any('{1}')", "select state from absurd.t_q limit all",
    "select '{}'::jsonb || '{}'", "select params from absurd.t_q order by params", "select distinct params from absurd.t_q",
    "delete from absurd.w_q using absurd.t_q t where true", "select selec from where", "select task_name, absurd.list_queues() from absurd.t_q",
    "select state from absurd.t_q t for update of t", "set search_path to absurd", "commit and chain", "begin read only", "set jit = off",
    "begin isolation level serializable", "select nosuch(1)", "select absurd.list_queues() = 'q'",
)  # fmt: skip
