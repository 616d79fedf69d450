"""The rows of one product are entered, all or none, and its group moves forward."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import delete, inspect, update
from sqlalchemy.exc import DataError, IntegrityError
from sqlalchemy.orm import Session

from absurd_contimg.errors import BrokenProductError
from absurd_contimg.products.manifest import Manifest
from absurd_contimg.registry.database import Database
from absurd_contimg.registry.derived import belongs_to_window, derived_rows, progress_of
from absurd_contimg.registry.models import (
    CaltableRow,
    CaltableSetRow,
    GroupStatus,
    MeasurementSetRow,
    ObservationGroup,
)
from absurd_contimg.registry.photometry import PhotometryRow

_PATH_COLUMNS = {"path", "folder", "source_ms", "outputs", "details"}
_PROGRESS = (
    GroupStatus.DISCOVERED, GroupStatus.CONVERTED, GroupStatus.CALIBRATED, GroupStatus.IMAGED,
)  # fmt: skip


def enter_product(session: Session, database: Database, folder: Path, manifest: Manifest) -> None:
    """Enter all of a product, or nothing and raise `BrokenProductError`."""
    try:
        with session.begin_nested():
            _enter_rows(session, database, folder, manifest)
    except (IntegrityError, DataError, ValueError, OverflowError) as error:
        cause = error.orig if isinstance(error, IntegrityError | DataError) else error
        raise BrokenProductError(
            f"{folder} has a manifest with values that the registry cannot hold ({cause}).",
            "Move it away and have it made again.",
        ) from error


def _enter_rows(session: Session, database: Database, folder: Path, manifest: Manifest) -> None:
    group = None
    if not belongs_to_window(manifest):
        group = ensure_group(session, manifest.group_id)
        if (progress := progress_of(manifest)) is not None:
            _advance(group, progress)
    earlier = session.get(CaltableSetRow, manifest.key)
    # The keys of the first two are paths, which may have moved; of the third there are many.
    for table in (CaltableRow, MeasurementSetRow, PhotometryRow):
        session.execute(delete(table).where(table.product_key == manifest.key))
    for row in derived_rows(folder, manifest):
        if isinstance(row, CaltableSetRow) and earlier is not None:  # a retired one stays so
            row.status, row.retired_reason = earlier.status, earlier.retired_reason
        if isinstance(row, MeasurementSetRow) and group is not None:
            _describe(group, row)
        if manifest.output_dir == database.output_dir:
            for name in _PATH_COLUMNS.intersection(inspect(type(row)).columns.keys()):
                setattr(row, name, database.stored(getattr(row, name)))
        if isinstance(row, PhotometryRow):
            session.add(row)
            continue
        session.merge(row)
        session.flush()


def _describe(group: ObservationGroup, row: MeasurementSetRow) -> None:
    """Note when and where a group was observed, unless ingestion has read it from the headers."""
    if group.mid_mjd is None and row.kind == "raw":
        group.mid_mjd, group.declination_deg = row.mid_mjd, row.declination_deg


def _advance(group: ObservationGroup, status: GroupStatus) -> None:
    """Products move a group forwards and never back; the status of an ended group stays."""
    current = GroupStatus(group.status)
    if current is GroupStatus.WAITING_FOR_CALIBRATION:
        current = GroupStatus.CONVERTED  # the status before the wait; calibrated data end it
    if current in _PROGRESS and _PROGRESS.index(status) > _PROGRESS.index(current):
        group.status = status.value


def retire(session: Session, key: str, reason: str | None) -> None:
    """Take a set of caltables out of use."""
    session.execute(
        update(CaltableSetRow)
        .where(CaltableSetRow.product_key == key)
        .values(status="retired", retired_reason=reason)
    )


def ensure_group(session: Session, group_id: str) -> ObservationGroup:
    """The row of a group, which is made if it is not known."""
    row = session.get(ObservationGroup, group_id)
    if row is None:
        row = ObservationGroup(group_id=group_id, status=GroupStatus.DISCOVERED.value, reason=None)
        session.add(row)
        session.flush()
    return row
