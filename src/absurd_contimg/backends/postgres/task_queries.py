"""The reads over many tasks in SQL: filters, counts, what ended lately, suspects.

Each is one statement or a few, whose cost does not grow with the histories. The answers are those
of `core.task_queries`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from psycopg import sql
from psycopg.types.json import Jsonb

from absurd_contimg.backends.postgres.columns import selected
from absurd_contimg.backends.postgres.connections import Connections
from absurd_contimg.core.records import LIVE_STATES, QueueStats, State, Task
from absurd_contimg.core.task_queries import (
    FAILED_MAX,
    KINDS_MAX,
    FailureCount,
    RecentActivity,
    TaskFilter,
)

_LIVE = "('pending', 'running', 'sleeping')"

_STATES = sql.SQL("select state, count(*) from absurd.{tasks} group by 1 order by 1")
# Of the columns of an index only: the rows themselves are not read.
_LIVE_RUNS = sql.SQL(f"""
select count(available_at),
       count(available_at) filter (where state <> 'running' and available_at <= now.at),
       extract(epoch from now.at - min(available_at) filter (
           where state <> 'running' and available_at <= now.at))
from (select absurd.current_time() as at) as now left join absurd.{{runs}} on state in {_LIVE}
group by now.at
""")
_DUE = sql.SQL(f"""
select count(*), extract(epoch from absurd.current_time() - min(r.available_at))
from absurd.{{runs}} r join absurd.{{tasks}} t using (task_id)
where r.state in ('pending', 'sleeping') and t.state in {_LIVE}
  and r.available_at <= (select absurd.current_time())
""")
_EXPIRED = sql.SQL("""
select count(*) from absurd.{runs}
where state = 'running' and claim_expires_at <= absurd.current_time()
""")
_ENDED = sql.SQL("""
select count(*) filter (where t.state = 'completed'),
       count(*) filter (where t.state = 'failed'),
       percentile_disc(array[0.5, 0.95]) within group (order by extract(epoch from
           case when t.state = 'completed' and isfinite(r.completed_at) and isfinite(t.enqueue_at)
                then r.completed_at - t.enqueue_at end))
from absurd.{runs} r join absurd.{tasks} t on t.task_id = r.task_id
where r.run_id = t.last_attempt_run and r.state = t.state
  and (r.completed_at >= %(since)s or (r.state = 'failed' and r.failed_at >= %(since)s))
""")
_FAILURES = sql.SQL("""
select case when jsonb_typeof(failure_reason) = 'object' then jsonb_strip_nulls(
           jsonb_build_object('name', failure_reason->'name', 'kind', failure_reason->'kind',
                              'rule', failure_reason->'rule')) else '"?"'::jsonb end as reason,
       count(*) as number
from absurd.{runs}
where state = 'failed' and failed_at >= %(since)s and failure_reason <> 'null'
group by 1 order by 2 desc, 1 limit %(limit)s
""")
_FAILED = sql.SQL("""
select t.task_id from absurd.{runs} r join absurd.{tasks} t on t.task_id = r.task_id
where r.state = 'failed' and r.failed_at >= %(since)s
  and t.state = 'failed' and t.last_attempt_run = r.run_id
order by r.failed_at desc, t.task_id desc limit %(failed_max)s
""")
# A live task has one live run; where the numbers agree, each has one, and nothing is compared.
_SUSPECTS = sql.SQL(f"""
with numbers as (
    select (select count(*) from absurd.{{tasks}} where state in {_LIVE}) as tasks,
           (select count(*) from absurd.{{runs}} where state in {_LIVE}) as runs
)
select task_id from (
    select task_id from absurd.{{runs}}
    where state = 'running' and (claim_expires_at is null or claim_expires_at = 'infinity')
    union
    select task_id from absurd.{{runs}} where state = 'sleeping' and available_at = 'infinity'
    union
    select task_id from absurd.{{runs}}, (select absurd.current_time() as at) as now
    where state in ('pending', 'sleeping') and available_at > now.at and created_at > now.at
       or state = 'running' and claim_expires_at > now.at and started_at > now.at
    union
    select task_id from absurd.{{tasks}}
    where cancellation is not null and state in {_LIVE}
      and (coalesce(cancellation->>'max_delay', '0') !~ '^[0-9]{{{{1,18}}}}$'
           or coalesce(cancellation->>'max_duration', '0') !~ '^[0-9]{{{{1,18}}}}$')
    union
    select t.task_id from numbers, absurd.{{tasks}} t
    where numbers.tasks <> numbers.runs and t.state in {_LIVE}
      and (select count(*) from absurd.{{runs}} r
           where r.task_id = t.task_id and r.state in {_LIVE}) <> 1
) as suspects order by 1 limit %(limit)s
""")  # fmt: skip


class TaskQueries:
    """The questions about many tasks, over the connections of a backend."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def find(
        self, queue_name: str, wanted: TaskFilter, before: UUID | None, limit: int
    ) -> list[Task]:
        """See `Inspection.find_tasks`."""
        conditions, arguments = _conditions(queue_name, wanted)
        if before is not None:
            conditions.append(sql.SQL("task_id < %s"))
            arguments.append(before)
        query = sql.SQL("select {} from absurd.{} t{} order by task_id desc limit %s").format(
            sql.SQL(selected(Task)), table("t", queue_name), _where(conditions)
        )
        return await self._connections.rows(Task, query, *arguments, limit)

    async def count(self, queue_name: str, wanted: TaskFilter) -> dict[State, int]:
        """See `Inspection.count_tasks`."""
        conditions, arguments = _conditions(queue_name, wanted)
        query = sql.SQL("select state, count(*) from absurd.{} t{} group by 1").format(
            table("t", queue_name), _where(conditions)
        )
        async with self._connections.connection() as connection:
            rows = await (await connection.execute(query, arguments)).fetchall()
        return {cast(State, state): int(number) for state, number in rows}

    async def stats(self, queue_name: str) -> QueueStats:
        """See `Inspection.queue_stats`."""
        tables = {"tasks": table("t", queue_name), "runs": table("r", queue_name)}
        async with self._connections.snapshot() as connection:

            async def rows(query: sql.SQL) -> list[Any]:
                return await (await connection.execute(query.format(**tables), ())).fetchall()

            by_state = {state: int(number) for state, number in await rows(_STATES)}
            ((live, claimable, oldest),) = await rows(_LIVE_RUNS)
            if live != sum(by_state.get(state, 0) for state in LIVE_STATES):
                # A run outlives its task: ten times as slow as to count where each has the other.
                ((claimable, oldest),) = await rows(_DUE)
            ((leases,),) = await rows(_EXPIRED)
        return QueueStats(
            queue_name=queue_name,
            tasks_by_state=by_state,
            claimable=int(claimable),
            oldest_claimable_seconds=None if oldest is None else float(oldest),
            expired_leases=int(leases),
        )

    async def activity(self, queue_name: str, since: datetime) -> RecentActivity:
        """See `Inspection.recent_activity`."""
        tables = {"tasks": table("t", queue_name), "runs": table("r", queue_name)}
        arguments = {"since": since, "limit": KINDS_MAX, "failed_max": FAILED_MAX}
        async with self._connections.snapshot() as connection:

            async def rows(query: sql.SQL) -> list[Any]:
                cursor = await connection.execute(query.format(**tables), arguments)
                return await cursor.fetchall()

            ((completed, failed, latencies),) = await rows(_ENDED)
            failures = await rows(_FAILURES)
            failed_tasks = await rows(_FAILED) if failed else []
        median, late = latencies or (None, None)
        return RecentActivity(
            int(completed),
            int(failed),
            None if median is None else float(median),
            None if late is None else float(late),
            tuple(FailureCount(reason, int(number)) for reason, number in failures),
            tuple(task_id for (task_id,) in failed_tasks),
        )

    async def suspects(self, queue_name: str, limit: int) -> list[UUID]:
        """See `Inspection.suspect_tasks`."""
        tables = {"tasks": table("t", queue_name), "runs": table("r", queue_name)}
        async with self._connections.connection() as connection:
            cursor = await connection.execute(_SUSPECTS.format(**tables), {"limit": limit})
            return [task_id for (task_id,) in await cursor.fetchall()]


def _conditions(queue_name: str, wanted: TaskFilter) -> tuple[list[sql.Composable], list[object]]:
    """What is set of a filter, as conditions on ``t`` with their arguments."""
    params = None if wanted.params is None else Jsonb(dict(wanted.params))
    simple: Sequence[tuple[object, sql.SQL]] = (
        (None if wanted.states is None else list(wanted.states), sql.SQL("state = any(%s)")),
        (wanted.task_name, sql.SQL("task_name = %s")),
        (params, sql.SQL("params @> %s")),
        (None if wanted.task_ids is None else list(wanted.task_ids), sql.SQL("task_id = any(%s)")),
        (wanted.enqueued_from, sql.SQL("enqueue_at >= %s")),
        (wanted.enqueued_before, sql.SQL("enqueue_at < %s")),
    )
    conditions: list[sql.Composable] = [query for value, query in simple if value is not None]
    arguments = [value for value, _ in simple if value is not None]
    if wanted.id_suffix is not None:
        conditions.append(sql.SQL("right(task_id::text, length(%s)) = %s"))
        arguments += [wanted.id_suffix, wanted.id_suffix]
    if wanted.failure is not None:
        conditions.append(
            sql.SQL(
                "exists (select from absurd.{} r where r.task_id = t.task_id and to_jsonb(%s::text)"
                " in (failure_reason->'kind', failure_reason->'rule', failure_reason->'name'))"
            ).format(table("r", queue_name))
        )
        arguments.append(wanted.failure)
    return conditions, arguments


def _where(conditions: Sequence[sql.Composable]) -> sql.Composable:
    return sql.SQL(" where ") + sql.SQL(" and ").join(conditions) if conditions else sql.SQL("")


def table(kind: str, queue_name: str) -> sql.Identifier:
    """One of the queue's tables, tasks (t), runs (r), checkpoints (c) or waits (w), in a query
    with arguments: there a ``%`` is doubled."""
    return sql.Identifier(f"{kind}_{queue_name}".replace("%", "%%"))
