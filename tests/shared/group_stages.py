"""Small stages of a group, run in this process, for tests of workflows."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from absurd_contimg.config import ExecutionConfig, PathsConfig, PipelineConfig
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.records import TERMINAL_STATES, Json
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.core.worker_group import run_workers
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.executor import StageReport, StageRequest
from absurd_contimg.execution.product_builder import Provenance, complete_product, plan_product
from absurd_contimg.execution.runner import StageRunner, prepare_folders
from absurd_contimg.execution.scratch import ScratchOwner
from absurd_contimg.execution.stage import PipelineStage, Resource, Workspace, stage_queues
from absurd_contimg.execution.stage_process import run_stage
from absurd_contimg.registry import Registry
from absurd_contimg.workflows.assembly import make_pipeline_worker

QUEUE = "dsa110-pipeline"


class _Step(PipelineStage):
    """Makes one file from one file."""

    source: str

    def input_paths(self, context: PipelineContext) -> list[Path]:
        return [Path(str(context.outputs[self.source]))]

    def execute(self, context: PipelineContext, workspace: Workspace) -> dict[str, Json]:
        (source,) = self.input_paths(context)
        target = workspace.product / self.name
        target.write_bytes(self.name.encode() + b" of " + source.read_bytes())
        (output,) = self.provides
        return {output: str(workspace.final_path(target))}


class Convert(_Step):
    """From the first input file."""

    name = "convert"
    requires = frozenset({"input_files"})
    provides = frozenset({"converted"})
    product_folder = "converted"

    def input_paths(self, context: PipelineContext) -> list[Path]:
        return [context.group_inputs.input_files[0]]


class Apply(_Step):
    """On the queue of calibration."""

    name = "calibrate_apply"
    resource = Resource.CALIBRATION
    source = "converted"
    requires = frozenset({"converted"})
    provides = frozenset({"calibrated"})
    product_folder = "applied"


class Image(_Step):
    """On the queue of imaging."""

    name = "image"
    resource = Resource.IMAGING
    source = "calibrated"
    requires = frozenset({"calibrated"})
    provides = frozenset({"picture"})
    product_folder = "pictures"


STAGES: tuple[PipelineStage, ...] = (Convert(), Apply(), Image())


@dataclass
class InProcessExecutor:
    """Runs stages in a thread; fails and waits as it is told."""

    stages: Mapping[str, PipelineStage]
    failures: dict[str, list[Exception]] = field(default_factory=lambda: defaultdict(list))
    """What the next starts of a stage raise, by its name."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    starts: list[tuple[str, str]] = field(default_factory=list)
    """Stage and group of each start."""
    running: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    running_max: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    async def execute(self, request: StageRequest) -> StageReport:
        name = request.stage_name
        self.starts.append((name, request.context.group_id))
        self.running[name] += 1
        self.running_max[name] = max(self.running_max[name], self.running[name])
        try:
            await asyncio.sleep(self.seconds.get(name, 0.0))
            if self.failures[name]:
                raise self.failures[name].pop(0)
            return await asyncio.to_thread(self._run, self.stages[name], request)
        finally:
            self.running[name] -= 1

    def _run(self, stage: PipelineStage, request: StageRequest) -> StageReport:
        planned = plan_product(stage, request.context)
        assert planned is not None
        if planned.existing is not None:
            return StageReport(planned.existing.outputs, planned.committed, True, None, 0.0)
        scratch = request.scratch
        workspace = Workspace(
            scratch / "product", scratch / "temporary", request.casa_log, planned.committed
        )
        workspace.product.mkdir()
        workspace.temporary.mkdir()
        outputs = run_stage(stage, request.context, workspace)
        made = Provenance(request.attempt, "host", "2026-01-01T00:00:00", {})
        complete_product(workspace.product, stage, request.context, planned, outputs, made)
        return StageReport(outputs, planned.committed, False, workspace.product, 0.0)


@dataclass
class Site:
    """Folders, a registry and workers in this process, for groups of small stages."""

    root: Path
    backend: Backend
    stages: Sequence[PipelineStage] = STAGES
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)

    def __post_init__(self) -> None:
        paths = PathsConfig.below(self.root)
        self.config = PipelineConfig(paths=paths, execution=self.execution)
        prepare_folders(paths)
        paths.input_dir.mkdir(exist_ok=True)
        self.registry = Registry(self.root / "registry.sqlite3")
        self.scratch = ScratchOwner(paths.scratch_dir, "worker-1").acquire()
        self.executor = InProcessExecutor({stage.name: stage for stage in self.stages})
        self.runner = StageRunner(self.config, self.executor, self.registry, self.scratch)

    def close(self) -> None:
        self.scratch.release()
        self.registry.close()

    async def make_queues(self) -> None:
        for queue in (QUEUE, *stage_queues(QUEUE).values()):
            await self.backend.create_queue(queue)

    def params(self, group_id: str) -> dict[str, Json]:
        source = self.config.paths.input_dir / f"{group_id}_sb00.hdf5"
        source.write_text(group_id)
        return {"group_id": group_id, "input_files": [str(source)], "catalog_path": str(source)}

    def worker(self, queue: str, concurrency: int = 2, poison_limit: int = 3) -> Worker:
        settings = WorkerSettings(
            queue, "worker-1", concurrency, poll_interval_seconds=0.01, grace_seconds=0.0
        )
        policy = RetryPolicy(poison_limit=poison_limit, backoff_first_seconds=0.0)
        return make_pipeline_worker(
            self.backend, settings, policy, self.stages, self.runner, self.registry
        )

    async def work_until_ended(self, task_id: UUID, queues: Sequence[str] | None = None) -> None:
        """Until the task on the main queue has ended, by a wait that is over after a second."""
        async with asyncio.timeout(30):
            while (result := await self.backend.get_task_result(QUEUE, task_id)) is not None:
                if result.state in TERMINAL_STATES:
                    return
                await self.work(queues)
                await asyncio.sleep(0.05)

    async def work(self, queues: Sequence[str] | None = None, concurrency: int = 2) -> None:
        """Until all queues are idle."""
        served = queues or (QUEUE, *stage_queues(QUEUE).values())
        async with asyncio.timeout(30):
            await run_workers([self.worker(queue, concurrency) for queue in served], True)
