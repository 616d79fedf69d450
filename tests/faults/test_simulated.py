"""Real faults and the same in the simulation: the same runs, attempts, starts and kinds.

Each fault is real first: processes, signals, Postgres. The simulated world then gets the durations
of that very history and the same fault, and its history must tell the same story.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from fault_stages import STAGES
from fault_worker import LEASE_SECONDS, POLICY, QUEUE, attempt_of

from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.records import History, Json
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.runner import StageRunner
from absurd_contimg.history.timeline import step_starts
from absurd_contimg.simulation.exploration.crash_run import CrashRun
from absurd_contimg.simulation.exploration.exploration_spec import ExplorationSpec, Job
from absurd_contimg.simulation.exploration.explorer import explore
from absurd_contimg.simulation.model.effect_gateway import EffectGateway, RegistryProxy
from absurd_contimg.simulation.model.executor import SimulatedExecutor, SimulatedStage, simulated
from absurd_contimg.simulation.model.faults import FaultKind, FaultSchedule, InjectedFault
from absurd_contimg.simulation.model.files import SimulatedFiles
from absurd_contimg.simulation.model.simulated_config import SIMULATED_CONFIG
from absurd_contimg.simulation.model.stage_model import StageModel, fit_costs
from absurd_contimg.simulation.model.worker_factory import acquire_scratch, call_inline
from absurd_contimg.simulation.model.world import World
from absurd_contimg.workflows.failure_rules import CLASSIFIER


@dataclass(frozen=True)
class SmallWorkers:
    """The worker of ``fault_worker.py`` in the simulated world."""

    model: StageModel

    def __call__(self, world: World, gateway: EffectGateway, worker_id: str) -> Sequence[Worker]:
        state = world.state
        stages: list[SimulatedStage] = [simulated(item)(lambda _group: True) for item in STAGES]
        by_name = {stage.name: stage for stage in stages}
        files = SimulatedFiles(gateway, state.disk)
        executor = SimulatedExecutor(gateway, files, by_name, self.model, None, world.watch)
        scratch = acquire_scratch(gateway, state.disk, worker_id)
        registry: Any = RegistryProxy(gateway, state.registry)
        runner = StageRunner(SIMULATED_CONFIG, executor, registry, scratch, files, call_inline)

        async def pipeline(params: Mapping[str, Json], ctx: TaskContext) -> Json:
            context = PipelineContext(SIMULATED_CONFIG, {"group_id": "G", **params})
            for stage in stages:
                run = attempt_of(runner, stage, context, ctx, worker_id)
                saved: Any = await ctx.tracked_step(stage.name, run)
                context = context.with_outputs(saved["outputs"])
            return dict(context.outputs)

        tasks = TaskRegistry()
        tasks.add("pipeline", pipeline)
        settings = WorkerSettings(
            QUEUE,
            worker_id,
            claim_timeout_seconds=LEASE_SECONDS,
            poll_interval_seconds=0.1,
            grace_seconds=0.1,
        )
        return [Worker(world.backend(gateway), tasks, settings, CLASSIFIER, POLICY)]


def story(history: History) -> dict[str, Any]:
    """Runs, attempts and kinds, and each start of each step, without times."""
    return {
        "task": (history.task.state, history.task.attempts),
        "runs": [
            (run.attempt, run.state, (run.failure_reason or {}).get("kind"))  # type: ignore[union-attr]
            for run in history.runs
        ],
        "starts": [
            (start.step, start.start, start.attempt, start.outcome, start.fallbacks)
            for start in step_starts(history)
        ],
    }


def simulate(real: History, planned: str | None, killed_in: str | None, stage: str) -> History:
    """The same fault in a world with the durations of the real history."""
    failures = {} if planned is None else {("G", stage): (planned,)}
    model = StageModel(costs=fit_costs([real]), spread=0.0, planned=failures)
    job = Job(QUEUE, "pipeline", {"source": "/simulated/input/source.hdf5"})
    spec = ExplorationSpec(
        SmallWorkers(model), [job], (QUEUE,), LEASE_SECONDS, POLICY, worker_id="worker-1"
    )
    schedule: FaultSchedule = ()
    if killed_in is not None:
        start = f"stage start {killed_in}, committed, reply pending"
        points = map(str, explore(spec, faults=()).crash_points)
        committed = next(number for number, point in enumerate(points, 1) if point == start)
        schedule = (InjectedFault(FaultKind.KILL, committed + 1),)
    run = CrashRun(spec, schedule)
    outcome = run.run()
    assert outcome.violations == ()
    assert not run.injector.pending
    (history,) = run.world.histories()
    return history


@pytest.mark.parametrize("stage", ["convert", "apply"])
def test_killed_worker(new_site: Callable, stage: str) -> None:
    site = new_site()
    site.spawn(1.0)
    worker = site.worker()
    site.pid_at(stage)
    worker.kill()
    worker.wait()
    site.worker()
    real = site.until_ended()
    assert story(real) == story(simulate(real, None, stage, stage)), site.log


def test_killed_stage(new_site: Callable) -> None:
    site = new_site()
    site.spawn(1.0)
    site.worker()
    os.kill(site.pid_at("solve"), signal.SIGKILL)
    real = site.until_ended()
    assert story(real) == story(simulate(real, "killed", None, "solve")), site.log


def test_hanging_stage(new_site: Callable) -> None:
    site = new_site(deadline_seconds=4.0)
    site.spawn(0.3)
    site.worker()
    os.kill(site.pid_at("image"), signal.SIGSTOP)
    real = site.until_ended()
    assert story(real) == story(simulate(real, "stage-deadline", None, "image")), site.log


def test_fitted_durations_are_those_of_the_history(new_site: Callable) -> None:
    """A simulated run with fitted costs takes as long as the real one did, stage by stage."""
    site = new_site()
    site.spawn(0.5)
    site.worker()
    real = site.until_ended()
    simulated_starts = step_starts(simulate(real, None, None, "image"))
    for first, other in zip(step_starts(real), simulated_starts, strict=True):
        assert first.seconds == pytest.approx(other.seconds, abs=1e-3)
