"""The rows of one product are entered, all or none, and its group moves forward."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from sqlalchemy import delete, func, insert, inspect, select, update
from sqlalchemy.exc import DataError, IntegrityError
from sqlalchemy.orm import Session

from absurd_contimg.errors import BrokenProductError, MissingInputError
from absurd_contimg.products.manifest import Manifest
from absurd_contimg.registry.database import Database, chunks
from absurd_contimg.registry.derived import (
    DERIVED_TABLES,
    belongs_to_window,
    derived_rows,
    progress_of,
)
from absurd_contimg.registry.models import (
    Base,
    CaltableRow,
    CaltableSetRow,
    GroupStatus,
    MeasurementSetRow,
    ObservationGroup,
    Product,
    row_values,
)
from absurd_contimg.registry.photometry import PhotometryRow
from absurd_contimg.registry.removed_products import (
    RemovedProduct,
    RemovedProductRow,
    forget_removed,
)

_PATH_COLUMNS = {"path", "folder", "source_ms", "outputs", "details"}
_UNFIT = (IntegrityError, DataError, ValueError, OverflowError)
"""Values that a database does not take."""
_PROGRESS = (
    GroupStatus.DISCOVERED, GroupStatus.CONVERTED, GroupStatus.CALIBRATED, GroupStatus.IMAGED,
)  # fmt: skip


def enter_product(session: Session, database: Database, folder: Path, manifest: Manifest) -> None:
    """Enter all of a product, or nothing and raise `BrokenProductError`."""
    try:
        with session.begin_nested():
            _enter_rows(session, database, folder, manifest)
    except _UNFIT as error:
        cause = error.orig if isinstance(error, IntegrityError | DataError) else error
        raise BrokenProductError(
            f"{folder} has a manifest with values that the registry cannot hold ({cause}).",
            "Move away what is left of it, and make it again: contimg reprocess plan, then start.",
        ) from error


def enter_products(
    session: Session, database: Database, products: Mapping[Path, Manifest]
) -> dict[Path, str]:
    """Enter many products into empty tables; returns those that could not be entered, and why."""
    # While these are held, the session asks for no group again.
    groups = session.scalars(select(ObservationGroup)).all()
    broken: dict[Path, str] = {}
    for part in chunks(list(products.items())):
        try:
            with session.begin_nested():
                _enter_new(session, database, part)
        except (*_UNFIT, BrokenProductError):
            for folder, manifest in part:  # to find out which ones
                try:
                    enter_product(session, database, folder, manifest)
                except BrokenProductError as error:
                    broken[folder] = str(error)
    del groups
    return broken


def _enter_new(
    session: Session, database: Database, products: Sequence[tuple[Path, Manifest]]
) -> None:
    """Enter products whose tables hold nothing of them, many rows at a time."""
    forget_removed(session, [manifest.key for _, manifest in products])
    rows = [
        row for folder, manifest in products for row in _rows(session, database, folder, manifest)
    ]
    for table in reversed(DERIVED_TABLES):  # parents before children
        columns = inspect(table).columns.keys()
        values = [
            {name: getattr(row, name) for name in columns} for row in rows if type(row) is table
        ]
        if values:
            session.execute(insert(table), values)


def _enter_rows(session: Session, database: Database, folder: Path, manifest: Manifest) -> None:
    earlier = session.get(CaltableSetRow, manifest.key)
    forget_removed(session, [manifest.key])
    # The keys of the first two are paths, which may have moved; of the third there are many.
    for table in (CaltableRow, MeasurementSetRow, PhotometryRow):
        session.execute(delete(table).where(table.product_key == manifest.key))
    for row in _rows(session, database, folder, manifest):
        if isinstance(row, CaltableSetRow) and earlier is not None:  # a retired one stays so
            row.status, row.retired_reason = earlier.status, earlier.retired_reason
        if isinstance(row, PhotometryRow):
            session.add(row)
            continue
        session.merge(row)
        session.flush()


def _rows(session: Session, database: Database, folder: Path, manifest: Manifest) -> list[Base]:
    """The rows of a product, with paths as they are stored; its group moves forward."""
    rows = derived_rows(folder, manifest)
    group = None
    if not belongs_to_window(manifest):
        group = ensure_group(session, manifest.group_id)
        if (progress := progress_of(manifest)) is not None:
            _advance(group, progress)
    for row in rows:
        if isinstance(row, MeasurementSetRow) and group is not None:
            _describe(group, row)
        if manifest.output_dir == database.output_dir:
            for name in _PATH_COLUMNS.intersection(inspect(type(row)).columns.keys()):
                setattr(row, name, database.stored(getattr(row, name)))
    return rows


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


def require_no_products(session: Session, output_dir: Path) -> None:
    """Raise `MissingInputError` if products are known; the folder holds none."""
    known = session.scalar(select(func.count()).select_from(Product))
    if known:
        raise MissingInputError(
            f"The folder {output_dir} holds no product, but the registry knows {known}. Nothing "
            "was changed.",
            "Mount its disk, or correct --output-dir. If the products were deleted on purpose: "
            "contimg registry rebuild --empty",
        )


def remove_rows(session: Session, removed: RemovedProduct, stored_folder: str) -> None:
    """Drop what the registry holds of a product, and note since when it is gone."""
    for table in DERIVED_TABLES:
        column = "key" if table is Product else "product_key"
        session.execute(delete(table).where(inspect(table).columns[column] == removed.product_key))
    session.merge(RemovedProductRow(**row_values(removed) | {"folder": stored_folder}))


def delete_derived_rows(session: Session, kept: Collection[str]) -> None:
    """Remove all that manifests hold, but for the products of these keys."""
    for table in DERIVED_TABLES:
        statement = delete(table)
        if kept:
            key = inspect(table).columns["key" if table is Product else "product_key"]
            statement = statement.where(key.not_in(kept))
        session.execute(statement)


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
