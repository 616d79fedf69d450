"""Only "not yours any more" loses a lease: real refusals of every class in the table."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from absurdctl import BUNDLED_SCHEMA_SQL

from absurd_contimg.backends.postgres import EmbeddedPostgres, PostgresBackend
from absurd_contimg.backends.postgres.schema import install_schema
from absurd_contimg.core import lease as lease_module
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.errors import BackendError, BackendUnavailable, QueueNotFound
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
FOREIGN = ("23514", "23505", "42P01", "42703", "42804", "P0001")
REFUSED = ("22P02", "54000", "0A000")

TRIGGER = """
create sequence public."tries_{name}";
create function public."refuse_{name}"() returns trigger language plpgsql as $$ begin
  if nextval('public."tries_{name}"') <= {times} then
    raise exception '{text}' using errcode = '{state}'; end if;
  return new; end $$;
create trigger refuse before {operations} on absurd."{table}"
  for each row {condition} execute function public."refuse_{name}"();
"""


NO_IDS_LEFT = "database is not accepting commands to avoid wraparound data loss in database"
"""With SQLSTATE 54000, as from Postgres 15."""


def refuse(
    url: str,
    queue: str,
    state: str,
    operations: str,
    kind: str,
    times: int,
    when: str = "",
    text: str = "refused for the test",
) -> None:
    """Let the first writes to a table of the queue fail with this SQLSTATE."""
    table, condition = f"{kind}_{queue}", f"when ({when})" if when else ""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            TRIGGER.format(
                name=f"{kind}{queue}",
                state=state,
                text=text,
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
                with suppress(BackendUnavailable):  # the sessions of this reader are ended too
                    history = await backend.history(queue, task.task_id)
                    assert history is not None
                    if history.task.state in ("completed", "failed", "cancelled"):
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
        outcomes = await asyncio.gather(*map(run, (*PASSING, *FOREIGN)))
    assert outcomes == [(state, "completed", 1, [1, 1]) for state in (*PASSING, *FOREIGN)]


async def test_used_up_transaction_ids_neither_fail_nor_cancel_a_task(database_url: str) -> None:
    """They took a result for a wrong value, and cancelled the task whose failure was refused."""

    async def fail(params: Any, ctx: TaskContext) -> Any:
        raise TypeError("by the handler")

    async with PostgresBackend(database_url) as backend:
        for queue in ("result", "failure"):
            await backend.create_queue(queue)
            for kind, operations in (("c", "insert or update"), ("r", "update")):
                ends = "" if kind == "c" else "new.state <> 'running'"
                refuse(database_url, queue, "54000", operations, kind, 2, ends, NO_IDS_LEFT)
        result = await run_one(backend, "result", counted([]), lease=60)
        failure = await run_one(backend, "failure", fail, lease=60)
    assert (result.task.state, len(result.runs)) == ("completed", 1)
    assert (failure.task.state, len(failure.runs)) == ("failed", 1)
    assert "by the handler" in str(failure.runs[0].failure_reason)
    assert "wraparound" not in str(failure.runs[0].failure_reason)


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

    states = ("25006", "40P01", "57014", "55P03", *FOREIGN, *REFUSED)
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
    assert {meaning(state) for state in FOREIGN} == {Refusal.FOREIGN}
    assert {meaning(state) for state in ("AB001", "AB002")} == {Refusal.NOT_OURS}
    assert meaning_of(BackendUnavailable("away")) is Refusal.PASSING


def test_sentences_of_absurd_are_told_from_those_of_triggers() -> None:
    """Every P0001 of Absurd's own SQL; those about a run, and no others, end its lease."""
    texts = re.findall(r"raise exception\s+'((?:[^']|'')*)'([^;]*);", BUNDLED_SCHEMA_SQL)
    plain = {text for text, rest in texts if "errcode" not in rest}
    assert len(plain) > 40
    for text in plain:
        expected = Refusal.NOT_OURS if text.startswith('Run "%"') else Refusal.INVALID
        for value in ("<NULL>", "7", "a\nb"):
            error = BackendError(text.replace("%", value), "P0001")
            assert meaning_of(error) is expected, text
    for text in (
        "audit: no partition",
        'Run "7" is not audited',
        'x Run "7" not found in queue "q"',
    ):
        assert meaning_of(BackendError(text, "P0001")) is Refusal.FOREIGN


async def test_heartbeat_that_is_refused_for_ever_fails_the_task(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """By a trigger that lets everything else through: the step is not run again for ever."""

    async def tracked(params: Any, ctx: TaskContext) -> Any:
        async def work(_start: int) -> None:
            await asyncio.sleep(20)

        await ctx.tracked_step("s", work)

    async def run(queue: str, handler: Any) -> History:
        await backend.create_queue(queue)
        extended = "new.state = 'running' and old.state = 'running' and old.event_payload is null"
        heartbeats = f"{extended} and new.claim_expires_at > old.claim_expires_at + interval '1 s'"
        refuse(database_url, queue, "P0001", "update", "r", 10**6, heartbeats)
        return await run_one(backend, queue, handler, lease=4)

    async with PostgresBackend(database_url) as backend:
        histories = await asyncio.gather(run("plain", counted([], 20)), run("tracked", tracked))
    for history in histories:
        assert history.task.state == "failed"
        reasons = [str(run.failure_reason) for run in history.runs]
        # On a busy machine a run may end because an extension is not answered in time.
        assert sum("refused for the test" in reason for reason in reasons) == 2
        assert len(reasons) < 5
    assert "refused for the test; repeated under the lease" in caplog.text


async def test_checkpoint_that_is_refused_for_ever_fails_the_task_by_its_name(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one step, or of all, the journal included; each attempt repeats it for a bounded time."""
    monkeypatch.setitem(lease_module._REFUSALS_SECONDS, Refusal.FOREIGN, 0.5)

    async def run(queue: str, refused: str) -> None:
        await backend.create_queue(queue)
        refuse(database_url, queue, "P0001", "insert or update", "c", 10**6, refused)
        ran: list[int] = []
        history = await run_one(backend, queue, counted(ran), lease=60)
        reason: Any = history.runs[-1].failure_reason
        assert (history.task.state, ran) == ("failed", [1, 2])
        assert (reason["rule"], reason["kind"]) == ("checkpoint-refused", "unknown")
        assert "checkpoint 's'" in reason["message"]
        assert "refused for the test" in reason["message"]

    async with PostgresBackend(database_url) as backend:
        await asyncio.gather(run("one", "new.checkpoint_name = 's'"), run("all", "true"))


async def test_table_that_a_trigger_misses_is_no_queue(database_url: str) -> None:
    """Absurd's own missing table is told with what to do, a stranger's with its name alone."""
    async with PostgresBackend(database_url) as backend:
        with pytest.raises(QueueNotFound, match="contimg --queue none db init"):
            await backend.claim_task("none", "w")
        await backend.create_queue("q")
        with psycopg.connect(database_url, autocommit=True) as stranger:
            stranger.execute(
                "create function note() returns trigger language plpgsql as $$ begin"
                " if tg_table_name = 't_q' then insert into audit_log values (1);"
                " else perform no_such_function(); end if; return new; end $$;"
                " create trigger note before insert on absurd.t_q"
                " for each row execute function note();"
                " create trigger note before insert on absurd.e_q"
                " for each row execute function note()"
            )
        for call, name in (
            (backend.spawn_task("q", "t", {}), "audit_log"),
            (backend.emit_event("q", "e"), "no_such_function"),
        ):
            with pytest.raises(BackendError, match=name) as refusal:
                await call
            assert "contimg db init" not in str(refusal.value)
            assert type(refusal.value) is BackendError


def test_patience_is_shorter_where_a_refusal_may_stay() -> None:
    assert lease_module._REFUSALS_SECONDS == {Refusal.PASSING: 600.0, Refusal.FOREIGN: 60.0}


class LoadRefused(PostgresBackend):
    """The reading of checkpoints is refused so often."""

    state = ""
    times = 0

    async def get_task_checkpoint_states(self, *args: Any, **kwargs: Any) -> Any:
        self.times -= 1
        if self.times >= 0:
            raise BackendError("refused for the test", self.state)
        return await super().get_task_checkpoint_states(*args, **kwargs)


@pytest.mark.parametrize("state", FOREIGN[::2])
async def test_refusal_before_the_handler_starts_blames_no_task(
    database_url: str, state: str
) -> None:
    """Not even one that lasts for longer than a lease."""
    ran: list[int] = []
    async with LoadRefused(database_url) as backend:
        backend.state, backend.times = state, 7
        await backend.create_queue("q")
        history = await run_one(backend, "q", counted(ran), lease=1)
    assert (history.task.state, ran) == ("completed", [history.task.attempts] * 2)
    assert len(history.runs) > 1
    assert "kind" not in str([run.failure_reason for run in history.runs]), "leases ran out"


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
