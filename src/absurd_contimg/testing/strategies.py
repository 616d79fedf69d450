"""Hypothesis strategies: small scenarios, fault plans for them, and plans of blows."""

from __future__ import annotations

from hypothesis import strategies as st

from absurd_contimg.simulation.campaign.fault_plan import Fault
from absurd_contimg.simulation.campaign.faults import DAY_SECONDS
from absurd_contimg.simulation.campaign.scenario import Scenario
from absurd_contimg.simulation.exploration.crash_run import EVERY_BLOW, Plan, Strike


def scenarios(days_max: float = 0.1) -> st.SearchStrategy[Scenario]:
    """Small worlds: 1 to 4 workers on 1 or 2 hosts, some hours of telescope."""
    return st.builds(
        _scenario,
        st.floats(0.02, days_max),
        st.integers(1, 4),
        st.integers(1, 2),
        st.sampled_from([30, 60, 120]),
        st.sampled_from([1, 4]),
    )


def _scenario(days: float, workers: int, hosts: int, lease: int, every: int) -> Scenario:
    return Scenario.model_validate(
        {
            "name": "drawn",
            "days": days,
            "workers": {"count": workers, "hosts": hosts, "lease_seconds": lease},
            "telescope": {"calibrator_every": every},
        }
    )


def fault_plans(scenario: Scenario, faults_max: int = 8) -> st.SearchStrategy[list[Fault]]:
    """Faults that fit a scenario, in order of time."""
    kinds = st.sampled_from(["kill", "pause", "reboot", "partition", "outage"])
    end = scenario.days * DAY_SECONDS
    targets = st.integers(0, scenario.workers.count - 1)
    lasting = st.floats(1.0, 4.0 * scenario.workers.lease_seconds)
    fault = st.builds(
        # Rounding must not carry it past the end, where the campaign refuses it.
        lambda at, kind, target, seconds: _fitting(
            scenario, min(round(at, 3), end), kind, target, seconds
        ),
        st.floats(0.0, end),
        kinds,
        targets,
        lasting,
    )
    return st.lists(fault, max_size=faults_max).map(sorted)


def _fitting(scenario: Scenario, at: float, kind: str, target: int, seconds: float) -> Fault:
    if kind in ("reboot", "partition"):
        target %= scenario.workers.hosts
    elif kind == "outage":
        target = 0
    return Fault(at, kind, target, 0.0 if kind == "kill" else round(seconds, 3))


def blow_plans(moments: int, blows_max: int = 3) -> st.SearchStrategy[Plan]:
    """Plans for `replay`: a few blows at any of a workflow's moments."""
    strike = st.builds(Strike, st.sampled_from(EVERY_BLOW), st.integers(1, moments))
    return st.lists(strike, max_size=blows_max).map(tuple)
