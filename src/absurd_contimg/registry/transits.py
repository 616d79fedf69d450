"""The groups in which transits of calibrators are looked for."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select

from absurd_contimg.registry.database import Database
from absurd_contimg.registry.models import (
    FileState,
    IngestState,
    MeasurementSetRow,
    ObservationGroup,
    SubbandFile,
)


@dataclass(frozen=True, slots=True)
class GroupObservation:
    """A closed group whose time and declination are known."""

    group_id: str
    mid_mjd: float
    declination_deg: float
    """Apparent."""
    n_subbands: int
    has_measurement_set: bool
    status: str


def observed_groups(database: Database, start_mjd: float) -> list[GroupObservation]:
    """The groups since a time, in the order of time; without those that were rejected.

    A group that is still collecting files is left out too, as one whose time is not known yet.
    """
    n_files = (
        select(func.count())
        .where(SubbandFile.group_id == ObservationGroup.group_id)
        .where(SubbandFile.state == FileState.WHOLE.value)
        .scalar_subquery()
    )
    n_sets = (
        select(func.count())
        .where(MeasurementSetRow.group_id == ObservationGroup.group_id)
        .scalar_subquery()
    )
    query = (
        select(ObservationGroup, n_files, n_sets)
        .where(ObservationGroup.mid_mjd >= start_mjd)
        .where(ObservationGroup.declination_deg.is_not(None))
        .where(ObservationGroup.ingest_state == IngestState.CLOSED.value)
        .order_by(ObservationGroup.mid_mjd, ObservationGroup.group_id)
    )
    with database.reading() as session:
        return [
            GroupObservation(
                row.group_id,
                row.mid_mjd or 0.0,
                row.declination_deg or 0.0,
                files if row.n_subbands is None else row.n_subbands,
                sets > 0,
                row.status,
            )
            for row, files, sets in session.execute(query)
        ]
