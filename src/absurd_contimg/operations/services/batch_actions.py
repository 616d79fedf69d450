"""What an operator can do to batches; each is recorded as the other actions are."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from absurd_contimg.errors import MissingInputError, SettingError
from absurd_contimg.operations.services.actions import Actions
from absurd_contimg.operations.services.batch_service import (
    BatchSummary,
    cancel_batch,
    enter_batch,
    named_items,
)
from absurd_contimg.operations.services.repeated_requests import require_no_difference
from absurd_contimg.operations.services.worker_service import open_registry
from absurd_contimg.registry.batches import Batch, Batches, BatchState
from absurd_contimg.settings import Settings


@dataclass(frozen=True, slots=True)
class BatchActions:
    """The batches of one site, changed by one operator."""

    actions: Actions
    settings: Settings

    async def create_named(
        self,
        kind: str,
        names: Sequence[str],
        *,
        ahead: int = 20,
        cap: int = 200,
        batch_id: str | None = None,
        reason: str = "",
    ) -> BatchSummary:
        """A batch of groups (kind ``pipeline``) or windows (``mosaic``) by their names.

        A known `batch_id` changes nothing: the batch that has it is the answer. Raises
        `MissingInputError` for a name that the registry does not know, and `InputError` where the
        batch of that id is another one.
        """
        async with self.actions.records.recorded("create batch", batch_id or kind, reason):
            if batch_id is not None and await asyncio.to_thread(self._is_known, batch_id):
                summary = await asyncio.to_thread(self.summary, batch_id)
            else:
                items = await asyncio.to_thread(self._items, kind, names)
                summary = await self._enter(kind, items, ahead, cap, {}, batch_id)
            if batch_id is not None:  # another request may have been the first
                rules = {"ahead": ahead, "cap": cap}
                await asyncio.to_thread(self._require_same, summary.batch, kind, names, rules)
            return summary

    async def create(
        self,
        kind: str,
        items: Sequence[tuple[str, Mapping[str, Any]]],
        *,
        ahead: int,
        cap: int,
        about: Mapping[str, Any],
        planned_beside: Collection[str] | None = None,
    ) -> BatchSummary:
        """A batch of these items (name, parameters).

        `planned_beside` are the batches that were there when they were chosen.
        """
        async with self.actions.records.recorded("create batch", kind, ""):
            return await self._enter(kind, items, ahead, cap, about, None, planned_beside)

    async def change(self, batch_id: str, state: BatchState, reason: str = "") -> BatchSummary:
        """Pause (with a reason) or resume a batch, or cancel it with its tasks."""
        names = {BatchState.PAUSED: "pause", BatchState.ACTIVE: "resume"}
        async with self.actions.records.recorded(
            f"{names.get(state, 'cancel')} batch", batch_id, reason
        ):
            batches = await asyncio.to_thread(self._batches)
            await asyncio.to_thread(batches.batch, batch_id)
            if state is BatchState.CANCELLED:
                because = reason or "by an operator"
                return await cancel_batch(batches, self.actions.backend, batch_id, because)
            if state is BatchState.PAUSED and not reason.strip():
                raise SettingError("A pause needs a reason.", "Say why.")
            await asyncio.to_thread(batches.change, batch_id, state, reason or None)
            return await asyncio.to_thread(self.summary, batch_id)

    def summary(self, batch_id: str) -> BatchSummary:
        """A batch with the number of its items in each state, or `MissingInputError`."""
        batches = self._batches()
        return BatchSummary(batches.batch(batch_id), batches.counts(batch_id))

    def _batches(self) -> Batches:
        database = self.actions.tables.existing()
        if database is None:
            raise MissingInputError(
                "There is no registry yet.", "Check --output-dir and --state-dir."
            )
        return Batches(database)

    def _is_known(self, batch_id: str) -> bool:
        return any(batch.batch_id == batch_id for batch in self._batches().batches())

    def _require_same(
        self, batch: Batch, kind: str, names: Sequence[str], rules: Mapping[str, int]
    ) -> None:
        known = [item.name for item in self._batches().items(batch.batch_id)]
        differences = {
            f"the kind {batch.kind}": batch.kind != kind,
            "other items": known != list(dict.fromkeys(names)),
            "other bounds (ahead, cap)": any(
                batch.parameters.get(name) != value for name, value in rules.items()
            ),
        }
        require_no_difference(batch.batch_id, f"batch {batch.batch_id}", differences)

    def _items(self, kind: str, names: Sequence[str]) -> list[tuple[str, Mapping[str, Any]]]:
        self._batches()
        with closing(open_registry(self.settings)) as registry:
            return named_items(registry, self.settings, kind, names)

    async def _enter(
        self,
        kind: str,
        items: Sequence[tuple[str, Mapping[str, Any]]],
        ahead: int,
        cap: int,
        about: Mapping[str, Any],
        batch_id: str | None,
        planned_beside: Collection[str] | None = None,
    ) -> BatchSummary:
        batches = await asyncio.to_thread(self._batches)
        return await enter_batch(
            self.actions.backend,
            self.settings,
            batches,
            kind,
            items,
            ahead=ahead,
            cap=cap,
            about=about,
            batch_id=batch_id,
            planned_beside=planned_beside,
        )
