"""Mutation score of the simulation: each mutant must be found, within a minute."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from absurd_contimg.core.records import History
from absurd_contimg.simulation.campaign.campaign import Campaign
from absurd_contimg.simulation.campaign.scenario import Scenario, Workers
from absurd_contimg.simulation.exploration.crash_run import CrashRun
from absurd_contimg.simulation.exploration.example_workflows import everything_spec, pipeline_spec
from absurd_contimg.simulation.exploration.exploration_spec import ExplorationSpec
from absurd_contimg.simulation.exploration.explorer import baseline, explore, replay
from absurd_contimg.simulation.exploration.outcome import Outcome
from absurd_contimg.simulation.model.faults import FaultKind, InjectedFault
from absurd_contimg.simulation.model.worker_factory import SETTINGS, PipelineWorkers
from absurd_contimg.simulation.model.world import EPOCH

from .example_specs import (
    FAILING,
    FAILING_ENDS,
    FAILING_FALLBACKS,
    FAILING_WAITS,
    ends,
    errors_of,
    failing_spec,
    fallbacks,
    harmed_spec,
    tight_disk_spec,
    two_groups_spec,
    waits,
)
from .mutants_worker import MUTANTS

FAILED_RUNS = {"pipeline": [], "everything": ["ConnectionResetError"]}
"""The errors of baseline runs; the handler with everything fails once on purpose."""

QUICK = PipelineWorkers(replace(SETTINGS, poll_interval_seconds=5.0))
TWO_AT_A_TIME = PipelineWorkers(replace(QUICK.settings, concurrency=2))

EXPLORATIONS = (
    ("pipeline", (FaultKind.PARTITION,)),
    ("pipeline", (FaultKind.KILL, FaultKind.TERM)),
    ("pipeline", (FaultKind.REFUSED, FaultKind.REPLY_LOST)),
    ("everything", (FaultKind.KILL_OTHER, FaultKind.REFUSED)),
    ("passes", (FaultKind.KILL_OTHER,)),
    ("pipeline", (FaultKind.PAUSE, FaultKind.KILL_OTHER)),
    ("pipeline", (FaultKind.CANCEL,)),
    ("passes", (FaultKind.REFUSED, FaultKind.REPLY_LOST)),
    ("slow replies", (FaultKind.PARTITION,)),
    ("two at a time", (FaultKind.REFUSED,)),
)


def make_specs() -> dict[str, ExplorationSpec]:
    return {
        "pipeline": pipeline_spec(QUICK, horizon_seconds=20_000.0),
        "everything": everything_spec(horizon_seconds=20_000.0),
        "slow replies": pipeline_spec(QUICK, horizon_seconds=20_000.0, reply_seconds=15.0),
        "two at a time": two_groups_spec(TWO_AT_A_TIME, horizon_seconds=20_000.0),
        "harmed": harmed_spec(QUICK, horizon_seconds=1_500.0),
        **{group: failing_spec(group, QUICK, horizon_seconds=6_000.0) for group in FAILING},
    }


@pytest.fixture(scope="module")
def healthy() -> dict[str, Outcome]:
    """The outcome of each baseline run without a mutant."""
    return {name: baseline(spec)[0] for name, spec in make_specs().items()}


def symptoms(healthy: dict[str, Outcome]) -> Iterator[str]:
    """What shows a mutant, the cheapest checks first."""
    specs = make_specs()
    yield from baseline_symptoms(specs, healthy)
    yield from lost_work()
    yield from claims_without_space()
    yield from poison_symptoms(specs["pipeline"])
    yield from busy_hour_symptoms()
    for name, faults in EXPLORATIONS:
        exploration = explore(specs[name], faults=faults, findings_max=1)
        yield from (f"{name}: {finding}" for finding in exploration.findings)


def baseline_symptoms(
    specs: dict[str, ExplorationSpec], healthy: dict[str, Outcome]
) -> Iterator[str]:
    """How baseline runs differ from what they were and from what they must be."""
    for name, spec in specs.items():
        outcome, histories = baseline(spec)
        texts = [*map(str, outcome.violations), *outcome.differences(healthy[name])]
        errors = errors_of(histories)
        if errors != FAILED_RUNS.get(name, errors):
            texts.append(f"runs have failed with {errors}")
        if name in FAILING:
            texts += failing_symptoms(name, histories)
        yield from (f"{name}: {text}" for text in texts)


def failing_symptoms(group: str, histories: Sequence[History]) -> Iterator[str]:
    """How a failing group ended and was retried, where that is not what it must be."""
    if ends(histories) != FAILING_ENDS[group]:
        yield f"ends as {ends(histories)}"
    if waits(histories) != FAILING_WAITS.get(group, []):
        yield f"its retries waited {waits(histories)} s"
    if fallbacks(histories) != FAILING_FALLBACKS.get(group, []):
        yield f"its starts had the fallbacks {fallbacks(histories)}"


def lost_work() -> Iterator[str]:
    """Where space is short a stage does not begin; one that begins comes to its end."""
    run = CrashRun(tight_disk_spec(TWO_AT_A_TIME, horizon_seconds=20_000.0))
    yield from (f"tight disk: {violation}" for violation in run.run().violations)
    if run.world.watch.seconds_lost:
        yield f"tight disk: {run.world.watch.seconds_lost} s of work were lost"


def claims_without_space() -> Iterator[str]:
    """While space is short the guard lets no worker claim."""
    workers = replace(TWO_AT_A_TIME, free_bytes_min=10**11)
    run = CrashRun(tight_disk_spec(workers, horizon_seconds=20_000.0))
    yield from (f"guarded: {violation}" for violation in run.run().violations)
    starts = [history.task.first_started_at for history in run.world.histories()]
    enlarged = EPOCH + timedelta(seconds=2_000)
    if any(start is None or start < enlarged for start in starts):
        yield f"guarded: a run was claimed before there was space: {starts}"


def busy_hour_symptoms() -> Iterator[str]:
    """Four workers side by side, without any fault."""
    scenario = Scenario(name="hour", days=0.05, workers=Workers(count=4))
    run = Campaign(scenario, 1).run()
    yield from map(str, run.violations)
    states = {history.task.state for history in run.histories}
    if states != {"completed"}:
        yield f"hour: tasks are {states}"


def poison_symptoms(spec: ExplorationSpec) -> Iterator[str]:
    """Five workers die in the same stage, each just after it has begun."""
    points = enumerate(explore(spec, faults=()).crash_points, start=1)
    first = next(number for number, point in points if point.effect.name.startswith("start "))
    # A later process first reads the time and releases its own orphan: four crash points more.
    schedule = (first, *[first + 4] * 4)
    finding = replay(spec, tuple(InjectedFault(FaultKind.KILL, at) for at in schedule))
    yield from (str(each) for each in finding.violations if "poison" in each.invariant)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutant_is_found(
    mutant: str, healthy: dict[str, Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    MUTANTS[mutant](monkeypatch)
    try:
        symptom = next(symptoms(healthy), None)
    except AssertionError as baseline_is_wrong:
        symptom = str(baseline_is_wrong)
    assert symptom is not None, f"not found: {mutant}"


def test_all_mutants_are_there() -> None:
    assert len(MUTANTS) >= 78


def test_nothing_is_found_without_a_mutant(healthy: dict[str, Outcome]) -> None:
    assert list(lost_work()) == []
    assert list(claims_without_space()) == []
    assert list(baseline_symptoms(make_specs(), healthy)) == []
