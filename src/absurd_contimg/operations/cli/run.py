"""``contimg spawn`` and ``run``: from files in the input folder to tasks, and their work here."""

# SQLAlchemy, NumPy and the stages take a second to import: each command imports what it needs.
# ruff: noqa: PLC0415

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.records import LIVE_STATES, TERMINAL_STATES, History
from absurd_contimg.errors import SettingError
from absurd_contimg.history.wait_explanation import (
    WaitContext,
    awaited_calibration,
    explain_wait,
)
from absurd_contimg.operations.cli import app as shared
from absurd_contimg.operations.cli.app import AsJson, app, state
from absurd_contimg.operations.console import cell, console, counted
from absurd_contimg.owned_folders import make_private
from absurd_contimg.settings import Settings
from absurd_contimg.terminal_tables import KeyedTable

if TYPE_CHECKING:
    from absurd_contimg.ingest.spawn import Spawned

_Calibrator = Annotated[
    str, typer.Option(help="auto, none, or the name of a calibrator in the catalogue.")
]
_PATIENCE_SECONDS = 60.0
"""`run` waits so long for the end of the wait for a calibration, after which the group goes on."""
_Now = Annotated[bool, typer.Option("--now", help="Do not wait for missing sub-bands.")]


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
    groups: Annotated[
        list[str] | None,
        typer.Option("--group", help="Only this group; repeatable. Default: all."),
    ] = None,
    calibrator: _Calibrator = "auto",
    now: _Now = False,
    respawn: Annotated[
        bool,
        typer.Option(
            "--respawn",
            help="New tasks where one failed or was cancelled, for the files there are now.",
        ),
    ] = False,
    strategy: _AsStrategy = _Strategy.GROUP,
    as_json: AsJson = False,
    anew: Annotated[bool, typer.Option("--anew", hidden=True)] = False,
) -> None:
    """Spawn a task for each observation group in the input folder.

    Groups that wait for files get none yet: it says until when.
    """
    from absurd_contimg.operations.services import check_spawn

    if anew:
        context.fail("No such option: --anew (Did you mean --respawn?)")
    settings = state.settings()
    check_spawn(settings, calibrator)
    spawned = shared.with_backend(
        settings,
        lambda backend: _spawn(backend, settings, calibrator, now, strategy, respawn, groups or ()),
    )
    if as_json:
        shared.print_json(list(map(_json_of, spawned)))
        return
    _show_spawned(spawned)
    if respawn:
        _show_damaged(
            settings,
            [
                item.group.group_id
                for item in spawned
                if item.task is not None and item.state is None
            ],
        )


async def _follow(settings: Settings, calibrator: str) -> None:
    from absurd_contimg.operations.cli.daemon import alerts_beside
    from absurd_contimg.operations.night_report import daemon_reports
    from absurd_contimg.operations.services import follow

    async with alerts_beside(settings):
        await follow(settings, calibrator, daemon_reports)


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
        bool,
        typer.Option("--follow", help="Daemon and worker in one process, until SIGTERM or Ctrl-C."),
    ] = False,
) -> None:
    """Spawn tasks, run them in this process until they end, and write a report.

    Exit code 1 if a task has not completed, or a group waits for files. It ends too when all that
    is left waits for a calibration that no task under way can bring.
    """
    from absurd_contimg.operations.services import check_spawn, check_worker
    from absurd_contimg.operations.terminal import history_table

    settings = state.settings(concurrency=concurrency)
    if follow:
        if now or report_path is not None:
            raise SettingError("--follow goes with neither --now nor --report.")
        asyncio.run(_follow(settings, calibrator))
        return
    check_spawn(settings, calibrator)
    check_worker(settings)

    async def work(backend: Backend) -> tuple[list[Spawned], list[History], WaitContext]:
        spawned = await _spawn(backend, settings, calibrator, now, strategy)
        _show_spawned(spawned)
        ids = [item.task.task_id for item in spawned if item.task is not None]
        open_tasks = await backend.list_tasks(settings.queue_name, states=LIVE_STATES)
        tasks = [*ids, *(task.task_id for task in open_tasks if task.task_id not in ids)]
        histories = await _run_tasks(backend, settings, tasks) if tasks else []
        context, _ = await shared.read_waits(settings, backend)
        return spawned, histories, context

    spawned, histories, context = shared.with_backend(settings, work)
    if histories:
        console.print(*(history_table(each, explain_wait(each, context)) for each in histories))
    waiting = [
        (item.group.group_id, item.present, item.expected, item.waits_for)
        for item in spawned
        if item.waits_for
    ]
    if histories or waiting or report_path is not None:  # else the earlier report stays
        shared.write_report_to(settings, histories, report_path, waiting)
    if waiting:
        names = ", ".join(name for name, *_ in waiting[:5])
        console.print(
            f"[yellow]{counted(len(waiting), 'group')} not processed, waiting for files:[/] "
            f"{cell(names)}. "
            "Run it again then, or with --now.",
        )
    uncalibrated = [name for each in histories if (name := awaited_calibration(each)) is not None]
    if uncalibrated:
        console.print(
            f"[yellow]{counted(len(uncalibrated), 'group')} not finished:[/] "
            f"{cell(', '.join(uncalibrated[:5]))}. No task here can bring their calibration; "
            "contimg history GROUP says which group has failed, and what to do. After that: "
            "contimg run.",
        )
    has_failed = any(item.ended is not None and not item.ended.is_finished for item in spawned)
    if waiting or has_failed or any(each.task.state != "completed" for each in histories):
        raise typer.Exit(1)


async def _run_tasks(backend: Backend, settings: Settings, tasks: list[UUID]) -> list[History]:
    """Work here until the tasks have ended; their histories."""
    from absurd_contimg.operations.services import serve
    from absurd_contimg.operations.terminal import watch

    serving = asyncio.create_task(serve(settings))
    watching = asyncio.create_task(
        watch(backend, settings.queue_name, tasks, console, is_over=waits_in_vain)
    )
    await asyncio.wait({serving, watching}, return_when=asyncio.FIRST_COMPLETED)
    if not watching.done():  # the worker was stopped, or failed
        watching.cancel()
        await serving
        console.print("Stopped. The running tasks are released; contimg run continues them.")
        raise typer.Exit(130)
    serving.cancel()
    await asyncio.wait({serving})
    return watching.result()


def waits_in_vain(histories: Sequence[History], now: datetime) -> bool:
    """Whether all that has not ended waits for a calibration, and not for a moment only."""
    ends = now + timedelta(seconds=_PATIENCE_SECONDS)
    return all(
        history.task.state == "sleeping"
        and awaited_calibration(history) is not None
        and all(wait.timeout_at is None or wait.timeout_at > ends for wait in history.waits)
        for history in histories
        if history.task.state not in TERMINAL_STATES
    )


async def _spawn(
    backend: Backend,
    settings: Settings,
    calibrator: str,
    now: bool,
    strategy: _Strategy,
    respawn: bool = False,
    only: Sequence[str] = (),
) -> list[Spawned]:
    from absurd_contimg.ingest.spawn import spawn_groups
    from absurd_contimg.operations.services import (
        ActionRecords,
        GivenTables,
        open_registry,
        operator_name,
        require_own_site,
    )

    await require_own_site(backend, settings, [settings.queue_name])
    make_private(settings.pipeline.paths.state_dir)
    with closing(open_registry(settings)) as registry:
        tables = GivenTables(registry.database)
        records = ActionRecords(
            tables, operator_name(), "command line", unrecorded=state.unrecorded
        )
        spawned = await spawn_groups(
            backend,
            settings,
            registry,
            calibrator=calibrator,
            incomplete_now=now,
            respawn=respawn,
            strategy=strategy.value,
            only=only,
        )
        tasks = [(item.group.group_id, item.task) for item in spawned if item.task is not None]
        created = [group_id for group_id, task in tasks if task.created]
        await records.record_each("spawn", created, "", "done")
        return spawned


def note_of(item: Spawned) -> str:
    """What became of a group, or what to do."""
    name = item.group.group_id
    renew = f"contimg spawn --group {name} --respawn"
    if item.ended is not None:
        remedy = f"{renew} makes a new one"
        if item.ended.is_finished:
            remedy = "to process it again: contimg reprocess plan"
        return f"{item.ended.text}; its task is no longer in the queue; {remedy}"
    if item.task is None:
        return f"waits for {item.waits_for}"
    if item.task.created:
        return "spawned"
    if item.state in ("failed", "cancelled"):
        return f"existed, {item.state}: contimg history {name}; {renew} makes a new one"
    if item.state == "completed":
        return "existed, completed; to process it again: contimg reprocess plan"
    return f"existed, {item.state or 'unknown'}"


def _show_spawned(spawned: list[Spawned]) -> None:
    table = KeyedTable("group", "sub-bands", "task", "", keys=["group", "task"])
    for item in spawned:
        task_id = "" if item.task is None else str(item.task.task_id)
        present = f"{item.present} of {item.expected}"
        table.add_row(cell(item.group.group_id), present, task_id, cell(note_of(item)))
    console.print(table)


def _show_damaged(settings: Settings, group_ids: Sequence[str]) -> None:
    """Say what lies damaged where the new tasks of the groups would put their products."""
    from absurd_contimg.operations.cli.plan_output import show_damaged
    from absurd_contimg.operations.services import open_registry
    from absurd_contimg.products.store import damage_of
    from absurd_contimg.registry.models import Product

    with closing(open_registry(settings)) as registry:
        rows = [row for name in group_ids for row in registry.rows(Product, name)]
    damages = (damage_of(Path(row["folder"])) for row in rows)
    show_damaged([damage for damage in damages if damage is not None])


def _json_of(item: Spawned) -> dict[str, object]:
    return {
        "group": item.group.group_id,
        "present": item.present,
        "expected": item.expected,
        "task_id": None if item.task is None else item.task.task_id,
        "created": item.task is not None and item.task.created,
        "state": item.state,
        "waits_for": item.waits_for or None,
        "ended": None if item.ended is None else item.ended.text,
    }
