"""Commands that change tasks, workers or the database."""

# SQLAlchemy, NumPy and the stages take a second to import: each command imports what it needs.
# ruff: noqa: PLC0415

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from absurd_contimg.core.records import SpawnedTask
from absurd_contimg.errors import SettingError
from absurd_contimg.history.timeline import task_label
from absurd_contimg.operations.cli import app as shared
from absurd_contimg.operations.cli.app import AsJson, ChangedTask, GroupName, Reason, app, state
from absurd_contimg.operations.cli.task_search import find_task, find_tasks
from absurd_contimg.operations.console import cell, console, counted, error_console, message_line
from absurd_contimg.secrets import NO_VALID_URL, without_password
from absurd_contimg.similar_names import did_you_mean
from absurd_contimg.terminal_tables import KeyedTable

if TYPE_CHECKING:
    from absurd_contimg.operations.services import Actions


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
    until_idle: Annotated[
        bool,
        typer.Option(
            "--until-idle",
            help="End as soon as no task can be claimed; those that sleep or wait are left.",
        ),
    ] = False,
) -> None:
    """Run a worker on its queues until SIGTERM or Ctrl-C.

    Exit code 1 with --until-idle if tasks are left that sleep or wait.
    """
    from absurd_contimg.operations.services import serve

    settings = state.settings(
        worker_id=worker_id, concurrency=concurrency, claim_timeout_seconds=claim_timeout
    )
    unfinished = asyncio.run(serve(settings, until_idle, queue))
    if until_idle and unfinished:
        left = counted(unfinished, "task")
        console.out(f"{left} left, and none can be claimed now: contimg status")
        raise typer.Exit(1)


@app.command()
def retry(
    task: Annotated[
        str | None,
        typer.Argument(
            help="A failed task: its id, at least 6 characters of its end, or its group, of which "
            "also the measurement and the publication are retried where they have failed."
        ),
    ] = None,
    all_failed: Annotated[
        bool,
        typer.Option("--all-failed", help="All failed groups that are not in quarantine."),
    ] = False,
    rule: Annotated[
        str | None,
        typer.Option(help="With --all-failed: only failures by this rule (contimg failures)."),
    ] = None,
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Run a failed task again, from its last checkpoint, with its full number of attempts.

    Exit code 1 if a task cannot be retried; the others are.
    """
    from absurd_contimg.operations.cli.failure_table import RULES

    settings = state.settings()
    if (task is None) != all_failed or (rule is not None and not all_failed):
        raise SettingError("retry takes a task, or --all-failed, which --rule may restrict.")
    names = [known.id for known in RULES]
    if rule is not None and rule not in names:
        hint = did_you_mean(rule, names, "contimg failures lists them.")
        raise SettingError(f"There is no rule {rule!r}.", hint)

    labels: dict[UUID, str] = {}

    async def retry_tasks(actions: Actions) -> tuple[list[SpawnedTask], list[str]]:
        if task is None:
            return await actions.retry_all_failed(settings.queue_name, rule, reason)
        known = await find_tasks(actions.backend, settings, task, to_change=True)
        labels.update((each.task.task_id, task_label(each.task)) for each in known)
        failed = [each for each in known if each.task.state == "failed"]
        return [
            await actions.retry(each.queue_name, each.task.task_id, reason)
            for each in failed or known[:1]  # one that has not failed is refused by name
        ], []

    retried, refusals = shared.with_actions(settings, retry_tasks)
    if as_json:
        shared.print_json({"retried": retried, "refused": refusals})
        raise typer.Exit(1 if refusals else 0)
    for item in retried:
        _show_retried(item, labels.get(item.task_id, ""))
    for refusal in refusals:
        error_console.print(f"[red]contimg:[/] {message_line(refusal)}", soft_wrap=True)
    if refusals:
        raise typer.Exit(1)
    if not retried:
        console.print("No failed task outside quarantine. See: contimg quarantine list")


@app.command()
def cancel(task: ChangedTask, reason: Reason = "") -> None:
    """Cancel a task, with its stage tasks if it has any; its committed products stay."""
    settings = state.settings()

    async def stop(actions: Actions) -> str:
        history = await find_task(actions.backend, settings, task, to_change=True)
        return await actions.cancel(history.queue_name, history.task.task_id, reason)

    console.print(message_line(shared.with_actions(settings, stop)), soft_wrap=True)


@app.command()
def fork(
    task: ChangedTask,
    step: Annotated[str, typer.Argument(help="The step at which the new task begins.")],
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Spawn a task that begins at a step of one that has ended, with the results before it.

    Products are made again only where settings, versions or inputs have changed, or the product was
    moved away.
    """
    settings = state.settings()

    async def fork_task(actions: Actions) -> tuple[SpawnedTask, str]:
        history = await find_task(actions.backend, settings, task, to_change=True)
        forked = await actions.fork(history.queue_name, history.task.task_id, step, reason)
        return forked, task_label(history.task)

    spawned, label = shared.with_actions(settings, fork_task)
    if as_json:
        shared.print_json(spawned)
    else:
        console.print(
            f"Task {spawned.task_id} ({cell(label)}) begins at {cell(step)}.", soft_wrap=True
        )


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
def quarantine_list(as_json: AsJson = False) -> None:
    """List the groups with unusable data, and the reasons."""
    from absurd_contimg.operations.services import open_registry
    from absurd_contimg.registry import GroupStatus

    settings = state.settings()
    shared.require_registry(settings)
    with closing(open_registry(settings)) as registry:
        groups = registry.groups(GroupStatus.QUARANTINED)
    if as_json:
        shared.print_json([{"group": each.group_id, "reason": each.reason} for each in groups])
        return
    table = KeyedTable("group", "reason", empty="No group is in quarantine.")
    for group in groups:
        table.add_row(cell(group.group_id), cell(group.reason or ""))
    console.print(table)


@shared.quarantine_app.command("release")
def quarantine_release(group: GroupName, reason: Reason = "") -> None:
    """Run the task of a quarantined group again, after its cause is removed."""
    from absurd_contimg.operations.services import open_registry

    settings = state.settings()

    async def release_group(actions: Actions) -> SpawnedTask:
        history = await find_task(actions.backend, settings, group, to_change=True)
        with closing(open_registry(settings)) as registry:
            return await actions.release(registry, group, history, reason)

    _show_retried(shared.with_actions(settings, release_group), group)


@shared.database_app.command("init")
def db_init(
    empty: Annotated[
        bool,
        typer.Option("--empty", help="Also where the private database of this site is gone."),
    ] = False,
    this_site: Annotated[
        bool,
        typer.Option(
            "--this-site",
            help="The queue belongs to this output folder and registry from now on; stop its "
            "workers first.",
        ),
    ] = False,
    without_stages: Annotated[
        bool,
        typer.Option(
            "--without-stages",
            help="Make no queues for the stages of the pipeline: a program with handlers of its "
            "own needs only its queue.",
        ),
    ] = False,
) -> None:
    """Install or migrate Absurd's schema and create the queue and those of its stages."""
    from absurd_contimg.execution.runner import check_folder_names
    from absurd_contimg.operations.services import (
        database_url,
        initialise,
        require_own_state,
        take_queue,
    )

    settings = state.settings()
    check_folder_names(settings.pipeline.paths)
    require_own_state(settings)
    url = database_url(settings, may_be_new=empty)
    making = initialise(url, settings.queue_name, with_stages=not without_stages)
    console.out(asyncio.run(making))
    if this_site:
        shared.with_backend(settings, lambda backend: take_queue(backend, settings))
        console.out(f"Queue {settings.queue_name!r} belongs to this site.")
    console.out(f"Database {without_password(url)}")


@shared.database_app.command("stop")
def db_stop() -> None:
    """Stop the private Postgres in the state folder; never a server of your own."""
    from absurd_contimg.backends.postgres import EmbeddedPostgres

    settings = state.settings()
    folder = settings.embedded_folder
    server = EmbeddedPostgres(folder)
    if server.exists() and server.is_running():
        server.stop()
        console.out(f"The private Postgres in {folder} is stopped.")
    elif settings.database_url is not None:
        console.out(
            "Nothing was stopped: the database is a server of your own (ABSURD_DATABASE_URL or "
            "--database-url), which contimg neither starts nor stops."
        )
    elif server.exists():
        server.require_not_elsewhere()
        console.out(f"Nothing was stopped: the private Postgres in {folder} does not run.")
    else:
        console.out(
            f"Nothing was stopped: there is no private Postgres in {folder}. Check --folder, "
            "--output-dir and --state-dir."
        )


@shared.database_app.command("url")
def db_url() -> None:
    """Print the database's URL, for psql and absurdctl; starts the embedded server.

    Without a password: libpq takes it from PGPASSWORD or a passfile.
    """
    from absurd_contimg.operations.services import database_url

    url = without_password(database_url(state.settings()))
    if url == NO_VALID_URL:
        raise SettingError(
            "ABSURD_DATABASE_URL is no valid URL (its text may hold a password and is not shown).",
            "Write postgresql://USER@HOST:PORT/DATABASE, other characters as %XX.",
        )
    print(url)


def _show_retried(task: SpawnedTask, label: str = "") -> None:
    shown = f" ({cell(label)})" if label else ""
    text = f"Task {task.task_id}{shown} will run again, attempt {task.attempt}."
    console.print(text, soft_wrap=True)
