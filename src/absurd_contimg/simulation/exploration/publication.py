"""Who publishes a product must hold the lease of its run.

Watches what passes perform the gateway. One thing cannot be forbidden: a process that is stopped,
or whose task is cancelled, after its fence let it pass and before the rename. It may still
rename; that the product is whole and nobody's is overwritten is another net's business.
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
    """In the moment of the answer; a fault in it is still noticed by the look at the clock."""
    PASSED = 3


class PublicationWatch:
    """Sees every effect before anything is done to its process."""

    def __init__(self) -> None:
        self._fences = self.watched = dict[SimLoop, _Fence]()
        """Who is between the end of a stage and the rename: of others, calls say nothing."""
        self._excused: set[SimLoop] = set()
        self.wrong: str | None = None

    def see(
        self,
        process: SimLoop,
        effect: Effect,
        moment: EffectPhase,
        holds_lease: Callable[[SimLoop], bool],
    ) -> None:
        """One moment of one process; `holds_lease` says whether it may publish."""
        state = self._fences.get(process)
        if state is _Fence.ANSWERED:
            self._fences[process] = _Fence.PASSED
        if moment is BEFORE:
            return
        if effect.kind == "stage" and effect.name.startswith("end "):
            self._fences[process] = _Fence.NOT_ASKED
        elif effect.name == "extend_claim" and state is _Fence.NOT_ASKED:
            self._fences[process] = _Fence.ANSWERED
        elif effect.kind == "file" and effect.name == "rename":
            self._fences.pop(process, None)
            if process not in self._excused and not holds_lease(process):
                self.wrong = self.wrong or f"{process.name} published at {process.kernel.now} s"

    def injected(self, process: SimLoop) -> None:
        """The process is about to lose its lease."""
        if self._fences.get(process) is _Fence.PASSED:
            self._excused.add(process)
