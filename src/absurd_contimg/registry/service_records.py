"""The processes of a site: each writes what it is and does, so that all hosts see all of them.

A record that is no longer renewed is what remains of a process that died. Times are Unix seconds of
the database's clock, which all hosts share.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import delete, select
from sqlalchemy.orm import Mapped, mapped_column

from absurd_contimg.registry.database import Database
from absurd_contimg.registry.models import Base, row_values
from absurd_contimg.registry.stored_types import StoredState, UnixSeconds

RENEWAL_SECONDS = 15.0
"""How often a living process renews its record."""

SILENT_AFTER_SECONDS = 60.0
"""A process whose record is older counts as silent: four renewals are missing."""

CLOCK_OFFSET_SECONDS_MAX = 2.0
"""A host whose clock differs more from the database's is warned of."""


class ServiceKind(StrEnum):
    """What a process is."""

    WORKER = "worker"
    DAEMON = "daemon"
    API = "api"
    DASHBOARD = "dashboard"


class ServiceRow(Base):
    """A process."""

    __tablename__ = "service_records"
    kind: Mapped[str] = mapped_column(StoredState(ServiceKind), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    host: Mapped[str]
    pid: Mapped[int]
    version: Mapped[str]
    queues: Mapped[str]
    started_at: Mapped[UnixSeconds]
    seen_at: Mapped[UnixSeconds]
    stopped_at: Mapped[UnixSeconds | None]
    activity: Mapped[str]
    problem: Mapped[str]
    clock_offset_seconds: Mapped[float]
    memory_bytes: Mapped[float]


@dataclass(frozen=True, slots=True)
class ServiceRecord:
    """One process, by its kind and name."""

    kind: ServiceKind
    name: str
    host: str
    pid: int
    version: str
    """Of this package."""
    queues: str
    """Separated by commas; empty for processes that claim nothing."""
    started_at: float
    seen_at: float
    stopped_at: float | None = None
    """When it ended in order; None while it runs, and of one that died."""
    activity: str = ""
    """What it does now, for people."""
    problem: str = ""
    """Why it does not do its work: a full disk, a registry that is away."""
    clock_offset_seconds: float = 0.0
    """Its host's clock minus the database's."""
    memory_bytes: float = 0.0
    """Resident memory of the process and its children."""

    def is_silent(self, now: float) -> bool:
        """Whether it has not been heard of although it did not say that it ends."""
        return self.stopped_at is None and now - self.seen_at > SILENT_AFTER_SECONDS


def store_service(database: Database, record: ServiceRecord) -> None:
    """Enter or renew the record of a process."""
    with database.writing() as session:
        session.merge(ServiceRow(**row_values(record)))


def list_services(database: Database) -> list[ServiceRecord]:
    """All records, by kind and name."""
    query = select(ServiceRow).order_by(ServiceRow.kind, ServiceRow.name)
    with database.reading() as session:
        return [_record(row) for row in session.scalars(query)]


def forget_services(database: Database, seen_before: float) -> int:
    """Remove the records of processes that were not heard of since; how many went.

    Those of daemons stay: that a site has none any more is worth a warning.
    """
    old = (ServiceRow.seen_at < seen_before) & (ServiceRow.kind != ServiceKind.DAEMON)
    query = delete(ServiceRow).where(old).returning(ServiceRow.name)
    with database.writing() as session:
        return len(session.execute(query).all())


def _record(row: ServiceRow) -> ServiceRecord:
    values = {name: getattr(row, name) for name in ServiceRecord.__slots__}
    return ServiceRecord(**{**values, "kind": ServiceKind(row.kind)})
