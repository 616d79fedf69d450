"""What ingestion knows of files and groups. Times are Unix seconds of the daemon's clock."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from absurd_contimg.registry.models import FileState, GroupStatus, IngestState


@dataclass(frozen=True, slots=True)
class IngestFile:
    """A file in the incoming folder. Times are Unix seconds of the daemon's clock."""

    path: Path
    group_id: str
    subband: int
    timestamp_seconds: int
    size: int
    mtime_ns: int
    state: FileState
    reason: str
    first_seen: float
    unchanged_since: float

    @property
    def was_looked_at(self) -> bool:
        """False for files that were entered by another command."""
        return self.mtime_ns != 0


@dataclass(frozen=True, slots=True)
class IngestGroup:
    """A group with its files, whatever their state."""

    group_id: str
    status: GroupStatus
    reason: str
    mid_mjd: float | None
    declination_deg: float | None
    ingest_state: IngestState
    closed_reason: str
    n_subbands: int | None
    closed_at: float | None
    files_version: int
    task_id: str | None
    files: tuple[IngestFile, ...] = ()

    @property
    def state(self) -> str:
        """See `group_state`."""
        return group_state(self.ingest_state, self.status)


def group_state(ingest_state: IngestState, status: GroupStatus) -> str:
    """The state of a group in one word: ``rejected``, ``collecting``, or else its status.

    A group that a command has spawned is processed though no daemon has closed it.
    """
    is_closed = ingest_state is IngestState.CLOSED
    is_begun = ingest_state is IngestState.COLLECTING and status is not GroupStatus.DISCOVERED
    return status.value if is_closed or is_begun else ingest_state.value


_ENDED = {
    GroupStatus.DONE,
    GroupStatus.DEGRADED,
    GroupStatus.FAILED,
    GroupStatus.QUARANTINED,
}


def is_unfinished(group: IngestGroup) -> bool:
    """Whether a closed group has a task of which no end is known."""
    is_closed = group.ingest_state is IngestState.CLOSED
    return is_closed and group.task_id is not None and group.status not in _ENDED


@dataclass(frozen=True, slots=True)
class FileSighting:
    """A new file."""

    path: Path
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class FileChange:
    """A new state of a file, if it still has the state `before`."""

    path: Path
    before: FileState
    size: int
    mtime_ns: int
    state: FileState
    reason: str
    unchanged_since: float
    first_seen: float


@dataclass(frozen=True, slots=True)
class Closure:
    """A collecting group is closed or rejected; files that are not accepted have a state."""

    group_id: str
    state: IngestState
    reason: str
    accepted: tuple[Path, ...]
    others: tuple[tuple[Path, FileState, str], ...]
    mid_mjd: float | None
    declination_deg: float | None
    closed_at: float
