"""Pauses of queues: nothing is claimed from a paused queue until it is resumed.

A stop is a pause that also ends what is running, on all hosts: it goes back to the queue.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import false, select
from sqlalchemy.orm import Mapped, mapped_column

from absurd_contimg.registry.database import Database
from absurd_contimg.registry.models import Base, row_values
from absurd_contimg.registry.stored_types import IsoTime


class QueuePauseRow(Base):
    """A queue that is paused."""

    __tablename__ = "queue_pauses"
    queue: Mapped[str] = mapped_column(primary_key=True)
    reason: Mapped[str]
    since: Mapped[IsoTime]
    by: Mapped[str]
    ends_running: Mapped[bool] = mapped_column(default=False, server_default=false())


@dataclass(frozen=True, slots=True)
class QueuePause:
    """Why, since when (ISO 8601, UTC) and by whom a queue is paused."""

    queue: str
    reason: str
    since: str
    by: str
    ends_running: bool = False
    """What runs goes back to the queue at once."""

    def __str__(self) -> str:
        return self.sentence("is")

    def sentence(self, verb: str) -> str:
        """Who has paused it; with the verb ``was`` of a pause that has ended."""
        how = "stopped" if self.ends_running else "paused"
        reason = self.reason.rstrip(".")
        return f"queue {self.queue} {verb} {how} by {self.by} since {self.since}: {reason}"


class QueuePauses:
    """The pauses in the registry; of two operators at once, one changes it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def pause(self, *pauses: QueuePause) -> list[QueuePause]:
        """Pause queues, all or none; for each the pause that holds afterwards.

        That is an earlier one if there is one.
        """
        with self._database.writing() as session:
            rows = [session.get(QueuePauseRow, pause.queue) for pause in pauses]
            holding = list[QueuePause]()
            for pause, row in zip(pauses, rows, strict=True):
                holding.append(pause if row is None else _pause(row))
                if row is None:
                    session.add(QueuePauseRow(**row_values(pause)))
            return holding

    def stop(self, *stops: QueuePause) -> list[QueuePause | None]:
        """Stop queues, whatever else holds them, all or none; each stop takes a pause's place.

        Returns these pauses. A resumption at the same moment ends all of the stops or none.
        """
        with self._database.writing() as session:
            rows = [session.get(QueuePauseRow, stop.queue) for stop in stops]
            earlier = [None if row is None else _pause(row) for row in rows]
            for stop in stops:
                session.merge(QueuePauseRow(**row_values(stop)))
            return earlier

    def enter(self, stop: QueuePause, is_wanted: Callable[[], bool]) -> None:
        """Stop a queue that is not stopped, if that is still wanted when this is the only writer.

        Its end, which waits for the same lock, may come first.
        """
        with self._database.writing() as session:
            row = session.get(QueuePauseRow, stop.queue)
            if is_wanted() and (row is None or not row.ends_running):
                session.merge(QueuePauseRow(**row_values(stop)))

    def end_stop(self, stop: QueuePause, earlier: QueuePause | None) -> QueuePause | None:
        """End one's own stop and put back what it took the place of; the pause that holds now.

        Another operator's stop or pause, which came meanwhile, stays.
        """
        with self._database.writing() as session:
            row = session.get(QueuePauseRow, stop.queue)
            if row is None or _pause(row) != stop:
                return None if row is None else _pause(row)
            if earlier is None:
                session.delete(row)
            else:
                session.merge(QueuePauseRow(**row_values(earlier)))
            return earlier

    def resume(self, *queues: str) -> list[QueuePause]:
        """End the pauses of queues, all or none; those that have ended."""
        with self._database.writing() as session:
            looked_up = (session.get(QueuePauseRow, each) for each in dict.fromkeys(queues))
            rows = [row for row in looked_up if row is not None]
            ended = [_pause(row) for row in rows]
            for row in rows:
                session.delete(row)
            return ended

    def of_queue(self, queue: str) -> QueuePause | None:
        """The pause of a queue, None if it is not paused."""
        with self._database.reading() as session:
            row = session.get(QueuePauseRow, queue)
            return None if row is None else _pause(row)

    def pauses(self) -> list[QueuePause]:
        """The pauses of all queues."""
        with self._database.reading() as session:
            rows = session.scalars(select(QueuePauseRow).order_by(QueuePauseRow.queue))
            return [_pause(row) for row in rows]


def _pause(row: QueuePauseRow) -> QueuePause:
    return QueuePause(row.queue, row.reason, row.since, row.by, row.ends_running)
