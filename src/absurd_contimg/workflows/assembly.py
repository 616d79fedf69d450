"""The composition root: the one place that makes a worker for pipeline tasks.

The service passes ports of this machine, the simulation passes simulated ones; everything else
(stages in order, runner, workflow, failure table, quarantine, explanation of refused claims) is
the same. This module opens nothing and closes nothing: its callers own what they pass.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from absurd_contimg.config import PipelineConfig
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.execution.executor import StageExecutor
from absurd_contimg.execution.processes import uninterrupted
from absurd_contimg.execution.runner import InThread, ProductRegistry, StageRunner
from absurd_contimg.execution.scratch import ScratchOwner
from absurd_contimg.execution.stage import PipelineStage
from absurd_contimg.history.queue_health import find_problems
from absurd_contimg.products.filesystem import LOCAL, FileSystem
from absurd_contimg.registry import Registry
from absurd_contimg.workflows.failure_rules import CLASSIFIER
from absurd_contimg.workflows.group import (
    TASK_NAME,
    GroupRegistry,
    PipelineParams,
    PipelineWorkflow,
    Runner,
)
from absurd_contimg.workflows.orchestrator import resolve_order, standard_imaging_stages

ReadyToClaim = Callable[[], Awaitable[bool]]
"""Asked before each claim; False leaves the queue to other workers."""


class PipelineRegistry(ProductRegistry, GroupRegistry, Protocol):
    """What a worker needs of the registry: to enter products, and to read and set groups."""


def pipeline_stages(registry: Registry) -> tuple[PipelineStage, ...]:
    """The stages of a pipeline task in the order of their dependencies."""
    return resolve_order(standard_imaging_stages(registry), PipelineParams.model_fields)


def make_pipeline_worker(
    backend: Backend,
    settings: WorkerSettings,
    policy: RetryPolicy,
    config: PipelineConfig,
    stages: Sequence[PipelineStage],
    *,
    executor: StageExecutor,
    registry: PipelineRegistry,
    scratch: ScratchOwner,
    files: FileSystem = LOCAL,
    in_thread: InThread = uninterrupted,
    ready_to_claim: ReadyToClaim | None = None,
) -> Worker:
    """A worker that runs pipeline tasks; `stages` are in order, `scratch` is acquired."""
    runner = StageRunner(config, executor, registry, scratch, files, in_thread)
    return make_workflow_worker(
        backend, settings, policy, stages, runner, registry, ready_to_claim=ready_to_claim
    )


def make_workflow_worker(
    backend: Backend,
    settings: WorkerSettings,
    policy: RetryPolicy,
    stages: Sequence[PipelineStage],
    runner: Runner,
    registry: GroupRegistry,
    *,
    ready_to_claim: ReadyToClaim | None = None,
) -> Worker:
    """As `make_pipeline_worker`, for a runner that already exists."""
    workflow = PipelineWorkflow(stages, runner, registry)
    tasks = TaskRegistry()
    tasks.add(TASK_NAME, workflow)
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
