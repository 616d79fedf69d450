"""The daemon of a telescope's night, and what it has made of the incoming files."""

# SQLAlchemy takes a second to import: imported where it is used.
# ruff: noqa: PLC0415

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from absurd_contimg.errors import MissingInputError
from absurd_contimg.operations.cli.app import (
    AsJson,
    Reason,
    app,
    print_json,
    require_registry,
    state,
)
from absurd_contimg.operations.console import cell, console, counted, error_console, message_line
from absurd_contimg.settings import Settings
from absurd_contimg.similar_names import did_you_mean
from absurd_contimg.terminal_tables import KeyedTable

if TYPE_CHECKING:
    from absurd_contimg.ingest.poll_summary import PollSummary
    from absurd_contimg.registry.ingestion_records import IngestGroup

_log = logging.getLogger(__name__)

_NAMED_MAX = 3
"""Groups that the line of one poll names."""
_SIMILAR_AMONG = 2000
"""Of the newest groups, where one is misspelt."""

_Group = Annotated[str | None, typer.Argument(help="One group, with its files.")]
_Limit = Annotated[int, typer.Option(min=1, help="How many, the newest ones.")]


@app.command()
def daemon(
    calibrator: Annotated[
        str, typer.Option(help="auto, none, or the name of a calibrator in the catalogue.")
    ] = "auto",
    once: Annotated[bool, typer.Option("--once", help="Poll once and end.")] = False,
) -> None:
    """Watch the incoming folder, and spawn tasks for groups and windows, until SIGTERM or Ctrl-C.

    Workers do the work: contimg worker, or contimg run --follow for both in one process. With
    --once it prints what was done and which groups wait, and the exit code is 1 if something was
    away; a wait that is over ends at the second such poll. Beside a daemon that stays the alerts of
    the site are evaluated (alerts.by_daemon): contimg alerts.
    """
    from absurd_contimg.operations.services import poll_once

    settings = state.settings()
    if not once:
        asyncio.run(_serve(settings, calibrator))
        return
    report, summary = asyncio.run(poll_once(settings, calibrator))
    console.print(message_line(_summary_line(summary)), soft_wrap=True)
    for outage in report.outages:
        error_console.print(f"[red]contimg:[/] {message_line(outage.problem)}", soft_wrap=True)
    if report.outages:
        raise typer.Exit(1)


def _summary_line(summary: PollSummary) -> str:
    ended = ", ".join(f"{name} is {state}" for name, state in summary.ended[:_NAMED_MAX])
    parts = [
        counted(summary.new_files, "new file"),
        _with_more(ended, len(summary.ended)) or "no group closed",
        f"{counted(summary.group_tasks, 'group')} and {counted(summary.mosaic_tasks, 'mosaic')} "
        "spawned",
    ]
    n_waiting = len(summary.waiting)
    waiting = "; ".join(f"{name} {note}" for name, note in summary.waiting[:_NAMED_MAX])
    waits = f"{counted(n_waiting, 'group')} collecting"
    if waiting:
        waits += f": {_with_more(waiting, n_waiting)}"
    return f"Polled: {', '.join(parts)}. {waits}."


def _with_more(shown: str, count: int) -> str:
    return f"{shown} and {count - _NAMED_MAX} more" if count > _NAMED_MAX else shown


async def _serve(settings: Settings, calibrator: str) -> None:
    from absurd_contimg.operations.night_report import daemon_reports
    from absurd_contimg.operations.services import serve_daemon

    async with alerts_beside(settings):
        await serve_daemon(settings, calibrator, daemon_reports)


@asynccontextmanager
async def alerts_beside(settings: Settings) -> AsyncIterator[None]:
    """Evaluate the alerts beside a daemon: a slow look or receiver delays no poll.

    Raises `SettingError` for wrong rules and receivers before anything starts.
    """
    from absurd_contimg.operations.alerts import make_receivers, make_rules, watch_site

    make_rules(settings.pipeline.alerts)
    make_receivers(settings)
    stop = asyncio.Event()
    watching = None
    if settings.pipeline.alerts.by_daemon:
        watching = asyncio.create_task(watch_site(settings, stop))
        watching.add_done_callback(_report_end)
    try:
        yield
    finally:
        stop.set()
        if watching is not None:
            await asyncio.wait({watching}, timeout=settings.pipeline.alerts.send_seconds)


def _report_end(watching: asyncio.Task[None]) -> None:
    """An error of ours in the alerts is in the log, and ends no daemon."""
    if not watching.cancelled() and (error := watching.exception()) is not None:
        _log.error("alerts are no longer evaluated", exc_info=error)


@app.command()
def groups(group: _Group = None, limit: _Limit = 20, as_json: AsJson = False) -> None:
    """Show the groups: sub-bands, state, what they wait for, late and refused files."""
    from absurd_contimg.ingest.arrivals import next_seen
    from absurd_contimg.ingest.group_notes import group_note, subbands_text
    from absurd_contimg.operations.services import closing_rules, open_tables, read_site_time
    from absurd_contimg.registry.ingestion import IngestionTables
    from absurd_contimg.registry.ingestion_records import is_unfinished
    from absurd_contimg.registry.operator_actions import cancelled_by

    settings = state.settings()
    require_registry(settings)
    with open_tables(settings) as database:
        tables = IngestionTables(database)
        known = tables.groups(group_id=group)
        if group is not None and not known:
            raise MissingInputError(
                f"There is no group {group!r}.",
                did_you_mean(
                    group, tables.newest_groups(_SIMILAR_AMONG), "contimg groups lists them."
                ),
            )
        shown = known[-limit:]
        rules = closing_rules(settings)
        now = asyncio.run(read_site_time(settings))
        notes = {
            item.group_id: group_note(item, next_seen(item, tables), rules, now) for item in shown
        }
        statuses = {item.group_id: str(item.status) for item in shown}
        for item in filter(is_unfinished, shown):
            if text := cancelled_by(database, item.task_id or ""):
                statuses[item.group_id] = "cancelled"
                command = f"contimg spawn --group {item.group_id} --respawn"
                notes[item.group_id] += f"; its task was {text}. To go on: {command}"
    if as_json:
        print_json([_group_json(item, notes[item.group_id]) for item in shown])
        return
    expected = rules.expected_subbands
    table = KeyedTable(
        *("group", "state", "sub-bands", "status", "why"),
        empty="There is no group yet: contimg daemon or contimg spawn forms them from files.",
    )
    for item in shown:
        table.add_row(
            cell(item.group_id), cell(item.ingest_state), subbands_text(item, expected),
            cell(statuses[item.group_id]), cell(notes[item.group_id]),
        )  # fmt: skip
    console.print(table)
    if group is not None:
        files = KeyedTable("file", "state", "bytes", "why")
        for file in shown[0].files:
            files.add_row(cell(file.path.name), file.state, str(file.size), cell(file.reason))
        console.print(files)
    elif len(known) > limit:
        console.print(f"{len(known) - limit} earlier groups: --limit {len(known)}")


@app.command()
def windows(
    window: Annotated[str | None, typer.Argument(help="One window, with its groups.")] = None,
    limit: _Limit = 20,
    as_json: AsJson = False,
) -> None:
    """Show the windows of which mosaics are made: members, state, what they wait for."""
    from absurd_contimg.ingest.group_notes import window_note
    from absurd_contimg.ingest.windows import used_members
    from absurd_contimg.operations.services import open_registry
    from absurd_contimg.registry.window_members import with_members_now
    from absurd_contimg.registry.windows import list_windows

    settings = state.settings()
    require_registry(settings)
    with closing(open_registry(settings)) as registry:
        every = list_windows(registry.database)
        known = [item for item in every if window in (None, item.window_id)]
        shown = [with_members_now(registry.database, item) for item in known[-limit:]]
    if window is not None and not known:
        names = [item.window_id for item in every]
        raise MissingInputError(
            f"There is no window {window!r}.",
            did_you_mean(window, names, "contimg windows lists them."),
        )
    if as_json:
        print_json(shown)
        return
    table = KeyedTable(
        *("window", "state", "used", "dec", "why"),
        empty="There is no window yet: the daemon forms them from five or more closed groups "
        "without a gap (docs/streaming.md).",
    )
    for item in shown:
        table.add_row(
            cell(item.window_id), item.state, f"{len(used_members(item))}/{len(item.members)}",
            f"{item.declination_deg:.2f}", cell(window_note(item)),
        )  # fmt: skip
    console.print(table)
    if window is not None:
        members = KeyedTable("group", "used", "why")
        for member in shown[0].members:
            used = "yes" if member.used else "no"
            members.add_row(cell(member.group_id), used, cell(member.reason or ""))
        console.print(members)
    elif len(known) > limit:
        console.print(f"{len(known) - limit} earlier windows: --limit {len(known)}")


@app.command()
def reopen(
    group: Annotated[str, typer.Argument(help="A group, as contimg groups shows it.")],
    reason: Reason = "",
) -> None:
    """Process a closed group again with the files there are now, late and changed ones too.

    The daemon collects its files and spawns a new task; earlier products stay.
    """
    from absurd_contimg.operations.services import (
        ActionRecords,
        GivenTables,
        open_tables,
        operator_name,
        read_site_time,
        reopen_group,
    )

    settings = state.settings()
    require_registry(settings)
    with open_tables(settings) as database:
        records = ActionRecords(GivenTables(database), operator_name(), "command line")
        now = asyncio.run(read_site_time(settings))
        version = asyncio.run(reopen_group(records, group, now, reason))
    console.print(f"Group {cell(group)} is collected again: version {version} of its files.")


def _group_json(group: IngestGroup, note: str) -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(group), "why": note}
