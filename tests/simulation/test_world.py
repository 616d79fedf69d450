"""The simulated world: hosts, disks, clocks, network, telescope and operator."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from absurd_contimg.core.records import Json
from absurd_contimg.history.timeline import step_starts
from absurd_contimg.registry import GroupStatus
from absurd_contimg.registry.grouping import GROUP_WAIT_SECONDS
from absurd_contimg.simulation.campaign.campaign import Campaign, Run
from absurd_contimg.simulation.campaign.scenario import Scenario
from absurd_contimg.simulation.campaign.summary import RunSummary, summarize_run
from absurd_contimg.simulation.campaign.telescope import SUB_BANDS, SUB_BANDS_MIN, draw_observations
from absurd_contimg.simulation.exploration.crash_run import CrashRun
from absurd_contimg.simulation.exploration.exploration_spec import ExplorationSpec, Job
from absurd_contimg.simulation.model.faults import TIMED_KINDS, TimedFault, parse_timed_faults
from absurd_contimg.simulation.model.stage_model import GIB, StageModel
from absurd_contimg.simulation.model.worker_factory import PipelineWorkers, pipeline_params
from absurd_contimg.simulation.model.world import EPOCH, State, World
from absurd_contimg.simulation.runtime.kernel import HostClock
from absurd_contimg.workflows.group import TASK_NAME

HOUR = 1 / 24


def run(trace: Any = None, /, **parts: Json) -> Run:
    """A short campaign, in which no invariant is broken."""
    scenario = Scenario.model_validate({"name": "short", "days": HOUR, **parts})
    done = Campaign(scenario, seed=1, trace=trace).run()
    assert [str(violation) for violation in done.violations] == []
    return done


def summary(**parts: Json) -> RunSummary:
    return summarize_run(run(**parts), "")


# -- hosts and disks ----------------------------------------------------------------------


def test_workers_on_one_core_wait_for_each_other() -> None:
    many = summary(workers={"count": 4, "cores_per_host": 4})
    first = summary(workers={"count": 4, "cores_per_host": 1})
    assert first.latency_max > 2 * many.latency_max
    assert first.completed == many.completed


def test_stage_that_does_not_fit_into_memory_is_killed_and_another_finds_room() -> None:
    """Two conversions of 4 GiB side by side do not fit into 6 GiB."""
    tight = summary(workers={"count": 2, "memory_bytes_per_host": 6 * GIB + 1})
    assert tight.failures.get("transient", 0) > 0
    assert tight.failures == {"transient": tight.failures["transient"]}


def test_memory_that_is_never_enough_fails_the_task_and_says_so() -> None:
    none = run(workers={"count": 1, "memory_bytes_per_host": 3 * GIB})
    ends = {history.task.state for history in none.histories}
    rules = {history.runs[-1].failure_reason["rule"] for history in none.histories}  # type: ignore[index,call-overload]
    assert (ends, rules) == ({"failed"}, {"killed"})


def test_slow_disk_makes_stages_longer() -> None:
    """A group writes 8.8 GB; at 20 MB/s that is 440 s, and two workers share the disk."""
    fast = summary(workers={"count": 2})
    plenty = summary(workers={"count": 2}, disk={"bandwidth_bytes_per_second": 1e12})
    slow = summary(workers={"count": 2}, disk={"bandwidth_bytes_per_second": 2e7})
    assert plenty.latency_p50 == pytest.approx(fast.latency_p50, abs=1.0)
    assert slow.latency_p50 > 1.3 * fast.latency_p50


def test_work_waits_for_space_that_others_take_and_says_why() -> None:
    """The journal of a simulated task names kind, rule, path, advice and the next try."""
    filled = run(faults={"disk_fills": [[600.0, 1200.0]]})
    assert {history.task.state for history in filled.histories} == {"completed"}
    starts = [start for history in filled.histories for start in step_starts(history)]
    waits = [start for start in starts if start.outcome == "waiting"]
    assert waits
    for wait in waits:
        noted = wait.noted
        assert noted is not None
        assert (noted.kind, noted.rule, noted.evidence["errno"]) == ("resource", "disk-full", 28)
        assert str(noted.path).startswith("/")
        assert "Free space" in str(noted.advice)
        assert noted.until is not None
        assert noted.until - wait.started_at >= timedelta(seconds=60)
    assert filled.effective == {"fill": 1}


# -- clocks -------------------------------------------------------------------------------


def test_clocks_that_differ_by_an_hour_change_nothing() -> None:
    """No host ever compares its own clock with another's, or with the database's."""
    kills: dict[str, Json] = {"worker_kills_per_day": 48, "worker_pauses_per_day": 48}
    agreed = run(workers={"count": 4, "hosts": 2}, faults=kills)
    skewed = run(workers={"count": 4, "hosts": 2, "clock_skew_seconds": 3600.0}, faults=kills)
    assert sum(agreed.effective.values()) > 0
    rounded = [_story(item) for item in (agreed, skewed)]
    assert rounded[0] == rounded[1]


def _story(done: Run) -> list[tuple[Any, ...]]:
    """Floating point shifts a moment by less than a microsecond when a clock is ahead."""
    return [
        (history.task.idempotency_key, r.attempt, r.state, r.claimed_by, str(r.started_at)[:19])
        for history in done.histories
        for r in history.runs
    ]


@pytest.mark.parametrize("drift", [-0.02, 0.02])
def test_clock_that_runs_wrong_by_two_percent_breaks_nothing(drift: float) -> None:
    faults: dict[str, Json] = {"partitions_per_day": 24, "worker_pauses_per_day": 48}
    drifting = run(workers={"count": 4, "hosts": 2, "clock_drift": drift}, faults=faults)
    assert sum(drifting.effective.values()) > 0


def test_wrong_clock_shows_its_own_time_and_wakes_by_it(absurd_database: Any) -> None:
    world = World(State(absurd_database))
    gateway = world.process("wrong", clock=HostClock(ahead_seconds=100.0, rate=2.0))
    seen: list[float] = []

    async def look() -> None:
        seen.append(asyncio.get_running_loop().time())
        await asyncio.sleep(10)
        seen.extend((asyncio.get_running_loop().time(), world.kernel.now))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout_at(130.0):
                await asyncio.Event().wait()
        seen.append(world.kernel.now)

    gateway.process.create_task(look())
    world.kernel.run(until=50)
    world.close()
    assert seen == [100.0, 110.0, 5.0, 15.0]


# -- the network --------------------------------------------------------------------------


def test_host_that_loses_the_database_stops_and_the_other_goes_on() -> None:
    plan: Json = ["partition-0@700/2000"]
    cut = run(workers={"count": 2, "hosts": 2}, faults={"plan": plan})
    begin, end = (EPOCH + timedelta(seconds=at) for at in (900, 2700))
    meanwhile = {
        r.claimed_by
        for history in cut.histories
        for r in history.runs
        if r.started_at is not None and begin < r.started_at < end
    }
    assert meanwhile == {"worker-1"}
    assert cut.effective == {"partition": 1}
    assert any(len(history.runs) > 1 for history in cut.histories), "its run was taken over"


def test_lost_replies_are_met_and_survived() -> None:
    lossy = run(workers={"count": 2}, faults={"lost_reply_probability": 0.05})
    assert {history.task.state for history in lossy.histories} == {"completed"}


# -- the telescope ------------------------------------------------------------------------

_LATE = st.floats(0.0, 1000.0)


@given(st.integers(0, 100), st.floats(0, 0.6), _LATE, st.floats(0, 1))
def test_a_group_goes_on_when_it_is_whole_or_has_waited(
    seed: int, missing: float, late: float, corrupt: float
) -> None:
    telescope = {
        "missing_probability": missing,
        "late_probability": 0.5,
        "late_seconds": late,
        "corrupt_probability": corrupt,
    }
    scenario = Scenario.model_validate({"name": "x", "days": 0.1, "telescope": telescope})
    result = draw_observations(scenario, seed)
    assert result == draw_observations(scenario, seed)
    for item in result:
        waited = item.spawned_at_seconds - item.observed_at_seconds
        assert 0 <= waited <= GROUP_WAIT_SECONDS
        whole = len(item.sub_bands) == SUB_BANDS
        assert whole or waited == GROUP_WAIT_SECONDS
        assert item.convertible == (not item.corrupt and len(item.sub_bands) >= SUB_BANDS_MIN)


def test_group_with_too_few_or_corrupt_sub_bands_fails_and_the_others_do_not() -> None:
    telescope: dict[str, Json] = {"missing_probability": 0.2, "corrupt_probability": 0.2}
    done = run(days=2 * HOUR, telescope=telescope, workers={"count": 4})
    scenario = done.scenario
    bad = {
        observation.group_id
        for observation in draw_observations(scenario, done.seed)
        if not observation.convertible
    }
    failed = {
        history.task.params["group_id"]  # type: ignore[index,call-overload]
        for history in done.histories
        if history.task.state == "failed"
    }
    assert failed == bad
    assert 0 < len(bad) < len(done.histories)
    assert all(
        len(history.runs) == 1 for history in done.histories if history.task.state == "failed"
    )
    assert done.groups_rejected > 0


# -- the operator -------------------------------------------------------------------------


def test_operator_retries_what_has_failed_once_the_cause_is_gone() -> None:
    failing: dict[str, Json] = {"stage_failures": {"unrecognised": 0.2}}
    alone = summary(faults=failing)
    helped = summary(faults=failing, operator={"retries_every_seconds": 1800.0})
    assert alone.failed > 0
    assert helped.failed < alone.failed


def test_restarting_each_worker_by_sigterm_costs_no_attempt_and_no_wait() -> None:
    """What was running is released at once and goes on, without a lease running out."""
    done = run(
        workers={"count": 2, "restart_seconds": 5.0},
        operator={"restarts_every_seconds": 200.0},
    )
    assert {history.task.state for history in done.histories} == {"completed"}
    assert {len(history.runs) for history in done.histories} == {1}
    assert any("SIGTERM" in line or "restarts" in line for line in done.trace)
    assert summarize_run(done, "").failures == {}


def test_archive_frees_the_space_of_groups_that_have_ended() -> None:
    used = []
    for operator in ({}, {"archives_after_seconds": 1200.0}):
        parts = {"name": "short", "days": HOUR, "operator": operator}
        campaign = Campaign(Scenario.model_validate(parts), seed=1)
        assert [str(violation) for violation in campaign.run().violations] == []
        used.append(campaign.world.state.disk.used_bytes)
    assert used[1] < 0.8 * used[0]


# -- faults as text -----------------------------------------------------------------------


@given(
    st.lists(
        st.builds(
            TimedFault,
            st.floats(0, 1e6).map(lambda at: round(at, 6)),
            st.sampled_from(TIMED_KINDS),
            st.integers(0, 99),
            st.floats(0, 1e5).map(lambda seconds: round(seconds, 6)),
        )
    )
)
def test_faults_are_read_as_they_are_written(faults: list[TimedFault]) -> None:
    assert parse_timed_faults(",".join(map(str, faults))) == sorted(faults)


@pytest.mark.parametrize("text", ["kill", "kill-1", "burn-1@5", "kill-1@x", "kill-1@5/"])
def test_fault_that_cannot_be_read_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=f"no fault is written '{text}'"):
        parse_timed_faults(text)


# -- the registry -------------------------------------------------------------------------


def test_permanently_failed_group_is_quarantined_or_failed_in_the_registry() -> None:
    """Data that are not good enough end in quarantine, a damaged file as failed; why is kept."""
    unfit, damaged, good = (f"2026-01-01T00:{minute}:09" for minute in ("00", "05", "10"))
    planned: Any = {(unfit, "flag"): ("data-quality",), (damaged, "convert"): ("bad-input",)}
    workers = PipelineWorkers(model=StageModel(planned=planned))
    groups = (unfit, damaged, good)
    jobs = [Job(workers.settings.queue_name, TASK_NAME, pipeline_params(group)) for group in groups]
    spec = ExplorationSpec(workers, jobs, (workers.settings.queue_name,))
    run = CrashRun(spec)
    run.run()
    registry = run.world.state.registry
    known = {group.group_id: (group.status, group.reason) for group in registry.groups()}
    assert known == {
        unfit: (GroupStatus.QUARANTINED, "Stage flag: all data are flagged"),
        damaged: (GroupStatus.FAILED, "Stage convert: sub-band 7 is truncated"),
        good: (GroupStatus.DONE, None),
    }
    assert [group.group_id for group in registry.groups(GroupStatus.QUARANTINED)] == [unfit]
