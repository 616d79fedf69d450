"""Commands of the simulation: campaigns from scenarios, exploration of crash points."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from absurd_contimg.errors import SettingError
from absurd_contimg.operations.cli.app import app, newest_histories, state
from absurd_contimg.operations.console import console
from absurd_contimg.similar_names import did_you_mean
from absurd_contimg.simulation.model.faults import CRASH_POINT_KINDS

_FAULTS = ", ".join(kind.value for kind in CRASH_POINT_KINDS)


@app.command()
def simulate(
    scenario: Annotated[
        str, typer.Argument(help="A TOML file, or the name of a shipped scenario.")
    ] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds to run.")] = 10,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Run this seed only, instead of --seeds.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Also write report.json and report.html into this folder.")
    ] = None,
    fit_from_database: Annotated[
        bool, typer.Option("--fit-from", help="Take durations from the histories in the database.")
    ] = False,
    variant: Annotated[
        str | None, typer.Option(help="Only this variant of a sweep, as 'workers.count = 2'.")
    ] = None,
    faults: Annotated[
        str | None,
        typer.Option(
            help="Only these faults, or none, instead of the seed's: "
            "KIND-NUMBER@SECONDS/FOR_SECONDS, as kill-3@4212.5,partition-0@1/24."
        ),
    ] = None,
    trace: Annotated[bool, typer.Option("--trace", help="Print each event.")] = False,
) -> None:
    """Simulate workers, hosts, disks and faults in virtual time, from a scenario.

    Without one the shipped scenarios are listed. Exit code 1 if an invariant or a bound of the
    scenario is violated.
    """
    from absurd_contimg.simulation.campaign.campaigns import run_campaign  # noqa: PLC0415
    from absurd_contimg.simulation.campaign.scenario import load_scenario, shipped_scenarios  # noqa: PLC0415
    from absurd_contimg.simulation.model.faults import parse_timed_faults  # noqa: PLC0415

    if not scenario:
        if (
            fit_from_database
            or trace
            or any(x is not None for x in (seed, output, variant, faults))
        ):
            raise SettingError(
                "The options are for a scenario, and none is given.",
                "Name it first, or list them: contimg simulate",
            )
        for name in shipped_scenarios():
            console.print(f"{name:20} {load_scenario(name).about}", soft_wrap=True)
        return
    fit_from = newest_histories(state.settings()) if fit_from_database else None
    numbers = range(seeds) if seed is None else [seed]
    try:
        schedule = None
        if faults is not None:
            schedule = parse_timed_faults("" if faults == "none" else faults)
        campaign = run_campaign(
            *(scenario, numbers, console, output),
            fit_from=fit_from,
            variant=variant,
            faults=schedule,
            trace=trace,
        )
    except ValueError as error:  # a `ScenarioError`, or faults that cannot be parsed
        raise SettingError(str(error)) from error
    if not campaign.ok:
        raise typer.Exit(1)


@app.command()
def explore(
    first: Annotated[
        str, typer.Option(help=f"Kinds of the first fault, with commas: {_FAULTS}.")
    ] = "kill,kill-late,kill-other",
    then: Annotated[
        str, typer.Option(help="Kinds of a second fault during recovery. Default: none.")
    ] = "",
    jobs: Annotated[int, typer.Option(min=1, max=256, help="Number of processes.")] = os.cpu_count()
    or 1,
    faults: Annotated[
        str | None,
        typer.Option(
            help="Only the future with these faults, KIND@CRASHPOINT, as kill@17,pause@4, or "
            "with a part of a crash point's line in a trace, as \"kill@checkpoint_state 'image'\": "
            "its trace, and whether it ends as without faults."
        ),
    ] = None,
    workflow: Annotated[
        str,
        typer.Option(
            help="pipeline; daemon, night, mosaic, publication, batch: of the stream; stages, "
            "transits, hybrid: other strategies; handler: sleeps, an event, a child, a retry."
        ),
    ] = "pipeline",
    after: Annotated[
        int,
        typer.Option(
            min=0,
            help="Begin after this part, as the progress of an earlier exploration counts them.",
        ),
    ] = 0,
) -> None:
    """Inject faults at every crash point of a simulated workflow, and of its recovery.

    Exit code 1 if a future with such faults violates an invariant. The kinds of faults are
    explained in docs/testing.md.
    """
    from absurd_contimg.simulation.exploration import (  # noqa: PLC0415
        example_workflows,
        stream_workflows,
    )
    from absurd_contimg.simulation.exploration.explorer import (  # noqa: PLC0415
        Exploration,
        explore_on_cores,
        part_count,
        replay,
    )
    from absurd_contimg.simulation.model.faults import parse_kind, parse_schedule  # noqa: PLC0415

    specs = {
        "pipeline": example_workflows.pipeline_spec,
        "handler": example_workflows.everything_spec,
        **stream_workflows.SPECS,
    }
    if workflow not in specs:
        raise SettingError(
            f"There is no workflow {workflow!r}; there are: {', '.join(specs)}.",
            did_you_mean(workflow, specs),
        )
    started, shown = time.monotonic(), 0

    def on_progress(part: int, parts: int, exploration: Exploration) -> None:
        nonlocal shown
        for finding in exploration.findings[shown:]:
            command = f"contimg explore --workflow {workflow} --faults {finding.schedule_text}"
            print(f"{command}\n{finding}", flush=True)
        shown = len(exploration.findings)
        console.print(
            f"part {part} of {parts}, {time.monotonic() - started:.0f} s: "
            f"{exploration.futures} futures, {shown} with violations"
        )

    try:
        if faults is not None:
            finding = replay(specs[workflow](), parse_schedule(faults))
            if finding.missed and not finding.violations:
                raise ValueError(finding.missed_text)  # the trace tells nothing of it
            print("\n".join([*finding.trace, *map(str, finding.violations), finding.report]))
            raise typer.Exit(1 if finding.violations else 0)
        kinds, second_kinds = (
            tuple(map(parse_kind, each.split(","))) if each else () for each in (first, then)
        )
    except ValueError as error:
        raise SettingError(f"explore: {error}.") from error
    if after >= (parts := part_count(second_kinds)):
        raise SettingError(
            f"There are {parts} parts, so --after {after} leaves none to run.",
            f"Give the last part that was reported, at most {parts - 1}.",
        )
    exploration = explore_on_cores(specs[workflow], kinds, second_kinds, jobs, on_progress, after)
    console.print(
        f"The run without faults has {len(exploration.crash_points)} crash points: before and "
        f"after each of its {exploration.effects} effects, with {exploration.distinct_states} "
        f"different states of database and disk. {exploration.futures} futures with faults there "
        f"were run; in {exploration.injected} every fault was injected. {exploration.duplicates} "
        "more kills lead to the state of one of these, and were not run again. "
        f"{len(exploration.findings) or 'No'} futures have violations. "
        f"{time.monotonic() - started:.0f} s, {exploration.processor_seconds:.0f} s of processor "
        "time."
    )
    if exploration.findings:
        raise typer.Exit(1)
