"""Every future ends well: each crash point of the pipeline and of a handler with everything."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from typing import Any

import pytest

from absurd_contimg.backends.memory import catalog
from absurd_contimg.backends.memory.procedures import runs
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.errors import LeaseLost
from absurd_contimg.simulation.exploration.crash_run import CrashRun
from absurd_contimg.simulation.exploration.example_workflows import everything_spec
from absurd_contimg.simulation.exploration.exploration_spec import ExplorationSpec, Job
from absurd_contimg.simulation.exploration.explorer import baseline, explore, replay
from absurd_contimg.simulation.exploration.parallel_exploration import (
    ExplorationPlan,
    explore_on_cores,
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
    HandlerWorkers,
    PipelineWorkers,
    WorkerTerms,
)
from absurd_contimg.simulation.model.world import outside

from .example_specs import failing_spec, pipeline_spec


def test_pipeline_ends_well_after_every_single_fault() -> None:
    found = explore(pipeline_spec()).check()
    assert found.effects > 100
    assert found.futures == found.injected > 800
    assert any("rename, before" in one for one in found.crash_points)


def test_pipeline_gets_through_with_a_slow_database() -> None:
    """A call in flight is not given up at a fence that an extension has moved meanwhile."""
    outcome, (history,) = baseline(pipeline_spec(horizon_seconds=20_000.0, reply_seconds=15.0))
    assert outcome.violations == ()
    assert [run.state for run in history.runs] == ["completed"]


def test_lost_reply_to_a_checkpoint_is_recognised_and_not_repeated() -> None:
    """Found by the campaign of real faults: the same state was written once more."""

    def writes(plan: FaultSchedule) -> int:
        crash_run = CrashRun(spec, spec.initial_state(), plan)
        crash_run.run()
        assert not crash_run.todo
        names = [one.procedure for one in crash_run.world.state.database.timeline]
        return names.count("set_task_checkpoint_state")

    spec = pipeline_spec()
    base = CrashRun(spec, spec.initial_state(), (), record=True)
    base.run()
    saves = [
        moment
        for moment, crash_point in enumerate(base.crash_points, start=1)
        if crash_point == f"call set_task_checkpoint_state, {EffectPhase.COMMITTED.value}"
    ]
    assert {writes((InjectedFault(FaultKind.REPLY_LOST, moment),)) for moment in saves} == {
        writes(())
    }


def test_handler_ends_well_after_every_single_fault() -> None:
    found = explore(everything_spec()).check()
    assert found.futures == found.injected > 150
    assert any("await_event" in one for one in found.crash_points)


def test_kills_end_well_in_another_order_of_ready_callbacks() -> None:
    explore(everything_spec(shuffle_seed=1), faults=[FaultKind.KILL]).check()


def test_invariants_hold_after_every_operation_and_not_only_at_the_end() -> None:
    explore(
        everything_spec(), faults=[FaultKind.KILL_OTHER, FaultKind.REPLY_LOST], watch=True
    ).check()


def test_what_is_wrong_only_for_a_while_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that sleeps while its task runs: once both have ended, all looks well."""

    def sleeping(tx: Any, queue: Any, run_id: Any, wake_at: Any) -> None:
        runs = catalog.runs(tx, queue)
        run = runs.get(tx, run_id)
        runs.put(tx, run_id, run._replace(state="pending", claimed_by=None, available_at=wake_at))

    monkeypatch.setattr(runs, "schedule_run", sleeping)  # the task still says "running"
    with pytest.raises(AssertionError, match=r"task_and_last_run_agree: .*after schedule_run"):
        explore(everything_spec(), faults=())


def one_step(params: Any, ctx: TaskContext) -> Any:
    async def charge() -> str:
        await outside("charge")
        return "done"

    return ctx.step("charge", charge)


def small(handler: Any) -> ExplorationSpec:
    return ExplorationSpec(
        HandlerWorkers({"default": {"task": handler}}), [Job("default", "task", {})]
    )


def test_effects_are_numbered_by_kind_and_moment() -> None:
    found = explore(small(one_step), faults=()).check()
    names = [one for one in found.crash_points if one.startswith("own")]
    assert names == ["own charge, before", "own charge, committed, not yet told"]
    assert len(found.crash_points) == 2 * found.effects


def test_pairs_are_explored_from_each_recovery() -> None:
    single = explore(small(one_step), faults=KILLS).check()
    double = explore(small(one_step), faults=KILLS, pairs=True).check()
    assert double.futures > 5 * single.futures


@pytest.mark.parametrize("spec", [pipeline_spec(), everything_spec()])
def test_futures_that_begin_with_the_same_state_are_the_same(spec: ExplorationSpec) -> None:
    """They are left out, so each one that would be is run here beside the one that is run."""
    base = CrashRun(spec, spec.initial_state(), (), record=True)
    base.run()
    lives = defaultdict(list)
    for snapshot in base.snapshots:
        for fault in KILLS:
            dead = InjectedFault(fault, snapshot.moment)
            crash_run = CrashRun(
                spec, snapshot.state.fork(), (), after=snapshot, dead=dead, trace=True
            )
            lives[crash_run.beginning()].append(crash_run)
    lives.pop(None, None)
    several = [each for each in lives.values() if len(each) > 1]
    assert several
    for first, *others in several:
        outcome, told = first.run(), repr(first.world.histories())
        for other in others:
            assert other.run() == outcome
            assert repr(other.world.histories()) == told
            assert other.trace == first.trace


def test_shares_try_together_what_one_process_tries() -> None:
    """And whoever goes on after some of them tries the rest."""
    faults = (FaultKind.KILL, FaultKind.REPLY_LOST)
    whole = explore(everything_spec(), faults=faults)
    counts: list[int] = []
    found = explore_on_cores(
        everything_spec,
        ExplorationPlan(faults),
        1,
        lambda _done, _of, so_far: counts.append(so_far.futures),
    )
    assert (found.futures, found.duplicates) == (whole.futures, whole.duplicates)
    assert found.duplicates > 0
    rest = explore_on_cores(everything_spec, ExplorationPlan(faults), 1, after=5)
    assert rest.futures == whole.futures - counts[4]


@pytest.mark.parametrize("plan", ["pause@31,pause@1", "pause@31,pause@17", "pause@33,pause@37"])
def test_of_two_zombies_both_wake(plan: str) -> None:
    """Found by exploring pairs: the first slept for ever, and what it had in scratch stayed.

    In the second plan both stand still in the middle of a rename, one inside of the other; in the
    third the first has just been woken, and cannot go on before the second does.
    """
    found = replay(pipeline_spec(), parse_schedule(plan))
    assert found.violations == ()
    assert len([line for line in found.trace if line.endswith(": wakes")]) == 2


async def forgetful(_params: Any, ctx: TaskContext) -> Any:
    """What it returns depends on how often it was started."""
    return {"attempt": ctx.attempt}


def test_a_handler_whose_result_depends_on_the_crash_is_found_and_replayed() -> None:
    spec = small(forgetful)
    found = explore(spec, faults=KILLS)
    with pytest.raises(AssertionError, match="same_end_as_baseline"):
        found.check()
    plan = ",".join(map(str, found.findings[0].schedule))
    again = replay(spec, parse_schedule(plan))
    assert again.violations == found.findings[0].violations
    assert any("complete_run" in line for line in again.trace)


def test_a_broken_undisturbed_run_is_no_yardstick() -> None:
    async def hangs(_params: Any, ctx: TaskContext) -> Any:
        return await ctx.await_event("never")

    spec = dataclasses.replace(small(hangs), horizon_seconds=1000.0)
    with pytest.raises(AssertionError, match="baseline run is wrong"):
        explore(spec)


def test_keeper_that_starts_late_keeps_to_the_claims_time() -> None:
    """Found by exploring: a worker stopped between the start record and the keeper's first step.

    When it wakes after its lease, the keeper first sleeps a third of a lease, and the stage runs
    beside another worker's. The same holds without a pause when reading the checkpoints took
    most of the lease because the database was away.
    """
    spec = pipeline_spec(PipelineWorkers(terms=WorkerTerms(poll_interval_seconds=5.0)))
    again = replay(spec, parse_schedule("pause@11"))
    assert again.violations == ()


def test_one_lost_call_costs_a_step_no_attempt() -> None:
    """Found by exploring: reading the time before a start is not repeated when it gets no answer.

    The failure of that one call is charged to the step. Here the step had failed twice, as it
    may, and the group is failed for good because the database once hiccuped.
    """
    spec = failing_spec("passes")
    crash_points = explore(spec, faults=()).crash_points
    starts = [n for n, one in enumerate(crash_points, 1) if one == "call current_time, before"]
    futures = [replay(spec, (InjectedFault(FaultKind.REFUSED, moment),)) for moment in starts]
    assert [str(one) for one in futures if one.violations] == []


def test_every_kind_of_fault_is_tried() -> None:
    assert len(ALL_FAULTS) == 9
    assert issubclass(LeaseLost, BaseException)
