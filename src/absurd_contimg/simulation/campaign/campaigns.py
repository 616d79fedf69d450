"""`run_campaign`: a scenario with many seeds, its report, and the replay of each violation."""

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
from absurd_contimg.history.timeline import group_of
from absurd_contimg.simulation.campaign.campaign import Campaign, Run
from absurd_contimg.simulation.campaign.faults import check_faults, draw_faults, shrink
from absurd_contimg.simulation.campaign.page import html_of
from absurd_contimg.simulation.campaign.report import (
    failed_lines,
    json_of,
    lost_time_lines,
    table_of,
    variants_table,
)
from absurd_contimg.simulation.campaign.scenario import Scenario, ScenarioError, load_scenario
from absurd_contimg.simulation.campaign.stored_runs import store_runs
from absurd_contimg.simulation.campaign.summary import RunSummary, summarize_run
from absurd_contimg.simulation.model.faults import TimedFault
from absurd_contimg.simulation.model.stage_model import StageCost, fit_costs
from absurd_contimg.simulation.model.trace import Trace
from absurd_contimg.simulation.model.world import without_logs_and_gc
from absurd_contimg.whole_files import replaced_file, require_replaceable

_WHAT = "report of a simulation"

_RUNS_KEPT = 8
"""Whole runs, with all their histories, that are kept for figures: the last ones."""
_RUNS_MAX = 100_000
_SHRINK_TRIES_MAX = 40
_VIOLATIONS_SHOWN = 5
_WAITING_SHOWN = 5
_TRACE_SHOWN = 120


@dataclass(frozen=True, slots=True)
class CampaignReport:
    """The results of `run_campaign`."""

    summaries: tuple[RunSummary, ...]
    replays: tuple[str, ...]
    """For each run with violations: one command, the violations, and a trace."""

    @property
    def ok(self) -> bool:
        """Whether every invariant held in every run."""
        return not any(summary.violations for summary in self.summaries)


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

    Shows progress, the table, and how to replay each violation; `output` gets ``report.json``, the
    histories of the last runs for the dashboard and, with the plots extra, ``report.html``. The
    durations of stages are taken from `fit_from`, if given. A replay names the `variant` of a
    sweep, and `faults` instead of those of the seed.
    Raises `ScenarioError`, and `ValueError` where nothing can be fitted.
    """
    scenario = load_scenario(scenario_path)
    if output is not None:
        _make_folder(output)
    costs = None if fit_from is None else fit_costs(fit_from)
    summaries: list[RunSummary] = []
    runs: list[Run] = []
    replays: list[str] = []
    n_runs = len(_chosen(scenario, variant)) * len(seeds)
    if n_runs > _RUNS_MAX:
        raise ScenarioError(
            f"{n_runs:,} runs are asked for, and at most {_RUNS_MAX:,} are made: fewer seeds, or "
            "one variant of the sweep"
        )
    todo = [(label, each, seed) for label, each in _chosen(scenario, variant) for seed in seeds]
    for _, each, seed in todo:  # all of them, before the first has taken its time
        check_faults(each, draw_faults(each, seed) if faults is None else faults)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    shown = console or Console(quiet=True)
    with Progress(*columns, TimeElapsedColumn(), console=shown) as progress, without_logs_and_gc():
        bar = progress.add_task(scenario.name, total=len(todo))
        for label, each, seed in todo:
            progress.update(bar, description=f"{label}, seed {seed}")
            run = Campaign(each, seed, faults, costs, Trace() if trace else None).run()
            summaries.append(summarize_run(run, label))
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
    _print_lines(shown, [*lost_time_lines(summaries), *failed_lines(summaries)])
    for summary in summaries:
        lines = [f"{summary.label}, seed {summary.seed}: {line}" for line in summary.waiting]
        _print_lines(shown, lines[:_WAITING_SHOWN])
    if len({summary.label for summary in summaries}) > 1:
        shown.print(variants_table(summaries))
    counts = [len(summary.violations) for summary in summaries if summary.violations]
    verdict = "No invariant is violated."
    if counts:
        verdict = (
            f"{sum(counts)} violations of invariants in {len(counts)} of {len(summaries)} runs."
        )
    _print_lines(shown, [verdict, *replays])
    if output is not None:
        _write_report(shown, summaries, runs, output)
    return CampaignReport(tuple(summaries), tuple(replays))


def _write_report(
    console: Console, summaries: Sequence[RunSummary], runs: Sequence[Run], output: Path
) -> None:
    page_name = "" if find_spec("matplotlib") is None else " and report.html"
    _print_lines(console, [f"Writing {output}/report.json{page_name}"])
    with replaced_file(output / "report.json", _WHAT, _is_runs) as file:
        file.write(json_of(summaries).encode())
    store_runs(output, list(zip(summaries[-len(runs) :], runs, strict=True)))
    if not page_name:
        console.print("No report.html: its figures need pip install 'absurd-contimg[plots]'.")
        return
    n_earlier = len(summaries) - len(runs)
    page = html_of(summaries[-len(runs) :], runs, output, n_earlier)
    with replaced_file(output / "report.html", _WHAT, _is_page) as file:
        file.write(page.encode())


def _is_runs(head: bytes) -> bool:
    return b'"label": ' in head


def _is_page(head: bytes) -> bool:
    return b"<title>Simulated campaign " in head


def _make_folder(path: Path) -> None:
    """Before hours of simulation, and not after; `SettingError` if it has other files of a name."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ScenarioError(f"the folder {path} cannot be written: {error}") from error
    require_replaceable(path / "report.json", _WHAT, _is_runs)
    require_replaceable(path / "report.html", _WHAT, _is_page)


def _chosen(scenario: Scenario, variant: str | None) -> list[tuple[str, Scenario]]:
    variants = scenario.variants()
    chosen = [each for each in variants if variant in (None, each[0])]
    if not chosen:
        known = "; ".join(label for label, _ in variants)
        raise ScenarioError(f"Scenario {scenario.name} has no variant {variant!r}, only {known}.")
    return chosen


def _print_lines(console: Console, lines: Sequence[str]) -> None:
    """As they are: a command that is broken into two lines cannot be pasted."""
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _replay_text(command: str, run: Run, costs: Mapping[str, StageCost] | None) -> str:
    """The command that replays a run with the fewest faults, the violations, and a trace."""
    violated = {violation.invariant for violation in run.violations}

    def still_violated(faults: Sequence[TimedFault]) -> bool:
        again = Campaign(run.scenario, run.seed, faults, costs).run()
        return bool(violated & {violation.invariant for violation in again.violations})

    fewest = shrink(run.faults, still_violated, _SHRINK_TRIES_MAX)
    trace = Trace()
    again = Campaign(run.scenario, run.seed, fewest, costs, trace).run()
    concerned = [each for each in again.histories if _is_named(each, again.violations)]
    faults = ",".join(map(str, fewest)) or "none"
    fitted = "" if costs is None else " --fit-from"
    lines = [f"Seed {run.seed}: {len(fewest)} of {len(run.faults)} faults are enough. Replay:"]
    lines += [f"{command}{fitted} --seed {run.seed} --faults {faults} --trace"]
    lines += [f"  {violation}" for violation in again.violations[:_VIOLATIONS_SHOWN]]
    return "\n".join([*lines, *(f"  {line}" for line in trace.about(concerned)[:_TRACE_SHOWN])])


def _is_named(history: History, violations: Sequence[Violation]) -> bool:
    """Whether a violation names this task, or its group."""
    names = group_of(history), str(history.task.task_id)
    texts = [f"{violation.task_id} {violation.text}" for violation in violations]
    return any(name in text for name in names for text in texts)
