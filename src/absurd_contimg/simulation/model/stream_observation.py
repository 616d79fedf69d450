"""What a simulated registry shows to the invariants over the stream."""

from __future__ import annotations

from collections.abc import Sequence

from absurd_contimg.core.records import History
from absurd_contimg.history.invariants.stream import (
    ObservedBatch,
    ObservedGroup,
    ObservedPublication,
    ObservedWindow,
    StreamObservation,
)
from absurd_contimg.registry.models import FileState, IngestState
from absurd_contimg.simulation.model.disk import Disk
from absurd_contimg.simulation.model.simulated_registry import SimulatedRegistry

_ACCEPTED = (FileState.WHOLE, FileState.CHANGED)


def observe_stream(
    registry: SimulatedRegistry, disk: Disk, histories: Sequence[History], must_have_ended: bool
) -> StreamObservation:
    """The stream as it is recorded now."""
    groups = registry.ingestion.groups()
    return StreamObservation(
        histories,
        [
            ObservedGroup(
                group.group_id,
                group.ingest_state is IngestState.COLLECTING,
                [file.timestamp_seconds for file in group.files],
                [str(file.path) for file in group.files if file.state in _ACCEPTED],
                group.task_id,
                group.ingest_state is IngestState.CLOSED,
            )
            for group in groups
        ],
        [
            ObservedWindow(
                window.window_id,
                window.state.value,
                [member.group_id for member in window.members],
            )
            for window in registry.ingestion.windows()
        ],
        [
            ObservedPublication(
                row.product_key,
                row.state.value,
                str(row.destination),
                disk.commits.get(str(row.destination), 0),
            )
            for row in registry.publications.all()
        ],
        [
            ObservedBatch(
                batch.batch_id,
                batch.state.value,
                [
                    (item.state.value, item.task_id)
                    for item in registry.batches.items(batch.batch_id)
                ],
            )
            for batch in registry.batches.all()
        ],
        must_have_ended,
    )
