"""Commands that change nothing: status, history, logs, reports, settings, doctor, audit."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from pydantic_core import to_jsonable_python
from rich.markup import escape
from rich.table import Table

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.failures import UNRECOGNISED
from absurd_contimg.core.records import History, QueueStats
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.errors import MissingInputError
from absurd_contimg.execution.logs import log_folder, newest_logs, tail
from absurd_contimg.execution.scratch import living_owners
from absurd_contimg.history.invariants.check import audit as check_histories
from absurd_contimg.history.summary import TaskSummary, read_summaries
from absurd_contimg.history.wait_reason import find_wait_reason
from absurd_contimg.operations.cli.app import (
    app,
    console,
    find_task,
    newest_histories,
    print_json,
    state,
    with_backend,
    write_report_to,
)
from absurd_contimg.operations.cli.failure_table import failure_table, rule_summary
from absurd_contimg.operations.doctor import diagnose
from absurd_contimg.operations.services import worker_notes
from absurd_contimg.operations.terminal import history_tables, task_summary, tasks_table
from absurd_contimg.settings import VARIABLES, known_settings
from absurd_contimg.workflows.failure_rules import CLASSIFIER

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def status(
    limit: Annotated[int, typer.Option(min=1, help="Newest tasks to show.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show the queue, the workers of this host, and the newest tasks."""
    settings = state.settings()

    async def read(backend: Backend) -> tuple[QueueStats, list[TaskSummary], datetime]:
        stats = await backend.queue_stats(settings.queue_name)
        summaries = await read_summaries(backend, settings.queue_name, limit=limit)
        return stats, summaries, await backend.current_time()

    stats, summaries, now = with_backend(settings, read, create=False)
    paths = settings.pipeline.paths
    alive = living_owners(paths.scratch_dir)
    notes = [
        {**note, "alive_here": note["worker"] in alive} for note in worker_notes(paths.state_dir)
    ]
    if as_json:
        tasks = [task_summary(summary, now) for summary in summaries]
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
        console.print(f"[yellow]{stats.expired_leases} runs with expired leases[/]")
    console.print(f"Workers alive on this host: {', '.join(alive) or 'none'}", highlight=False)
    for note in notes:
        if note["reason"]:
            place = "" if note["alive_here"] else ", not alive on this host"
            heading = f"worker {note['worker']}{place}, since {note['since']}"
            console.print(f"[yellow]{heading}:[/] ", end="")
            console.print(str(note["reason"]), markup=False, highlight=False, soft_wrap=True)
    console.print(tasks_table(summaries, now))


@app.command()
def history(
    task: Annotated[str, typer.Argument(help="A task: id, its end, or group.")],
    as_json: AsJson = False,
) -> None:
    """Show the attempts and stages of one task, where it was interrupted and resumed."""
    settings = state.settings()

    async def read(backend: Backend) -> History:
        return await find_task(backend, settings, task)

    record = with_backend(settings, read, create=False)
    if as_json:
        print_json({"waiting": find_wait_reason(record), **to_jsonable_python(record)})
        return
    for table in history_tables([record]):
        console.print(table)


@app.command()
def logs(
    group: Annotated[str, typer.Argument(help="The group's name.")],
    stage: Annotated[str | None, typer.Option(help="Only logs of this stage.")] = None,
    lines: Annotated[int, typer.Option(min=1, help="Number of lines from the end.")] = 30,
) -> None:
    """Show the ends of a group's newest logs: CASA's log and the stage's output.

    Works without the database.
    """
    folder = log_folder(state.settings().pipeline.paths.state_dir, group)
    paths = newest_logs(folder, stage)
    if not paths:
        of_stage = "" if stage is None else f" of stage {stage!r}"
        raise MissingInputError(
            f"No log{of_stage} in {folder}.", "contimg status lists the groups."
        )
    for path in paths:
        console.print(f"[bold]{path}[/]", highlight=False, soft_wrap=True)
        for line in tail(path, lines):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"Logs of earlier starts: {folder}", highlight=False, soft_wrap=True)


@app.command()
def report(
    path: Annotated[Path | None, typer.Argument(help="The HTML file to write.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Newest tasks to include.")] = 20,
) -> None:
    """Write a self-contained HTML report on the newest tasks and their images."""
    settings = state.settings()
    write_report_to(settings, newest_histories(settings, limit)[::-1], path)


@app.command()
def doctor() -> None:
    """Check this machine, and name a remedy for each problem."""
    findings = diagnose(state.overrides, state.assignments)
    for finding in findings:
        mark = "[green]ok[/]" if finding.ok else "[red]no[/]"
        text = f"{mark}  [bold]{escape(finding.check)}[/]: {escape(finding.finding)}"
        console.print(text, highlight=False, soft_wrap=True)
        if not finding.ok:
            console.print(f"    {escape(finding.remedy)}", highlight=False, soft_wrap=True)
    problems = sum(not finding.ok for finding in findings)
    if problems:
        console.print(f"[red]{problems} of {len(findings)} checks found a problem.[/]")
        raise typer.Exit(1)
    console.print("[green]No problem found.[/]")


@app.command()
def settings() -> None:
    """List the environment variables, and the pipeline settings with their values."""
    current = state.settings()
    for variable, meaning in VARIABLES.items():
        value = getattr(
            current, meaning.setting, getattr(current.pipeline.paths, meaning.setting, "")
        )
        current_value = "" if value in ("", None) else f" = {value}"
        console.print(f"{variable}{current_value}: {meaning.help}", highlight=False, soft_wrap=True)
    console.print()
    values = current.pipeline.model_dump()
    for name, default in known_settings().items():
        section, key = name.split(".")
        value = values[section][key]
        changed = "" if value == default else f"  (default {default!r})"
        console.print(f"{name} = {value!r}{changed}", highlight=False, soft_wrap=True)


@app.command()
def failures(
    markdown: Annotated[bool, typer.Option(help="Print docs/failures.md.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the failure table: rules, their kinds, what to do."""
    if markdown:
        print(failure_table(CLASSIFIER.rules, RetryPolicy()), end="")
        return
    if as_json:
        print_json([rule_summary(rule) for rule in (*CLASSIFIER.rules, UNRECOGNISED)])
        return
    table = Table("rule", "kind", "what to do", "source", box=None)
    for rule in (*CLASSIFIER.rules, UNRECOGNISED):
        table.add_row(rule.id, rule.kind.value, rule.advice, rule.source)
    console.print(table)


@app.command()
def audit() -> None:
    """Check the histories of all tasks against the invariants of the simulation."""
    histories = newest_histories(state.settings())
    violations = check_histories(histories)
    for violation in violations:
        console.print(f"[red]{violation}[/]", soft_wrap=True)
    console.print(f"{len(histories)} tasks audited, {len(violations)} violations.")
    if violations:
        raise typer.Exit(1)
