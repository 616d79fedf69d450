"""The shared memory of the embedded server, which systemd-logind removes when its user logs out."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from waiting import wait_until

from absurd_contimg.backends.postgres import EmbeddedPostgres, embedded
from absurd_contimg.backends.postgres.connections import Connections
from absurd_contimg.backends.postgres.sessions import Session


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    started = EmbeddedPostgres(tmp_path / "pg", durable=False).start()
    yield started
    started.stop("immediate")


def files_in_shared_memory(server: EmbeddedPostgres) -> set[Path]:
    """Those that the processes of the server have mapped."""
    postmaster = process_number(server)
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
    names: set[str] = set()
    for number in (postmaster, *children):
        with suppress(OSError):  # it has ended
            text = Path(f"/proc/{number}/maps").read_text()
            names |= set(re.findall(r"/dev/shm/PostgreSQL\.\d+$", text, re.M))
    return {Path(name) for name in names}


def remove_shared_memory(server: EmbeddedPostgres) -> None:
    """What systemd-logind removes at a logout, and the segment that it leaves as long as used."""
    for path in files_in_shared_memory(server):
        path.unlink()
    lines = (server.folder / "data" / "postmaster.pid").read_text().splitlines()
    subprocess.run(["ipcrm", "-m", lines[6].split()[1]], check=True)


def process_number(server: EmbeddedPostgres) -> str:
    return (server.folder / "data" / "postmaster.pid").read_text().split()[0]


@pytest.fixture
def older_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedPostgres]:
    """As an earlier version started it: with files in /dev/shm, and few connections."""
    settings = ("dynamic_shared_memory_type=posix", "max_connections=6")
    with monkeypatch.context() as patch:
        patch.setattr(embedded, "_SETTINGS", settings)
        server = EmbeddedPostgres(tmp_path / "pg", durable=False).start()
    wait_until(lambda: len(files_in_shared_memory(server)) > 1)  # the last is made after the start
    yield server
    server.stop("immediate")


def test_a_logout_of_its_user_does_not_disturb_a_server(server: EmbeddedPostgres) -> None:
    """Not its connections, nor what processes of it share while they run a query."""
    with Session.connect(server.url("postgres"), autocommit=True) as before:
        assert not files_in_shared_memory(server)
        remove_shared_memory(server)
        with Session.connect(server.url("postgres"), autocommit=True) as session:
            session.execute("create table public.rows as select generate_series(1, 100000) as n")
            session.execute("set debug_parallel_query = on")
            assert session.execute("select count(*) from public.rows").fetchone() == (100_000,)
            session.execute("drop table public.rows")
        assert before.execute("select 1").fetchone() == (1,)
    number = process_number(server)
    server.start()
    assert process_number(server) == number
    server.stop()
    server.start()


@pytest.mark.parametrize("action", ["start", "restart_if_ended"])
def test_a_server_without_its_shared_memory_is_started_again(
    older_server: EmbeddedPostgres, action: str
) -> None:
    """By the next command, and by a service that cannot connect; once, by however many."""
    remove_shared_memory(older_server)
    with pytest.raises(psycopg.OperationalError, match="shared memory segment"):
        Session.connect(older_server.url("postgres"))
    number = process_number(older_server)
    others = [EmbeddedPostgres(older_server.folder, durable=False) for _ in range(3)]
    threads = [threading.Thread(target=getattr(other, action)) for other in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    Session.connect(older_server.url("postgres")).close()
    assert process_number(older_server) != number
    assert (older_server.folder / "server.log").read_text().count("starting PostgreSQL") == 2


async def test_workers_start_a_server_without_its_shared_memory_again(
    older_server: EmbeddedPostgres,
) -> None:
    url = older_server.create_database("work")
    remove_shared_memory(older_server)
    async with asyncio.timeout(30):
        connections = Connections(url, 1, older_server.restart_if_ended)
        async with connections.connection() as session:
            await session.execute("select 1")
        await connections.close()


def test_a_stop_is_kept_although_the_shared_memory_is_gone(
    older_server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker sees that the server cannot be used, and an operator is the first to stop it."""
    remove_shared_memory(older_server)
    has_lost_memory = EmbeddedPostgres._has_lost_memory
    operator = EmbeddedPostgres(older_server.folder)

    def seen_before_a_stop(server: EmbeddedPostgres) -> bool:
        result = has_lost_memory(server)
        operator.stop()
        return result

    monkeypatch.setattr(EmbeddedPostgres, "_has_lost_memory", seen_before_a_stop)
    older_server.restart_if_ended()
    assert not older_server.is_running()


def refusal(server: EmbeddedPostgres) -> str:
    with pytest.raises(psycopg.OperationalError) as error:
        Session.connect(server.url("postgres"))
    return str(error.value)


def test_a_server_that_is_busy_or_stops_is_left_alone(older_server: EmbeddedPostgres) -> None:
    """It refuses connections too, and nobody ends what it does."""
    number = process_number(older_server)
    sessions = [Session.connect(older_server.url("postgres")) for _ in range(6)]
    assert "too many clients" in refusal(older_server)
    older_server.restart_if_ended()
    older_server.start()
    os.kill(int(number), signal.SIGTERM)  # waits for the sessions to end
    wait_until(lambda: "shutting down" in refusal(older_server))
    older_server.restart_if_ended()
    assert process_number(older_server) == number
    for session in sessions:
        assert session.execute("select 1").fetchone() == (1,)
        session.close()
    wait_until(lambda: not older_server.is_running())
