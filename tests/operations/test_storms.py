"""A worker and a daemon whose sessions of Postgres are ended again and again.

Those of the queue and those of the registry, which are in one database.
"""

from __future__ import annotations

import os
import random
import re
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psycopg
import pytest
from arriving_groups import write_subband
from forked_programs import ForkedProcess, built_commands, run_commands, run_program
from psycopg.conninfo import conninfo_to_dict
from waiting import wait_until

from absurd_contimg.backends.postgres import EmbeddedPostgres

_STORM_SECONDS = 2.0
_START_SECONDS = 1.5
_PAUSE_SECONDS_MAX = 0.03
_SEED = 25
_END_SESSIONS = """
    select pg_terminate_backend(pid) from pg_stat_activity
    where datname = %s and backend_type = 'client backend'
"""
_SETTINGS = "[streaming]\npoll_seconds = 0.02\n[alerts]\nlook_seconds = 0.1\n"
_BEGINNINGS = {"worker": "worker w on queue", "daemon": "daemon on queue"}
"""What each service says when it has begun."""
_DEFECT = re.compile(r"Traceback| ERROR ")
_AWAY = re.compile(r"^contimg: (RegistryAwayError|BackendUnavailable): The ", re.MULTILINE)


def site_environment(folder: Path, database_url: str) -> dict[str, str]:
    """A site that polls often, with a file that belongs to a group."""
    (folder / "in").mkdir()
    (folder / "catalog.csv").write_text("name\n")
    (folder / "site.toml").write_text(_SETTINGS)
    write_subband(folder / "in", 0, 0)
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith(("ABSURD", "PIPEL", "PG"))},
        "PIPELINE_CONFIG": str(folder / "site.toml"),
        "PIPELINE_INPUT_DIR": str(folder / "in"),
        "PIPELINE_OUTPUT_DIR": str(folder / "out"),
        "PIPELINE_CATALOG": str(folder / "catalog.csv"),
        "PIPELINE_PRODUCTS_DB": database_url,
        "ABSURD_DATABASE_URL": database_url,
        "ABSURD_WORKER_ID": "w",
        "ABSURD_WORKER_POLL_INTERVAL": "0.02",
        "COLUMNS": "1000",
    }


class Site:
    """A site whose services and sessions a test ends."""

    def __init__(self, folder: Path, server: EmbeddedPostgres, database_url: str) -> None:
        self.folder, self.environment = folder, site_environment(folder, database_url)
        self.database = conninfo_to_dict(database_url)["dbname"]
        self.administration = psycopg.connect(server.url("postgres"), autocommit=True)
        self.processes: dict[str, ForkedProcess] = {}
        made = run_program(["db", "init"], self.environment)
        assert made.returncode == 0, made.stderr

    def start(self) -> None:
        """Start both services."""
        built_commands()
        for name in _BEGINNINGS:
            run = partial(run_service, name)
            self.processes[name] = ForkedProcess(run, self.environment, self.folder / name)

    def texts(self) -> dict[str, str]:
        """What each service has said."""
        return {name: (self.folder / name).read_text() for name in self.processes}

    def codes(self) -> dict[str, int | None]:
        """The exit code of each service, None while it runs."""
        return {name: process.poll() for name, process in self.processes.items()}

    def have_begun(self) -> bool:
        """Whether both services say that they have begun."""
        return all(_BEGINNINGS[name] in text for name, text in self.texts().items())

    def end_sessions(self, seconds: float) -> int:
        """End all sessions again and again, with pauses at random; how many."""
        pauses = random.Random(_SEED)
        give_up = time.monotonic() + seconds
        count = 0
        while time.monotonic() < give_up:
            count += self.administration.execute(_END_SESSIONS, (self.database,)).rowcount
            time.sleep(pauses.uniform(0, _PAUSE_SECONDS_MAX))
        return count


def run_service(name: str) -> None:
    """Run ``contimg NAME`` in this process, a fork."""
    sys.argv = ["contimg", name]
    run_commands()


@pytest.fixture
def site(postgres_server: EmbeddedPostgres, database_url: str, tmp_path: Path) -> Iterator[Site]:
    """A site with queue and registry in one database."""
    site = Site(tmp_path, postgres_server, database_url)
    yield site
    for process in site.processes.values():
        process.kill()
        process.wait()
    site.administration.close()


def test_services_outlive_a_storm_of_ended_sessions(site: Site) -> None:
    """They wait, without a traceback, and end in order when they are asked to."""
    site.start()
    wait_until(site.have_begun)
    assert site.end_sessions(_STORM_SECONDS) > 20
    assert site.codes() == dict.fromkeys(_BEGINNINGS), site.texts()
    for process in site.processes.values():
        process.terminate()
    ends = {name: process.wait(timeout=20.0) for name, process in site.processes.items()}
    assert ends == dict.fromkeys(_BEGINNINGS, 0), site.texts()
    assert [text for text in site.texts().values() if _DEFECT.search(text)] == []


def test_service_that_starts_in_a_storm_ends_with_a_sentence_or_goes_on(site: Site) -> None:
    site.start()
    site.end_sessions(_START_SECONDS)
    codes = site.codes()
    for name, text in site.texts().items():
        assert _DEFECT.search(text) is None, text
        if codes[name] is not None:
            assert _BEGINNINGS[name] not in text
            assert _AWAY.search(text), text
