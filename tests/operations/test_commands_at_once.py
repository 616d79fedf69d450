"""Commands that are killed and repeated, and pairs of them at one moment, on a real site.

What changes something may be killed at any time: the checks find no damage, and the same command
again does the rest. Two at once end as if one had waited for the other.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Iterator

import pytest
from command_arguments import arguments
from forked_programs import ForkedProcess, built_commands, run_commands
from troubled_site import DATABASE, ROLE, TroubledSite, site_on_server

BOUND_SECONDS = 60.0
INTERRUPT_SECONDS = 4.0
"""Twice what is promised: the machine may be busy."""
CHECKS = ("audit", "registry check", "status")
INTERRUPTED = (
    *("backup", "daemon", "maintenance run", "registry rebuild", "report"),
    *("restore", "retry", "spawn"),
)
PAIRS = (
    *(("restore", other) for other in ("backup", "daemon", "maintenance run", "spawn")),
    *(("emergency reset", other) for other in ("daemon", "spawn")),
    *(("daemon", other) for other in ("reprocess start", "spawn")),
    *((name, name) for name in ("publish retry", "reprocess start", "restore", "retry", "spawn")),
    *(("cancel", "retry"), ("emergency clear-queue", "retry"), ("registry rebuild", "spawn")),
)
_LASTING = "^[trc]_|^(batch|publication|action|schedule|queue)"
"""The tables that hold what was ordered."""
_TABLES = (
    "select c.relname, n.nspname, array_agg(quote_ident(a.attname) || '::text' order by a.attname)"
    "   filter (where a.attname in ('task_name', 'state', 'status', 'kind', 'action', 'step_name'))"
    " from pg_class c join pg_namespace n on n.oid = c.relnamespace"
    " join pg_attribute a on a.attrelid = c.oid and a.attnum > 0"
    " where n.nspname in ('absurd', 'contimg') and c.relkind in ('r', 'p') and c.relname ~ %s"
    " group by 1, 2 order by 1, 2"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TroubledSite]:
    built_commands()
    with site_on_server(tmp_path_factory.mktemp("site"), shares_registry=True) as site:
        yield site


class Command:
    """One that runs beside the test."""

    def __init__(self, site: TroubledSite, name: str) -> None:
        self.name, self.output = name, site.root.parent / f"output-{time.monotonic_ns()}"
        words = ["contimg", *name.split(), *arguments(site).get(name, [])]

        def run() -> None:
            sys.argv = words
            run_commands()

        self.process = ForkedProcess(run, site.environment, self.output)

    def end(self, seconds: float = BOUND_SECONDS) -> int:
        """Its exit code; a refusal is a sentence."""
        try:
            code = self.process.wait(seconds)
        finally:
            self.process.kill()
            self.process.wait()
        text = self.output.read_text(errors="replace")
        assert "Traceback" not in text, text
        assert text or code in (0, -signal.SIGKILL), self.name
        return code


def require_whole(site: TroubledSite) -> None:
    """The checks find nothing, and no session and no schema is left over."""
    commands = [Command(site, name) for name in CHECKS]
    codes = {command.name: command.end() for command in commands}
    texts = [command.output.read_text() for command in commands]
    assert codes == dict.fromkeys(CHECKS, 0), texts
    with site.admin(DATABASE) as session:
        aside = "select nspname from pg_namespace where nspname ~ 'before'"
        assert session.execute(aside.encode()).fetchall() == []


def ordered(site: TroubledSite) -> dict[tuple[object, ...], object]:
    """How many rows there are of each kind: tasks, batches, publications, actions, pauses."""
    counts: dict[tuple[object, ...], object] = {}
    with site.admin(DATABASE) as session:
        for table, schema, kinds in session.execute(_TABLES.encode(), (_LASTING,)).fetchall():
            columns = ", ".join(map(str, kinds if isinstance(kinds, list) else ["null::text"]))
            text = f'select {columns}, count(*) from {schema}."{table}" group by {columns}'
            for *values, count in session.execute(text.encode()).fetchall():
                counts[table, *values] = count
    return counts


def let_an_hour_pass(site: TroubledSite) -> None:
    """The programs of a killed command end; its hidden files and folders grow old."""
    own = f"select pid from pg_stat_activity where usename = '{ROLE}'"
    with site.admin(DATABASE) as session:
        give_up = time.monotonic() + BOUND_SECONDS
        while session.execute(own.encode()).fetchall():
            assert time.monotonic() < give_up, "a session stays"
            time.sleep(0.05)
    for hidden in (path for path in site.root.rglob(".*") if path.name != ".contimg-owner.json"):
        for path in (*hidden.rglob("*"), hidden):
            os.utime(path, (1e9, 1e9), follow_symlinks=False)


@pytest.mark.parametrize("name", INTERRUPTED)
def test_an_interrupted_command_is_repeated(site: TroubledSite, name: str) -> None:
    moments = random.Random(name)
    site.set_back()
    begun = time.monotonic()
    codes = [Command(site, name).end()]
    lasts_seconds = time.monotonic() - begun
    once = ordered(site)
    codes.append(Command(site, name).end())
    names, twice = {path.name for path in site.root.rglob(".*")}, ordered(site)
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        site.set_back()
        command = Command(site, name)
        time.sleep(moments.uniform(0.1, 0.9) * lasts_seconds)
        command.process.send_signal(number)
        assert command.end(INTERRUPT_SECONDS) in (-number, codes[0])
        let_an_hour_pass(site)
        assert Command(site, name).end() in codes, (name, number)
        require_whole(site)
        assert {path.name for path in site.root.rglob(".*")} <= names
        changed = {
            kind: count
            for kind, count in ordered(site).items()
            if count not in (once.get(kind, 0), twice.get(kind, 0)) and "action" not in str(kind)
        }
        assert changed == {}, (name, number, once)


@pytest.mark.parametrize("pair", PAIRS, ids=" and ".join)
def test_a_pair_of_commands_ends_as_one_after_the_other(
    site: TroubledSite, pair: tuple[str, str]
) -> None:
    possible = []
    for order in {pair, pair[::-1]}:
        site.set_back()
        for name in order:
            Command(site, name).end()
        possible.append(ordered(site))
    for order in (pair, pair[::-1]):
        site.set_back()
        commands = [Command(site, name) for name in order]
        codes = [command.end() for command in commands]
        if "daemon" in order and codes[order.index("daemon")] == 1:
            # It says that something was away: the next poll does what is left.
            assert Command(site, "daemon").end() == 0
        require_whole(site)
        assert ordered(site) in possible, (order, codes)
        assert 0 in codes
