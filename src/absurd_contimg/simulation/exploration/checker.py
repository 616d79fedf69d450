"""The checker of a crash run: feeds what it observes to the invariants of `history`.

It adds no invariant of its own. What only an observer of effects can know it notes in a
`WorldObservation`: publications without a lease, runs that a terminated process kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import Enum

from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.history.invariants import check
from absurd_contimg.history.invariants.world import WorldObservation
from absurd_contimg.simulation.model.disk import ROOT
from absurd_contimg.simulation.model.effect_gateway import BEFORE, Effect, EffectPhase
from absurd_contimg.simulation.model.faults import GRACEFUL, NETWORK, TERMS, FaultKind
from absurd_contimg.simulation.model.world import World
from absurd_contimg.simulation.runtime.loop import SimLoop

_SCRATCH = f"{ROOT}/scratch/"


class _Fence(Enum):
    """How far a process is between the end of a stage and the rename."""

    NOT_ASKED = 1
    ANSWERED = 2
    """At the very answer; the check of the clock still notices a fault here."""
    PASSED = 3


class InvariantChecker:
    """Checks a world where it is asked to, and when it has ended."""

    def __init__(self, world: World, policy: RetryPolicy) -> None:
        self._world, self._policy = world, policy
        self.fences: dict[SimLoop, _Fence] = {}
        """The processes between the end of a stage and the rename."""
        self._excused: set[SimLoop] = set()
        self._unleased: list[str] = []
        self._retained_runs: list[str] = []
        self.scratch_may_be_left = False
        """A process has died or lost its lease, and no other has been started since."""
        self._early: list[check.Violation] = []
        """The first violation that was seen before the end."""

    def watch_publication(self, process: SimLoop, effect: Effect, phase: EffectPhase) -> None:
        """Note a publication by a process without a lease; called for all but needless calls.

        One thing cannot be prevented: a process that is paused, or whose task is cancelled, between
        its fence and the rename may still rename. Other invariants say that the product is whole.
        """
        fence = self.fences.get(process)
        if fence is _Fence.ANSWERED:
            self.fences[process] = _Fence.PASSED
        if phase is BEFORE:
            if fence is None and (effect.kind, effect.name) == ("file", "rename"):
                self.fences[process] = _Fence.PASSED  # a publication looks at the clock just before
            return
        if effect.kind == "stage" and effect.name.startswith("end "):
            self.fences[process] = _Fence.NOT_ASKED
        elif effect.name == "extend_claim" and fence is _Fence.NOT_ASKED:
            self.fences[process] = _Fence.ANSWERED
        elif effect.kind == "file" and effect.name == "rename":
            self.fences.pop(process, None)
            if process not in self._excused and not self._world.holds_lease(process):
                self._unleased.append(f"{process.name} published at {self._world.kernel.now} s")

    def fault_injected(self, kind: FaultKind, process: SimLoop) -> None:
        """A fault of this kind is about to be injected."""
        if kind not in GRACEFUL:
            self.scratch_may_be_left = True
        loses_lease = kind not in NETWORK and kind not in TERMS
        if loses_lease and self.fences.get(process) is _Fence.PASSED:
            self._excused.add(process)

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
            violations = check.find_violations(check.PRODUCT_INVARIANTS, observed)
            self._note_first(violations, f"at {now} s")

    def check_operation(self, effect: Effect) -> None:
        """What must hold of histories and products after any operation."""
        if self._early:
            return
        when = f"after {effect.name} at {self._world.kernel.now} s"
        violations = check.audit(self._world.histories(), self._policy)
        self._note_first(violations, when)
        self.check_products()

    def check_end(
        self, observed: WorldObservation, standstill: str | None
    ) -> tuple[check.Violation, ...]:
        """Every violation of a world that has ended."""
        scratch: Sequence[str] = ()
        if not self.scratch_may_be_left:
            scratch = sorted(path for path in self._world.state.disk.folders if _is_attempt(path))
        observed = replace(
            observed,
            unleased_publications=self._unleased,
            retained_runs=self._retained_runs,
            scratch_folders=scratch,
            standstill=standstill,
        )
        return (*self._early, *check.check_world(observed, self._policy))

    def _note_first(self, violations: Sequence[check.Violation], when: str) -> None:
        if violations:
            first = violations[0]
            self._early.append(replace(first, text=f"{when}: {first.text}"))


def _is_attempt(path: str) -> bool:
    """Whether a folder is an attempt's: directly in the folder of its owner."""
    return path.startswith(_SCRATCH) and path.count("/") == _SCRATCH.count("/") + 1
