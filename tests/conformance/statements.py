# ruff: noqa: E501 - a statement is one line
"""Statements that both sides must answer alike: good and bad calls, and what operators send."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable

from psycopg.types.json import Jsonb


def run_all(t: Callable[..., object]) -> None:
    """Give each statement with its parameters to `t`, in an order in which they build on each other."""
    t("select '%s', %s", "a", "b")
    t("select '%s', %s", 1, "b")
    t("select '__p0__', %s, '__p1__'", 1)
    t("select %s as __p0__", 1)
    t("select absurd.create_queue('q')")
    t("select absurd.create_queue(%s)", "q2")
    t("select absurd.create_queue(%s,%s)", "p", "partitioned")
    t("select absurd.create_queue('q','partitioned')")
    t("select absurd.create_queue(null)")
    t("select absurd.create_queue('')")
    t("select absurd.create_queue('x','y')")
    t("select absurd.create_queue('x',null)")
    t("select absurd.create_queue(%s)", "x" * 58)
    t("select absurd.create_queue(%s)", 1)
    t("select absurd.nosuch(%s)", 1)
    t("select run_id from absurd.claim_task(p_queue_name=>'q',p_worker_id=>'w') as c where true")
    for o in [
        {"max_attempts": 0},
        {"max_attempts": True},
        {"max_attempts": "x"},
        {"max_attempts": 1.5},
        {"max_attempts": 2**31},
        {"max_attempts": -1},
        {"retry_strategy": None},
        {"retry_strategy": 5},
        {"retry_strategy": {"kind": "x"}},
        {"retry_strategy": {"kind": "fixed", "base_seconds": -1}},
        {"retry_strategy": {"kind": "fixed", "base_seconds": "abc"}},
        {"retry_strategy": {"kind": "exponential", "factor": -1}},
        {"retry_strategy": {"kind": "exponential", "factor": "NaN"}},
        {"retry_strategy": {"kind": "exponential", "max_seconds": 1000000000.0}},
        {"retry_strategy": {"kind": "fixed", "base_seconds": "1e400"}},
        {"retry_strategy": {"kind": 5}},
        {"retry_strategy": []},
    ]:
        t("select created, attempt from absurd.spawn_task('q','t','{}',%s)", Jsonb(o))
    t("select created from absurd.spawn_task('q','t',%s,%s)", "[1]", '"max_attempts"')
    t("select created from absurd.spawn_task('q','t',%s,%s)", None, None)
    t(
        "select task_name,params,headers,retry_strategy,max_attempts,cancellation,enqueue_at,first_started_at,state,attempts,completed_payload,cancelled_at,idempotency_key from absurd.t_q order by task_id"
    )
    t(
        "select attempt,state,claimed_by,claim_expires_at,available_at,wake_event,event_payload,started_at,completed_at,failed_at,result,failure_reason,created_at from absurd.r_q"
    )
    t("select state, count(*) from absurd.t_q group by state order by state")
    t(
        "select state, count(*), min(enqueue_at), max(attempts), avg(attempts), sum(attempts) from absurd.t_q group by 1 having count(*)>0 order by 2 desc"
    )
    t(
        "select t.state, r.state rs, extract(epoch from (now() - now())) from absurd.t_q t join absurd.r_q r on r.task_id=t.task_id order by t.task_id limit 2"
    )
    t(
        "select count(*) from absurd.t_q t left join absurd.r_q r using (task_id) where r.state = any(%s)",
        ["pending", "x"],
    )
    t("select task_name from absurd.t_q where nosuch = 1")
    t("select x.task_name from absurd.t_q")
    t("select task_id from absurd.t_q t join absurd.r_q r on true")
    t("select 1+%s, %s::text, %s::uuid", 1, "a", uuid.UUID(int=5))
    t("select 'x' = 1")
    t("select 1 = 'x'")
    t("select 'a' || 1, 1 || 'b'")
    t("select coalesce(null, 1), nullif(1,1), greatest(1,2.5), least('a','b')")
    t(
        "select now() - interval '1 day' < now(), interval '1 day' * 2, interval '1 day' / 2, interval '36 hours', '1 mon 1 day'::interval::text"
    )
    t(
        "select date_trunc('week', timestamptz '2024-05-05 10:00+00'), extract(isoyear from timestamptz '2024-12-31'), extract(epoch from timestamptz '2024-12-31')"
    )
    t(
        "select '{\"b\":1,\"a\":{\"x\":[1,2]}}'::jsonb -> 'a' -> 'x' ->> 0, '{\"a\":1}'::jsonb ? 'a', '{\"a\":1,\"b\":2}'::jsonb @> '{\"a\":1}', '[1,2]'::jsonb ->> 1, '{\"a\":null}'::jsonb ->> 'a', '{\"a\":{\"b\":5}}'::jsonb #>> '{a,b}'"
    )
    t(
        "select jsonb_build_object('b',1,'a',now() is null,'c',null), to_jsonb('x'::text), to_jsonb(1.50), jsonb_typeof('1'), jsonb_array_length('[1,2]')"
    )
    t(
        "select case when 1=1 then 'a' else 'b' end, case 2 when 1 then 'x' end, 1 in (1,2), 3 not in (1,2), 1 between 0 and 2, 'abc' like 'a%%', 'abc' not like 'b%%', 'ABC' ilike 'a_c', 'abc' ~ '^a', not true, null is null, 1 is distinct from null, true and null, false or null"
    )
    t(
        "select (select count(*) from absurd.t_q), exists(select 1 from absurd.t_q), (select 1 where false)"
    )
    t("select (select task_id from absurd.t_q)")
    t("values (1,'a'),(2,null)")
    t("with c as (select 1 as a union all select 2) select a, a*2 as b from c where a > 1")
    t("select distinct state from absurd.t_q")
    t("select 1 union select 1 union all select 2")
    t("select a from generate_series(1,3) a")
    t("select unnest(array[1,2]), 5")
    t("select array[1,2], array['a',null], array_agg(state) from absurd.t_q")
    t("show timezone")
    t("select current_setting('absurd.fake_now')")
    t("select current_setting('absurd.nope')")
    t("select current_setting('absurd.nope', true)")
    t("select set_config('absurd.zz','1',false)")
    t("set absurd.zz = default")
    t("select current_setting('absurd.zz', true)")
    t("reset absurd.zz")
    t("show absurd.zz")
    t("set lock_timeout = '50ms'")
    t("show lock_timeout")
    t("set lock_timeout=1000")
    t("show lock_timeout")
    t("set timezone='Europe/Vienna'")
    t(
        "select '2024-06-01 00:00'::timestamptz, timestamptz '2024-06-01 00:00+00', ('2024-06-01 00:00+00'::timestamptz)::text, to_jsonb(timestamptz '2024-06-01 00:00+00')"
    )
    t("set timezone='Nope'")
    t("set timezone to default")
    t("update absurd.t_q set state='x'")
    t("update absurd.t_q set state=null")
    t("update absurd.t_q set attempts=attempts+1 where attempts=1 returning attempts")
    t("update absurd.t_q set attempts='x'")
    t("update absurd.t_q set attempts=true")
    t("update absurd.t_q set nosuch=1")
    t("delete from absurd.e_q")
    t("insert into absurd.e_q (event_name,payload) values ('a','{}'),('b',null) returning *")
    t("insert into absurd.e_q values ('a')")
    t("insert into absurd.e_q values ('a') on conflict do nothing")
    t(
        "insert into absurd.e_q values ('a','1') on conflict (event_name) do update set payload=excluded.payload returning *"
    )
    t("insert into absurd.e_q(payload) values ('1')")
    t("delete from absurd.e_q where event_name='a' returning *")
    t(
        "select absurd.current_time(), absurd.get_schema_version(), absurd.week_bucket_utc(%s), absurd.partition_week_tag('2021-01-01'), absurd.uuidv7_floor('2024-01-01'), absurd.uuidv7_timestamp('018cc251-f400-7000-8000-000000000000'), absurd.uuidv7_timestamp('018cc251-f400-4000-8000-000000000000'), absurd.retry_delay_seconds('{\"kind\":\"exponential\",\"base_seconds\":1.5}',3), absurd.retry_delay_seconds(null,3), absurd.week_bucket_utc(null)",
        dt.datetime(2024, 1, 3, tzinfo=dt.UTC),
    )
    t("select absurd.validate_queue_name('x'), absurd.validate_queue_name(''), 1")
    t("select absurd.validate_queue_name(null)")
    t("select absurd.partition_week_tag('infinity')")
    t(
        "select absurd.partition_week_tag('0044-03-15 BC'), absurd.partition_week_tag('0001-03-15 BC')"
    )
    t("select absurd.uuidv7_floor('infinity')")
    t("select absurd.uuidv7_floor('1960-01-01')")
    t("select absurd.drop_detached_partition('x')")
    t("select absurd.drop_detached_partition('')")
    t("select absurd.create_queue('gone','partitioned')")
    t(
        "select absurd.drop_detached_partition('t_gone')"
    )  # a parent is no partition: it goes, with all
    t("select count(*) from absurd.t_gone_d")
    t("select absurd.drop_queue('gone')")
    t("select absurd.cancel_task('q',null)")
    t("select absurd.complete_run('q',null)")
    t("select absurd.complete_run('nope',null)")
    t("select absurd.schedule_run('q','00000000-0000-0000-0000-000000000001',null)")
    t("select absurd.extend_claim('q',null,0)")
    t("select absurd.set_task_checkpoint_state('q',null,'','{}',null)")
    t("select absurd.await_event('q',null,null,null,null)")
    t("select absurd.emit_event('q','')")
    t("select absurd.emit_event('q','e')")
    t("select absurd.cleanup_tasks('q',-1)")
    t("select absurd.cleanup_tasks('q',1,-1)")
    t("select absurd.cleanup_events('q',0,null)")
    for p in [
        {"x": 1},
        {"cleanup_ttl": None},
        {"cleanup_ttl": "soon"},
        {"cleanup_ttl": "1.5 mons"},
        {"cleanup_limit": 0},
        {"cleanup_limit": "x"},
        {"detach_mode": None},
        {"detach_mode": " EMPTY "},
        {"default_partition": "disabled"},
        5,
        None,
        {"partition_lookahead": "-1 day"},
        {"cleanup_ttl": 5},
        {"cleanup_ttl": "infinity"},
    ]:
        for q in "qp":
            t("select absurd.set_queue_policy(%s,%s)", q, Jsonb(p))
    t(
        "select table_name from information_schema.tables where table_schema='absurd' and table_name like 't\\_%%' order by 1"
    )
    t("select %(a)s, %(b)s, %(a)s", a=1, b="x")
    t("select %x", 1)
    t("select '%%', %s", 1)
    t("select")
    t("select 1; select 2")
    t("begin; rollback")
    t("select absurd.list_queues()")
    t("select count(*), state from absurd.t_q")
    t("select task_id, count(*) from absurd.t_q group by state")
    t("select sum(1) where false")
    t("select max(state) from absurd.t_q where false")
    t("select 1 where 'x'")
    t("select 1/0")
    t("select 2147483647+1")
    t("select 9223372036854775807+1")
    t("select absurd.current_time() at time zone 'UTC'")
    t("select j.key, j.value from jsonb_each('{\"a\":1}') j")
    t("select string_agg(x, ',' order by x desc) from (values ('a'),('b')) v(x)")
    t("select percentile_cont(0.5) within group (order by x) from (values (1),(2)) v(x)")
    t("select round(1.235,2), round(2.5), floor(1.5), ceil(1.2), abs(-1), round(0.5::float8)")
    t("select 'abc'::text || null")
    t("select to_regclass('absurd.t_q')::text, to_regclass('cron.job')")
    t("select version() is not null, current_database() is not null")
    t("select absurd.create_queue('default')")
    for i in range(6):
        t(
            "select created from absurd.spawn_task('default',%s,%s,%s)",
            f"t{i % 3}",
            Jsonb({"i": i, "f": i / 2}),
            Jsonb(
                {
                    "max_attempts": i % 3 + 1,
                    "headers": {"h": i},
                    "cancellation": {"max_delay": 1000 * i} if i % 2 else None,
                    "idempotency_key": f"k{i}" if i > 3 else None,
                }
            ),
        )
    t("select attempt from absurd.claim_task('default','w1',30,3)")
    t(
        "select task_name, state, count(*) as n, min(enqueue_at) as oldest, max(attempts) from absurd.t_default group by task_name, state order by task_name, state"
    )
    t(
        "select count(*) filter (where state='running') as running, count(*) filter (where state='pending') as pending from absurd.t_default"
    )
    t(
        "select r.state, count(*), round(avg(extract(epoch from (absurd.current_time() - r.created_at)))::numeric, 2) from absurd.r_default r group by r.state order by 1"
    )
    t(
        "select claimed_by, count(*) from absurd.r_default where state='running' and claim_expires_at > absurd.current_time() group by claimed_by"
    )
    t(
        "select t.task_name, r.attempt, r.state, r.claimed_by, r.claim_expires_at - absurd.current_time() as left_ from absurd.t_default t join absurd.r_default r on r.run_id = t.last_attempt_run where t.state in ('running','sleeping') order by t.enqueue_at desc, t.task_id limit 10"
    )
    t(
        "select t.params->>'i' as i, (t.params->>'i')::int * 2, t.params->'f', t.headers->>'h' from absurd.t_default t where (t.params->>'i')::int between 1 and 4 order by (t.params->>'i')::int desc"
    )
    t(
        "with s as (select state, count(*) as n from absurd.t_default group by state) select s.state, s.n, round(100.0 * s.n / sum(s2.n), 1) as pct from s cross join s s2 group by s.state, s.n order by s.state"
    )
    t(
        "select task_name from absurd.t_default t where exists (select 1 from absurd.r_default r where r.task_id = t.task_id and r.state = 'running') order by task_id"
    )
    t(
        "select task_name, (select count(*) from absurd.r_default r where r.task_id = t.task_id) as runs from absurd.t_default t order by task_id"
    )
    t(
        "select task_name from absurd.t_default where task_id not in (select task_id from absurd.r_default where state='running') order by 1"
    )
    t(
        "select date_trunc('minute', enqueue_at) as m, count(*) from absurd.t_default group by 1 order by 1"
    )
    t(
        "select date_trunc('minute', enqueue_at) as m, count(*) from absurd.t_default group by m order by m desc"
    )
    t(
        "select coalesce(idempotency_key, 'none') as k, count(*) from absurd.t_default group by k order by k"
    )
    t("select coalesce(max(attempts), 0) from absurd.t_default where state = 'nope'")
    t(
        "select case when state='running' then 'busy' else 'idle' end as s, count(*) from absurd.t_default group by case when state='running' then 'busy' else 'idle' end order by s"
    )
    t(
        "select jsonb_object_agg(state, n) from (select state, count(*) n from absurd.t_default group by state) x"
    )
    t("select jsonb_agg(task_name order by task_name) from absurd.t_default")
    t("select array_agg(distinct task_name order by task_name) from absurd.t_default")
    t("select array_agg(distinct state) from absurd.t_default")
    t("select string_agg(distinct task_name, ',') from absurd.t_default")
    t("select count(distinct task_name) from absurd.t_default")
    t("select percentile_cont(0.5) within group (order by attempts) from absurd.t_default")
    t(
        "select percentile_cont(0.5) within group (order by (absurd.current_time() - created_at)) from absurd.r_default"
    )
    t(
        "select r.state from absurd.t_default t, absurd.get_task_result('default', t.task_id) r order by t.task_id"
    )
    t(
        "select t.task_name, r.state from absurd.t_default t cross join lateral absurd.get_task_result('default', t.task_id) r where t.task_name='t1' order by t.task_id"
    )
    t(
        "select t.task_name, r.* from absurd.t_default t left join absurd.w_default r on r.task_id=t.task_id order by t.task_id limit 1"
    )
    t(
        "select distinct on (task_name) task_name, attempts from absurd.t_default order by task_name, task_id"
    )
    t(
        "select q.queue_name, p.cleanup_limit from absurd.list_queues() q cross join lateral absurd.get_queue_policy(q.queue_name) p"
    )
    t(
        "select q.queue_name from absurd.queues as q where q.cleanup_ttl > interval '1 day' order by 1"
    )
    t(
        "select queue_name, cleanup_ttl, extract(epoch from cleanup_ttl) from absurd.queues order by 1"
    )
    t(
        "update absurd.t_default set max_attempts = 9 where task_name = 't1' returning task_name, max_attempts"
    )
    t(
        "update absurd.t_default t set headers = jsonb_build_object('x', r.attempt) from absurd.r_default r where r.task_id = t.task_id and r.state='running' returning t.headers"
    )
    t(
        "update absurd.r_default set available_at = available_at + interval '1 day' where state = 'pending'"
    )
    t("select count(*) from absurd.claim_task('default','w')")
    t("update absurd.queues set cleanup_limit = 0")
    t("update absurd.queues set cleanup_ttl = '-1 day'")
    t("update absurd.queues set storage_mode='x'")
    t("update absurd.queues set queue_name=null")
    t(
        "insert into absurd.queues (queue_name) values ('direct') returning queue_name, storage_mode, cleanup_ttl"
    )
    t("insert into absurd.queues (queue_name) values ('direct')")
    t(
        "insert into absurd.queues (queue_name) values ('direct') on conflict (queue_name) do nothing"
    )
    t("delete from absurd.queues where queue_name='direct'")
    t(
        "insert into absurd.t_default (task_id, task_name, params, state) values ('00000000-0000-0000-0000-00000000000a','x','{}','pending') returning attempts, state"
    )
    t(
        "insert into absurd.t_default (task_id, task_name, params, state) values ('00000000-0000-0000-0000-00000000000a','x','{}','pending')"
    )
    t(
        "insert into absurd.t_default (task_id, task_name, params, state, idempotency_key) values ('00000000-0000-0000-0000-00000000000b','x','{}','pending','k4')"
    )
    t(
        "insert into absurd.t_default (task_id, task_name, params, state) values ('00000000-0000-0000-0000-00000000000c','x','{}','odd')"
    )
    t(
        "insert into absurd.t_default (task_id, task_name, state) values ('00000000-0000-0000-0000-00000000000c','x','pending')"
    )
    t(
        "insert into absurd.t_default (task_id, nosuch) values ('00000000-0000-0000-0000-00000000000c','x')"
    )
    t(
        "insert into absurd.c_default (task_id, checkpoint_name, state) select task_id, 'manual', params from absurd.t_default where task_name='t2' returning checkpoint_name, status"
    )
    t(
        "delete from absurd.c_default c using absurd.t_default t where c.task_id=t.task_id returning c.checkpoint_name"
    )
    t("delete from absurd.t_default where task_name='x'")
    t("with gone as (delete from absurd.e_default returning *) select count(*) from gone")
    t(
        "with new as (insert into absurd.e_default values ('a','1') returning event_name) select * from new"
    )
    t(
        "with up as (update absurd.e_default set payload='2' returning event_name, payload) select * from up"
    )
    t(
        "select task_name from absurd.t_default where enqueue_at >= %s and task_name = %s order by task_id",
        dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
        "t1",
    )
    t("select count(*) from absurd.t_default where task_name = any(%s)", ["t1", "t2"])
    t("select count(*) from absurd.t_default where task_id = any(%s)", [uuid.UUID(int=1)])
    t("select count(*) from absurd.t_default where attempts in (%s,%s)", 1, 2)
    t("select count(*) from absurd.t_default where max_attempts = %s", 9)
    t("select count(*) from absurd.t_default where task_name = %s", 5)
    t("select count(*) from absurd.t_default where task_id = %s", "abc")
    t("select count(*) from absurd.t_default where attempts = %s", "x")
    t("select count(*) from absurd.t_default where params = %s", Jsonb({"f": 0.0, "i": 0}))
    t("select count(*) from absurd.t_default where params @> %s", Jsonb({"i": 0}))
    t("select count(*) from absurd.t_default limit %s", 1)
    t("select attempts + %s from absurd.t_default limit 1", 2.5)
    t("select upper(%s)", "a")
    t("select length(%s)", 5)
    t("select coalesce(%s, 'x')", None)
    t("select 'x'::int")
    t("select ''::int")
    t(
        "select '{}'::jsonb::text, '[1, 2]'::json, to_jsonb(array[1,2]), '5'::jsonb::int, '\"x\"'::jsonb::int, 'true'::jsonb::bool"
    )
    t(
        "select '{\"a\":[1,{\"b\":null}]}'::jsonb #> '{a,1}', '{\"a\":1}'::jsonb -> 'b', '{\"a\":1}'::jsonb || '{\"b\":2}', jsonb_typeof('null')"
    )
    t(
        "select '1.0'::jsonb = '1'::jsonb, '{\"a\":1,\"b\":2}'::jsonb = '{\"b\":2,\"a\":1}'::jsonb, 'null'::jsonb is null"
    )
    t('select 1 as "A b", 2 as Abc')
    t('select t."task_name" from absurd."t_default" as "t" limit 1')
    t("select absurd.t_default.task_name from absurd.t_default limit 1")
    t("select count(*) c from absurd.t_default having count(*) > 100")
    t(
        "select state from absurd.t_default group by state having count(*) > 1 order by count(*) desc"
    )
    t("select not (1=1), 1<>2, 1!=2, 'a' < 'b', 'a' >= 'B'")
    t("select now()::date = current_date")
    t("select (1,2) = (1,2)")
    t("select 1 where 1 not in (2, null)")
    t("select 1 where null")
    t("table absurd.e_default")
    t(
        "select a.* from absurd.queues a full join absurd.queues b on a.queue_name=b.queue_name limit 0"
    )
    t(
        "select interval '1 day' + interval '2 hours', interval '1 month' * 1.5, now() - now() = interval '0', make_interval(secs => 90), age(timestamptz '2024-01-02', timestamptz '2024-01-01')"
    )
    t("select pg_typeof(1)::text, pg_typeof('x'::text)::text")
    t("select greatest(now(), now()) = now(), least(null, 1)")
    t("select exists (select 1 from absurd.queues where queue_name = %s)", "default")
    t("select bool_or(state='running'), bool_and(state='running') from absurd.t_default")
    t(
        "select sum(attempts), avg(attempts), min(params->>'i'), max((params->>'f')::float8) from absurd.t_default"
    )
    t("select null::int, null::text, null::uuid, null::jsonb")
    t(
        "select count(*) from absurd.t_default where cancellation is not null and (cancellation->>'max_delay')::bigint > 1000"
    )
    t("select trim(both ' ' from ' a '), ltrim('  a'), rtrim('a  '), btrim('xax','x')")
    t("select 'a' in ('a','b'), 'c' = any('{a,b}')")
    t('select queue_name from absurd.queues order by queue_name collate "C"')
