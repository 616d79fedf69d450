"""The checker of a crash run: feeds what it observes to the invariants of `history`.

It adds no invariant of its own. What only an observer of effects can know it notes in a
`WorldObservation`: publications without a lease, runs that a terminated process kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.history.invariants.check import (
    PRODUCT_INVARIANTS,
    Violation,
    audit,
    check_world,
    find_violations,
)
from absurd_contimg.history.invariants.histories import a_retry_waits
from absurd_contimg.history.invariants.world import WorldObservation
from absurd_contimg.simulation.exploration.publication import PublicationWatch
from absurd_contimg.simulation.model.disk import ROOT
from absurd_contimg.simulation.model.effect_gateway import COMMITTED, Effect, EffectPhase
from absurd_contimg.simulation.model.faults import GRACEFUL, NETWORK, FaultKind
from absurd_contimg.simulation.model.world import World
from absurd_contimg.simulation.runtime.loop import SimLoop

_SCRATCH = f"{ROOT}/scratch/"


class InvariantChecker:
    """Checks a world after each effect, as far as asked to, and when it has ended."""

    def __init__(self, world: World, policy: RetryPolicy, *, after_each_operation: bool) -> None:
        self._world, self._policy = world, policy
        self._after_each_operation = after_each_operation
        self._publications = PublicationWatch(world.holds_lease)
        self._retained_runs: list[str] = []
        self.scratch_may_be_left = False
        """A process has died or lost its lease, and no other has been started since."""
        self._early: list[Violation] = []
        """The first violation that was seen before the end."""

    def observe(self, process: SimLoop, effect: Effect, phase: EffectPhase) -> None:
        """One phase of an effect, before any fault is injected in it."""
        if effect.kind != "call" or self._publications.fences:
            self._publications.observe(process, effect, phase)
        if self._after_each_operation and effect.changes and phase is COMMITTED:
            self._check_histories(effect)

    def fault_injected(self, kind: FaultKind, process: SimLoop) -> None:
        """A fault of this kind is about to be injected."""
        if kind not in GRACEFUL:
            self.scratch_may_be_left = True
        if kind not in NETWORK and kind is not FaultKind.TERM:
            self._publications.lease_ends(process)

    def process_terminated(self, process: SimLoop) -> None:
        """A process has ended by itself after SIGTERM."""
        if self._world.holds_lease(process):
            now = self._world.kernel.now
            self._retained_runs.append(f"{process.name} ended at {now} s and holds a run")

    def check_products(self) -> None:
        """What must hold of products at any time."""
        if not self._early:
            state, now = self._world.state, self._world.kernel.now
            observed = WorldObservation((), state.disk, state.registry.products)
            self._note_first(find_violations(PRODUCT_INVARIANTS, observed), f"at {now} s")

    def check_end(self, observed: WorldObservation, standstill: str | None) -> list[Violation]:
        """Every violation of a world that has ended."""
        scratch: Sequence[str] = ()
        if not self.scratch_may_be_left:
            scratch = sorted(path for path in self._world.state.disk.folders if _is_attempt(path))
        observed = replace(
            observed,
            unleased_publications=self._publications.unleased,
            retained_runs=self._retained_runs,
            scratch_folders=scratch,
            standstill=standstill,
        )
        return self._early + check_world(observed, self._policy)

    def _check_histories(self, effect: Effect) -> None:
        if self._early:
            return
        when = f"after {effect.name} at {self._world.kernel.now} s"
        violations = audit(self._world.histories(), self._policy)
        # A paused worker may record late when to try again: that is checked at the end.
        late = a_retry_waits.__name__
        self._note_first([each for each in violations if each.invariant != late], when)
        self.check_products()

    def _note_first(self, violations: Sequence[Violation], when: str) -> None:
        if violations:
            first = violations[0]
            self._early.append(replace(first, text=f"{when}: {first.text}"))


def _is_attempt(path: str) -> bool:
    """Whether a folder is an attempt's: directly in the folder of its owner."""
    return path.startswith(_SCRATCH) and path.count("/") == _SCRATCH.count("/") + 1
