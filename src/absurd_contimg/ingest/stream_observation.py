"""What a registry shows to the invariants over the stream, a real one or a simulated one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol

from absurd_contimg.core.records import History
from absurd_contimg.history.invariants.stream import (
    ObservedBatch,
    ObservedGroup,
    ObservedPublication,
    ObservedWindow,
    StreamObservation,
)
from absurd_contimg.ingest.daemon import accepted_files
from absurd_contimg.registry.batches import Batch, BatchItem
from absurd_contimg.registry.ingestion_records import IngestGroup, is_unfinished
from absurd_contimg.registry.models import IngestState
from absurd_contimg.registry.publications import Publication
from absurd_contimg.registry.windows import Window


class ObservedIngestion(Protocol):
    """Groups and windows."""

    def groups(self) -> Sequence[IngestGroup]: ...  # noqa: D102

    def windows(self) -> Sequence[Window]: ...  # noqa: D102


class ObservedPublications(Protocol):
    """Publications."""

    def all(self) -> Sequence[Publication]: ...  # noqa: D102


class ObservedBatches(Protocol):
    """Batches and their items."""

    def batches(self) -> Sequence[Batch]: ...  # noqa: D102

    def items(self, batch_id: str) -> Sequence[BatchItem]: ...  # noqa: D102


def observe_stream(
    histories: Sequence[History],
    ingestion: ObservedIngestion,
    publications: ObservedPublications,
    batches: ObservedBatches,
    times_put_there: Callable[[Path], int] | None = None,
    *,
    queue_created_at: datetime | None = None,
    must_have_ended: bool = False,
) -> StreamObservation:
    """The stream as it is recorded now; `times_put_there`, where somebody has counted that."""
    return StreamObservation(
        histories,
        list(map(_group, ingestion.groups())),
        list(map(_window, ingestion.windows())),
        [
            ObservedPublication(
                row.product_key,
                row.state.value,
                str(row.destination),
                None if times_put_there is None else times_put_there(row.destination),
            )
            for row in publications.all()
        ],
        [
            ObservedBatch(
                batch.batch_id,
                batch.state.value,
                [(item.state.value, item.task_id) for item in batches.items(batch.batch_id)],
            )
            for batch in batches.batches()
        ],
        queue_created_at,
        must_have_ended,
    )


def _group(group: IngestGroup) -> ObservedGroup:
    return ObservedGroup(
        group.group_id,
        group.ingest_state is IngestState.COLLECTING,
        [file.timestamp_seconds for file in group.files],
        list(map(str, accepted_files(group))),
        group.task_id,
        group.ingest_state is IngestState.CLOSED,
        is_unfinished(group),
    )


def _window(window: Window) -> ObservedWindow:
    members = [member.group_id for member in window.members]
    return ObservedWindow(window.window_id, window.state.value, members)
