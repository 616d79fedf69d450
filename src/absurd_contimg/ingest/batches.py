"""The feeder: spawns the tasks of batches a few at a time, so that live work overtakes a backlog.

A claim costs more the more runs wait in its queue, so a backlog stays in the registry. All state
is there and in Absurd: the feeder may be killed at any point, and two may run at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from absurd_contimg.config.refused_values import refusal_sentences
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.errors import ValueRefused
from absurd_contimg.core.records import LIVE_STATES, TERMINAL_STATES, SpawnOptions, Task
from absurd_contimg.execution.stage import stage_queues
from absurd_contimg.registry.batches import Batch, BatchItem, BatchState, ItemState
from absurd_contimg.workflows.task_versions import headers_of

_log = logging.getLogger(__name__)

_LIVE_MAX = 100_000
"""Tasks of a queue that are read at a poll: far more than feeders put there."""


def reprocessing_queue(queue_name: str) -> str:
    """The queue of batches beside the queue of live work."""
    return f"{queue_name}-reprocessing"


def queue_names(main: str) -> list[str]:
    """The names that the main queue and those of its stages and of batches have."""
    return [main, *stage_queues(main).values(), reprocessing_queue(main)]


def pipeline_queues(main: str, known: Collection[str]) -> list[str]:
    """The main queue with those of its stages and of batches, as far as they are there.

    Others in the database belong to another site or to another program.
    """
    return [name for name in queue_names(main) if name in known]


class FeedRules(BaseModel):
    """How a batch is spawned: the part of its parameters that the feeder reads."""

    model_config = ConfigDict(frozen=True)

    task: str
    """The name of its tasks."""
    ahead: int = Field(20, ge=1)
    """Tasks that wait for a worker in the queue, of all its batches together."""
    cap: int = Field(200, ge=1)
    """Tasks of the batch that have not ended: those that wait for a calibration count too."""


class NewBatches(Protocol):
    """The part of the registry that enters batches."""

    def create(
        self,
        batch: Batch,
        items: Sequence[tuple[str, Mapping[str, Any]]],
        planned_beside: Collection[str] | None = None,
    ) -> bool:
        """Enter a batch and its items (name, parameters) in order; False if the id is known.

        Raises `SettingError` where a batch that is not in `planned_beside` has one of them to do.
        """


class BatchStore(Protocol):
    """The part of the registry that the feeder uses; called in a thread."""

    def unfinished(self) -> Sequence[Batch]:
        """The batches with items that have not ended, in the order of their making."""

    def items(self, batch_id: str, state: ItemState) -> Sequence[BatchItem]:
        """The items in a state, in order."""

    def begin_items(self, batch_id: str, count: int) -> Sequence[BatchItem]:
        """Turn the next waiting items into spawned ones, unless the batch is not active."""

    def note_tasks(self, batch_id: str, task_ids: Mapping[int, str]) -> None:
        """Note the tasks of items by position."""

    def end_items(self, batch_id: str, states: Mapping[int, ItemState]) -> None:
        """Note how spawned items ended; completes an active batch whose items have all ended."""


class LastStates(Protocol):
    """The part of the registry that notes the ends of items whose tasks are about to go."""

    def note_last_states(
        self, queue: str, ended: Mapping[tuple[str, int], tuple[str, ItemState]]
    ) -> None:
        """Note task and end of items, by batch and position; unknown ones are left out."""


@dataclass(frozen=True, slots=True)
class Fed:
    """What one call has done to one batch."""

    batch_id: str
    spawned: int
    ended: int
    cancelled: int


def create_batch(
    store: NewBatches,
    batch_id: str,
    kind: str,
    queue: str,
    rules: FeedRules,
    items: Sequence[tuple[str, Mapping[str, Any]]],
    created_at: datetime,
    about: Mapping[str, Any] | None = None,
    planned_beside: Collection[str] | None = None,
) -> bool:
    """Enter an active batch; False if there is one of that id. `about` says what it is for.

    `planned_beside`: see `NewBatches.create`.
    """
    parameters = {**rules.model_dump(), "about": dict(about or {})}
    text = created_at.isoformat(timespec="seconds")
    batch = Batch(batch_id, kind, BatchState.ACTIVE, queue, parameters, text)
    return store.create(batch, items, planned_beside)


_KEY_PREFIX = "batch:"


def item_key(batch_id: str, position: int) -> str:
    """The idempotency key of an item's task."""
    return f"{_KEY_PREFIX}{batch_id}:{position}"


def note_ended_items(store: LastStates, queue: str, tasks: Iterable[Task]) -> None:
    """Note how those of these tasks that are items of batches have ended, before they are removed.

    The feeder cannot ask any more then. Raises what the registry raises.
    """
    ended: dict[tuple[str, int], tuple[str, ItemState]] = {}
    for task in tasks:
        key = task.idempotency_key or ""
        batch_id, _, position = key.removeprefix(_KEY_PREFIX).rpartition(":")
        is_item = key.startswith(_KEY_PREFIX) and position.isdecimal()
        if is_item and task.state in TERMINAL_STATES:
            ended[batch_id, int(position)] = str(task.task_id), ITEM_STATES[task.state]
    if ended:
        store.note_last_states(queue, ended)


async def feed(
    store: BatchStore, backend: Backend, batch_ids: Collection[str] | None = None
) -> list[Fed]:
    """Note what has ended, cancel what is to be cancelled, spawn what there is room for.

    Called at each poll of the daemon, for all batches or for these. Raises what the registry and
    the database raise; the next call goes on.
    """
    batches = await asyncio.to_thread(store.unfinished)
    report = []
    for queue in dict.fromkeys(batch.queue for batch in batches):
        if queue not in await backend.list_queues():
            await backend.create_queue(queue)
        tasks = await backend.list_tasks(queue, states=LIVE_STATES, limit=_LIVE_MAX)
        feeder = _QueueFeeder(store, backend, queue, tasks)
        for batch in batches:
            if batch.queue == queue and (batch_ids is None or batch.batch_id in batch_ids):
                report.append(await feeder.feed(batch))
    return report


class _QueueFeeder:
    """Feeds the batches of one queue, from what is live in it now."""

    def __init__(
        self, store: BatchStore, backend: Backend, queue: str, tasks: Sequence[Task]
    ) -> None:
        self._store = store
        self._backend = backend
        self._queue = queue
        self._live = {task.idempotency_key: task.task_id for task in tasks}
        self._pending = Counter(task.state for task in tasks)["pending"]

    async def feed(self, batch: Batch) -> Fed:
        batch_id = batch.batch_id
        items = await asyncio.to_thread(self._store.items, batch_id, ItemState.SPAWNED)
        live = {item.position for item in items if self._live_task(item) is not None}
        if batch.state is BatchState.CANCELLED:
            for item in items:
                if (task_id := self._live_task(item)) is not None:
                    await self._backend.cancel_task(self._queue, task_id)
            live.clear()
        ended = await self._end(batch, [item for item in items if item.position not in live])
        spawned = 0
        if batch.state is BatchState.ACTIVE:
            begun = [item for item in items if item.position not in {*live, *ended}]
            spawned = await self._spawn(batch, begun, len(live))
        states = Counter(ended.values())
        fed = Fed(batch_id, spawned, len(ended), states[ItemState.CANCELLED])
        if spawned or ended:
            _log.info("batch %s: %d tasks spawned, %d have ended", batch_id, spawned, len(ended))
        return fed

    def _live_task(self, item: BatchItem) -> UUID | None:
        return self._live.get(item_key(item.batch_id, item.position))

    async def _end(self, batch: Batch, items: Sequence[BatchItem]) -> dict[int, ItemState]:
        """Note how items without a live task have ended; those that were never spawned have not.

        A task that is not in the database any more has ended at some time, nobody knows how.
        """
        states = {}
        for item in items:
            if item.task_id is not None:
                task_id = UUID(item.task_id)
                result = await self._backend.get_task_result(self._queue, task_id)
                states[item.position] = ITEM_STATES[None if result is None else result.state]
            elif batch.state is BatchState.CANCELLED:
                states[item.position] = ItemState.CANCELLED
        states = {place: state for place, state in states.items() if state is not ItemState.SPAWNED}
        if states or (batch.state is BatchState.ACTIVE and not items):
            await asyncio.to_thread(self._store.end_items, batch.batch_id, states)
        return states

    async def _spawn(self, batch: Batch, begun: Sequence[BatchItem], live: int) -> int:
        """Spawn the items that were begun, and begin more while there is room."""
        try:
            rules = FeedRules.model_validate(batch.parameters)
        except ValidationError as error:
            wrong = refusal_sentences(error, FeedRules)
            _log.error("batch %s cannot be spawned: %s", batch.batch_id, wrong)
            return 0
        room = min(rules.ahead - self._pending, rules.cap - live) - len(begun)
        if room > 0:
            more = await asyncio.to_thread(self._store.begin_items, batch.batch_id, room)
            begun = [*begun, *more]
        task_ids: dict[int, str] = {}
        refused: dict[int, ItemState] = {}
        for item in begun:
            options = SpawnOptions(
                headers=headers_of(rules.task),
                idempotency_key=item_key(item.batch_id, item.position),
            )
            try:
                task = await self._backend.spawn_task(self._queue, rules.task, item.params, options)
            except ValueRefused as error:
                _log.error("batch %s, item %s is refused: %s", batch.batch_id, item.name, error)
                refused[item.position] = ItemState.FAILED
            else:
                task_ids[item.position] = str(task.task_id)
                self._pending += task.created
        if task_ids:
            await asyncio.to_thread(self._store.note_tasks, batch.batch_id, task_ids)
        if refused:
            await asyncio.to_thread(self._store.end_items, batch.batch_id, refused)
        return len(task_ids)


ITEM_STATES: Mapping[str | None, ItemState] = {
    **dict.fromkeys(LIVE_STATES, ItemState.SPAWNED),
    "completed": ItemState.COMPLETED,
    "failed": ItemState.FAILED,
    "cancelled": ItemState.CANCELLED,
    None: ItemState.FAILED,
}
