"""The composition root: the one place that makes a worker for pipeline tasks.

The simulation passes its own runner and registry. Callers own what they pass.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.execution.context import GroupInputs
from absurd_contimg.execution.runner import StageRunner
from absurd_contimg.execution.stage import PipelineStage
from absurd_contimg.history.queue_health import find_problems
from absurd_contimg.registry import Registry
from absurd_contimg.stages.photometry import PhotometryStage
from absurd_contimg.workflows import mosaic, photometry
from absurd_contimg.workflows.failure_rules import CLASSIFIER
from absurd_contimg.workflows.group import TASK_NAME, GroupRegistry, PipelineWorkflow
from absurd_contimg.workflows.mosaic import MemberRegistry, MosaicWorkflow
from absurd_contimg.workflows.orchestrator import resolve_order, standard_imaging_stages
from absurd_contimg.workflows.photometry import MeasuredImageRegistry, PhotometryWorkflow


def pipeline_stages(registry: Registry) -> tuple[PipelineStage, ...]:
    """The stages of a pipeline task in the order of their dependencies."""
    return resolve_order(standard_imaging_stages(registry), GroupInputs.model_fields)


class WorkerRegistry(GroupRegistry, MeasuredImageRegistry, MemberRegistry, Protocol):
    """The part of the registry that the workflows of a worker use."""


def make_pipeline_worker(
    backend: Backend,
    settings: WorkerSettings,
    policy: RetryPolicy,
    stages: Sequence[PipelineStage],
    runner: StageRunner,
    registry: WorkerRegistry,
    ready_to_claim: Callable[[], Awaitable[bool]] | None = None,
) -> Worker:
    """A worker with ordered stages; it claims nothing while `ready_to_claim` answers False."""
    workflow = PipelineWorkflow(stages, runner, registry)
    tasks = TaskRegistry()
    tasks.add(TASK_NAME, workflow)
    tasks.add(photometry.TASK_NAME, PhotometryWorkflow(PhotometryStage(), runner, registry))
    tasks.add(mosaic.TASK_NAME, MosaicWorkflow(mosaic.mosaic_stages(), runner, registry))
    return Worker(
        backend,
        tasks,
        settings,
        CLASSIFIER,
        policy,
        ready_to_claim,
        on_failure=workflow.note_failure,
        explain_refusal=find_problems,
    )
