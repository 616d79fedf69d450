"""Mosaics: rows that are derived from the manifests of mosaic products."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from sqlalchemy import ForeignKey, select
from sqlalchemy.orm import Mapped, mapped_column

from absurd_contimg.registry.database import Database
from absurd_contimg.registry.models import Base, Product


class MosaicTier(StrEnum):
    """What a mosaic is made of."""

    QUICKLOOK = "quicklook"
    """One window."""
    NIGHTLY = "nightly"
    DEEP = "deep"
    """Many nights."""


class MosaicRow(Base):
    """A mosaic product; `details` has the outputs of its stage."""

    __tablename__ = "mosaics"
    product_key: Mapped[str] = mapped_column(ForeignKey(Product.key), primary_key=True)
    window_id: Mapped[str] = mapped_column(index=True)
    tier: Mapped[str]
    folder: Mapped[str]
    mid_mjd: Mapped[float] = mapped_column(index=True)
    details: Mapped[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Mosaic:
    """A committed mosaic with its weight plane."""

    product_key: str
    window_id: str
    tier: MosaicTier
    folder: Path
    mid_mjd: float
    details: dict[str, Any]


def list_mosaics(
    database: Database, tier: MosaicTier | None = None, window_id: str | None = None
) -> list[Mosaic]:
    """The mosaics of a tier or a window, in the order of time."""
    query = select(MosaicRow).order_by(MosaicRow.mid_mjd, MosaicRow.product_key)
    if tier is not None:
        query = query.where(MosaicRow.tier == tier.value)
    if window_id is not None:
        query = query.where(MosaicRow.window_id == window_id)
    with database.reading() as session:
        return [_mosaic(database, row) for row in session.scalars(query)]


def _mosaic(database: Database, row: MosaicRow) -> Mosaic:
    return Mosaic(
        row.product_key,
        row.window_id,
        MosaicTier(row.tier),
        Path(database.resolved(row.folder)),
        row.mid_mjd,
        database.resolved(row.details),
    )
