"""Mosaics: rows that are derived from the manifests of mosaic products, and images for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import ForeignKey, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from absurd_contimg.products.mosaic_outputs import MissingMember, MosaicMember, MosaicMembers
from absurd_contimg.products.outputs import ImageOutputs, ValidateOutputs, from_json
from absurd_contimg.registry.database import Database, patient
from absurd_contimg.registry.models import (
    Base,
    GroupStatus,
    ImageRow,
    MeasurementSetRow,
    ObservationGroup,
    Product,
    ValidationRow,
)
from absurd_contimg.registry.removed_products import removed_text
from absurd_contimg.registry.stored_types import Mjd, StoredState


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
    tier: Mapped[str] = mapped_column(StoredState(MosaicTier))
    folder: Mapped[str]
    mid_mjd: Mapped[Mjd] = mapped_column(index=True)
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
    """The mosaics of a tier in the order of time, those of a window in the order they were made."""
    query = select(MosaicRow).join(Product, Product.key == MosaicRow.product_key)
    made = () if window_id is None else (Product.created_at,)
    query = query.order_by(*made, MosaicRow.mid_mjd, MosaicRow.product_key)
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


@dataclass(frozen=True, slots=True)
class ImagedGroup:
    """A group with an image: when and in which strip it was observed."""

    group_id: str
    mid_mjd: float
    declination_deg: float
    """Apparent."""


def imaged_groups(database: Database, start_mjd: float, end_mjd: float) -> list[ImagedGroup]:
    """The groups with an image whose middle lies in a span of time, in the order of time.

    Of a group whose Measurement Sets retention has removed, the group's own row says when.
    """
    groups: dict[str, ImagedGroup] = {}
    with database.reading() as session:
        for table in (ObservationGroup, MeasurementSetRow):
            query = select(table.group_id, table.mid_mjd, table.declination_deg).where(
                table.mid_mjd >= start_mjd,
                table.mid_mjd < end_mjd,
                table.declination_deg.is_not(None),
                table.group_id.in_(select(ImageRow.group_id)),
            )
            measured = select(MeasurementSetRow.group_id)
            if table is ObservationGroup:
                query = query.where(table.group_id.not_in(measured))
            for row in session.execute(query):
                group = ImagedGroup(row.group_id, row.mid_mjd, row.declination_deg)
                groups[group.group_id] = group
    return sorted(groups.values(), key=lambda group: (group.mid_mjd, group.group_id))


@patient
def mosaic_members(database: Database, group_ids: Sequence[str]) -> MosaicMembers:
    """The newest image of each group in the order of time, and the groups without one.

    The image of a group that failed or is in quarantine is not used.
    """
    tiles, missing = [], []
    with database.reading() as session:
        for group_id in dict.fromkeys(group_ids):
            group = session.get(ObservationGroup, group_id)
            image = _newest(session, ImageRow, group_id)
            reason = _reason_against(group) or ("" if image else "it has no image yet")
            if reason or image is None:
                removed = removed_text(session, group_id, "image")
                missing.append(MissingMember(group_id, removed or reason))
                continue
            described = from_json(ImageOutputs, database.resolved(image.details)).image
            validation = _newest(session, ValidationRow, group_id)
            if validation is None:
                tiles.append(MosaicMember(group_id, described))
                continue
            outputs = database.resolved(validation.details)
            checks = from_json(ValidateOutputs, outputs).validation
            counts = checks.n_expected, checks.n_matched
            tiles.append(MosaicMember(group_id, described, checks.failed_gates, *counts))
    ordered = sorted(tiles, key=lambda tile: (tile.image.mid_mjd, tile.group_id))
    return MosaicMembers(tuple(ordered), tuple(missing))


def _reason_against(group: ObservationGroup | None) -> str:
    if group is None:
        return "it is not in the registry"
    if group.status in (GroupStatus.FAILED, GroupStatus.QUARANTINED):
        return f"it is {group.status}: {group.reason or 'no reason given'}"
    return ""


_Row = TypeVar("_Row", ImageRow, ValidationRow)


def _newest(session: Session, table: type[_Row], group_id: str) -> _Row | None:
    query = select(table).join(Product, Product.key == table.product_key)
    newest = query.where(table.group_id == group_id).order_by(Product.created_at.desc())
    return session.scalars(newest.limit(1)).first()
