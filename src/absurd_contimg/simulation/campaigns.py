"""`run_campaign`: a scenario with many seeds, its report, and the replay of what went wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from absurd_contimg.core.records import History
from absurd_contimg.simulation.campaign import Campaign, Run
from absurd_contimg.simulation.faults import Fault, shrink
from absurd_contimg.simulation.report import Summary, html_of, json_of, summarise, table_of
from absurd_contimg.simulation.scenario import Scenario, load_scenario
from absurd_contimg.simulation.stage_model import fit_costs
from absurd_contimg.simulation.world import without_gc

_RUNS_KEPT = 8
"""Whole runs, with all their histories, that are kept for figures: the last ones."""


@dataclass(frozen=True, slots=True)
class CampaignReport:
    """What `run_campaign` found."""

    scenario: Scenario
    summaries: tuple[Summary, ...]
    replays: tuple[str, ...]
    """One command and trace for each violated run."""
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
) -> CampaignReport:
    """Simulate a scenario (a file, or the name of one shipped) once for each seed.

    With a console it shows progress, the table, and how to replay each violation; with an output
    folder it writes ``report.json`` and ``report.html`` there. `fit_from` are histories of a real
    database from which the durations of stages are taken. Raises `ScenarioError`.
    """
    scenario = load_scenario(scenario_path)
    costs = None if fit_from is None else fit_costs(fit_from)
    summaries: list[Summary] = []
    runs: list[Run] = []
    replays: list[str] = []
    todo = [(label, one, seed) for label, one in scenario.variants() for seed in seeds]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    shown = console or Console(quiet=True)
    with Progress(*columns, TimeElapsedColumn(), console=shown) as progress, without_gc():
        bar = progress.add_task(scenario.name, total=len(todo))
        for label, one, seed in todo:
            progress.update(bar, description=f"{label}, seed {seed}")
            run = Campaign(one, seed, costs=costs).run()
            summaries.append(summarise(run, label))
            runs.append(run)
            del runs[:-_RUNS_KEPT]
            if run.violations:
                replays.append(_replay_text(scenario_path, label, run))
            progress.advance(bar)
    shown.print(table_of(summaries))
    for text in replays:
        shown.print(text, markup=False, highlight=False)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        (output / "report.json").write_text(json_of(summaries), encoding="utf-8")
        page = html_of(summaries[-len(runs) :], runs)
        (output / "report.html").write_text(page, encoding="utf-8")
    return CampaignReport(scenario, tuple(summaries), tuple(replays), output)


def _replay_text(path: str | Path, label: str, run: Run) -> str:
    """Seed, scenario, the one command, the violations, and the fewest faults that still break."""
    broken = {one.invariant for one in run.violations}

    def breaks(faults: Sequence[Fault]) -> bool:
        again = Campaign(run.scenario, run.seed, faults).run()
        return bool(broken & {one.invariant for one in again.violations})

    fewest = shrink(run.faults, breaks, tries_max=40)
    lines = [f"{label}, seed {run.seed}: replay with  contimg simulate {path} --seed {run.seed}"]
    lines += [f"  {one}" for one in list(run.violations)[:5]]
    lines += [f"  {len(fewest.faults)} of {len(run.faults)} faults are enough:"]
    lines += [f"    {one}" for one in fewest.faults[:20]]
    return "\n".join(lines)
