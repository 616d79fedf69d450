"""A worker process on the small pipeline.

Everything in it is the production code, with short times: a lease of 3 s, and whatever deadline a
stage is given.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from fault_stages import STAGES

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.config import ExecutionConfig, PathsConfig, PipelineConfig
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.records import Json
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.executor import IsolatedStageExecutor, ResourceLimits, no_environment
from absurd_contimg.execution.runner import StageRunner, prepare_folders
from absurd_contimg.execution.scratch import Janitor, ScratchOwner
from absurd_contimg.execution.stage import PipelineStage
from absurd_contimg.workflows.failure_rules import CLASSIFIER

QUEUE = "dsa110-pipeline"
LEASE_SECONDS = 3
LIMITS = ResourceLimits(memory_bytes=4 << 30, open_files=256)
POLICY = RetryPolicy(
    backoff_first_seconds=0.05, resource_wait_seconds=0.3, resource_wait_limit_seconds=0.3
)


def attempt_of(
    runner: StageRunner, stage: PipelineStage, context: PipelineContext, ctx: TaskContext, name: str
) -> Callable[[int], Awaitable[Json]]:
    """One step: the stage with its outputs so far."""

    async def run(start: int) -> Json:
        made = await runner.run(
            stage, context, attempt=f"{name}-{ctx.attempt}-{start}", fence=ctx.fence
        )
        return {"outputs": dict(made.outputs), "adopted": made.adopted}

    return run


async def main(root: Path, url: str, worker_id: str, deadline_seconds: float) -> None:
    """Work until SIGTERM."""
    paths = PathsConfig.below(root / "disk")
    config = PipelineConfig(
        paths=paths, execution=ExecutionConfig(deadline_seconds=deadline_seconds)
    )
    prepare_folders(paths)
    with ScratchOwner(paths.scratch_dir, worker_id) as owner:
        Janitor(paths.scratch_dir).sweep()
        runner = StageRunner(config, IsolatedStageExecutor(no_environment, LIMITS), None, owner)

        async def pipeline(params: Mapping[str, Json], ctx: TaskContext) -> Json:
            context = PipelineContext(config, {"group_id": "G", **params})
            for stage in STAGES:
                run = attempt_of(runner, stage, context, ctx, worker_id)
                saved = await ctx.tracked_step(stage.name, run)
                context = context.with_outputs(saved["outputs"])
            return dict(context.outputs)

        tasks = TaskRegistry()
        tasks.add("pipeline", pipeline)
        async with PostgresBackend(url, pool_max_size=4) as backend:
            worker = Worker(
                backend,
                tasks,
                WorkerSettings(
                    queue_name=QUEUE,
                    worker_id=worker_id,
                    claim_timeout_seconds=LEASE_SECONDS,
                    poll_interval_seconds=0.1,
                    grace_seconds=0.1,
                ),
                CLASSIFIER,
                POLICY,
            )
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
            await worker.run()


def run(root: Path, url: str, worker_id: str, deadline_seconds: float) -> None:
    """All of a worker process."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    asyncio.run(main(root, url, worker_id, deadline_seconds))
