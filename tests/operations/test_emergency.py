"""Emergencies, each on a busy system: real Postgres, two worker processes, tasks in each state."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from busy_site import END_SECONDS, QUEUE, BusySite, assert_audit_is_clean, groups, require
from psycopg.conninfo import make_conninfo

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.errors import AwayError, SettingError
from absurd_contimg.history.history_file import HistoryFile, read_histories_file
from absurd_contimg.products.filesystem import LOCAL
from absurd_contimg.registry import engines
from absurd_contimg.registry.stop_notes import STOPS_NAME


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Iterator[BusySite]:
    site = BusySite(tmp_path, database_url)
    assert site.contimg("db", "init").exit_code == 0
    yield site
    site.stop()


def test_emergencies_are_rehearsed_on_a_busy_site(site: BusySite) -> None:
    """Cancel, stop, resume, drain, clear and reset, with the audit clean after each."""
    site.spawn("failed", {"group_id": "failed"}, max_attempts=1)
    for name in groups(6):
        site.spawn(name)
    for name in ("w-1", "w-2"):
        site.start_worker(name)
    site.wait("two stages run", lambda: len(site.running()) == 2)

    # A cancelled task ends the process of its stage, and the next group takes the slot.
    victim, pid = next(iter(site.running().items()))
    require(site.contimg("cancel", victim))
    assert site.wait("it ends", lambda: not os.path.exists(f"/proc/{pid}")) < END_SECONDS
    site.wait("another stage runs", lambda: len(site.running()) == 2)
    assert_audit_is_clean(site)

    # Stop ends all processes, on workers that no signal has reached; nothing is lost or claimed.
    held = site.running()
    outcome = site.contimg("emergency", "stop", "--reason", "smoke", "--timeout", "0")
    assert "is stopped by" in outcome.output
    assert site.wait("all end", lambda: not site.running()) < END_SECONDS
    assert "Nothing runs" in require(site.contimg("emergency", "stop", "--reason", "smoke"))
    assert site.states()["running"] == 0
    time.sleep(1.5)
    assert not site.running()
    assert "smoke" in require(site.contimg("queue", "list"))
    status = require(site.contimg("status"))
    assert status.count("To go on") == status.count("emergency resume") == 1
    assert_audit_is_clean(site)
    require(site.contimg("emergency", "resume"))
    site.wait("they go on", lambda: set(site.running()) == set(held))
    assert all(site.task_of(name).attempts == 1 for name in held)

    # Drain leaves what runs, claims no more, and says when it is over.
    output = require(site.contimg("emergency", "drain", "--reason", "disk", "--timeout", "0.5"), 1)
    assert "2 still running" in output
    assert set(site.running()) == set(held)
    site.hold.unlink()
    assert "Nothing runs" in require(site.contimg("emergency", "drain", "--reason", "disk"))
    states = site.states()
    assert states["completed"] == 2
    assert states["pending"] == 3
    assert_audit_is_clean(site)

    # Clear: not without the name; dumped first; ended tasks stay as they are.
    refused = site.contimg("emergency", "clear-queue", QUEUE, given="dsa110\n")
    assert refused.exit_code == 1
    assert site.states() == states
    site.hold.touch()
    require(site.contimg("emergency", "resume"))
    site.wait("two stages run", lambda: len(site.running()) == 2)
    dump = site.state / "dump.gz"
    output = require(
        site.contimg("emergency", "clear-queue", QUEUE, "--dump", str(dump), given=f"{QUEUE}\n")
    )
    assert "3 tasks cancelled, 7 in" in output
    assert site.wait("all end", lambda: not site.running()) < END_SECONDS
    assert len(read_histories_file(dump)) == 7
    assert asyncio.run(HistoryFile(dump).list_queues()) == [QUEUE]
    assert site.states() == {"completed": 2, "cancelled": 4, "failed": 1}
    assert_audit_is_clean(site)

    # Reset: everything is cancelled, and what comes then is worked on.
    site.spawn("2026-01-01T01:00:00")
    site.spawn("2026-01-01T01:05:00")
    site.wait("two stages run", lambda: len(site.running()) == 2)
    require(site.contimg("emergency", "reset", "--confirm", "other"), 1)
    assert "All queues are resumed" in require(
        site.contimg("emergency", "reset", "--confirm", QUEUE)
    )
    assert not site.running()
    assert site.states() == {"completed": 2, "cancelled": 6, "failed": 1}
    site.hold.unlink()
    site.spawn("2026-01-01T02:00:00")
    site.wait("the new one is done", lambda: site.states()["completed"] == 3)
    assert_audit_is_clean(site)


@contextmanager
def moved_away(registry: Path) -> Iterator[None]:
    for path in registry.parent.glob(f"{registry.name}*"):
        path.rename(path.with_name(f"moved-{path.name}"))
    registry.mkdir()
    yield
    registry.rmdir()
    for path in registry.parent.glob("moved-*"):
        path.rename(path.with_name(path.name.removeprefix("moved-")))


@contextmanager
def overwritten(registry: Path) -> Iterator[None]:
    with moved_away(registry):
        registry.rmdir()
        registry.write_bytes(b"no database at all" * 5000)
        yield
        for path in registry.parent.glob(f"{registry.name}*"):
            path.unlink()
        registry.mkdir()


@contextmanager
def locked(registry: Path) -> Iterator[None]:
    connection = sqlite3.connect(registry, isolation_level=None)
    connection.execute("begin exclusive")
    yield
    connection.close()


@pytest.mark.parametrize("trouble", [moved_away, overwritten, locked])
def test_a_stop_stands_without_the_registry(
    site: BusySite,
    trouble: Callable[[Path], AbstractContextManager[None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After its trouble everything went on: the registry was the only place of the stop."""
    monkeypatch.setattr(engines, "BUSY_SECONDS", 0.2)
    (name,) = groups(1)
    site.spawn(name)
    site.start_worker("w-1")
    site.wait("a stage runs", lambda: len(site.running()) == 1)
    with trouble(site.state / "registry.sqlite3"):
        stopped = site.contimg("emergency", "stop", "--reason", "smoke")
        output = require(stopped)
        assert not site.running()
        assert f"queue {QUEUE} is stopped by" in output
        assert "registry.sqlite3 cannot be used" in output
        assert "contimg actions does not have it" in output
        assert "Nothing runs" in output
        refused = site.contimg("emergency", "drain", "--reason", "smoke")
        assert isinstance(refused.exception, AwayError)
        refused = site.contimg("emergency", "reset", "--confirm", QUEUE)
        assert "Nothing is cleared" in require(refused, 1)
    notes = site.output / STOPS_NAME
    site.wait("a worker enters it", lambda: not (notes / f"{QUEUE}.json").exists())
    assert "smoke" in require(site.contimg("queue", "list"))
    assert site.task_of(name).attempts == 1
    assert site.states()["running"] == 0
    require(site.contimg("emergency", "resume"))
    assert not any(notes.iterdir())
    site.wait("it goes on", lambda: len(site.running()) == 1)
    assert_audit_is_clean(site)


def test_a_stop_that_no_worker_has_read_is_shown_and_ended(
    site: BusySite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged note is a stop as well: nobody knows that it is none."""
    monkeypatch.setattr(engines, "BUSY_SECONDS", 0.2)
    require(site.contimg("emergency", "stop", "--reason", "first"))
    site.output.mkdir()
    with locked(site.state / "registry.sqlite3"):
        require(site.contimg("emergency", "stop", "--reason", "smoke"))
    notes = site.output / STOPS_NAME
    (notes / f"{QUEUE}-io.json").write_text("{")
    output = require(site.contimg("queue", "list"))
    assert "smoke" in output
    assert "cannot be read" in output
    require(site.contimg("queue", "resume", QUEUE))
    require(site.contimg("emergency", "resume"))
    assert not any(notes.iterdir())
    assert "No queue is paused" in require(site.contimg("emergency", "resume"))


def test_stop_ends_what_runs_without_registry_and_output_folder(
    site: BusySite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database is enough, and what could not be recorded is told."""
    monkeypatch.setattr(engines, "BUSY_SECONDS", 0.2)
    (name,) = groups(1)
    site.spawn(name)
    site.start_worker("w-1")
    site.wait("a stage runs", lambda: len(site.running()) == 1)
    (site.output / STOPS_NAME).touch()
    with locked(site.state / "registry.sqlite3"):
        begun = time.monotonic()
        stopped = site.contimg("emergency", "stop", "--reason", "smoke", "--timeout", "1")
        site.wait("it ends", lambda: not site.running())
        assert time.monotonic() - begun < END_SECONDS + 5
        output = require(stopped, 1)
        assert f"No stop of {QUEUE}" in output
        assert "registry.sqlite3 cannot be used" in output
        assert f"{STOPS_NAME}: " in output
        assert "Given back: 1, to begin again in 10 minutes." in output
    assert site.task_of(name).attempts == 1
    assert site.states() == {"sleeping": 1}
    assert_audit_is_clean(site)


@contextmanager
def lock_held(url: str, table: str) -> Iterator[int]:
    """A session of somebody else, within a transaction; its process number on the server."""
    parameters = make_conninfo(url, application_name="a forgotten psql")
    with psycopg.connect(parameters) as session:
        session.execute(f"lock table absurd.{table} in access exclusive mode".encode())
        yield session.info.backend_pid


@pytest.mark.parametrize("table", [f'"r_{QUEUE}"', "queues"])
def test_stop_beside_a_lock(site: BusySite, table: str) -> None:
    """It took as long as the lock, and nothing named who held it."""
    (name,) = groups(1)
    site.spawn(name)
    site.start_worker("w-1")
    site.wait("a stage runs", lambda: len(site.running()) == 1)
    with lock_held(site.url, table) as pid:
        begun = time.monotonic()
        stopped = site.contimg("emergency", "stop", "--reason", "smoke", "--timeout", "2")
        assert time.monotonic() - begun < 2 + 4 * 5
        site.wait("it ends", lambda: not site.running(), END_SECONDS + 5)
        assert "is stopped by" in stopped.output
        assert f"session {pid} of user" in stopped.output
        assert "a forgotten psql" in stopped.output
        assert "lock table absurd." in stopped.output
        assert f"pg_terminate_backend({pid})" in stopped.output
    if table != "queues":  # a run does not need that table
        require(stopped, 1)
    site.wait("it is given back", lambda: site.states()["running"] == 0)
    assert "Nothing runs" in require(site.contimg("emergency", "stop", "--reason", "smoke"))
    require(site.contimg("emergency", "resume"))
    site.hold.unlink()
    site.wait("it completes", lambda: site.states()["completed"] == 1)
    assert site.task_of(name).attempts == 1
    assert_audit_is_clean(site)


def test_queues_of_others_in_the_database_are_left_alone(site: BusySite) -> None:
    """A confirmation with the name of our queue ended the tasks of another program."""

    async def spawn_elsewhere() -> None:
        async with PostgresBackend(site.url) as backend:
            for queue in ("billing", f"{QUEUE}-of-others"):
                await backend.create_queue(queue)
                await backend.spawn_task(queue, "invoice", {})

    async def states_elsewhere() -> list[Any]:
        async with PostgresBackend(site.url) as backend:
            names = ("billing", f"{QUEUE}-of-others")
            return [(await backend.queue_stats(name)).tasks_by_state for name in names]

    asyncio.run(spawn_elsewhere())
    site.spawn(groups(1)[0])
    assert "billing" not in require(site.contimg("emergency", "stop", "--reason", "smoke"))
    require(site.contimg("emergency", "reset", "--confirm", QUEUE))
    planned = json.loads(require(site.contimg("maintenance", "plan", "--json")))
    assert QUEUE in planned["tasks"]
    assert not {"billing", f"{QUEUE}-of-others"} & set(planned["tasks"])
    assert asyncio.run(states_elsewhere()) == [{"pending": 1}, {"pending": 1}]
    assert site.states() == {"cancelled": 1}


def test_stop_needs_a_reason_and_a_queue(site: BusySite) -> None:
    require(site.contimg("emergency", "stop"), 1)
    require(site.contimg("emergency", "stop", "--reason", "x", "--queue", "absent"), 1)
    refused = site.contimg("emergency", "clear-queue", "absent")  # nothing is asked
    assert "There is no queue 'absent'" in str(refused.exception)
    assert "No queue is paused" in require(site.contimg("emergency", "resume"))


def test_of_two_resets_at_once_one_is_refused(site: BusySite) -> None:
    """Each put back the stop of the other, and all queues stayed stopped."""
    require(site.contimg("queue", "pause", "--reason", "smoke"))
    lock = LOCAL.try_lock(site.state / "reset.lock")
    assert lock is not None
    try:
        refused = site.contimg("emergency", "reset", "--confirm", QUEUE)
        assert isinstance(refused.exception, SettingError)
        assert "Another contimg emergency reset" in str(refused.exception)
        assert "smoke" in require(site.contimg("queue", "list"))
    finally:
        LOCAL.unlock(lock)
    assert "Not resumed" in require(site.contimg("emergency", "reset", "--confirm", QUEUE))


def test_the_state_folder_is_its_owners_alone(site: BusySite) -> None:
    """Whatever the umask: who may read a file of the registry, or its lock, may hold a lock."""
    before = os.umask(0)
    try:
        require(site.contimg("queue", "pause", "--reason", "smoke"))
        require(site.contimg("emergency", "clear-queue", QUEUE, "--confirm", QUEUE))
        require(site.contimg("emergency", "resume"))
        require(site.contimg("backup"))
        (site.incoming / "catalog.csv").touch()
        require(site.contimg("worker", "--until-idle"))
        lock = site.state / "registry.sqlite3.lock"
        lock.chmod(0o644)  # as an earlier version made it
        with LOCAL.locked(lock):
            pass
    finally:
        os.umask(before)
    others = {
        str(path.relative_to(site.state)): f"{path.stat().st_mode & 0o777:o}"
        for path in (site.state, *site.state.glob("*"))
        if path.stat().st_mode & 0o077
    }
    assert not others
    names = {path.name for path in site.state.iterdir()}
    assert {"backups", "dumps", "registry.sqlite3", "workers"} <= names
