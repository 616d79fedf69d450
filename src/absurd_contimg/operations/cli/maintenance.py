"""``contimg maintenance`` and ``contimg archive``: what is old goes, and what it was is kept."""

# SQLAlchemy takes a second to import: it is imported where it is used.
# ruff: noqa: PLC0415

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.errors import BackendError
from absurd_contimg.errors import UserError
from absurd_contimg.operations.cli.app import (
    AsJson,
    app,
    print_json,
    state,
    with_backend,
    with_site,
)
from absurd_contimg.operations.console import cell, console, error_console, message_line
from absurd_contimg.settings import Settings
from absurd_contimg.terminal_tables import KeyedTable

if TYPE_CHECKING:
    from absurd_contimg.operations.maintenance import OldFile, OldProduct, SitePlan, SiteReport

maintenance_app = typer.Typer(
    no_args_is_help=True, help="Remove what is old, archive tasks, vacuum tables."
)
app.add_typer(maintenance_app, name="maintenance")

_RawFiles = Annotated[
    bool,
    typer.Option("--raw-files", help="Raw files too: they are the telescope's, so say so."),
]
_SHOWN_MAX = 40


@maintenance_app.command()
def plan(raw_files: _RawFiles = False, as_json: AsJson = False) -> None:
    """Show what contimg maintenance run would remove, and what is old and stays, and why.

    Changes nothing. The limits are the settings retention.*: contimg settings.
    """
    settings = state.settings()
    made = with_backend(settings, lambda b: _plan(settings, b, raw_files), create=False)
    if as_json:
        print_json(made)
        return
    _show_products(made.products.removed, "would go")
    _show_products(made.products.kept, "stays")
    count, size = len(made.products.removed), _megabytes(made.products.removed_bytes)
    console.print(f"{count} products with {size} would go, {len(made.products.kept)} old ones stay")
    if made.unfinished:
        console.print(f"{made.unfinished} interrupted removals would be finished")
    if raw_files:
        _show_files("raw files", made.raw_files)
    _show_files("logs", made.logs)
    for queue, tasks in made.tasks.items():
        if tasks:
            text = f"{queue}: {tasks} ended tasks would be archived and removed"
            console.print(message_line(text))
    for queue, text in made.kept_tasks.items():
        console.print(message_line(f"{queue}: {text}"))


@maintenance_app.command()
def run(
    raw_files: _RawFiles = False,
    after_idle: Annotated[
        bool,
        typer.Option(
            "--after-idle", help="Also where nothing happened for 30 days: the clock is right."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Do what contimg maintenance plan shows: products, logs, tasks and events, left-over scratch.

    Safe beside running workers, and when it is killed, repeated or run twice at once. What is
    removed is noted: contimg registry check and contimg reprocess plan say so. What stays for lack
    of permission is named, all else is done, and the exit code is 1.
    """
    settings = state.settings()
    done = with_site(settings, lambda b: _run(settings, b, raw_files, after_idle), create=False)
    if as_json:
        print_json(done)
        raise typer.Exit(1 if done.refused else 0)
    _show_products(done.products.removed, "removed")
    _show_products(done.products.kept, "stays")
    size = _megabytes(sum(each.size_bytes for each in done.products.removed))
    console.print(
        f"{len(done.products.removed)} products with {size} removed, "
        f"{done.products.finished} interrupted removals finished, "
        f"{done.raw_files} raw files and {done.logs} logs removed, "
        f"{len(done.scratch)} left-over folders of scratch removed"
    )
    for queue in done.queues:
        if queue.archived or queue.removed_tasks or queue.removed_events:
            text = (
                f"{queue.queue}: {queue.archived} tasks archived, {queue.removed_tasks} tasks and "
                f"{queue.removed_events} events removed"
            )
            console.print(message_line(text))
        if queue.kept:
            text = f"{queue.queue}: {queue.kept} old tasks stay: {queue.kept_for}"
            console.print(message_line(text))
    for text in done.refused:
        error_console.print(message_line(text))
    raise typer.Exit(1 if done.refused else 0)


@maintenance_app.command("vacuum")
def vacuum_command() -> None:
    """Vacuum and analyse the tables of Absurd and of the registry; no worker waits for it."""
    from absurd_contimg.operations.maintenance import vacuum
    from absurd_contimg.operations.services import database_url

    settings = state.settings()
    console.print(asyncio.run(vacuum(database_url(settings, create=False), settings.registry_url)))


@app.command("archive")
def archive_command(
    path: Annotated[Path, typer.Argument(help="The file to write: JSON lines, compressed.")],
    queue: Annotated[
        list[str] | None, typer.Option("--queue", help="Only this queue; repeatable.")
    ] = None,
) -> None:
    """Write the histories of all tasks to a file. contimg history TASK --from FILE reads it."""
    from absurd_contimg.operations.maintenance import write_dump

    settings = state.settings()

    async def write(backend: Backend) -> int:
        return await write_dump(backend, queue or await backend.list_queues(), path)

    count = with_backend(settings, write, create=False)
    console.print(message_line(f"{count} histories in {path}"))


async def _plan(settings: Settings, backend: Backend, raw_files: bool) -> SitePlan:
    from absurd_contimg.operations.maintenance import plan_site
    from absurd_contimg.operations.services import open_registry

    with closing(open_registry(settings)) as registry:
        return await plan_site(settings, backend, registry, raw_files=raw_files)


async def _run(
    settings: Settings, backend: Backend, raw_files: bool, after_idle: bool
) -> SiteReport:
    from absurd_contimg.operations.maintenance import require_recent_work, run_site
    from absurd_contimg.operations.services import (
        ActionRecords,
        GivenTables,
        open_registry,
        operator_name,
    )
    from absurd_contimg.registry.operator_actions import MAINTENANCE

    with closing(open_registry(settings)) as registry:
        tables = GivenTables(registry.database)
        records = ActionRecords(tables, operator_name(), "command line")
        try:
            if not after_idle:
                require_recent_work(registry, await backend.current_time())
            done = await run_site(settings, backend, registry, raw_files=raw_files)
        except (UserError, BackendError, OSError) as error:
            await records.record("maintain", MAINTENANCE, "", f"has failed: {error}")
            raise
        refused = f"has skipped {len(done.refused)}: {' '.join(done.refused)}"
        await records.record("maintain", MAINTENANCE, "", refused if done.refused else "done")
        return done


def _show_products(products: Sequence[OldProduct], what: str) -> None:
    if not products:
        return
    table = KeyedTable("product", "size", "age", "rule", what, pad_edge=False)
    for each in products[:_SHOWN_MAX]:
        age = f"{each.age_days:.0f} d"
        name = f"{each.group_id} {each.stage}"
        size = _megabytes(each.size_bytes)
        table.add_row(cell(name), size, age, cell(each.rule), cell(each.kept or ""))
    console.print(table)
    if products[_SHOWN_MAX:]:
        console.print(f"and {len(products) - _SHOWN_MAX} more: --json shows all")


def _show_files(what: str, files: Iterable[OldFile]) -> None:
    gone = [file for file in files if file.kept is None]
    kept = [file for file in files if file.kept is not None]
    size = _megabytes(sum(file.size_bytes for file in gone))
    console.print(f"{len(gone)} {what} with {size} would go, {len(kept)} old ones stay")
    for reason in dict.fromkeys(file.kept for file in kept):
        count = sum(file.kept == reason for file in kept)
        console.print(message_line(f"  {count} stay: {reason}"))


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.1f} MB"
