"""Batches, reprocessing and schedules of an installation, for commands and for the daemon."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

from absurd_contimg.core.backend import Backend, Inspection
from absurd_contimg.core.errors import QueueNotFound
from absurd_contimg.core.records import History, Task
from absurd_contimg.core.task_queries import TaskFilter
from absurd_contimg.errors import MissingInputError
from absurd_contimg.execution.context import MosaicInputs
from absurd_contimg.history.summary import read_histories
from absurd_contimg.ingest.batches import (
    ITEM_STATES,
    FeedRules,
    create_batch,
    feed,
    reprocessing_queue,
)
from absurd_contimg.ingest.reprocessing import (
    ReprocessingPlan,
    group_inputs,
    plan_reprocessing,
)
from absurd_contimg.ingest.schedule_actions import ActionStarter
from absurd_contimg.ingest.schedules import run_due_schedules
from absurd_contimg.ingest.selection import Selection, read_groups, select_groups
from absurd_contimg.ingest.spawn import find_catalog
from absurd_contimg.operations.services.database import make_queue
from absurd_contimg.registry import Registry
from absurd_contimg.registry.batches import Batch, Batches, BatchState, ItemState
from absurd_contimg.registry.publications import Publications
from absurd_contimg.registry.schedules import Schedules
from absurd_contimg.registry.windows import list_windows
from absurd_contimg.settings import Settings
from absurd_contimg.similar_names import did_you_mean
from absurd_contimg.workflows import group, mosaic
from absurd_contimg.workflows.assembly import pipeline_stages
from absurd_contimg.workflows.calibration_wait import wake_served_groups
from absurd_contimg.workflows.publication import Publisher
from absurd_contimg.workflows.unfinished_publications import reconcile_publications

_HISTORIES = 300
"""The newest tasks, from which durations are taken."""
_RESULTS_MAX = 200
"""Completed items of a batch whose results are looked at."""
_NAMES_SHOWN = 5
"""Of those that a registry does not know."""

Step = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class BatchSummary:
    """A batch and the number of its items in each state."""

    batch: Batch
    items: Mapping[ItemState, int]
    other_settings: int = 0
    """Tasks that ran with other settings than the batch was planned with, of those looked at."""


async def read_batch(
    inspection: Inspection, batches: Batches, batch: Batch
) -> tuple[BatchSummary, dict[int, ItemState]]:
    """A batch as its tasks are now, and by position the items of which more is known than noted.

    The daemon notes at its polls how items end, and nobody notes what becomes of a failed one that
    is retried.
    """
    states = (ItemState.SPAWNED, ItemState.FAILED)
    items = [item for state in states for item in batches.items(batch.batch_id, state)]
    planned = batch.parameters.get("about", {}).get("settings")
    if planned is not None:
        items += batches.items(batch.batch_id, ItemState.COMPLETED, limit=_RESULTS_MAX)
    by_task = {UUID(item.task_id): item for item in items if item.task_id is not None}
    wanted, tasks = TaskFilter(task_ids=list(by_task)), list[Task]()
    if by_task:
        with suppress(QueueNotFound):
            tasks = await inspection.find_tasks(batch.queue, wanted, limit=len(by_task))
    counts, changed = Counter(batches.counts(batch.batch_id)), {}
    for task in tasks:
        item, state = by_task[task.task_id], ITEM_STATES[task.state]
        if state is not item.state:
            changed[item.position] = state
            counts.update({state: 1, item.state: -1})
    not_ended = counts[ItemState.WAITING] + counts[ItemState.SPAWNED]
    if batch.state in (BatchState.ACTIVE, BatchState.COMPLETED):
        batch = replace(batch, state=BatchState.ACTIVE if not_ended else BatchState.COMPLETED)
    others = 0 if planned is None else sum(_ran_with(task) not in (None, planned) for task in tasks)
    return BatchSummary(batch, {state: counts[state] for state in ItemState}, others), changed


def _ran_with(task: Task) -> object:
    """The digest of the settings with which a completed task ran, as its result has it."""
    match task.completed_payload:
        case {"config_ref": {"digest": digest}}:
            return digest
    return None


async def read_open_names(inspection: Inspection, batches: Batches) -> dict[str, str]:
    """The names of the items that batches still have to do as their tasks are now, and the batch.

    `Batches.open_names` has them as the daemon last noted them.
    """
    names = batches.open_names()
    for batch in batches.batches():
        if batch.state is BatchState.CANCELLED:
            continue
        _, changed = await read_batch(inspection, batches, batch)
        items = batches.items(batch.batch_id) if changed else []
        for item in items:
            if changed.get(item.position) is ItemState.SPAWNED:
                names[item.name] = batch.batch_id
            elif item.position in changed and names.get(item.name) == batch.batch_id:
                del names[item.name]
    return names


def batch_steps(
    backend: Backend, settings: Settings, registry: Registry, now: Callable[[], datetime]
) -> Sequence[tuple[str, Step]]:
    """What the daemon does at the end of each poll for batches, schedules, groups that wait for a
    calibration, and publications whose task has ended.

    Schedules are due by the clock `now`.
    """
    starter = ActionStarter(
        backend,
        registry,
        settings.pipeline,
        pipeline_stages(registry),
        settings.queue_name,
        partial(find_catalog, settings),
    )
    longitude_deg = settings.pipeline.site.longitude_deg

    async def run_schedules() -> None:
        await run_due_schedules(Schedules(registry.database), starter, now(), longitude_deg)

    async def feed_batches() -> None:
        await feed(Batches(registry.database), backend)

    async def wake_groups() -> None:
        ours = {settings.queue_name, reprocessing_queue(settings.queue_name)}
        queues = ours.intersection(await backend.list_queues())
        await wake_served_groups(registry, backend, sorted(queues))

    publisher = Publisher(settings.pipeline, Publications(registry.database))

    async def reconcile() -> None:
        # A task may have been spawned on any queue: contimg --queue NAME mosaic make.
        await reconcile_publications(publisher, backend, await backend.list_queues())

    return (
        ("schedules", run_schedules),
        ("batches", feed_batches),
        ("waits", wake_groups),
        ("publications", reconcile),
    )


async def recent_histories(backend: Backend, queues: Sequence[str]) -> list[History]:
    """The newest tasks of these queues, as far as they exist, for durations."""
    histories: list[History] = []
    for queue in queues:
        try:
            histories += await read_histories(backend, queue, limit=_HISTORIES)
        except QueueNotFound:
            continue
    return histories


def plan_selection(
    registry: Registry,
    settings: Settings,
    selection: Selection,
    histories: Sequence[History],
    open_names: Mapping[str, str],
) -> ReprocessingPlan:
    """The plan of a reprocessing with the settings of this installation; see `read_open_names`."""
    stages = pipeline_stages(registry)
    versions = {stage.name: stage.version for stage in stages}
    return plan_reprocessing(
        registry,
        settings.pipeline,
        stages,
        select_groups(read_groups(registry), selection, versions),
        find_catalog(settings),
        open_names,
        histories,
    )


def named_items(
    registry: Registry, settings: Settings, kind: str, names: Sequence[str]
) -> list[tuple[str, Mapping[str, Any]]]:
    """Items for groups (kind ``pipeline``) or windows (``mosaic``), or `MissingInputError`."""
    catalog = find_catalog(settings)
    parameters: dict[str, Mapping[str, Any]] = {}
    known_names: list[str] = []
    if kind == "pipeline":
        for known in read_groups(registry):
            known_names.append(known.group_id)
            inputs = group_inputs(known, catalog) if known.group_id in names else None
            if inputs is not None:
                parameters[known.group_id] = inputs.model_dump(mode="json")
    else:
        for window in list_windows(registry.database):
            known_names.append(window.window_id)
            members = tuple(member.group_id for member in window.members if member.used)
            if window.window_id in names and members:
                left_out = {m.group_id: m.reason or "" for m in window.members if not m.used}
                parameters[window.window_id] = MosaicInputs(
                    window_id=window.window_id,
                    members=members,
                    left_out=left_out,
                    catalog_path=catalog,
                ).model_dump(mode="json")
    unknown = [name for name in names if name not in parameters]
    if unknown:
        more = len(unknown) - _NAMES_SHOWN
        thing = "group with files" if kind == "pipeline" else "window with members"
        raise MissingInputError(
            f"There is no {thing} called {' or '.join(map(repr, unknown[:_NAMES_SHOWN]))} in the "
            "registry" + (f", nor {more} of the others." if more > 0 else "."),
            did_you_mean(
                unknown[0], known_names, "Check its name: contimg groups, contimg windows."
            ),
        )
    return [(name, parameters[name]) for name in dict.fromkeys(names)]


async def enter_batch(
    backend: Backend,
    settings: Settings,
    batches: Batches,
    kind: str,
    items: Sequence[tuple[str, Mapping[str, Any]]],
    *,
    ahead: int = 20,
    cap: int = 200,
    about: Mapping[str, Any] | None = None,
    batch_id: str | None = None,
    planned_beside: Collection[str] | None = None,
) -> BatchSummary:
    """Enter a batch, after the database has shown that it answers and has the queue.

    A known `batch_id` changes nothing: the batch that has it is shown. Raises `SettingError` where
    a batch that is not in `planned_beside` has one of the items to do.
    """
    now = datetime.now(UTC)
    batch_id = batch_id or f"{kind}-{now:%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"
    queue = reprocessing_queue(settings.queue_name)
    await make_queue(backend, queue)
    task = mosaic.TASK_NAME if kind == "mosaic" else group.TASK_NAME
    rules = FeedRules(task=task, ahead=ahead, cap=cap)
    create_batch(batches, batch_id, kind, queue, rules, items, now, about, planned_beside)
    return BatchSummary(batches.batch(batch_id), batches.counts(batch_id))


async def cancel_batch(
    batches: Batches, backend: Backend, batch_id: str, reason: str
) -> BatchSummary:
    """Cancel a batch with its tasks, the running ones too; again for one that is cancelled."""
    if batches.batch(batch_id).state is not BatchState.CANCELLED:
        batches.change(batch_id, BatchState.CANCELLED, reason)
    await feed(batches, backend, [batch_id])
    return BatchSummary(batches.batch(batch_id), batches.counts(batch_id))
