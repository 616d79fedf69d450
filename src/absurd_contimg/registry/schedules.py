"""Schedules: what is to be started at which civil or sidereal times."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Mapped, mapped_column

from absurd_contimg.registry.database import Database
from absurd_contimg.registry.models import Base, row_values
from absurd_contimg.registry.stored_types import StoredBigInteger, StoredState


class ScheduleKind(StrEnum):
    """By which clock a schedule goes."""

    CIVIL = "civil"
    SIDEREAL = "sidereal"


class CatchUp(StrEnum):
    """Which slots are run that passed while nothing looked, or while the last run went on."""

    ALL = "all"
    """Each of them, one after another."""
    LATEST = "latest"
    SKIP = "skip"
    """None: the next slot is the next that is seen in time."""


class ScheduleRow(Base):
    """A schedule."""

    __tablename__ = "schedules"
    name: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(StoredState(ScheduleKind))
    spec: Mapped[str]
    action: Mapped[dict[str, Any]]
    catch_up: Mapped[str]
    last_slot: Mapped[int | None] = mapped_column(StoredBigInteger)
    last_run: Mapped[str | None]
    outcome: Mapped[str | None]


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule: `action` at the slots of `spec`."""

    name: str
    kind: ScheduleKind
    spec: str
    action: dict[str, Any]
    catch_up: CatchUp
    last_slot: int | None = None
    """The number of the last slot that was dealt with: the next one is due after it."""
    last_run: str | None = None
    """What that slot started."""
    outcome: str | None = None
    """Of that slot, for operators."""


class Schedules:
    """The schedules in the registry."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, schedule: Schedule) -> bool:
        """Enter a schedule; False, and no change, if there is one of that name."""
        with self._database.writing() as session:
            if session.get(ScheduleRow, schedule.name) is not None:
                return False
            session.add(ScheduleRow(**row_values(schedule)))
            return True

    def remove(self, name: str) -> bool:
        """Remove a schedule; False if there is none of that name."""
        with self._database.writing() as session:
            result = session.execute(
                delete(ScheduleRow).where(ScheduleRow.name == name).returning(ScheduleRow.name)
            )
            return result.first() is not None

    def schedules(self) -> list[Schedule]:
        """All schedules by name."""
        with self._database.reading() as session:
            return [
                Schedule(
                    name=row.name,
                    kind=ScheduleKind(row.kind),
                    spec=row.spec,
                    action=row.action,
                    catch_up=CatchUp(row.catch_up),
                    last_slot=row.last_slot,
                    last_run=row.last_run,
                    outcome=row.outcome,
                )
                for row in session.scalars(select(ScheduleRow).order_by(ScheduleRow.name))
            ]

    def advance(
        self, schedule: Schedule, last_slot: int | None, last_run: str | None, outcome: str
    ) -> bool:
        """Note the last slot, what it started and its outcome; False if it was changed since."""
        with self._database.writing() as session:
            result = session.execute(
                update(ScheduleRow)
                .where(ScheduleRow.name == schedule.name, ScheduleRow.spec == schedule.spec)
                .where(ScheduleRow.last_slot.is_not_distinct_from(schedule.last_slot))
                .values(last_slot=last_slot, last_run=last_run, outcome=outcome)
                .returning(ScheduleRow.name)
            )
            return result.first() is not None
