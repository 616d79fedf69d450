"""Who works in a simulated process: workers for any handler, and for the real pipeline."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, cast

from absurd_contimg.core.records import Json
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.products.manifest import Manifest
from absurd_contimg.registry import Group, GroupStatus, Registry
from absurd_contimg.simulation.exploration.exploration_spec import ExplorationSpec, Job
from absurd_contimg.simulation.model.effect_gateway import Effect, EffectGateway
from absurd_contimg.simulation.model.executor import (
    Machine,
    SimulatedExecutor,
    SimulatedStage,
    simulated,
)
from absurd_contimg.simulation.model.files import SimulatedFiles
from absurd_contimg.simulation.model.runner import SIMULATED_CONFIG, acquire_scratch, at_once
from absurd_contimg.simulation.model.simulated_registry import SimulatedRegistry
from absurd_contimg.simulation.model.stage_model import StageModel
from absurd_contimg.simulation.model.world import World
from absurd_contimg.workflows.failure_rules import CLASSIFIER

AnyHandler = Callable[[Any, Any], Awaitable[Any]]
"""``async def handler(params, ctx)``, ours or one written for absurd-sdk."""


@dataclass(frozen=True, slots=True)
class WorkerTerms:
    """How simulated workers work; see `WorkerSettings`."""

    claim_timeout_seconds: int = 60
    poll_interval_seconds: float = 20.0
    concurrency: int = 1
    grace_seconds: float = 10.0
    policy: RetryPolicy = field(default_factory=RetryPolicy)

    def settings(self, queue: str, worker_id: str) -> WorkerSettings:
        """The settings of one worker."""
        return WorkerSettings(
            queue_name=queue,
            worker_id=worker_id,
            concurrency=self.concurrency,
            claim_timeout_seconds=self.claim_timeout_seconds,
            poll_interval_seconds=self.poll_interval_seconds,
            grace_seconds=self.grace_seconds,
        )


@dataclass(frozen=True, slots=True)
class HandlerWorkers:
    """One worker for each queue, in one process; `handlers` by queue and task name."""

    handlers: Mapping[str, Mapping[str, AnyHandler]]
    terms: WorkerTerms = field(default_factory=WorkerTerms)

    def __call__(self, world: World, gateway: EffectGateway, worker_id: str) -> Sequence[Worker]:
        """The workers of a new process."""
        backend = world.backend(gateway)
        workers = []
        for queue, handlers in self.handlers.items():
            tasks = TaskRegistry()
            for name, handler in handlers.items():
                tasks.add(name, handler)
            settings = self.terms.settings(queue, f"{worker_id}@{queue}")
            workers.append(Worker(backend, tasks, settings, CLASSIFIER, self.terms.policy))
        return workers


@dataclass(frozen=True, slots=True)
class PipelineWorkers:
    """The real `PipelineWorkflow` on the real worker, with simulated stages."""

    queue: str = "dsa110-pipeline"
    model: StageModel = field(default_factory=StageModel)
    terms: WorkerTerms = field(default_factory=WorkerTerms)
    machine: Machine | None = None
    free_bytes_min: int = 0
    """With less free space than this the worker's guard stops claims."""

    def __call__(self, world: World, gateway: EffectGateway, worker_id: str) -> Sequence[Worker]:
        """The worker of a new process."""
        from absurd_contimg.workflows.assembly import (  # noqa: PLC0415 - imports numpy
            make_pipeline_worker,
        )

        state = world.state
        stages = [one(state.registry.solves) for one in pipeline_stages()]
        files = SimulatedFiles(gateway, state.disk)
        by_name = {stage.name: stage for stage in stages}

        async def enough_space() -> bool:
            return state.disk.free_bytes >= self.free_bytes_min

        worker = make_pipeline_worker(
            world.backend(gateway),
            self.terms.settings(self.queue, worker_id),
            self.terms.policy,
            SIMULATED_CONFIG,
            stages,
            executor=SimulatedExecutor(
                gateway, files, by_name, self.model, self.machine, world.watch
            ),
            registry=_RegistryGateway(gateway, state.registry),
            scratch=acquire_scratch(gateway, state.disk, worker_id),
            files=files,
            in_thread=at_once,
            ready_to_claim=enough_space if self.free_bytes_min else None,
        )
        return [worker]


class _RegistryGateway:
    """The registry as a process reaches it: every question and every entry is an effect."""

    def __init__(self, gateway: EffectGateway, registry: SimulatedRegistry) -> None:
        self._gateway, self._registry = gateway, registry

    def register(self, folder: Path, manifest: Manifest) -> None:
        """See `ProductRegistry`."""
        effect = Effect("registry", "register", True)
        self._gateway.perform_now(effect, self._registry.register, str(folder), manifest.outputs)

    def set_group_status(
        self, group_id: str, status: GroupStatus, reason: str | None = None
    ) -> None:
        """See `GroupRegistry`."""
        effect = Effect("registry", f"set {status.value}", True)
        self._gateway.perform_now(effect, self._registry.set_group_status, group_id, status, reason)

    def groups(self, status: GroupStatus | None = None) -> Sequence[Group]:
        """See `GroupRegistry`."""
        effect = Effect("registry", "groups", False)
        return self._gateway.perform_now(effect, self._registry.groups, status)

    def calibration_exists(self, group_id: str) -> bool:
        """See `GroupRegistry`."""
        effect = Effect("registry", "calibration_exists", False)
        return self._gateway.perform_now(effect, self._registry.calibration_exists, group_id)


@cache
def pipeline_stages() -> tuple[type[SimulatedStage], ...]:
    """What stands for the real stages, in their real order."""
    from absurd_contimg.workflows import assembly  # noqa: PLC0415 - imports numpy

    unused = cast(Registry, None)  # asked only when the stage itself runs, which it never does
    return tuple(map(simulated, assembly.pipeline_stages(unused)))


def pipeline_params(group_id: str, sub_bands: Sequence[int] = range(16)) -> dict[str, Json]:
    """The parameters of a pipeline task for a simulated group."""
    files = [f"/simulated/input/{group_id}_sb{band:02d}.hdf5" for band in sub_bands]
    return {"group_id": group_id, "input_files": files, "catalog_path": "/simulated/input/sky.csv"}


def pipeline_spec(workers: PipelineWorkers | None = None, **options: Any) -> ExplorationSpec:
    """One group on its way through the whole pipeline."""
    from absurd_contimg.workflows.group import TASK_NAME, PipelineParams  # noqa: PLC0415

    made = PipelineWorkers() if workers is None else workers
    params = pipeline_params("2026-01-01T00:00:00")
    job = Job(made.queue, TASK_NAME, params, PipelineParams.parse(params).spawn_options())
    return ExplorationSpec(made, [job], (made.queue,), **options)
