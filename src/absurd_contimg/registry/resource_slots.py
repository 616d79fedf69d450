"""Limits by resource: a holder takes a slot, renews it while it works, and releases it.

A slot that is not renewed in time counts no more, so a dead holder keeps none.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Mapped, mapped_column

from absurd_contimg.registry.database import Database
from absurd_contimg.registry.models import Base


class ResourceSlotRow(Base):
    """A slot that is taken."""

    __tablename__ = "resource_slots"
    resource: Mapped[str] = mapped_column(primary_key=True)
    holder: Mapped[str] = mapped_column(primary_key=True)
    expires_at: Mapped[float]
    """Unix seconds."""


@dataclass(frozen=True, slots=True)
class ResourceSlot:
    """A slot that is taken, until `expires_at` (Unix seconds)."""

    resource: str
    holder: str
    expires_at: float


def take_slot(
    database: Database, resource: str, holder: str, *, limit: int, now: float, expires_at: float
) -> bool:
    """Take a slot, or renew the holder's own; False if `limit` others are taken.

    Times are Unix seconds. Slots that have expired are removed.
    """
    with database.writing() as session:
        session.execute(
            delete(ResourceSlotRow)
            .where(ResourceSlotRow.resource == resource)
            .where(ResourceSlotRow.expires_at <= now)
        )
        row = session.get(ResourceSlotRow, (resource, holder))
        if row is not None:
            row.expires_at = expires_at
            return True
        taken = session.scalar(select(func.count()).where(ResourceSlotRow.resource == resource))
        if (taken or 0) >= limit:
            return False
        session.add(ResourceSlotRow(resource=resource, holder=holder, expires_at=expires_at))
        return True


def renew_slots(database: Database, holder: str, *, now: float, expires_at: float) -> int:
    """Move the end of all slots that a holder has; returns how many have not expired."""
    with database.writing() as session:
        result = session.execute(
            update(ResourceSlotRow)
            .where(ResourceSlotRow.holder == holder, ResourceSlotRow.expires_at > now)
            .values(expires_at=expires_at)
            .returning(ResourceSlotRow.resource)
        )
        return len(result.all())


def release_slots(database: Database, holder: str, resource: str | None = None) -> None:
    """Release the slots of a holder, or the one of a resource; none is no error."""
    query = delete(ResourceSlotRow).where(ResourceSlotRow.holder == holder)
    if resource is not None:
        query = query.where(ResourceSlotRow.resource == resource)
    with database.writing() as session:
        session.execute(query)


def list_slots(database: Database, now: float) -> list[ResourceSlot]:
    """The slots that are taken at a time (Unix seconds)."""
    query = (
        select(ResourceSlotRow)
        .where(ResourceSlotRow.expires_at > now)
        .order_by(ResourceSlotRow.resource, ResourceSlotRow.holder)
    )
    with database.reading() as session:
        return [
            ResourceSlot(row.resource, row.holder, row.expires_at) for row in session.scalars(query)
        ]
