"""Hypothesis strategies: fault schedules for a handler, and scenarios for the telescope."""

from __future__ import annotations

from hypothesis import strategies as st

from absurd_contimg.simulation.campaign.faults import DAY_SECONDS, target_count
from absurd_contimg.simulation.campaign.scenario import Scenario, Telescope, Workers
from absurd_contimg.simulation.model.faults import (
    ALL_FAULTS,
    FaultKind,
    FaultSchedule,
    InjectedFault,
    TimedFault,
)

_KINDS = tuple(map(FaultKind, ("kill", "pause", "reboot", "partition", "outage")))


def scenarios(days_max: float = 0.1) -> st.SearchStrategy[Scenario]:
    """Small worlds of the telescope: 1 to 4 workers on 1 or 2 hosts, some hours of telescope."""
    return st.builds(
        Scenario,
        name=st.just("drawn"),
        days=st.floats(0.02, days_max),
        workers=st.builds(
            Workers,
            count=st.integers(1, 4),
            hosts=st.integers(1, 2),
            lease_seconds=st.sampled_from([30, 60, 120]),
        ),
        telescope=st.builds(Telescope, calibrator_every=st.sampled_from([1, 4])),
    )


def timed_faults(scenario: Scenario, faults_max: int = 8) -> st.SearchStrategy[list[TimedFault]]:
    """Faults that fit a scenario of the telescope, in order of time."""
    end = scenario.days * DAY_SECONDS
    # Rounding must not carry it past the end, where the campaign refuses it.
    times = st.floats(0.0, end).map(lambda at: min(round(at, 3), end))
    lasting = st.floats(1.0, 4.0 * scenario.workers.lease_seconds).map(lambda s: round(s, 3))
    faults = [
        st.builds(
            *(TimedFault, times, st.just(kind), st.integers(0, target_count(scenario, kind) - 1)),
            st.just(0.0) if kind is FaultKind.KILL else lasting,
        )
        for kind in _KINDS
    ]
    return st.lists(st.one_of(faults), max_size=faults_max).map(sorted)


def fault_schedules(crash_points: int, faults_max: int = 2) -> st.SearchStrategy[FaultSchedule]:
    """Schedules for `replay_handler`: a few faults at any of a handler's crash points.

    With three a step may end as many workers as its task survives, and the task fails rightly.
    """
    fault = st.builds(InjectedFault, st.sampled_from(ALL_FAULTS), st.integers(1, crash_points))
    return st.lists(fault, max_size=faults_max).map(tuple)
