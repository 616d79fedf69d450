"""Emergencies while the database cannot be reached: real Postgres, a real worker."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest
from busy_site import END_SECONDS, QUEUE, BusySite, assert_audit_is_clean, groups, require
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from absurd_contimg.backends.postgres import EmbeddedPostgres
from absurd_contimg.core.errors import BackendUnavailable
from absurd_contimg.registry import Registry
from absurd_contimg.registry.queue_pauses import QueuePause, QueuePauses
from absurd_contimg.registry.stop_notes import STOPS_NAME, StopNotes

GO_ON_SECONDS = 3.0
"""Longer than a worker waits between two claims and between two looks at a stop."""


@contextmanager
def outage(url: str) -> Iterator[None]:
    """The server takes no connection to this database, and has ended those that there were."""
    name = str(conninfo_to_dict(url)["dbname"])
    alter = sql.SQL("alter database {} allow_connections {}")
    with psycopg.connect(make_conninfo(url, dbname="postgres"), autocommit=True) as session:
        session.execute(alter.format(sql.Identifier(name), sql.SQL("false")))
        end = "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s"
        session.execute(end, (name,))
        try:
            yield
        finally:
            session.execute(alter.format(sql.Identifier(name), sql.SQL("true")))


@contextmanager
def silence(server: EmbeddedPostgres) -> Iterator[None]:
    """The server answers no new connection; those that there are go on."""
    pid = int((server.folder / "data" / "postmaster.pid").read_text().split()[0])
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


IN_DATABASE = "registry in the same database"


@pytest.fixture(params=["registry in SQLite", IN_DATABASE])
def site(request: pytest.FixtureRequest, tmp_path: Path, database_url: str) -> Iterator[BusySite]:
    variables = {"PIPELINE_PRODUCTS_DB": database_url} if request.param == IN_DATABASE else {}
    site = BusySite(tmp_path, database_url, **variables)
    require(site.contimg("db", "init"))
    yield site
    site.stop()


def begin_stage(site: BusySite) -> None:
    site.spawn(groups(1)[0])
    site.start_worker("w-1")
    site.wait("a stage runs", lambda: len(site.running()) == 1)


def test_a_stop_holds_during_an_outage_and_after_it(site: BusySite) -> None:
    """Nothing was stopped or recorded, and after the outage the worker claimed again."""
    begin_stage(site)
    with outage(site.url):
        output = require(site.contimg("emergency", "stop", "--reason", "fire", "--timeout", "1"), 1)
        site.wait("it ends", lambda: not site.running(), END_SECONDS)
    time.sleep(GO_ON_SECONDS)
    assert not site.running()
    assert "The database cannot be reached" in output
    assert f"queue {QUEUE} is stopped by" in output
    assert "What runs is not known" in output
    assert "Nothing runs" not in output
    assert "fire" in require(site.contimg("queue", "list"))
    site.wait("its run ends", lambda: site.states()["running"] == 0)
    assert "Nothing runs" in require(site.contimg("emergency", "stop", "--reason", "fire"))
    require(site.contimg("emergency", "resume"))
    assert not any((site.output / STOPS_NAME).glob("*"))
    site.hold.unlink()
    site.wait("it completes", lambda: site.states()["completed"] == 1)
    assert site.task_of(groups(1)[0]).attempts == 1
    assert_audit_is_clean(site)


def test_what_cannot_be_paused_in_an_outage_is_named(site: BusySite) -> None:
    """It named the database alone, and nobody knew whether the queue was paused."""
    same = bool(site.variables)
    with outage(site.url):
        drained = site.contimg("emergency", "drain", "--reason", "fire", "--timeout", "1")
        paused = site.contimg("queue", "pause", "--reason", "fire")
    assert drained.exit_code == 1
    assert ("Nothing is paused: workers go on to claim" in drained.output) is same
    assert (f"queue {QUEUE} is paused by" in drained.output) is not same
    assert isinstance(paused.exception, BackendUnavailable)
    assert f"Queue {QUEUE} is not paused: workers go on." in paused.output
    assert f"emergency stop --queue {QUEUE} --reason TEXT" in paused.output
    assert ("fire" in require(site.contimg("queue", "list"))) is not same


@pytest.mark.parametrize("site", [IN_DATABASE], indirect=True)
def test_a_stop_that_nothing_can_hold_is_none(site: BusySite) -> None:
    """The command says what goes on, and how to end it by hand."""
    site.output.mkdir()
    (site.output / STOPS_NAME).touch()
    with outage(site.url):
        output = require(site.contimg("emergency", "stop", "--reason", "fire", "--timeout", "1"), 1)
    assert f"No stop of {QUEUE}" in output
    assert "Nothing is stopped: workers go on." in output
    assert "Nothing runs" not in output


def test_a_reset_after_an_outage_knows_the_stop(site: BusySite) -> None:
    """A stop that no worker has entered was not seen: queues were called resumed, and were not."""
    site.output.mkdir()
    with outage(site.url):
        output = require(site.contimg("emergency", "reset", "--confirm", QUEUE), 1)
        assert "Nothing is cleared." in output
        assert "All queues are resumed" not in output
    output = require(site.contimg("emergency", "reset", "--confirm", QUEUE))
    assert f"Not resumed: queue {QUEUE} is stopped by" in output
    assert "emergency resume" in output
    assert not any((site.output / STOPS_NAME).glob("*"))
    assert "Resumed" in require(site.contimg("emergency", "resume"))
    assert "No queue is paused" in require(site.contimg("emergency", "resume"))


@pytest.mark.parametrize("site", [IN_DATABASE], indirect=True)
def test_a_stop_beside_a_silent_server(site: BusySite, postgres_server: EmbeddedPostgres) -> None:
    """The worker tried to enter the stop into the registry for longer than a stage has to end."""
    begin_stage(site)
    with silence(postgres_server):
        StopNotes(site.output).add([QueuePause(QUEUE, "fire", "2026-01-01T00:00:00Z", "x", True)])
        site.wait("it ends", lambda: not site.running(), END_SECONDS)
    site.wait("it is given back", lambda: site.states()["running"] == 0)
    require(site.contimg("emergency", "resume"))
    site.wait("it goes on", lambda: len(site.running()) == 1)


def test_a_worker_that_is_late_with_the_stop_in_the_output_folder_does_not_undo_its_end(
    site: BusySite,
) -> None:
    """It had read the file, waited for the lock of the registry, and stopped the queue again."""
    site.output.mkdir()
    notes = StopNotes(site.output)
    notes.add([QueuePause(QUEUE, "fire", "2026-01-01T00:00:00Z", "x", True)])
    url = site.variables.get("PIPELINE_PRODUCTS_DB") or str(site.state / "registry.sqlite3")
    with closing(Registry(url)) as registry:
        stop = notes.of_queue(QUEUE)
        assert stop is not None
        assert "Resumed" in require(site.contimg("emergency", "resume"))
        notes.enter(QueuePauses(registry.database), stop)
    assert "No queue is paused" in require(site.contimg("emergency", "resume"))
