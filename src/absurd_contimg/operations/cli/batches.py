"""``contimg batch`` and ``contimg reprocess``: many tasks beside the live ones."""

# SQLAlchemy and the stages take a second to import: they are imported where they are used.
# ruff: noqa: PLC0415

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from absurd_contimg.config.refused_values import refusal_sentences
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.records import History
from absurd_contimg.errors import MissingInputError, SettingError
from absurd_contimg.operations.cli.app import (
    AsJson,
    Reason,
    app,
    print_json,
    require_registry,
    state,
    with_actions,
    with_backend,
)
from absurd_contimg.operations.cli.plan_output import plan_json, show_plan
from absurd_contimg.operations.cli.times import parse_time
from absurd_contimg.operations.console import console, counted, error_console, message_line
from absurd_contimg.settings import Settings
from absurd_contimg.similar_names import did_you_mean

if TYPE_CHECKING:
    from absurd_contimg.ingest.reprocessing import ReprocessingPlan
    from absurd_contimg.ingest.selection import Selection
    from absurd_contimg.operations.services import Actions, BatchActions, BatchSummary
    from absurd_contimg.registry import Registry
    from absurd_contimg.registry.batches import Batch, Batches, BatchState, ItemState

batch_app = typer.Typer(
    no_args_is_help=True,
    help="Make, pause, resume and cancel batches: many tasks, a few at a time.",
)
app.add_typer(batch_app, name="batch")
reprocess_app = typer.Typer(
    no_args_is_help=True, help="Plan and start the processing of groups again."
)
app.add_typer(reprocess_app, name="reprocess")

_SHOWN_MAX = 20


class BatchKind(StrEnum):
    """What the items of a batch are."""

    PIPELINE = "pipeline"
    """Groups."""
    MOSAIC = "mosaic"
    """Windows."""


_BatchId = Annotated[str, typer.Argument(help="The batch, as contimg batch status shows it.")]
_Ahead = Annotated[
    int, typer.Option(min=1, help="Tasks that wait for a worker in the queue, of all batches.")
]
_Cap = Annotated[int, typer.Option(min=1, help="Tasks of the batch that have not ended.")]
_Oldest = Annotated[
    bool, typer.Option("--oldest-first", help="The oldest groups first, not the newest.")
]
_Since = Annotated[
    str | None, typer.Option(help="Groups that begin then or later: ISO 8601 (UTC) or MJD.")
]
_Until = Annotated[
    str | None, typer.Option(help="Groups that begin before: ISO 8601 (UTC) or MJD.")
]
_Declination = Annotated[
    float | None, typer.Option(help="Only this strip, declination in degrees.")
]
_Tolerance = Annotated[float, typer.Option(help="How far from it, in degrees.")]
_Caltables = Annotated[
    str | None, typer.Option(help="Name or product key of the set that was applied.")
]
_Verdict = Annotated[
    str | None, typer.Option(help="Of the newest image: clean, degraded, or none without one.")
]
_Status = Annotated[str | None, typer.Option(help="Status of the group, as failed or degraded.")]
_Outdated = Annotated[
    bool, typer.Option("--outdated", help="With products of another version of their stage.")
]
_Version = Annotated[
    str | None, typer.Option(help="With products of this version of absurd-contimg.")
]


@reprocess_app.command()
def plan(
    since: _Since = None,
    until: _Until = None,
    declination: _Declination = None,
    tolerance: _Tolerance = 0.5,
    caltables: _Caltables = None,
    verdict: _Verdict = None,
    status: _Status = None,
    outdated: _Outdated = False,
    pipeline_version: _Version = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Number of workers, for the estimate of the time.")
    ] = 1,
    as_json: AsJson = False,
) -> None:
    """Show what reprocessing would run, what depends on it and how long it takes.

    Nothing is spawned. The settings of this command decide, which must be those of the workers.
    """
    selection = _selection(
        since, until, declination, tolerance, caltables, verdict, status, outdated, pipeline_version
    )
    settings = state.settings()
    histories = _histories(settings)
    with _registry(settings) as registry:
        made = _plan(registry, settings, selection, histories)
    if as_json:
        print_json(plan_json(made, workers))
    else:
        show_plan(made, workers)


@reprocess_app.command()
def start(
    since: _Since = None,
    until: _Until = None,
    declination: _Declination = None,
    tolerance: _Tolerance = 0.5,
    caltables: _Caltables = None,
    verdict: _Verdict = None,
    status: _Status = None,
    outdated: _Outdated = False,
    pipeline_version: _Version = None,
    ahead: _Ahead = 20,
    cap: _Cap = 200,
    oldest_first: _Oldest = False,
    as_json: AsJson = False,
) -> None:
    """Make a batch of what contimg reprocess plan shows; the daemon spawns its tasks.

    They run on the queue NAME-reprocessing: contimg worker --queue NAME-reprocessing.
    """
    from absurd_contimg.ingest.batches import reprocessing_queue
    from absurd_contimg.ingest.reprocessing import batch_items
    from absurd_contimg.ingest.spawn import find_catalog
    from absurd_contimg.registry.batches import Batches

    selection = _selection(
        since, until, declination, tolerance, caltables, verdict, status, outdated, pipeline_version
    )
    settings = state.settings()
    with _registry(settings) as registry:
        known = [batch.batch_id for batch in Batches(registry.database).batches()]
        made = _plan(registry, settings, selection, [])
        items = batch_items(made, find_catalog(settings), not oldest_first)
        if not items:
            raise MissingInputError(
                f"Of {counted(len(made.groups), 'group')} none needs to be processed again.",
                "contimg reprocess plan shows why.",
            )
        about = {
            "selection": selection.model_dump(mode="json", exclude_defaults=True),
            "settings": settings.pipeline.digest(),
            "worker": _worker_command(reprocessing_queue(settings.queue_name)),
        }
        created = _create(settings, "reprocess", items, ahead, cap, about, known)
    _show_created(created, as_json)


@batch_app.command()
def create(
    kind: Annotated[BatchKind, typer.Argument(help="pipeline for groups, mosaic for windows.")],
    names: Annotated[list[str], typer.Argument(help="Groups or windows, in their order.")],
    ahead: _Ahead = 20,
    cap: _Cap = 200,
    as_json: AsJson = False,
) -> None:
    """Make a batch of named groups or windows; the daemon spawns its tasks."""
    from absurd_contimg.operations.services import named_items

    settings = state.settings()
    with _registry(settings) as registry:
        items = named_items(registry, settings, kind.value, names)
        created = _create(settings, kind.value, items, ahead, cap, {})
    _show_created(created, as_json)


@batch_app.command("status")
def batch_status(
    batch: Annotated[str | None, typer.Argument(help="One batch. Default: all.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show batches and how many of their items are in each state, as their tasks are now."""
    from absurd_contimg.registry.batches import Batches, ItemState

    with _registry(state.settings()) as registry:
        batches = Batches(registry.database)
        chosen = batches.batches() if batch is None else [batches.batch(batch)]
        read = _read_batches(batches, chosen)
        items = [] if batch is None else batches.items(batch)
    summaries = [summary for summary, _ in read]
    items = [replace(item, state=read[0][1].get(item.position, item.state)) for item in items]
    if as_json:
        print_json(summaries if batch is None else {"summary": summaries[0], "items": items})
        return
    for summary in summaries:
        _show(summary)
    if batch is None and not summaries:
        console.print("There is no batch. contimg reprocess plan shows what one could do.")
    failed = [item for item in items if item.state is ItemState.FAILED]
    for item in failed[:_SHOWN_MAX]:
        console.print(message_line(f"  failed: {item.name}, task {item.task_id}"))
    if failed[_SHOWN_MAX:]:
        console.print(f"  and {len(failed) - _SHOWN_MAX} more: --json shows all")


def _read_batches(
    batches: Batches, chosen: Sequence[Batch]
) -> list[tuple[BatchSummary, dict[int, ItemState]]]:
    """By their tasks; where the database is away, as the daemon last noted, which is said."""
    from absurd_contimg.core.errors import BackendUnavailable
    from absurd_contimg.operations.services import BatchSummary, read_batch

    async def read(backend: Backend) -> list[tuple[BatchSummary, dict[int, ItemState]]]:
        return [await read_batch(backend, batches, each) for each in chosen]

    try:
        return with_backend(state.settings(), read, create=False) if chosen else []
    except (BackendUnavailable, MissingInputError) as error:
        error_console.print(message_line(f"As the daemon last noted it: {error}"))
        return [(BatchSummary(each, batches.counts(each.batch_id)), {}) for each in chosen]


@batch_app.command("pause")
def pause_batch(batch: _BatchId, reason: Reason = "") -> None:
    """Spawn nothing more of a batch until it is resumed; tasks in the queue go on."""
    from absurd_contimg.registry.batches import BatchState

    _show(_change(batch, BatchState.PAUSED, _required(reason)))


@batch_app.command("resume")
def resume_batch(batch: _BatchId) -> None:
    """Go on with a paused batch."""
    from absurd_contimg.registry.batches import BatchState

    _show(_change(batch, BatchState.ACTIVE, ""))


@batch_app.command("cancel")
def cancel_batch_command(batch: _BatchId, reason: Reason = "", as_json: AsJson = False) -> None:
    """Cancel a batch with all its tasks, the running ones too; committed products stay."""
    from absurd_contimg.registry.batches import BatchState

    summary = _change(batch, BatchState.CANCELLED, reason)
    if as_json:
        print_json(summary)
    else:
        _show(summary)


def _change(batch_id: str, new_state: BatchState, reason: str) -> BatchSummary:
    settings = state.settings()
    with _registry(settings):  # says so if there is none, before the database is asked
        pass

    async def change(actions: Actions) -> BatchSummary:
        return await _batch_actions(actions, settings).change(batch_id, new_state, reason)

    return with_actions(settings, change)


def _batch_actions(actions: Actions, settings: Settings) -> BatchActions:
    from absurd_contimg.operations.services import BatchActions

    return BatchActions(actions, settings)


def _create(
    settings: Settings,
    kind: str,
    items: Sequence[tuple[str, Mapping[str, Any]]],
    ahead: int,
    cap: int,
    about: Mapping[str, Any],
    known: Sequence[str] | None = None,
) -> BatchSummary:
    async def enter(actions: Actions) -> BatchSummary:
        create = _batch_actions(actions, settings).create
        return await create(kind, items, ahead=ahead, cap=cap, about=about, planned_beside=known)

    return with_actions(settings, enter)


def _plan(
    registry: Registry, settings: Settings, selection: Selection, histories: list[History]
) -> ReprocessingPlan:
    from absurd_contimg.operations.services import plan_selection

    if selection.caltables is not None:
        _require_caltables(registry, selection.caltables)
    return plan_selection(registry, settings, selection, histories, _open_names(registry, settings))


def _open_names(registry: Registry, settings: Settings) -> dict[str, str]:
    """What batches still have to do, by their tasks; else as the daemon last noted it."""
    from absurd_contimg.core.errors import BackendUnavailable
    from absurd_contimg.operations.services import read_open_names
    from absurd_contimg.registry.batches import Batches

    batches = Batches(registry.database)

    async def read(backend: Backend) -> dict[str, str]:
        return await read_open_names(backend, batches)

    try:
        return with_backend(settings, read, create=False) if batches.batches() else {}
    except (BackendUnavailable, MissingInputError):  # of which the durations' reader has spoken
        return batches.open_names()


def _require_caltables(registry: Registry, name: str) -> None:
    """Raise `MissingInputError` for a set of caltables, by name or key, that never was."""
    from absurd_contimg.registry.models import CaltableSetRow

    rows = registry.rows(CaltableSetRow)
    names = [row[column] for column in ("set_name", "product_key") for row in rows]
    if name not in names:
        raise MissingInputError(
            f"There is no set of caltables {name!r} in the registry.",
            did_you_mean(name, names, "contimg calibration plan names those in use."),
        )


def _histories(settings: Settings) -> list[History]:
    """Of recent tasks; none where there is no database, for a plan needs none."""
    from absurd_contimg.core.errors import BackendUnavailable
    from absurd_contimg.ingest.batches import reprocessing_queue
    from absurd_contimg.operations.services import recent_histories

    queues = (settings.queue_name, reprocessing_queue(settings.queue_name))

    async def read(backend: Backend) -> list[History]:
        return await recent_histories(backend, queues)

    try:
        return with_backend(settings, read, create=False)
    except (BackendUnavailable, MissingInputError) as error:
        console.print(message_line(f"Without durations: {error}"))
        return []


def _selection(
    since: str | None,
    until: str | None,
    declination: float | None,
    tolerance: float,
    caltables: str | None,
    verdict: str | None,
    status: str | None,
    outdated: bool,
    pipeline_version: str | None,
) -> Selection:
    from pydantic import ValidationError

    from absurd_contimg.ingest.selection import Selection

    try:
        return Selection.model_validate(
            {
                "since_mjd": _mjd(since, "--since"),
                "until_mjd": _mjd(until, "--until"),
                "declination_deg": declination,
                "declination_tolerance_deg": tolerance,
                "caltables": caltables,
                "verdict": verdict,
                "status": status,
                "outdated": outdated,
                "pipeline_version": pipeline_version,
            }
        )
    except ValidationError as error:
        raise SettingError(f"{refusal_sentences(error, Selection)}.") from error


def _mjd(text: str | None, option: str) -> float | None:
    from absurd_contimg.ingest.selection import mjd_of

    return None if text is None else mjd_of(parse_time(text, option))


def _required(reason: str) -> str:
    if not reason.strip():
        raise SettingError("A pause needs a reason.", "Say why: --reason TEXT")
    return reason.strip()


@contextmanager
def _registry(settings: Settings) -> Iterator[Registry]:
    from absurd_contimg.operations.services import open_registry

    require_registry(settings)
    with closing(open_registry(settings)) as registry:
        yield registry


def _show_created(summary: BatchSummary, as_json: bool) -> None:
    if as_json:
        print_json(summary)
        return
    _show(summary)
    daemon, once = state.command("daemon"), state.command("daemon --once")
    worker = _worker_command(summary.batch.queue)
    for line in (
        f"The daemon spawns the tasks: {daemon}",
        f"or, for the next tasks only: {once}",
        f"Then start workers, with these settings: {worker}",
    ):
        console.print(message_line(line))


def _worker_command(queue: str) -> str:
    return state.command(f"worker --queue {shlex.quote(queue)}")


def _show(summary: BatchSummary) -> None:
    batch = summary.batch
    counts = ", ".join(f"{count} {name}" for name, count in summary.items.items() if count)
    reason = f" ({batch.reason})" if batch.reason else ""
    console.print(message_line(f"{batch.batch_id}: {batch.state}{reason}"))
    console.print(message_line(f"  {counts or 'no items'}; on {batch.queue}"))
    if summary.other_settings:
        worker = batch.parameters["about"].get("worker", _worker_command(batch.queue))
        tasks = counted(summary.other_settings, "task")
        console.print(
            message_line(
                f"  {tasks} ran with other settings than the batch was planned with. Start the "
                f"workers with these, and the batch again: {worker}"
            )
        )
