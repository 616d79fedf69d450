"""The registry's tables of groups, their files, products and calibrations.

Windows, mosaics, photometry, publications, batches, slots and schedules have a module each. A
change here or there is a migration (`migrations/versions/`). Times are MJD (UTC, days) or Unix
seconds; angles are degrees, ICRS or apparent.
"""

from __future__ import annotations

from dataclasses import asdict
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    ForeignKey,
    Index,
    MetaData,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from absurd_contimg.registry.stored_types import (
    TYPES,
    IsoTime,
    Mjd,
    StoredBigInteger,
    StoredState,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

LAST_SCHEMA_VERSION = 2
"""From this version on Alembic's own table counts; software of version 1 refuses it."""


class GroupStatus(StrEnum):
    """The status of an observation group. The first four are steps of progress, in order."""

    DISCOVERED = "discovered"
    CONVERTED = "converted"
    CALIBRATED = "calibrated"
    IMAGED = "imaged"
    DONE = "done"
    DEGRADED = "degraded"
    """Completed, with an image that failed a quality gate."""
    QUARANTINED = "quarantined"
    """Failed because its data are not good enough; the reason says why."""
    FAILED = "failed"
    WAITING_FOR_CALIBRATION = "waiting_for_calibration"


class IngestState(StrEnum):
    """Whether more files may join a group."""

    COLLECTING = "collecting"
    CLOSED = "closed"
    REJECTED = "rejected"
    """Closed with too few sub-bands; `closed_reason` says so."""


class FileState(StrEnum):
    """The state of a sub-band file."""

    ARRIVING = "arriving"
    """Its size or time still changes, or it is too young."""
    WHOLE = "whole"
    REFUSED = "refused"
    """It cannot be read, or another file of the group has its sub-band."""
    LATE = "late"
    """It came after its group was closed."""
    CHANGED = "changed"
    """It changed after it was accepted."""
    GONE = "gone"
    """It is no longer on disk."""


class Base(DeclarativeBase):
    """Of all tables."""

    metadata = MetaData()
    type_annotation_map = TYPES


def row_values(record: DataclassInstance) -> dict[str, Any]:
    """The fields of a record as values of columns: those of enumerations as text."""
    return asdict(
        record,
        dict_factory=lambda pairs: {
            name: value.value if isinstance(value, Enum) else value for name, value in pairs
        },
    )


class SchemaVersion(Base):
    """One row: 1, or 2 where Alembic counts the versions."""

    __tablename__ = "registry_schema"
    version: Mapped[int] = mapped_column(primary_key=True)


class ObservationGroup(Base):
    """About five minutes of telescope, named by its earliest sub-band's timestamp."""

    __tablename__ = "observation_groups"
    group_id: Mapped[str] = mapped_column(primary_key=True)
    status: Mapped[str] = mapped_column(StoredState(GroupStatus))
    reason: Mapped[str | None]
    mid_mjd: Mapped[Mjd | None] = mapped_column(index=True)
    """From a file's header or else the Measurement Set, as the declination; None: not known yet."""
    declination_deg: Mapped[float | None]
    """Apparent declination of the strip."""
    ingest_state: Mapped[str] = mapped_column(
        StoredState(IngestState),
        default=IngestState.CLOSED.value,
        server_default=IngestState.CLOSED.value,
        index=True,
    )
    closed_reason: Mapped[str | None]
    """While it is collecting: why a daemon that polled once found its wait over."""
    n_subbands: Mapped[int | None]
    """Accepted at closing."""
    closed_at: Mapped[IsoTime | None]
    files_version: Mapped[int] = mapped_column(default=1, server_default="1")
    """Counts up when a closed group is opened again for changed or late files."""
    task_id: Mapped[str | None]
    """The pipeline task of these files, noted after it was spawned."""
    photometry_task_id: Mapped[str | None]


class SubbandFile(Base):
    """One UVH5 file and the group it belongs to."""

    __tablename__ = "subband_files"
    path: Mapped[str] = mapped_column(primary_key=True)
    group_id: Mapped[str] = mapped_column(ForeignKey(ObservationGroup.group_id), index=True)
    subband: Mapped[int]
    timestamp_seconds: Mapped[int] = mapped_column(StoredBigInteger, index=True)
    """Unix time of the timestamp in its name."""
    size: Mapped[int | None] = mapped_column(StoredBigInteger)
    """Bytes; None, as the time, for files of earlier versions."""
    mtime_ns: Mapped[int | None] = mapped_column(StoredBigInteger)
    state: Mapped[str] = mapped_column(
        StoredState(FileState),
        default=FileState.WHOLE.value,
        server_default=FileState.WHOLE.value,
        index=True,
    )
    reason: Mapped[str | None]
    first_seen: Mapped[IsoTime | None]
    """ISO 8601, UTC."""
    unchanged_since: Mapped[IsoTime | None]
    """The first look that gave this size and time."""


class Product(Base):
    """A committed product: the head of its manifest."""

    __tablename__ = "products"
    key: Mapped[str] = mapped_column(primary_key=True)
    stage: Mapped[str]
    stage_version: Mapped[int]
    group_id: Mapped[str] = mapped_column(index=True)
    """A group, or for mosaics and their photometry a window."""
    folder: Mapped[str]
    outputs: Mapped[dict[str, Any]]
    created_at: Mapped[IsoTime]
    attempt: Mapped[str]
    host: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(StoredBigInteger)
    __table_args__ = (Index("ix_products_stage_group_id", "stage", "group_id"),)


class MeasurementSetRow(Base):
    """A Measurement Set in a product. `kind` is ``raw``, ``flagged`` or ``calibrated``."""

    __tablename__ = "measurement_sets"
    path: Mapped[str] = mapped_column(primary_key=True)
    product_key: Mapped[str] = mapped_column(ForeignKey(Product.key), index=True)
    group_id: Mapped[str] = mapped_column(ForeignKey(ObservationGroup.group_id), index=True)
    kind: Mapped[str]
    start_mjd: Mapped[Mjd]
    mid_mjd: Mapped[Mjd]
    end_mjd: Mapped[Mjd]
    ra_deg: Mapped[float]
    dec_deg: Mapped[float]
    declination_deg: Mapped[float]
    """Apparent declination of the strip."""
    n_rows: Mapped[int] = mapped_column(StoredBigInteger)
    n_channels: Mapped[int]
    flagged_fraction: Mapped[float]


class CaltableSetRow(Base):
    """The solutions of one calibrator observation, valid for a span of time."""

    __tablename__ = "caltable_sets"
    product_key: Mapped[str] = mapped_column(ForeignKey(Product.key), primary_key=True)
    set_name: Mapped[str]
    group_id: Mapped[str] = mapped_column(ForeignKey(ObservationGroup.group_id), index=True)
    source_ms: Mapped[str]
    calibrator: Mapped[str]
    refant: Mapped[str]
    declination_deg: Mapped[float]
    mid_mjd: Mapped[Mjd] = mapped_column(index=True)
    valid_start_mjd: Mapped[Mjd]
    valid_end_mjd: Mapped[Mjd]
    status: Mapped[str]
    """``active`` or ``retired``."""
    retired_reason: Mapped[str | None]
    created_at: Mapped[IsoTime]
    quality: Mapped[dict[str, Any]]


class CaltableRow(Base):
    """One calibration table of a set."""

    __tablename__ = "caltables"
    path: Mapped[str] = mapped_column(primary_key=True)
    product_key: Mapped[str] = mapped_column(ForeignKey(CaltableSetRow.product_key), index=True)
    type: Mapped[str]
    """K, BA, BP, GA, GP, 2G or FLUX."""
    apply_order: Mapped[int]
    interp: Mapped[str]


class ImageRow(Base):
    """An image product; `details` has the outputs of its stage."""

    __tablename__ = "images"
    product_key: Mapped[str] = mapped_column(ForeignKey(Product.key), primary_key=True)
    group_id: Mapped[str] = mapped_column(ForeignKey(ObservationGroup.group_id), index=True)
    folder: Mapped[str]
    details: Mapped[dict[str, Any]]


class ValidationRow(Base):
    """The validation of an image; `details` has the outputs of its stage."""

    __tablename__ = "validations"
    product_key: Mapped[str] = mapped_column(ForeignKey(Product.key), primary_key=True)
    group_id: Mapped[str] = mapped_column(ForeignKey(ObservationGroup.group_id), index=True)
    details: Mapped[dict[str, Any]]
