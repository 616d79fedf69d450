"""The crash explorer: a fault at every crash point of a workflow, one future each.

A baseline run numbers the crash points: the phases before each effect, and after it was committed
but before the process has the reply. Each future must end, keep every invariant, and leave the same
results, checkpoints and products as the baseline.

A killed process leaves nothing but durable state, so the future after a kill starts from a
snapshot of that state, and kills after which the next process starts, or makes its first claim,
with the same state have one future (`known_futures`). All other faults leave a living process:
their futures are run from the beginning.
"""

from __future__ import annotations

import gc
import multiprocessing
import re
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import NamedTuple

from absurd_contimg.core.records import History
from absurd_contimg.history.failures import failed_runs
from absurd_contimg.history.invariants.check import RECOVERY_INVARIANTS, Violation, find_violations
from absurd_contimg.history.invariants.recovery import RecoveryObservation
from absurd_contimg.simulation.exploration.crash_run import CrashRun, Snapshot
from absurd_contimg.simulation.exploration.exploration_spec import ExplorationSpec
from absurd_contimg.simulation.exploration.known_futures import Beginning, KnownFutures
from absurd_contimg.simulation.exploration.outcome import Outcome
from absurd_contimg.simulation.exploration.replay_report import replay_report
from absurd_contimg.simulation.model.effect_gateway import BEFORE, CrashPoint
from absurd_contimg.simulation.model.faults import (
    ALL_FAULTS,
    KILLS,
    NETWORK,
    RESTARTS,
    FaultKind,
    FaultSchedule,
    InjectedFault,
    only_of,
)
from absurd_contimg.simulation.model.world import without_logs_and_gc

FINDINGS_MAX = 20
"""After this many findings an exploration stops."""
_LINES_BEFORE, _LINES_AFTER, _LINES_OF_END = 20, 40, 20
"""Of a trace: around its first fault, and the last ones."""
_FUTURES_PER_COLLECTION = 500
_LEASES_LOST_MAX = 6
"""By one fault: a partition may last three, and then the run has to expire and be polled."""
Kinds = tuple[FaultKind, ...]
_NOT_CALLS_OF_A_RUN = frozenset({"claim_task", "spawn_task"})
"""A claim whose reply is lost is released, or swept; a spawn is the handler's own call."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A future with violations, and how to see it again."""

    schedule: FaultSchedule
    violations: tuple[Violation, ...]
    trace: tuple[str, ...] = ()
    missed: FaultSchedule = ()
    """Faults of the schedule that were not injected."""
    last_crash_point: int = 0
    """Of the process that the first missed fault was meant for."""
    report: str = ""
    """Of a replay: what was compared with what, and the verdict."""

    @property
    def missed_text(self) -> str:
        """Which fault was not injected, and why."""
        fault, points = self.missed[0], f"{self.last_crash_point} crash points"
        if isinstance(fault.crash_point, str):
            points = f"none of its {points} has this text in its line of a trace"
            return f"{fault} was not injected into that process: {points}"
        return f"{fault} was not injected: that process has {points}"

    @property
    def schedule_text(self) -> str:
        """The schedule as `parse_schedule` reads it."""
        return ",".join(map(str, self.schedule))

    def __repr__(self) -> str:
        return (
            f"<Finding: faults {self.schedule_text or '(none)'}, {len(self.violations)} violations>"
        )

    def _window(self) -> list[str]:
        """The lines of the trace around its first fault, and its end."""
        is_fault = re.compile(rf": ({'|'.join(fault.kind for fault in self.schedule)}) at ").search
        fault = next((n for n, line in enumerate(self.trace) if is_fault(line)), 0)
        first, last = max(fault - _LINES_BEFORE, 0), len(self.trace) - _LINES_OF_END
        middle = max(fault + _LINES_AFTER, first)
        lines = [f"... {first} earlier lines left out"] if first else []
        lines += self.trace[first:middle]
        if last > middle:
            lines.append(f"... {last - middle} lines left out")
        return [*lines, *self.trace[max(middle, last) :]]

    def __str__(self) -> str:
        lines = [f"faults {self.schedule_text or '(none)'}"]
        lines += [f"  {violation}" for violation in self.violations[:6]]
        lines += [f"    {line}" for line in self._window()]
        return "\n".join(lines)


@dataclass(slots=True)
class Exploration:
    """What was explored, and the findings."""

    crash_points: tuple[CrashPoint, ...] = ()
    """Of the baseline run: two for each effect."""
    distinct_states: int = 0
    """Crash points with a durable state of their own."""
    futures: int = 0
    """Futures that were run, without the baseline."""
    duplicates: int = 0
    """Kills whose future was not run to its end because another has come to the very same state."""
    injected: int = 0
    """Futures in which every fault of the schedule was injected."""
    findings: list[Finding] = field(default_factory=list)
    processor_seconds: float = 0.0

    @property
    def effects(self) -> int:
        """Of the baseline run."""
        return len(self.crash_points) // 2

    def __repr__(self) -> str:
        return (
            f"<Exploration of {len(self.crash_points)} crash points: {self.futures} futures, "
            f"{self.duplicates} duplicates, {len(self.findings)} findings>"
        )

    def add(self, other: Exploration) -> None:
        """Add what another part of the same exploration has found."""
        self.crash_points, self.distinct_states = other.crash_points, other.distinct_states
        self.futures += other.futures
        self.duplicates += other.duplicates
        self.injected += other.injected
        self.processor_seconds += other.processor_seconds
        self.findings += other.findings


def explore(
    spec: ExplorationSpec,
    *,
    faults: Iterable[FaultKind] = ALL_FAULTS,
    second_faults: Iterable[FaultKind] = (),
    findings_max: int = FINDINGS_MAX,
    part: tuple[int, int] = (0, 1),
    check_operations: bool = False,
) -> Exploration:
    """Run every future of `spec` with one fault, or with one and a second during its recovery.

    With `part` (number from 0, count) only this part of the first faults is injected; with
    `check_operations` invariants are checked after every operation, several times slower. Stops
    after `findings_max` findings. Raises `AssertionError` if the baseline run itself violates one.
    """
    started = time.process_time()
    kinds = tuple(faults), tuple(second_faults)
    with without_logs_and_gc():
        exploration = _Explorer(spec, findings_max, check_operations).explore(*kinds, part)
        if 0 < len(exploration.findings) < findings_max and not spec.time_matters:
            # What is wrong may depend on the time: no future is left out for one at another time.
            everything = _Explorer(spec, findings_max, check_operations, compares_times=False)
            exploration = everything.explore(*kinds, part)
    exploration.processor_seconds = time.process_time() - started
    return exploration


def part_count(second_kinds: Kinds) -> int:
    """The number of parts of an exploration on several cores.

    Enough that no process waits long for the slowest, and that progress is seen.
    """
    return 64 if second_kinds else 8


def explore_on_cores(
    make_spec: Callable[[], ExplorationSpec],
    kinds: Kinds,
    second_kinds: Kinds,
    jobs: int,
    on_progress: Callable[[int, int, Exploration], None] = lambda *_: None,
    after: int = 0,
) -> Exploration:
    """The same as `explore`, in `jobs` processes; `make_spec` is a function of a module.

    The first `after` parts are left out: an earlier exploration has run them. `on_progress` gets
    the number of finished parts, of all parts, and the sum, which depends on no number of jobs.
    """
    total, parts = Exploration(), part_count(second_kinds)
    explore_part = partial(_explore_part, make_spec, kinds, second_kinds, parts)
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        explorations = pool.imap(explore_part, range(after, parts))
        for number, exploration in enumerate(explorations, start=after + 1):
            total.add(exploration)
            on_progress(number, parts, total)
    return total


def _explore_part(
    make_spec: Callable[[], ExplorationSpec], first: Kinds, second: Kinds, parts: int, number: int
) -> Exploration:
    return explore(make_spec(), faults=first, second_faults=second, part=(number, parts))


def baseline(spec: ExplorationSpec) -> tuple[Outcome, list[History]]:
    """The outcome and the histories of a run without faults."""
    with without_logs_and_gc():
        run = CrashRun(spec)
        outcome = run.run()
    return outcome, run.world.histories()


def replay(spec: ExplorationSpec, schedule: FaultSchedule) -> Finding:
    """One future from its beginning, with its trace."""
    with without_logs_and_gc():
        base_run = CrashRun(spec)
        base = base_run.run()
        run = CrashRun(spec, schedule, trace_effects=True, check_operations=True)
        outcome = run.run()
    violations = _violations(
        spec, schedule, run, outcome, _Baseline(base, base_run.ended_at or 0.0)
    )
    missed = tuple(run.injector.pending)
    report = replay_report(
        (run, outcome), (base_run, base), violations, ends_otherwise=_is_cancelled(schedule)
    )
    return Finding(schedule, violations, tuple(run.trace), missed, run.crash_point, report)


class _Future(NamedTuple):
    """A schedule, and the snapshot that its first faults have left (None: from the beginning)."""

    schedule: FaultSchedule
    snapshot: Snapshot | None = None

    def group(self, time_matters: bool) -> Hashable:
        """Only those of one group are compared: after one kind of kill at one time, or in one step
        where time does not matter."""
        snapshot = self.snapshot
        if snapshot is None:
            return self.schedule
        return (self.schedule[-1].kind, snapshot.time) if time_matters else snapshot.steps


class _Explorer:
    def __init__(
        self,
        spec: ExplorationSpec,
        findings_max: int,
        check_operations: bool,
        compares_times: bool = True,
    ) -> None:
        self._spec, self._findings_max = spec, findings_max
        self._check_operations = check_operations
        self._result = Exploration()
        outside = bool(spec.external_inputs) or spec.ends_after_seconds > 0.0
        self._time_matters = spec.time_matters or outside
        self._compares_times = compares_times and not self._time_matters
        self._spare_seconds = inf
        """How much later the futures since the last look might have ended, at least."""

    def explore(self, kinds: Kinds, seconds: Kinds, part: tuple[int, int]) -> Exploration:
        base = CrashRun(self._spec, keep_crash_points=True, check_operations=True)
        self._base = base.run()
        self._base_ended_at = base.ended_at or 0.0
        if self._base.violations:
            finding = Finding((), self._base.violations, tuple(base.trace))
            raise AssertionError(f"the baseline run is wrong already: {finding}")
        self._result.crash_points = tuple(base.crash_points)
        self._result.distinct_states = len(base.snapshots)
        self._explore_from(base, _Future(()), kinds, seconds, part)
        base.world.discard()
        return self._result

    def _explore_from(
        self,
        recorded: CrashRun,
        origin: _Future,
        kinds: Kinds,
        then: Kinds = (),
        part: tuple[int, int] = (0, 1),
    ) -> None:
        """Run every future with one more fault than a recorded run, `then` with another one."""
        known = KnownFutures(not self._compares_times)
        groups: dict[Hashable, int] = {}
        findings = self._result.findings
        for future in _futures(recorded, origin, kinds):
            if len(findings) >= self._findings_max:
                return
            group = future.group(self._time_matters)
            if groups.setdefault(group, len(groups)) % part[1] != part[0]:
                continue
            run = self._start(future, group, known, keep_crash_points=bool(then))
            if run is None:
                self._result.duplicates += 1
                continue
            before, spare_before = len(findings), self._spare_seconds
            self._spare_seconds = inf
            self._run(future.schedule, run)
            if then and not run.injector.pending:
                self._explore_from(run, future, then)
            ended_well = len(findings) == before
            known.end(self._spare_seconds if ended_well else None, _checks(future.schedule))
            self._spare_seconds = min(spare_before, self._spare_seconds)
            run.world.discard()

    def _start(
        self, future: _Future, group: Hashable, known: KnownFutures, keep_crash_points: bool = False
    ) -> CrashRun | None:
        """The run of a future; None when one with the same beginning or recovery was run."""
        schedule, snapshot = future
        injected = 0 if snapshot is None else snapshot.processes  # each kill starts a process
        begins_here = snapshot is not None and not schedule[injected:]
        kind = schedule[-1].kind
        is_known = partial(known.holds, group, kind, _checks(schedule))
        if snapshot is not None and begins_here and self._compares_times:
            time, contents = snapshot.beginning
            if is_known(Beginning(time, (kind, contents))):
                return None
        run = CrashRun(
            self._spec,
            schedule[injected:],
            snapshot=snapshot,
            killed_by=schedule[injected - 1].kind if injected else None,
            keep_crash_points=keep_crash_points,
            check_operations=self._check_operations,
        )
        if not begins_here:
            return run
        questions = [run.beginning]
        if not (keep_crash_points or self._check_operations):  # the recovery itself counts then
            questions.append(run.recovery)
        for ask in questions:
            answer = ask()
            if answer is None:
                break
            if is_known(answer):
                run.world.discard()
                return None
        return run

    def _run(self, schedule: FaultSchedule, run: CrashRun) -> None:
        outcome = run.run()
        self._result.futures += 1
        if self._result.futures % _FUTURES_PER_COLLECTION == 0:
            gc.collect(1)
        self._result.injected += not run.injector.pending
        baseline = _Baseline(self._base, self._base_ended_at)
        violations = _violations(self._spec, schedule, run, outcome, baseline)
        spare_seconds = _latest_end(self._spec, schedule, baseline) - (run.ended_at or inf)
        self._spare_seconds = min(self._spare_seconds, spare_seconds)
        if violations:
            finding = Finding(schedule, violations, tuple(run.trace))
            self._result.findings.append(finding)


class _Baseline(NamedTuple):
    """What the run without faults has left, and when it ended, in seconds."""

    outcome: Outcome
    ended_at: float


def _violations(
    spec: ExplorationSpec,
    schedule: FaultSchedule,
    run: CrashRun,
    outcome: Outcome,
    baseline: _Baseline,
) -> tuple[Violation, ...]:
    """Of all invariants; after an operator's cancel it ends otherwise than the baseline run."""
    if _is_cancelled(schedule):
        return outcome.violations
    lost_calls_of_runs = _NOT_CALLS_OF_A_RUN.isdisjoint(run.injector.lost_calls)
    observed = RecoveryObservation(
        outcome.differences(baseline.outcome),
        outcome.run_ends,
        baseline.outcome.run_ends,
        run.ended_at,
        _latest_end(spec, schedule, baseline),
        baseline.ended_at,
        restarted_at_once=only_of(schedule, RESTARTS),
        only_lost_calls=only_of(schedule, NETWORK) and lost_calls_of_runs,
        read_errors=partial(_errors, run),
    )
    return outcome.violations + tuple(find_violations(RECOVERY_INVARIANTS, observed))


def _errors(run: CrashRun) -> dict[str, str]:
    """Line and text of the errors of a run, by how the run of the task ended."""
    failures = [each for history in run.world.histories() for each in failed_runs(history)]
    return {f"failed {each.name}": each.text for each in reversed(failures)}


def _latest_end(spec: ExplorationSpec, schedule: FaultSchedule, baseline: _Baseline) -> float:
    """By when all tasks must have ended, in seconds."""
    faults = len(schedule)
    leases_seconds = faults * _LEASES_LOST_MAX * spec.lease_seconds
    return (1 + faults) * baseline.ended_at + leases_seconds


def _checks(schedule: FaultSchedule) -> int:
    """How much is demanded of a future after kills: more when every worker is restarted at once."""
    return int(only_of(schedule, RESTARTS))


def _is_cancelled(schedule: FaultSchedule) -> bool:
    return any(fault.kind is FaultKind.CANCEL for fault in schedule)


def _futures(run: CrashRun, origin: _Future, kinds: Kinds) -> Iterator[_Future]:
    """Every future with one more fault in the last process of a recorded run."""
    alone = only_of(origin.schedule, KILLS)  # no other process lives: a snapshot is everything
    for snapshot in run.snapshots:
        for kind in kinds:
            if kind in KILLS:
                schedule = (*origin.schedule, InjectedFault(kind, snapshot.crash_point))
                yield _Future(schedule, snapshot if alone else origin.snapshot)
    for number, point in enumerate(run.crash_points, start=1):
        for kind in kinds:
            if kind not in KILLS and _makes_a_difference(kind, point):
                yield _Future((*origin.schedule, InjectedFault(kind, number)), origin.snapshot)


def _makes_a_difference(kind: FaultKind, point: CrashPoint) -> bool:
    """Whether a fault other than a kill differs here from the same one at a point nearby."""
    is_before, is_call = point.phase is BEFORE, point.effect.kind == "call"
    match kind:
        case FaultKind.CANCEL | FaultKind.TERM | FaultKind.TERM_NOW:
            return is_before
        case FaultKind.REFUSED:
            return is_call and is_before
        case FaultKind.REPLY_LOST:
            return is_call and not is_before
        case _:  # a process that has just learned that it may go on
            return is_before or point.effect.name == "extend_claim"
