"""The simulated registry of batches; each call is one transaction."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from absurd_contimg.core.records import Json
from absurd_contimg.registry.batches import Batch, BatchItem, BatchState, ItemState

_ENDED = frozenset({ItemState.COMPLETED, ItemState.FAILED, ItemState.CANCELLED})


class SimulatedBatches:
    """An `ingest.batches.BatchStore`, with what enters and cancels a batch."""

    def __init__(self) -> None:
        self._batches: dict[str, Batch] = {}
        self._items: dict[tuple[str, int], BatchItem] = {}

    def fork(self) -> SimulatedBatches:
        """An independent copy."""
        twin = SimulatedBatches()
        twin._batches, twin._items = dict(self._batches), dict(self._items)
        return twin

    def contents(self) -> str:
        """Everything that it knows."""
        return repr((self._batches, self._items))

    def describe(self) -> Iterator[Json]:
        """What is left of the batches, without ids of tasks."""
        for batch in self._batches.values():
            yield ["batch", batch.batch_id, batch.state.value]
        for item in self._items.values():
            yield ["item", item.batch_id, item.position, item.state.value, item.task_id is None]

    def batches(self) -> list[Batch]:
        """All batches, in the order of their making."""
        return list(self._batches.values())

    def create(
        self,
        batch: Batch,
        items: Sequence[tuple[str, Mapping[str, Any]]],
        planned_beside: Collection[str] | None = None,
    ) -> bool:
        """Enter a batch and its items (name, parameters) in order; False if the id is known."""
        key = batch.batch_id
        if key in self._batches:
            return False
        self._batches[key] = batch
        for place, (name, params) in enumerate(items):
            item = BatchItem(key, place, name, ItemState.WAITING, None, dict(params))
            self._items[key, place] = item
        return True

    def unfinished(self) -> list[Batch]:
        """The batches with items that have not ended."""
        going_on = (BatchState.ACTIVE, BatchState.PAUSED)
        return [
            batch
            for key, batch in self._batches.items()
            if batch.state in going_on
            or (batch.state is BatchState.CANCELLED and self.items(key, ItemState.SPAWNED))
        ]

    def items(self, batch_id: str, state: ItemState | None = None) -> list[BatchItem]:
        """The items of a batch, or those in a state, in order."""
        return [
            item
            for (key, _), item in self._items.items()
            if key == batch_id and state in (None, item.state)
        ]

    def begin_items(self, batch_id: str, count: int) -> list[BatchItem]:
        """Turn the next waiting items into spawned ones, unless the batch is not active."""
        if self._batches[batch_id].state is not BatchState.ACTIVE:
            return []
        waiting = self.items(batch_id, ItemState.WAITING)[:count]
        return [self._keep(replace(item, state=ItemState.SPAWNED)) for item in waiting]

    def note_tasks(self, batch_id: str, task_ids: Mapping[int, str]) -> None:
        """Note the tasks of items by position."""
        for position, task_id in task_ids.items():
            self._keep(replace(self._items[batch_id, position], task_id=task_id))

    def end_items(self, batch_id: str, states: Mapping[int, ItemState]) -> None:
        """Note how spawned items ended; completes an active batch whose items have all ended."""
        for position, state in states.items():
            item = self._items[batch_id, position]
            if item.state is ItemState.SPAWNED:
                self._keep(replace(item, state=state))
        batch = self._batches[batch_id]
        ended = all(item.state in _ENDED for item in self.items(batch_id))
        if batch.state is BatchState.ACTIVE and ended:
            self._batches[batch_id] = replace(batch, state=BatchState.COMPLETED)

    def _keep(self, item: BatchItem) -> BatchItem:
        self._items[item.batch_id, item.position] = item
        return item
