"""What polls have done and what still waits, from what is stored before and after them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from absurd_contimg.ingest.arrivals import next_seen
from absurd_contimg.ingest.closing import ClosingRules
from absurd_contimg.ingest.group_notes import group_note
from absurd_contimg.ingest.ports import IngestStore
from absurd_contimg.registry.models import IngestState


@dataclass(frozen=True, slots=True)
class StoredIngestion:
    """What is stored at a moment, as far as a summary needs it."""

    n_files: int
    ended: Mapping[tuple[str, int], str]
    """The states of groups that are not collecting, by name and version of their files."""
    group_tasks: frozenset[str]
    mosaic_tasks: frozenset[str]

    @classmethod
    def read(cls, store: IngestStore) -> Self:
        """What is stored now."""
        groups = store.observations()
        return cls(
            len(store.known_paths()),
            {
                (group.group_id, group.files_version): group.ingest_state.value
                for group in groups
                if group.ingest_state is not IngestState.COLLECTING
            },
            frozenset(group.task_id for group in groups if group.task_id is not None),
            frozenset(each.task_id for each in store.windows() if each.task_id is not None),
        )


@dataclass(frozen=True, slots=True)
class PollSummary:
    """What was done between two moments, and what waits at the second."""

    new_files: int
    ended: Sequence[tuple[str, str]]
    """Groups that were closed or rejected: name and state."""
    group_tasks: int
    mosaic_tasks: int
    waiting: Sequence[tuple[str, str]]
    """Groups that are collecting, the newest first: name, and what it waits for."""


def summarize(
    before: StoredIngestion, store: IngestStore, rules: ClosingRules, now: float
) -> PollSummary:
    """What was done since `before`."""
    after = StoredIngestion.read(store)
    new = sorted(after.ended.keys() - before.ended.keys())
    collecting = store.groups([IngestState.COLLECTING])
    return PollSummary(
        after.n_files - before.n_files,
        [(group_id, after.ended[group_id, version]) for group_id, version in new],
        len(after.group_tasks - before.group_tasks),
        len(after.mosaic_tasks - before.mosaic_tasks),
        [
            (group.group_id, group_note(group, next_seen(group, store), rules, now))
            for group in reversed(collecting)
        ],
    )
