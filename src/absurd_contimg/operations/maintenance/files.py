"""Old raw files and old logs: which of them may go, and their removal."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import update

from absurd_contimg.file_owners import why_it_stays
from absurd_contimg.operations.maintenance.needs import Needs
from absurd_contimg.registry import GroupStatus, Registry
from absurd_contimg.registry.database import chunks
from absurd_contimg.registry.models import FileState, ObservationGroup, SubbandFile
from absurd_contimg.registry.removed_products import REMOVED_FILE

_DAY_SECONDS = 86_400.0
_ENDED = {
    GroupStatus.DONE.value, GroupStatus.DEGRADED.value, GroupStatus.FAILED.value,
    GroupStatus.QUARANTINED.value,
}  # fmt: skip
_LOG_SUFFIX = ".log"


@dataclass(frozen=True, slots=True)
class OldFile:
    """A file that is old enough to go."""

    path: Path
    group_id: str
    size_bytes: int
    kept: str | None = None
    """Why it stays all the same."""


def old_raw_files(
    registry: Registry, input_dir: Path, days: float, needs: Needs, now: datetime
) -> list[OldFile]:
    """The raw files in the incoming folder whose observation is so many days ago."""
    status = {row["group_id"]: row["status"] for row in registry.rows(ObservationGroup)}
    limit = now.timestamp() - days * _DAY_SECONDS
    old = []
    for row in registry.rows(SubbandFile):
        path, group_id = Path(row["path"]), row["group_id"]
        is_begun = str(row["reason"]).startswith(REMOVED_FILE)
        is_known_gone = row["state"] == FileState.GONE.value and not is_begun
        if row["timestamp_seconds"] >= limit or is_known_gone or not path.is_file():
            continue
        kept = needs.groups.get(group_id)
        if status.get(group_id) not in _ENDED:
            kept = kept or f"its group has not ended ({status.get(group_id)})"
        if path.is_symlink() or not path.is_relative_to(input_dir):
            kept = "it is a link or lies outside of the incoming folder"
        old.append(OldFile(path, group_id, path.stat().st_size, kept))
    return old


def remove_raw_files(
    registry: Registry, files: Iterable[OldFile], now: datetime, refused: list[str]
) -> int:
    """Note in the registry that files are removed, then remove them; how many.

    `refused` gets a sentence for each that cannot be removed.

    A killed run leaves files that are noted as removed: the next one removes them.
    """
    chosen, count = [file for file in files if file.kept is None], 0
    reason = f"{REMOVED_FILE}{now.astimezone(UTC):%Y-%m-%d}"
    for part in chunks(chosen):
        with registry.database.writing() as session:
            session.execute(
                update(SubbandFile)
                .where(SubbandFile.path.in_([str(file.path) for file in part]))
                .values(state=FileState.GONE.value, reason=reason)
            )
        count += _remove(part, refused)
    return count


def old_logs(state_dir: Path, days: float | None, needs: Needs, now: datetime) -> list[OldFile]:
    """The logs of stages that nobody has written to for so many days, but of groups in need."""
    if days is None:
        return []
    limit = now.timestamp() - days * _DAY_SECONDS
    old = []
    for folder in _folders(state_dir / "logs"):
        if folder.name in needs.groups:
            continue
        for entry in os.scandir(folder):
            if entry.is_file(follow_symlinks=False) and entry.name.endswith(_LOG_SUFFIX):
                status = entry.stat(follow_symlinks=False)
                if status.st_mtime < limit:
                    old.append(OldFile(Path(entry.path), folder.name, status.st_size))
    return old


def remove_logs(logs: Iterable[OldFile], refused: list[str]) -> int:
    """Remove logs; how many. Their folders stay. `refused` as for raw files."""
    return _remove(logs, refused)


def _remove(files: Iterable[OldFile], refused: list[str]) -> int:
    count = 0
    for file in files:
        try:
            file.path.unlink(missing_ok=True)
            count += 1
        except OSError as error:
            refused.append(why_it_stays(file.path, error))
    return count


def _folders(parent: Path) -> Iterator[Path]:
    if parent.is_dir():
        yield from (Path(e.path) for e in os.scandir(parent) if e.is_dir(follow_symlinks=False))
