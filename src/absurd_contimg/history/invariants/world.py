"""Invariants over a world under observation: its histories, its disk, its registry.

The simulation checks them after every run. They know no simulation: what they need of a disk is
`ProductDisk`, what only an observer of every effect can know is in `WorldObservation`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from absurd_contimg.core.records import TERMINAL_STATES, History
from absurd_contimg.history.invariants.stream import StreamObservation
from absurd_contimg.history.wait_reason import find_wait_reason

FAILED_RUNS_MAX = 100
"""Of one task; far more than any budget allows."""


class ProductDisk(Protocol):
    """What the invariants ask of a disk that holds products."""

    @property
    def violations(self) -> Iterable[str]:
        """Changes of committed products that were seen as they happened."""

    @property
    def commits(self) -> Mapping[str, int]:
        """How often a product was renamed into each place."""

    @property
    def folders(self) -> Collection[str]:
        """Every folder on the disk."""

    def product_paths(self) -> Sequence[str]:
        """The folder of every committed product."""

    def has_manifest(self, product: str) -> bool:
        """Whether a product folder holds a manifest with content."""


@dataclass(frozen=True, slots=True)
class WorldObservation:
    """What an observer knows of a world: what it leaves behind, and what was seen in it."""

    histories: Sequence[History]
    disk: ProductDisk
    registered: Mapping[str, Any]
    """The registered products and the published copies, by path."""
    must_have_ended: bool = True
    overlaps: Sequence[str] = ()
    """Where a stage ran twice at a time."""
    errors: Sequence[str] = ()
    """What the code of living processes raised and nobody caught."""
    unleased_publications: Sequence[str] = ()
    """Who renamed a product into place without a lease of its run."""
    retained_runs: Sequence[str] = ()
    """Processes that ended on SIGTERM and kept the claim of a run."""
    scratch_folders: Sequence[str] = ()
    """Folders of attempts that are left although every process could remove its own."""
    stream: StreamObservation = field(default_factory=StreamObservation)
    standstill: str | None = None
    """Why nothing more could happen, or why events never ended."""


def every_task_has_ended(observed: WorldObservation) -> Iterator[str]:
    """At the end of a world nothing is left undone."""
    for history in observed.histories:
        if observed.must_have_ended and history.task.state not in TERMINAL_STATES:
            waiting = find_wait_reason(history)
            reason = "" if waiting is None else f", waits for {waiting}"
            yield f"task {history.task.task_id} is still {history.task.state}{reason}"


def no_task_is_tried_for_ever(observed: WorldObservation) -> Iterator[str]:
    """No task has more than `FAILED_RUNS_MAX` failed runs."""
    for history in observed.histories:
        failed = sum(run.state == "failed" for run in history.runs)
        if failed > FAILED_RUNS_MAX:
            yield f"task {history.task.task_id} has {failed} failed runs"


def world_never_stands_still(observed: WorldObservation) -> Iterator[str]:
    """While a task is left some event comes, and events do not go on for ever at one time."""
    if observed.standstill is not None:
        yield observed.standstill


def no_two_workers_in_one_stage(observed: WorldObservation) -> Iterator[str]:
    """No two living, running processes work on one stage of one group at a time."""
    yield from observed.overlaps


def committed_products_never_change(observed: WorldObservation) -> Iterator[str]:
    """Nobody writes into a committed product, moves it or removes it."""
    yield from observed.disk.violations


def products_are_whole(observed: WorldObservation) -> Iterator[str]:
    """Every committed product has a manifest and was renamed into its place once."""
    for path in observed.disk.product_paths():
        if not observed.disk.has_manifest(path):
            yield f"{path} has no manifest"
        commits = observed.disk.commits.get(path, 0)
        if commits == 0:
            yield f"{path} is in its place, and no process has put it there"
        if commits > 1:
            yield f"{path} was put in its place {commits} times"


def products_are_published_under_a_lease(observed: WorldObservation) -> Iterator[str]:
    """Only a process that holds the lease of a run renames its product into place."""
    yield from observed.unleased_publications


def registered_products_exist(observed: WorldObservation) -> Iterator[str]:
    """A product is registered after it was renamed into place."""
    for path in sorted(observed.registered.keys() - observed.disk.product_paths()):
        yield f"{path} is registered but not there"


def products_are_registered(observed: WorldObservation) -> Iterator[str]:
    """When all tasks have completed, the registry knows every product."""
    if all(history.task.state == "completed" for history in observed.histories):
        for path in sorted(set(observed.disk.product_paths()) - observed.registered.keys()):
            yield f"{path} is there but not registered"


def saved_steps_have_their_products(observed: WorldObservation) -> Iterator[str]:
    """A checkpoint names only products that are in their place."""
    for history in observed.histories:
        for checkpoint in history.checkpoints:
            state = checkpoint.state
            product = state.get("product") if isinstance(state, Mapping) else None
            if isinstance(product, str) and product not in observed.disk.folders:
                yield f"checkpoint {checkpoint.checkpoint_name} names {product}, which is not there"


def terminated_process_releases_its_runs(observed: WorldObservation) -> Iterator[str]:
    """A process that ends on SIGTERM holds no run any more."""
    yield from observed.retained_runs


def no_scratch_is_left_behind(observed: WorldObservation) -> Iterator[str]:
    """Every attempt removes its scratch folder; a worker removes those of dead processes."""
    for folder in observed.scratch_folders:
        yield f"{folder} is left"


def no_error_is_uncaught(observed: WorldObservation) -> Iterator[str]:
    """No worker ends with an error, and no callback raises one."""
    yield from observed.errors
