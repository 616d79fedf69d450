"""One future under way: who works, when he is injected, and who goes on after him.

A `CrashRun` numbers the moments of all effects of the worker that is at work, strikes it at the
moments of a plan, and lets the next worker begin. The explorer decides which plans are tried.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from absurd_contimg.backends.memory import MemoryBackend
from absurd_contimg.core.errors import BackendUnavailable
from absurd_contimg.core.records import TERMINAL_STATES
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.history.invariants.check import Violation, audit, judge
from absurd_contimg.history.invariants.failures import a_retry_waits
from absurd_contimg.simulation.exploration.exploration_spec import ExplorationSpec
from absurd_contimg.simulation.exploration.outcome import Outcome, outcome_of
from absurd_contimg.simulation.exploration.publication import PublicationWatch
from absurd_contimg.simulation.model.disk import ROOT
from absurd_contimg.simulation.model.effect_gateway import BEFORE, COMMITTED, Effect, EffectPhase
from absurd_contimg.simulation.model.faults import (
    GRACEFUL,
    KILLS,
    NETWORK,
    FaultKind,
    FaultSchedule,
    InjectedFault,
)
from absurd_contimg.simulation.model.world import State, World
from absurd_contimg.simulation.runtime.kernel import Deadlock, Livelock
from absurd_contimg.simulation.runtime.loop import SimLoop, instantly

_ENDING_CALLS = frozenset(
    {"complete_run", "fail_run", "fail_run_permanently", "cancel_task", "claim_task"}
)
"""After which all tasks may have ended: a claim sweeps, cancels, and follows a lost reply."""
_RESTART_SECONDS = 2.0
"""How long a killed worker's supervisor takes to start it again."""
_CALLBACKS_MAX = 300_000
_FAILS_MAX = 100
"""Far more than any budget allows in a small world."""
_SCRATCH = f"{ROOT}/scratch/"
_CANCEL_LINGERS = 600.0
"""How long we watch whether a worker goes on with a cancelled task."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The durable state at a moment of a crash_run."""

    moment: int
    time: float
    state: State
    worker_id: str
    lives: int
    """How many processes have worked so far."""


class CrashRun:
    """One future under way: directs the processes, counts moments, strikes."""

    def __init__(
        self,
        spec: ExplorationSpec,
        state: State,
        plan: FaultSchedule,
        *,
        after: Snapshot | None = None,
        dead: InjectedFault | None = None,
        record: bool = False,
        trace: bool = False,
        watch: bool = False,
    ) -> None:
        self.spec = spec
        start = 0.0 if after is None else after.time
        self.world = World(
            state, start=start, shuffle_seed=spec.shuffle_seed, observer=self._observe
        )
        self.todo = list(plan)
        self._quick = not spec.linger_seconds and all(one.kind in KILLS for one in plan)
        self._cancels = any(one.kind is FaultKind.CANCEL for one in plan)
        self.moment = 0
        self.snapshots: list[Snapshot] = []
        self.crash_points: list[str] = []
        self.trace: list[str] = []
        self.failure: Violation | None = None
        self.faulted_calls: list[str] = []
        """The database calls that the network's faults hit."""
        self._publications = PublicationWatch()
        self.ended_at: float | None = None
        self._record, self._trace, self._watch = record, trace, watch
        self._seen: tuple[float, int] | None = None
        self._changes = 0
        self._fails = 0
        self._lives = 0 if after is None else after.lives
        self._worker_id = spec.worker_id if after is None else after.worker_id
        self._current: SimLoop | None = None
        self._sleepers: list[SimLoop] = []
        """Stopped, and not woken yet: a second one may be injected before the first has woken."""
        self._wake_at_moment: int | None = None
        self._untidy = dead is not None
        """Whether a process has died or lost its lease, and nobody has begun since."""
        self._ends_by = start + spec.horizon_seconds
        self._stop_at_begin = False
        if spec.reply_seconds:
            self.world.server.reply_seconds["host 1"] = spec.reply_seconds
        if dead is None:
            self._begin(spec.worker_id)
        else:
            self._succeed(dead.kind)
        spec.schedule_external_inputs(self.world, start)

    # -- directing ------------------------------------------------------------------------

    def _begin(self, worker_id: str) -> None:
        self._lives += 1
        self._worker_id = worker_id
        self.crash_points, self.snapshots = [], []  # moments are numbered in each crash_run anew
        self._host = f"host {self._lives}"
        gateway = self.world.process(f"crash_run {self._lives} of {worker_id}", host=self._host)
        self._current, self.moment, self._seen = gateway.process, 0, None
        self._untidy = False
        self.world.start_workers(gateway, self.spec.worker_factory(self.world, gateway, worker_id))
        if self._stop_at_begin:
            self.world.kernel.stop()

    def _succeed(self, fault: FaultKind) -> None:
        """Let the next worker begin when its time has come."""
        lease, mine = float(self.spec.lease_seconds), self._worker_id
        other = f"{self.spec.worker_id}-relief-{self._lives + 1}"
        match fault:
            case FaultKind.KILL | FaultKind.TERM:
                self._later(_RESTART_SECONDS, lambda: self._begin(mine))
            case FaultKind.KILL_LATE:
                self._later(1.5 * lease, lambda: self._begin(mine))
            case _:
                self._later(_RESTART_SECONDS, lambda: self._begin(other))

    def _later(self, seconds: float, act: object) -> None:
        env = self.world.kernel.env
        event = env.timeout(seconds)
        event.callbacks.append(lambda _event: act())  # type: ignore[operator]

    def _observe(self, process: SimLoop, effect: Effect, moment: EffectPhase) -> None:
        if self._trace:
            self._note(f"{process.name}: {effect.kind} {effect.name}, {moment.value}")
        if effect.kind != "call" or self._publications.watched:
            self._publications.see(process, effect, moment, self._holds_lease)
        if self._watch and effect.changes and moment is COMMITTED:
            self._look_at_all(effect)
        if process is self._current:
            self.moment += 1
            if moment is COMMITTED and effect.changes:
                self._changes += 1
            if self._record:
                self._take_snapshot(effect, moment)
            if self._wake_at_moment is not None and self.moment >= self._wake_at_moment:
                self._wake()
        if effect.name == "fail_run" and moment is COMMITTED:
            self._fails += 1
            if self._fails > _FAILS_MAX and self.failure is None:
                text = f"{self._fails} runs have failed by {self.world.kernel.now} s, and no end"
                self.failure = Violation("nothing_is_tried_for_ever", text)
                self.ended_at = self.world.kernel.now
                self.world.kernel.stop()
        if effect.name in _ENDING_CALLS and moment is COMMITTED and self._all_ended():
            self._end()
        if process is self._current and self.todo and self.todo[0].crash_point == self.moment:
            self._strike(process, effect, moment)

    def _take_snapshot(self, effect: Effect, moment: EffectPhase) -> None:
        self.crash_points.append(f"{effect.kind} {effect.name}, {moment.value}")
        key = self.world.kernel.now, self._changes
        if key != self._seen:
            self._seen = key
            self._look_between()
            state = self.world.state.fork()
            now = self.world.kernel.now
            self.snapshots.append(Snapshot(self.moment, now, state, self._worker_id, self._lives))

    def _look_between(self) -> None:
        """What must hold at every moment and not only at the end."""
        state = self.world.state
        early = sorted(state.registry.products.keys() - state.disk.product_paths())
        if early and self.failure is None:
            text = f"{early[0]} is registered at {self.world.kernel.now} s and not there yet"
            self.failure = Violation("products_are_registered_when_they_are_there", text)

    def _look_at_all(self, effect: Effect) -> None:
        """Every invariant over histories, and what was done to products, after an operation."""
        if self.failure is not None:
            return
        histories = self.world.histories()
        # A worker that was stopped may say late when to try again: that is judged at the end.
        wrong = [
            one
            for one in audit(histories, self.spec.policy)
            if one.invariant != a_retry_waits.__name__
        ]
        wrong += [
            Violation("products_never_change", one) for one in self.world.state.disk.violations
        ]
        if wrong:
            first, when = wrong[0], f"after {effect.name} at {self.world.kernel.now} s"
            self.failure = Violation(first.invariant, f"{when}: {first.text}", first.task_id)

    def _strike(self, process: SimLoop, effect: Effect, moment: EffectPhase) -> None:
        fault = self.todo[0].kind
        if fault in NETWORK and effect.kind != "call":
            return
        if (fault is FaultKind.REFUSED and moment is not BEFORE) or (
            fault is FaultKind.REPLY_LOST and moment is not COMMITTED
        ):
            return
        del self.todo[0]
        self._untidy = self._untidy or fault not in GRACEFUL
        self._note(f"{process.name}: {fault.value} at {effect.kind} {effect.name}, {moment.value}")
        if fault in NETWORK:
            self.faulted_calls.append(effect.name)
            raise BackendUnavailable(f"simulated: {fault.value}")
        if fault is FaultKind.TERM:
            self._current = None
            process.at_death("successor", lambda: self._terminated(process))
            self.world.terminate(process)
            return
        self._publications.injected(process)
        if fault is FaultKind.CANCEL:
            self._cancel_all()
            return
        if fault in KILLS:
            process.kill()
        elif fault is FaultKind.PARTITION:
            host = self._host
            self.world.server.cut_off.add(host)
            self._later(
                3.0 * self.spec.lease_seconds, lambda: self.world.server.cut_off.discard(host)
            )
        else:
            process.pause()
            self._sleepers.append(process)
            if fault is FaultKind.PAUSE:
                # Spread over the work of whoever takes over, differently for each moment.
                self._wake_at_moment = 1 + 7 * self.moment % 40
        self._current = None
        self._succeed(fault)

    def _terminated(self, process: SimLoop) -> None:
        """A process has ended as it was told to; it may keep nothing, whoever comes after it."""
        if self._holds_lease(process) and self.failure is None:
            text = f"{process.name} has ended at {self.world.kernel.now} s and keeps a run"
            self.failure = Violation("who_is_told_to_stop_hands_back", text)
        self._succeed(FaultKind.TERM)

    def _cancel_all(self) -> None:
        backend = MemoryBackend(self.world.state.database)
        for queue in self.spec.queues:
            for task in instantly(backend.list_tasks(queue, limit=10_000)):
                if task.state not in TERMINAL_STATES:
                    instantly(backend.cancel_task(queue, task.task_id))

    def _holds_lease(self, process: SimLoop) -> bool:
        """Whether one of the process's workers has a claim that has not run out."""
        backend, now = MemoryBackend(self.world.state.database), self.world.clock()
        return any(
            run.claim_expires_at is not None and run.claim_expires_at > now
            for worker in self.world.workers.get(process, ())
            for run in instantly(
                backend.list_runs(
                    worker.settings.queue_name,
                    states=["running"],
                    claimed_by=worker.settings.worker_id,
                )
            )
        )

    def _wake(self) -> None:
        """The one that was stopped last goes on first: the other may stand still around it."""
        self._wake_at_moment = None
        if self._sleepers:
            sleeper = self._sleepers.pop()
            self._note(f"{sleeper.name}: wakes")
            sleeper.resume()
            if self._sleepers:
                self._later(0.0, self._wake)

    def _end(self) -> None:
        """All tasks have ended: let a pause wake and do its worst, then stop."""
        if self.ended_at is not None:
            return
        self.ended_at = self.world.kernel.now
        if self._quick:
            self.world.kernel.stop()
            return
        self._wake()
        linger = self.spec.linger_seconds + (_CANCEL_LINGERS if self._cancels else 0.0)
        self._later(2.0 * self.spec.lease_seconds + linger, self.world.kernel.stop)

    def _all_ended(self) -> bool:
        backend = MemoryBackend(self.world.state.database)
        for queue in self.spec.queues:
            stats = instantly(backend.queue_stats(queue))
            if not stats.tasks_by_state.keys() <= TERMINAL_STATES:
                return False
        return True

    def _note(self, text: str) -> None:
        self.trace.append(f"{self.world.kernel.now:10.3f} s  {text}")

    # -- running --------------------------------------------------------------------------

    def beginning(self) -> Hashable | None:
        """Go on until the next process begins; what decides everything from there on.

        To be asked after a kill, before `run`. The new process has swept the scratch folders of the
        dead one, has its workers, and none of their code has run: two runs with the same beginning
        are the same from here. None where that cannot be said: all has
        ended, or something else is under way that may be in the middle of its work.
        """
        if self._all_ended():
            return None
        self._stop_at_begin = True
        self.world.kernel.run(callbacks_max=_CALLBACKS_MAX)
        self._stop_at_begin = False
        others = (one for one in self.world.processes if one is not self._current)
        if any(one.tasks() for one in others):
            return None
        return self.world.kernel.now, self._worker_id, self._lives, self.world.state.contents()

    def run(self) -> Outcome:
        """Run it to its end; what it left, and what is wrong with that."""
        kernel = self.world.kernel
        failures: list[Violation] = []
        try:
            if self._all_ended():
                self._end()
            if self.ended_at is None or not self._quick:
                kernel.run(self._ends_by, _CALLBACKS_MAX)
            if self.ended_at is None:
                text = f"not all tasks had ended after {self.spec.horizon_seconds} s"
                failures.append(Violation("every_task_ends_in_time", text))
        except (Deadlock, Livelock) as error:
            failures.append(Violation("the_world_goes_on", str(error)))
        if self.failure is not None:
            failures.append(self.failure)
        if self._publications.wrong is not None:
            failures.append(
                Violation("products_are_published_under_a_lease", self._publications.wrong)
            )
        if not self._untidy:
            left = sorted(path for path in self.world.state.disk.folders if _is_scratch(path))
            failures += [Violation("nobody_leaves_scratch_behind", one) for one in left]
        evidence = self.world.observation()
        self.world.close()
        policy: RetryPolicy = self.spec.policy
        return outcome_of(evidence, self.world.state, (*failures, *judge(evidence, policy)))


def _is_scratch(path: str) -> bool:
    """Whether a folder is that of an attempt: directly in an owner's."""
    return path.startswith(_SCRATCH) and path.count("/") == _SCRATCH.count("/") + 1
