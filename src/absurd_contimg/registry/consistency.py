"""What else of the registry is compared: incoming files, publications, windows, derived rows.

`Registry.check` compares the products with the disk.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select, update

from absurd_contimg.errors import BrokenProductError, UserError
from absurd_contimg.products.manifest import MANIFEST_NAME, Manifest
from absurd_contimg.products.mosaic_outputs import MosaicOutputs
from absurd_contimg.products.outputs import (
    ImageOutputs,
    PhotometryOutputs,
    ValidateOutputs,
    from_json,
    names,
)
from absurd_contimg.products.publication import destination_of, is_publishing, is_staged
from absurd_contimg.products.store import load_committed, read_products, verify
from absurd_contimg.registry.database import Database
from absurd_contimg.registry.models import (
    FileState,
    ImageRow,
    IngestState,
    ObservationGroup,
    Product,
    SubbandFile,
    ValidationRow,
)
from absurd_contimg.registry.mosaics import MosaicRow
from absurd_contimg.registry.photometry import PhotometryRow
from absurd_contimg.registry.publications import PublicationRow, PublicationState
from absurd_contimg.registry.windows import WindowRow

_GONE = "gone, was {state}: {reason}"
_WAS = re.compile(r"gone, was (\w+): (.*)", re.DOTALL)

_TABLES_OF_OUTPUTS: Mapping[
    type[Any], type[ImageRow | ValidationRow | MosaicRow | PhotometryRow]
] = {
    ImageOutputs: ImageRow, ValidateOutputs: ValidationRow, MosaicOutputs: MosaicRow,
    PhotometryOutputs: PhotometryRow,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class FileIndexReport:
    """What became of the files that the registry knows, since the last look."""

    files: int
    gone: tuple[Path, ...]
    returned: tuple[Path, ...]
    absent_folders: tuple[Path, ...]
    """They cannot be read, so nothing is known of their files."""


def refresh_file_index(database: Database) -> FileIndexReport:
    """Mark the files as gone that are not in their folders any more, and back if they are.

    Names are listed and no file is looked at: a look at each of 40,000 takes minutes on a network
    disk. Until its group has a task or is rejected, a file is left to the daemon that entered it.
    """
    query = (
        select(SubbandFile.path, SubbandFile.state, SubbandFile.reason)
        .join(ObservationGroup, ObservationGroup.group_id == SubbandFile.group_id)
        .where(SubbandFile.state != FileState.ARRIVING.value)
        .where(
            SubbandFile.first_seen.is_(None)
            | ObservationGroup.task_id.is_not(None)
            | (ObservationGroup.ingest_state == IngestState.REJECTED.value)
        )
    )
    with database.reading() as session:
        rows = session.execute(query).all()
    names, absent = _names_in({os.path.dirname(row.path) for row in rows})
    changes: list[dict[str, str | None]] = []
    gone, returned = [], []
    for path, state, reason in rows:
        folder, name = os.path.split(path)
        if folder not in names:
            continue
        if state == FileState.GONE:
            before = _WAS.fullmatch(reason or "")
            if name in names[folder] and before is not None:
                changes.append({"path": path, "state": before[1], "reason": before[2] or None})
                returned.append(Path(path))
        elif name not in names[folder]:
            text = _GONE.format(state=state, reason=reason or "")
            changes.append({"path": path, "state": FileState.GONE.value, "reason": text})
            gone.append(Path(path))
    if changes:
        with database.writing() as session:
            session.execute(update(SubbandFile), changes)
    return FileIndexReport(len(rows), tuple(gone), tuple(returned), tuple(absent))


def _names_in(folders: set[str]) -> tuple[dict[str, set[str]], list[Path]]:
    """The names in each folder, and the folders that cannot be read."""
    names: dict[str, set[str]] = {}
    absent = []
    for folder in sorted(folders):
        try:
            with os.scandir(folder) as entries:
                names[folder] = {entry.name for entry in entries}
        except OSError:
            absent.append(Path(folder))
    return names, absent


def publication_problems(database: Database, publish_dir: Path) -> list[str]:
    """A sentence for each publication that differs from the folder of copies.

    By names and sizes: no file is read.
    """
    columns = (PublicationRow.product_key, PublicationRow.state, PublicationRow.destination)
    with database.reading() as session:
        query = select(*columns, PublicationRow.reason).order_by(PublicationRow.destination)
        rows = session.execute(query).all()
    problems: list[str] = []
    known = {row.product_key: Path(database.resolved(row.destination)) for row in rows}
    for key, state, _, reason in rows:
        destination = known[key]
        if state == PublicationState.PUBLISHED:
            problems += _problems_of_copy(destination, key)
        elif state == PublicationState.FAILED:
            if os.path.lexists(destination):
                problems.append(
                    f"The publication of {key} has failed ({(reason or '').rstrip('.')}), and "
                    f"{destination} is in its place. Move that away, then: contimg publish retry "
                    f"{key}"
                )
        elif state == PublicationState.PUBLISHING and not is_publishing(destination):
            problems.append(
                f"The copy of {key} to {destination} was begun and is not finished: contimg "
                "publish retry."
            )
    copies, broken = _copies(publish_dir)
    places = set(known.values())
    problems += [text for folder, text in broken.items() if folder not in places]
    for folder, manifest in copies.items():
        key = manifest.key
        if folder in places:
            continue
        if key in known:
            problems.append(
                f"{folder} is a copy of {key}, which the registry has at {known[key]}. If that is "
                f"not there any more: contimg publish retry {key}"
            )
        else:
            problems.append(
                f"{folder} is published and not in the registry: contimg registry rebuild."
            )
    return problems


def _problems_of_copy(destination: Path, key: str) -> Iterator[str]:
    try:
        manifest = load_committed(destination)
        verify(destination, manifest)
        if manifest.key != key:
            yield f"{destination} is a copy of {manifest.key}, not of {key}."
    except BrokenProductError as error:
        yield (
            f"The published copy of {key} is damaged: {error.problem} Move it away, then: contimg "
            f"publish retry {key}"
        )
    except (UserError, OSError) as error:
        yield f"The published copy of {key} is missing: {error}"


def enter_publications(database: Database, publish_dir: Path, output_dir: Path) -> int:
    """Enter the whole copies in the folder that have no row; returns their number.

    A row that is there stays: its task compares it with the disk itself.
    """
    copies, _ = _copies(publish_dir)
    entered = 0
    with database.writing() as session:
        known = set(session.scalars(select(PublicationRow.product_key)))
        for folder, manifest in copies.items():
            if manifest.key in known:
                continue
            written = (folder / MANIFEST_NAME).stat().st_mtime
            session.add(
                PublicationRow(
                    product_key=manifest.key,
                    kind=manifest.stage,
                    state=PublicationState.PUBLISHED.value,
                    source=database.stored(str(output_dir / manifest.location)),
                    destination=database.stored(str(folder)),
                    attempts=0,
                    published_at=datetime.fromtimestamp(written, UTC).isoformat(timespec="seconds"),
                )
            )
            known.add(manifest.key)
            entered += 1
    return entered


def _copies(publish_dir: Path) -> tuple[dict[Path, Manifest], dict[Path, str]]:
    """The copies that are whole and at their place, and what is wrong with the others."""
    copies: dict[Path, Manifest] = {}
    broken: dict[Path, str] = {}
    if publish_dir.is_dir():
        read_products(publish_dir, copies, broken)
    placed = {
        folder: manifest
        for folder, manifest in copies.items()
        if folder == destination_of(manifest, publish_dir)
    }
    return placed, {folder: text for folder, text in broken.items() if not is_staged(folder)}


def window_problems(database: Database) -> list[str]:
    """A sentence for each window that names what the registry does not know."""
    with database.reading() as session:
        groups = set(session.scalars(select(ObservationGroup.group_id)))
        rows = session.execute(
            select(WindowRow.window_id, WindowRow.members, WindowRow.superseded_by).order_by(
                WindowRow.start_mjd, WindowRow.window_id
            )
        ).all()
    windows = {row.window_id for row in rows}
    problems = []
    for window_id, members, superseded_by in rows:
        unknown = [
            name for name in (member["group_id"] for member in members) if name not in groups
        ]
        if unknown:
            names = ", ".join(unknown)
            problems.append(f"Window {window_id} has groups that are not in the registry: {names}.")
        if superseded_by is not None and superseded_by not in windows:
            problems.append(
                f"Window {window_id} is superseded by {superseded_by}, which is not in the "
                "registry."
            )
    return problems


def derived_problems(database: Database) -> list[str]:
    """A sentence for each image, mosaic and photometry product whose rows are not all there.

    Products are recognised by their outputs, as where rows are derived.
    """
    problems = []
    with database.reading() as session:
        rows = {
            table: Counter(session.scalars(select(table.product_key)))
            for table in _TABLES_OF_OUTPUTS.values()
        }
        products = session.execute(select(Product.key, Product.outputs).order_by(Product.key))
        for key, outputs in products:
            for kind, table in _TABLES_OF_OUTPUTS.items():
                if names(kind) != outputs.keys():
                    continue
                expected = 1
                if kind is PhotometryOutputs:
                    expected = from_json(PhotometryOutputs, outputs).photometry.n_measured
                if rows[table][key] != expected:
                    problems.append(
                        f"Product {key} has {rows[table][key]} of {expected} rows in "
                        f"{table.__tablename__}: contimg registry rebuild."
                    )
    return problems
