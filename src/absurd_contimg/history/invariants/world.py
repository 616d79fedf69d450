"""Invariants over a world that was watched: its histories, its disk, its registry.

The simulation checks them after every run. They know no simulation: what they need of a disk is
`ProductDisk`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from absurd_contimg.core.records import TERMINAL_STATES, History


class ProductDisk(Protocol):
    """What the invariants ask of a disk that holds products."""

    @property
    def violations(self) -> Iterable[str]:
        """Changes of committed products that were seen as they happened."""
        ...

    @property
    def commits(self) -> Mapping[str, int]:
        """How often a product was renamed into each place."""
        ...

    @property
    def folders(self) -> Collection[str]:
        """Every folder on the disk."""
        ...

    def product_paths(self) -> Sequence[str]:
        """The folder of every committed product."""
        ...

    def has_manifest(self, product: str) -> bool:
        """Whether a product folder holds a manifest with content."""
        ...


@dataclass(frozen=True, slots=True)
class WorldObservation:
    """What a simulated world leaves behind for the invariants."""

    histories: Sequence[History]
    disk: ProductDisk | None = None
    overlaps: Sequence[str] = ()
    """Where a stage ran twice at a time, as the runner saw it."""
    errors: Sequence[str] = ()
    """What the code of living processes raised where nobody caught it."""
    must_have_ended: bool = True
    registered: Mapping[str, Any] = field(default_factory=dict)


def every_task_has_ended(observed: WorldObservation) -> Iterator[str]:
    """At the end of a world nothing is left undone."""
    for history in observed.histories:
        if observed.must_have_ended and history.task.state not in TERMINAL_STATES:
            yield f"task {history.task.task_id} is still {history.task.state}"


def no_two_workers_in_one_stage(observed: WorldObservation) -> Iterator[str]:
    """No two living, running processes work on one stage of one group at a time."""
    yield from observed.overlaps


def products_are_whole_and_never_changed(observed: WorldObservation) -> Iterator[str]:
    """Every committed product has a manifest, was put in its place once, and stayed as it was."""
    if observed.disk is None:
        return
    yield from observed.disk.violations
    for path in observed.disk.product_paths():
        if not observed.disk.has_manifest(path):
            yield f"{path} has no manifest"
        if observed.disk.commits.get(path, 0) != 1:
            yield f"{path} was put in its place {observed.disk.commits.get(path, 0)} times"


def products_are_registered(observed: WorldObservation) -> Iterator[str]:
    """When all tasks have completed, the registry knows every product, and each one is there."""
    if observed.disk is None:
        return
    products = set(observed.disk.product_paths())
    for path in sorted(observed.registered.keys() - products):
        yield f"{path} is registered but not there"
    if all(history.task.state == "completed" for history in observed.histories):
        for path in sorted(products - observed.registered.keys()):
            yield f"{path} is there but not registered"


def saved_steps_have_their_products(observed: WorldObservation) -> Iterator[str]:
    """A checkpoint names only products that are in their place."""
    if observed.disk is None:
        return
    for history in observed.histories:
        for one in history.checkpoints:
            product = one.state.get("product") if isinstance(one.state, Mapping) else None
            if isinstance(product, str) and product not in observed.disk.folders:
                yield f"checkpoint {one.checkpoint_name} names {product}, which is not there"


def nobody_raised_unseen(observed: WorldObservation) -> Iterator[str]:
    """No worker ended with an error, and no callback raised one."""
    yield from observed.errors


WORLD_INVARIANTS: tuple[Callable[[WorldObservation], Iterator[str]], ...] = (
    every_task_has_ended,
    no_two_workers_in_one_stage,
    products_are_whole_and_never_changed,
    products_are_registered,
    saved_steps_have_their_products,
    nobody_raised_unseen,
)
