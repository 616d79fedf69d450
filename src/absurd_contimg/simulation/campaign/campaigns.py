"""`run_campaign`: a scenario with many seeds, its report, and the replay of what went wrong."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from absurd_contimg.core.records import History
from absurd_contimg.history.invariants.check import Violation
from absurd_contimg.simulation.campaign.campaign import Campaign, Run
from absurd_contimg.simulation.campaign.faults import check_faults, draw_faults, shrink
from absurd_contimg.simulation.campaign.report import Summary, html_of, json_of, summarise, table_of
from absurd_contimg.simulation.campaign.scenario import Scenario, ScenarioError, load_scenario
from absurd_contimg.simulation.model.faults import TimedFault
from absurd_contimg.simulation.model.stage_model import StageCost, fit_costs
from absurd_contimg.simulation.model.trace import Trace
from absurd_contimg.simulation.model.world import without_gc

_RUNS_KEPT = 8
"""Whole runs, with all their histories, that are kept for figures: the last ones."""
_SHRINK_TRIES_MAX = 40
_VIOLATIONS_SHOWN = 5
_TRACE_SHOWN = 120


@dataclass(frozen=True, slots=True)
class CampaignReport:
    """What `run_campaign` found."""

    scenario: Scenario
    summaries: tuple[Summary, ...]
    replays: tuple[str, ...]
    """For each violated run: one command, what is wrong, and a trace."""
    folder: Path | None

    @property
    def ok(self) -> bool:
        """Whether every invariant held in every run."""
        return not any(one.violations for one in self.summaries)


def run_campaign(
    scenario_path: str | Path,
    seeds: Sequence[int],
    console: Console | None = None,
    output: Path | None = None,
    *,
    fit_from: Iterable[History] | None = None,
    variant: str | None = None,
    faults: Sequence[TimedFault] | None = None,
    trace: bool = False,
) -> CampaignReport:
    """Simulate a scenario (a file, or the name of one shipped) once for each seed.

    With a console it shows progress, the table, and how to replay each violation; with an output
    folder it writes ``report.json`` and, with the plots extra, ``report.html``. `fit_from` are
    histories of a real database from which the durations of stages are taken. A replay names the
    `variant` of a sweep and the `faults` instead of those that are drawn; with `trace` it prints
    all events. Raises `ScenarioError`, and `ValueError` where nothing can be fitted.
    """
    scenario = load_scenario(scenario_path)
    if output is not None:
        _make_folder(output)
    costs = None if fit_from is None else fit_costs(fit_from)
    summaries: list[Summary] = []
    runs: list[Run] = []
    replays: list[str] = []
    todo = [(label, one, seed) for label, one in _chosen(scenario, variant) for seed in seeds]
    for _, one, seed in todo:  # all of them, before the first has taken its time
        check_faults(one, draw_faults(one, seed) if faults is None else faults)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    shown = console or Console(quiet=True)
    with Progress(*columns, TimeElapsedColumn(), console=shown) as progress, without_gc():
        bar = progress.add_task(scenario.name, total=len(todo))
        for label, one, seed in todo:
            progress.update(bar, description=f"{label}, seed {seed}")
            run = Campaign(one, seed, faults, costs, Trace() if trace else None).run()
            summaries.append(summarise(run, label))
            runs.append(run)
            del runs[:-_RUNS_KEPT]
            if trace:
                _print_lines(shown, run.trace)
            if run.violations:
                named = f" --variant {shlex.quote(label)}" if scenario.sweep else ""
                command = f"contimg simulate {shlex.quote(str(scenario_path))}{named}"
                replays.append(_replay_text(command, run, costs))
            progress.advance(bar)
    shown.print(table_of(summaries))
    wrong = [len(one.violations) for one in summaries if one.violations]
    verdict = f"{sum(wrong)} invariants are broken in {len(wrong)} of {len(summaries)} runs."
    _print_lines(shown, [verdict])
    _print_lines(shown, replays)
    if output is not None:
        (output / "report.json").write_text(json_of(summaries), encoding="utf-8")
    if output is not None and find_spec("matplotlib") is None:
        shown.print("No report.html: its figures need pip install 'absurd-contimg[plots]'.")
    elif output is not None:
        page = html_of(summaries[-len(runs) :], runs, output)
        (output / "report.html").write_text(page, encoding="utf-8")
    return CampaignReport(scenario, tuple(summaries), tuple(replays), output)


def _make_folder(path: Path) -> None:
    """Before hours of simulation, and not after."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ScenarioError(f"the folder {path} cannot be written: {error}") from error


def _is_named(history: History, violations: Sequence[Violation]) -> bool:
    """Whether a violation names this task, or its group."""
    params = history.task.params
    group = str(params["group_id"]) if isinstance(params, Mapping) else ""
    return any(history.task.task_id == one.task_id or group in one.text for one in violations)


def _chosen(scenario: Scenario, variant: str | None) -> list[tuple[str, Scenario]]:
    variants = scenario.variants()
    found = [one for one in variants if variant in (None, one[0])]
    if not found:
        known = "; ".join(label for label, _ in variants)
        raise ScenarioError(f"Scenario {scenario.name} has no variant {variant!r}, only {known}.")
    return found


def _print_lines(console: Console, lines: Sequence[str]) -> None:
    """As they are: a command that is broken into two lines cannot be pasted."""
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _replay_text(command: str, run: Run, costs: Mapping[str, StageCost] | None) -> str:
    """The one command that shows it again with the fewest faults, what is wrong, and a trace."""
    broken = {one.invariant for one in run.violations}

    def breaks(faults: Sequence[TimedFault]) -> bool:
        again = Campaign(run.scenario, run.seed, faults, costs).run()
        return bool(broken & {one.invariant for one in again.violations})

    fewest = shrink(run.faults, breaks, _SHRINK_TRIES_MAX).faults
    trace = Trace()
    again = Campaign(run.scenario, run.seed, fewest, costs, trace).run()
    about = trace.about(one for one in again.histories if _is_named(one, again.violations))
    faults = ",".join(map(str, fewest)) or "none"
    fitted = "" if costs is None else " --fit-from"
    lines = [f"Seed {run.seed}: {len(fewest)} of {len(run.faults)} faults are enough. Replay:"]
    lines += [f"{command}{fitted} --seed {run.seed} --faults {faults} --trace"]
    lines += [f"  {one}" for one in list(again.violations)[:_VIOLATIONS_SHOWN]]
    return "\n".join([*lines, *(f"  {line}" for line in about[:_TRACE_SHOWN])])
