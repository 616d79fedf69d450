"""What the registry knows of a site's data, for those who watch it: few queries in one transaction.

The queries go by index or count rows of groups; none reads files or products of all time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from absurd_contimg.registry.database import Database, chunks
from absurd_contimg.registry.ingestion import NEXT_GROUP_SECONDS_MAX, ingest_groups
from absurd_contimg.registry.ingestion_records import IngestGroup, group_state
from absurd_contimg.registry.models import (
    GroupStatus,
    IngestState,
    MeasurementSetRow,
    ObservationGroup,
    Product,
    SubbandFile,
    ValidationRow,
)
from absurd_contimg.registry.mosaics import MosaicRow

UNFINISHED = (
    GroupStatus.DISCOVERED,
    GroupStatus.CONVERTED,
    GroupStatus.CALIBRATED,
    GroupStatus.IMAGED,
    GroupStatus.WAITING_FOR_CALIBRATION,
)
"""The statuses of groups that have not ended."""
_NEWEST_FILES = 64
"""Four groups: the newest by name, of which the one that came last counts."""
_IMAGE_STAGE, _VALIDATION_STAGE = "image", "validate"


@dataclass(frozen=True, slots=True)
class ImageFigures:
    """What the validation of a group's image measured."""

    group_id: str
    mid_mjd: float | None
    rms_jy: float | None
    flux_ratio: float | None
    flagged_share: float | None


@dataclass(frozen=True, slots=True)
class SiteSummary:
    """The data of a site. Times are Unix seconds."""

    groups: Sequence[IngestGroup]
    """Not ended, with their files, the oldest first."""
    next_seen: Mapping[str, float]
    """For each of them that is being collected, when the next group's first file was seen."""
    groups_by_state: Mapping[str, int]
    """See `group_state`."""
    newest_file_at: float | None
    newest_group: str | None
    newest_image_at: float | None
    newest_mosaic_at: float | None
    accepted_subbands: Mapping[int, int]
    """Groups closed lately, by their number of accepted sub-bands."""
    images: Sequence[ImageFigures]
    """The newest observations first."""


def read_summary(
    database: Database, closed_after: float, groups_max: int, images_max: int
) -> SiteSummary:
    """The summary; `accepted_subbands` counts the groups closed since a moment."""
    with database.reading() as session:
        groups = _unfinished(session, groups_max)
        collecting = [group for group in groups if group.ingest_state is IngestState.COLLECTING]
        newest = _newest_files(session)
        return SiteSummary(
            groups=groups,
            next_seen=_next_seen(session, collecting),
            groups_by_state=_states(session),
            newest_file_at=max((at for _, at in newest), default=None),
            newest_group=newest[0][0] if newest else None,
            newest_image_at=_newest_product(session, _IMAGE_STAGE),
            newest_mosaic_at=_newest_mosaic(session),
            accepted_subbands=_accepted(session, closed_after),
            images=_images(session, images_max),
        )


def _unfinished(session: Session, limit: int) -> list[IngestGroup]:
    query = (
        select(ObservationGroup)
        .where(
            ObservationGroup.ingest_state != IngestState.REJECTED.value,
            ObservationGroup.status.in_([status.value for status in UNFINISHED]),
        )
        .order_by(ObservationGroup.group_id)
        .limit(limit)
    )
    return ingest_groups(session, query)


def _next_seen(session: Session, collecting: Sequence[IngestGroup]) -> dict[str, float]:
    """See `IngestionTables.next_seen`, for many groups at once."""
    last = {
        group.group_id: max(file.timestamp_seconds for file in group.files)
        for group in collecting
        if group.files
    }
    if not last:
        return {}
    time = SubbandFile.timestamp_seconds
    after = [and_(time > at, time <= at + NEXT_GROUP_SECONDS_MAX) for at in last.values()]
    query = (
        select(SubbandFile.group_id, time, func.min(SubbandFile.first_seen))
        .where(or_(*after))
        .group_by(SubbandFile.group_id, time)
    )
    rows = [(name, at, _seconds(seen)) for name, at, seen in session.execute(query)]
    answers = {
        group_id: [
            seen
            for name, when, seen in rows
            if name != group_id and at < when <= at + NEXT_GROUP_SECONDS_MAX and seen is not None
        ]
        for group_id, at in last.items()
    }
    return {group_id: min(times) for group_id, times in answers.items() if times}


def _states(session: Session) -> dict[str, int]:
    query = select(ObservationGroup.ingest_state, ObservationGroup.status, func.count()).group_by(
        ObservationGroup.ingest_state, ObservationGroup.status
    )
    counts: dict[str, int] = {}
    for ingest_state, status, number in session.execute(query):
        name = group_state(IngestState(ingest_state), GroupStatus(status))
        counts[name] = counts.get(name, 0) + number
    return counts


def _newest_files(session: Session) -> list[tuple[str, float]]:
    """The newest files by name: their groups, and when they came (or are from)."""
    query = (
        select(SubbandFile.group_id, SubbandFile.first_seen, SubbandFile.timestamp_seconds)
        .order_by(SubbandFile.timestamp_seconds.desc())
        .limit(_NEWEST_FILES)
    )
    return [
        (group_id, float(at) if (seen := _seconds(first_seen)) is None else seen)
        for group_id, first_seen, at in session.execute(query)
    ]


def _newest_product(session: Session, stage: str) -> float | None:
    """When the product of the newest observation was made: the index has no times."""
    query = (
        select(Product.created_at)
        .where(Product.stage == stage)
        .order_by(Product.group_id.desc())
        .limit(1)
    )
    return _seconds(session.scalar(query))


def _newest_mosaic(session: Session) -> float | None:
    query = (
        select(Product.created_at)
        .join(MosaicRow, MosaicRow.product_key == Product.key)
        .order_by(MosaicRow.mid_mjd.desc())
        .limit(1)
    )
    return _seconds(session.scalar(query))


def _accepted(session: Session, closed_after: float) -> dict[int, int]:
    after = datetime.fromtimestamp(closed_after, UTC).isoformat(timespec="microseconds")
    query = (
        select(ObservationGroup.n_subbands, func.count())
        .where(ObservationGroup.closed_at >= after, ObservationGroup.n_subbands.is_not(None))
        .group_by(ObservationGroup.n_subbands)
    )
    return {int(n_subbands or 0): number for n_subbands, number in session.execute(query)}


def _images(session: Session, limit: int) -> list[ImageFigures]:
    newest = (
        select(Product.key)
        .where(Product.stage == _VALIDATION_STAGE)
        .order_by(Product.group_id.desc(), Product.created_at.desc())
        .limit(limit)
    )
    rows = session.execute(
        select(ValidationRow.group_id, ValidationRow.details, ObservationGroup.mid_mjd)
        .join(ObservationGroup, ObservationGroup.group_id == ValidationRow.group_id)
        .where(ValidationRow.product_key.in_(newest))
        .order_by(ValidationRow.group_id.desc())
    ).all()
    flagged: dict[str, float] = {}
    for part in chunks([row.group_id for row in rows]):
        sets = (
            select(MeasurementSetRow.group_id, MeasurementSetRow.flagged_fraction)
            .where(MeasurementSetRow.group_id.in_(part))
            .order_by(MeasurementSetRow.kind == "flagged", MeasurementSetRow.kind == "calibrated")
        )
        flagged |= {row.group_id: row.flagged_fraction for row in session.execute(sets)}
    return [
        ImageFigures(
            group_id,
            mid_mjd,
            _figure(details, "rms_jy"),
            _figure(details, "flux_ratio_median"),
            flagged.get(group_id),
        )
        for group_id, details, mid_mjd in rows
    ]


def _figure(details: Any, name: str) -> float | None:
    validation = details.get("validation") if isinstance(details, Mapping) else None
    value = validation.get(name) if isinstance(validation, Mapping) else None
    return float(value) if isinstance(value, int | float) else None


def _seconds(text: str | None) -> float | None:
    return None if text is None else datetime.fromisoformat(text).timestamp()
