"""``contimg demo``: two workers on synthetic data, one of them killed while it images.

It fails if the image is wrong, a committed stage ran again, or no stage was interrupted.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from absurd_contimg.backends.postgres import EmbeddedPostgres
from absurd_contimg.config import PathsConfig
from absurd_contimg.core.records import History
from absurd_contimg.errors import SettingError
from absurd_contimg.execution.host_scratch import host_scratch
from absurd_contimg.execution.logs import tail
from absurd_contimg.execution.scratch import Janitor
from absurd_contimg.history.invariants.check import audit
from absurd_contimg.history.timeline import group_of, step_starts
from absurd_contimg.ingest.spawn import spawn_groups
from absurd_contimg.operations.console import cell
from absurd_contimg.operations.report import Section, write_report
from absurd_contimg.operations.services import (
    given_worker_id,
    open_backend,
    open_registry,
    stop_signals,
)
from absurd_contimg.operations.terminal import history_table, watch
from absurd_contimg.owned_folders import (
    MARK_NAME,
    ForeignFolderError,
    Mark,
    read_mark,
    remove_tree,
    take_folder,
)
from absurd_contimg.products.filesystem import LOCAL
from absurd_contimg.products.outputs import (
    CalibrateSolveOutputs,
    SolvedCaltables,
    SourceTable,
    ValidateOutputs,
    from_json,
)
from absurd_contimg.settings import Settings, load_settings
from absurd_contimg.synthesis import SynthesisConfig, SynthesisResult, synthesize
from absurd_contimg.synthesis.truth import (
    FLUX_MIN_JY,
    GainComparison,
    SourceComparison,
    compare_gains,
    compare_sources,
)
from absurd_contimg.terminal_tables import KeyedTable

_KILL_STAGE = "image"
"""The longest stage: its interruption costs most."""
_KILL_AFTER_SECONDS = 4.0
_RESTART_SECONDS = 2.0
"""Shorter than the 5 s of the guide's units, so that the demo is short."""

_STOP_SECONDS = 20.0
_MARK = Mark("demo", "contimg demo")
_VARIABLES = ("ABSURD_", "PIPELINE_", "CONTIMG_")


async def run_demo(folder: Path, console: Console, *, force: bool = False) -> bool:
    """Run the demo in a folder; True if all checks pass.

    With `force`, what an earlier demo has left there is removed first. Raises
    `ForeignFolderError` if there are files of anybody else, and `SettingError` without `force`.
    A signal that stops a worker cancels the demo, which stops its workers and its server.
    """
    demo = asyncio.current_task()
    assert demo is not None
    for number in stop_signals():
        asyncio.get_running_loop().add_signal_handler(number, demo.cancel)
    paths = PathsConfig.below(folder)
    # No environment variable and no server of this machine changes the demo. Each of the two
    # workers has one core.
    settings = load_settings(paths.model_dump(), ["execution.threads=1"], environment={})
    server = EmbeddedPostgres(settings.embedded_folder)
    folders = list(paths.model_dump(exclude_none=True).values())
    _check_folders(folder, folders, force)
    if settings.embedded_folder.exists():
        server.stop("immediate")
    for path in folders:
        if path.exists():
            console.out(f"Removes {path}, {LOCAL.tree_size(path) / 1e6:.0f} MB of an earlier demo")
            remove_tree(path, _MARK)
    for path in folders:
        take_folder(path, _MARK)
    console.rule("Synthetic observations")
    config = SynthesisConfig.demo()
    observations = await asyncio.to_thread(synthesize, paths.input_dir, config)
    console.out(
        f"{len(observations.groups)} groups of 16 sub-band files in {observations.output_dir}, the "
        "first with a calibrator."
    )
    workers = _Workers(paths)
    try:
        console.rule("Two workers; one is killed")
        histories = await _process(settings, workers, console)
    finally:
        server.stop()
    for history in histories:
        console.print(history_table(history), "")
    sections = [*_compare(histories, observations), _durability(histories, workers)]
    for section in sections:
        _show(section, console)
    report = write_report(folder / "report.html", histories, sections, paths.readable)
    for path in report:
        console.out(f"Wrote {path}")
    ok = all(section.ok for section in sections)
    console.print("[green]All checks passed.[/]" if ok else "[red]The demo failed.[/]")
    return ok


def _check_folders(folder: Path, folders: Sequence[Path], force: bool) -> None:
    """Refuse folders that hold anything but an earlier demo, or that unless it may be removed."""
    present = [path for path in folders if os.path.lexists(path)]
    for path in present:
        if read_mark(path) != _MARK:
            raise ForeignFolderError(
                f"{path} is there, and no demo has made it (it has no {MARK_NAME} of one).",
                "Give the demo a folder of its own. What a demo of version 0.1 left, remove "
                "yourself.",
            )
    if present and not force:
        names = ", ".join(path.name for path in present)
        raise SettingError(
            f"{folder} holds an earlier demo: {names}.",
            "Give another folder, or --force to remove these folders first.",
        )


async def _process(settings: Settings, workers: _Workers, console: Console) -> list[History]:
    """Spawn the groups and run them to their ends."""
    async with open_backend(settings) as backend:
        with closing(open_registry(settings)) as registry:
            spawned = await spawn_groups(backend, settings, registry)
        tasks = [item.task.task_id for item in spawned if item.task is not None]
        try:
            for name in ("worker-1", "worker-2"):
                await workers.start(name)
            return await watch(
                backend, settings.queue_name, tasks, console, workers.kill_while_imaging
            )
        finally:
            await workers.stop()


@dataclass(slots=True)
class _Workers:
    """The demo's worker processes, one of which it kills."""

    paths: PathsConfig
    killed: str = ""
    """The worker that was killed, and the stage that it ran."""
    _processes: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)
    _kill_task: asyncio.Task[None] | None = None

    async def start(self, name: str) -> None:
        """Start a worker process that logs into the state folder."""
        self._log(name).parent.mkdir(parents=True, exist_ok=True)
        folders = [
            argument
            for option, path in self.paths.model_dump(exclude_none=True).items()
            for argument in (f"--{option.replace('_', '-')}", path)
        ]
        with self._log(name).open("ab") as output:
            self._processes[name] = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "absurd_contimg.operations", *folders),
                *("--set", "execution.threads=1", "worker", "--worker-id", name),
                stdout=output,
                stderr=output,
                stdin=asyncio.subprocess.DEVNULL,
                env={k: v for k, v in os.environ.items() if not k.startswith(_VARIABLES)},
            )

    def _log(self, name: str) -> Path:
        return self.paths.state_dir / "logs" / f"{name}.log"

    async def kill_while_imaging(self, histories: Sequence[History]) -> None:
        """Kill the first worker that images, and restart it; raises if another one ends."""
        if self._kill_task is not None and not self._kill_task.done():
            return
        for name, process in self._processes.items():
            if process.returncode is not None:
                lines = "\n".join(tail(self._log(name), 40))
                raise RuntimeError(f"{name} ended without being killed; its log ends:\n{lines}")
        for history in histories if self._kill_task is None else ():
            for start in step_starts(history):
                if start.step == _KILL_STAGE and start.outcome == "running":
                    self.killed = f"{start.worker} in {start.step} of {group_of(history)}"
                    self._kill_task = asyncio.create_task(self._kill(given_worker_id(start.worker)))
                    return

    async def _kill(self, name: str) -> None:
        await asyncio.sleep(_KILL_AFTER_SECONDS)
        self._processes[name].kill()
        await self._processes[name].wait()
        await asyncio.sleep(_RESTART_SECONDS)
        await self.start(name)

    async def stop(self) -> None:
        """Stop all workers as systemd does, and wait for them."""
        if self._kill_task is not None:
            self._kill_task.cancel()
        for process in self._processes.values():
            if process.returncode is None:
                process.terminate()
        for process in self._processes.values():
            try:
                await asyncio.wait_for(process.wait(), _STOP_SECONDS)
            except TimeoutError:
                process.kill()
                await process.wait()


def _compare(histories: Sequence[History], observations: SynthesisResult) -> list[Section]:
    """Compare gains of the calibrator and sources of every image with the synthetic ones."""
    sections, solved = [], False
    for history in histories:
        payload = history.task.completed_payload
        outputs: Any = payload["outputs"] if isinstance(payload, Mapping) else None
        if outputs is None:
            title = f"Sources in {group_of(history)}"
            sections.append(Section(title, ["This group has no validated image."], ok=False))
            continue
        caltables = from_json(CalibrateSolveOutputs, outputs).caltables
        if isinstance(caltables, SolvedCaltables):
            solved = True
            folder = caltables.tables[0].path.parent
            gains = compare_gains(observations.truth, folder)
            sections.append(_gains_section(group_of(history), gains))
        report = from_json(ValidateOutputs, outputs).validation.report
        table = from_json(SourceTable, json.loads(report.read_text(encoding="utf-8")))
        sections.append(_sources_section(group_of(history), compare_sources(table.sources)))
    if not solved:
        sections.append(Section("Gains", ["No group solved any calibration."], ok=False))
    return sections


def _gains_section(group: str, gains: GainComparison) -> Section:
    return Section(
        f"Gains solved in {group}: difference from the injected gains",
        columns=["", "measured", "at most"],
        rows=[
            ["amplitude, per channel", f"{gains.channel_amplitude:.2%}", "2 %"],
            ["phase, per channel", f"{gains.channel_phase_deg:.2f} deg", "1 deg"],
            ["amplitude, whole band", f"{gains.band_amplitude:.3%}", ""],
            ["flux scale", f"{abs(gains.amplitude_mean - 1):.3%}", "2 %"],
            ["flagged", f"{gains.flagged_fraction:.1%}", ""],
        ],
        ok=gains.within(),
    )


def _sources_section(group: str, sources: SourceComparison) -> Section:
    rows = []
    for row in sources.rows:
        recovered = ["not detected", "", ""]
        if row.measured_jy is not None:
            error = f"{row.measured_jy / row.flux_jy - 1:+.1%}"
            recovered = [f"{row.measured_jy:.3f}", error, f'{row.position_error_arcsec:.2f}"']
        rows.append([row.name, f"{row.flux_jy:.3f}", *recovered])
    summary = (
        f"All {sources.n_sources} sources from {FLUX_MIN_JY:g} Jy on are in this table: "
        f"worst flux error {sources.flux_error_max:.1%} (at most 6 %), worst position error "
        f'{sources.position_error_max_arcsec:.2f}" (at most 1.5").'
    )
    return Section(
        f"Sources from {FLUX_MIN_JY:g} Jy on in {group}: recovered and injected",
        [summary],
        columns=["source", "injected Jy", "recovered Jy", "error", "position"],
        rows=rows,
        ok=sources.within(),
    )


def _durability(histories: Sequence[History], workers: _Workers) -> Section:
    """The kill interrupted one stage, which ran again; the histories keep all invariants."""
    starts = [start for history in histories for start in step_starts(history)]
    died = [start for start in starts if start.outcome == "died"]
    violations = audit(histories)
    swept = Janitor(host_scratch(workers.paths.scratch_dir)).sweep()
    completed = sum(history.task.state == "completed" for history in histories)
    rows = [
        ["tasks completed", f"{completed} of {len(histories)}"],
        ["worker killed", workers.killed or "none: no stage ran long enough"],
        ["interrupted stages", ", ".join(start.step for start in died) or "none"],
        ["violated invariants", ", ".join(map(str, violations)) or "none"],
        ["abandoned scratch folders", str(len(swept))],
    ]
    ok = completed == len(histories) and len(died) == 1 and not violations and not swept
    return Section("Durability", columns=["", ""], rows=rows, ok=ok)


def _show(section: Section, console: Console) -> None:
    title = f"{cell(section.title)}  {'[green]ok[/]' if section.ok else '[red]failed[/]'}"
    table = KeyedTable(*section.columns, title=title, title_justify="left")
    for row in section.rows:
        table.add_row(*map(cell, row))
    console.print(table)
    for paragraph in section.paragraphs:
        console.out(paragraph)
    console.print()
