"""The injector of a crash run: what each kind of fault does to a process, its host, a call.

It knows the schedule. Which process goes on afterwards is the director's business (`crash_run`),
what must still hold the checker's.
"""

from __future__ import annotations

from functools import partial

from absurd_contimg.core.errors import BackendUnavailable
from absurd_contimg.core.records import TERMINAL_STATES
from absurd_contimg.simulation.exploration.exploration_spec import ExplorationSpec
from absurd_contimg.simulation.model.effect_gateway import BEFORE, COMMITTED, CrashPoint, Effect
from absurd_contimg.simulation.model.faults import NETWORK, FaultKind, FaultSchedule
from absurd_contimg.simulation.model.world import World
from absurd_contimg.simulation.runtime.loop import SimLoop, instantly

_PARTITION_LEASES = 3.0
_OUTAGES = 3
"""As many as deaths of a worker would end a step as poison."""
_OUTAGE_LEASES = 1.2
_BETWEEN_OUTAGES_SECONDS = 20.0
"""Enough to start the step again, and too little to end it."""


class FaultInjector:
    """Injects the faults of a schedule, each at its crash point."""

    def __init__(self, world: World, spec: ExplorationSpec, schedule: FaultSchedule) -> None:
        self._world, self._spec = world, spec
        self.pending = list(schedule)
        self.lost_calls: list[str] = []
        """The database calls that were refused or whose reply was lost."""
        self.resume_at: int | None = None
        """The crash point of the next process at which a paused one is resumed."""
        self.paused: list[SimLoop] = []
        """Not resumed yet: a second one may be paused before the first is resumed."""

    def take_due(self, number: int, point: CrashPoint) -> FaultKind | None:
        """Take the next fault off the schedule if it can be injected at this crash point."""
        if not self.pending:
            return None
        kind, wanted = self.pending[0]
        if wanted != number if isinstance(wanted, int) else wanted not in str(point):
            return None
        if kind in NETWORK:
            phase_of_kind = BEFORE if kind is FaultKind.REFUSED else COMMITTED
            if point.effect.kind != "call" or point.phase is not phase_of_kind:
                return None
        del self.pending[0]
        return kind

    def inject(
        self, kind: FaultKind, process: SimLoop, host: str, effect: Effect, crash_point: int
    ) -> None:
        """Inject a fault at a crash point; raises `BackendUnavailable` if it is a lost call."""
        match kind:
            case FaultKind.REFUSED | FaultKind.REPLY_LOST:
                self.lost_calls.append(effect.name)
                raise BackendUnavailable(f"simulated: {kind.value}")
            case FaultKind.TERM:
                self._world.request_stop(process)
            case FaultKind.TERM_NOW:
                self._world.request_stop(process, grace_seconds=0.0)
            case FaultKind.CANCEL:
                self._cancel_all()
            case FaultKind.PARTITION:
                cut_off = self._world.server.cut_off
                cut_off.add(host)
                seconds = _PARTITION_LEASES * self._spec.lease_seconds
                self._world.call_later(seconds, partial(cut_off.discard, host))
            case FaultKind.OUTAGE:
                self._be_away(_OUTAGES)
            case FaultKind.PAUSE | FaultKind.PAUSE_LATE:
                process.pause()
                self.paused.append(process)
                if kind is FaultKind.PAUSE:
                    # Spread over the work of the next process, differently for each crash point.
                    self.resume_at = 1 + 7 * crash_point % 40
            case _:
                process.kill()

    def _be_away(self, times: int) -> None:
        """Let the database be away so often, with some time between."""
        server, later = self._world.server, self._world.call_later
        server.down = True
        seconds = _OUTAGE_LEASES * self._spec.lease_seconds
        later(seconds, partial(setattr, server, "down", False))
        if times > 1:
            later(seconds + _BETWEEN_OUTAGES_SECONDS, partial(self._be_away, times - 1))

    def resume(self) -> str | None:
        """Resume the process that was paused last; its name, None if there is none.

        It goes first because another may be paused in a call around its own.
        """
        self.resume_at = None
        if not self.paused:
            return None
        process = self.paused.pop()
        process.resume()
        return process.name

    def _cancel_all(self) -> None:
        backend = self._world.direct_backend
        for queue in self._spec.queues:
            for task in instantly(backend.list_tasks(queue, limit=10_000)):
                if task.state not in TERMINAL_STATES:
                    instantly(backend.cancel_task(queue, task.task_id))
