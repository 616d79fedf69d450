"""Batches: lists of tasks that a feeder spawns in chunks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import ForeignKey, Index, func, insert, select, update
from sqlalchemy.orm import Mapped, mapped_column

from absurd_contimg.errors import MissingInputError
from absurd_contimg.registry.database import Database
from absurd_contimg.registry.models import Base, row_values


class BatchState(StrEnum):
    """The state of a batch."""

    ACTIVE = "active"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    COMPLETED = "completed"


class ItemState(StrEnum):
    """The state of an item of a batch."""

    WAITING = "waiting"
    SPAWNED = "spawned"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class BatchRow(Base):
    """A batch. `kind` is ``reprocess``, ``mosaic`` or ``pipeline``."""

    __tablename__ = "batches"
    batch_id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    state: Mapped[str] = mapped_column(index=True)
    queue: Mapped[str]
    parameters: Mapped[dict[str, Any]]
    created_at: Mapped[str]
    reason: Mapped[str | None]


class BatchItemRow(Base):
    """One task of a batch."""

    __tablename__ = "batch_items"
    batch_id: Mapped[str] = mapped_column(ForeignKey(BatchRow.batch_id), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str]
    state: Mapped[str]
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


def create_batch(
    database: Database, batch: Batch, items: Sequence[tuple[str, Mapping[str, Any]]]
) -> bool:
    """Enter a batch and its items (name, parameters) as waiting; False if the id is known."""
    with database.writing() as session:
        if session.get(BatchRow, batch.batch_id) is not None:
            return False
        session.add(BatchRow(**row_values(batch)))
        session.flush()
        rows = [
            row_values(
                BatchItem(batch.batch_id, position, name, ItemState.WAITING, None, dict(params))
            )
            for position, (name, params) in enumerate(items)
        ]
        if rows:
            session.execute(insert(BatchItemRow), rows)
        return True


def list_batches(database: Database, state: BatchState | None = None) -> list[Batch]:
    """All batches, or those of a state, in the order of their making."""
    query = select(BatchRow).order_by(BatchRow.created_at, BatchRow.batch_id)
    if state is not None:
        query = query.where(BatchRow.state == state.value)
    with database.reading() as session:
        return [_batch(row) for row in session.scalars(query)]


def get_batch(database: Database, batch_id: str) -> Batch:
    """One batch; raises `MissingInputError` if it is not known."""
    with database.reading() as session:
        row = session.get(BatchRow, batch_id)
        if row is None:
            raise MissingInputError(
                f"Batch {batch_id} is not in the registry.", "Check its name: contimg batch status."
            )
        return _batch(row)


def list_items(
    database: Database,
    batch_id: str,
    state: ItemState | None = None,
    limit: int | None = None,
) -> list[BatchItem]:
    """The items of a batch, or those of a state, in order; at most `limit`."""
    query = select(BatchItemRow).where(BatchItemRow.batch_id == batch_id)
    if state is not None:
        query = query.where(BatchItemRow.state == state.value)
    query = query.order_by(BatchItemRow.position).limit(limit)
    with database.reading() as session:
        return [_item(row) for row in session.scalars(query)]


def count_items(database: Database, batch_id: str) -> dict[ItemState, int]:
    """The number of items of a batch in each state."""
    query = (
        select(BatchItemRow.state, func.count())
        .where(BatchItemRow.batch_id == batch_id)
        .group_by(BatchItemRow.state)
    )
    with database.reading() as session:
        counts = {ItemState(state): number for state, number in session.execute(query)}
    return {state: counts.get(state, 0) for state in ItemState}


def set_batch_state(
    database: Database, batch_id: str, state: BatchState, reason: str | None = None
) -> bool:
    """Change the state of a batch; False if it is not known, cancelled or completed."""
    with database.writing() as session:
        ended = (BatchState.CANCELLED.value, BatchState.COMPLETED.value)
        result = session.execute(
            update(BatchRow)
            .where(BatchRow.batch_id == batch_id, BatchRow.state.not_in(ended))
            .values(state=state.value, reason=reason)
            .returning(BatchRow.batch_id)
        )
        if result.first() is None:
            return False
        if state is BatchState.CANCELLED:
            session.execute(
                update(BatchItemRow)
                .where(BatchItemRow.batch_id == batch_id)
                .where(BatchItemRow.state == ItemState.WAITING.value)
                .values(state=ItemState.CANCELLED.value)
            )
        return True


def set_item_state(
    database: Database, batch_id: str, position: int, state: ItemState, task_id: str | None = None
) -> None:
    """Change the state of an item; a task's id, once known, stays."""
    values = {"state": state.value} | ({} if task_id is None else {"task_id": task_id})
    with database.writing() as session:
        session.execute(
            update(BatchItemRow)
            .where(BatchItemRow.batch_id == batch_id, BatchItemRow.position == position)
            .values(values)
        )


def _batch(row: BatchRow) -> Batch:
    columns = {name: getattr(row, name) for name in Batch.__slots__}
    return Batch(**columns | {"state": BatchState(row.state)})


def _item(row: BatchItemRow) -> BatchItem:
    columns = {name: getattr(row, name) for name in BatchItem.__slots__}
    return BatchItem(**columns | {"state": ItemState(row.state)})
