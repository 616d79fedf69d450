"""Runs the night: starts its processes, disturbs them, waits for the end and judges it."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from absurd_contimg.backends.postgres import EmbeddedPostgres
from absurd_contimg.config import PathsConfig
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.records import LIVE_STATES, History
from absurd_contimg.errors import SettingError
from absurd_contimg.execution.host_scratch import host_scratch
from absurd_contimg.execution.scratch import Janitor
from absurd_contimg.history.summary import read_histories
from absurd_contimg.history.timeline import SECONDARY_TASKS, step_starts
from absurd_contimg.operations.console import cell
from absurd_contimg.operations.night.expectations import (
    Finding,
    compared,
    expected_windows,
    findings_section,
    registry_findings,
    report_findings,
    task_findings,
)
from absurd_contimg.operations.night.preparation import (
    GB,
    SPARE_BYTES,
    NightOptions,
    critical_gb,
    night_settings,
    take_folders,
)
from absurd_contimg.operations.night.processes import Processes
from absurd_contimg.operations.night_report import REPORTS
from absurd_contimg.operations.report import Section, write_report
from absurd_contimg.operations.services import (
    given_worker_id,
    open_backend,
    open_registry,
    stop_signals,
    worker_notes,
)
from absurd_contimg.products.filesystem import LOCAL
from absurd_contimg.registry import GroupStatus, Registry
from absurd_contimg.registry.ingestion import IngestionTables
from absurd_contimg.registry.models import IngestState
from absurd_contimg.settings import Settings, load_settings
from absurd_contimg.synthesis.night import GROUPS_MIN, TRUTH_NAME, TrueNight
from absurd_contimg.terminal_tables import KeyedTable

_WORKERS = ("worker-1", "worker-2")
_KILL_STAGE = "image"
"""The longest stage: its interruption costs most."""
_RESTART_SECONDS = 2.0
_LOOK_SECONDS = 1.0
_LINE_SECONDS = 15.0
_QUIET_SECONDS = 60.0
_REFUSAL_SECONDS_MAX = 120.0
"""So long at most both workers have to note that the disk is full: they look before each claim."""
_FULL_SECONDS = 30.0
"""Then the disk stays full so long: a worker ends a task in this time, and may claim no other."""
_TOP_UP_SECONDS = 0.5
_REPORT_SECONDS_MAX = 600.0
"""So long at most the daemon may take for the report of the night, once all tasks have ended."""


async def run_night(
    folder: Path, console: Console, options: NightOptions, *, force: bool = False
) -> bool:
    """Run the night in a folder; True if it ends as it must.

    With `force`, what an earlier night has left there is removed first. Raises
    `ForeignFolderError` if there are files of anybody else, and `SettingError` without `force` or
    for an option. A signal that stops a worker stops the night with all its processes.
    """
    if options.groups < GROUPS_MIN:
        raise SettingError(f"A night of {options.groups} groups is too short.", f"{GROUPS_MIN}.")
    task = asyncio.current_task()
    assert task is not None
    for number in stop_signals():
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    paths = PathsConfig.below(folder)
    assignments = [f"{name}={value}" for name, value in night_settings(options).items()]
    settings = load_settings(paths.model_dump(), assignments, environment={})
    staging = folder / "telescope"
    server = EmbeddedPostgres(settings.embedded_folder)
    take_folders([*paths.model_dump(exclude_none=True).values(), staging], force, server, console)
    night = _Night(settings, staging, options, console, critical_gb(folder))
    try:
        histories = await night.run()
    finally:
        server.stop()
    return night.report(histories)


class _Night:
    """The processes of a night, what is known of their progress, and the disturbances."""

    def __init__(
        self,
        settings: Settings,
        staging: Path,
        options: NightOptions,
        console: Console,
        critical_gb: float,
    ) -> None:
        self._settings = settings
        self._paths = settings.pipeline.paths
        self._staging = staging
        self._options = options
        self._console = console
        self._critical_gb = critical_gb
        logs = self._paths.state_dir / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        self._processes = Processes(logs, self._command_options(), self._variables())
        self._began = time.monotonic()
        self._findings: list[Finding] = []
        self._histories: list[History] = []
        self._closed = self._done = 0
        self._progress = asyncio.Condition()
        """Notified after each look at what the night has done."""
        self._disturbances: list[Finding] = []
        self._full: tuple[datetime, datetime] | None = None
        """When the disk was full and both workers knew."""

    def _command_options(self) -> list[str]:
        folders = self._paths.model_dump(exclude_none=True).items()
        options = [
            text for name, path in folders for text in (f"--{name.replace('_', '-')}", str(path))
        ]
        for name, value in night_settings(self._options).items():
            options += ["--set", f"{name}={value}"]
        return options

    def _variables(self) -> dict[str, str]:
        mark = f"{self._critical_gb:.3f}"
        return {"CONTIMG_DISK_CRITICAL_GB": mark, "CONTIMG_DISK_WARN_GB": mark}

    async def run(self) -> list[History]:
        """From the first file to the last mosaic; the histories of all tasks."""
        self._console.rule("A night: telescope, daemon, two workers")
        await self._processes.start(
            "telescope",
            *("-m", "absurd_contimg.synthesis.night", str(self._paths.input_dir)),
            *(str(self._staging), "--groups", str(self._options.groups)),
            *("--speed", str(self._options.speed)),
        )
        try:
            while not await asyncio.to_thread((self._staging / TRUTH_NAME).is_file):
                self._processes.check(finite="")
                await asyncio.sleep(_LOOK_SECONDS)
            return await self._observe()
        finally:
            await self._processes.stop()

    async def _observe(self) -> list[History]:
        """The night itself, once the telescope has computed its files."""
        self._say(f"the telescope begins, after {time.monotonic() - self._began:.0f} s")
        async with open_backend(self._settings) as backend:
            with closing(open_registry(self._settings)) as registry:
                tables = IngestionTables(registry.database)
                disturbing = asyncio.create_task(self._disturb())
                try:
                    await self._start("daemon")
                    for name in _WORKERS:
                        await self._start(name)
                    await self._watch(backend, tables, disturbing)
                    await self._await_report()
                finally:
                    disturbing.cancel()
                    with suppress(asyncio.CancelledError):
                        await asyncio.wait([disturbing])
                    await self._processes.stop()
                await self._judge(backend, registry)
        return self._histories

    async def _start(self, name: str) -> None:
        command = ("worker", "--worker-id", name) if name in _WORKERS else (name,)
        await self._processes.start_command(name, *command)

    async def _watch(
        self, backend: Backend, tables: IngestionTables, disturbing: asyncio.Task[None]
    ) -> None:
        """Look at the progress until all has ended that the telescope's files lead to."""
        line_at = changed_at = 0.0
        before: tuple[int, ...] = ()
        while True:
            self._processes.check(finite="telescope")
            if disturbing.done():
                disturbing.result()
            groups = await asyncio.to_thread(tables.groups)
            windows = await asyncio.to_thread(tables.windows)
            self._histories = await read_histories(backend, self._settings.queue_name)
            ended_well = (GroupStatus.DONE, GroupStatus.DEGRADED)
            self._closed = sum(group.ingest_state is not IngestState.COLLECTING for group in groups)
            self._done = sum(group.status in ended_well for group in groups)
            async with self._progress:
                self._progress.notify_all()
            ended = sum(h.task.state not in LIVE_STATES for h in self._histories)
            seconds = time.monotonic() - self._began
            if seconds >= line_at:
                line_at = seconds + _LINE_SECONDS
                minutes, rest = divmod(round(seconds), 60)
                self._console.out(
                    f"{minutes:3d}:{rest:02d}  groups: {self._closed} closed, {self._done} imaged; "
                    f"{len(windows)} windows; tasks: {len(self._histories)}, {ended} ended"
                )
            state = len(self._histories), ended, self._closed, len(windows)
            if state != before:
                before, changed_at = state, seconds
            if disturbing.done() and self._is_over(ended, seconds - changed_at):
                return
            if seconds > 60.0 * self._options.minutes_max:
                limit = f"{self._options.minutes_max:.0f} min"
                self._disturbances.append(Finding("the night ends within", limit, "no", ok=False))
                return
            await asyncio.sleep(_LOOK_SECONDS)

    def _night_report(self) -> Path:
        """The figures of the report that the daemon writes: of the UTC day of the first group."""
        day = self._truth().groups[0].group_id.partition("T")[0]
        return self._paths.output_dir / REPORTS / f"{day}.json"

    async def _await_report(self) -> None:
        """Wait until the daemon has written the report of the night."""
        began = time.monotonic()
        path = self._night_report()
        while not await asyncio.to_thread(path.is_file):
            self._processes.check(finite="telescope")
            if time.monotonic() - began > _REPORT_SECONDS_MAX:
                return
            await asyncio.sleep(_LOOK_SECONDS)
        self._say(f"the daemon wrote {path} after {time.monotonic() - began:.0f} s")

    def _is_over(self, ended: int, quiet_seconds: float) -> bool:
        """Whether the telescope has stopped and all tasks have ended that its files lead to.

        Or nothing happens any more: a group that failed has no photometry.
        """
        if self._processes.running["telescope"].returncode is None:
            return False
        if ended < len(self._histories):
            return False
        truth = self._truth()
        n_windows = len(expected_windows(truth, self._settings.pipeline))
        streaming = self._settings.pipeline.streaming
        return (
            len(self._histories) >= 2 * len(truth.groups) + n_windows
            or quiet_seconds > streaming.night_end_seconds + _QUIET_SECONDS
        )

    def _truth(self) -> TrueNight:
        return TrueNight.read(self._staging / TRUTH_NAME)

    async def _until(self, is_reached: Callable[[], bool]) -> None:
        async with self._progress:
            await self._progress.wait_for(is_reached)

    async def _disturb(self) -> None:
        """Kill a worker in a stage, then the daemon, then fill the disk for the workers."""
        groups = self._options.groups
        await self._until(lambda: self._done >= groups // 6)
        await self._until(lambda: _KILL_STAGE in self._running_stages())
        worker = self._running_stages()[_KILL_STAGE]
        await self._kill(worker, f"in the stage {_KILL_STAGE}")
        await self._until(lambda: self._closed >= groups // 2)
        await self._kill("daemon", f"with {self._closed} groups closed")
        await self._until(lambda: self._done >= groups // 2)
        await self._fill_disk()

    def _running_stages(self) -> dict[str, str]:
        """The stages that run, each with the name of a worker."""
        return {
            start.step: given_worker_id(start.worker)
            for history in self._histories
            if history.task.state == "running"
            for start in step_starts(history)
            if start.outcome == "running"
        }

    async def _kill(self, name: str, where: str) -> None:
        await self._processes.kill(name)
        self._say(f"{name} is killed (SIGKILL) {where}")
        await asyncio.sleep(_RESTART_SECONDS)
        await self._start(name)
        self._disturbances.append(Finding(f"{name} killed", "once", where, ok=True))

    def _say(self, text: str) -> None:
        self._console.out(f"        {text}")

    async def _fill_disk(self) -> None:
        """Until both workers claim nothing, with a file that crosses their mark."""
        filler = self._staging / "filler"
        filler.touch()
        mark = int(self._critical_gb * GB - SPARE_BYTES / 8)
        keep_full(filler, mark)
        size = filler.stat().st_size
        self._say(f"the disk is full for the workers: {size / GB:.1f} GB more on it")
        until = time.monotonic() + _REFUSAL_SECONDS_MAX
        refusing: set[str] = set()
        while len(refusing) < len(_WORKERS) and time.monotonic() < until:
            await asyncio.sleep(_LOOK_SECONDS)
            notes = await asyncio.to_thread(worker_notes, self._paths.state_dir)
            refusing = {str(note["worker"]) for note in notes if note["claims"] is False}
        full_from = datetime.now(UTC)
        until = time.monotonic() + _FULL_SECONDS
        while time.monotonic() < until:
            keep_full(filler, mark)
            await asyncio.sleep(_TOP_UP_SECONDS)
        self._full = full_from, datetime.now(UTC)
        filler.unlink()
        self._say(f"the disk has room again; claimed nothing: {', '.join(sorted(refusing))}")
        self._disturbances.append(
            compared("workers that refuse a full disk", len(_WORKERS), len(refusing))
        )

    async def _judge(self, backend: Backend, registry: Registry) -> None:
        truth, config = self._truth(), self._settings.pipeline
        self._histories = await read_histories(backend, self._settings.queue_name)
        self._findings = [
            *registry_findings(truth, config, registry),
            *task_findings(truth, config, self._histories),
            *self._disturbances,
        ]
        path = self._night_report()
        if is_written := await asyncio.to_thread(path.is_file):
            report = json.loads(await asyncio.to_thread(path.read_bytes))
            self._findings += report_findings(truth, config, report)
        self._findings.append(compared("report of the night, by the daemon", True, is_written))
        if self._full is not None:
            begin, end = self._full
            starts = [run.started_at for h in self._histories for run in h.runs]
            claimed = sum(start is not None and begin < start < end for start in starts)
            self._findings.append(compared("tasks claimed on a full disk", 0, claimed))
        for command in (("audit",), ("registry", "check")):
            code, output = await self._processes.run_command(*command)
            last = output.splitlines()[-1] if output else ""
            actual = f"exit code {code}" if code else "clean"
            if code:
                self._say(output)
            self._findings.append(
                Finding(f"contimg {' '.join(command)}", "clean", actual, not code)
            )
            self._say(f"contimg {' '.join(command)}: {last}")
        swept = await asyncio.to_thread(Janitor(host_scratch(self._paths.scratch_dir)).sweep)
        self._findings.append(compared("abandoned scratch folders", 0, len(swept)))
        curve = self._staging.parent / "light-curve.png"
        source = truth.groups[2].sources[0].name
        code, output = await self._processes.run_command("lightcurve", source, "--png", str(curve))
        is_there = "written" if not code and curve.is_file() else output[-200:]
        self._findings.append(compared(f"light curve of {source}", "written", is_there))

    def report(self, histories: Sequence[History]) -> bool:
        """Print the table and write the report; True if all is right."""
        section = findings_section(
            "What the night must end with, and what it ended with", self._findings
        )
        minutes = (time.monotonic() - self._began) / 60.0
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_seconds = used.ru_utime + used.ru_stime
        _show(section, self._console)
        primary = [h for h in histories[::-1] if h.task.task_name not in SECONDARY_TASKS]
        target = self._staging.parent / "report.html"
        report, *_pictures = write_report(target, primary, [section], self._paths.readable)
        self._console.out(f"Wrote {report}")
        wrong = sum(not finding.ok for finding in self._findings)
        verdict = "[green]All is right[/]" if not wrong else f"[red]{wrong} are wrong[/]"
        self._console.print(f"{verdict}, after {minutes:.1f} min with {cpu_seconds:.0f} s of CPU.")
        return not wrong


def _show(section: Section, console: Console) -> None:
    table = KeyedTable(pad_edge=False)
    for column in section.columns:
        table.add_column(column, overflow="fold")
    for row in section.rows:
        colour = "" if row[-1] == "ok" else "[red]"
        table.add_row(*map(cell, row[:-1]), f"{colour}{row[-1]}")
    console.print(table)


def keep_full(filler: Path, mark_bytes: int) -> None:
    """Let a file grow until no more than so much is free: others may free space meanwhile."""
    missing = LOCAL.free_bytes(filler) - mark_bytes
    if missing > 0:
        with filler.open("ab") as file:
            os.posix_fallocate(file.fileno(), filler.stat().st_size, missing)
