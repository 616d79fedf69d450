"""A durable workflow around one step that runs the orchestrator's plain sequence of stages.

A checkpoint before and after it; within the step, only the products on disk remember anything.
After a kill the sequence begins again, adopts each finished product and goes on at the first
missing one. The worker extends the lease meanwhile, and every product is fenced.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.failure_handling import RetryDecision
from absurd_contimg.core.records import ClaimedTask, Json, SpawnOptions
from absurd_contimg.errors import NoCalibrationError
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.fallback import fallbacks_of, with_fallbacks
from absurd_contimg.execution.runner import StageRunner
from absurd_contimg.execution.stage import PipelineStage
from absurd_contimg.products.outputs import CalibrateSolveOutputs, names
from absurd_contimg.workflows.calibration_wait import (
    GroupRegistry,
    announce_calibration,
    wait_for_calibration,
)
from absurd_contimg.workflows.group import (
    attempt_name,
    end_group,
    group_context,
    group_task_options,
    note_group_failure,
)
from absurd_contimg.workflows.orchestrator import PipelineOrchestrator

_log = logging.getLogger(__name__)

TASK_NAME = "hybrid"
VERSION = 1
"""Raise it when the names, the order or the results of the steps change."""

_STEP = "execute_pipeline"


def spawn_options(group_id: str) -> SpawnOptions:
    """One task for each group, of whatever strategy."""
    return group_task_options(group_id, VERSION)


@dataclass(frozen=True, slots=True)
class HybridWorkflow:
    """The handler of hybrid tasks."""

    stages: Sequence[PipelineStage]
    runner: StageRunner
    registry: GroupRegistry

    async def __call__(self, params: Json, ctx: TaskContext) -> Mapping[str, Json]:
        """Run the sequence, twice if it has to wait for a calibration in between."""
        context = group_context(params, self.runner, ctx, TASK_NAME)

        async def begin() -> dict[str, Json]:
            return {"group_id": context.group_id, "attempt": ctx.attempt}

        await ctx.step("workflow_init", begin)
        saved = await self._execute(context, ctx)
        if saved["waits_for"] == "calibration":
            context = await wait_for_calibration(self.registry, context, ctx)
            saved = await self._execute(context, ctx, is_last=True)
        context = context.with_outputs(cast(Mapping[str, Json], saved["outputs"]))
        if names(CalibrateSolveOutputs) <= context.outputs.keys():
            await announce_calibration(self.registry, context, ctx)

        async def complete() -> dict[str, Json]:
            return await end_group(self.registry, context)

        return await ctx.step("workflow_complete", complete)

    async def _execute(
        self, context: PipelineContext, ctx: TaskContext, *, is_last: bool = False
    ) -> Mapping[str, Json]:
        """The step that runs all stages; before the last one, a missing calibration ends it."""

        async def run(start: int) -> dict[str, Json]:
            group_id = context.group_id
            _log.info("group %s: the sequence of stages begins, start %d", group_id, start)
            orchestrator = PipelineOrchestrator(self.stages, self.runner)
            fallbacks = (*fallbacks_of(context), *ctx.fallbacks)
            try:
                result = await orchestrator.run(
                    with_fallbacks(context, fallbacks),
                    attempt=attempt_name(ctx.task_id, start),
                    fence=ctx.fence,
                )
            except NoCalibrationError:
                if is_last:
                    raise
                return {"waits_for": "calibration", "outputs": {}, "stages": []}
            return {
                "waits_for": None,
                "outputs": dict(result.context.outputs),
                "stages": [
                    {"stage": r.stage, "adopted": r.adopted, "seconds": round(r.seconds, 3)}
                    for r in result.stages
                ],
            }

        return await ctx.tracked_step(_STEP, run)

    async def note_failure(
        self, claimed: ClaimedTask, decision: RetryDecision, reason: Mapping[str, Json]
    ) -> None:
        """Quarantine a group with poor data, else note its failure."""
        await note_group_failure(self.registry, claimed, decision, reason)
