"""Only "not yours any more" loses a lease: real refusals of every class in the table."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from absurd_contimg.backends.postgres import EmbeddedPostgres, PostgresBackend
from absurd_contimg.backends.postgres.schema import install_schema
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.errors import BackendError, BackendUnavailable
from absurd_contimg.core.records import History
from absurd_contimg.core.refusals import Refusal, meaning_of
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings

LEASE_SECONDS = 6
"""Refusals last for a third of it: a loaded machine has the rest."""

PASSING = (
    *("08006", "25006", "25P03", "26000", "28000", "3F000", "40001", "40P01", "42501", "42883"),
    *("53100", "53200", "53300", "55P03", "55000", "57014", "57P01", "57P05", "58030", "XX000"),
)
REFUSED = ("22P02", "23514", "54000", "0A000", "42P01")

TRIGGER = """
create sequence public."tries_{name}";
create function public."refuse_{name}"() returns trigger language plpgsql as $$ begin
  if nextval('public."tries_{name}"') <= {times} then
    raise exception 'refused for the test' using errcode = '{state}'; end if;
  return new; end $$;
create trigger refuse before {operations} on absurd."{table}"
  for each row {condition} execute function public."refuse_{name}"();
"""


def refuse(
    url: str, queue: str, state: str, operations: str, kind: str, times: int, when: str = ""
) -> None:
    """Let the first writes to a table of the queue fail with this SQLSTATE."""
    table, condition = f"{kind}_{queue}", f"when ({when})" if when else ""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            TRIGGER.format(
                name=f"{kind}{queue}",
                state=state,
                operations=operations,
                table=table,
                times=times,
                condition=condition,
            ).encode()
        )


async def run_one(
    backend: PostgresBackend, queue: str, handler: Any, lease: int = LEASE_SECONDS
) -> History:
    """The history of one task, run by one worker to its end."""
    registry = TaskRegistry()
    registry.add("t", handler)
    task = await backend.spawn_task(queue, "t", {})
    settings = WorkerSettings(queue, "w", 1, lease, 0.05, 0.0)
    worker = Worker(backend, registry, settings)
    working = asyncio.create_task(worker.run())
    try:
        async with asyncio.timeout(60):
            while True:
                history = await backend.history(queue, task.task_id)
                assert history is not None
                if history.task.state in ("completed", "failed"):
                    return history
                assert not working.done(), working.result()
                await asyncio.sleep(0.1)
    finally:
        worker.stop()
        await working


def counted(ran: list[int], seconds: float = 0.0) -> Any:
    """A handler with one step, which notes its runs."""

    async def handler(params: Any, ctx: TaskContext) -> Any:
        async def work() -> int:
            ran.append(ctx.attempt)
            await asyncio.sleep(seconds)
            return 1

        await ctx.step("s", work)
        ran.append(ctx.attempt)

    return handler


async def test_result_survives_each_class_that_may_pass(database_url: str) -> None:
    """The writing of a checkpoint, and of the completion, is refused twice."""

    async def run(state: str) -> tuple[str, str, int, list[int]]:
        await backend.create_queue(state)
        refuse(database_url, state, state, "insert or update", "c", 2)
        refuse(database_url, state, state, "update", "r", 2, "new.state = 'completed'")
        ran: list[int] = []
        history = await run_one(backend, state, counted(ran), lease=60)
        return state, history.task.state, len(history.runs), ran

    async with PostgresBackend(database_url) as backend:
        outcomes = await asyncio.gather(*map(run, PASSING))
    assert outcomes == [(state, "completed", 1, [1, 1]) for state in PASSING]


async def test_lease_survives_every_refusal_of_its_extension(database_url: str) -> None:
    """Other classes too: whatever the database says, it did not say that the run is another's."""

    async def run(state: str) -> tuple[str, str, int, list[int]]:
        await backend.create_queue(state)
        extended = "new.state = 'running' and old.state = 'running'"
        refuse(database_url, state, state, "update", "r", 2, extended)
        ran: list[int] = []
        lease = 12
        history = await run_one(backend, state, counted(ran, lease / 3 + 1), lease)
        return state, history.task.state, len(history.runs), ran

    states = ("25006", "40P01", "57014", "55P03", *REFUSED)
    async with PostgresBackend(database_url) as backend:
        outcomes = await asyncio.gather(*map(run, states))
    assert outcomes == [(state, "completed", 1, [1, 1]) for state in states]


async def test_refusal_of_what_was_sent_fails_at_once(database_url: str) -> None:
    async def run(state: str) -> tuple[str, str]:
        await backend.create_queue(state)
        refuse(database_url, state, state, "insert", "c", 10**6, "new.checkpoint_name = 's'")
        history = await run_one(backend, state, counted([]), lease=60)
        return state, history.task.state

    async with PostgresBackend(database_url) as backend:
        began = time.monotonic()
        outcomes = [await run("22P02")]
        assert time.monotonic() - began < 20, "it was not repeated under the lease"
    assert outcomes == [("22P02", "failed")]


def test_table_of_meanings() -> None:
    def meaning(state: str | None) -> Refusal:
        return meaning_of(BackendError("no", state))

    assert {meaning(state) for state in PASSING} == {Refusal.PASSING}
    assert {meaning(state) for state in (*REFUSED, None, "99999")} == {Refusal.INVALID}
    assert {meaning(s) for s in ("AB001", "AB002", "P0001")} == {Refusal.NOT_OURS}
    assert meaning_of(BackendUnavailable("away")) is Refusal.PASSING


@contextmanager
def setting(url: str, assignment: str) -> Iterator[None]:
    """A default of the database for new sessions; the present ones end, as in a failover."""
    name = url.partition("?")[0].rpartition("/")[2]
    others = "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s and pid <> "
    with psycopg.connect(url, autocommit=True) as connection:

        def change(statement: str) -> None:
            connection.execute("set default_transaction_read_only = off")
            connection.execute(f"alter database {name} {statement}".encode())
            connection.execute(f"{others} pg_backend_pid()".encode(), (name,))

        change(f"set {assignment}")
        try:
            yield
        finally:
            change(f"reset {assignment.partition(' ')[0]}")


@asynccontextmanager
async def row_locked(url: str, queue: str, seconds: float) -> AsyncIterator[None]:
    """The rows of all runs are locked by somebody for so long."""
    connection = await psycopg.AsyncConnection.connect(url)
    await connection.execute("set statement_timeout = 0")
    await connection.execute("set lock_timeout = 0")
    await connection.execute(f"select from absurd.r_{queue} for update".encode())
    release = asyncio.get_running_loop().call_later(
        seconds, lambda: asyncio.ensure_future(connection.close())
    )
    try:
        yield
    finally:
        release.cancel()
        await connection.close()


@pytest.mark.parametrize("bound", ["statement_timeout = '300ms'", "lock_timeout = '300ms'"])
async def test_row_lock_under_a_timeout_costs_nothing(database_url: str, bound: str) -> None:
    ran: list[int] = []

    async def handler(params: Any, ctx: TaskContext) -> Any:
        async with row_locked(database_url, "q", LEASE_SECONDS / 3):
            return await counted(ran)(params, ctx)

    with setting(database_url, bound):
        async with PostgresBackend(database_url) as backend:
            await backend.create_queue("q")
            history = await run_one(backend, "q", handler)
    assert (history.task.state, len(history.runs), ran) == ("completed", 1, [1, 1])


async def test_read_only_moment_costs_nothing(database_url: str) -> None:
    ran: list[int] = []

    async def handler(params: Any, ctx: TaskContext) -> Any:
        begun = asyncio.Event()
        loop = asyncio.get_running_loop()

        def be_read_only() -> None:
            with setting(database_url, "default_transaction_read_only = on"):
                loop.call_soon_threadsafe(begun.set)
                time.sleep(LEASE_SECONDS / 3)

        ended = loop.run_in_executor(None, be_read_only)
        await begun.wait()
        ended.add_done_callback(lambda done: done.result())
        return await counted(ran)(params, ctx)

    async with PostgresBackend(database_url) as backend:
        await backend.create_queue("q")
        history = await run_one(backend, "q", handler)
    assert (history.task.state, len(history.runs), ran) == ("completed", 1, [1, 1])


async def test_serializable_sessions_run_nothing_twice(database_url: str) -> None:
    """20 tasks, 4 workers: serialisation failures are repeated, by claims too."""
    ran: list[str] = []

    async def handler(params: Any, ctx: TaskContext) -> None:
        async def work(step: str) -> None:
            ran.append(f"{ctx.task_id} {step}")

        for step in ("a", "b", "c"):
            await ctx.step(step, lambda step=step: work(step))  # type: ignore[misc]

    registry = TaskRegistry()
    registry.add("t", handler)
    with setting(database_url, "default_transaction_isolation = 'serializable'"):
        async with PostgresBackend(database_url) as backend:
            await backend.create_queue("q")
            tasks = [await backend.spawn_task("q", "t", {}) for _ in range(20)]
            names = (f"w{number}" for number in range(4))
            workers = [
                Worker(backend, registry, WorkerSettings("q", name, 1, 60, 0.05, 0.0))
                for name in names
            ]
            await asyncio.gather(*(worker.run(until_idle=True) for worker in workers))
            histories = await backend.histories("q", [task.task_id for task in tasks])
    assert {(h.task.state, len(h.runs)) for h in histories} == {("completed", 1)}
    assert len(ran) == len(set(ran)) == 60


async def test_restart_of_the_server_costs_nothing(tmp_path: Path) -> None:
    ran: list[int] = []
    with EmbeddedPostgres(tmp_path / "pg", durable=False) as server:
        url = server.create_database("x")
        install_schema(url)

        def restart() -> None:
            server.stop("fast")
            server.start()

        async def handler(params: Any, ctx: TaskContext) -> Any:
            restarted = asyncio.create_task(asyncio.to_thread(restart))
            result = await counted(ran, 0.5)(params, ctx)
            await restarted
            return result

        async with PostgresBackend(url) as backend:
            await backend.create_queue("q")
            history = await run_one(backend, "q", handler, lease=60)
    assert (history.task.state, len(history.runs), ran) == ("completed", 1, [1, 1])
