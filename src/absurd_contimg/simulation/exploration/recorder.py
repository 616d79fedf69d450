"""The recorder of a crash run: numbered crash points, snapshots of durable state, a trace.

It neither injects faults nor checks anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from absurd_contimg.simulation.model.effect_gateway import COMMITTED, Effect, EffectPhase
from absurd_contimg.simulation.model.world import State, World


class CrashPoint(NamedTuple):
    """One of the two phases of an effect, at which a fault can be injected."""

    effect: Effect
    phase: EffectPhase

    def __str__(self) -> str:
        return f"{self.effect.kind} {self.effect.name}, {self.phase.value}"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The durable state at a crash point of a process."""

    crash_point: int
    time: float
    state: State
    worker_id: str
    processes: int
    """How many processes have been started so far, this one included."""


class Recorder:
    """Numbers the crash points of the process at work; keeps them where asked to."""

    def __init__(self, world: World, *, keep_crash_points: bool, trace_effects: bool) -> None:
        self._world = world
        self.keeps_crash_points = keep_crash_points
        self.traces_effects = trace_effects
        self.trace: list[str] = []
        self.start_process("", 0)

    def start_process(self, worker_id: str, processes: int) -> None:
        """Count from the start: crash points are numbered from 1 in each process."""
        self._worker_id, self._processes = worker_id, processes
        self.crash_point = 0
        """The number of the last one."""
        self.crash_points: list[CrashPoint] = []
        self.snapshots: list[Snapshot] = []
        self._changes = 0
        self._last_state: tuple[float, int] | None = None

    def record(self, effect: Effect, phase: EffectPhase) -> bool:
        """Keep one crash point; whether a snapshot of a new durable state was taken."""
        self.crash_points.append(CrashPoint(effect, phase))
        self._changes += phase is COMMITTED and effect.changes
        state = self._world.kernel.now, self._changes
        if state == self._last_state:
            return False
        self._last_state = state
        copy = self._world.state.fork()
        self.snapshots.append(
            Snapshot(self.crash_point, state[0], copy, self._worker_id, self._processes)
        )
        return True

    def note(self, text: str) -> None:
        """Add a line to the trace."""
        self.trace.append(f"{self._world.kernel.now:10.3f} s  {text}")
