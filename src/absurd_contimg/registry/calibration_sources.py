"""Which groups may still bring a calibration to those that wait for one, which have failed to."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from absurd_contimg.registry.database import Database, chunks
from absurd_contimg.registry.models import GroupStatus, IngestState, ObservationGroup, Product

_SOLVING_STAGE = "calibrate_solve"
_FAILED = (GroupStatus.FAILED, GroupStatus.QUARANTINED)
_UNDER_WAY = (GroupStatus.DISCOVERED, GroupStatus.CONVERTED)


@dataclass(frozen=True, slots=True)
class CalibrationSource:
    """A group of the strip of a waiting one that has not been asked for solutions yet."""

    group_id: str
    status: GroupStatus
    reason: str
    """Why it has failed; empty if it has not."""

    @property
    def has_failed(self) -> bool:
        """It brings nothing unless somebody has it tried again."""
        return self.status in _FAILED


def calibration_sources(
    database: Database,
    group_ids: Collection[str],
    declination_tolerance_deg: float,
    reach_hours: float,
) -> dict[str, list[CalibrationSource]]:
    """For each of the groups those that could bring its calibration, the nearest in time first.

    A group that has been through `calibrate_solve` is none: it has said what it can. Nor is one
    whose time or declination nobody knows yet.
    """
    reach_days = reach_hours / 24.0
    sources: dict[str, list[CalibrationSource]] = {group_id: [] for group_id in group_ids}
    with database.reading() as session:
        waiting = _pointings(session, group_ids)
        candidates = _candidates(session, [mid_mjd for _, mid_mjd, _ in waiting], reach_days)
    for group_id, mid_mjd, declination_deg in waiting:
        near = [
            (abs(other_mjd - mid_mjd), source)
            for source, other_mjd, other_deg in candidates
            if source.group_id != group_id
            and abs(other_mjd - mid_mjd) <= reach_days
            and abs(other_deg - declination_deg) <= declination_tolerance_deg
        ]
        near.sort(key=lambda pair: (pair[0], pair[1].group_id))
        sources[group_id] = [source for _, source in near]
    return sources


def _pointings(session: Session, group_ids: Collection[str]) -> list[tuple[str, float, float]]:
    """Group, time (MJD) and declination (degrees) of those of which both are known."""
    return [
        (row.group_id, row.mid_mjd, row.declination_deg)
        for part in chunks(list(group_ids))
        for row in session.scalars(
            select(ObservationGroup).where(ObservationGroup.group_id.in_(part))
        )
        if row.mid_mjd is not None and row.declination_deg is not None
    ]


def _candidates(
    session: Session, times_mjd: Sequence[float], reach_days: float
) -> list[tuple[CalibrationSource, float, float]]:
    """Groups without solutions in reach of the times, with their own time and declination."""
    if not times_mjd:
        return []
    has_solved = exists().where(
        Product.stage == _SOLVING_STAGE, Product.group_id == ObservationGroup.group_id
    )
    query = select(ObservationGroup).where(
        ObservationGroup.mid_mjd.between(min(times_mjd) - reach_days, max(times_mjd) + reach_days),
        ObservationGroup.ingest_state != IngestState.REJECTED.value,
        ObservationGroup.status.in_([status.value for status in (*_FAILED, *_UNDER_WAY)]),
        ~has_solved,
    )
    return [
        (
            CalibrationSource(row.group_id, GroupStatus(row.status), row.reason or ""),
            row.mid_mjd,
            row.declination_deg,
        )
        for row in session.scalars(query)
        if row.mid_mjd is not None and row.declination_deg is not None
    ]
