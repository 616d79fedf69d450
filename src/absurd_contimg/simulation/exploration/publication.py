"""Which process publishes a product without the lease of its run.

One thing cannot be prevented: a process that is paused, or whose task is cancelled, after its
fence let it pass and before the rename. It may still rename; that the product is whole and
overwrites none is the business of other invariants.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from absurd_contimg.simulation.model.effect_gateway import BEFORE, Effect, EffectPhase
from absurd_contimg.simulation.runtime.loop import SimLoop


class _Fence(Enum):
    """How far a process is between the end of a stage and the rename."""

    NOT_ASKED = 1
    ANSWERED = 2
    """At the very answer; the check of the clock still notices a fault here."""
    PASSED = 3


class PublicationWatch:
    """Observes every effect; notes each publication by a process that holds no lease."""

    def __init__(self, holds_lease: Callable[[SimLoop], bool]) -> None:
        self._holds_lease = holds_lease
        self.fences: dict[SimLoop, _Fence] = {}
        """The processes between the end of a stage and the rename."""
        self._excused: set[SimLoop] = set()
        self.unleased: list[str] = []

    def observe(self, process: SimLoop, effect: Effect, phase: EffectPhase) -> None:
        """One phase of an effect; calls matter only while `fences` is not empty."""
        state = self.fences.get(process)
        if state is _Fence.ANSWERED:
            self.fences[process] = _Fence.PASSED
        if phase is BEFORE:
            return
        if effect.kind == "stage" and effect.name.startswith("end "):
            self.fences[process] = _Fence.NOT_ASKED
        elif effect.name == "extend_claim" and state is _Fence.NOT_ASKED:
            self.fences[process] = _Fence.ANSWERED
        elif effect.kind == "file" and effect.name == "rename":
            self.fences.pop(process, None)
            if process not in self._excused and not self._holds_lease(process):
                self.unleased.append(f"{process.name} published at {process.kernel.now} s")

    def lease_ends(self, process: SimLoop) -> None:
        """The process is about to lose its lease."""
        if self.fences.get(process) is _Fence.PASSED:
            self._excused.add(process)
