"""Every command in odd environments, on a real site: streams, variables, a broken link.

It ends in time, in sentences, and with success only where it has done and shown what was asked.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator

import pytest
from all_commands import SERVICES, breaks, run_all, shorten_waits
from troubled_site import TroubledSite, site_on_server

from absurd_contimg.operations.console import console, error_console

SILENT = ("alerts run", "daemon", "metrics")
"""They print nothing on standard output, or only messages."""
_EARLIER = (sys.stdout, sys.stderr)
"""They would close their descriptors."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TroubledSite]:
    """With queue and registry in Postgres."""
    with site_on_server(tmp_path_factory.mktemp("odd"), shares_registry=True) as site:
        yield site


def print_to(descriptor: int, encoding: str = "utf-8") -> None:
    """Let standard output end there."""
    global _EARLIER  # noqa: PLW0603
    os.dup2(descriptor, 1)
    _EARLIER = sys.stdout, sys.stderr
    sys.stdout = open(1, "w", encoding=encoding, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding=encoding, errors="backslashreplace", closefd=False)  # noqa: SIM115


def full_disk() -> None:
    """Under standard output."""
    print_to(os.open("/dev/full", os.O_WRONLY))


def pipe_without_reader() -> None:
    """As with ``| true``."""
    reader, writer = os.pipe()
    print_to(writer)
    os.close(reader)


def odd_variables() -> None:
    """Another locale and database, no folders, no programs, a narrow terminal, no umask."""
    os.environ |= {"LC_ALL": "POSIX", "TZ": ":bogus", "TERM": "dumb", "NO_COLOR": "1", "PATH": ""}
    os.environ |= {"HOME": "/no", "TMPDIR": "/no/tmp", "http_proxy": "http://127.0.0.1:1"}
    os.environ |= {"PGHOST": "/no", "PGDATABASE": "other", "PGUSER": "x"}
    os.environ |= {"PGSSLMODE": "verify-full", "PGOPTIONS": "-c search_path=x"}
    time.tzset()
    tempfile.tempdir = None
    os.umask(0o777)
    print_to(1, "ascii")
    console.width = error_console.width = 20
    warnings.simplefilter("error")


def link_to_nothing() -> None:
    """In the place of the state folder."""
    os.environ["PIPELINE_STATE_DIR"] = f"{os.environ['PIPELINE_STATE_DIR']}-link"


@pytest.mark.parametrize(
    "environment",
    [full_disk, pipe_without_reader, odd_variables, link_to_nothing],
)
def test_every_command_in_an_odd_environment(
    site: TroubledSite, environment: Callable[[], None]
) -> None:
    site.set_back()
    (site.root / "state-link").symlink_to("/not/mounted")

    def prepare() -> None:
        shorten_waits()
        environment()

    outcomes = run_all(site, prepare)
    wrong = [
        f"{command}: {problem}: {outcome.text[-600:]}"
        for command, outcome in outcomes.items()
        for problem in breaks(outcome)
    ]
    assert wrong == []
    if environment in (full_disk, pipe_without_reader):
        shown = [name for name, outcome in outcomes.items() if outcome.code == 0]
        assert set(shown) <= {*SILENT, *SERVICES}
