"""Which site the registry serves for a queue: what tells it from another site's, wherever it is."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Mapped, mapped_column

from absurd_contimg.registry.database import Database
from absurd_contimg.registry.models import Base


class QueueSiteRow(Base):
    """The site of a queue."""

    __tablename__ = "queue_sites"
    queue: Mapped[str] = mapped_column(primary_key=True)
    site: Mapped[str]


def site_of_queue(database: Database, queue: str) -> str | None:
    """The site that the registry serves for a queue; None if it has served none."""
    query = select(QueueSiteRow.site).where(QueueSiteRow.queue == queue)
    with database.reading() as session:
        return session.scalars(query).one_or_none()


def serves_site(database: Database, site: str) -> bool:
    """Whether the registry serves this site for any queue."""
    query = select(QueueSiteRow.queue).where(QueueSiteRow.site == site).limit(1)
    with database.reading() as session:
        return session.scalars(query).first() is not None


def enter_site(database: Database, queues: Sequence[str], site: str) -> None:
    """Let the registry serve this site for the queues."""
    with database.writing() as session:
        for queue in queues:
            session.merge(QueueSiteRow(queue=queue, site=site))
