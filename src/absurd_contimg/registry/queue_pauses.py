"""Pauses of queues: nothing is claimed from a paused queue until it is resumed."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import delete, select
from sqlalchemy.orm import Mapped, mapped_column

from absurd_contimg.registry.database import Database
from absurd_contimg.registry.models import Base, row_values


class QueuePauseRow(Base):
    """A queue that is paused."""

    __tablename__ = "queue_pauses"
    queue: Mapped[str] = mapped_column(primary_key=True)
    reason: Mapped[str]
    since: Mapped[str]
    by: Mapped[str]


@dataclass(frozen=True, slots=True)
class QueuePause:
    """Why, since when (ISO 8601) and by whom a queue is paused."""

    queue: str
    reason: str
    since: str
    by: str


def pause_queue(database: Database, pause: QueuePause) -> bool:
    """Pause a queue; False, and no change, if it is paused."""
    with database.writing() as session:
        if session.get(QueuePauseRow, pause.queue) is not None:
            return False
        session.add(QueuePauseRow(**row_values(pause)))
        return True


def resume_queue(database: Database, queue: str) -> bool:
    """End the pause of a queue; False if there is none."""
    with database.writing() as session:
        result = session.execute(
            delete(QueuePauseRow).where(QueuePauseRow.queue == queue).returning(QueuePauseRow.queue)
        )
        return result.first() is not None


def list_queue_pauses(database: Database) -> list[QueuePause]:
    """The pauses of all queues."""
    with database.reading() as session:
        rows = session.scalars(select(QueuePauseRow).order_by(QueuePauseRow.queue))
        return [QueuePause(row.queue, row.reason, row.since, row.by) for row in rows]
