"""One run under faults: which process works, which goes on, when it ends; and its record.

A `CrashRun` lets workers work in a world, numbers their crash points, asks its `FaultInjector`
for a fault at each, and starts the next process after it. The `InvariantChecker` checks; the
explorer decides which fault schedules are tried.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from absurd_contimg.history.invariants.world import FAILED_RUNS_MAX
from absurd_contimg.simulation.exploration.checker import InvariantChecker
from absurd_contimg.simulation.exploration.endless_loops import CallCounter, SpawnCounter
from absurd_contimg.simulation.exploration.exploration_spec import ExplorationSpec
from absurd_contimg.simulation.exploration.injector import FaultInjector
from absurd_contimg.simulation.exploration.known_futures import Beginning, contents_from
from absurd_contimg.simulation.exploration.outcome import Outcome, outcome_of
from absurd_contimg.simulation.model.effect_gateway import (
    COMMITTED,
    CrashPoint,
    Effect,
    EffectPhase,
)
from absurd_contimg.simulation.model.faults import (
    KILLS,
    RESTARTS,
    SAME_PROCESS,
    TERMS,
    FaultKind,
    FaultSchedule,
    only_of,
)
from absurd_contimg.simulation.model.world import State, World
from absurd_contimg.simulation.runtime.kernel import Deadlock, Livelock
from absurd_contimg.simulation.runtime.loop import SimLoop

_ENDING_CALLS = frozenset(
    {"complete_run", "fail_run", "fail_run_permanently", "cancel_task", "claim_task"}
)
"""After which all tasks may have ended: a claim sweeps, cancels, and follows a lost reply."""
_RESTART_SECONDS = 2.0
"""How long a supervisor takes to restart a killed worker."""
_LATE_RESTART_LEASES = 1.5
_LINGER_LEASES = 2.0
_CANCEL_LINGER_SECONDS = 600.0
"""How long a worker is observed after its task was cancelled."""
_CALLBACKS_MAX = 300_000


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The durable state at a crash point of a process."""

    crash_point: int
    time: float
    state: State
    worker_id: str
    processes: int
    """How many processes have been started so far, this one included."""
    steps: int
    """How many changes the database has seen so far that are more than a longer lease."""

    @property
    def beginning(self) -> Beginning:
        """What decides the future after a kill of one kind here, if no other process lives."""
        contents = contents_from(self.state, self.time)
        return Beginning(self.time, (self.worker_id, self.processes, contents))


class CrashRun:
    """One run of a spec under a fault schedule, from the beginning or from a snapshot.

    With a snapshot, `killed_by` is the fault that ended the process of that snapshot. With
    `keep_crash_points` crash points and snapshots are recorded and products checked at each;
    `check_operations` checks all histories after each operation, several times slower.
    """

    def __init__(
        self,
        spec: ExplorationSpec,
        schedule: FaultSchedule = (),
        *,
        snapshot: Snapshot | None = None,
        killed_by: FaultKind | None = None,
        keep_crash_points: bool = False,
        trace_effects: bool = False,
        check_operations: bool = False,
    ) -> None:
        self.spec = spec
        start = 0.0 if snapshot is None else snapshot.time
        state = spec.initial_state() if snapshot is None else snapshot.state.fork()
        self.world = World(
            state,
            start=start,
            shuffle_seed=spec.shuffle_seed,
            observer=self._observe,
            may_skip_polls=self._may_skip_polls,
        )
        self.injector = FaultInjector(self.world, spec, schedule)
        self.checker = InvariantChecker(self.world, spec.policy)
        self.trace: list[str] = []
        self._start_record()
        self._keep_crash_points = keep_crash_points
        self._trace_effects = trace_effects
        self._check_operations = check_operations
        self._changes = self._steps = 0
        self.ended_at: float | None = None
        """When all tasks had ended, in seconds; a paused process may go on after that."""
        self._ends_at_once = not spec.linger_seconds and only_of(schedule, KILLS)
        self._linger_seconds = _LINGER_LEASES * spec.lease_seconds + spec.linger_seconds
        if any(fault.kind is FaultKind.CANCEL for fault in schedule):
            self._linger_seconds += _CANCEL_LINGER_SECONDS
        self._horizon = start + spec.horizon_seconds
        self._failed_runs = 0
        self._call_counter = CallCounter()
        self._spawn_counter = SpawnCounter(state.database)
        self._endless_loop: str | None = None
        self._processes = 0 if snapshot is None else snapshot.processes
        self._worker_id = spec.worker_id if snapshot is None else snapshot.worker_id
        self._current: SimLoop | None = None
        self._stop_at_start = False
        self._before_claim: list[str] | None = None
        """The effects of a process before its first claim, while `recovery` waits for it."""
        self._recovery: Beginning | None = None
        if spec.reply_seconds:
            self.world.server.reply_seconds["host 1"] = spec.reply_seconds
        if killed_by is None:
            self._start_process(spec.worker_id)
        else:
            self.checker.scratch_may_be_left = True
            self._start_successor(killed_by)
        spec.schedule_external_inputs(self.world, start)
        if spec.ends_after_seconds > start:
            self.world.expect(spec.ends_after_seconds)

    # -- processes ------------------------------------------------------------------------

    def _start_process(self, worker_id: str) -> None:
        self._processes += 1
        self._worker_id = worker_id
        self._start_record()
        self._host = f"host {self._processes}"
        name = f"process {self._processes} of {worker_id}"
        gateway = self.world.process(name, host=self._host)
        self._current = gateway.process
        self.checker.scratch_may_be_left = False
        workers = self.spec.worker_factory(self.world, gateway, worker_id)
        self.world.start_workers(gateway, workers)
        if self._stop_at_start:
            self.world.kernel.stop()

    def _start_successor(self, kind: FaultKind) -> None:
        """Start the process that goes on after a fault, when its time has come."""
        worker_id, seconds = self._worker_id, _RESTART_SECONDS
        if kind is FaultKind.KILL_LATE:
            seconds = _LATE_RESTART_LEASES * self.spec.lease_seconds
        elif kind not in RESTARTS:
            worker_id = f"{self.spec.worker_id}-relief-{self._processes + 1}"
        self.world.call_later(seconds, partial(self._start_process, worker_id))

    def _terminated(self, process: SimLoop) -> None:
        self.checker.process_terminated(process)
        self._start_successor(FaultKind.TERM)

    def _may_skip_polls(self) -> bool:
        """A paused process may have to be resumed at a poll."""
        return self.injector.resume_at is None

    def _resume_paused(self) -> None:
        name = self.injector.resume()
        if name is not None:
            self._note(f"{name}: resumes")
            if self.injector.paused:
                self.world.call_later(0.0, self._resume_paused)

    # -- effects --------------------------------------------------------------------------

    def _observe(self, process: SimLoop, effect: Effect, phase: EffectPhase) -> None:
        """See `Observer`: the order is record, check, end, inject."""
        injector, checker = self.injector, self.checker
        if self._trace_effects:
            self._note(f"{process.name}: {CrashPoint(effect, phase)}")
        if process in checker.fences or effect.name == "rename" or effect.kind == "stage":
            checker.watch_publication(process, effect, phase)
        if self._check_operations and effect.changes and phase is COMMITTED:
            checker.check_operation(effect)
        if process is self._current:
            self.crash_point += 1
            if self._before_claim is not None:
                self._note_recovery(process, effect, self._before_claim)
            if self._keep_crash_points:
                self._record(effect, phase)
            if injector.resume_at is not None and self.crash_point >= injector.resume_at:
                self._resume_paused()
        if phase is COMMITTED:
            if effect.name in _ENDING_CALLS:
                self._end_if_done(effect)
            if effect.name != "claim_task":  # a worker claims a whole backlog at one moment
                self._check_endless_loop(process, effect)
        if process is self._current and injector.pending:
            point = CrashPoint(effect, phase)
            kind = injector.take_due(self.crash_point, point)
            if kind is not None:
                self._inject(kind, process, point)

    def _start_record(self) -> None:
        """Crash points are numbered from 1 in each process."""
        self.crash_point = 0
        """The number of the last one."""
        self.crash_points: list[CrashPoint] = []
        self.snapshots: list[Snapshot] = []
        self._last_state: tuple[float, int] | None = None

    def _record(self, effect: Effect, phase: EffectPhase) -> None:
        """Keep a crash point, with a snapshot if the durable state or the time is another one."""
        self.crash_points.append(CrashPoint(effect, phase))
        if phase is COMMITTED and effect.changes:
            self._changes += 1
            self._steps += effect.kind == "call" and effect.name != "extend_claim"
        state = self.world.kernel.now, self._changes
        if state != self._last_state:
            self._last_state = state
            copy = self.world.state.fork()
            at = (self.crash_point, state[0], copy, self._worker_id, self._processes, self._steps)
            self.snapshots.append(Snapshot(*at))
            self.checker.check_products()

    def _note(self, text: str) -> None:
        self.trace.append(f"{self.world.kernel.now:10.3f} s  {text}")

    def _inject(self, kind: FaultKind, process: SimLoop, point: CrashPoint) -> None:
        self._note(f"{process.name}: {kind.value} at {point}")
        self.checker.fault_injected(kind, process)
        if kind in TERMS:
            process.at_death("successor", partial(self._terminated, process))
        self.injector.inject(kind, process, self._host, point.effect, self.crash_point)
        if kind not in SAME_PROCESS:
            self._current = None
            if kind not in TERMS:
                self._start_successor(kind)

    def _check_endless_loop(self, process: SimLoop, effect: Effect) -> None:
        """End the world if a task makes calls without an end, or tasks spawn tasks."""
        self._endless_loop = self._call_counter.count(process, effect.name)
        if effect.name == "spawn_task" and self._endless_loop is None:
            self._endless_loop = self._spawn_counter.count(self.world.kernel.now)
        if self._endless_loop is not None:
            process.kill()  # its code meets that at this call
            self.world.kernel.stop()

    # -- the end --------------------------------------------------------------------------

    def _end_if_done(self, effect: Effect) -> None:
        self._failed_runs += effect.name == "fail_run"
        if self._failed_runs > FAILED_RUNS_MAX:
            self.ended_at = self.world.kernel.now
            self.world.kernel.stop()
        elif self._all_ended():
            self._end()

    def _end(self) -> None:
        """All tasks have ended: let paused processes go on for a while, then stop."""
        if self.ended_at is not None:
            return
        self.ended_at = self.world.kernel.now
        if self._ends_at_once:
            self.world.kernel.stop()
            return
        self._resume_paused()
        self.world.call_later(self._linger_seconds, self.world.kernel.stop)

    def _all_ended(self) -> bool:
        is_over = self.world.kernel.now >= self.spec.ends_after_seconds
        return is_over and self.world.all_tasks_ended(self.spec.queues)

    # -- running --------------------------------------------------------------------------

    def _run_world(self, until: float | None = None) -> None:
        """Let time pass; raises `Deadlock` or `Livelock`."""
        try:
            self.world.kernel.run(until, _CALLBACKS_MAX)
        except (Deadlock, Livelock):
            raise
        except BaseException:  # Ctrl-C
            self.world.close()
            raise

    def beginning(self) -> Beginning | None:
        """Run until the next process starts after a kill; what decides everything from there on.

        The new process has swept the scratch folders of the dead one, and no code of its workers
        has run: two runs with the same beginning are the same from here. None where that is not
        sure: all tasks have ended, or another process may be in the middle of its work.
        """
        if self._all_ended():
            return None
        self._stop_at_start = True
        self._run_world()
        self._stop_at_start = False
        others = (process for process in self.world.processes if process is not self._current)
        if any(process.tasks() for process in others):
            return None
        return self._beginning()

    def _beginning(self, *effects: str) -> Beginning:
        now = self.world.kernel.now
        contents = contents_from(self.world.state, now)
        return Beginning(now, (self._worker_id, self._processes, effects, contents))

    def recovery(self) -> Beginning | None:
        """Run past the first claim of the process that `beginning` has started; what decides all
        from that claim on.

        Until then its worker gives back what the dead one had, whose lease makes no difference
        afterwards. It remembers nothing of that: two runs with the same effects up to the claim
        and the same state before it are the same from there. None where that is not sure: another
        service works in the process, or the database makes it wait.
        """
        self._before_claim = []
        with suppress(Deadlock, Livelock):  # `run` meets it again
            self._run_world()
        self._before_claim = None
        return self._recovery

    def _note_recovery(self, process: SimLoop, effect: Effect, effects: list[str]) -> None:
        effects.append(effect.name)
        if effect.name != "claim_task":
            return
        world = self.world
        self._before_claim = None
        world.kernel.stop()
        if world.server.quiet and not world.has_service(process):
            self._recovery = self._beginning(*effects)

    def run(self) -> Outcome:
        """Run to the end; what is left, and the violations."""
        standstill = None
        try:
            if self._all_ended():
                self._end()
            if self._endless_loop is None and (self.ended_at is None or not self._ends_at_once):
                self._run_world(self._horizon)
        except (Deadlock, Livelock) as error:
            standstill = str(error)
        standstill = self._endless_loop or standstill
        observed = self.world.observation()
        violations = self.checker.check_end(observed, standstill)
        self.world.close()
        outcome = outcome_of(
            observed, self.world.state, violations, self.spec.repeats, self.spec.looks
        )
        return replace(outcome, seconds=self.world.kernel.now)
