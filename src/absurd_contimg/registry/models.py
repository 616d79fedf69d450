"""The registry's tables: products, which can be rebuilt from manifests, and groups.

Times are MJD (UTC, days) or Unix seconds; angles are degrees, ICRS or apparent.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, MetaData
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

SCHEMA_VERSION = 1


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


class Base(DeclarativeBase):
    """Of all tables."""

    metadata = MetaData()
    type_annotation_map = {dict[str, Any]: JSON}  # noqa: RUF012 - SQLAlchemy's own idiom


class SchemaVersion(Base):
    """One row: the version of these tables."""

    __tablename__ = "registry_schema"
    version: Mapped[int] = mapped_column(primary_key=True)


class ObservationGroup(Base):
    """About five minutes of telescope, named by its earliest sub-band's timestamp."""

    __tablename__ = "observation_groups"
    group_id: Mapped[str] = mapped_column(primary_key=True)
    status: Mapped[str]
    reason: Mapped[str | None]


class SubbandFile(Base):
    """One UVH5 file and the group it belongs to."""

    __tablename__ = "subband_files"
    path: Mapped[str] = mapped_column(primary_key=True)
    group_id: Mapped[str] = mapped_column(ForeignKey(ObservationGroup.group_id), index=True)
    subband: Mapped[int]
    timestamp_seconds: Mapped[int] = mapped_column(BigInteger, index=True)
    """Unix time of the timestamp in its name."""


class Product(Base):
    """A committed product: the head of its manifest."""

    __tablename__ = "products"
    key: Mapped[str] = mapped_column(primary_key=True)
    stage: Mapped[str]
    stage_version: Mapped[int]
    group_id: Mapped[str] = mapped_column(ForeignKey(ObservationGroup.group_id), index=True)
    folder: Mapped[str]
    outputs: Mapped[dict[str, Any]]
    created_at: Mapped[str]
    attempt: Mapped[str]
    host: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(BigInteger)


class MeasurementSetRow(Base):
    """A Measurement Set in a product. `kind` is ``raw``, ``flagged`` or ``calibrated``."""

    __tablename__ = "measurement_sets"
    path: Mapped[str] = mapped_column(primary_key=True)
    product_key: Mapped[str] = mapped_column(ForeignKey(Product.key), index=True)
    group_id: Mapped[str] = mapped_column(ForeignKey(ObservationGroup.group_id), index=True)
    kind: Mapped[str]
    start_mjd: Mapped[float]
    mid_mjd: Mapped[float]
    end_mjd: Mapped[float]
    ra_deg: Mapped[float]
    dec_deg: Mapped[float]
    declination_deg: Mapped[float]
    """Apparent declination of the strip."""
    n_rows: Mapped[int] = mapped_column(BigInteger)
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
    mid_mjd: Mapped[float] = mapped_column(index=True)
    valid_start_mjd: Mapped[float]
    valid_end_mjd: Mapped[float]
    status: Mapped[str]
    """``active`` or ``retired``."""
    retired_reason: Mapped[str | None]
    created_at: Mapped[str]
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


DERIVED_TABLES: tuple[type[Base], ...] = (
    CaltableRow, CaltableSetRow, MeasurementSetRow, ImageRow, ValidationRow, Product,
)  # fmt: skip
"""The tables that a rebuild replaces, children before parents."""
