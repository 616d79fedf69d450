"""One future under way: who works, when he is struck, and who goes on after him.

A `Life` numbers the moments of all effects of the worker that is at work, strikes it at the
moments of a plan, and lets the next worker begin. The explorer decides which plans are tried.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Self

from absurd_contimg.backends.memory import MemoryBackend
from absurd_contimg.core.errors import BackendUnavailable
from absurd_contimg.core.records import TERMINAL_STATES
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.history.invariants import Violation, a_retry_waits, audit
from absurd_contimg.history.world_invariants import judge
from absurd_contimg.simulation.exploration.exploration_spec import Setup
from absurd_contimg.simulation.exploration.outcome import Outcome, outcome_of
from absurd_contimg.simulation.exploration.publication import PublicationWatch
from absurd_contimg.simulation.model.disk import ROOT
from absurd_contimg.simulation.model.effect_gateway import BEFORE, COMMITTED, Effect, Moment
from absurd_contimg.simulation.model.world import State, World
from absurd_contimg.simulation.runtime.kernel import NothingCanHappen, Runaway
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


class Blow(StrEnum):
    """What happens to a process at a moment, and who goes on."""

    KILL_RESTART = "kill"
    """Killed; restarted at once under its own name."""
    KILL_LATE = "kill-late"
    """Killed; restarted under its own name only after its lease has run out."""
    KILL_OTHER = "kill-other"
    """Killed; a worker of another name takes over when the lease has run out."""
    ZOMBIE = "zombie"
    """Stopped for longer than its lease; wakes while another worker does its work."""
    ZOMBIE_LATE = "zombie-late"
    """The same, but wakes when the work is done."""
    CUT_OFF = "cut-off"
    """Its host loses the database for three leases, but goes on working; another takes over."""
    REFUSED = "refused"
    """The database is away for one call."""
    REPLY_LOST = "reply-lost"
    """The call takes effect, but the connection breaks before the reply."""
    TERM = "term"
    """SIGTERM: it stops as the service lets it, and is restarted under its own name."""
    CANCEL = "cancel"
    """An operator cancels every task; the worker lives and is not told."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """The blow of this name; `ValueError` that lists the names for any other."""
        try:
            return cls(text)
        except ValueError:
            raise ValueError(f"{text!r} is no blow; there are {', '.join(cls)}") from None


KILLS = (Blow.KILL_RESTART, Blow.KILL_LATE, Blow.KILL_OTHER)
ZOMBIES = (Blow.ZOMBIE, Blow.ZOMBIE_LATE, Blow.CUT_OFF)
"""After which a living process meets whoever took over."""
NETWORK = (Blow.REFUSED, Blow.REPLY_LOST)
RESTARTS = (Blow.KILL_RESTART, Blow.TERM)
"""After which the same name works on before its lease has run out."""
GENTLE = (Blow.TERM, Blow.CANCEL, *NETWORK)
"""After which a process still does all that it has to do."""
EVERY_BLOW = (*KILLS, Blow.TERM, *ZOMBIES, *NETWORK)
"""Those after which every task must still end as if nothing had happened; not so `CANCEL`."""


class Strike(NamedTuple):
    """A blow at a moment of a worker's life: ``kill@17``. Moments are numbered from 1."""

    blow: Blow
    moment: int

    def __str__(self) -> str:
        return f"{self.blow.value}@{self.moment}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """What `str` wrote; `ValueError` for anything else."""
        blow, _, moment = text.partition("@")
        if not moment.isdecimal() or int(moment) < 1:
            raise ValueError(f"{text!r} is no strike: write a blow and a moment from 1, as kill@17")
        return cls(Blow.parse(blow), int(moment))


Plan = tuple[Strike, ...]
"""The first strike hits the first worker, the next one the worker that goes on after it."""


def parse_plan(text: str) -> Plan:
    """A plan as reports print it: ``kill@17,zombie@4``."""
    return tuple(Strike.parse(one) for one in text.split(",") if one)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The durable state at a moment of a life."""

    moment: int
    time: float
    state: State
    worker_id: str
    lives: int
    """How many processes have worked so far."""


class Life:
    """One future under way: directs the processes, counts moments, strikes."""

    def __init__(
        self,
        setup: Setup,
        state: State,
        plan: Plan,
        *,
        after: Snapshot | None = None,
        dead: Strike | None = None,
        record: bool = False,
        trace: bool = False,
        watch: bool = False,
    ) -> None:
        self.setup = setup
        start = 0.0 if after is None else after.time
        self.world = World(
            state, start=start, shuffle_seed=setup.shuffle_seed, observer=self._observe
        )
        self.todo = list(plan)
        self._quick = not setup.linger_seconds and all(one.blow in KILLS for one in plan)
        self._cancels = any(one.blow is Blow.CANCEL for one in plan)
        self.moment = 0
        self.snapshots: list[Snapshot] = []
        self.landmarks: list[str] = []
        self.trace: list[str] = []
        self.failure: Violation | None = None
        self.struck_calls: list[str] = []
        """The database calls that the network's blows hit."""
        self._publications = PublicationWatch()
        self.ended_at: float | None = None
        self._record, self._trace, self._watch = record, trace, watch
        self._seen: tuple[float, int] | None = None
        self._changes = 0
        self._fails = 0
        self._lives = 0 if after is None else after.lives
        self._worker_id = setup.worker_id if after is None else after.worker_id
        self._current: SimLoop | None = None
        self._sleepers: list[SimLoop] = []
        """Stopped, and not woken yet: a second one may be struck before the first has woken."""
        self._wake_at_moment: int | None = None
        self._untidy = dead is not None
        """Whether a process has died or lost its lease, and nobody has begun since."""
        self._ends_by = start + setup.horizon_seconds
        self._stop_at_begin = False
        if setup.reply_seconds:
            self.world.server.reply_seconds["host 1"] = setup.reply_seconds
        if dead is None:
            self._begin(setup.worker_id)
        else:
            self._succeed(dead.blow)
        setup.play_stimuli(self.world, start)

    # -- directing ------------------------------------------------------------------------

    def _begin(self, worker_id: str) -> None:
        self._lives += 1
        self._worker_id = worker_id
        self.landmarks, self.snapshots = [], []  # moments are numbered in each life anew
        self._host = f"host {self._lives}"
        doors = self.world.process(f"life {self._lives} of {worker_id}", host=self._host)
        self._current, self.moment, self._seen = doors.process, 0, None
        self._untidy = False
        self.world.employ(doors, self.setup.crew(self.world, doors, worker_id))
        if self._stop_at_begin:
            self.world.kernel.stop()

    def _succeed(self, blow: Blow) -> None:
        """Let the next worker begin when its time has come."""
        lease, mine = float(self.setup.lease_seconds), self._worker_id
        other = f"{self.setup.worker_id}-relief-{self._lives + 1}"
        match blow:
            case Blow.KILL_RESTART | Blow.TERM:
                self._later(_RESTART_SECONDS, lambda: self._begin(mine))
            case Blow.KILL_LATE:
                self._later(1.5 * lease, lambda: self._begin(mine))
            case _:
                self._later(_RESTART_SECONDS, lambda: self._begin(other))

    def _later(self, seconds: float, act: object) -> None:
        env = self.world.kernel.env
        event = env.timeout(seconds)
        event.callbacks.append(lambda _event: act())  # type: ignore[operator]

    def _observe(self, process: SimLoop, effect: Effect, moment: Moment) -> None:
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
        if process is self._current and self.todo and self.todo[0].moment == self.moment:
            self._strike(process, effect, moment)

    def _take_snapshot(self, effect: Effect, moment: Moment) -> None:
        self.landmarks.append(f"{effect.kind} {effect.name}, {moment.value}")
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
            for one in audit(histories, self.setup.policy)
            if one.invariant != a_retry_waits.__name__
        ]
        wrong += [
            Violation("products_never_change", one) for one in self.world.state.disk.violations
        ]
        if wrong:
            first, when = wrong[0], f"after {effect.name} at {self.world.kernel.now} s"
            self.failure = Violation(first.invariant, f"{when}: {first.text}", first.task_id)

    def _strike(self, process: SimLoop, effect: Effect, moment: Moment) -> None:
        blow = self.todo[0].blow
        if blow in NETWORK and effect.kind != "call":
            return
        if (blow is Blow.REFUSED and moment is not BEFORE) or (
            blow is Blow.REPLY_LOST and moment is not COMMITTED
        ):
            return
        del self.todo[0]
        self._untidy = self._untidy or blow not in GENTLE
        self._note(f"{process.name}: {blow.value} at {effect.kind} {effect.name}, {moment.value}")
        if blow in NETWORK:
            self.struck_calls.append(effect.name)
            raise BackendUnavailable(f"simulated: {blow.value}")
        if blow is Blow.TERM:
            self._current = None
            process.at_death("successor", lambda: self._terminated(process))
            self.world.terminate(process)
            return
        self._publications.struck(process)
        if blow is Blow.CANCEL:
            self._cancel_all()
            return
        if blow in KILLS:
            process.kill()
        elif blow is Blow.CUT_OFF:
            host = self._host
            self.world.server.cut_off.add(host)
            self._later(
                3.0 * self.setup.lease_seconds, lambda: self.world.server.cut_off.discard(host)
            )
        else:
            process.pause()
            self._sleepers.append(process)
            if blow is Blow.ZOMBIE:
                # Spread over the work of whoever takes over, differently for each moment.
                self._wake_at_moment = 1 + 7 * self.moment % 40
        self._current = None
        self._succeed(blow)

    def _terminated(self, process: SimLoop) -> None:
        """A process has ended as it was told to; it may keep nothing, whoever comes after it."""
        if self._holds_lease(process) and self.failure is None:
            text = f"{process.name} has ended at {self.world.kernel.now} s and keeps a run"
            self.failure = Violation("who_is_told_to_stop_hands_back", text)
        self._succeed(Blow.TERM)

    def _cancel_all(self) -> None:
        backend = MemoryBackend(self.world.state.database)
        for queue in self.setup.queues:
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
        """All tasks have ended: let a zombie wake and do its worst, then stop."""
        if self.ended_at is not None:
            return
        self.ended_at = self.world.kernel.now
        if self._quick:
            self.world.kernel.stop()
            return
        self._wake()
        linger = self.setup.linger_seconds + (_CANCEL_LINGERS if self._cancels else 0.0)
        self._later(2.0 * self.setup.lease_seconds + linger, self.world.kernel.stop)

    def _all_ended(self) -> bool:
        backend = MemoryBackend(self.world.state.database)
        for queue in self.setup.queues:
            stats = instantly(backend.queue_stats(queue))
            if not stats.tasks_by_state.keys() <= TERMINAL_STATES:
                return False
        return True

    def _note(self, text: str) -> None:
        self.trace.append(f"{self.world.kernel.now:10.3f} s  {text}")

    # -- running --------------------------------------------------------------------------

    def beginning(self) -> Hashable | None:
        """Go on until the next process begins; what decides everything from there on.

        To be asked of a life after a kill, before `run`. The new process has swept what the dead
        one left in scratch, has its workers, and none of their code has run: two lives with the
        same beginning are one and the same from here. None where that cannot be said: all has
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
                text = f"not all tasks had ended after {self.setup.horizon_seconds} s"
                failures.append(Violation("every_task_ends_in_time", text))
        except (NothingCanHappen, Runaway) as error:
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
        policy: RetryPolicy = self.setup.policy
        return outcome_of(evidence, self.world.state, (*failures, *judge(evidence, policy)))


def _is_scratch(path: str) -> bool:
    """Whether a folder is that of an attempt: directly in an owner's."""
    return path.startswith(_SCRATCH) and path.count("/") == _SCRATCH.count("/") + 1
