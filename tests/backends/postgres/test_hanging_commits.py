"""Commits that wait for a standby which never answers: the change may be made all the same."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
import pytest
from standby import standby_gone

from absurd_contimg.backends.postgres import EmbeddedPostgres, PostgresBackend, connections
from absurd_contimg.backends.postgres import sessions as sessions_module
from absurd_contimg.backends.postgres.lock_holders import (
    explain_wait,
    explain_wait_now,
    find_missing_standby_now,
    require_commits,
)
from absurd_contimg.backends.postgres.schema import install_schema
from absurd_contimg.backends.postgres.server_programs import find_program
from absurd_contimg.backends.postgres.sessions import Session
from absurd_contimg.backends.postgres.synchronous_standby import CommitUnconfirmed
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.errors import BackendUnavailable
from absurd_contimg.core.evidence import Evidence
from absurd_contimg.core.failures import FailureKind
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.errors import RegistryUnconfirmedError
from absurd_contimg.operations.maintenance import backup
from absurd_contimg.operations.maintenance.backup import make_backup, restore_backup
from absurd_contimg.operations.maintenance.vacuum import vacuum_postgres
from absurd_contimg.registry import database, engines
from absurd_contimg.registry.database import Database
from absurd_contimg.registry.queue_pauses import QueuePause, QueuePauses
from absurd_contimg.workflows.failure_rules import CLASSIFIER

QUEUE = "q"
MAY_BE_MADE = "The change may be made all the same"
CAUSE = "synchronous_standby_names"
SOON = 10.0
PAUSE = QueuePause(QUEUE, "a test", "2026-01-01T00:00:00+00:00", "somebody")


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    with (
        TemporaryDirectory() as folder,  # short, for the path of a socket
        EmbeddedPostgres(Path(folder) / "postgres") as server,
    ):
        url = server.create_database("site")
        install_schema(url)
        yield url


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (connections, sessions_module):
        monkeypatch.setattr(module, "COMMIT_SECONDS", 0.5)


def waiting_backends(url: str) -> int:
    """How many sessions wait for the standby."""
    with psycopg.connect(url) as session:
        query = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'"
        ((count,),) = session.execute(query).fetchall()
        return int(count)


@pytest.mark.usefixtures("_impatient")
async def test_a_change_without_an_answer_is_said_to_be_possible(server_url: str) -> None:
    async with PostgresBackend(server_url) as backend:
        await backend.create_queue(QUEUE)
        task = await backend.spawn_task(QUEUE, "t", {})
        with standby_gone(server_url):
            async with asyncio.timeout(SOON):
                with pytest.raises(BackendUnavailable, match=CAUSE) as refusal:
                    await backend.cancel_task(QUEUE, task.task_id)
        assert MAY_BE_MADE in str(refusal.value)
        history = await backend.history(QUEUE, task.task_id)
        assert history is not None
        assert history.task.state == "cancelled"


@pytest.mark.usefixtures("_impatient")
async def test_every_change_of_a_queue_ends_in_time(server_url: str) -> None:
    """They took a minute, or for ever; what is only read is answered."""
    async with PostgresBackend(server_url) as backend:
        await backend.create_queue(QUEUE)
        with standby_gone(server_url):
            async with asyncio.timeout(3 * SOON):
                with pytest.raises(BackendUnavailable, match=CAUSE):
                    await backend.create_queue("second")
                with pytest.raises(BackendUnavailable, match=CAUSE):
                    await backend.spawn_task(QUEUE, "t", {})
                with pytest.raises(CommitUnconfirmed, match=CAUSE):
                    await vacuum_postgres(server_url, "absurd")
                assert QUEUE in await backend.list_queues()
        assert waiting_backends(server_url) == 0


async def test_a_question_without_an_answer_changes_nothing(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with PostgresBackend(database_url) as backend:
        await backend.create_queue(QUEUE)
        task = await backend.spawn_task(QUEUE, "t", {})
        monkeypatch.setattr(connections, "_CALL_SECONDS", 0.5)
        with psycopg.connect(database_url) as locker:
            locker.execute(f"lock table absurd.t_{QUEUE} in access exclusive mode")
            with pytest.raises(BackendUnavailable, match="did not answer") as refusal:
                await backend.get_task_result(QUEUE, task.task_id)
    assert MAY_BE_MADE not in str(refusal.value)


def by_commit(session: Session, statement: bytes) -> None:
    session.execute(statement)
    session.commit()


def by_transaction(session: Session, statement: bytes) -> None:
    with session.transaction():
        session.execute(statement)


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("change", [by_commit, by_transaction])
def test_a_commit_of_a_session_ends_and_is_seen(
    server_url: str, change: Callable[[Session, bytes], None]
) -> None:
    """It frees what it has locked, and the session goes on."""
    name = change.__name__
    with standby_gone(server_url), Session.connect(server_url) as session:
        begun = time.monotonic()
        with pytest.raises(CommitUnconfirmed, match=CAUSE):
            change(session, f"create table public.{name} ()".encode())
        assert time.monotonic() - begun < SOON
        assert waiting_backends(server_url) == 0
        assert session.execute("select 1").fetchone() == (1,)
        session.rollback()
        with psycopg.connect(server_url) as other:
            assert other.execute(f"select count(*) from public.{name}".encode()).fetchone() == (0,)


@contextmanager
def slow_commits(url: str, seconds: float) -> Iterator[None]:
    """Inserting into a table takes that long when it is committed."""
    with psycopg.connect(url, autocommit=True) as session:
        for statement in (
            "create table public.slow (x integer)",
            "create function public.wait() returns trigger language plpgsql as $$ begin"
            f" perform pg_sleep({seconds}); return null; end $$",
            "create constraint trigger slow after insert on public.slow deferrable initially"
            " deferred for each row execute function public.wait()",
        ):
            session.execute(statement.encode())
        yield


@pytest.mark.usefixtures("_impatient")
def test_another_commit_without_an_answer_names_no_standby(database_url: str) -> None:
    with slow_commits(database_url, 60.0), Session.connect(database_url) as session:
        with pytest.raises(CommitUnconfirmed, match="has not confirmed a COMMIT") as refusal:
            by_commit(session, b"insert into public.slow values (1)")
        session.rollback()
        assert session.execute("select * from public.slow").fetchall() == []
    assert CAUSE not in str(refusal.value)


def test_a_slow_commit_is_waited_for(database_url: str) -> None:
    with slow_commits(database_url, 0.5), Session.connect(database_url) as session:
        by_commit(session, b"insert into public.slow values (1)")
        assert session.execute("select * from public.slow").fetchall() == [(1,)]


@pytest.mark.usefixtures("_impatient")
def test_the_registry_waits_as_in_an_outage(server_url: str) -> None:
    """Its error is that of a registry that is away, and says that the change may be made."""
    with closing(Database(server_url)) as registry:
        with (
            standby_gone(server_url),
            pytest.raises(RegistryUnconfirmedError, match=CAUSE) as refusal,
        ):
            QueuePauses(registry).pause(PAUSE)
        assert MAY_BE_MADE in str(refusal.value)
        assert QueuePauses(registry).of_queue(QUEUE) == PAUSE
    verdict = CLASSIFIER.classify(Evidence.of(refusal.value))
    assert (verdict.rule_id, verdict.kind) == ("registry-away", FailureKind.RESOURCE)


@pytest.mark.usefixtures("_impatient")
async def test_a_restoration_whose_standby_goes_meanwhile_leaves_all_as_it_was(
    server_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program that loads it waited for ever."""
    Database(server_url).close()
    make_backup(server_url, server_url, tmp_path / "b", datetime.now(UTC))
    load = backup._restore

    def load_without_standby(*arguments: Any) -> None:
        waits.enter_context(standby_gone(server_url))
        load(*arguments)

    async with PostgresBackend(server_url) as backend:
        await backend.create_queue("newer")
        with ExitStack() as waits:
            monkeypatch.setattr(backup, "_restore", load_without_standby)
            begun = time.monotonic()
            with pytest.raises(BackendUnavailable, match=f"as it was before.*{CAUSE}"):
                restore_backup(server_url, server_url, tmp_path / "b", force=True)
            assert time.monotonic() - begun < 3 * SOON
            assert "newer" in await backend.list_queues()
        monkeypatch.setattr(backup, "_restore", load)
        restore_backup(server_url, server_url, tmp_path / "b", force=True)
        assert "newer" not in await backend.list_queues()


def test_who_waits_for_the_lock_of_such_a_commit_names_the_cause(
    server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It named a lock that nobody can end."""
    monkeypatch.setattr(engines, "BUSY_SECONDS", 0.5)
    with (
        closing(Database(server_url)) as registry,
        standby_gone(server_url),
        psycopg.connect(server_url, autocommit=True) as holder,
    ):
        lock = f"pg_advisory_xact_lock({database._POSTGRES_LOCK})"
        emit = "pg_logical_emit_message(true, 'test', '')"
        holder.pgconn.send_query(f"select {lock}, {emit}".encode())
        holder.pgconn.flush()
        while not waiting_backends(server_url):
            pass
        with pytest.raises(database.RegistryAwayError, match=CAUSE):
            QueuePauses(registry).resume(QUEUE)
        holder.cancel_safe()
        holder.close()


def allow_replication(url: str) -> None:
    """Let a standby connect."""
    with psycopg.connect(url) as superuser:
        ((rules,),) = superuser.execute("show hba_file").fetchall()
        with Path(rules).open("a") as file:
            file.write("local replication all trust\n")
        superuser.execute("select pg_reload_conf()")


async def test_a_missing_standby_is_seen_and_one_that_is_there_is_not(
    server_url: str, tmp_path: Path
) -> None:
    assert find_missing_standby_now(server_url) == []
    with standby_gone(server_url):
        assert [each.names for each in find_missing_standby_now(server_url)] == ["gone"]
        assert CAUSE in explain_wait_now(server_url)
        assert CAUSE in await explain_wait(server_url)
        with pytest.raises(BackendUnavailable, match=CAUSE):
            require_commits(server_url)
        allow_replication(server_url)
        program = await asyncio.create_subprocess_exec(
            *(find_program("pg_receivewal"), f"--directory={tmp_path}", "--synchronous"),
            f"--dbname={server_url}&application_name=gone",
        )
        async with asyncio.timeout(SOON):
            while find_missing_standby_now(server_url):
                await asyncio.sleep(0.1)
        require_commits(server_url)
        with psycopg.connect(server_url) as superuser:
            superuser.execute("create temporary table answered ()")
        program.terminate()
        await program.wait()


@pytest.mark.usefixtures("_impatient")
async def test_a_worker_goes_on_after_it_and_does_nothing_twice(server_url: str) -> None:
    """What a checkpoint that was not confirmed holds is not made again."""
    made: list[str] = []
    is_gone, is_back = asyncio.Event(), asyncio.Event()

    async def handler(_params: object, ctx: TaskContext) -> str:
        for name in ("read", "flag", "image"):

            async def work(name: str = name) -> None:
                made.append(name)
                if name == "flag":
                    await is_gone.wait()

            await ctx.step(name, work)
        return "done"

    registry = TaskRegistry()
    registry.add("t", handler)
    async with PostgresBackend(server_url) as backend:
        await backend.create_queue("work")
        task = await backend.spawn_task("work", "t", {})
        settings = WorkerSettings("work", "worker", 1, 60, 0.05)
        working = asyncio.create_task(Worker(backend, registry, settings).run(until_idle=True))
        while "flag" not in made:
            await asyncio.sleep(0.05)

        def interrupt(loop: asyncio.AbstractEventLoop) -> None:
            with standby_gone(server_url):
                loop.call_soon_threadsafe(is_gone.set)
                while not waiting_backends(server_url):
                    pass
                time.sleep(2.0)  # the worker's calls are given up and repeated
            loop.call_soon_threadsafe(is_back.set)

        await asyncio.to_thread(interrupt, asyncio.get_running_loop())
        await asyncio.wait_for(working, 60)
        history = await backend.history("work", task.task_id)
    assert is_back.is_set()
    assert history is not None
    assert history.task.state == "completed"
    assert [run.attempt for run in history.runs] == [1]
    assert made == ["read", "flag", "image"]
