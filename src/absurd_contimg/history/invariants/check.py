"""Runs the invariants: over histories (`audit`), over a world, over a recovery."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from inspect import isfunction
from types import ModuleType
from uuid import UUID

from absurd_contimg.core.records import History
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.history.invariants import histories, recovery, stream, world
from absurd_contimg.history.invariants.recovery import RecoveryObservation
from absurd_contimg.history.invariants.stream import StreamObservation
from absurd_contimg.history.invariants.world import WorldObservation


@dataclass(frozen=True, slots=True)
class Violation:
    """What breaks an invariant: the invariant's name, a text, and the task if there is one."""

    invariant: str
    text: str
    task_id: UUID | None = None

    def __str__(self) -> str:
        task = "" if self.task_id is None else f" task {self.task_id}:"
        return f"{self.invariant}:{task} {self.text}"


def _invariants(module: ModuleType) -> tuple[Callable[..., Iterator[str]], ...]:
    """Every public function that is defined in the module."""
    return tuple(
        function
        for name, function in vars(module).items()
        if isfunction(function) and function.__module__ == module.__name__ and name[0] != "_"
    )


HISTORY_INVARIANTS = _invariants(histories)
WORLD_INVARIANTS = _invariants(world)
STREAM_INVARIANTS = _invariants(stream)
RECOVERY_INVARIANTS = _invariants(recovery)
"""What a fault may cost, in comparison with the baseline run."""
PRODUCT_INVARIANTS = (world.committed_products_never_change, world.registered_products_exist)
"""What a disk and a registry must show at any time."""


def audit(histories: Iterable[History], policy: RetryPolicy | None = None) -> list[Violation]:
    """Check histories as they stand now, of a production database or of a simulated one.

    `policy` is the one that the workers run with; without it, the default.
    """
    used = RetryPolicy() if policy is None else policy
    return [
        Violation(check.__name__, text, history.task.task_id)
        for history in histories
        for check in HISTORY_INVARIANTS
        for text in check(history, used)
    ]


def check_world(observed: WorldObservation, policy: RetryPolicy | None = None) -> list[Violation]:
    """Every violation in a world that has ended, those of its stream and histories included."""
    return [
        *find_violations(WORLD_INVARIANTS, observed),
        *find_violations(STREAM_INVARIANTS, observed.stream),
        *audit(observed.histories, policy),
    ]


def find_violations(
    invariants: Iterable[Callable[..., Iterator[str]]],
    observed: WorldObservation | StreamObservation | RecoveryObservation,
) -> list[Violation]:
    """Every violation of these invariants by what was observed."""
    return [Violation(check.__name__, text) for check in invariants for text in check(observed)]
