"""Batches: lists of tasks that a feeder spawns in chunks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import ForeignKey, Index, func, insert, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from absurd_contimg.errors import MissingInputError, SettingError
from absurd_contimg.registry.database import Database
from absurd_contimg.registry.models import Base, row_values
from absurd_contimg.registry.stored_types import IsoTime, StoredState
from absurd_contimg.similar_names import did_you_mean


class BatchState(StrEnum):
    """The state of a batch."""

    ACTIVE = "active"
    PAUSED = "paused"
    """Nothing more of it is spawned."""
    CANCELLED = "cancelled"
    COMPLETED = "completed"
    """All its items have ended, well or not."""


class ItemState(StrEnum):
    """The state of an item of a batch."""

    WAITING = "waiting"
    SPAWNED = "spawned"
    """Its task is, or is about to be, in the queue and has not ended."""
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class BatchRow(Base):
    """A batch. `kind` is ``reprocess``, ``mosaic`` or ``pipeline``."""

    __tablename__ = "batches"
    batch_id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    state: Mapped[str] = mapped_column(StoredState(BatchState), index=True)
    queue: Mapped[str]
    parameters: Mapped[dict[str, Any]]
    created_at: Mapped[IsoTime]
    reason: Mapped[str | None]


class BatchItemRow(Base):
    """One task of a batch."""

    __tablename__ = "batch_items"
    batch_id: Mapped[str] = mapped_column(ForeignKey(BatchRow.batch_id), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str]
    state: Mapped[str] = mapped_column(StoredState(ItemState))
    task_id: Mapped[str | None]
    params: Mapped[dict[str, Any]]
    __table_args__ = (Index("ix_batch_items_batch_id_state", "batch_id", "state", "position"),)


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch; `reason` says why it is paused or cancelled."""

    batch_id: str
    kind: str
    state: BatchState
    queue: str
    parameters: dict[str, Any]
    created_at: str
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One task of a batch; `name` is the group or window that it is for."""

    batch_id: str
    position: int
    name: str
    state: ItemState
    task_id: str | None
    params: dict[str, Any]


_MAY_BECOME: Mapping[BatchState, frozenset[BatchState]] = {
    BatchState.ACTIVE: frozenset({BatchState.PAUSED}),
    BatchState.PAUSED: frozenset({BatchState.ACTIVE}),
    BatchState.CANCELLED: frozenset({BatchState.ACTIVE, BatchState.PAUSED}),
}
"""From which states an operator may change a batch to a state."""


class Batches:
    """The batches in the registry."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        batch: Batch,
        items: Sequence[tuple[str, Mapping[str, Any]]],
        planned_beside: Collection[str] | None = None,
    ) -> bool:
        """Enter a batch and its items (name, parameters) in order; False if the id is known.

        `planned_beside` are the batches that were there when the items were chosen: raises
        `SettingError` if another one has come since and has one of them to do. Raises it, too, for
        items that were named if a batch with the same ones and parameters is active or paused.
        """
        with self._database.writing() as session:
            if session.get(BatchRow, batch.batch_id) is not None:
                return False
            if planned_beside is not None:
                _require_no_newer(session, planned_beside, {name for name, _ in items})
            if batch.kind != "reprocess":  # whose plan leaves out what others have to do
                _require_no_equal(session, batch, dict(items))
            session.add(BatchRow(**row_values(batch)))
            session.flush()
            rows = [
                row_values(
                    BatchItem(batch.batch_id, place, name, ItemState.WAITING, None, dict(params))
                )
                for place, (name, params) in enumerate(items)
            ]
            if rows:
                session.execute(insert(BatchItemRow), rows)
            return True

    def batches(self, state: BatchState | None = None) -> list[Batch]:
        """All batches, or those of a state, in the order of their making."""
        query = select(BatchRow).order_by(BatchRow.created_at, BatchRow.batch_id)
        if state is not None:
            query = query.where(BatchRow.state == state.value)
        with self._database.reading() as session:
            return [_batch(row) for row in session.scalars(query)]

    def unfinished(self) -> list[Batch]:
        """The batches that are active or paused, or cancelled with items that have not ended."""
        not_ended = select(BatchItemRow.batch_id).where(
            BatchItemRow.batch_id == BatchRow.batch_id,
            BatchItemRow.state == ItemState.SPAWNED.value,
        )
        query = select(BatchRow).where(
            BatchRow.state.in_([BatchState.ACTIVE.value, BatchState.PAUSED.value])
            | ((BatchRow.state == BatchState.CANCELLED.value) & not_ended.exists())
        )
        with self._database.reading() as session:
            rows = session.scalars(query.order_by(BatchRow.created_at, BatchRow.batch_id))
            return [_batch(row) for row in rows]

    def batch(self, batch_id: str) -> Batch:
        """One batch; raises `MissingInputError` if it is not known."""
        with self._database.reading() as session:
            return _batch(_get(session, batch_id))

    def items(
        self, batch_id: str, state: ItemState | None = None, limit: int | None = None
    ) -> list[BatchItem]:
        """The items of a batch, or those in a state, in order; at most `limit`."""
        query = select(BatchItemRow).where(BatchItemRow.batch_id == batch_id)
        if state is not None:
            query = query.where(BatchItemRow.state == state.value)
        with self._database.reading() as session:
            rows = session.scalars(query.order_by(BatchItemRow.position).limit(limit))
            return [_item(row) for row in rows]

    def counts(self, batch_id: str) -> dict[ItemState, int]:
        """The number of items of a batch in each state."""
        with self._database.reading() as session:
            return _counts(session, batch_id)

    def open_names(self) -> dict[str, str]:
        """The names of all items that have not ended in batches that go on, and their batch."""
        with self._database.reading() as session:
            return _open_names(session)

    def begin_items(self, batch_id: str, count: int) -> list[BatchItem]:
        """Turn the next waiting items into spawned ones, unless the batch is not active."""
        with self._database.writing() as session:
            if _get(session, batch_id).state != BatchState.ACTIVE.value:
                return []
            query = (
                select(BatchItemRow)
                .where(BatchItemRow.batch_id == batch_id)
                .where(BatchItemRow.state == ItemState.WAITING.value)
                .order_by(BatchItemRow.position)
                .limit(count)
            )
            rows = session.scalars(query).all()
            for row in rows:
                row.state = ItemState.SPAWNED.value
            return [_item(row) for row in rows]

    def note_tasks(self, batch_id: str, task_ids: Mapping[int, str]) -> None:
        """Note the tasks of items by position."""
        with self._database.writing() as session:
            for position, task_id in task_ids.items():
                session.get_one(BatchItemRow, (batch_id, position)).task_id = task_id

    def end_items(self, batch_id: str, states: Mapping[int, ItemState]) -> None:
        """Note how spawned items ended; completes an active batch whose items have all ended.

        An item of which another process has noted the end meanwhile keeps it.
        """
        with self._database.writing() as session:
            for position, state in states.items():
                row = session.get_one(BatchItemRow, (batch_id, position))
                if row.state == ItemState.SPAWNED.value:
                    row.state = state.value
            _complete(session, _get(session, batch_id))

    def note_last_states(
        self, queue: str, ended: Mapping[tuple[str, int], tuple[str, ItemState]]
    ) -> None:
        """Note the task of items, by batch and position, and how it ended last.

        Also of one that had failed before and was retried. What this registry does not know as an
        item of this queue with this task is left out.
        """
        with self._database.writing() as session:
            changed = dict[str, BatchRow]()
            for (batch_id, position), (task_id, state) in ended.items():
                batch = session.get(BatchRow, batch_id)
                item = session.get(BatchItemRow, (batch_id, position))
                if batch is None or batch.queue != queue or item is None:
                    continue
                if item.task_id in (None, task_id):
                    item.task_id, item.state = task_id, state.value
                    changed[batch_id] = batch
            for batch in changed.values():
                _complete(session, batch)

    def change(self, batch_id: str, state: BatchState, reason: str | None = None) -> Batch:
        """Pause, resume or cancel a batch; what was waiting of a cancelled one is cancelled.

        Raises `SettingError` if it is in another state than that needs.
        """
        with self._database.writing() as session:
            row = _get(session, batch_id)
            if row.state not in _MAY_BECOME[state]:
                because = f": {row.reason}" if row.reason else ""
                raise SettingError(
                    f"Batch {batch_id} is {row.state}{because}.", "contimg batch status shows all."
                )
            row.state, row.reason = state.value, reason
            if state is BatchState.CANCELLED:
                session.execute(
                    update(BatchItemRow)
                    .where(BatchItemRow.batch_id == batch_id)
                    .where(BatchItemRow.state == ItemState.WAITING.value)
                    .values(state=ItemState.CANCELLED.value)
                )
            return _batch(row)


def _complete(session: Session, batch: BatchRow) -> None:
    """Complete a batch if it is active and its items have all ended."""
    session.flush()
    counts = _counts(session, batch.batch_id)
    open_items = counts[ItemState.WAITING] + counts[ItemState.SPAWNED]
    if batch.state == BatchState.ACTIVE.value and not open_items:
        batch.state = BatchState.COMPLETED.value


def _open_names(session: Session) -> dict[str, str]:
    not_ended = [ItemState.WAITING.value, ItemState.SPAWNED.value]
    query = select(BatchItemRow.name, BatchItemRow.batch_id).join(BatchRow)
    query = query.where(
        BatchItemRow.state.in_(not_ended), BatchRow.state != BatchState.CANCELLED.value
    )
    return {row.name: row.batch_id for row in session.execute(query)}


def _require_no_newer(session: Session, known: Collection[str], names: Collection[str]) -> None:
    for name, batch_id in _open_names(session).items():
        if name in names and batch_id not in known:
            raise SettingError(
                f"Batch {batch_id} has been made meanwhile and has {name} to do.",
                f"Look at it, then repeat the command: contimg batch status {batch_id}",
            )


def _require_no_equal(session: Session, batch: Batch, items: Mapping[str, Any]) -> None:
    goes_on = [BatchState.ACTIVE.value, BatchState.PAUSED.value]
    query = select(BatchRow).where(BatchRow.state.in_(goes_on), BatchRow.kind == batch.kind)
    for row in session.scalars(query.where(BatchRow.queue == batch.queue)):
        of_batch = select(BatchItemRow).where(BatchItemRow.batch_id == row.batch_id)
        if row.parameters == batch.parameters and items == {
            item.name: item.params for item in session.scalars(of_batch)
        }:
            raise SettingError(
                f"Batch {row.batch_id} is {row.state} and has the same items and settings.",
                f"Look at it: contimg batch status {row.batch_id}. To make it once more, cancel it "
                f"before: contimg batch cancel {row.batch_id}",
            )


def _get(session: Session, batch_id: str) -> BatchRow:
    row = session.get(BatchRow, batch_id)
    if row is None:
        names = session.scalars(select(BatchRow.batch_id))
        raise MissingInputError(
            f"There is no batch {batch_id!r} in the registry.",
            did_you_mean(batch_id, names, "contimg batch status lists them."),
        )
    return row


def _counts(session: Session, batch_id: str) -> dict[ItemState, int]:
    query = (
        select(BatchItemRow.state, func.count())
        .where(BatchItemRow.batch_id == batch_id)
        .group_by(BatchItemRow.state)
    )
    counts = {ItemState(state): number for state, number in session.execute(query)}
    return {state: counts.get(state, 0) for state in ItemState}


def _batch(row: BatchRow) -> Batch:
    columns = {name: getattr(row, name) for name in Batch.__slots__}
    return Batch(**columns | {"state": BatchState(row.state)})


def _item(row: BatchItemRow) -> BatchItem:
    columns = {name: getattr(row, name) for name in BatchItem.__slots__}
    return BatchItem(**columns | {"state": ItemState(row.state)})
