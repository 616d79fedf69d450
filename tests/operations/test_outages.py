"""Every command beside every outage of database, registry and folders, on a real site.

It ends in time, without a traceback and without a password; where it fails it names what is in
outage; and nothing says that it has changed what it could not change.
"""

from __future__ import annotations

import importlib
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import outages
import pytest
from command_arguments import arguments
from forked_programs import ForkedProcess, run_commands
from program_commands import COMMANDS
from troubled_site import PASSWORD, TroubledSite, site_on_server

from absurd_contimg.backends.postgres import PostgresBackend

BOUND_SECONDS = 30.0
"""For a command whose own waits last a second."""
AT_ONCE = 6
SERVES_SECONDS = 3.0
"""A service is ended by SIGTERM after this time."""

ELSEWHERE = ("demo", "night", "simulate", "explore", "run")
"""They make sites of their own, or compute for minutes."""
SERVICES = ("api", "dashboard", "worker")
LAST = (
    *("emergency stop", "emergency drain", "emergency resume", "emergency clear-queue"),
    *("emergency reset", "restore"),
)
"""They act on everything: one after the other."""
REFUSED = (
    *("compare", "fork", "inspect", "lightcurve", "logs", "photometry", "synth", "reopen"),
    *("alerts test", "mosaic plan", "mosaic make", "batch pause", "publish list", *SERVICES),
)
"""They end with another code on the healthy site, too."""
OFFLINE = (
    *("failures", "settings", "alerts rules", "db stop", "db url", "deploy install"),
    "metrics",
)
"""They need no database, or their result is that it is away."""
WITHOUT_REGISTRY = (
    *(*OFFLINE, "archive", "cancel", "history", "report", "retry", "status", "db init"),
    *("queue list", "emergency stop", "emergency clear-queue"),
)
"""They need it for less than all, and say what they lack."""


@dataclass(frozen=True)
class Case:
    """An outage, and what holds beside it."""

    outage: outages.Outage
    words: str
    """Stands in the message of each command that fails."""
    succeed: tuple[str, ...] = field(default=OFFLINE)
    """Only these may say that all is well."""


CASES = {
    "server away": Case(outages.server_away, "No such file|server runs"),
    "no connection left": Case(outages.no_connection_left, "connection limit NUMBER|pg_dump"),
    "closed database": Case(outages.closed_database, "allow_connections true|pg_dump"),
}
FILE_CASES = {
    "locked file": Case(
        outages.locked_file,
        "database is locked.*fuser|reaches the registry",
        (*WITHOUT_REGISTRY, "maintenance vacuum"),
    ),
    "overwritten file": Case(
        outages.overwritten_file, r"registry\.sqlite3|registry rebuild", WITHOUT_REGISTRY
    ),
    "read-only state folder": Case(
        outages.read_only("state"), "state.* writ|Read-only", WITHOUT_REGISTRY
    ),
}
"""With a registry in SQLite."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TroubledSite]:
    """With queue and registry in Postgres."""
    with site_on_server(tmp_path_factory.mktemp("shared"), shares_registry=True) as site:
        yield site


@pytest.fixture(scope="module")
def file_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TroubledSite]:
    """With a registry in SQLite."""
    with site_on_server(tmp_path_factory.mktemp("file"), shares_registry=False) as site:
        yield site


def shorten_waits() -> None:
    """In a fork: a command waits for a second, or less, where it waits for half a minute."""
    values: tuple[tuple[str, Any], ...] = (
        ("backends.postgres.connections._CALL_SECONDS", 1.5),
        ("backends.postgres.lock_holders._ANSWER_SECONDS", 1.0),
        ("backends.postgres.schema._BOUND", "set local lock_timeout = '500ms'"),
        ("registry.database._BUSY_SECONDS", 0.3),
        ("registry.database._PATIENCE_SECONDS", 0.3),
        ("registry.database._PAUSE_SECONDS", 0.1),
        ("operations.maintenance.backup._BUSY_SECONDS", 0.3),
        ("operations.maintenance.vacuum._BUSY_SECONDS", 0.3),
        ("operations.cli.queue_stops._ANSWER_SECONDS", 1.0),
        ("operations.monitor.monitor._DATABASE_SECONDS", 1.0),
        ("operations.overview.read.DATABASE_SECONDS", 1.0),
        ("operations.alerts.look.ANSWER_SECONDS", 2.0),
        ("operations.services.site_clock._ANSWER_SECONDS", 1.0),
        ("operations.doctor.doctor.stage_software", lambda _folders: []),
    )
    for path, value in values:
        name, _, attribute = path.rpartition(".")
        module = importlib.import_module(f"absurd_contimg.{name}")
        assert hasattr(module, attribute), path
        setattr(module, attribute, value)
    assert PostgresBackend.__init__.__kwdefaults__ is not None
    PostgresBackend.__init__.__kwdefaults__["connect_seconds"] = 0.5


@dataclass
class Outcome:
    """How a command has ended."""

    code: int | None
    """None: it did not within `BOUND_SECONDS`."""
    text: str


def run_all(
    site: TroubledSite, prepare: Callable[[], object] = shorten_waits
) -> dict[str, Outcome]:
    """Every command, some at a time; what each has printed."""
    given = arguments(site)
    names = [name for name in COMMANDS if name not in (*ELSEWHERE, *LAST)] + list(LAST)
    folder = site.root.parent / "outputs"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    running: dict[str, tuple[ForkedProcess, float]] = {}
    outcomes: dict[str, Outcome] = {}
    while names or running:
        while names and len(running) < AT_ONCE and not (names[0] in LAST and running):
            name = names.pop(0)
            words = ["contimg", *name.split(), *given.get(name, [])]

            def run(words: list[str] = words) -> None:
                prepare()
                sys.argv = words
                run_commands()

            process = ForkedProcess(run, site.environment, folder / name.replace(" ", "-"))
            running[name] = process, time.monotonic()
        time.sleep(0.02)
        for name, (process, begun) in list(running.items()):
            age = time.monotonic() - begun
            if process.poll() is None and name in SERVICES and age > SERVES_SECONDS:
                process.terminate()
            if process.poll() is None and age < BOUND_SECONDS:
                continue
            code = process.poll()
            process.kill()
            process.wait()
            text = (folder / name.replace(" ", "-")).read_text(errors="replace")
            outcomes[name] = Outcome(code, text)
            del running[name]
    return outcomes


def problems(outcome: Outcome, name: str, case: Case) -> Iterator[str]:
    """What is wrong with the outcome of a command."""
    if outcome.code is None:
        yield f"does not end within {BOUND_SECONDS:g} s"
    if "Traceback (most recent call last)" in outcome.text:
        yield "ends in a traceback"
    if PASSWORD in outcome.text:
        yield "shows the password"
    if outcome.code == 0 and name not in (*case.succeed, *SERVICES):
        yield "says that all is well"
    fails = outcome.code not in (0, None) and name not in REFUSED
    if fails and not re.search(case.words, outcome.text, re.DOTALL):
        yield "does not name the outage"


def require_no_problem(site: TroubledSite, case: Case) -> None:
    """Run every command beside an outage."""
    site.set_back()
    with case.outage(site):
        outcomes = run_all(site)
    wrong = [
        f"{command}: {problem}: {outcome.text[-600:]}"
        for command, outcome in outcomes.items()
        for problem in problems(outcome, command, case)
    ]
    assert len(outcomes) == len(COMMANDS) - len(ELSEWHERE)
    assert wrong == []
    assert not (site.root / "state" / "postgres").exists()  # no database in the place of the site's


@pytest.mark.parametrize("name", CASES)
def test_every_command_beside_a_trouble_of_the_database(site: TroubledSite, name: str) -> None:
    require_no_problem(site, CASES[name])


@pytest.mark.parametrize("name", FILE_CASES)
def test_every_command_beside_a_trouble_of_files(file_site: TroubledSite, name: str) -> None:
    require_no_problem(file_site, FILE_CASES[name])
