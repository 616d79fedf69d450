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
from absurd_contimg.simulation.exploration.crash_run import (
    EVERY_BLOW,
    KILLS,
    Blow,
    Life,
    Plan,
    Strike,
    parse_plan,
)
from absurd_contimg.simulation.exploration.example_workflows import everything_setup
from absurd_contimg.simulation.exploration.exploration_spec import Job, Setup
from absurd_contimg.simulation.exploration.explorer import explore, replay, undisturbed
from absurd_contimg.simulation.exploration.parallel_exploration import Hunt, explore_on_cores
from absurd_contimg.simulation.model.effect_gateway import Moment
from absurd_contimg.simulation.model.worker_factory import HandlerCrew, PipelineCrew, WorkerTerms
from absurd_contimg.simulation.model.world import outside

from .worlds import failing_setup, pipeline_setup


def test_every_single_blow_to_the_pipeline_ends_well() -> None:
    found = explore(pipeline_setup()).check()
    assert found.effects > 100
    assert found.futures == found.struck > 800
    assert any("rename, before" in one for one in found.landmarks)


def test_pipeline_gets_through_with_a_slow_database() -> None:
    """A call in flight is not given up at a fence that an extension has moved meanwhile."""
    outcome, (history,) = undisturbed(pipeline_setup(horizon_seconds=20_000.0, reply_seconds=15.0))
    assert outcome.violations == ()
    assert [run.state for run in history.runs] == ["completed"]


def test_lost_reply_to_a_checkpoint_is_recognised_and_not_repeated() -> None:
    """Found by the campaign of real faults: the same state was written once more."""

    def writes(plan: Plan) -> int:
        life = Life(setup, setup.initial_state(), plan)
        life.run()
        assert not life.todo
        names = [one.procedure for one in life.world.state.database.timeline]
        return names.count("set_task_checkpoint_state")

    setup = pipeline_setup()
    base = Life(setup, setup.initial_state(), (), record=True)
    base.run()
    saves = [
        moment
        for moment, landmark in enumerate(base.landmarks, start=1)
        if landmark == f"call set_task_checkpoint_state, {Moment.COMMITTED.value}"
    ]
    assert {writes((Strike(Blow.REPLY_LOST, moment),)) for moment in saves} == {writes(())}


def test_every_single_blow_to_a_handler_with_everything_ends_well() -> None:
    found = explore(everything_setup()).check()
    assert found.futures == found.struck > 150
    assert any("await_event" in one for one in found.landmarks)


def test_kills_end_well_in_another_order_of_ready_callbacks() -> None:
    explore(everything_setup(shuffle_seed=1), blows=[Blow.KILL_RESTART]).check()


def test_invariants_hold_after_every_operation_and_not_only_at_the_end() -> None:
    explore(everything_setup(), blows=[Blow.KILL_OTHER, Blow.REPLY_LOST], watch=True).check()


def test_what_is_wrong_only_for_a_while_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that sleeps while its task runs: once both have ended, all looks well."""

    def sleeping(tx: Any, queue: Any, run_id: Any, wake_at: Any) -> None:
        runs = catalog.runs(tx, queue)
        run = runs.get(tx, run_id)
        runs.put(tx, run_id, run._replace(state="pending", claimed_by=None, available_at=wake_at))

    monkeypatch.setattr(runs, "schedule_run", sleeping)  # the task still says "running"
    with pytest.raises(AssertionError, match=r"task_and_last_run_agree: .*after schedule_run"):
        explore(everything_setup(), blows=())


def one_step(params: Any, ctx: TaskContext) -> Any:
    async def charge() -> str:
        await outside("charge")
        return "done"

    return ctx.step("charge", charge)


def small(handler: Any) -> Setup:
    return Setup(HandlerCrew({"default": {"task": handler}}), [Job("default", "task", {})])


def test_effects_are_numbered_by_kind_and_moment() -> None:
    found = explore(small(one_step), blows=()).check()
    names = [one for one in found.landmarks if one.startswith("own")]
    assert names == ["own charge, before", "own charge, committed, not yet told"]
    assert found.moments == 2 * found.effects


def test_pairs_are_explored_from_each_recovery() -> None:
    single = explore(small(one_step), blows=KILLS).check()
    double = explore(small(one_step), blows=KILLS, pairs=True).check()
    assert double.futures > 5 * single.futures


@pytest.mark.parametrize("setup", [pipeline_setup(), everything_setup()])
def test_futures_that_begin_with_the_same_state_are_the_same(setup: Setup) -> None:
    """They are left out, so each one that would be is run here beside the one that is run."""
    base = Life(setup, setup.initial_state(), (), record=True)
    base.run()
    lives = defaultdict(list)
    for snapshot in base.snapshots:
        for blow in KILLS:
            dead = Strike(blow, snapshot.moment)
            life = Life(setup, snapshot.state.fork(), (), after=snapshot, dead=dead, trace=True)
            lives[life.beginning()].append(life)
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
    blows = (Blow.KILL_RESTART, Blow.REPLY_LOST)
    whole = explore(everything_setup(), blows=blows)
    counts: list[int] = []
    found = explore_on_cores(
        everything_setup, Hunt(blows), 1, lambda _done, _of, so_far: counts.append(so_far.futures)
    )
    assert (found.futures, found.same) == (whole.futures, whole.same)
    assert found.same > 0
    rest = explore_on_cores(everything_setup, Hunt(blows), 1, after=5)
    assert rest.futures == whole.futures - counts[4]


@pytest.mark.parametrize(
    "plan", ["zombie@31,zombie@1", "zombie@31,zombie@17", "zombie@33,zombie@37"]
)
def test_of_two_zombies_both_wake(plan: str) -> None:
    """Found by exploring pairs: the first slept for ever, and what it had in scratch stayed.

    In the second plan both stand still in the middle of a rename, one inside of the other; in the
    third the first has just been woken, and cannot go on before the second does.
    """
    found = replay(pipeline_setup(), parse_plan(plan))
    assert found.violations == ()
    assert len([line for line in found.trace if line.endswith(": wakes")]) == 2


async def forgetful(_params: Any, ctx: TaskContext) -> Any:
    """What it returns depends on how often it was started."""
    return {"attempt": ctx.attempt}


def test_a_handler_whose_result_depends_on_the_crash_is_found_and_replayed() -> None:
    setup = small(forgetful)
    found = explore(setup, blows=KILLS)
    with pytest.raises(AssertionError, match="same_end_as_undisturbed"):
        found.check()
    plan = ",".join(map(str, found.findings[0].plan))
    again = replay(setup, parse_plan(plan))
    assert again.violations == found.findings[0].violations
    assert any("complete_run" in line for line in again.trace)


def test_a_broken_undisturbed_run_is_no_yardstick() -> None:
    async def hangs(_params: Any, ctx: TaskContext) -> Any:
        return await ctx.await_event("never")

    setup = dataclasses.replace(small(hangs), horizon_seconds=1000.0)
    with pytest.raises(AssertionError, match="undisturbed run is wrong"):
        explore(setup)


def test_keeper_that_starts_late_keeps_to_the_claims_time() -> None:
    """Found by exploring: a worker stopped between the start record and the keeper's first step.

    When it wakes after its lease, the keeper first sleeps a third of a lease, and the stage runs
    beside another worker's. The same holds without a zombie when reading the checkpoints took
    most of the lease because the database was away.
    """
    setup = pipeline_setup(PipelineCrew(terms=WorkerTerms(poll_interval_seconds=5.0)))
    again = replay(setup, parse_plan("zombie@11"))
    assert again.violations == ()


def test_one_lost_call_costs_a_step_no_attempt() -> None:
    """Found by exploring: reading the time before a start is not repeated when it gets no answer.

    The failure of that one call is charged to the step. Here the step had failed twice, as it
    may, and the group is failed for good because the database once hiccuped.
    """
    setup = failing_setup("passes")
    landmarks = explore(setup, blows=()).landmarks
    starts = [n for n, one in enumerate(landmarks, 1) if one == "call current_time, before"]
    futures = [replay(setup, (Strike(Blow.REFUSED, moment),)) for moment in starts]
    assert [str(one) for one in futures if one.violations] == []


def test_every_blow_is_tried() -> None:
    assert len(EVERY_BLOW) == 9
    assert issubclass(LeaseLost, BaseException)
