"""How fast the simulated world is: beside plain SimPy, in futures a second, in campaigns.

The bars are asserted, on processor time: on a machine that others use too they may be missed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import simpy

from absurd_contimg.core.records import SpawnOptions
from absurd_contimg.simulation.campaign.campaign import Campaign, Run
from absurd_contimg.simulation.campaign.scenario import load_scenario
from absurd_contimg.simulation.exploration.exploration_spec import ExplorationSpec, Job
from absurd_contimg.simulation.exploration.explorer import explore
from absurd_contimg.simulation.model.faults import KILLS
from absurd_contimg.simulation.model.worker_factory import PipelineWorkers, pipeline_params
from absurd_contimg.simulation.runtime.loop import in_virtual_time

QUEUE = "dsa110-pipeline"
EVENTS = 50_000
SHARE_MIN = 0.25
"""Of plain SimPy's timeouts."""
FUTURES_PER_SECOND_MIN = 300
"""Single kills that are decided: run, or found to begin with the very state of one that is run."""
MONTH_SECONDS_MAX = 60.0


def simpy_timeouts() -> float:
    """Plain SimPy's timeouts a second."""
    env = simpy.Environment()

    def process() -> Iterator[Any]:
        while True:
            yield env.timeout(1)

    env.process(process())
    started = time.process_time()
    env.run(until=EVENTS)
    return EVENTS / (time.process_time() - started)


def loop_sleeps() -> float:
    """Sleeps of a coroutine on our loop a second: one timer and two callbacks each."""
    import asyncio  # noqa: PLC0415

    async def main() -> None:
        for _ in range(EVENTS):
            await asyncio.sleep(1)

    started = time.process_time()
    in_virtual_time(main())
    return EVENTS / (time.process_time() - started)


def test_sleeps_beside_plain_simpy(benchmark: Any) -> None:
    ours = benchmark.pedantic(loop_sleeps, rounds=3)
    plain = simpy_timeouts()
    benchmark.extra_info["simpy_timeouts_per_second"] = round(plain)
    benchmark.extra_info["sleeps_per_second"] = round(ours)
    benchmark.extra_info["share"] = round(ours / plain, 3)
    assert ours / plain >= SHARE_MIN


def test_single_kills_of_the_imaging_pipeline(benchmark: Any) -> None:
    job = Job(QUEUE, "pipeline", pipeline_params("g"), SpawnOptions(idempotency_key="g"))
    spec = ExplorationSpec(PipelineWorkers(), [job], (QUEUE,))
    explore(spec, faults=())  # what is made once in a process
    result = benchmark.pedantic(lambda: explore(spec, faults=KILLS), rounds=3)
    decided = result.futures + result.duplicates
    seconds = result.processor_seconds
    benchmark.extra_info["futures_run"] = result.futures
    benchmark.extra_info["kills_that_lead_to_one_of_them"] = result.duplicates
    benchmark.extra_info["run_per_second_of_processor"] = round(result.futures / seconds)
    benchmark.extra_info["decided_per_second_of_processor"] = round(decided / seconds)
    assert decided / seconds >= FUTURES_PER_SECOND_MIN


def test_a_month_of_eight_workers_with_faults(benchmark: Any) -> None:
    def month() -> tuple[Run, float]:
        started = time.process_time()
        run = Campaign(load_scenario("month"), 1).run()
        return run, time.process_time() - started

    run, seconds = benchmark.pedantic(month, rounds=1)
    benchmark.extra_info["groups"] = len(run.histories)
    benchmark.extra_info["faults"] = dict(run.injected)
    benchmark.extra_info["seconds_of_processor"] = round(seconds, 1)
    assert not run.violations
    assert seconds < MONTH_SECONDS_MAX


@pytest.mark.parametrize("name", ["quiet_night", "bad_night"])
def test_a_night(benchmark: Any, name: str) -> None:
    scenario = load_scenario(name)
    run = benchmark.pedantic(lambda: Campaign(scenario, 1).run(), rounds=1)
    benchmark.extra_info["groups"] = len(run.histories)
    benchmark.extra_info["callbacks"] = run.callbacks
