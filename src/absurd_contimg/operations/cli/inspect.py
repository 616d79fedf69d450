"""Commands that change nothing: status, history, logs, reports, settings, doctor, audit."""

# The stages, SQLAlchemy and CASA's helpers take a second to import: imported where they are used.
# ruff: noqa: PLC0415

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic_core import to_jsonable_python
from rich.padding import Padding
from rich.text import Text

from absurd_contimg.config.meanings import setting_meanings
from absurd_contimg.config.variables import VARIABLES
from absurd_contimg.core.backend import Backend, Inspection
from absurd_contimg.core.records import History, Task
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.errors import AwayError, MissingInputError, SettingError
from absurd_contimg.execution.disk_usage import size_text
from absurd_contimg.execution.logs import (
    LoggedStart,
    log_folder,
    logged_groups,
    logged_stages,
    logged_starts,
    newest_logs,
    tail,
)
from absurd_contimg.history.failures import failed_runs
from absurd_contimg.history.invariants.check import audit as check_histories
from absurd_contimg.history.stage_tasks import with_stage_tasks
from absurd_contimg.history.summary import command_after_cancellation
from absurd_contimg.history.wait_explanation import WaitContext, explain_wait
from absurd_contimg.history.wait_reason import find_wait_reason
from absurd_contimg.operations.cli import app as shared
from absurd_contimg.operations.cli.app import AsJson, FromFile, GroupName, TaskName, app, state
from absurd_contimg.operations.cli.task_search import find_task
from absurd_contimg.operations.console import cell, console, counted, message_line, one_line
from absurd_contimg.secrets import shown_connection
from absurd_contimg.settings import Settings, known_settings
from absurd_contimg.similar_names import did_you_mean
from absurd_contimg.terminal_tables import KeyedTable

_OTHERS_MAX = 5

if TYPE_CHECKING:
    from absurd_contimg.operations.night_report import NightReport
    from absurd_contimg.operations.overview import GroupOverview


@app.command()
def history(
    task: TaskName,
    as_json: AsJson = False,
    from_file: FromFile = None,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show the traceback of each failure too.")
    ] = False,
) -> None:
    """Show the attempts and stages of one task, where it was interrupted and resumed."""
    from absurd_contimg.operations.attempts import result_line
    from absurd_contimg.operations.terminal import history_table

    settings = state.settings()

    async def read(backend: Inspection) -> tuple[History, WaitContext, list[Task]]:
        record = await find_task(backend, settings, task)
        others = await _other_tasks(backend, record)
        context, _ = await shared.read_waits(settings, backend, from_file)
        (joined,) = await with_stage_tasks(backend, [record])
        return joined, context, others

    record, context, others = shared.with_inspection(settings, from_file, read)
    explanation = explain_wait(record, context)
    if as_json:
        waits = {
            "waiting": find_wait_reason(record),
            "why": explanation,
            "other_tasks": [each.task_id for each in others],
        }
        shared.print_json({**waits, **to_jsonable_python(record)})
    else:
        console.print(history_table(record, explanation))
        if result := result_line(record):
            console.print(result, soft_wrap=True)
        if record.task.state == "cancelled":
            _show_cancellation(None if from_file else settings, record.task, others)
        for other in others:
            when = "Earlier" if other.enqueue_at < record.task.enqueue_at else "Later"
            command = state.command(f"history {other.task_id}")
            console.print(message_line(f"{when} task of it, {other.state}: {command}"))
        for failure in failed_runs(record) if traceback else ():
            text = failure.traceback or "no traceback is known"
            console.print()
            console.out(f"attempt {failure.attempt}: {failure.text}", highlight=False)
            console.out_lines(text, highlight=False)


def _show_cancellation(settings: Settings | None, task: Task, others: Sequence[Task]) -> None:
    """By whom and why, if a registry can say it, and what spawns another task if there is none."""
    from absurd_contimg.operations.services import has_registry, open_tables
    from absurd_contimg.registry.operator_actions import cancelled_by

    text = "cancelled"
    with suppress(AwayError):
        if settings is not None and has_registry(settings):
            with open_tables(settings) as database:
                text = cancelled_by(database, str(task.task_id)) or text
    command = command_after_cancellation(task)
    is_newest = all(other.enqueue_at < task.enqueue_at for other in others)
    go_on = f" To go on: {command}" if command and is_newest else ""
    console.print(message_line(f"It was {text}.{go_on}"), soft_wrap=True)


async def _other_tasks(backend: Inspection, history: History) -> list[Task]:
    """The tasks that did the same for the group or window of a task, the newest first."""
    params = history.task.params if isinstance(history.task.params, Mapping) else {}
    named = {key: params[key] for key in ("group_id", "window_id") if key in params}
    if not named:
        return []
    tasks = await backend.list_tasks(history.queue_name, params=named)
    same = [each for each in tasks if each.task_name == history.task.task_name]
    return [each for each in same if each.task_id != history.task.task_id][:_OTHERS_MAX]


@app.command()
def logs(
    group: GroupName,
    stage: Annotated[str | None, typer.Option(help="Only logs of this stage.")] = None,
    lines: Annotated[int, typer.Option(min=1, help="Number of lines from the end.")] = 30,
    as_json: AsJson = False,
) -> None:
    """Show the ends of a group's newest logs: CASA's log and the stage's output.

    Works without the database.
    """
    state_dir = state.settings().pipeline.paths.state_dir
    folder = log_folder(state_dir, group)
    paths = newest_logs(folder, stage)
    if not paths:
        raise _no_log(state_dir, group, stage)
    if as_json:
        ends = [{"path": path, "lines": tail(path, lines)} for path in paths]
        starts = logged_starts(folder, stage)
        shared.print_json({"folder": folder, "logs": ends, "starts": starts})
        return
    for path in paths:
        console.out(path, style="bold")
        for line in tail(path, lines):
            console.out(line)
    _list_starts(folder, logged_starts(folder, stage), {path.name for path in paths})


def _list_starts(folder: Path, starts: list[LoggedStart], shown: set[str]) -> None:
    """The starts of which no log is shown, with the time of their last line."""
    others = [
        start for start in starts if not any(name.startswith(f"{start.name}.") for name in shown)
    ]
    console.out(f"Other starts in {folder}, the newest first:" if others else f"Folder: {folder}")
    for start in others:
        at = datetime.fromtimestamp(start.written_at, UTC)
        size = size_text(start.size_bytes) if start.size_bytes else "empty"
        console.out(f"  {at:%Y-%m-%d %H:%M:%S} UTC  {start.name}  {size}")


def _no_log(state_dir: Path, group: str, stage: str | None) -> MissingInputError:
    """What is wrong with the names that were given."""
    folder = log_folder(state_dir, group)
    if stage is not None and (stages := logged_stages(folder)):
        return MissingInputError(
            f"No log of stage {stage!r} in {folder}; there are: {', '.join(stages)}.",
            did_you_mean(stage, stages),
        )
    hint = did_you_mean(group, logged_groups(state_dir), "contimg status lists the groups.")
    return MissingInputError(f"No log in {folder}.", hint)


@app.command()
def report(
    path: Annotated[
        Path | None,
        typer.Argument(
            help="HTML file to write. Default: report.html in the output folder, of a night "
            "reports/NIGHT.html."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Number of tasks, the newest first.")] = 20,
    night: Annotated[
        str | None,
        typer.Option(
            help="The report of a night instead: its UTC date, as 2025-01-15, or last. A night is "
            "a UTC day (00 to 24 h), which holds the dark hours at the telescope (02 to 14 h UTC)."
        ),
    ] = None,
) -> None:
    """Write a self-contained HTML report on the newest tasks and their images, or on a night.

    Of a night also a JSON file with the same numbers, beside the page. Exit code 1 if the night
    has failed.
    """
    settings = state.settings()
    if night is not None:
        _report_night(settings, night, path)
        return

    async def read(backend: Backend) -> tuple[list[History], list[GroupOverview]]:
        _, groups = await shared.read_waits(settings, backend)
        return await shared.read_newest(backend, settings, limit), groups

    histories, groups = shared.with_backend(settings, read, create=False)
    waiting = [(each.name, each.present, each.expected, each.waits_for) for each in groups]
    shared.write_report_to(settings, histories[::-1], path, waiting)


def _report_night(settings: Settings, night: str, path: Path | None) -> None:
    from absurd_contimg.operations.night_report import (
        NightSite,
        data_reader,
        parse_night,
        write_night_report,
    )
    from absurd_contimg.operations.services import open_registry

    shared.require_registry(settings)
    with closing(open_registry(settings)) as registry:
        wanted = parse_night(night, registry.database)

        async def write(backend: Backend) -> tuple[NightReport, Path, Path]:
            site = NightSite(
                backend, registry.database, settings.pipeline, settings.queue_name, settings
            )
            return await write_night_report(
                site, wanted, path, data_reader(settings.pipeline.paths.scratch_dir)
            )

        report, page, numbers = shared.with_backend(settings, write, create=False)
    colour = _VERDICT_COLOURS[report.verdict]
    console.print(f"Night {wanted.day}: [{colour}]{report.verdict}[/]")
    for reason in report.reasons:
        console.print(message_line(f"  {reason}"), soft_wrap=True)
    for file in (page, numbers):
        console.out(f"Wrote {file}")
    if report.verdict == "FAILED":
        raise typer.Exit(1)


_VERDICT_COLOURS = {"CLEAN": "green", "DEGRADED": "yellow", "EMPTY": "yellow", "FAILED": "red"}


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check this machine, and name a remedy for each problem.

    Exit code 1 if there is a problem.
    """
    from absurd_contimg.operations.doctor import diagnose

    findings = diagnose(state.overrides, state.assignments)
    problems = sum(not finding.ok for finding in findings)
    if as_json:
        shared.print_json({"problems": problems, "checks": findings})
        raise typer.Exit(1 if problems else 0)
    for finding in findings:
        mark = "[green]ok[/]" if finding.ok else "[red]no[/]"
        text = f"{mark}  [bold]{cell(finding.check)}[/]: {message_line(finding.finding)}"
        console.print(text, soft_wrap=True)
        if not finding.ok:
            console.out(f"    {finding.remedy}")
    if problems:
        console.print(f"[red]{problems} of {len(findings)} checks found a problem.[/]")
        raise typer.Exit(1)
    console.print("[green]No problem found.[/]")


@app.command()
def settings(
    name: Annotated[
        str | None, typer.Argument(help="Only variables and settings with this in their name.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the environment variables, and the pipeline settings: value, default, meaning.

    Units are in the names. "Guide" in a meaning is the telescope's operations guide.
    """
    variables, numbers = _variables(state.settings()), _pipeline_settings(state.settings())
    if name is not None:
        variables = [item for item in variables if name.lower() in str(item["variable"]).lower()]
        numbers = [item for item in numbers if name.lower() in str(item["setting"])]
        if not variables and not numbers:
            names = [*VARIABLES, *known_settings()]
            hint = did_you_mean(name, names, "contimg settings lists all.")
            raise SettingError(f"No setting has {name!r} in its name.", hint)
    if as_json:
        shared.print_json({"variables": variables, "settings": numbers})
        return
    for item in variables:
        value = "" if item["value"] in ("", None, ()) else f" = {item['value']}"
        console.out(one_line(f"{item['variable']}{value}: {item['meaning']}", 4000))
    if variables and numbers:
        console.print()
    for item in numbers:
        changed = "" if item["value"] == item["default"] else f"  (default {item['default']!r})"
        console.out(f"{item['setting']} = {item['value']!r}{changed}")
        console.print(Padding(Text(str(item["meaning"]), style="dim"), (0, 0, 0, 4)))


def _variables(current: Settings) -> list[dict[str, object]]:
    paths = current.pipeline.paths
    listed: list[dict[str, object]] = []
    for variable, meaning in VARIABLES.items():
        if meaning.setting.startswith("pipeline."):
            value = attrgetter(meaning.setting)(current)
        else:
            value = getattr(current, meaning.setting, getattr(paths, meaning.setting, None))
        if meaning.secret and value not in ("", None):
            value = "***"
        if meaning.setting in ("database_url", "registry_url") and value is not None:
            value = shown_connection(str(value))
        listed.append({"variable": variable, "value": value, "meaning": meaning.help})
    return listed


def _pipeline_settings(current: Settings) -> list[dict[str, object]]:
    values, meanings = current.pipeline.model_dump(), setting_meanings()
    return [
        {
            "setting": setting,
            "value": values[setting.split(".")[0]][setting.split(".")[1]],
            "default": default,
            "meaning": meanings[setting],
        }
        for setting, default in known_settings().items()
    ]


@app.command()
def failures(
    rule: Annotated[
        str | None, typer.Argument(help="One rule, as contimg status names it; or part of it.")
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the page docs/failures.md.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the failure table, or explain one rule: its kind, what happens, what to do."""
    from absurd_contimg.operations.cli.failure_table import (
        RULES,
        explain_rule,
        failure_table,
        find_rules,
        rule_summary,
    )

    rules = RULES if rule is None else find_rules(rule)
    if markdown:
        print(failure_table(RULES, RetryPolicy()), end="")
    elif as_json:
        shared.print_json([rule_summary(each) for each in rules])
    elif rule is not None:
        for each in rules:
            for line in explain_rule(each, RetryPolicy()):
                console.print(message_line(line), soft_wrap=True)
    else:
        table = KeyedTable("rule", "kind", "what to do")
        for each in rules:
            table.add_row(each.id, each.kind.value, each.advice)
        console.print(table)
        console.print("One of them with its evidence and source: contimg failures RULE")


@app.command()
def audit(from_file: FromFile = None, as_json: AsJson = False) -> None:
    """Check the histories of all tasks, and the registry's groups, windows, publications and
    batches, against the invariants of the simulation.

    With the retry budgets of the settings, which must be those of the workers. Of a file, the
    histories alone. Exit code 1 if one is violated.
    """
    from absurd_contimg.operations.services import audit_stream, make_policy

    settings = state.settings()
    histories = shared.all_histories(settings, file=from_file)
    violations = check_histories(histories, make_policy(settings))
    if from_file is None:
        created_at = shared.with_backend(
            settings, lambda backend: backend.queue_created_at(settings.queue_name), create=False
        )
        violations += audit_stream(settings, histories, created_at)
    if as_json:
        shared.print_json({"tasks": len(histories), "violations": violations})
        raise typer.Exit(1 if violations else 0)
    for violation in violations:
        console.print(f"[red]{message_line(violation)}[/]", soft_wrap=True)
    console.print(
        f"{counted(len(histories), 'task')} audited, {counted(len(violations), 'violation')}."
    )
    if violations:
        raise typer.Exit(1)
