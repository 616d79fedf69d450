"""Every future ends well, for each crash point of the pipeline and of a handler."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator
from itertools import product
from typing import Any
from weakref import ref

import pytest
from search_extent import is_search, some_of

from absurd_contimg.backends.memory import catalog
from absurd_contimg.backends.memory.procedures import runs
from absurd_contimg.core import lost_leases
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.worker import Worker
from absurd_contimg.history.invariants.check import Violation
from absurd_contimg.simulation.campaign.campaign import digest_of
from absurd_contimg.simulation.exploration import explorer
from absurd_contimg.simulation.exploration.crash_run import CrashRun, Snapshot
from absurd_contimg.simulation.exploration.example_workflows import everything_spec, pipeline_spec
from absurd_contimg.simulation.exploration.exploration_spec import ExplorationSpec, Job
from absurd_contimg.simulation.exploration.explorer import (
    FINDINGS_MAX,
    Exploration,
    baseline,
    explore,
    explore_on_cores,
    replay,
)
from absurd_contimg.simulation.model.effect_gateway import EffectPhase
from absurd_contimg.simulation.model.faults import (
    ALL_FAULTS,
    KILLS,
    FaultKind,
    FaultSchedule,
    InjectedFault,
    parse_schedule,
)
from absurd_contimg.simulation.model.worker_factory import (
    SETTINGS,
    HandlerWorkers,
    PipelineWorkers,
)
from absurd_contimg.simulation.model.world import outside, without_logs_and_gc

from .example_specs import failing_spec


def test_pipeline_ends_well_after_every_single_fault() -> None:
    """`make test` takes a quarter of them, `make search` and `contimg explore` all."""
    kinds, parts = (ALL_FAULTS, 1) if is_search() else (ALL_FAULTS[::2], 2)
    exploration = ends_well(explore(pipeline_spec(), faults=kinds, part=(0, parts)))
    assert exploration.effects > 100
    assert exploration.futures == exploration.injected > 80 / parts * len(kinds)
    assert "file rename, before" in names(exploration)


def ends_well(exploration: Exploration) -> Exploration:
    """The exploration, in which no future has a violation."""
    assert list(map(str, exploration.findings)) == []
    return exploration


def names(exploration: Exploration) -> list[str]:
    """The crash points of the baseline run as text; their numbers are the positions from 1."""
    return [str(point) for point in exploration.crash_points]


def test_pipeline_ends_well_with_a_slow_database() -> None:
    """A call in flight is not abandoned at a deadline that an extension has moved meanwhile."""
    outcome, (history,) = baseline(pipeline_spec(horizon_seconds=20_000.0, reply_seconds=15.0))
    assert outcome.violations == ()
    assert [run.state for run in history.runs] == ["completed"]


def test_checkpoint_whose_reply_is_lost_is_not_written_again() -> None:
    """Found by the campaign of real faults: the same state was written once more."""

    def writes(schedule: FaultSchedule) -> int:
        run = CrashRun(spec, schedule)
        run.run()
        assert not run.injector.pending
        procedures = [operation.procedure for operation in run.world.state.database.timeline]
        return procedures.count("set_task_checkpoint_state")

    spec = pipeline_spec()
    committed = EffectPhase.COMMITTED.value
    counts = {
        writes((InjectedFault(FaultKind.REPLY_LOST, number),))
        for number, name in enumerate(names(explore(spec, faults=())), start=1)
        if name.startswith("call set_task_checkpoint_state") and name.endswith(committed)
    }
    assert counts == {writes(())}


def test_handler_ends_well_after_every_single_fault() -> None:
    """`make test` takes the kinds of fault that the pipeline's exploration leaves out."""
    kinds = ALL_FAULTS if is_search() else ALL_FAULTS[1::2]
    exploration = ends_well(explore(everything_spec(), faults=kinds))
    assert exploration.futures == exploration.injected > 20 * len(kinds)
    assert any("await_event" in name for name in names(exploration))


def test_kills_end_well_in_another_order_of_ready_callbacks() -> None:
    ends_well(explore(everything_spec(shuffle_seed=1), faults=[FaultKind.KILL]))


def test_invariants_hold_after_every_operation() -> None:
    faults = [FaultKind.KILL_OTHER, FaultKind.REPLY_LOST]
    ends_well(explore(everything_spec(), faults=faults, check_operations=True))


def test_violation_that_passes_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that sleeps while its task runs: once both have ended, nothing shows it."""

    def schedule_run(tx: Any, queue: Any, run_id: Any, wake_at: Any) -> None:
        table = catalog.runs(tx, queue)
        run = table.rows[run_id]
        table.update(tx, run, state="pending", claimed_by=None, available_at=wake_at)

    monkeypatch.setattr(runs, "schedule_run", schedule_run)  # the task still says "running"
    with pytest.raises(AssertionError, match=r"task_and_last_run_agree: .*after schedule_run"):
        explore(everything_spec(), faults=())


def one_step(params: Any, ctx: TaskContext) -> Any:
    async def charge() -> str:
        await outside("charge")
        return "done"

    return ctx.step("charge", charge)


def spec_of(handler: Any) -> ExplorationSpec:
    workers = HandlerWorkers({"default": {"task": handler}})
    return ExplorationSpec(workers, [Job("default", "task", {})])


@pytest.mark.parametrize("schedule", ["pause@43,pause@24,pause@24,pause@24", "outage@48"])
def test_lost_leases_of_living_workers_are_no_deaths(
    schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as would be poison, in the same step; without the notes it is."""
    spec = pipeline_spec()
    assert replay(spec, parse_schedule(schedule)).violations == ()

    async def nothing(*_arguments: Any) -> None: ...

    monkeypatch.setattr(lost_leases, "_save", nothing)
    (violation, *_) = replay(spec, parse_schedule(schedule)).violations
    assert violation.invariant == "same_end_as_baseline"


def test_a_lease_may_be_lost_before_the_first_start_is_saved() -> None:
    """The note of the loss looked for a start that was not there, and ended the worker."""
    points = names(explore(pipeline_spec(), faults=()))
    point = next(n for n, name in enumerate(points) if "set_task_checkpoint_state" in name)
    assert replay(pipeline_spec(), parse_schedule(f"outage@{point + 1}")).violations == ()


def test_pipeline_ends_well_after_outages_at_each_crash_point() -> None:
    """A part of the crash points; all of them: ``contimg explore --first outage``."""
    exploration = ends_well(explore(pipeline_spec(), faults=[FaultKind.OUTAGE], part=(0, 10)))
    assert exploration.futures == exploration.injected > 10


def test_every_effect_has_two_crash_points() -> None:
    exploration = ends_well(explore(spec_of(one_step), faults=()))
    own = [name for name in names(exploration) if name.startswith("own")]
    assert own == ["own charge, before", "own charge, committed, reply pending"]
    assert len(exploration.crash_points) == 2 * exploration.effects


def test_pairs_are_explored_from_each_recovery() -> None:
    single = ends_well(explore(spec_of(one_step), faults=KILLS))
    double = ends_well(explore(spec_of(one_step), faults=KILLS, second_faults=KILLS))
    assert double.futures > 5 * single.futures


@pytest.mark.parametrize("spec", [pipeline_spec(), everything_spec()])
def test_futures_with_the_same_beginning_are_the_same(spec: ExplorationSpec) -> None:
    """The explorer leaves them out; here each of them is run beside the one that it runs."""
    base = CrashRun(spec, keep_crash_points=True)
    base.run()
    runs = defaultdict(list)
    for snapshot in base.snapshots:
        for kind in KILLS:
            run = CrashRun(spec, snapshot=snapshot, killed_by=kind, trace_effects=True)
            runs[run.beginning()].append(run)
    runs.pop(None, None)
    duplicates = [same for same in runs.values() if len(same) > 1]
    assert duplicates
    for first, *others in some_of(duplicates, 3):
        outcome, histories = first.run(), digest_of(first.world.histories())
        for other in others:
            assert other.run() == outcome
            assert digest_of(other.world.histories()) == histories
            assert other.trace == first.trace


def test_world_that_has_ended_is_freed_at_once() -> None:
    """An exploration does without Python's cycle collector, which takes a tenth of the time."""
    with without_logs_and_gc():
        run = CrashRun(pipeline_spec())
        run.run()
        run.world.discard()
        world, state = run.world, run.world.state
        parts = [ref(run), ref(world), ref(state.database), ref(state.disk), ref(state.registry)]
        del run, world, state
        assert [part() for part in parts] == [None] * len(parts)


def test_parts_run_together_what_one_process_runs() -> None:
    """And an exploration that continues after some parts runs the rest."""
    kinds = (FaultKind.KILL,)
    whole = explore(everything_spec(), faults=kinds)
    counts: list[int] = []
    total = explore_on_cores(
        everything_spec, kinds, (), 1, lambda _part, _parts, sum_: counts.append(sum_.futures)
    )
    assert (total.futures, total.duplicates) == (whole.futures, whole.duplicates)
    assert total.duplicates > 0
    rest = explore_on_cores(everything_spec, kinds, (), 1, after=5)
    assert rest.futures == whole.futures - counts[4]


def every_kill(spec: ExplorationSpec) -> Iterator[tuple[Snapshot, FaultKind]]:
    """Each kind of kill at each state of a run without a fault."""
    base = CrashRun(spec, keep_crash_points=True)
    base.run()
    return product(base.snapshots, KILLS)


def test_the_futures_after_one_recovery_are_the_same() -> None:
    """A lease that was just extended makes no difference once the dead worker's run is released."""
    spec = pipeline_spec()
    runs = defaultdict(list)
    for snapshot, kind in every_kill(spec):
        run = CrashRun(spec, snapshot=snapshot, killed_by=kind)
        beginning, recovery = run.beginning(), run.recovery()
        if beginning is not None and recovery is not None:
            runs[kind, recovery].append((beginning, run))
    by_recovery = [same for same in runs.values() if len(dict(same)) > 1]
    assert len(by_recovery) > 40
    for (_, first), *others in some_of(by_recovery, 6):
        outcome, histories = first.run(), digest_of(first.world.histories())
        for _, other in others:
            assert other.run() == outcome
            assert digest_of(other.world.histories()) == histories


def test_futures_of_kills_at_two_times_are_the_same() -> None:
    """But for the time between: where time does not matter, the explorer runs one of them."""
    spec = pipeline_spec()
    runs = defaultdict(list)
    for snapshot, kind in every_kill(spec):
        contents = CrashRun(spec, snapshot=snapshot, killed_by=kind).beginning()
        runs[kind, contents and contents.contents].append((snapshot, kind))
    at_two_times = [same for same in runs.values() if len({each.time for each, _ in same}) > 1]
    assert len(at_two_times) > 30
    for (snapshot, kind), *others in some_of(at_two_times, 8):
        ends = ended_after(spec, snapshot, kind)
        for other, _ in others:
            assert ended_after(spec, other, kind) == ends


def ended_after(spec: ExplorationSpec, snapshot: Snapshot, kind: FaultKind) -> Any:
    """What a kill leaves, and how long after it."""
    run = CrashRun(spec, snapshot=snapshot, killed_by=kind)
    outcome = run.run()
    assert run.ended_at is not None
    (history,) = run.world.histories()
    starts = [(each.started_at, each.state) for each in history.runs[1:]]
    assert all(start is not None for start, _ in starts)
    return outcome, round(run.ended_at - snapshot.time, 3), [state for _, state in starts]


def test_no_violation_is_lost_where_time_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """A future is left out for one at another time only if that has ended well."""

    def findings(time_matters: bool) -> list[tuple[str, list[str]]]:
        spec = pipeline_spec(time_matters=time_matters)
        exploration = explore(spec, faults=[FaultKind.KILL], findings_max=1000)
        return [
            (each.schedule_text, [violation.invariant for violation in each.violations])
            for each in exploration.findings
        ]

    async def nothing(_self: Any) -> None: ...

    monkeypatch.setattr(Worker, "_release_orphans", nothing)
    assert findings(time_matters=False) == findings(time_matters=True) != []


def test_every_kill_is_run_once_one_has_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake may depend on the time although nothing else does."""
    check = explorer._violations

    def late_kill_is_wrong(spec: Any, schedule: FaultSchedule, *others: Any) -> Any:
        wrong = (Violation("late", "made up"),) if schedule[0].crash_point > 270 else ()
        return check(spec, schedule, *others) + wrong

    few = explore(pipeline_spec(), faults=[FaultKind.KILL])
    monkeypatch.setattr(explorer, "_violations", late_kill_is_wrong)
    every = explore(pipeline_spec(), faults=[FaultKind.KILL])
    assert 0 < len(every.findings) < FINDINGS_MAX
    assert every.futures > 60 > few.futures


@pytest.mark.parametrize("schedule", ["pause@31,pause@1", "pause@31,pause@17", "pause@33,pause@37"])
def test_two_paused_processes_both_resume(schedule: str) -> None:
    """Found by exploring pairs: the first slept for ever, and its scratch folder stayed.

    In the second schedule both are paused in the middle of a rename, one inside of the other; in
    the third the first was just resumed, and cannot go on before the second does.
    """
    finding = replay(pipeline_spec(), parse_schedule(schedule))
    assert finding.violations == ()
    assert sum(line.endswith(": resumes") for line in finding.trace) == 2


async def forgetful(_params: Any, ctx: TaskContext) -> Any:
    """Its result depends on how often it was started."""
    return {"attempt": ctx.attempt}


def test_result_that_depends_on_the_crash_is_found_and_replayed() -> None:
    spec = spec_of(forgetful)
    exploration = explore(spec, faults=KILLS)
    finding = exploration.findings[0]
    assert "same_end_as_baseline" in str(finding)
    again = replay(spec, parse_schedule(finding.schedule_text))
    assert again.violations == finding.violations
    assert again.report.startswith("Faults: all were injected, and the run ended")
    assert "1 task with 0 checkpoints" in again.report
    assert "1 difference. 1 violation of invariants." in again.report
    assert replay(spec, parse_schedule("kill@1")).report.endswith(
        "All of it is the same. No invariant is violated."
    )
    assert any("complete_run" in line for line in again.trace)


def test_baseline_run_with_violations_is_refused() -> None:
    async def hangs(_params: Any, ctx: TaskContext) -> Any:
        return await ctx.await_event("never")

    spec = dataclasses.replace(spec_of(hangs), horizon_seconds=1000.0)
    with pytest.raises(AssertionError, match="baseline run is wrong"):
        explore(spec)


def test_heartbeats_that_start_late_keep_to_the_time_of_the_claim() -> None:
    """Found by exploring: a worker paused between its start record and the first heartbeat.

    When it resumes after its lease, the heartbeat first sleeps a third of a lease, and the stage
    runs beside another worker's. The same holds when reading the checkpoints took most of the
    lease because the database was away.
    """
    spec = pipeline_spec(PipelineWorkers(dataclasses.replace(SETTINGS, poll_interval_seconds=5.0)))
    assert replay(spec, parse_schedule("pause@11")).violations == ()


def test_lost_call_costs_a_step_no_attempt() -> None:
    """Found by exploring: reading the time before a start was not repeated without an answer.

    The failure of that one call was charged to the step. Here the step has failed twice, as it
    may, and the group failed for good because one call was lost.
    """
    spec = failing_spec("passes")
    starts = [
        number
        for number, name in enumerate(names(explore(spec, faults=())), start=1)
        if name == "call current_time, before"
    ]
    findings = [replay(spec, (InjectedFault(FaultKind.REFUSED, number),)) for number in starts]
    assert [str(finding) for finding in findings if finding.violations] == []
