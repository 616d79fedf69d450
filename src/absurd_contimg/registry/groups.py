"""Observation groups with their files."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from absurd_contimg.registry.database import Database, chunks
from absurd_contimg.registry.models import GroupStatus, ObservationGroup, SubbandFile


@dataclass(frozen=True, slots=True)
class Group:
    """One observation group: its status, and the reason if it did not end well."""

    group_id: str
    status: GroupStatus
    reason: str | None
    files: tuple[Path, ...]
    """In the order of their sub-bands."""


def note_retried(database: Database, task_ids: Collection[str]) -> None:
    """The groups of these tasks are under way again, not failed or in quarantine any more."""
    ended = (GroupStatus.FAILED.value, GroupStatus.QUARANTINED.value)
    with database.writing() as session:
        for part in chunks(sorted(task_ids)):
            session.execute(
                update(ObservationGroup)
                .where(ObservationGroup.task_id.in_(part))
                .where(ObservationGroup.status.in_(ended))
                .values(status=GroupStatus.DISCOVERED.value, reason=None)
            )


def with_files(session: Session, rows: Sequence[ObservationGroup]) -> list[Group]:
    """The groups with their files."""
    files: dict[str, list[Path]] = {row.group_id: [] for row in rows}
    for part in chunks(list(files)):
        query = (
            select(SubbandFile.group_id, SubbandFile.path)
            .where(SubbandFile.group_id.in_(part))
            .order_by(SubbandFile.subband, SubbandFile.path)
        )
        for group_id, path in session.execute(query):
            files[group_id].append(Path(path))
    return [
        Group(row.group_id, GroupStatus(row.status), row.reason, tuple(files[row.group_id]))
        for row in rows
    ]
