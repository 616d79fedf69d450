"""Every command of the program, in forks, on one real site."""

from __future__ import annotations

import importlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from command_arguments import arguments
from forked_programs import ForkedProcess, run_commands
from program_commands import COMMANDS
from troubled_site import PASSWORD, TroubledSite

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


def shorten_waits() -> None:
    """In a fork: a command waits for a second, or less, where it waits for half a minute."""
    values: tuple[tuple[str, Any], ...] = (
        ("backends.postgres.connections._CALL_SECONDS", 1.5),
        ("backends.postgres.connections.COMMIT_SECONDS", 0.5),
        ("backends.postgres.sessions.COMMIT_SECONDS", 0.5),
        ("backends.postgres.lock_holders._ANSWER_SECONDS", 1.0),
        ("backends.postgres.schema._BOUND", "set local lock_timeout = '500ms'"),
        ("registry.engines.BUSY_SECONDS", 0.3),
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
    return run_lines(site, {name: [*name.split(), *given.get(name, [])] for name in names}, prepare)


def run_lines(
    site: TroubledSite,
    lines: Mapping[str, Sequence[str]],
    prepare: Callable[[], object] = shorten_waits,
) -> dict[str, Outcome]:
    """Commands with their arguments, some at a time; what each has printed.

    Those of `LAST` run alone.
    """
    waiting, folder = list(lines), site.root.parent / "outputs"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    running: dict[str, tuple[ForkedProcess, Path, float]] = {}
    stopped: set[str] = set()
    outcomes: dict[str, Outcome] = {}
    while waiting or running:
        while waiting and len(running) < AT_ONCE and not (waiting[0] in LAST and running):
            name = waiting.pop(0)

            def run(words: Sequence[str] = lines[name]) -> None:
                prepare()
                sys.argv = ["contimg", *words]
                run_commands()

            output = folder / str(len(waiting))
            process = ForkedProcess(run, site.environment, output)
            running[name] = process, output, time.monotonic()
        time.sleep(0.02)
        for name, (process, output, begun) in list(running.items()):
            age = time.monotonic() - begun
            is_service = lines[name][0] in SERVICES
            if is_service and name not in stopped and age > SERVES_SECONDS:
                process.terminate()
                stopped.add(name)
            if process.poll() is None and age < BOUND_SECONDS:
                continue
            code = process.poll()
            process.kill()
            process.wait()
            outcomes[name] = Outcome(code, output.read_text(errors="replace"))
            del running[name]
    return outcomes


def breaks(outcome: Outcome) -> Iterator[str]:
    """What no command may do, whatever it is given."""
    if outcome.code is None:
        yield f"does not end within {BOUND_SECONDS:g} s"
    if "Traceback (most recent call last)" in outcome.text:
        yield "ends in a traceback"
    if "Exception ignored" in outcome.text:
        yield "has an exception that nobody handles"
    if PASSWORD in outcome.text:
        yield "shows the password"
    if [each for each in outcome.text if not each.isprintable() and each not in "\n\t\ufffd"]:
        yield "prints a control character"
