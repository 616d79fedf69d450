"""What the daemon needs of the registry and of time; a simulation puts its own there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from absurd_contimg.registry.ingestion_records import (
    Closure,
    FileChange,
    FileSighting,
    IngestFile,
    IngestGroup,
)
from absurd_contimg.registry.models import IngestState
from absurd_contimg.registry.windows import Window


class Clock(Protocol):
    """Two clocks: one that tells the time and may be set, and one that only goes forward."""

    def now(self) -> float:
        """Unix seconds."""

    def monotonic(self) -> float:
        """Seconds since any moment."""


class IngestStore(Protocol):
    """See `registry.ingestion.IngestionTables`; called in a thread."""

    def known_paths(self) -> set[str]: ...  # noqa: D102

    def enter_files(  # noqa: D102
        self, sightings: Sequence[FileSighting], now: float, tolerance_seconds: int
    ) -> list[IngestFile]: ...

    def groups(  # noqa: D102
        self, states: Sequence[IngestState] = ..., group_id: str | None = None
    ) -> list[IngestGroup]: ...

    def watched_groups(self, closed_after: float) -> list[IngestGroup]: ...  # noqa: D102

    def note_files(self, changes: Sequence[FileChange]) -> None: ...  # noqa: D102

    def next_seen(self, group_id: str, timestamp_seconds: int) -> float | None: ...  # noqa: D102

    def note_wait_over(self, group_id: str, reason: str) -> None: ...  # noqa: D102

    def close_group(self, closure: Closure) -> bool: ...  # noqa: D102

    def shift_times(self, seconds: float, recent_after: float) -> None: ...  # noqa: D102

    def groups_to_spawn(self) -> list[IngestGroup]: ...  # noqa: D102

    def groups_for_photometry(  # noqa: D102
        self,
    ) -> list[tuple[IngestGroup, str | None]]: ...

    def note_task(self, group_id: str, files_version: int, task_id: str) -> None: ...  # noqa: D102

    def forget_task(self, group_id: str, files_version: int) -> None: ...  # noqa: D102

    def note_photometry_task(  # noqa: D102
        self, group_id: str, files_version: int, image_key: str | None, task_id: str
    ) -> None: ...

    def observations(self) -> list[IngestGroup]: ...  # noqa: D102

    def windows(self) -> list[Window]: ...  # noqa: D102

    def windows_without_mosaic(self) -> list[Window]: ...  # noqa: D102

    def forget_window_task(self, window_id: str) -> None: ...  # noqa: D102

    def store_windows(self, changes: Sequence[Window]) -> None: ...  # noqa: D102

    def note_window_task(self, window_id: str, task_id: str) -> None: ...  # noqa: D102
