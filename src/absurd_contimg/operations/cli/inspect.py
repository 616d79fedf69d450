"""Commands that only look: status, history, reports, settings, the doctor, the simulation."""

from __future__ import annotations

import os
import time
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.failures import UNRECOGNISED
from absurd_contimg.core.records import History, QueueStats
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.errors import MissingInputError, SettingError
from absurd_contimg.execution.logs import log_folder, newest_logs, tail
from absurd_contimg.execution.scratch import living_owners
from absurd_contimg.operations.cli.app import (
    app,
    console,
    find_task,
    newest_histories,
    print_json,
    state,
    with_backend,
    write_report_on,
)
from absurd_contimg.operations.cli.failure_table import failure_table, rule_summary
from absurd_contimg.operations.services import worker_notes
from absurd_contimg.operations.terminal import history_tables, task_summary, tasks_table
from absurd_contimg.settings import VARIABLES, known_settings
from absurd_contimg.workflows.failure_rules import CLASSIFIER

AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]


@app.command()
def status(
    limit: Annotated[int, typer.Option(min=1, help="Newest tasks to show.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show the queue, the workers of this host, and the newest tasks."""
    settings = state.settings()

    async def read(backend: Backend) -> tuple[QueueStats, list[History], datetime]:
        stats = await backend.queue_stats(settings.queue_name)
        histories = await newest_histories(backend, settings, limit)
        return stats, histories, await backend.current_time()

    stats, histories, now = with_backend(settings, read, create=False)
    paths = settings.pipeline.paths
    alive = living_owners(paths.scratch_dir)
    notes = [{**one, "alive_here": one["worker"] in alive} for one in worker_notes(paths.state_dir)]
    if as_json:
        tasks = [task_summary(one, now) for one in histories]
        print_json({"queue": stats, "workers_here": alive, "disk_notes": notes, "tasks": tasks})
        return
    counts = ", ".join(f"{number} {state}" for state, number in stats.tasks_by_state.items())
    console.print(f"[bold]{stats.queue_name}[/]: {counts or 'no tasks'}")
    if stats.oldest_claimable_seconds is not None:
        console.print(
            f"{stats.claimable} waiting for a worker, the first for "
            f"{stats.oldest_claimable_seconds:.0f} s"
        )
    if stats.expired_leases:
        console.print(f"[yellow]{stats.expired_leases} leases expired, not yet taken up[/]")
    console.print(f"Workers alive on this host: {', '.join(alive) or 'none'}", highlight=False)
    for note in notes:
        if note["reason"]:
            where = "" if note["alive_here"] else ", not alive on this host"
            who = f"worker {note['worker']}{where}, since {note['since']}"
            console.print(f"[yellow]{who}:[/] ", end="")
            console.print(str(note["reason"]), markup=False, highlight=False, soft_wrap=True)
    console.print(tasks_table(histories, now))


@app.command()
def history(
    task: Annotated[str, typer.Argument(help="A task's id, its end, or its group.")],
    as_json: AsJson = False,
) -> None:
    """Show what happened to one task: attempts, stages, where it died, where it resumed."""
    settings = state.settings()

    async def read(backend: Backend) -> History:
        return await find_task(backend, settings, task)

    found = with_backend(settings, read, create=False)
    if as_json:
        print_json(found)
        return
    for one in history_tables([found]):
        console.print(one)


@app.command()
def logs(
    group: Annotated[str, typer.Argument(help="The group's name.")],
    stage: Annotated[str | None, typer.Option(help="Only this stage's.")] = None,
    lines: Annotated[int, typer.Option(min=1, help="Of the end of each log.")] = 30,
) -> None:
    """Show the ends of a group's newest logs: CASA's, and what the stage printed.

    Reads files alone, so it works while the database is away.
    """
    folder = log_folder(state.settings().pipeline.paths.state_dir, group)
    found = newest_logs(folder, stage)
    if not found:
        of_stage = "" if stage is None else f" of stage {stage!r}"
        raise MissingInputError(
            f"No log{of_stage} in {folder}.", "contimg status lists the groups."
        )
    for path in found:
        console.print(f"[bold]{path}[/]", highlight=False, soft_wrap=True)
        for line in tail(path, lines):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"Older starts are in {folder}", highlight=False, soft_wrap=True)


@app.command()
def report(
    path: Annotated[Path | None, typer.Argument(help="The HTML file to write.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Newest tasks to include.")] = 20,
) -> None:
    """Write one self-contained HTML report on the newest tasks and their images."""
    settings = state.settings()

    async def read(backend: Backend) -> list[History]:
        return (await newest_histories(backend, settings, limit))[::-1]

    write_report_on(settings, with_backend(settings, read, create=False), path)


@app.command()
def doctor() -> None:
    """Say what is missing on this machine, and what to do about it."""
    from absurd_contimg.operations.doctor import diagnose  # noqa: PLC0415

    findings = diagnose(state.overrides, state.assignments)
    for one in findings:
        mark = "[green]ok[/]" if one.ok else "[red]no[/]"
        text = f"{mark}  [bold]{escape(one.check)}[/]: {escape(one.finding)}"
        console.print(text, highlight=False, soft_wrap=True)
        if one.remedy:
            console.print(f"    {escape(one.remedy)}", highlight=False, soft_wrap=True)
    problems = sum(not one.ok for one in findings)
    if problems:
        console.print(f"[red]{problems} of {len(findings)} checks found a problem.[/]")
        raise typer.Exit(1)
    console.print("[green]Nothing is missing.[/]")


@app.command()
def settings() -> None:
    """List all environment variables, and all pipeline settings with their values."""
    current = state.settings()
    for variable, meaning in VARIABLES.items():
        value = getattr(
            current, meaning.setting, getattr(current.pipeline.paths, meaning.setting, "")
        )
        shown = "" if value in ("", None) else f" = {value}"
        console.print(f"{variable}{shown}: {meaning.help}", highlight=False, soft_wrap=True)
    console.print()
    values = current.pipeline.model_dump()
    for name, default in known_settings().items():
        section, key = name.split(".")
        value = values[section][key]
        changed = "" if value == default else f"  (default {default!r})"
        console.print(f"{name} = {value!r}{changed}", highlight=False, soft_wrap=True)


@app.command()
def failures(
    markdown: Annotated[bool, typer.Option(help="As docs/failures.md.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the failure table: what is recognised, its kind, what to do."""
    if markdown:
        print(failure_table(CLASSIFIER.rules, RetryPolicy()), end="")
        return
    if as_json:
        print_json([rule_summary(one) for one in (*CLASSIFIER.rules, UNRECOGNISED)])
        return
    table = Table("rule", "kind", "what to do", "source", box=None)
    for rule in (*CLASSIFIER.rules, UNRECOGNISED):
        table.add_row(rule.id, rule.kind.value, rule.advice, rule.source)
    console.print(table)


@app.command()
def simulate(
    scenario: Annotated[
        str, typer.Argument(help="A TOML file, or the name of one shipped; none: list those.")
    ] = "",
    seeds: Annotated[int, typer.Option(min=1, help="How many nights to simulate.")] = 10,
    seed: Annotated[int | None, typer.Option(min=0, help="Only this one: a replay.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for report.json and report.html.")
    ] = None,
    fit_from_database: Annotated[
        bool, typer.Option("--fit-from", help="Durations from this database's history.")
    ] = False,
    variant: Annotated[
        str | None, typer.Option(help="Only this one of a sweep: 'workers.count = 2'.")
    ] = None,
    faults: Annotated[
        str | None,
        typer.Option(help="These, as kill-3@4212.5,partition-0@100/24, or none; not the seed's."),
    ] = None,
    trace: Annotated[bool, typer.Option("--trace", help="Show every event, one a line.")] = False,
) -> None:
    """Simulate workers, hosts, disks and faults in virtual time, from a scenario."""
    from absurd_contimg.simulation.campaign.campaigns import run_campaign  # noqa: PLC0415
    from absurd_contimg.simulation.campaign.scenario import load_scenario, shipped_scenarios  # noqa: PLC0415
    from absurd_contimg.simulation.model.faults import parse_timed_faults  # noqa: PLC0415

    if not scenario:
        for name in shipped_scenarios():
            console.print(f"{name:20} {load_scenario(name).about}", soft_wrap=True)
        return
    fit_from = _all_histories() if fit_from_database else None
    numbers = range(seeds) if seed is None else [seed]
    try:
        given = None if faults is None else parse_timed_faults("" if faults == "none" else faults)
        found = run_campaign(
            *(scenario, numbers, console, output),
            fit_from=fit_from,
            variant=variant,
            faults=given,
            trace=trace,
        )
    except ValueError as error:  # a `ScenarioError`, or faults that cannot be read
        raise SettingError(str(error)) from error
    if not found.ok:
        raise typer.Exit(1)


@app.command()
def explore(
    first: Annotated[str, typer.Option(help="Kinds of the first fault, with commas.")] = (
        "kill,kill-late,kill-other"
    ),
    then: Annotated[
        str, typer.Option(help="Kinds of a second fault during recovery. Default: none.")
    ] = "",
    jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = os.cpu_count() or 1,
    faults: Annotated[
        str | None, typer.Option(help="Only this future, with its trace: kill@17,pause@4.")
    ] = None,
    workflow: Annotated[
        str, typer.Option(help="pipeline, or handler: one with sleeps, an event, a child, a retry.")
    ] = "pipeline",
    after: Annotated[
        int, typer.Option(min=0, help="Continue after this part of an earlier exploration.")
    ] = 0,
) -> None:
    """Inject faults at every crash point of the simulated pipeline, and of its recovery."""
    from absurd_contimg.simulation.exploration.example_workflows import everything_spec  # noqa: PLC0415
    from absurd_contimg.simulation.exploration.explorer import Exploration, replay  # noqa: PLC0415
    from absurd_contimg.simulation.exploration.parallel_exploration import (  # noqa: PLC0415
        ExplorationPlan,
        explore_on_cores,
    )
    from absurd_contimg.simulation.model.faults import parse_kinds, parse_schedule  # noqa: PLC0415
    from absurd_contimg.simulation.model.worker_factory import pipeline_spec  # noqa: PLC0415

    specs = {"pipeline": pipeline_spec, "handler": everything_spec}
    if workflow not in specs:
        known = ", ".join(specs)
        raise SettingError(f"explore: there is no workflow {workflow}; known are {known}.")
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
            print("\n".join([*finding.trace, *map(str, finding.violations)]))
            if finding.missed:
                raise ValueError(finding.missed_text)
            raise typer.Exit(1 if finding.violations else 0)
        plan = ExplorationPlan(parse_kinds(first), parse_kinds(then) if then else ())
    except ValueError as error:
        raise SettingError(f"explore: {error}.") from error
    exploration = explore_on_cores(specs[workflow], plan, jobs, on_progress, after)
    console.print(
        f"{len(exploration.crash_points)} crash points, {exploration.distinct_states} durable "
        f"states; {exploration.futures} futures, all faults injected in {exploration.injected}, "
        f"{exploration.duplicates} kills more that lead to one of them; "
        f"{len(exploration.findings)} with violations; {time.monotonic() - started:.0f} s, "
        f"{exploration.processor_seconds:.0f} s of processor time."
    )
    if exploration.findings:
        raise typer.Exit(1)


@app.command()
def audit() -> None:
    """Check the histories of all tasks against the invariants that the simulation asserts."""
    from absurd_contimg.history.invariants import audit as check  # noqa: PLC0415

    histories = _all_histories()
    violations = check(histories)
    for one in violations:
        console.print(f"[red]{one}[/]", soft_wrap=True)
    console.print(f"{len(histories)} tasks audited, {len(violations)} violations.")
    if violations:
        raise typer.Exit(1)


def _all_histories() -> list[History]:
    settings = state.settings()

    async def read(backend: Backend) -> list[History]:
        return await newest_histories(backend, settings, 100_000)

    return with_backend(settings, read, create=False)
