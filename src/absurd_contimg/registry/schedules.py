"""Schedules: what is to be spawned at which civil or sidereal times."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Mapped, mapped_column

from absurd_contimg.registry.database import Database
from absurd_contimg.registry.models import Base, row_values


class ScheduleKind(StrEnum):
    """By which clock a schedule goes."""

    CIVIL = "civil"
    SIDEREAL = "sidereal"


class CatchUp(StrEnum):
    """Which slots are run that passed while nothing looked."""

    ALL = "all"
    LATEST = "latest"
    SKIP = "skip"


class ScheduleRow(Base):
    """A schedule."""

    __tablename__ = "schedules"
    name: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    spec: Mapped[str]
    action: Mapped[dict[str, Any]]
    catch_up: Mapped[str]
    last_slot: Mapped[str | None]


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule: `action` at the slots of `spec`, of which `last_slot` was the last run."""

    name: str
    kind: ScheduleKind
    spec: str
    action: dict[str, Any]
    catch_up: CatchUp
    last_slot: str | None = None


def enter_schedule(database: Database, schedule: Schedule) -> None:
    """Enter a schedule, or change the one of that name; its last slot stays."""
    with database.writing() as session:
        row = session.get(ScheduleRow, schedule.name)
        if row is None:
            session.add(ScheduleRow(**row_values(schedule)))
        else:
            row.kind, row.spec = schedule.kind.value, schedule.spec
            row.action, row.catch_up = schedule.action, schedule.catch_up.value


def remove_schedule(database: Database, name: str) -> bool:
    """Remove a schedule; False if there is none of that name."""
    with database.writing() as session:
        result = session.execute(
            delete(ScheduleRow).where(ScheduleRow.name == name).returning(ScheduleRow.name)
        )
        return result.first() is not None


def list_schedules(database: Database) -> list[Schedule]:
    """All schedules by name."""
    with database.reading() as session:
        return [
            Schedule(
                row.name,
                ScheduleKind(row.kind),
                row.spec,
                row.action,
                CatchUp(row.catch_up),
                row.last_slot,
            )
            for row in session.scalars(select(ScheduleRow).order_by(ScheduleRow.name))
        ]


def advance_schedule(database: Database, name: str, earlier: str | None, slot: str) -> bool:
    """Note that a slot was run after the slot `earlier`; False if another process did."""
    with database.writing() as session:
        result = session.execute(
            update(ScheduleRow)
            .where(ScheduleRow.name == name)
            .where(ScheduleRow.last_slot.is_not_distinct_from(earlier))
            .values(last_slot=slot)
            .returning(ScheduleRow.name)
        )
        return result.first() is not None
