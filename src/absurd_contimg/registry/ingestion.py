"""What ingestion keeps in the registry: files as they arrive, groups as they close, their tasks.

Each method is one transaction that takes effect only if the state is still the one it was decided
on, so that two daemons at a time, or one that is killed and started again, do no harm.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Select, func, or_, select, update
from sqlalchemy.orm import Session

from absurd_contimg.errors import MissingInputError, SettingError
from absurd_contimg.products.subband_files import parse_subband_name
from absurd_contimg.registry.database import Database, chunks
from absurd_contimg.registry.group_assignment import assign_groups
from absurd_contimg.registry.ingestion_records import (
    Closure,
    FileChange,
    FileSighting,
    IngestFile,
    IngestGroup,
)
from absurd_contimg.registry.models import (
    FileState,
    GroupStatus,
    IngestState,
    ObservationGroup,
    SubbandFile,
)
from absurd_contimg.registry.photometry import newest_image_key
from absurd_contimg.registry.subband_files import files_in_groups, known_paths
from absurd_contimg.registry.windows import (
    Window,
    list_windows,
    note_window_task,
    store_windows,
    windows_without_mosaic,
)
from absurd_contimg.similar_names import did_you_mean

NEXT_GROUP_SECONDS_MAX = 900
"""A file with a later time than this is no sign that the next group has begun: a wrong clock."""


class IngestionTables:
    """The rows of ingestion in a registry."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def known_paths(self) -> set[str]:
        """The paths of all files that were ever seen."""
        return known_paths(self._database)

    def enter_files(
        self, sightings: Sequence[FileSighting], now: float, tolerance_seconds: int
    ) -> list[IngestFile]:
        """Enter new files, each into its group; one of a closed group is late.

        Returns the late ones.
        """
        names = {str(sighting.path): parse_subband_name(sighting.path) for sighting in sightings}
        looks = {str(sighting.path): sighting for sighting in sightings}
        with self._database.writing() as session:
            new = sorted(names.keys() - files_in_groups(session, list(names)).keys())
            times = {names[path].timestamp_seconds for path in new}
            assigned = assign_groups(session, times, tolerance_seconds)
            closed = _closed_groups(session, set(assigned.values()))
            rows = []
            for path in new:
                group_id = assigned[names[path].timestamp_seconds]
                state = closed.get(group_id)
                rows.append(
                    SubbandFile(
                        path=path,
                        group_id=group_id,
                        subband=names[path].subband,
                        timestamp_seconds=names[path].timestamp_seconds,
                        size=looks[path].size,
                        mtime_ns=looks[path].mtime_ns,
                        state=(FileState.LATE if state else FileState.ARRIVING).value,
                        reason=f"came after the group was {state}" if state else None,
                        first_seen=_text(now),
                        unchanged_since=_text(now),
                    )
                )
            session.add_all(rows)
            session.flush()
            return [_file(row) for row in rows if row.state == FileState.LATE]

    def groups(
        self, states: Sequence[IngestState] = tuple(IngestState), group_id: str | None = None
    ) -> list[IngestGroup]:
        """Groups with their files, in the order of their names."""
        query = select(ObservationGroup).order_by(ObservationGroup.group_id)
        query = query.where(ObservationGroup.ingest_state.in_([state.value for state in states]))
        if group_id is not None:
            query = query.where(ObservationGroup.group_id == group_id)
        with self._database.reading() as session:
            return ingest_groups(session, query)

    def groups_between(self, first: str, last: str) -> list[IngestGroup]:
        """Groups with their files whose names, which are times, lie between these."""
        query = select(ObservationGroup).order_by(ObservationGroup.group_id)
        query = query.where(ObservationGroup.group_id.between(first, last))
        with self._database.reading() as session:
            return ingest_groups(session, query)

    def newest_groups(self, limit: int) -> list[str]:
        """The names of the latest groups, the latest first."""
        query = select(ObservationGroup.group_id).order_by(ObservationGroup.group_id.desc())
        with self._database.reading() as session:
            return list(session.scalars(query.limit(limit)))

    def newest_sighting(self) -> float | None:
        """When the newest file was seen first (Unix seconds); None if no file was looked at."""
        with self._database.reading() as session:
            return _seconds(session.scalar(select(func.max(SubbandFile.first_seen))))

    def watched_groups(self, closed_after: float) -> list[IngestGroup]:
        """The accepted groups that were closed after a time."""
        query = (
            select(ObservationGroup)
            .where(ObservationGroup.ingest_state == IngestState.CLOSED.value)
            .where(ObservationGroup.closed_at >= _text(closed_after))
        )
        with self._database.reading() as session:
            return ingest_groups(session, query)

    def note_files(self, changes: Sequence[FileChange]) -> None:
        """Note what became of files; accepted ones of a closed group can only be `CHANGED`.

        But for the first look at a file that a command has entered, whose size nobody knows.
        """
        if not changes:
            return
        with self._database.writing() as session:
            for change in changes:
                row = session.get(SubbandFile, str(change.path))
                if row is None or row.state != change.before.value:
                    continue
                group = session.get_one(ObservationGroup, row.group_id)
                collecting = group.ingest_state == IngestState.COLLECTING
                is_first_look = row.mtime_ns is None and change.state is change.before
                if collecting == (change.state is FileState.CHANGED) and not is_first_look:
                    continue
                row.size, row.mtime_ns = change.size, change.mtime_ns
                row.state, row.reason = change.state.value, change.reason or None
                row.unchanged_since = _text(change.unchanged_since)
                row.first_seen = _text(change.first_seen)

    def next_seen(self, group_id: str, timestamp_seconds: int) -> float | None:
        """When the first file of the group after this one was seen."""
        later = SubbandFile.timestamp_seconds
        with self._database.reading() as session:
            seen = session.scalar(
                select(func.min(SubbandFile.first_seen))
                .where(later > timestamp_seconds)
                .where(later <= timestamp_seconds + NEXT_GROUP_SECONDS_MAX)
                .where(SubbandFile.group_id != group_id)
            )
        return _seconds(seen)

    def note_wait_over(self, group_id: str, reason: str) -> None:
        """Note why a group that is still collecting will be closed."""
        with self._database.writing() as session:
            session.execute(
                update(ObservationGroup)
                .where(ObservationGroup.group_id == group_id)
                .where(ObservationGroup.ingest_state == IngestState.COLLECTING.value)
                .values(closed_reason=reason)
            )

    def close_group(self, closure: Closure) -> bool:
        """Fix the files of a collecting group; False if it is not collecting any more."""
        with self._database.writing() as session:
            row = session.get(ObservationGroup, closure.group_id)
            if row is None or row.ingest_state != IngestState.COLLECTING:
                return False
            row.ingest_state, row.closed_reason = closure.state.value, closure.reason
            row.n_subbands, row.closed_at = len(closure.accepted), _text(closure.closed_at)
            row.mid_mjd, row.declination_deg = closure.mid_mjd, closure.declination_deg
            others = {str(path): (state, reason) for path, state, reason in closure.others}
            files = session.scalars(
                select(SubbandFile).where(SubbandFile.group_id == closure.group_id)
            )
            accepted = {str(path) for path in closure.accepted}
            for file in files:
                if file.path in accepted:
                    file.state, file.reason = FileState.WHOLE.value, None
                elif file.path in others:
                    state, reason = others[file.path]
                    file.state, file.reason = state.value, reason
                elif file.state in (FileState.ARRIVING, FileState.WHOLE):  # seen meanwhile
                    file.state = FileState.LATE.value
                    file.reason = "came while the group was closed"
        return True

    def shift_times(self, seconds: float, recent_after: float) -> None:
        """After the clock was set: the times of what is collected or recent move with it."""
        collecting = select(ObservationGroup.group_id).where(
            ObservationGroup.ingest_state == IngestState.COLLECTING.value
        )
        with self._database.writing() as session:
            for row in session.scalars(
                select(SubbandFile).where(SubbandFile.group_id.in_(collecting))
            ):
                row.first_seen = _text(_known(row.first_seen) + seconds)
                row.unchanged_since = _text(_known(row.unchanged_since) + seconds)
            recent = ObservationGroup.closed_at >= _text(recent_after)
            for group in session.scalars(select(ObservationGroup).where(recent)):
                group.closed_at = _text(_known(group.closed_at) + seconds)

    def groups_to_spawn(self) -> list[IngestGroup]:
        """The accepted groups without a task."""
        query = (
            select(ObservationGroup)
            .where(ObservationGroup.ingest_state == IngestState.CLOSED.value)
            .where(ObservationGroup.closed_at.is_not(None))
            .where(ObservationGroup.task_id.is_(None))
            .order_by(ObservationGroup.group_id)
        )
        with self._database.reading() as session:
            return ingest_groups(session, query)

    def groups_for_photometry(self) -> list[tuple[IngestGroup, str | None]]:
        """The groups that ended well and whose newest image has no task of photometry.

        Each with the key of that image; None if the registry knows none.
        """
        ended = (GroupStatus.DONE.value, GroupStatus.DEGRADED.value)
        query = (
            select(ObservationGroup)
            .where(ObservationGroup.status.in_(ended))
            .where(ObservationGroup.task_id.is_not(None))
            .where(ObservationGroup.photometry_task_id.is_(None))
            .order_by(ObservationGroup.group_id)
        )
        with self._database.reading() as session:
            return [
                (_group(row, ()), newest_image_key(session, row.group_id))
                for row in session.scalars(query).all()
            ]

    def note_task(self, group_id: str, files_version: int, task_id: str) -> None:
        """Note the pipeline task of a group's files."""
        with self._database.writing() as session:
            _set_task(session, group_id, files_version, task_id=task_id)

    def forget_task(self, group_id: str, files_version: int) -> None:
        """Let a group have no pipeline task: it gets another one."""
        with self._database.writing() as session:
            _set_task(session, group_id, files_version, task_id=None)

    def note_photometry_task(
        self, group_id: str, files_version: int, image_key: str | None, task_id: str
    ) -> None:
        """Note the photometry task of a group, unless a newer image has come meanwhile."""
        with self._database.writing() as session:
            if newest_image_key(session, group_id) == image_key:
                _set_task(session, group_id, files_version, photometry_task_id=task_id)

    def observations(self) -> list[IngestGroup]:
        """All groups of ingestion without their files, in the order of their names."""
        query = (
            select(ObservationGroup)
            .where(
                or_(
                    ObservationGroup.closed_at.is_not(None),
                    ObservationGroup.ingest_state == IngestState.COLLECTING.value,
                )
            )
            .order_by(ObservationGroup.group_id)
        )
        with self._database.reading() as session:
            return [_group(row, ()) for row in session.scalars(query)]

    def windows(self) -> list[Window]:
        """All windows in the order of time."""
        return list_windows(self._database)

    def windows_without_mosaic(self) -> list[Window]:
        """See `registry.windows.windows_without_mosaic`."""
        return windows_without_mosaic(self._database)

    def forget_window_task(self, window_id: str) -> None:
        """Let a window have no mosaic task: it gets another one."""
        note_window_task(self._database, window_id, None)

    def store_windows(self, changes: Sequence[Window]) -> None:
        """See `registry.windows.store_windows`."""
        store_windows(self._database, changes)

    def note_window_task(self, window_id: str, task_id: str) -> None:
        """See `registry.windows.note_window_task`."""
        note_window_task(self._database, window_id, task_id)

    def reopen_group(self, group_id: str, now: float) -> int:
        """Collect the files of a group again, late and changed ones too; the new version.

        Raises `MissingInputError` or `SettingError` where that makes no sense.
        """
        with self._database.writing() as session:
            row = session.get(ObservationGroup, group_id)
            if row is None:
                names = session.scalars(select(ObservationGroup.group_id))
                raise MissingInputError(
                    f"There is no group {group_id!r} in the registry.",
                    did_you_mean(group_id, names, "contimg groups lists them."),
                )
            if row.ingest_state == IngestState.COLLECTING:
                raise SettingError(
                    f"Group {group_id} is not closed: its files are being collected.",
                    "contimg groups shows what it waits for.",
                )
            row.ingest_state = IngestState.COLLECTING.value
            row.status, row.reason = GroupStatus.DISCOVERED.value, None
            row.task_id = row.photometry_task_id = row.closed_reason = row.closed_at = None
            row.n_subbands = None
            row.files_version += 1
            for file in session.scalars(
                select(SubbandFile).where(SubbandFile.group_id == group_id)
            ):
                file.state, file.reason = FileState.ARRIVING.value, None
                file.first_seen = file.unchanged_since = _text(now)
            return row.files_version


def _set_task(session: Session, group_id: str, files_version: int, **task: str | None) -> None:
    session.execute(
        update(ObservationGroup)
        .where(ObservationGroup.group_id == group_id)
        .where(ObservationGroup.files_version == files_version)
        .values(**task)
    )


def _closed_groups(session: Session, group_ids: Collection[str]) -> Mapping[str, str]:
    """The state of those that collect no more files."""
    states: dict[str, str] = {}
    for part in chunks(sorted(group_ids)):
        query = select(ObservationGroup.group_id, ObservationGroup.ingest_state)
        query = query.where(ObservationGroup.group_id.in_(part))
        states.update((group_id, state) for group_id, state in session.execute(query))
    collecting = IngestState.COLLECTING.value
    return {group_id: state for group_id, state in states.items() if state != collecting}


def ingest_groups(session: Session, query: Select[Any]) -> list[IngestGroup]:
    """The groups of a query with their files."""
    rows = list(session.scalars(query))
    files: dict[str, list[IngestFile]] = {row.group_id: [] for row in rows}
    for part in chunks(list(files)):
        of_part = select(SubbandFile).where(SubbandFile.group_id.in_(part))
        for file in session.scalars(of_part.order_by(SubbandFile.subband, SubbandFile.path)):
            files[file.group_id].append(_file(file))
    return [_group(row, files[row.group_id]) for row in rows]


def _group(row: ObservationGroup, files: Sequence[IngestFile]) -> IngestGroup:
    return IngestGroup(
        group_id=row.group_id,
        status=GroupStatus(row.status),
        reason=row.reason or "",
        mid_mjd=row.mid_mjd,
        declination_deg=row.declination_deg,
        ingest_state=IngestState(row.ingest_state),
        closed_reason=row.closed_reason or "",
        n_subbands=row.n_subbands,
        closed_at=_seconds(row.closed_at),
        files_version=row.files_version,
        task_id=row.task_id,
        files=tuple(files),
    )


def _file(row: SubbandFile) -> IngestFile:
    return IngestFile(
        path=Path(row.path),
        group_id=row.group_id,
        subband=row.subband,
        timestamp_seconds=row.timestamp_seconds,
        size=row.size or 0,
        mtime_ns=row.mtime_ns or 0,
        state=FileState(row.state),
        reason=row.reason or "",
        first_seen=_known(row.first_seen),
        unchanged_since=_known(row.unchanged_since),
    )


def _text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")


def _seconds(text: Any) -> float | None:
    return None if text is None else datetime.fromisoformat(text).timestamp()


def _known(text: str | None) -> float:
    """The time of a column, the epoch for files that earlier versions have entered."""
    return _seconds(text) or 0.0
