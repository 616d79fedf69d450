"""The crash-point explorer: number every effect of a workflow, then cut the world at each.

One baseline run numbers the moments of all effects: before each, and after it was committed
but before the process heard of it. Then every future is tried in which a worker is killed,
stopped and woken again (a pause), refused by the database, or not told of a commit, at each of
these moments and, with ``pairs``, once more at each moment of the recovery. Each future must end,
keep every invariant, and leave the same products, results and checkpoints as the baseline run.

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
from absurd_contimg.history.invariants.check import Violation
from absurd_contimg.simulation.exploration.crash_run import CrashRun, Snapshot
from absurd_contimg.simulation.exploration.exploration_spec import ExplorationSpec
from absurd_contimg.simulation.exploration.outcome import Outcome
from absurd_contimg.simulation.model.effect_gateway import EffectGateway, EffectPhase
from absurd_contimg.simulation.model.faults import (
    ALL_FAULTS,
    KILLS,
    LEASE_LOSSES,
    NETWORK,
    RESTARTS,
    FaultKind,
    FaultSchedule,
    InjectedFault,
)
from absurd_contimg.simulation.model.world import World, quiet_logs, without_gc

FINDINGS_MAX = 20
"""After so many an exploration stops: the first few say what is wrong."""
_FUTURES_PER_COLLECTION = 500
_LEASES_LOST_MAX = 6
"""By one fault: a host may be cut off for three, and then its run has to expire and be polled."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A future that must not be, and how to see it again."""

    schedule: FaultSchedule
    violations: tuple[Violation, ...]
    trace: tuple[str, ...] = ()
    missed: FaultSchedule = ()
    """Strikes of the schedule that have hit nothing."""
    last_crash_point: int = 0
    """Of the process that the first missed fault was meant for."""

    @property
    def missed_text(self) -> str:
        """Which fault was not injected, and why."""
        return (
            f"{self.missed[0]} was not injected: that process has "
            f"{self.last_crash_point} crash points"
        )

    @property
    def schedule_text(self) -> str:
        """The schedule as `parse_schedule` reads it."""
        return ",".join(map(str, self.schedule))

    def __str__(self) -> str:
        lines = [f"schedule {self.schedule_text or '(baseline)'}"]
        lines += [f"  {one}" for one in self.violations[:6]]
        lines += [f"    {line}" for line in self.trace[-60:]]
        return "\n".join(lines)


@dataclass(slots=True)
class Exploration:
    """What was explored, and what was found."""

    effects: int = 0
    """Of the baseline run."""
    distinct_states: int = 0
    """Of these, with a durable state of their own."""
    futures: int = 0
    """That were run, the baseline one not counted."""
    duplicates: int = 0
    """Kills whose future was not run: one that was run begins with the very same state."""
    injected: int = 0
    """Futures in which every fault of the schedule landed."""
    findings: list[Finding] = field(default_factory=list)
    processor_seconds: float = 0.0
    crash_points: tuple[str, ...] = ()
    """The effects of the baseline run by name, two moments each."""

    def check(self) -> Self:
        """Raise `AssertionError` that shows the findings with the fewest faults first."""
        if self.findings:
            ordered = sorted(self.findings, key=lambda one: len(one.schedule))
            shown = "\n".join(map(str, ordered[:3]))
            raise AssertionError(f"{len(self.findings)} of {self.futures} futures:\n{shown}")
        return self


Progress = Callable[[int, int, Exploration], None]


def explore(
    spec: ExplorationSpec,
    *,
    faults: Iterable[FaultKind] = ALL_FAULTS,
    pairs: bool = False,
    second_faults: Iterable[FaultKind] | None = None,
    findings_max: int = FINDINGS_MAX,
    shard: tuple[int, int] = (0, 1),
    progress: Progress | None = None,
    watch: bool = False,
) -> Exploration:
    """Try every future of `spec` with one fault and, with `pairs`, with two.

    With `shard` (number from 0, count) only the share of the first faults that is this shard's.
    `progress` is told after each of them how many are done, of how many, and what was found.
    With `watch` the invariants over histories are checked after every operation of every future,
    and not only at its end: several times slower, for small worlds.
    Stops after `findings_max` findings. Raises `AssertionError` if the baseline run itself
    breaks an invariant: then nothing can be compared with it.
    """
    began = time.process_time()
    with quiet_logs(), without_gc():
        found = _Explorer(spec, tuple(faults), findings_max, watch).run(
            tuple(second_faults or faults) if pairs else (), shard, progress
        )
    found.processor_seconds = time.process_time() - began
    return found


def baseline(spec: ExplorationSpec) -> tuple[Outcome, list[History]]:
    """How the world ends when nothing happens to it, and the histories it leaves."""
    with quiet_logs():
        run = CrashRun(spec, spec.initial_state(), ())
        outcome = run.run()
    return outcome, run.world.histories()


def replay(spec: ExplorationSpec, schedule: FaultSchedule) -> Finding:
    """One future from its start, with its trace."""
    with quiet_logs():
        base = CrashRun(spec, spec.initial_state(), ()).run()
        run = CrashRun(spec, spec.initial_state(), schedule, trace=True, watch=True)
        outcome = run.run()
    wrong, missed = outcome.compared_with(base), tuple(run.todo)
    return Finding(schedule, wrong, tuple(run.trace), missed, run.moment)


def replay_histories(spec: ExplorationSpec, schedule: FaultSchedule) -> list[History]:
    """The histories that one future leaves."""
    with quiet_logs():
        run = CrashRun(spec, spec.initial_state(), schedule)
        run.run()
    return run.world.histories()


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where a future begins: at 0 s, or from the state that the first strikes have left."""

    injected: int = 0
    snapshot: Snapshot | None = None


class _Explorer:
    def __init__(
        self,
        spec: ExplorationSpec,
        faults: Sequence[FaultKind],
        findings_max: int,
        watch: bool = False,
    ) -> None:
        self.spec, self.faults, self.findings_max = spec, faults, findings_max
        self.watch = watch
        self.found = Exploration()

    def run(
        self, second_faults: Sequence[FaultKind], shard: tuple[int, int], progress: Progress | None
    ) -> Exploration:
        base = CrashRun(self.spec, self.spec.initial_state(), (), record=True, watch=True)
        self.base = base.run()
        self._base_ended = base.ended_at or 0.0
        if self.base.violations:
            finding = Finding((), self.base.violations, tuple(base.trace))
            raise AssertionError(f"the baseline run is wrong already: {finding}")
        found = self.found
        found.effects = len(base.crash_points) // 2
        found.distinct_states = len(base.snapshots)
        found.crash_points = tuple(base.crash_points)
        begin = _Origin()
        firsts = [*self._kills(base, (), begin), *self._others(base, (), begin)]
        begun: set[Hashable] = set()
        distinct = 0
        for number, (schedule, origin) in enumerate(firsts, start=1):
            mine = distinct % shard[1] == shard[0]
            if origin.snapshot is None and not mine:
                distinct += 1
                continue
            run = self._begin(schedule, origin, begun, record=bool(second_faults))
            if run is None:
                found.duplicates += shard[0] == 0  # each shard meets them all
                continue
            distinct += 1
            if not mine:
                run.world.close()
                continue
            self._try(schedule, run)
            if second_faults and not run.todo:
                self._second(schedule, run, origin, second_faults)
            if progress is not None:
                progress(number, len(firsts), found)
            if len(found.findings) >= self.findings_max:
                break
        return found

    def _second(
        self, schedule: FaultSchedule, run: CrashRun, origin: _Origin, faults: Sequence[FaultKind]
    ) -> None:
        kept, self.faults = self.faults, faults
        begun: set[Hashable] = set()
        for second, its in [
            *self._kills(run, schedule, origin),
            *self._others(run, schedule, origin),
        ]:
            if len(self.found.findings) >= self.findings_max:
                break
            another = self._begin(second, its, begun)
            if another is None:
                self.found.duplicates += 1
            else:
                self._try(second, another)
        self.faults = kept

    def _kills(
        self, run: CrashRun, schedule: FaultSchedule, origin: _Origin
    ) -> Iterator[tuple[FaultSchedule, _Origin]]:
        """From the state at the kill where nobody else lives, else from where the run began."""
        lonely = all(one.kind in KILLS for one in schedule)
        for snapshot in run.snapshots:
            for fault in self.faults:
                if fault in KILLS:
                    whole = (*schedule, InjectedFault(fault, snapshot.moment))
                    yield whole, _Origin(len(whole), snapshot) if lonely else origin

    def _others(
        self, run: CrashRun, schedule: FaultSchedule, origin: _Origin
    ) -> Iterator[tuple[FaultSchedule, _Origin]]:
        for moment, crash_point in enumerate(run.crash_points, start=1):
            before = crash_point.endswith(EffectPhase.BEFORE.value)
            fenced = crash_point.startswith("call extend_claim")  # it was told that it may go on
            for fault in self.faults:
                if (
                    fault in KILLS
                    or (fault in (FaultKind.CANCEL, FaultKind.TERM) and not before)
                    or (fault in LEASE_LOSSES and not (before or fenced))
                    or (
                        fault is FaultKind.REFUSED
                        and not (before and crash_point.startswith("call"))
                    )
                    or (
                        fault is FaultKind.REPLY_LOST
                        and (before or not crash_point.startswith("call"))
                    )
                ):
                    continue
                yield (*schedule, InjectedFault(fault, moment)), origin

    def _wrong(
        self, run: CrashRun, schedule: FaultSchedule, outcome: Outcome
    ) -> tuple[Violation, ...]:
        if any(one.kind is FaultKind.CANCEL for one in schedule):
            return outcome.violations  # it ends otherwise, and must end well
        wrong = outcome.compared_with(self.base)
        if run.ended_at is not None and run.ended_at > self._latest(len(schedule)):
            took, alone = run.ended_at, self._base_ended
            text = f"it ended after {took:.0f} s, baseline after {alone:.0f} s"
            wrong += (Violation("recovery_is_not_late", text),)
        expired = any("$ClaimTimeout" in end for ends in outcome.runs for end in ends)
        if expired and all(one.kind in RESTARTS for one in schedule):
            text = f"a lease ran out: the runs ended as {outcome.runs}"
            wrong += (Violation("who_comes_back_goes_on_at_once", text),)
        hiccups = all(one.kind in NETWORK for one in schedule)
        # A claim whose reply is lost is given back, or swept; nobody has worked under it. A spawn
        # is the handler's own call.
        excused = {"claim_task", "spawn_task"}.intersection(run.faulted_calls)
        if hiccups and not excused and outcome.runs != self.base.runs:
            text = f"the runs ended as {outcome.runs}, baseline as {self.base.runs}"
            wrong += (Violation("hiccup_of_the_database_costs_no_run", text),)
        return wrong

    def _latest(self, faults: int) -> float:
        """When a future must have ended: a fault may cost some leases and all work once more."""
        return (1 + faults) * self._base_ended + faults * _LEASES_LOST_MAX * self.spec.lease_seconds

    def _begin(
        self, schedule: FaultSchedule, origin: _Origin, begun: set[Hashable], record: bool = False
    ) -> CrashRun | None:
        """The run that a future begins with; None when one with the same beginning was run."""
        spec, snapshot, injected = self.spec, origin.snapshot, origin.injected
        if snapshot is None:
            return CrashRun(spec, spec.initial_state(), schedule, record=record, watch=self.watch)
        run = CrashRun(
            spec,
            snapshot.state.fork(),
            schedule[injected:],
            after=snapshot,
            dead=schedule[injected - 1],
            record=record,
            watch=self.watch,
        )
        beginning = None if schedule[injected:] else run.beginning()
        if beginning is not None:
            known = len(begun)
            begun.add(beginning)
            if len(begun) == known:
                run.world.close()
                return None
        return run

    def _try(self, schedule: FaultSchedule, run: CrashRun) -> None:
        outcome = run.run()
        self.found.futures += 1
        if self.found.futures % _FUTURES_PER_COLLECTION == 0:
            gc.collect(1)
        self.found.injected += not run.todo
        if wrong := self._wrong(run, schedule, outcome):
            self.found.findings.append(Finding(schedule, wrong, tuple(run.trace)))


def gateway_of(world: World, name: str) -> EffectGateway:
    """EffectGateway of a process outside of the exploration: nothing it does is a crash point."""
    return world.process(name, observed=False)
