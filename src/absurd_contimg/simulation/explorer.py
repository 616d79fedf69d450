"""The crash-point explorer: number every effect of a workflow, then cut the world at each.

One undisturbed run numbers the moments of all effects: before each, and after it was committed
but before the process heard of it. Then every future is tried in which a worker is killed,
stopped and woken again (a zombie), refused by the database, or not told of a commit, at each of
these moments and, with ``pairs``, once more at each moment of the recovery. Each future must end,
keep every invariant, and leave the same products, results and checkpoints as the undisturbed run.

A killed process leaves nothing but durable state, so a future after a kill is tried from a
snapshot of that state; moments with the same state at the same time have the same futures and
are tried once. All other faults leave a living process behind and are run from the start.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Self

from absurd_contimg.backends.memory import MemoryBackend
from absurd_contimg.core.errors import BackendUnavailable
from absurd_contimg.core.records import TERMINAL_STATES, History
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.simulation.doors import Doors, Effect, Moment
from absurd_contimg.simulation.invariants import Violation, judge
from absurd_contimg.simulation.kernel import NothingCanHappen, Runaway
from absurd_contimg.simulation.loop import SimLoop, instantly
from absurd_contimg.simulation.outcome import Outcome, outcome_of
from absurd_contimg.simulation.setup import Setup
from absurd_contimg.simulation.world import (
    State,
    World,
    quiet_logs,
    without_gc,
)

_ENDING_CALLS = frozenset(
    {"complete_run", "fail_run", "fail_run_permanently", "cancel_task", "claim_task"}
)
"""After which all tasks may have ended: a claim sweeps, cancels, and follows a lost reply."""
_RESTART_SECONDS = 2.0
"""How long a killed worker's supervisor takes to start it again."""
_CALLBACKS_MAX = 300_000
_FUTURES_PER_COLLECTION = 100


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


KILLS = (Blow.KILL_RESTART, Blow.KILL_LATE, Blow.KILL_OTHER)
ZOMBIES = (Blow.ZOMBIE, Blow.ZOMBIE_LATE, Blow.CUT_OFF)
"""After which a living process meets whoever took over."""
NETWORK = (Blow.REFUSED, Blow.REPLY_LOST)
EVERY_BLOW = (*KILLS, *ZOMBIES, *NETWORK)


class Strike(NamedTuple):
    """A blow at a moment of a worker's life: ``kill@17``. Moments are numbered from 1."""

    blow: Blow
    moment: int

    def __str__(self) -> str:
        return f"{self.blow.value}@{self.moment}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """What `str` wrote."""
        blow, moment = text.split("@")
        return cls(Blow(blow), int(moment))


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


@dataclass(frozen=True, slots=True)
class Finding:
    """A future that must not be, and how to see it again."""

    plan: Plan
    violations: tuple[Violation, ...]
    trace: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"plan {','.join(map(str, self.plan)) or '(undisturbed)'}"]
        lines += [f"  {one}" for one in self.violations[:6]]
        lines += [f"    {line}" for line in self.trace[-60:]]
        return "\n".join(lines)


@dataclass(slots=True)
class Exploration:
    """What was explored, and what was found."""

    effects: int = 0
    """Of the undisturbed run."""
    moments: int = 0
    """At which the world was cut: two for each effect."""
    distinct_moments: int = 0
    """Of these, with a durable state of their own."""
    futures: int = 0
    """That were run, the undisturbed one not counted."""
    struck: int = 0
    """Futures in which every blow of the plan landed."""
    findings: list[Finding] = field(default_factory=list)
    landmarks: tuple[str, ...] = ()
    """The effects of the undisturbed run by name, two moments each."""

    def check(self) -> Self:
        """Raise `AssertionError` that shows the findings with the fewest blows first."""
        if self.findings:
            ordered = sorted(self.findings, key=lambda one: len(one.plan))
            shown = "\n".join(map(str, ordered[:3]))
            raise AssertionError(f"{len(self.findings)} of {self.futures} futures:\n{shown}")
        return self


class _Life:
    """One future under way: directs the processes, counts moments, strikes."""

    def __init__(
        self,
        setup: Setup,
        state: State,
        plan: Plan,
        *,
        start: float = 0.0,
        dead: Strike | None = None,
        record: bool = False,
        trace: bool = False,
    ) -> None:
        self.setup = setup
        self.world = World(
            state, start=start, shuffle_seed=setup.shuffle_seed, observer=self._observe
        )
        self.todo = list(plan)
        self._quick = not setup.linger_seconds and all(one.blow in KILLS for one in plan)
        self.moment = 0
        self.snapshots: list[Snapshot] = []
        self.landmarks: list[str] = []
        self.trace: list[str] = []
        self.failure: Violation | None = None
        self.ended_at: float | None = None
        self._record, self._trace = record, trace
        self._seen: tuple[float, int] | None = None
        self._changes = 0
        self._lives = 0
        self._current: SimLoop | None = None
        self._sleeper: SimLoop | None = None
        self._wake_at_moment: int | None = None
        if dead is None:
            self._begin(setup.worker_id)
        else:
            self._succeed(dead.blow)
        setup.play_stimuli(self.world, start)

    # -- directing ------------------------------------------------------------------------

    def _begin(self, worker_id: str) -> None:
        self._lives += 1
        self._host = f"host {self._lives}"
        doors = self.world.process(f"life {self._lives} of {worker_id}", host=self._host)
        self._current, self.moment, self._seen = doors.process, 0, None
        self.world.employ(doors, self.setup.crew(self.world, doors, worker_id))

    def _succeed(self, blow: Blow) -> None:
        """Let the next worker begin when its time has come."""
        lease = float(self.setup.lease_seconds)
        other = f"{self.setup.worker_id}-relief-{self._lives + 1}"
        match blow:
            case Blow.KILL_RESTART:
                self._later(_RESTART_SECONDS, lambda: self._begin(self.setup.worker_id))
            case Blow.KILL_LATE:
                self._later(1.5 * lease, lambda: self._begin(self.setup.worker_id))
            case _:
                self._later(_RESTART_SECONDS, lambda: self._begin(other))

    def _later(self, seconds: float, act: object) -> None:
        env = self.world.kernel.env
        event = env.timeout(seconds)
        event.callbacks.append(lambda _event: act())  # type: ignore[operator]

    def _observe(self, process: SimLoop, effect: Effect, moment: Moment) -> None:
        if self._trace:
            self._note(f"{process.name}: {effect.kind} {effect.name}, {moment.value}")
        if process is self._current:
            self.moment += 1
            if moment is Moment.COMMITTED and effect.changes:
                self._changes += 1
            if self._record:
                self._take_snapshot(effect, moment)
            if self._wake_at_moment is not None and self.moment >= self._wake_at_moment:
                self._wake()
        if effect.name in _ENDING_CALLS and moment is Moment.COMMITTED and self._all_ended():
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
            self.snapshots.append(Snapshot(self.moment, self.world.kernel.now, state))

    def _look_between(self) -> None:
        """What must hold at every moment and not only at the end."""
        state = self.world.state
        early = sorted(state.registry.products.keys() - state.disk.products().keys())
        if early and self.failure is None:
            text = f"{early[0]} is registered at {self.world.kernel.now} s and not there yet"
            self.failure = Violation("products_are_registered_when_they_are_there", text)

    def _strike(self, process: SimLoop, effect: Effect, moment: Moment) -> None:
        blow = self.todo[0].blow
        if blow in NETWORK and effect.kind != "call":
            return
        if (blow is Blow.REFUSED and moment is not Moment.BEFORE) or (
            blow is Blow.REPLY_LOST and moment is not Moment.COMMITTED
        ):
            return
        del self.todo[0]
        self._note(f"{process.name}: {blow.value} at {effect.kind} {effect.name}, {moment.value}")
        if blow in NETWORK:
            raise BackendUnavailable(f"simulated: {blow.value}")
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
            self._sleeper = process
            if blow is Blow.ZOMBIE:
                # Spread over the work of whoever takes over, differently for each moment.
                self._wake_at_moment = 1 + 7 * self.moment % 40
        self._current = None
        self._succeed(blow)

    def _wake(self) -> None:
        self._wake_at_moment = None
        if self._sleeper is not None:
            sleeper, self._sleeper = self._sleeper, None
            self._note(f"{sleeper.name}: wakes")
            sleeper.resume()

    def _end(self) -> None:
        """All tasks have ended: let a zombie wake and do its worst, then stop."""
        if self.ended_at is not None:
            return
        self.ended_at = self.world.kernel.now
        if self._quick:
            self.world.kernel.stop()
            return
        self._wake()
        self._later(
            2.0 * self.setup.lease_seconds + self.setup.linger_seconds, self.world.kernel.stop
        )

    def _all_ended(self) -> bool:
        backend = MemoryBackend(self.world.state.database)
        for queue in self.setup.queues:
            tasks = instantly(backend.list_tasks(queue, limit=10_000))
            if any(task.state not in TERMINAL_STATES for task in tasks):
                return False
        return True

    def _note(self, text: str) -> None:
        self.trace.append(f"{self.world.kernel.now:10.3f} s  {text}")

    # -- running --------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Run it to its end; what it left, and what is wrong with that."""
        kernel = self.world.kernel
        failures: list[Violation] = []
        try:
            if self._all_ended():
                self._end()
            if self.ended_at is None or not self._quick:
                kernel.run(kernel.now + self.setup.horizon_seconds, _CALLBACKS_MAX)
            if self.ended_at is None:
                text = f"not all tasks had ended after {self.setup.horizon_seconds} s"
                failures.append(Violation("every_task_ends_in_time", text))
        except (NothingCanHappen, Runaway) as error:
            failures.append(Violation("the_world_goes_on", str(error)))
        if self.failure is not None:
            failures.append(self.failure)
        evidence = self.world.evidence()
        self.world.close()
        policy: RetryPolicy = self.setup.policy
        return outcome_of(evidence, self.world.state, (*failures, *judge(evidence, policy)))


def explore(
    setup: Setup,
    *,
    blows: Iterable[Blow] = EVERY_BLOW,
    pairs: bool = False,
    pair_blows: Iterable[Blow] | None = None,
    findings_max: int = 20,
) -> Exploration:
    """Try every future of `setup` with one blow and, with `pairs`, with two.

    Stops after `findings_max` findings. Raises `AssertionError` if the undisturbed run itself
    breaks an invariant: then nothing can be compared with it.
    """
    with quiet_logs(), without_gc():
        return _Explorer(setup, tuple(blows), findings_max).run(
            tuple(pair_blows or blows) if pairs else ()
        )


def undisturbed(setup: Setup) -> tuple[Outcome, list[History]]:
    """How the world ends when nothing happens to it, and the histories it leaves."""
    with quiet_logs():
        life = _Life(setup, setup.initial_state(), ())
        outcome = life.run()
    return outcome, life.world.histories()


def replay(setup: Setup, plan: Plan) -> Finding:
    """One future from its start, with its trace."""
    with quiet_logs():
        base = _Life(setup, setup.initial_state(), ()).run()
        life = _Life(setup, setup.initial_state(), plan, trace=True)
        outcome = life.run()
    return Finding(plan, outcome.compared_with(base), tuple(life.trace))


def replay_histories(setup: Setup, plan: Plan) -> list[History]:
    """The histories that one future leaves."""
    with quiet_logs():
        life = _Life(setup, setup.initial_state(), plan)
        life.run()
    return life.world.histories()


class _Explorer:
    def __init__(self, setup: Setup, blows: Sequence[Blow], findings_max: int) -> None:
        self.setup, self.blows, self.findings_max = setup, blows, findings_max
        self.found = Exploration()

    def run(self, pair_blows: Sequence[Blow]) -> Exploration:
        base = _Life(self.setup, self.setup.initial_state(), (), record=True)
        self.base = base.run()
        if self.base.violations:
            finding = Finding((), self.base.violations, tuple(base.trace))
            raise AssertionError(f"the undisturbed run is wrong already: {finding}")
        found = self.found
        found.moments, found.effects = len(base.landmarks), len(base.landmarks) // 2
        found.distinct_moments = len(base.snapshots)
        found.landmarks = tuple(base.landmarks)
        firsts = [*self._kills(base, ()), *self._others(base, ())]
        for plan, snapshot in firsts:
            life = self._try(plan, snapshot, record=bool(pair_blows))
            if pair_blows and life is not None and not life.todo:
                self._second(plan, life, pair_blows)
            if len(found.findings) >= self.findings_max:
                break
        return found

    def _second(self, plan: Plan, life: _Life, blows: Sequence[Blow]) -> None:
        kept, self.blows = self.blows, blows
        for second, snapshot in [*self._kills(life, plan), *self._others(life, plan)]:
            if len(self.found.findings) >= self.findings_max:
                break
            self._try(second, snapshot)
        self.blows = kept

    def _kills(self, life: _Life, plan: Plan) -> Iterator[tuple[Plan, Snapshot | None]]:
        lonely = all(one.blow in KILLS for one in plan)
        for snapshot in life.snapshots:
            for blow in self.blows:
                if blow in KILLS:
                    strike = Strike(blow, snapshot.moment)
                    yield (*plan, strike), snapshot if lonely else None

    def _others(self, life: _Life, plan: Plan) -> Iterator[tuple[Plan, Snapshot | None]]:
        for moment, landmark in enumerate(life.landmarks, start=1):
            before = landmark.endswith(Moment.BEFORE.value)
            for blow in self.blows:
                if (
                    blow in KILLS
                    or (blow in ZOMBIES and not before)
                    or (blow is Blow.REFUSED and not (before and landmark.startswith("call")))
                    or (blow is Blow.REPLY_LOST and (before or not landmark.startswith("call")))
                ):
                    continue
                yield (*plan, Strike(blow, moment)), None

    def _try(self, plan: Plan, snapshot: Snapshot | None, record: bool = False) -> _Life | None:
        setup = self.setup
        if snapshot is None:
            life = _Life(setup, setup.initial_state(), plan, record=record)
        else:
            state = snapshot.state.fork()
            life = _Life(setup, state, (), start=snapshot.time, dead=plan[-1], record=record)
        outcome = life.run()
        self.found.futures += 1
        if self.found.futures % _FUTURES_PER_COLLECTION == 0:
            gc.collect(1)
        self.found.struck += not life.todo
        wrong = outcome.compared_with(self.base)
        if wrong:
            self.found.findings.append(Finding(plan, wrong, tuple(life.trace)))
        return life


def doors_of(world: World, name: str) -> Doors:
    """Doors of a process outside of the exploration: nothing it does is a crash point."""
    return world.process(name, observed=False)
