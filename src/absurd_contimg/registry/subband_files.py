"""Sub-band files: the HDF5 index, one row a file that was ever seen in the incoming folder."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from absurd_contimg.products.filesystem import LOCAL
from absurd_contimg.products.manifest import Manifest
from absurd_contimg.registry.database import Database, chunks
from absurd_contimg.registry.models import FileState, SubbandFile


@dataclass(frozen=True, slots=True)
class IndexedFile:
    """A sub-band file as the registry knows it; what was not looked at is None."""

    path: Path
    group_id: str
    subband: int
    timestamp_seconds: int
    """Unix time of the timestamp in its name."""
    size: int | None
    mtime_ns: int | None
    state: FileState
    reason: str | None
    first_seen: str | None


def known_paths(database: Database) -> set[str]:
    """The paths of all files, whatever their state."""
    with database.reading() as session:
        # A row of the ORM would cost more than the rest of a poll.
        return set(session.connection().execute(select(SubbandFile.path)).scalars())


def files_in_groups(session: Session, paths: Sequence[str]) -> dict[str, str]:
    """The groups of those files that are known, by path."""
    groups: dict[str, str] = {}
    for part in chunks(paths):
        query = select(SubbandFile.path, SubbandFile.group_id).where(SubbandFile.path.in_(part))
        for path, group_id in session.execute(query):
            groups[path] = group_id
    return groups


def replaced_inputs(database: Database, manifest: Manifest) -> list[Path]:
    """The files that were replaced after their group was closed and are, as they are now, what the
    product was made from. Reads them, outside of any transaction.
    """
    digests = {entry.path: entry.digest for entry in manifest.inputs if entry.kind == "file"}
    if not digests:
        return []
    changed = list_files(database, group_id=manifest.group_id, states=[FileState.CHANGED])
    return [file.path for file in changed if _digest(file.path) == digests.get(str(file.path))]


def _digest(path: Path) -> str:
    try:
        return LOCAL.digest(path)
    except OSError:
        return ""


def accept_replaced(session: Session, paths: Sequence[Path]) -> None:
    """These files count as accepted as they are now."""
    for path in paths:
        row = session.get(SubbandFile, str(path))
        if row is not None and row.state == FileState.CHANGED:
            with suppress(OSError):
                status = path.stat()
                row.size, row.mtime_ns = status.st_size, status.st_mtime_ns
                row.state, row.reason = FileState.WHOLE.value, None


def list_files(
    database: Database,
    *,
    start_seconds: int | None = None,
    end_seconds: int | None = None,
    group_id: str | None = None,
    states: Sequence[FileState] | None = None,
) -> list[IndexedFile]:
    """The files of a span of time (Unix seconds, ends included), by time, sub-band and path."""
    query = select(*(getattr(SubbandFile, name) for name in IndexedFile.__slots__))
    if start_seconds is not None:
        query = query.where(SubbandFile.timestamp_seconds >= start_seconds)
    if end_seconds is not None:
        query = query.where(SubbandFile.timestamp_seconds <= end_seconds)
    if group_id is not None:
        query = query.where(SubbandFile.group_id == group_id)
    if states is not None:
        query = query.where(SubbandFile.state.in_([state.value for state in states]))
    query = query.order_by(SubbandFile.timestamp_seconds, SubbandFile.subband, SubbandFile.path)
    with database.reading() as session:
        return [
            IndexedFile(
                Path(row.path),
                row.group_id,
                row.subband,
                row.timestamp_seconds,
                row.size,
                row.mtime_ns,
                FileState(row.state),
                row.reason,
                row.first_seen,
            )
            for row in session.execute(query)
        ]
