"""Limits by resource: a holder waits for a slot, renews it while it works, and releases it.

A slot that is not renewed in time counts no more, so a dead holder keeps none. Times are those of
the database, because the clocks of hosts differ.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import delete, select, text
from sqlalchemy.orm import Mapped, Session, mapped_column

from absurd_contimg.registry.database import Database
from absurd_contimg.registry.models import Base
from absurd_contimg.registry.stored_types import UnixSeconds

_CLOCKS = {
    "postgresql": "select extract(epoch from clock_timestamp())::double precision",
    "sqlite": "select (julianday('now') - 2440587.5) * 86400.0",
}
"""Unix seconds; the difference is the Unix epoch."""


class ResourceSlotRow(Base):
    """A slot that is taken, or a place in the line of those who wait for one."""

    __tablename__ = "resource_slots"
    resource: Mapped[str] = mapped_column(primary_key=True)
    holder: Mapped[str] = mapped_column(primary_key=True)
    taken: Mapped[bool]
    since: Mapped[UnixSeconds]
    """Unix seconds, as the end: when it was taken, or when the wait began."""
    expires_at: Mapped[UnixSeconds]


@dataclass(frozen=True, slots=True)
class ResourceSlot:
    """A slot that is taken, or the wait for one."""

    resource: str
    holder: str
    taken: bool
    seconds: float
    """Since it was taken, or since the wait began."""

    def __str__(self) -> str:
        action = "has a slot" if self.taken else "waits for a slot"
        return f"{self.holder} {action} for {self.seconds:.0f} s"


class ResourceSlots:
    """The slots in the registry."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def take(self, resource: str, holder: str, limit: int, seconds: float) -> list[str]:
        """Take a slot that ends after `seconds`; if there is none, who holds them.

        A holder without a slot waits from its first call on, as long as it calls again within
        `seconds`; those who wait longer go before it. With a slot, a call moves the slot's end.
        """
        with self._database.writing() as session:
            now = database_time(session)
            own = session.get(ResourceSlotRow, (resource, holder))
            if own is None:
                own = ResourceSlotRow(resource=resource, holder=holder, taken=False, since=now)
                session.add(own)
            own.expires_at = now + seconds
            session.flush()
            expired = ResourceSlotRow.expires_at <= now
            session.execute(
                delete(ResourceSlotRow).where(ResourceSlotRow.resource == resource, expired)
            )
            if own.taken:
                return []
            rows = session.scalars(
                select(ResourceSlotRow)
                .where(ResourceSlotRow.resource == resource)
                .order_by(ResourceSlotRow.since, ResourceSlotRow.holder)
            ).all()
            taken = [row.holder for row in rows if row.taken]
            line = [row.holder for row in rows if not row.taken]
            if len(taken) + line.index(holder) >= limit:
                return taken or line[: line.index(holder)]
            own.taken, own.since = True, now
            return []

    def release(self, resource: str, holder: str) -> None:
        """End the slot or the wait of a holder; none is no error."""
        with self._database.writing() as session:
            session.execute(
                delete(ResourceSlotRow).where(
                    ResourceSlotRow.resource == resource, ResourceSlotRow.holder == holder
                )
            )

    def slots(self) -> list[ResourceSlot]:
        """The slots and waits that have not expired, by resource and age."""
        with self._database.reading() as session:
            now = database_time(session)
            rows = session.scalars(
                select(ResourceSlotRow)
                .where(ResourceSlotRow.expires_at > now)
                .order_by(ResourceSlotRow.resource, ResourceSlotRow.since, ResourceSlotRow.holder)
            )
            return [
                ResourceSlot(row.resource, row.holder, row.taken, max(now - row.since, 0.0))
                for row in rows
            ]


def database_time(session: Session) -> float:
    """Unix seconds of the database's clock."""
    return float(session.execute(text(_CLOCKS[session.get_bind().dialect.name])).scalar_one())
