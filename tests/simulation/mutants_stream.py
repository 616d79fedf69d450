"""Mutants of what makes groups, windows, publications and batches of a night."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from absurd_contimg.core.records import SpawnOptions
from absurd_contimg.ingest import arrivals, batches, daemon, window_mosaics
from absurd_contimg.ingest.closing import Decision, decide
from absurd_contimg.ingest.windows import reconcile
from absurd_contimg.products.publication import StagedCopy
from absurd_contimg.registry.batches import ItemState
from absurd_contimg.registry.models import IngestState
from absurd_contimg.registry.windows import WindowState
from absurd_contimg.simulation.model.simulated_config import SIMULATED_CONFIG
from absurd_contimg.workflows.publication import Publisher

Patch = pytest.MonkeyPatch


def groups_have_no_key(patch: Patch) -> None:
    def of_version(options: SpawnOptions, group: Any) -> SpawnOptions:
        return replace(options, idempotency_key=None)

    patch.setattr(daemon, "of_version", of_version)


def mosaics_have_no_key(patch: Patch) -> None:
    spawn_options = window_mosaics.mosaic.spawn_options

    def keyless(inputs: Any) -> SpawnOptions:
        return replace(spawn_options(inputs), idempotency_key=None)

    patch.setattr(window_mosaics.mosaic, "spawn_options", keyless)


def every_second_is_a_group(patch: Patch) -> None:
    patch.setattr(arrivals, "TOLERANCE_SECONDS", 0)


def groups_wait_without_a_deadline(patch: Patch) -> None:
    def wait(group: Any, rules: Any, now: float) -> Decision:
        decision = decide(group, rules, now)
        return decision if decision.is_complete else Decision(IngestState.COLLECTING, "waits")

    patch.setattr(arrivals, "decide", wait)


def windows_are_never_superseded(patch: Patch) -> None:
    def keep(stored: Any, formed: Any) -> Any:
        changes = reconcile(stored, formed)
        return [window for window in changes if window.state is not WindowState.SUPERSEDED]

    patch.setattr(daemon, "reconcile", keep)


def tasks_are_not_noted(patch: Patch) -> None:
    spawn = daemon.Daemon._spawn

    async def spawn_other(self: Any, name: str, inputs: Any, options: Any) -> str:
        task_id = await spawn(self, name, inputs, options)
        return task_id[:-4] + "0000"

    patch.setattr(daemon.Daemon, "_spawn", spawn_other)


def publications_are_not_finished(patch: Patch) -> None:
    def finish(self: Any, copy: Any) -> None:
        """Leave the row as it is."""

    patch.setattr(Publisher, "_finish", finish)


def all_mosaics_go_to_one_place(patch: Patch) -> None:
    make = StagedCopy.__init__

    def make_here(self: Any, product: Any, published: Any, *rest: Any) -> None:
        make(self, product, published, *rest)
        self.destination = SIMULATED_CONFIG.paths.published / "mosaics" / "newest"

    patch.setattr(StagedCopy, "__init__", make_here)


def failed_items_count_as_completed(patch: Patch) -> None:
    states: Mapping[Any, ItemState] = {**batches.ITEM_STATES, "failed": ItemState.COMPLETED}
    patch.setattr(batches, "ITEM_STATES", states)


def items_share_a_key(patch: Patch) -> None:
    patch.setattr(batches, "item_key", lambda batch_id, position: f"batch:{batch_id}")


def items_have_no_key(patch: Patch) -> None:
    def keyless(**options: Any) -> SpawnOptions:
        return SpawnOptions(**{**options, "idempotency_key": None})

    patch.setattr(batches, "SpawnOptions", keyless)


STREAM_MUTANTS: Mapping[str, tuple[Callable[[Patch], None], str, str]] = {
    "groups have no key": (groups_have_no_key, "daemon", "no_group_is_processed_twice"),
    "mosaics have no key": (mosaics_have_no_key, "daemon", "no_window_twice"),
    "every second is a group": (every_second_is_a_group, "daemon", "no_observation_in_two_groups"),
    "groups wait without a deadline": (
        groups_wait_without_a_deadline, "daemon", "nobody_waits_for_ever",
    ),
    "windows are never superseded": (windows_are_never_superseded, "daemon", "no_window_twice"),
    "another task is noted": (tasks_are_not_noted, "daemon", "every_accepted_group_has_its_task"),
    "publications are not finished": (
        publications_are_not_finished, "mosaic", "nobody_waits_for_ever",
    ),
    "all mosaics go to one place": (
        all_mosaics_go_to_one_place, "night", "nothing_is_published_twice",
    ),
    "failed items count as completed": (
        failed_items_count_as_completed, "batch", "batch_counts_agree_with_tasks",
    ),
    "items share a key": (items_share_a_key, "batch", "batch_counts_agree_with_tasks"),
    "items have no key": (items_have_no_key, "batch", "no_group_is_processed_twice"),
}  # fmt: skip
"""By name: the mutant, the workflow that shows it, and the invariant that goes red."""
