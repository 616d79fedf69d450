"""The registry: observation groups and their files, and all committed products.

The order and repetition of entries do not matter: a killed worker loses nothing, and the manifests
on disk are right where the registry differs. Methods block for a moment; any number of threads and
processes may use one registry at a time.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import insert, inspect, select, update

from absurd_contimg.core.records import Json
from absurd_contimg.errors import MissingInputError, UserError
from absurd_contimg.products.manifest import Manifest
from absurd_contimg.products.mosaic_outputs import MosaicMembers
from absurd_contimg.products.outputs import Caltable
from absurd_contimg.products.store import (
    is_whole,
    link_above,
    load_committed,
    product_folders,
    read_products,
    verify,
    why_unread,
)
from absurd_contimg.products.subband_files import parse_subband_name
from absurd_contimg.registry.calibrations import CaltableSet, rank_sets
from absurd_contimg.registry.database import Database, patient
from absurd_contimg.registry.derived import is_image
from absurd_contimg.registry.group_assignment import assign_groups
from absurd_contimg.registry.grouping import TOLERANCE_SECONDS
from absurd_contimg.registry.groups import Group, with_files
from absurd_contimg.registry.models import (
    Base,
    CaltableRow,
    CaltableSetRow,
    GroupStatus,
    MeasurementSetRow,
    ObservationGroup,
    Product,
    SubbandFile,
)
from absurd_contimg.registry.mosaics import mosaic_members
from absurd_contimg.registry.photometry import image_outputs
from absurd_contimg.registry.product_entry import (
    delete_derived_rows,
    ensure_group,
    enter_product,
    enter_products,
    remove_rows,
    require_no_products,
    retire,
)
from absurd_contimg.registry.publications import Publications
from absurd_contimg.registry.removed_products import RemovedProduct
from absurd_contimg.registry.subband_files import (
    accept_replaced,
    files_in_groups,
    replaced_inputs,
)
from absurd_contimg.registry.transits import GroupObservation, observed_groups


@dataclass(frozen=True, slots=True)
class RebuildReport:
    """The number of products entered, and the broken ones that were not, with the reason."""

    entered: int
    broken: tuple[tuple[Path, str], ...]


@dataclass(frozen=True, slots=True)
class CheckReport:
    """How the registry and the products on disk differ."""

    products: int
    """In the registry."""
    broken: tuple[tuple[Path, str], ...]
    """Products in the registry that are missing or damaged, and how."""
    unknown: tuple[Path, ...]
    """Products on disk that the registry does not know."""
    reinstated: tuple[str, ...]
    """Sets of caltables that were retired as absent, and are in use again."""


ABSENT = "missing on disk"
"""How the reason of a retirement begins that ends when the set is there again."""


class Registry:
    """The registry behind a URL or a path to an SQLite file; tables are made if missing."""

    def __init__(
        self,
        url: str | Path,
        *,
        output_dir: Path | None = None,
        declination_tolerance_deg: float = 5.0,
        reach_hours: float = 12.0,
        may_be_new: bool = False,
    ) -> None:
        """The two limits decide which calibrations may serve a group (`CalibrationConfig`).

        For `output_dir` and `may_be_new` see `Database`.
        """
        self.database = Database(url, output_dir=output_dir, may_be_new=may_be_new)
        """For the functions of the registry's other subjects: windows, batches and so on."""
        self.publications = Publications(self.database)
        self._declination_tolerance_deg = declination_tolerance_deg
        self._reach_hours = reach_hours

    def close(self) -> None:
        """Close what is open."""
        self.database.close()

    @patient
    def register(self, folder: Path, manifest: Manifest) -> None:
        """Enter a committed product; the same one again changes nothing.

        A file that was replaced before the product was made of it counts as accepted. A new image
        has no photometry task yet.
        """
        replaced = replaced_inputs(self.database, manifest)
        with self.database.writing() as session:
            if is_image(manifest) and session.get(Product, manifest.key) is None:
                ensure_group(session, manifest.group_id).photometry_task_id = None
            enter_product(session, self.database, folder, manifest)
            accept_replaced(session, replaced)

    @patient
    def note_removed(self, removed: RemovedProduct) -> bool:
        """Note that retention has removed a product; what else is known of it goes.

        False, and nothing is changed, if its folder is there: it was made again meanwhile.
        """
        with self.database.writing() as session:
            if removed.folder.exists():
                return False
            remove_rows(session, removed, self.database.stored(str(removed.folder)))
            return True

    def rebuild(self, output_dir: Path, *, may_be_empty: bool = False) -> RebuildReport:
        """Replace what manifests hold, in one step; groups, status and retirements stay.

        A set that was retired as absent, and is whole, is in use again. One that somebody retired
        keeps its rows where its product is not found: it may come back. Workers may go on: what
        they have published meanwhile is entered too. Raises `MissingInputError` where products
        are known, the folder holds none, and it is not said that it may be empty. A product on disk
        whose row is dropped is among the broken ones.
        """
        products: dict[Path, Manifest] = {}
        broken: dict[Path, str] = {}
        read_products(output_dir, products, broken)
        with self.database.writing() as session:
            read_products(output_dir, products, broken)  # few: no writer goes on now
            if not (products or broken or may_be_empty):
                require_no_products(session, output_dir)
            retired = {
                row.product_key: row.retired_reason
                for row in session.scalars(select(CaltableSetRow))
                if _is_retired_by_somebody(row)
            }
            before = {
                row.key: Path(self.database.resolved(row.folder))
                for row in session.execute(select(Product.key, Product.folder))
            }
            delete_derived_rows(session, retired.keys() - {m.key for m in products.values()})
            broken |= enter_products(session, self.database, products)
            kept = set(session.scalars(select(Product.key)))
            dropped = (folder for key, folder in before.items() if key not in kept)
            for folder in filter(os.path.lexists, dropped):
                broken.setdefault(folder, why_unread(folder, output_dir))
            for key, reason in retired.items():
                retire(session, key, reason)
        return RebuildReport(len(products.keys() - broken.keys()), tuple(broken.items()))

    def is_empty(self) -> bool:
        """Whether no product is known."""
        with self.database.reading() as session:
            return session.scalar(select(Product.key).limit(1)) is None

    def rows(self, table: type[Base], group_id: str | None = None) -> list[dict[str, Any]]:
        """The rows of a table (of one group), by primary key, with all columns."""
        query = select(table).order_by(*inspect(table).primary_key)
        if group_id is not None:
            query = query.where(inspect(table).columns["group_id"] == group_id)
        with self.database.reading() as session:
            keys = inspect(table).columns.keys()
            return [
                {key: self.database.resolved(getattr(row, key)) for key in keys}
                for row in session.scalars(query)
            ]

    @patient
    def caltable_sets_valid_at(
        self, mid_mjd: float, declination_deg: float, *, however_far: bool = False
    ) -> list[CaltableSet]:
        """Active sets for data of that time and declination strip, best first (`rank_sets`).

        With `however_far`, also those beyond the reach in time. Sets of another strip would make
        fluxes wrong by an order of magnitude.
        """
        self.reinstate()
        with self.database.reading() as session:
            query = select(CaltableSetRow).where(CaltableSetRow.status == "active")
            tables = select(CaltableRow).order_by(CaltableRow.apply_order, CaltableRow.path)
            sets = [
                CaltableSet.of_row(
                    row,
                    [
                        Caltable(
                            Path(self.database.resolved(t.path)), t.type, t.apply_order, t.interp
                        )
                        for t in session.scalars(
                            tables.where(CaltableRow.product_key == row.product_key)
                        )
                    ],
                )
                for row in session.scalars(query)
            ]
        reach_hours = math.inf if however_far else self._reach_hours
        return rank_sets(
            sets, mid_mjd, declination_deg, self._declination_tolerance_deg, reach_hours
        )

    def image_outputs(self, group_id: str) -> Mapping[str, Json]:
        """The outputs of the newest image of a group, or of the newest mosaic of a window."""
        return image_outputs(self.database, group_id)

    def mosaic_members(self, group_ids: Sequence[str]) -> MosaicMembers:
        """The newest image of each group, and the groups without one, with the reason."""
        return mosaic_members(self.database, group_ids)

    def observed_groups(self, start_mjd: float) -> list[GroupObservation]:
        """The closed groups since a time whose declination is known, in the order of time."""
        return observed_groups(self.database, start_mjd)

    def calibration_exists(self, group_id: str) -> bool:
        """Whether an active set may serve the group; False while it has no Measurement Set."""
        return any(
            self.caltable_sets_valid_at(row["mid_mjd"], row["declination_deg"])
            for row in self.rows(MeasurementSetRow, group_id)
        )

    @patient
    def retire_set(self, product_key: str, reason: str) -> None:
        """Take a set out of use; it stays known, with the reason."""
        with self.database.writing() as session:
            retire(session, product_key, reason)

    def reinstate(self) -> list[str]:
        """Take sets into use again that were retired as absent and are whole, by their digests.

        Returns their names.
        """
        query = (
            select(CaltableSetRow, Product.folder)
            .join(Product, Product.key == CaltableSetRow.product_key)
            .where(CaltableSetRow.retired_reason.startswith(ABSENT))
        )
        with self.database.reading() as session:
            retired = [
                (row.product_key, row.set_name, path) for row, path in session.execute(query)
            ]
        whole = [
            (key, name)
            for key, name, path in retired
            if is_whole(Path(self.database.resolved(path)), key)
        ]
        if whole:
            with self.database.writing() as session:
                session.execute(
                    update(CaltableSetRow)
                    .where(CaltableSetRow.product_key.in_([key for key, _ in whole]))
                    .where(CaltableSetRow.retired_reason.startswith(ABSENT))
                    .values(status="active", retired_reason=None)
                )
        return [name for _, name in whole]

    def needed_folders(self) -> list[Path]:
        """The folders of known products; without retired sets that are gone: nobody needs them."""
        with self.database.reading() as session:
            sets = session.scalars(select(CaltableSetRow))
            retired = {row.product_key for row in sets if _is_retired_by_somebody(row)}
        rows = ((row["key"], Path(row["folder"])) for row in self.rows(Product))
        return [folder for key, folder in rows if key not in retired or folder.exists()]

    def check(self, output_dir: Path) -> CheckReport:
        """Compare the registry with the products on disk; changes nothing but `reinstate`."""
        reinstated = self.reinstate()
        broken: list[tuple[Path, str]] = []
        known: set[Path] = set()
        for folder in self.needed_folders():
            known.add(folder)
            if link_above(folder, output_dir) is not None:
                broken.append((folder, why_unread(folder, output_dir)))
                continue
            try:
                verify(folder, load_committed(folder))
            except (UserError, OSError) as error:
                broken.append((folder, str(error)))
        unread: dict[Path, str] = {}
        on_disk = product_folders(output_dir, on_unread=unread.__setitem__)
        unknown = [folder for folder in on_disk if folder not in known]
        broken += unread.items()
        return CheckReport(len(known), tuple(broken), tuple(unknown), tuple(reinstated))

    def register_files(
        self, paths: Iterable[Path], tolerance_seconds: int = TOLERANCE_SECONDS
    ) -> dict[Path, str]:
        """Assign sub-band files to groups, in one serialised transaction; path to group.

        A file joins the group of the nearest file within the tolerance, or begins one. A
        group without products takes the name of an earlier file. Raises `InputError` for
        another name.
        """
        names = {str(path): parse_subband_name(path) for path in paths}
        with self.database.writing() as session:
            known = files_in_groups(session, list(names))
            new = {path: name for path, name in names.items() if path not in known}
            times = {name.timestamp_seconds for name in new.values()}
            groups = assign_groups(session, times, tolerance_seconds)
            rows = [
                {
                    "path": path,
                    "group_id": groups[name.timestamp_seconds],
                    "subband": name.subband,
                    "timestamp_seconds": name.timestamp_seconds,
                }
                for path, name in new.items()
            ]
            if rows:
                session.execute(insert(SubbandFile), rows)
            # Read again: groups may have been renamed.
            joined = files_in_groups(session, list(names))
            return {name.path: joined[path] for path, name in sorted(names.items())}

    @patient
    def set_group_status(
        self, group_id: str, status: GroupStatus, reason: str | None = None
    ) -> None:
        """Set the status of a group, with the reason if it did not end well."""
        with self.database.writing() as session:
            row = ensure_group(session, group_id)
            row.status, row.reason = status.value, reason

    def group(self, group_id: str) -> Group:
        """One group; raises `MissingInputError` if it is not known."""
        with self.database.reading() as session:
            row = session.get(ObservationGroup, group_id)
            if row is None:
                raise MissingInputError(
                    f"Group {group_id} is not in the registry.", "Check its name: contimg status."
                )
            return with_files(session, [row])[0]

    @patient
    def groups(self, status: GroupStatus | None = None) -> list[Group]:
        """All groups, or those of one status, in the order of their names."""
        query = select(ObservationGroup).order_by(ObservationGroup.group_id)
        if status is not None:
            query = query.where(ObservationGroup.status == status.value)
        with self.database.reading() as session:
            return with_files(session, session.scalars(query).all())


def _is_retired_by_somebody(row: CaltableSetRow) -> bool:
    """Not by machine, as absent, which ends by itself."""
    return row.status == "retired" and not str(row.retired_reason).startswith(ABSENT)
