"""A daemon that dies at a chosen write, and is started again: every such point in turn.

``cd tests/shared; python -m daemon_crashes`` tries each point and prints those that differ.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from arriving_groups import QUEUE, DaemonSite

from absurd_contimg.ingest.closing import ClosingRules
from absurd_contimg.ingest.windows import WindowRules

WRITES = frozenset(
    {
        *("enter_files", "note_files", "close_group", "note_task", "store_windows"),
        *("note_window_task", "note_photometry_task", "spawn_task", "shift_times"),
        *("cancel_task",),
    }
)
SCRIPT_RULES = WindowRules(size=3, stride=2, members_min=2, confirm=2)
_CLOSING = ClosingRules(expected_subbands=2, subbands_min=1)


class Killed(BaseException):
    """The process is gone: nothing that it still runs reaches a port."""


@dataclass(frozen=True)
class Crash:
    """Before or after the n-th write."""

    number: int
    when: Literal["before", "after"]


@dataclass
class ScriptRun:
    """What happened: the writes in order, and how often the daemon died."""

    site: DaemonSite
    crash: Crash | None
    effects: list[str] = field(default_factory=list)
    crashes: int = 0


class MortalPort:
    """Passes calls on, and ends the process at the chosen write."""

    def __init__(self, port: Any, run: ScriptRun) -> None:
        self._port, self._run = port, run

    def __getattr__(self, name: str) -> Any:
        method: Callable[..., Any] = getattr(self._port, name)
        if name not in WRITES:
            return method
        if inspect.iscoroutinefunction(method):

            async def call_async(*arguments: Any, **options: Any) -> Any:
                self._die(name, "before")
                answer = await method(*arguments, **options)
                self._die(name, "after")
                return answer

            return call_async

        def call(*arguments: Any, **options: Any) -> Any:
            self._die(name, "before")
            answer = method(*arguments, **options)
            self._die(name, "after")
            return answer

        return call

    def _die(self, name: str, when: Literal["before", "after"]) -> None:
        if when == "before":
            self._run.effects.append(name)
        if self._run.crash == Crash(len(self._run.effects), when) and not self._run.crashes:
            self._run.crashes += 1
            raise Killed


def crash_points(effects: list[str]) -> list[Crash]:
    """Before and after each write of a run without a crash."""
    return [
        Crash(number, when)
        for number in range(1, len(effects) + 1)
        for when in ("before", "after")  # type: ignore[misc] # mypy widens the literals
    ]


async def run_script(folder: Path, crash: Crash | None) -> ScriptRun:
    """A night of four groups, one incomplete, one with a late file; a new daemon after a crash.

    A fifth group comes when the night seemed to be over, and supersedes the last window. Then the
    settings are changed and changed back, which forms superseded windows again.
    """
    os.mkdir(folder)
    site = DaemonSite(folder, closing=_CLOSING, rules=SCRIPT_RULES)
    await site.begin()
    run = ScriptRun(site, crash)

    async def polls(seconds: float, count: int) -> None:
        for _ in range(count):
            if site.daemon is None:
                site.daemon = site.new_daemon(
                    store=MortalPort(site.tables, run),  # type: ignore[arg-type] # the same calls
                    backend=MortalPort(site.backend, run),  # type: ignore[arg-type] # the same
                )
            try:
                await site.poll(seconds)
            except Killed:
                site.daemon = None

    for number in range(4):
        site.write(number, [0] if number == 1 else [0, 1])
        await polls(160, 3)
        if number == 1:
            while site.group(1).closed_at is None:  # only then is a file late
                await polls(160, 1)
            site.write(1, [1])
            await polls(100, 2)
    for number in range(4):
        site.finish(number)
    await polls(100, 2)
    await polls(1000, 3)
    site.write(4, [0, 1])
    await polls(100, 3)
    site.finish(4)
    await polls(1000, 3)
    for size in (2, 3):
        site.daemon, site.rules = None, replace(SCRIPT_RULES, size=size, stride=size - 1)
        await polls(100, 3)
    return run


async def final_state(site: DaemonSite) -> dict[str, Any]:
    """What must be the same: groups, files, windows and tasks, without times and ids."""
    groups = site.tables.groups()
    tasks = {
        str(task.task_id): (task.task_name, task.idempotency_key, task.state, task.params)
        for task in await site.backend.list_tasks(QUEUE, limit=1000)
    }
    paths = str(site.root)
    return {
        "groups": [
            (group.group_id, group.ingest_state, group.n_subbands, group.mid_mjd,
             tasks[str(group.task_id)][1], [(f.path.name, f.state) for f in group.files])
            for group in groups
        ],
        "windows": [
            (window.window_id, window.state, window.members,
             tasks[str(window.task_id)][1] if window.task_id else None)
            for window in site.tables.windows()
        ],
        "tasks": sorted(repr(task).replace(paths, "") for task in tasks.values()),
    }  # fmt: skip


async def _explore(parent: Path) -> int:
    baseline = await run_script(parent / "baseline", None)
    expected = await final_state(baseline.site)
    points = crash_points(baseline.effects)
    differing = []
    for point in points:
        folder = parent / f"{point.number}-{point.when}"
        crashed = await run_script(folder, point)
        if crashed.crashes != 1 or await final_state(crashed.site) != expected:
            differing.append(point)
        shutil.rmtree(folder)
    print(f"{len(points)} crash points, {len(differing)} differ")
    for point in differing:
        print(f"{point.when} write {point.number} ({baseline.effects[point.number - 1]})")
    return 1 if differing else 0


def main() -> int:
    """Explore in a folder of its own, in memory where that is possible."""
    logging.disable()
    parent = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=parent, prefix="contimg-") as folder:
        return asyncio.run(_explore(Path(folder)))


if __name__ == "__main__":
    sys.exit(main())
