"""Every command beside every outage of database, registry and folders, on a real site.

It ends in time, without a traceback and without a password; where it fails it names what is in
outage; and nothing says that it has changed what it could not change.
"""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import outages
import pytest
from all_commands import ELSEWHERE, SERVICES, Outcome, breaks, run_all
from forked_programs import ForkedProcess, run_commands
from program_commands import COMMANDS
from troubled_site import TroubledSite, site_on_server

from absurd_contimg.backends.postgres import sessions

SOON = 10.0

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
READING = (
    *("actions", "alerts", "archive", "audit", "backup", "batch status", "calibration plan"),
    *("db init", "groups", "history", "maintenance plan", "maintenance run"),
    *("monitor", "mosaic show"),
    *("publish retry", "quarantine list", "queue list", "registry check", "registry files"),
    *("report", "reprocess plan", "schedule list", "status", "transits", "variability"),
    *("verify", "windows", "emergency stop"),
)
"""They change nothing in the database of this site, or what they do holds without it."""


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
    "standby gone": Case(
        outages.no_standby,
        "synchronous_standby_names|These services run",  # whose end is recorded nowhere
        (*OFFLINE, *READING),
    ),
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


def problems(outcome: Outcome, name: str, case: Case) -> Iterator[str]:
    """What is wrong with the outcome of a command."""
    yield from breaks(outcome)
    if outcome.code == 0 and name not in (*case.succeed, *SERVICES):
        yield "says that all is well"
    fails = outcome.code not in (0, None) and name not in REFUSED
    if fails and not re.search(case.words, " ".join(outcome.text.split())):
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


def test_sigterm_ends_a_command_whose_commit_waits(site: TroubledSite) -> None:
    """The commit is waited for in a thread, which nothing ends: it went on for ever."""
    site.set_back()

    def pause() -> None:
        sessions.COMMIT_SECONDS = 2.0
        sys.argv = ["contimg", "queue", "pause", "--reason", "x"]
        run_commands()

    waiting = b"select count(*) from pg_stat_activity where wait_event = 'SyncRep'"
    output = site.root / "output.txt"
    with outages.no_standby(site), site.admin() as session:
        process = ForkedProcess(pause, site.environment, output)
        while session.execute(waiting).fetchone() == (0,):
            assert process.poll() is None, output.read_text()
        process.terminate()
        try:
            assert process.wait(timeout=SOON) == -signal.SIGTERM
        finally:
            process.kill()
    assert "interrupted by SIGTERM" in output.read_text()


@pytest.mark.parametrize("name", FILE_CASES)
def test_every_command_beside_a_trouble_of_files(file_site: TroubledSite, name: str) -> None:
    require_no_problem(file_site, FILE_CASES[name])
