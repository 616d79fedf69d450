"""Photometry: rows that are derived from the tables of photometry products."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import ForeignKey, Index, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from absurd_contimg.core.records import Json
from absurd_contimg.errors import MissingInputError
from absurd_contimg.registry.database import Database, chunks, patient
from absurd_contimg.registry.models import Base, ImageRow, Product
from absurd_contimg.registry.mosaics import MosaicRow
from absurd_contimg.registry.stored_types import Mjd

PHOTOMETRY_STAGE = "photometry"
"""The name of the stage whose products hold the measurements."""


class PhotometryRow(Base):
    """The flux density of a source in one image or mosaic."""

    __tablename__ = "photometry"
    product_key: Mapped[str] = mapped_column(ForeignKey(Product.key), primary_key=True)
    source: Mapped[str] = mapped_column(primary_key=True)
    group_id: Mapped[str] = mapped_column(index=True)
    """The group of the image, or the window of the mosaic."""
    mjd: Mapped[Mjd]
    ra_deg: Mapped[float]
    dec_deg: Mapped[float]
    flux_jy: Mapped[float]
    error_jy: Mapped[float]
    catalogue_jy: Mapped[float | None]
    flags: Mapped[str]
    """Names of flags, separated by blanks; empty for a good measurement."""
    __table_args__ = (Index("ix_photometry_source_mjd", "source", "mjd"),)


@dataclass(frozen=True, slots=True)
class FluxMeasurement:
    """The flux density of a source in one image or mosaic; errors are 1 sigma."""

    product_key: str
    source: str
    group_id: str
    mjd: float
    ra_deg: float
    dec_deg: float
    flux_jy: float
    error_jy: float
    catalogue_jy: float | None
    flags: str


def list_measurements(
    database: Database, *, source: str | None = None, group_id: str | None = None
) -> list[FluxMeasurement]:
    """The measurements of a source, or of a group or window, in the order of time."""
    query = select(PhotometryRow).order_by(
        PhotometryRow.mjd, PhotometryRow.source, PhotometryRow.product_key
    )
    if source is not None:
        query = query.where(PhotometryRow.source == source)
    if group_id is not None:
        query = query.where(PhotometryRow.group_id == group_id)
    with database.reading() as session:
        return [_measurement(row) for row in session.scalars(query)]


def newest_measurements(
    database: Database,
    measured_in: Literal["image", "mosaic"],
    declinations_deg: tuple[float, float] = (-90.0, 90.0),
) -> list[FluxMeasurement]:
    """The measurements in images or in mosaics, in the order of time.

    Of a group or window that was measured several times the newest product counts.
    """
    low, high = declinations_deg
    measurements = []
    with database.reading() as session:
        products = session.execute(
            select(Product.key, Product.group_id, Product.outputs)
            .where(Product.stage == PHOTOMETRY_STAGE)
            .order_by(Product.created_at, Product.key)
        )
        newest = {
            group_id: key
            for key, group_id, outputs in products
            if outputs["photometry"]["measured_in"] == measured_in
        }
        for keys in chunks(list(newest.values())):
            query = select(PhotometryRow).where(
                PhotometryRow.product_key.in_(keys), PhotometryRow.dec_deg.between(low, high)
            )
            measurements += [_measurement(row) for row in session.scalars(query)]
    return sorted(measurements, key=lambda m: (m.mjd, m.group_id, m.source))


def source_positions(database: Database) -> dict[str, tuple[float, float]]:
    """Right ascension and declination in degrees of all sources with a measurement, by name."""
    columns = PhotometryRow.source, PhotometryRow.ra_deg, PhotometryRow.dec_deg
    query = select(*columns).distinct().order_by(*columns)
    with database.reading() as session:
        return {source: (ra, dec) for source, ra, dec in session.execute(query)}


def newest_image_key(session: Session, group_id: str) -> str | None:
    """The key of the newest image of a group, or of the newest mosaic of a window; None without."""
    for table, column in ((ImageRow, ImageRow.group_id), (MosaicRow, MosaicRow.window_id)):
        query = (
            select(table.product_key)
            .join(Product, Product.key == table.product_key)
            .where(column == group_id)
            .order_by(Product.created_at.desc(), Product.key)
            .limit(1)
        )
        if (key := session.scalar(query)) is not None:
            return key
    return None


@patient
def image_outputs(database: Database, group_id: str) -> Mapping[str, Json]:
    """The outputs of the newest image of a group, or of the newest mosaic of a window.

    Raises `MissingInputError` without any.
    """
    with database.reading() as session:
        key = newest_image_key(session, group_id)
        if key is not None:
            outputs: Mapping[str, Json] = database.resolved(session.get_one(Product, key).outputs)
            return outputs
    raise MissingInputError(
        f"There is no image of a group {group_id} and no mosaic of a window of that name.",
        "Process the group, or make the mosaic: contimg mosaic make",
    )


def _measurement(row: PhotometryRow) -> FluxMeasurement:
    return FluxMeasurement(**{name: getattr(row, name) for name in FluxMeasurement.__slots__})
