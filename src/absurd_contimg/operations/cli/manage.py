"""Commands that change observations, tasks, workers or the database."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from absurd_contimg.backends.postgres import EmbeddedPostgres
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.records import LIVE_STATES, History, SpawnedTask
from absurd_contimg.errors import SettingError
from absurd_contimg.history.summary import read_histories
from absurd_contimg.history.timeline import is_ended
from absurd_contimg.ingest.spawn import Spawned, parse_calibrator, spawn_groups
from absurd_contimg.operations.cli.app import (
    app,
    check_rule,
    console,
    database_app,
    find_task,
    quarantine_app,
    renamed_to,
    state,
    with_backend,
    write_report_to,
)
from absurd_contimg.operations.services import (
    database_url,
    initialise,
    quarantined,
    release,
    retry_failed,
    serve,
    to_be_retried,
)
from absurd_contimg.operations.terminal import history_tables, watch
from absurd_contimg.registry import Registry
from absurd_contimg.settings import Settings

# -- data and tasks -------------------------------------------------------------------------


@app.command()
def synth(
    folder: Annotated[Path, typer.Argument(help="Where to write the observations.")],
    preset: Annotated[str, typer.Option(help="tiny, demo or full.")] = "demo",
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", help="As n_antennas=48; repeatable.")
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(help="As missing:0:3 (kind, group, sub-band); repeatable."),
    ] = None,
) -> None:
    """Write synthetic UVH5 observations of a known sky."""
    from absurd_contimg.operations.cli.synthesize import make_observations  # noqa: PLC0415

    result = make_observations(folder, preset, option or [], fault or [])
    table = Table("group", "files", "calibrator", box=None)
    for group in result.groups:
        table.add_row(group.group_id, str(len(group.files)), "yes" if group.calibrator else "")
    console.print(table)
    console.print(f"Catalogue {result.catalog}\nTruth     {result.truth}", highlight=False)


@app.command()
def spawn(
    calibrator: Annotated[str, typer.Option(help="auto, none or a name.")] = "auto",
    now: Annotated[bool, typer.Option(help="Do not wait for missing sub-bands.")] = False,
    respawn: Annotated[
        bool,
        typer.Option(help="New tasks for groups whose task failed, for the files there are now."),
    ] = False,
    _renamed: Annotated[
        bool, typer.Option("--anew", hidden=True, callback=renamed_to("--respawn"))
    ] = False,
) -> None:
    """Spawn a task for each observation group in the input folder."""
    settings = state.settings()

    async def run(backend: Backend) -> list[Spawned]:
        return await _spawn(backend, settings, calibrator, now, respawn)

    _show_spawned(with_backend(settings, run))


@app.command()
def run(
    calibrator: Annotated[str, typer.Option(help="auto, none or a name.")] = "auto",
    now: Annotated[bool, typer.Option(help="Do not wait for missing sub-bands.")] = False,
    concurrency: Annotated[int, typer.Option(min=1, help="Groups at the same time.")] = 2,
    report_path: Annotated[
        Path | None, typer.Option("--report", help="Where to write the HTML report.")
    ] = None,
) -> None:
    """Spawn tasks, run them in this process until they end, and write a report."""
    settings = state.settings(concurrency=concurrency)

    async def work(backend: Backend) -> list[History]:
        spawned = await _spawn(backend, settings, calibrator, now)
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

    histories = with_backend(settings, work)
    for table in history_tables(histories):
        console.print(table)
    write_report_to(settings, histories, report_path)
    if any(history.task.state != "completed" for history in histories):
        raise typer.Exit(1)


@app.command()
def worker(
    worker_id: Annotated[
        str | None, typer.Option(help="Stable name; a restarted worker continues its runs.")
    ] = None,
    concurrency: Annotated[int | None, typer.Option(min=1)] = None,
    claim_timeout: Annotated[int | None, typer.Option(min=1, help="Lease, seconds.")] = None,
    until_idle: Annotated[bool, typer.Option(help="End as soon as the queue is empty.")] = False,
) -> None:
    """Run a worker on the queue until SIGTERM."""
    settings = state.settings(
        worker_id=worker_id, concurrency=concurrency, claim_timeout_seconds=claim_timeout
    )
    asyncio.run(serve(settings, until_idle))


@app.command()
def retry(
    task: Annotated[
        str | None, typer.Argument(help="A failed task: id, its end, or group.")
    ] = None,
    all_failed: Annotated[
        bool, typer.Option(help="All failed groups that are not in quarantine.")
    ] = False,
    rule: Annotated[
        str | None, typer.Option(help="With --all-failed: only failures by this rule.")
    ] = None,
) -> None:
    """Run a failed task again, from its last checkpoint, with full budgets."""
    settings = state.settings()
    if (task is None) != all_failed or (rule is not None and not all_failed):
        raise SettingError("retry takes a task, or --all-failed, which --rule may restrict.")
    if rule is not None:
        check_rule(rule)

    async def retry_tasks(backend: Backend) -> list[SpawnedTask]:
        if task is not None:
            failed = [await find_task(backend, settings, task)]
        else:
            failed = to_be_retried(await read_histories(backend, settings.queue_name), rule)
        return [await retry_failed(backend, history) for history in failed]

    retried = with_backend(settings, retry_tasks)
    for item in retried:
        text = f"Task {item.task_id} will run again, attempt {item.attempt}."
        console.print(text, highlight=False)
    if not retried:
        console.print("No failed task outside quarantine. See: contimg quarantine list")


@app.command()
def cancel(task: Annotated[str, typer.Argument(help="A task: id, its end, or group.")]) -> None:
    """Cancel a task; its committed products stay."""
    settings = state.settings()

    async def stop(backend: Backend) -> str:
        history = await find_task(backend, settings, task)
        task_id = history.task.task_id
        if is_ended(history):
            return f"Task {task_id} has already ended: it is {history.task.state}."
        await backend.cancel_task(settings.queue_name, task_id)
        return f"Task {task_id} is cancelled."

    console.print(with_backend(settings, stop), highlight=False)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Folder for all files.")] = Path("demo"),
) -> None:
    """Run the pipeline on synthetic data with two workers, and kill one during a stage."""
    from absurd_contimg.operations.demo import run_demo  # noqa: PLC0415

    if not asyncio.run(run_demo(folder.absolute(), console)):
        raise typer.Exit(1)


# -- quarantine -----------------------------------------------------------------------------


@quarantine_app.command("list")
def quarantine_list() -> None:
    """List the groups with unusable data, and the reasons."""
    table = Table("group", "reason", box=None)
    with closing(Registry(state.settings().registry_url)) as registry:
        for group in quarantined(registry):
            table.add_row(group.group_id, escape(group.reason or ""))
    console.print(table)


@quarantine_app.command("release")
def quarantine_release(group: Annotated[str, typer.Argument(help="The group's name.")]) -> None:
    """Run the task of a quarantined group again, after its cause is removed."""
    settings = state.settings()

    async def release_group(backend: Backend) -> str:
        history = await find_task(backend, settings, group)
        with closing(Registry(settings.registry_url)) as registry:
            spawned = await release(backend, registry, group, history)
        return f"Task {spawned.task_id} will run again, attempt {spawned.attempt}."

    console.print(with_backend(settings, release_group), highlight=False)


# -- database -------------------------------------------------------------------------------


@database_app.command("init")
def db_init() -> None:
    """Install or migrate Absurd's schema and create the queue."""
    settings = state.settings()
    url = database_url(settings)
    console.print(asyncio.run(initialise(url, settings.queue_name)), highlight=False)
    console.print(f"Database {url}", highlight=False)


@database_app.command("stop")
def db_stop() -> None:
    """Stop the embedded server."""
    EmbeddedPostgres(state.settings().embedded_folder).stop()


@database_app.command("url")
def db_url() -> None:
    """Print the database's URL, for psql and absurdctl; starts the embedded server."""
    console.print(database_url(state.settings()), highlight=False, soft_wrap=True)


async def _spawn(
    backend: Backend, settings: Settings, calibrator: str, now: bool, respawn: bool = False
) -> list[Spawned]:
    settings.pipeline.paths.state_dir.mkdir(parents=True, exist_ok=True)
    options = {"calibrator": parse_calibrator(calibrator)}
    with closing(Registry(settings.registry_url)) as registry:
        return await spawn_groups(
            backend, settings, registry, **options, incomplete_now=now, respawn=respawn
        )


def _show_spawned(spawned: list[Spawned]) -> None:
    table = Table("group", "sub-bands", "task", "", box=None)
    for item in spawned:
        task_id, note = "", f"waits for {item.waits_for}"
        if item.task is not None:
            task_id, note = str(item.task.task_id), "spawned" if item.task.created else "existed"
        table.add_row(item.group.group_id, str(len(item.group.files)), task_id, note)
    console.print(table)
