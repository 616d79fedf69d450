"""Runs the invariants: over histories (`audit`), over a world, over a recovery."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from absurd_contimg.core.records import History
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.history.invariants.failures import FAILURE_INVARIANTS
from absurd_contimg.history.invariants.recovery import RECOVERY_INVARIANTS, RecoveryObservation
from absurd_contimg.history.invariants.steps import STEP_INVARIANTS
from absurd_contimg.history.invariants.task_states import STATE_INVARIANTS
from absurd_contimg.history.invariants.world import (
    PRODUCT_INVARIANTS,
    WORLD_INVARIANTS,
    WorldObservation,
)

_Observed = TypeVar("_Observed")


@dataclass(frozen=True, slots=True)
class Violation:
    """What breaks an invariant: the invariant's name, a text, and the task if there is one."""

    invariant: str
    text: str
    task_id: UUID | None = None

    def __str__(self) -> str:
        task = "" if self.task_id is None else f" task {self.task_id}:"
        return f"{self.invariant}:{task} {self.text}"


HISTORY_INVARIANTS: tuple[Callable[[History, RetryPolicy], Iterator[str]], ...] = (
    *STATE_INVARIANTS,
    *FAILURE_INVARIANTS,
    *STEP_INVARIANTS,
)


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
    """Every violation in a world that has ended, those of its histories included."""
    return _violations(WORLD_INVARIANTS, observed) + audit(observed.histories, policy)


def check_products(observed: WorldObservation) -> list[Violation]:
    """Every violation that a disk and a registry can show at any time."""
    return _violations(PRODUCT_INVARIANTS, observed)


def check_recovery(observed: RecoveryObservation) -> list[Violation]:
    """Every violation that the comparison of a run with the baseline run shows."""
    return _violations(RECOVERY_INVARIANTS, observed)


def _violations(
    invariants: Iterable[Callable[[_Observed], Iterator[str]]], observed: _Observed
) -> list[Violation]:
    return [Violation(check.__name__, text) for check in invariants for text in check(observed)]
