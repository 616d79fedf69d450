"""`PostgresInspection`: core's `Inspection` of a real Postgres."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import LiteralString, TypeVar
from uuid import UUID

from psycopg import sql
from typing_extensions import override

from absurd_contimg.backends.postgres.connections import Connections, answered, columns
from absurd_contimg.core.backend import Inspection
from absurd_contimg.core.records import (
    Checkpoint,
    History,
    QueuePolicy,
    QueueStats,
    Run,
    State,
    Task,
    TaskResult,
    Wait,
)

_Row = TypeVar("_Row")


class PostgresInspection(Inspection):
    """Reads Absurd's tables and calls its procedures that only read."""

    def __init__(self, connections: Connections) -> None:
        self._database = connections

    @override
    async def current_time(self) -> datetime:
        now: datetime = await self._database.call("current_time")
        return now

    @override
    async def schema_version(self) -> str:
        return str(await self._database.call("get_schema_version"))

    @override
    async def list_queues(self) -> list[str]:
        async with self._database.connection() as connection:
            cursor = await connection.execute(
                "select queue_name from absurd.list_queues() order by 1"
            )
            return [name for (name,) in await cursor.fetchall()]

    @override
    async def get_queue_policy(self, queue_name: str) -> QueuePolicy | None:
        query = sql.SQL("select {} from absurd.queues where queue_name = %s")
        return _first(
            await self._database.rows(QueuePolicy, query.format(_columns(QueuePolicy)), queue_name)
        )

    @override
    async def queue_stats(self, queue_name: str) -> QueueStats:
        tables = {"tasks": table("t", queue_name), "runs": table("r", queue_name)}
        count = sql.SQL("select state, count(*) from absurd.{tasks} group by 1 order by 1")
        due = sql.SQL(
            "select count(*), extract(epoch from absurd.current_time() - min(r.available_at))"
            " from absurd.{runs} r join absurd.{tasks} t using (task_id)"
            " where r.state in ('pending', 'sleeping')"
            " and t.state in ('pending', 'sleeping', 'running')"
            " and r.available_at <= absurd.current_time()"
        )
        expired = sql.SQL(
            "select count(*) from absurd.{runs}"
            " where state = 'running' and claim_expires_at <= absurd.current_time()"
        )
        async with self._database.snapshot() as connection:
            by_state = await (await connection.execute(count.format(**tables))).fetchall()
            row = await (await connection.execute(due.format(**tables))).fetchone()
            claimable, oldest = answered(row)
            row = await (await connection.execute(expired.format(**tables))).fetchone()
            (leases,) = answered(row)
        return QueueStats(
            queue_name=queue_name,
            tasks_by_state={state: int(number) for state, number in by_state},
            claimable=int(claimable),
            oldest_claimable_seconds=None if oldest is None else float(oldest),
            expired_leases=int(leases),
        )

    @override
    async def list_tasks(
        self,
        queue_name: str,
        *,
        states: Sequence[State] | None = None,
        task_name: str | None = None,
        limit: int = 100,
    ) -> list[Task]:
        query = _filtered(Task, "t", "task_name", queue_name, "task_id desc")
        wanted = None if states is None else list(states)
        return await self._database.rows(Task, query, wanted, wanted, task_name, task_name, limit)

    @override
    async def list_runs(
        self,
        queue_name: str,
        *,
        states: Sequence[State] | None = None,
        claimed_by: str | None = None,
        limit: int = 1000,
    ) -> list[Run]:
        query = _filtered(Run, "r", "claimed_by", queue_name, "run_id")
        wanted = None if states is None else list(states)
        return await self._database.rows(Run, query, wanted, wanted, claimed_by, claimed_by, limit)

    @override
    async def histories(self, queue_name: str, task_ids: Sequence[UUID]) -> list[History]:
        async with self._database.snapshot() as connection:

            async def rows(
                record: type[_Row], kind: str, order: LiteralString
            ) -> dict[UUID, list[_Row]]:
                query = sql.SQL(
                    "select task_id, {} from absurd.{} where task_id = any(%s) order by {}"
                ).format(_columns(record), table(kind, queue_name), sql.SQL(order))
                by_task: dict[UUID, list[_Row]] = defaultdict(list)
                cursor = await connection.execute(query, (list(task_ids),))
                for task_id, *values in await cursor.fetchall():
                    by_task[task_id].append(record(*values))
                return by_task

            tasks = await rows(Task, "t", "task_id")
            runs = await rows(Run, "r", "attempt, run_id")
            checkpoints = await rows(Checkpoint, "c", "updated_at, checkpoint_name")
            waits = await rows(Wait, "w", "run_id, step_name")
        return [
            History(
                queue_name,
                task,
                tuple(runs[task_id]),
                tuple(checkpoints[task_id]),
                tuple(waits[task_id]),
            )
            for task_id in task_ids
            for task in tasks[task_id]
        ]

    @override
    async def get_task_result(self, queue_name: str, task_id: UUID) -> TaskResult | None:
        return _first(
            await self._database.rows_of(TaskResult, "get_task_result", queue_name, task_id)
        )

    @override
    async def get_task_checkpoint_state(
        self, queue_name: str, task_id: UUID, step_name: str, include_pending: bool = False
    ) -> Checkpoint | None:
        arguments = (queue_name, task_id, step_name, include_pending)
        return _first(
            await self._database.rows_of(Checkpoint, "get_task_checkpoint_state", *arguments)
        )

    @override
    async def get_task_checkpoint_states(
        self, queue_name: str, task_id: UUID, run_id: UUID
    ) -> list[Checkpoint]:
        return await self._database.rows_of(
            Checkpoint, "get_task_checkpoint_states", queue_name, task_id, run_id
        )


def _filtered(
    record: type[object], kind: str, column: str, queue_name: str, order: LiteralString
) -> sql.Composed:
    """Rows of a table of the queue, by state and by another column, each None for any."""
    return sql.SQL(
        "select {} from absurd.{} where (%s::text[] is null or state = any(%s))"
        " and (%s::text is null or {} = %s) order by {} limit %s"
    ).format(_columns(record), table(kind, queue_name), sql.Identifier(column), sql.SQL(order))


def _columns(record: type[object]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns(record)))


def table(kind: str, queue_name: str) -> sql.Identifier:
    """One of the queue's tables: tasks (t), runs (r), checkpoints (c) or waits (w)."""
    return sql.Identifier(f"{kind}_{queue_name}")


def _first(rows: Sequence[_Row]) -> _Row | None:
    return rows[0] if rows else None
