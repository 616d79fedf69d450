"""Mutation score of the simulation: each mutant must be found, within a minute."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import pytest
from search_extent import some_of

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

EVERYTHING_SECONDS_MIN = 230
"""The handler with everything takes 240 s, the last 50 s of them a sleep."""

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

FIRST = {
    "work goes on without its lease": 0,
    "a run is released for much later": 1,
    "adopted product is not registered": 1,
    "orphans wait for their lease": 1,
    "stopping forgets what still runs": 1,
    "an unanswered call is not repeated": 2,
    "orphans are failed": 2,
    "a refused completion counts as done": 3,
    "a refused decision counts as done": 3,
    "a step is saved before it runs": 3,
    "emulator: expired leases are not swept": 3,
    "suspension is swallowed": 3,
    "emulator: a run is claimed before it is due": 4,
    "scratch of the dead is not swept": 4,
    "emulator: an older attempt overwrites a checkpoint": 5,
    "no look at the clock before the rename": 5,
    "a cancelled task works on": 6,
    "neither a fence nor a look at the clock": 6,
    "no fence before the rename": 6,
    "the loser of a race fails": 5,
    "an unanswered extension counts": 8,
    "lease counts from the reply": 8,
    "no self-fencing without a database": 8,
    "stage may outlive its lease": 8,
    "a worker takes its own runs for orphans": 9,
    "more runs are claimed than there is room for": 9,
}
"""The exploration that finds a mutant soonest, by its place in the list: it only saves time."""


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


def symptoms(mutant: str, healthy: dict[str, Outcome]) -> Iterator[str]:
    """What shows a mutant, the cheapest checks first."""
    specs = make_specs()
    if mutant in FIRST:
        yield from exploration_symptoms(specs, *EXPLORATIONS[FIRST[mutant]])
    yield from baseline_symptoms(specs, healthy)
    yield from lost_work()
    yield from claims_without_space()
    yield from poison_symptoms(specs["pipeline"])
    yield from busy_hour_symptoms()
    for name, faults in EXPLORATIONS:
        yield from exploration_symptoms(specs, name, faults)


def exploration_symptoms(
    specs: dict[str, ExplorationSpec], name: str, faults: tuple[FaultKind, ...]
) -> Iterator[str]:
    """The first finding of an exploration."""
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
        if name == "everything" and seconds_of(histories[-1]) < EVERYTHING_SECONDS_MIN:
            texts.append(f"took only {seconds_of(histories[-1])} s")
        if name in FAILING:
            texts += failing_symptoms(name, histories)
        yield from (f"{name}: {text}" for text in texts)


def seconds_of(history: History) -> float:
    """From the first start of a task to its completion."""
    started, ended = history.task.first_started_at, history.runs[-1].completed_at
    assert started is not None
    assert ended is not None
    return (ended - started).total_seconds()


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


@pytest.mark.parametrize("mutant", some_of(MUTANTS, every=8))
def test_mutant_is_found(
    mutant: str, healthy: dict[str, Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`make test` takes every fifth, `make search` all."""
    MUTANTS[mutant](monkeypatch)
    try:
        symptom = next(symptoms(mutant, healthy), None)
    except AssertionError as baseline_is_wrong:
        symptom = str(baseline_is_wrong)
    assert symptom is not None, f"not found: {mutant}"


class CallChecker:
    """Stands for `pytest.MonkeyPatch`: replaces nothing, but compares the signatures."""

    def setattr(self, owner: Any, name: Any, new: Any = None) -> None:
        if isinstance(owner, str):
            original, new = pkgutil.resolve_name(owner), name
        else:
            original = getattr(owner, name)
        if callable(original) and not isinstance(original, type):
            given = inspect.signature(original).parameters.values()
            by_name = [each.name for each in given if each.kind is each.KEYWORD_ONLY]
            by_place = [each for each in given if each.kind is each.POSITIONAL_OR_KEYWORD]
            inspect.signature(new).bind(*by_place, **dict.fromkeys(by_name))


@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutant_takes_the_calls_of_what_it_replaces(mutant: str) -> None:
    """Else it raises a TypeError wherever it is called, and is found for that."""
    MUTANTS[mutant](cast(pytest.MonkeyPatch, CallChecker()))


def test_all_mutants_are_there() -> None:
    assert len(MUTANTS) >= 78


def test_nothing_is_found_without_a_mutant(healthy: dict[str, Outcome]) -> None:
    assert list(lost_work()) == []
    assert list(claims_without_space()) == []
    assert list(baseline_symptoms(make_specs(), healthy)) == []
