"""The crash-point explorer: number every effect of a workflow, then cut the world at each.

One undisturbed run numbers the moments of all effects: before each, and after it was committed
but before the process heard of it. Then every future is tried in which a worker is killed,
stopped and woken again (a zombie), refused by the database, or not told of a commit, at each of
these moments and, with ``pairs``, once more at each moment of the recovery. Each future must end,
keep every invariant, and leave the same products, results and checkpoints as the undisturbed run.

A killed process leaves nothing but durable state, so a future after a kill is tried from a
snapshot of that state; moments with the same state at the same time have the same futures and
are tried once. Neither are two futures run that are the same from the moment at which the next
process begins: what the dead one had in scratch is swept by then, so most of its last file
operations make no difference. All other faults leave a living process behind and are run from
the start.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

from absurd_contimg.core.records import History
from absurd_contimg.history.invariants import Violation
from absurd_contimg.simulation.exploration.crash_run import (
    EVERY_BLOW,
    KILLS,
    NETWORK,
    RESTARTS,
    ZOMBIES,
    Blow,
    Life,
    Plan,
    Snapshot,
    Strike,
)
from absurd_contimg.simulation.exploration.exploration_spec import Setup
from absurd_contimg.simulation.exploration.outcome import Outcome
from absurd_contimg.simulation.model.effect_gateway import Doors, Moment
from absurd_contimg.simulation.model.world import World, quiet_logs, without_gc

FINDINGS_MAX = 20
"""After so many an exploration stops: the first few say what is wrong."""
_FUTURES_PER_COLLECTION = 500
_LEASES_LOST_MAX = 6
"""By one blow: a host may be cut off for three, and then its run has to expire and be polled."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A future that must not be, and how to see it again."""

    plan: Plan
    violations: tuple[Violation, ...]
    trace: tuple[str, ...] = ()
    missed: Plan = ()
    """Strikes of the plan that have hit nothing."""
    moments: int = 0
    """Of the last life, the one that the first missed strike was meant for."""

    @property
    def plan_text(self) -> str:
        """The plan as `parse_plan` reads it."""
        return ",".join(map(str, self.plan))

    def __str__(self) -> str:
        lines = [f"plan {self.plan_text or '(undisturbed)'}"]
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
    same: int = 0
    """Kills whose future was not run: one that was run begins with the very same state."""
    struck: int = 0
    """Futures in which every blow of the plan landed."""
    findings: list[Finding] = field(default_factory=list)
    processor_seconds: float = 0.0
    landmarks: tuple[str, ...] = ()
    """The effects of the undisturbed run by name, two moments each."""

    def check(self) -> Self:
        """Raise `AssertionError` that shows the findings with the fewest blows first."""
        if self.findings:
            ordered = sorted(self.findings, key=lambda one: len(one.plan))
            shown = "\n".join(map(str, ordered[:3]))
            raise AssertionError(f"{len(self.findings)} of {self.futures} futures:\n{shown}")
        return self


Progress = Callable[[int, int, Exploration], None]


def explore(
    setup: Setup,
    *,
    blows: Iterable[Blow] = EVERY_BLOW,
    pairs: bool = False,
    pair_blows: Iterable[Blow] | None = None,
    findings_max: int = FINDINGS_MAX,
    shard: tuple[int, int] = (0, 1),
    progress: Progress | None = None,
    watch: bool = False,
) -> Exploration:
    """Try every future of `setup` with one blow and, with `pairs`, with two.

    With `shard` (number from 0, count) only the share of the first blows that is this shard's.
    `progress` is told after each of them how many are done, of how many, and what was found.
    With `watch` the invariants over histories are checked after every operation of every future,
    and not only at its end: several times slower, for small worlds.
    Stops after `findings_max` findings. Raises `AssertionError` if the undisturbed run itself
    breaks an invariant: then nothing can be compared with it.
    """
    began = time.process_time()
    with quiet_logs(), without_gc():
        found = _Explorer(setup, tuple(blows), findings_max, watch).run(
            tuple(pair_blows or blows) if pairs else (), shard, progress
        )
    found.processor_seconds = time.process_time() - began
    return found


def undisturbed(setup: Setup) -> tuple[Outcome, list[History]]:
    """How the world ends when nothing happens to it, and the histories it leaves."""
    with quiet_logs():
        life = Life(setup, setup.initial_state(), ())
        outcome = life.run()
    return outcome, life.world.histories()


def replay(setup: Setup, plan: Plan) -> Finding:
    """One future from its start, with its trace."""
    with quiet_logs():
        base = Life(setup, setup.initial_state(), ()).run()
        life = Life(setup, setup.initial_state(), plan, trace=True, watch=True)
        outcome = life.run()
    wrong, missed = outcome.compared_with(base), tuple(life.todo)
    return Finding(plan, wrong, tuple(life.trace), missed, life.moment)


def replay_histories(setup: Setup, plan: Plan) -> list[History]:
    """The histories that one future leaves."""
    with quiet_logs():
        life = Life(setup, setup.initial_state(), plan)
        life.run()
    return life.world.histories()


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where a future begins: at 0 s, or from the state that the first strikes have left."""

    struck: int = 0
    snapshot: Snapshot | None = None


class _Explorer:
    def __init__(
        self, setup: Setup, blows: Sequence[Blow], findings_max: int, watch: bool = False
    ) -> None:
        self.setup, self.blows, self.findings_max = setup, blows, findings_max
        self.watch = watch
        self.found = Exploration()

    def run(
        self, pair_blows: Sequence[Blow], shard: tuple[int, int], progress: Progress | None
    ) -> Exploration:
        base = Life(self.setup, self.setup.initial_state(), (), record=True, watch=True)
        self.base = base.run()
        self._base_ended = base.ended_at or 0.0
        if self.base.violations:
            finding = Finding((), self.base.violations, tuple(base.trace))
            raise AssertionError(f"the undisturbed run is wrong already: {finding}")
        found = self.found
        found.moments, found.effects = len(base.landmarks), len(base.landmarks) // 2
        found.distinct_moments = len(base.snapshots)
        found.landmarks = tuple(base.landmarks)
        begin = _Origin()
        firsts = [*self._kills(base, (), begin), *self._others(base, (), begin)]
        begun: set[Hashable] = set()
        distinct = 0
        for number, (plan, origin) in enumerate(firsts, start=1):
            mine = distinct % shard[1] == shard[0]
            if origin.snapshot is None and not mine:
                distinct += 1
                continue
            life = self._begin(plan, origin, begun, record=bool(pair_blows))
            if life is None:
                found.same += shard[0] == 0  # each shard meets them all
                continue
            distinct += 1
            if not mine:
                life.world.close()
                continue
            self._try(plan, life)
            if pair_blows and not life.todo:
                self._second(plan, life, origin, pair_blows)
            if progress is not None:
                progress(number, len(firsts), found)
            if len(found.findings) >= self.findings_max:
                break
        return found

    def _second(self, plan: Plan, life: Life, origin: _Origin, blows: Sequence[Blow]) -> None:
        kept, self.blows = self.blows, blows
        begun: set[Hashable] = set()
        for second, its in [*self._kills(life, plan, origin), *self._others(life, plan, origin)]:
            if len(self.found.findings) >= self.findings_max:
                break
            another = self._begin(second, its, begun)
            if another is None:
                self.found.same += 1
            else:
                self._try(second, another)
        self.blows = kept

    def _kills(self, life: Life, plan: Plan, origin: _Origin) -> Iterator[tuple[Plan, _Origin]]:
        """From the state at the kill where nobody else lives, else from where the life began."""
        lonely = all(one.blow in KILLS for one in plan)
        for snapshot in life.snapshots:
            for blow in self.blows:
                if blow in KILLS:
                    whole = (*plan, Strike(blow, snapshot.moment))
                    yield whole, _Origin(len(whole), snapshot) if lonely else origin

    def _others(self, life: Life, plan: Plan, origin: _Origin) -> Iterator[tuple[Plan, _Origin]]:
        for moment, landmark in enumerate(life.landmarks, start=1):
            before = landmark.endswith(Moment.BEFORE.value)
            fenced = landmark.startswith("call extend_claim")  # it was told that it may go on
            for blow in self.blows:
                if (
                    blow in KILLS
                    or (blow in (Blow.CANCEL, Blow.TERM) and not before)
                    or (blow in ZOMBIES and not (before or fenced))
                    or (blow is Blow.REFUSED and not (before and landmark.startswith("call")))
                    or (blow is Blow.REPLY_LOST and (before or not landmark.startswith("call")))
                ):
                    continue
                yield (*plan, Strike(blow, moment)), origin

    def _wrong(self, life: Life, plan: Plan, outcome: Outcome) -> tuple[Violation, ...]:
        if any(one.blow is Blow.CANCEL for one in plan):
            return outcome.violations  # it ends otherwise, and must end well
        wrong = outcome.compared_with(self.base)
        if life.ended_at is not None and life.ended_at > self._latest(len(plan)):
            took, alone = life.ended_at, self._base_ended
            text = f"it ended after {took:.0f} s, undisturbed after {alone:.0f} s"
            wrong += (Violation("recovery_is_not_late", text),)
        expired = any("$ClaimTimeout" in end for ends in outcome.runs for end in ends)
        if expired and all(one.blow in RESTARTS for one in plan):
            text = f"a lease ran out: the runs ended as {outcome.runs}"
            wrong += (Violation("who_comes_back_goes_on_at_once", text),)
        hiccups = all(one.blow in NETWORK for one in plan)
        # A claim whose reply is lost is given back, or swept; nobody has worked under it. A spawn
        # is the handler's own call.
        excused = {"claim_task", "spawn_task"}.intersection(life.struck_calls)
        if hiccups and not excused and outcome.runs != self.base.runs:
            text = f"the runs ended as {outcome.runs}, undisturbed as {self.base.runs}"
            wrong += (Violation("hiccup_of_the_database_costs_no_run", text),)
        return wrong

    def _latest(self, blows: int) -> float:
        """When a future must have ended: with each blow all may be done anew, after some leases."""
        return (1 + blows) * self._base_ended + blows * _LEASES_LOST_MAX * self.setup.lease_seconds

    def _begin(
        self, plan: Plan, origin: _Origin, begun: set[Hashable], record: bool = False
    ) -> Life | None:
        """The life that a future begins with; None when one with the same beginning was run."""
        setup, snapshot, struck = self.setup, origin.snapshot, origin.struck
        if snapshot is None:
            return Life(setup, setup.initial_state(), plan, record=record, watch=self.watch)
        life = Life(
            setup,
            snapshot.state.fork(),
            plan[struck:],
            after=snapshot,
            dead=plan[struck - 1],
            record=record,
            watch=self.watch,
        )
        beginning = None if plan[struck:] else life.beginning()
        if beginning is not None:
            known = len(begun)
            begun.add(beginning)
            if len(begun) == known:
                life.world.close()
                return None
        return life

    def _try(self, plan: Plan, life: Life) -> None:
        outcome = life.run()
        self.found.futures += 1
        if self.found.futures % _FUTURES_PER_COLLECTION == 0:
            gc.collect(1)
        self.found.struck += not life.todo
        if wrong := self._wrong(life, plan, outcome):
            self.found.findings.append(Finding(plan, wrong, tuple(life.trace)))


def doors_of(world: World, name: str) -> Doors:
    """Doors of a process outside of the exploration: nothing it does is a crash point."""
    return world.process(name, observed=False)
