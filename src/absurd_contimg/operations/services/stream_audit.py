"""The invariants over the stream, on the registry of a site."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from absurd_contimg.core.records import History
from absurd_contimg.history.invariants.check import (
    STREAM_INVARIANTS,
    Violation,
    find_violations,
)
from absurd_contimg.ingest.stream_observation import observe_stream
from absurd_contimg.operations.services.registry_tables import has_registry, open_tables
from absurd_contimg.registry.batches import Batches
from absurd_contimg.registry.ingestion import IngestionTables
from absurd_contimg.registry.publications import Publications
from absurd_contimg.settings import Settings


def audit_stream(
    settings: Settings,
    histories: Sequence[History],
    queue_created_at: datetime | None = None,
) -> list[Violation]:
    """The violations in what the registry holds beside these tasks; none without a registry."""
    if not has_registry(settings):
        return []
    with open_tables(settings) as database:
        observed = observe_stream(
            histories,
            IngestionTables(database),
            Publications(database),
            Batches(database),
            queue_created_at=queue_created_at,
        )
    return find_violations(STREAM_INVARIANTS, observed)
