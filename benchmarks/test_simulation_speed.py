"""How fast the simulated world is, in plain SimPy's timeouts of the same run.

Run with ``pytest benchmarks/test_simulation_speed.py -s``. Everything is processor time, of both.
A timeout of SimPy fits into the processor's nearest cache and a simulated world does not, so the
ratios grow, by up to a half, while others use the machine: the bars leave room for that. The goals
stand beside them; docs/simulation-speed.md says what is missing and why.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest
import simpy

from absurd_contimg.core.records import SpawnOptions
from absurd_contimg.simulation.campaign.campaign import Campaign
from absurd_contimg.simulation.campaign.scenario import load_scenario
from absurd_contimg.simulation.exploration.exploration_spec import ExplorationSpec, Job
from absurd_contimg.simulation.exploration.explorer import Exploration, explore
from absurd_contimg.simulation.model.faults import KILLS, FaultKind
from absurd_contimg.simulation.model.worker_factory import PipelineWorkers, pipeline_params
from absurd_contimg.simulation.runtime.loop import in_virtual_time

_T = TypeVar("_T")
QUEUE = "dsa110-pipeline"
EVENTS = 3000
"""Of one round; the best of many rounds counts, as others only ever slow a round down."""
ROUNDS = 40
SLEEP_MAX = 4.0
"""Goal: 2."""
DECIDED_FUTURE_MAX = 5000.0
"""Goal: 1,500."""
FUTURE_OF_A_PAIR_MAX = 20_000.0
"""Goal: half of commit 385e307's."""
MONTH_MAX = 260e6
"""Goal: 35 million."""


def simpy_timeouts() -> float:
    """Seconds of one of plain SimPy's timeouts."""
    env = simpy.Environment()

    def process() -> Iterator[Any]:
        while True:
            yield env.timeout(1)

    env.process(process())
    started = time.process_time()
    env.run(until=EVENTS)
    return (time.process_time() - started) / EVENTS


def loop_sleeps() -> float:
    """Seconds of one sleep of a coroutine on our loop: a timer and two callbacks."""

    async def main() -> None:
        for _ in range(EVENTS):
            await asyncio.sleep(1)

    started = time.process_time()
    in_virtual_time(main())
    return (time.process_time() - started) / EVENTS


def timeout_seconds() -> float:
    """Of plain SimPy, now."""
    return min(simpy_timeouts() for _ in range(ROUNDS))


def in_timeouts(work: Callable[[], _T], rounds: int = 1) -> tuple[_T, float]:
    """What it returns, and the least time of several rounds in SimPy's timeouts beside it."""
    unit, least = timeout_seconds(), float("inf")
    for _ in range(rounds):
        started = time.process_time()
        result = work()
        least = min(least, time.process_time() - started)
    return result, least / min(unit, timeout_seconds())


def pipeline_spec() -> ExplorationSpec:
    """One group of the imaging pipeline, after what a process makes once."""
    job = Job(QUEUE, "pipeline", pipeline_params("g"), SpawnOptions(idempotency_key="g"))
    spec = ExplorationSpec(PipelineWorkers(), [job], (QUEUE,), time_matters=False)
    explore(spec, faults=())
    return spec


def decided(exploration: Exploration) -> int:
    """Run, or led to the very state of one that is run."""
    assert not exploration.findings
    return exploration.futures + exploration.duplicates


def test_a_sleep(capsys: pytest.CaptureFixture[str]) -> None:
    rounds = [(loop_sleeps(), simpy_timeouts()) for _ in range(ROUNDS)]
    ours, plain = (min(column) for column in zip(*rounds, strict=True))
    with capsys.disabled():
        print(f"\n  a sleep: {ours / plain:.2f} of SimPy's timeouts of {plain * 1e6:.2f} us")
    assert ours / plain <= SLEEP_MAX


def show_decided(
    capsys: pytest.CaptureFixture[str], name: str, result: Exploration, timeouts: float
) -> float:
    """Print what a decided future has cost; in SimPy's timeouts."""
    each = timeouts / decided(result)
    with capsys.disabled():
        print(
            f"\n  a decided {name}: {each:.0f} of SimPy's timeouts; {result.futures} futures are "
            f"run at {timeouts / result.futures:.0f}, {result.duplicates} are the same as one of "
            "them"
        )
    return each


def test_single_kills_of_the_imaging_pipeline(capsys: pytest.CaptureFixture[str]) -> None:
    spec = pipeline_spec()
    result, timeouts = in_timeouts(lambda: explore(spec, faults=KILLS), rounds=4)
    assert show_decided(capsys, "kill", result, timeouts) <= DECIDED_FUTURE_MAX


@pytest.mark.timeout(600)
def test_pairs_of_the_imaging_pipeline(capsys: pytest.CaptureFixture[str]) -> None:
    """A hundredth of ``contimg explore --first kill,pause --then kill,pause``."""
    spec, kinds = pipeline_spec(), (FaultKind.KILL, FaultKind.PAUSE)
    result, timeouts = in_timeouts(
        lambda: explore(spec, faults=kinds, second_faults=kinds, part=(7, 100))
    )
    assert show_decided(capsys, "pair", result, timeouts) <= FUTURE_OF_A_PAIR_MAX


@pytest.mark.timeout(1200)
def test_a_month_of_eight_workers_with_faults(capsys: pytest.CaptureFixture[str]) -> None:
    run, timeouts = in_timeouts(lambda: Campaign(load_scenario("month"), 1).run())
    groups, faults = len(run.histories), sum(run.injected.values())
    with capsys.disabled():
        print(
            f"\n  a month: {timeouts / 1e6:.0f} million of SimPy's timeouts; {groups} groups at "
            f"{timeouts / groups:.0f}, {run.callbacks} callbacks, {faults} faults"
        )
    assert not run.violations
    assert timeouts <= MONTH_MAX


@pytest.mark.parametrize("name", ["quiet_night", "bad_night"])
def test_a_night(capsys: pytest.CaptureFixture[str], name: str) -> None:
    run, timeouts = in_timeouts(lambda: Campaign(load_scenario(name), 1).run())
    groups = len(run.histories)
    with capsys.disabled():
        print(f"\n  {name}: {timeouts / groups:.0f} of SimPy's timeouts a group of {groups}")
    assert not run.violations
