"""Commands that change tasks, workers or the database."""

# SQLAlchemy, NumPy and the stages take a second to import: each command imports what it needs.
# ruff: noqa: PLC0415

from __future__ import annotations

import asyncio
import difflib
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from absurd_contimg.backends.postgres import EmbeddedPostgres
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.records import LIVE_STATES, History, SpawnedTask
from absurd_contimg.errors import MissingInputError, SettingError
from absurd_contimg.operations.cli import app as shared
from absurd_contimg.operations.cli.app import GroupName, Reason, TaskName, app, state
from absurd_contimg.operations.console import cell, console, error_console, message_line
from absurd_contimg.secrets import without_password
from absurd_contimg.settings import Settings

if TYPE_CHECKING:
    from absurd_contimg.ingest.spawn import Spawned
    from absurd_contimg.operations.services import Actions

_Calibrator = Annotated[
    str, typer.Option(help="auto, none, or the name of a calibrator in the catalogue.")
]
_Now = Annotated[bool, typer.Option(help="Do not wait for missing sub-bands.")]


class _Strategy(StrEnum):
    """How a group is processed (docs/strategies.md)."""

    GROUP = "group"
    STAGES = "stages"
    HYBRID = "hybrid"


_AsStrategy = Annotated[
    _Strategy,
    typer.Option(
        help="group: one task, a step for each stage; stages: a task for each stage, on a queue "
        "for its resource; hybrid: one step that runs all stages."
    ),
]


@app.command()
def spawn(
    context: typer.Context,
    calibrator: _Calibrator = "auto",
    now: _Now = False,
    respawn: Annotated[
        bool,
        typer.Option(help="New tasks for groups whose task failed, for the files there are now."),
    ] = False,
    strategy: _AsStrategy = _Strategy.GROUP,
    anew: Annotated[bool, typer.Option("--anew", hidden=True)] = False,
) -> None:
    """Spawn a task for each observation group in the input folder."""
    from absurd_contimg.operations.services import check_spawn

    if anew:
        context.fail("No such option: --anew (Did you mean --respawn?)")
    settings = state.settings()
    check_spawn(settings, calibrator)
    _show_spawned(
        shared.with_backend(
            settings, lambda backend: _spawn(backend, settings, calibrator, now, strategy, respawn)
        )
    )


@app.command()
def run(
    calibrator: _Calibrator = "auto",
    now: _Now = False,
    strategy: _AsStrategy = _Strategy.GROUP,
    concurrency: Annotated[
        int, typer.Option(min=1, help="Tasks at the same time on each queue.")
    ] = 2,
    report_path: Annotated[
        Path | None,
        typer.Option(
            "--report", help="HTML report to write. Default: report.html in the output folder."
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Daemon and worker in one process, until SIGTERM.")
    ] = False,
) -> None:
    """Spawn tasks, run them in this process until they end, and write a report.

    Exit code 1 if a task has not completed.
    """
    from absurd_contimg.operations import services
    from absurd_contimg.operations.night_report import daemon_reports
    from absurd_contimg.operations.services import check_spawn, check_worker, serve
    from absurd_contimg.operations.terminal import history_table, watch

    settings = state.settings(concurrency=concurrency)
    if follow:
        if now or report_path is not None:
            raise SettingError("--follow goes with neither --now nor --report.")
        asyncio.run(services.follow(settings, calibrator, daemon_reports))
        return
    check_spawn(settings, calibrator)
    check_worker(settings)

    async def work(backend: Backend) -> list[History]:
        spawned = await _spawn(backend, settings, calibrator, now, strategy)
        _show_spawned(spawned)
        ids = [item.task.task_id for item in spawned if item.task is not None]
        open_tasks = await backend.list_tasks(settings.queue_name, states=LIVE_STATES)
        tasks = [*ids, *(task.task_id for task in open_tasks if task.task_id not in ids)]
        serving = asyncio.create_task(serve(settings))
        watching = asyncio.create_task(watch(backend, settings.queue_name, tasks, console))
        await asyncio.wait({serving, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not watching.done():  # the worker was stopped, or failed
            watching.cancel()
            await serving
            console.print("Stopped. The running tasks are released; contimg run continues them.")
            raise typer.Exit(130)
        serving.cancel()
        await asyncio.wait({serving})
        return watching.result()

    histories = shared.with_backend(settings, work)
    console.print(*map(history_table, histories))
    shared.write_report_to(settings, histories, report_path)
    if any(history.task.state != "completed" for history in histories):
        raise typer.Exit(1)


@app.command()
def worker(
    worker_id: Annotated[
        str | None,
        typer.Option(
            help="Stable name; a restarted worker continues its runs. Default: the host's, with :1."
        ),
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Tasks at the same time on each queue. Default: 1.")
    ] = None,
    claim_timeout: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Lease in seconds: another worker takes over this long after a crash. "
            "Default: 60.",
        ),
    ] = None,
    queue: Annotated[
        list[str] | None,
        typer.Option(
            help="Serve this queue; repeatable. Default: the main queue and those of its stages."
        ),
    ] = None,
    until_idle: Annotated[bool, typer.Option(help="End as soon as the queues are empty.")] = False,
) -> None:
    """Run a worker on its queues until SIGTERM.

    Exit code 1 with --until-idle if tasks are left that wait.
    """
    from absurd_contimg.operations.services import serve

    settings = state.settings(
        worker_id=worker_id, concurrency=concurrency, claim_timeout_seconds=claim_timeout
    )
    unfinished = asyncio.run(serve(settings, until_idle, queue))
    if until_idle and unfinished:
        console.out(f"{unfinished} tasks are left, and none can be claimed now: contimg status")
        raise typer.Exit(1)


@app.command()
def retry(
    task: Annotated[
        str | None, typer.Argument(help="A failed task: its id, the end of its id, or its group.")
    ] = None,
    all_failed: Annotated[
        bool, typer.Option(help="All failed groups that are not in quarantine.")
    ] = False,
    rule: Annotated[
        str | None,
        typer.Option(help="With --all-failed: only failures by this rule (contimg failures)."),
    ] = None,
    reason: Reason = "",
) -> None:
    """Run a failed task again, from its last checkpoint, with its full number of attempts."""
    from absurd_contimg.operations.cli.failure_table import RULES

    settings = state.settings()
    if (task is None) != all_failed or (rule is not None and not all_failed):
        raise SettingError("retry takes a task, or --all-failed, which --rule may restrict.")
    names = [known.id for known in RULES]
    if rule is not None and rule not in names:
        similar = difflib.get_close_matches(rule, names, 1)
        hint = f"Did you mean {similar[0]}?" if similar else "contimg failures lists them."
        raise SettingError(f"There is no rule {rule!r}.", hint)

    async def retry_tasks(actions: Actions) -> tuple[list[SpawnedTask], list[str]]:
        if task is None:
            return await actions.retry_all_failed(settings.queue_name, rule, reason)
        history = await shared.find_task(actions.backend, settings, task)
        return [await actions.retry(history.queue_name, history.task.task_id, reason)], []

    retried, refusals = shared.with_actions(settings, retry_tasks)
    for item in retried:
        _show_retried(item)
    for refusal in refusals:
        error_console.print(f"[red]contimg:[/] {message_line(refusal)}", soft_wrap=True)
    if refusals:
        raise typer.Exit(1)
    if not retried:
        console.print("No failed task outside quarantine. See: contimg quarantine list")


@app.command()
def cancel(task: TaskName, reason: Reason = "") -> None:
    """Cancel a task, with its stage tasks if it has any; its committed products stay."""
    settings = state.settings()

    async def stop(actions: Actions) -> str:
        history = await shared.find_task(actions.backend, settings, task)
        return await actions.cancel(history.queue_name, history.task.task_id, reason)

    console.print(shared.with_actions(settings, stop))


@app.command()
def fork(
    task: TaskName,
    step: Annotated[str, typer.Argument(help="The step at which the new task begins.")],
    reason: Reason = "",
) -> None:
    """Spawn a task that begins at a step of one that has ended, with the results before it.

    Products are made again only where settings, versions or inputs have changed, or the product was
    moved away.
    """
    settings = state.settings()

    async def fork_task(actions: Actions) -> SpawnedTask:
        history = await shared.find_task(actions.backend, settings, task)
        return await actions.fork(history.queue_name, history.task.task_id, step, reason)

    spawned = shared.with_actions(settings, fork_task)
    console.print(f"Task {spawned.task_id} begins at {cell(step)}.")


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Folder for all files.")] = Path("demo"),
    force: Annotated[
        bool, typer.Option("--force", help="Remove an earlier demo in that folder first.")
    ] = False,
) -> None:
    """Run the pipeline on synthetic data with two workers, and kill one during a stage.

    Exit code 1 if the image is wrong, or a committed stage ran again.
    """
    from absurd_contimg.operations.demo import run_demo

    try:
        ok = asyncio.run(run_demo(folder.absolute(), console, force=force))
    except asyncio.CancelledError:
        console.print("Stopped. contimg demo --force begins again.")
        raise typer.Exit(130) from None
    if not ok:
        raise typer.Exit(1)


@shared.quarantine_app.command("list")
def quarantine_list() -> None:
    """List the groups with unusable data, and the reasons."""
    from absurd_contimg.registry import GroupStatus, Registry
    from absurd_contimg.registry.database import exists

    url = state.settings().registry_url
    if not exists(url):
        raise MissingInputError("There is no registry yet.", "Check --output-dir and --state-dir.")
    table = Table("group", "reason", box=None)
    with closing(Registry(url)) as registry:
        for group in registry.groups(GroupStatus.QUARANTINED):
            table.add_row(cell(group.group_id), cell(group.reason or ""))
    console.print(table)


@shared.quarantine_app.command("release")
def quarantine_release(group: GroupName, reason: Reason = "") -> None:
    """Run the task of a quarantined group again, after its cause is removed."""
    from absurd_contimg.registry import Registry

    settings = state.settings()

    async def release_group(actions: Actions) -> SpawnedTask:
        history = await shared.find_task(actions.backend, settings, group)
        with closing(Registry(settings.registry_url)) as registry:
            return await actions.release(registry, group, history, reason)

    _show_retried(shared.with_actions(settings, release_group))


@shared.database_app.command("init")
def db_init() -> None:
    """Install or migrate Absurd's schema and create the queue."""
    from absurd_contimg.operations.services import database_url, initialise

    settings = state.settings()
    url = database_url(settings)
    console.out(asyncio.run(initialise(url, settings.queue_name)))
    console.out(f"Database {without_password(url)}")


@shared.database_app.command("stop")
def db_stop() -> None:
    """Stop the embedded server."""
    EmbeddedPostgres(state.settings().embedded_folder).stop()


@shared.database_app.command("url")
def db_url() -> None:
    """Print the database's URL, for psql and absurdctl; starts the embedded server.

    Without a password: libpq takes it from PGPASSWORD or a passfile.
    """
    from absurd_contimg.operations.services import database_url

    print(without_password(database_url(state.settings())))


async def _spawn(
    backend: Backend,
    settings: Settings,
    calibrator: str,
    now: bool,
    strategy: _Strategy,
    respawn: bool = False,
) -> list[Spawned]:
    from absurd_contimg.ingest.spawn import spawn_groups
    from absurd_contimg.operations.services import ActionRecords, GivenTables, operator_name
    from absurd_contimg.registry import Registry

    settings.pipeline.paths.state_dir.mkdir(parents=True, exist_ok=True)
    with closing(Registry(settings.registry_url)) as registry:
        tables = GivenTables(registry.database)
        records = ActionRecords(tables, operator_name(), "command line")
        spawned = await spawn_groups(
            backend,
            settings,
            registry,
            calibrator=calibrator,
            incomplete_now=now,
            respawn=respawn,
            strategy=strategy.value,
        )
        for item in spawned:
            if item.task is not None and item.task.created:
                await records.record("spawn", item.group.group_id, "", "done")
        return spawned


def _show_spawned(spawned: list[Spawned]) -> None:
    table = Table("group", "sub-bands", "task", "", box=None)
    for item in spawned:
        task_id, note = "", f"waits for {item.waits_for}"
        if item.task is not None:
            task_id, note = str(item.task.task_id), "spawned" if item.task.created else "existed"
        table.add_row(cell(item.group.group_id), str(len(item.group.files)), task_id, cell(note))
    console.print(table)


def _show_retried(task: SpawnedTask) -> None:
    console.print(f"Task {task.task_id} will run again, attempt {task.attempt}.")
