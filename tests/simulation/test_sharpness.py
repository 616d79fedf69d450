"""The oracle is tested too: each planted bug has to be found, by exploring, within a minute."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from absurd_contimg.simulation.campaign import Campaign
from absurd_contimg.simulation.crews import PipelineCrew, WorkerTerms
from absurd_contimg.simulation.explorer import (
    Blow,
    Strike,
    explore,
    replay,
    undisturbed,
)
from absurd_contimg.simulation.outcome import Outcome
from absurd_contimg.simulation.runner import SimRunner
from absurd_contimg.simulation.scenario import Scenario, Workers
from absurd_contimg.simulation.setup import Setup

from .planted import PLANTED
from .worlds import (
    FAILING,
    FAILING_ENDS,
    ends,
    errors_of,
    everything_setup,
    failing_setup,
    pipeline_setup,
)

KNOWN_MISSES = {
    # The keeper ends a stage that has lost its lease before it can get to the rename, and a
    # rename onto another's product is refused: the fence is the third net under the same fall.
    "no fence before the rename",
    # The step fails once more, is retried, and ends the same; a single lost call is within every
    # budget. (It would be seen if core itself repeated every call: see `test_explorer`.)
    "an unanswered call is not repeated",
}

FAILED_RUNS = {"pipeline": [], "everything": ["ConnectionResetError"]}
"""The errors of the undisturbed worlds; the handler with everything fails once on purpose."""

QUICK = PipelineCrew(terms=WorkerTerms(poll_interval_seconds=5.0))


def _setups(runner: type[SimRunner]) -> dict[str, Setup]:
    crew = dataclasses.replace(QUICK, runner=runner)
    return {
        "pipeline": pipeline_setup(crew, horizon_seconds=20_000.0),
        "everything": everything_setup(horizon_seconds=20_000.0),
        **{group: failing_setup(group, crew, horizon_seconds=20_000.0) for group in FAILING},
    }


@pytest.fixture(scope="module")
def healthy() -> dict[str, Outcome]:
    """How each world ends without a bug."""
    return {name: undisturbed(setup)[0] for name, setup in _setups(SimRunner).items()}


def _looked_for(runner: type[SimRunner], healthy: dict[str, Outcome]) -> Iterator[str]:
    """What is found, the cheapest means first."""
    setups = _setups(runner)
    for name, setup in setups.items():
        outcome, histories = undisturbed(setup)
        yield from (f"{name}: {one}" for one in outcome.compared_with(healthy[name]))
        if name in FAILING_ENDS and ends(histories) != FAILING_ENDS[name]:
            yield f"{name}: ends as {ends(histories)}"
        failed = errors_of(histories)
        if failed != FAILED_RUNS.get(name, failed):
            yield f"{name}: runs have failed with {failed}"
    yield from _poisoned(setups["pipeline"])
    yield from _busy_hour(runner)
    for name, blows in _HUNTS:
        found = explore(setups[name], blows=blows, findings_max=1)
        yield from (f"{name}: {one}" for one in found.findings)


_HUNTS = (
    ("pipeline", (Blow.CUT_OFF,)),
    ("pipeline", (Blow.KILL_RESTART,)),
    ("pipeline", (Blow.REFUSED, Blow.REPLY_LOST)),
    ("everything", (Blow.KILL_OTHER, Blow.REFUSED)),
    ("passes", (Blow.KILL_OTHER,)),
    ("pipeline", (Blow.ZOMBIE, Blow.KILL_OTHER)),
)


def _busy_hour(runner: type[SimRunner]) -> Iterator[str]:
    """Four workers side by side, and nothing that should go wrong."""
    scenario = Scenario(name="hour", days=0.05, workers=Workers(count=4))
    run = Campaign(scenario, 1, runner=runner).run()
    yield from map(str, run.violations)
    states = {history.task.state for history in run.histories}
    if states != {"completed"}:
        yield f"hour: tasks are {states}"


def _poisoned(setup: Setup) -> Iterator[str]:
    """Five workers die in the same stage, each just after it has begun."""
    landmarks = explore(setup, blows=()).landmarks
    first = 1 + next(n for n, one in enumerate(landmarks) if one.startswith("stage start"))
    # A later life first reads the time and hands back its own orphan: four moments more.
    plan = (Strike(Blow.KILL_RESTART, first), *[Strike(Blow.KILL_RESTART, first + 4)] * 4)
    poisoned = replay(setup, plan)
    yield from (str(one) for one in poisoned.violations if "poison" in one.invariant)


@pytest.mark.parametrize("bug", PLANTED)
def test_planted_bug_is_found(
    bug: str, healthy: dict[str, Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = PLANTED[bug]
    runner = SimRunner
    if isinstance(planted, type):
        runner = planted
    else:
        planted(monkeypatch)
    try:
        found = next(_looked_for(runner, healthy), None)
    except AssertionError as wrong_from_the_start:
        found = str(wrong_from_the_start)
    if bug in KNOWN_MISSES:
        pytest.xfail("not visible from outside") if found is None else None
    assert found is not None, f"nobody noticed: {bug}"


def test_enough_bugs_are_planted_and_found() -> None:
    assert len(PLANTED) >= 25
    assert len(KNOWN_MISSES) / len(PLANTED) <= 2 / 42


def test_nothing_is_found_where_nothing_is_planted(healthy: dict[str, Outcome]) -> None:
    for name, setup in _setups(SimRunner).items():
        outcome, histories = undisturbed(setup)
        assert outcome.compared_with(healthy[name]) == ()
        failed = errors_of(histories)
        assert failed == FAILED_RUNS.get(name, failed)
        if name in FAILING_ENDS:
            assert ends(histories) == FAILING_ENDS[name]
