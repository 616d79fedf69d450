"""The composition root: the one place that makes a worker for pipeline tasks.

The simulation passes its own runner and registry. Callers own what they pass.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from absurd_contimg.config import PipelineConfig
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.failure_handling import RetryDecision
from absurd_contimg.core.records import ClaimedTask, Json
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.execution.casa_environment import casa_environment
from absurd_contimg.execution.context import GroupInputs
from absurd_contimg.execution.runner import StageRunner
from absurd_contimg.execution.scratch import ScratchOwner
from absurd_contimg.execution.stage import PipelineStage
from absurd_contimg.execution.stage_server import StageServer
from absurd_contimg.history.queue_health import find_problems
from absurd_contimg.history.stage_tasks import COORDINATOR, STAGE_PREFIX
from absurd_contimg.registry import Registry
from absurd_contimg.stages.photometry import PhotometryStage
from absurd_contimg.workflows import (
    group,
    hybrid,
    mosaic,
    photometry,
    publication,
    stage_tasks,
    transit_mosaics,
)
from absurd_contimg.workflows.calibration_wait import GroupRegistry
from absurd_contimg.workflows.failure_rules import CLASSIFIER
from absurd_contimg.workflows.mosaic import MemberRegistry, MosaicWorkflow
from absurd_contimg.workflows.orchestrator import resolve_order, standard_imaging_stages
from absurd_contimg.workflows.photometry import MeasuredImageRegistry, PhotometryWorkflow
from absurd_contimg.workflows.publication import (
    PublicationRegistry,
    PublicationWorkflow,
    Publisher,
)
from absurd_contimg.workflows.transit_mosaics import (
    BATCH_TASK,
    CREATE_TASK,
    BatchMosaicWorkflow,
    CreateMosaicWorkflow,
)
from absurd_contimg.workflows.transits import TransitFinder, TransitRegistry
from absurd_contimg.workflows.versions import VersionedWorkflow, Workflow


def pipeline_stages(registry: Registry) -> tuple[PipelineStage, ...]:
    """The stages of a pipeline task in the order of their dependencies."""
    return resolve_order(standard_imaging_stages(registry), GroupInputs.model_fields)


_LARGE_MODULES = ("casatasks", "casatools", "pyuvdata", "astropy.wcs")
"""What stages import when they need it."""


def make_stage_server(
    config: PipelineConfig, registry: Registry, scratch: ScratchOwner
) -> StageServer:
    """The server of a worker's stages; its folder goes with the worker's scratch."""
    stages = (*pipeline_stages(registry), *mosaic.mosaic_stages(), PhotometryStage())
    own = dict.fromkeys(type(stage).__module__ for stage in stages)
    tables = "absurd_contimg.science.earth_orientation:use_bundled_tables"
    modules = (*_LARGE_MODULES, *own, tables)
    threads = config.execution.threads
    return StageServer(scratch.folder / ".stage-server", casa_environment, modules, threads)


class WorkerRegistry(
    GroupRegistry, MeasuredImageRegistry, MemberRegistry, TransitRegistry, Protocol
):
    """The part of the registry that the workflows of a worker use."""

    @property
    def publications(self) -> PublicationRegistry:
        """The part that knows publications."""


def make_workflows(
    backend: Backend,
    stages: Sequence[PipelineStage],
    runner: StageRunner,
    registry: WorkerRegistry,
    finder: TransitFinder | None = None,
) -> dict[str, VersionedWorkflow]:
    """The workflows of a worker by task name, each with the versions that it can finish."""
    pipeline = group.PipelineWorkflow(stages, runner, registry)
    coordinator = stage_tasks.StageCoordinator(stages, runner, registry)
    sequence = hybrid.HybridWorkflow(stages, runner, registry)
    finder = finder or TransitFinder(runner.config, registry)
    publisher = Publisher(runner.config, registry.publications, runner.files, runner.in_thread)
    workflows: dict[str, dict[int, Workflow]] = {
        group.TASK_NAME: {group.VERSION: pipeline},
        COORDINATOR: {stage_tasks.VERSION: coordinator},
        hybrid.TASK_NAME: {hybrid.VERSION: sequence},
        photometry.TASK_NAME: {
            photometry.VERSION: PhotometryWorkflow(PhotometryStage(), runner, registry)
        },
        mosaic.TASK_NAME: {
            mosaic.VERSION: MosaicWorkflow(mosaic.mosaic_stages(), runner, registry, publisher)
        },
        CREATE_TASK: {transit_mosaics.VERSION: CreateMosaicWorkflow(finder)},
        BATCH_TASK: {transit_mosaics.VERSION: BatchMosaicWorkflow(finder)},
        publication.TASK_NAME: {publication.VERSION: PublicationWorkflow(publisher)},
    }
    for stage in stages:
        task = stage_tasks.StageTask(stage, runner, backend)
        workflows[f"{STAGE_PREFIX}{stage.name}"] = {stage_tasks.VERSION: task}
    return {name: VersionedWorkflow(name, versions) for name, versions in workflows.items()}


def make_pipeline_worker(
    backend: Backend,
    settings: WorkerSettings,
    policy: RetryPolicy,
    stages: Sequence[PipelineStage],
    runner: StageRunner,
    registry: WorkerRegistry,
    ready_to_claim: Callable[[], Awaitable[bool]] | None = None,
    finder: TransitFinder | None = None,
) -> Worker:
    """A worker with ordered stages; it claims nothing while `ready_to_claim` answers False.

    Without a `finder` transits are those of the catalogue in the registry's groups.
    """
    workflows = make_workflows(backend, stages, runner, registry, finder)
    tasks = TaskRegistry()
    for name, workflow in workflows.items():
        tasks.add(name, workflow)

    async def note_failure(
        claimed: ClaimedTask, decision: RetryDecision, reason: Mapping[str, Json]
    ) -> None:
        await workflows[claimed.task_name].note_failure(claimed, decision, reason)

    return Worker(
        backend,
        tasks,
        settings,
        CLASSIFIER,
        policy,
        ready_to_claim,
        on_failure=note_failure,
        explain_refusal=find_problems,
    )
