"""Free space of the site's file systems over time, from which the hours to a full disk follow."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import cast, delete, func, select
from sqlalchemy.orm import Mapped, mapped_column

from absurd_contimg.registry.database import Database
from absurd_contimg.registry.models import Base, row_values
from absurd_contimg.registry.stored_types import StoredBigInteger, UnixSeconds


class DiskSampleRow(Base):
    """Free space at one moment."""

    __tablename__ = "disk_samples"
    host: Mapped[str] = mapped_column(primary_key=True)
    folder: Mapped[str] = mapped_column(primary_key=True)
    at: Mapped[UnixSeconds] = mapped_column(primary_key=True)
    free_bytes: Mapped[float]
    total_bytes: Mapped[float]
    free_inodes: Mapped[float | None]
    total_inodes: Mapped[float | None]


@dataclass(frozen=True, slots=True)
class DiskSample:
    """The file system of a folder, seen from a host at a moment (Unix seconds of the database)."""

    host: str
    folder: str
    at: float
    free_bytes: float
    total_bytes: float
    free_inodes: float | None = None
    """None where the file system has no fixed number of inodes."""
    total_inodes: float | None = None


def store_samples(
    database: Database, samples: list[DiskSample], kept_since: float | None = None
) -> None:
    """Enter samples; those of their hosts from before `kept_since` are removed."""
    with database.writing() as session:
        for sample in samples:
            session.merge(DiskSampleRow(**row_values(sample)))
        if kept_since is not None:
            hosts = {sample.host for sample in samples}
            session.execute(
                delete(DiskSampleRow).where(
                    DiskSampleRow.host.in_(hosts), DiskSampleRow.at < kept_since
                )
            )


def list_samples(database: Database, since: float) -> list[DiskSample]:
    """The samples from a moment on, by host, folder and time."""
    query = (
        select(DiskSampleRow)
        .where(DiskSampleRow.at >= since)
        .order_by(DiskSampleRow.host, DiskSampleRow.folder, DiskSampleRow.at)
    )
    with database.reading() as session:
        return [_sample(row) for row in session.scalars(query)]


def thinned_samples(
    database: Database, since: float, bucket_seconds: float = 600.0
) -> list[DiskSample]:
    """The last sample of each span of `bucket_seconds`, by host, folder and time.

    Enough for a rate, and few rows however often and by however many workers samples are taken.
    """
    bucket = cast(DiskSampleRow.at / bucket_seconds, StoredBigInteger)
    last = (
        select(DiskSampleRow.host, DiskSampleRow.folder, func.max(DiskSampleRow.at).label("at"))
        .where(DiskSampleRow.at >= since)
        .group_by(DiskSampleRow.host, DiskSampleRow.folder, bucket)
        .subquery()
    )
    query = (
        select(DiskSampleRow)
        .join(
            last,
            (DiskSampleRow.host == last.c.host)
            & (DiskSampleRow.folder == last.c.folder)
            & (DiskSampleRow.at == last.c.at),
        )
        .order_by(DiskSampleRow.host, DiskSampleRow.folder, DiskSampleRow.at)
    )
    with database.reading() as session:
        return [_sample(row) for row in session.scalars(query)]


def _sample(row: DiskSampleRow) -> DiskSample:
    return DiskSample(**{name: getattr(row, name) for name in DiskSample.__slots__})
