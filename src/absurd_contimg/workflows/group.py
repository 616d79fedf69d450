"""The pipeline of one observation group as one task, a tracked step for each stage.

A checkpoint holds outputs and paths; a later run rebuilds its context from them. What the other
workflows of a group share with this one is here too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from absurd_contimg.config import PathsConfig
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.failure_handling import RetryDecision
from absurd_contimg.core.records import ClaimedTask, Json, SpawnOptions
from absurd_contimg.errors import SettingError
from absurd_contimg.execution.context import GroupInputs, PipelineContext
from absurd_contimg.execution.fallback import fallbacks_of, with_fallbacks
from absurd_contimg.execution.runner import StageResult, StageRunner
from absurd_contimg.execution.stage import PipelineStage
from absurd_contimg.products.manifest import relocated
from absurd_contimg.products.outputs import (
    CalibrateSolveOutputs,
    SelectCalibrationOutputs,
    ValidateOutputs,
    from_json,
    names,
)
from absurd_contimg.products.store import earlier_output_dir
from absurd_contimg.products.verdicts import DEGRADED, UNCHECKED
from absurd_contimg.registry import GroupStatus
from absurd_contimg.workflows.calibration_wait import (
    GroupRegistry,
    announce_calibration,
    wait_for_calibration,
)
from absurd_contimg.workflows.failure_rules import QUARANTINE_RULES
from absurd_contimg.workflows.task_paths import catalogue_here, files_here
from absurd_contimg.workflows.versions import version_headers

_log = logging.getLogger(__name__)

_GROUP_ID_LENGTH_MAX = 100
"""Of what is entered as a group; a name is a time of 19 characters."""

TASK_NAME = "pipeline"
"""The task of one observation group."""
VERSION = 1
"""Raise it when the names, the order or the results of the steps change."""

StageRun = Callable[[PipelineStage, PipelineContext], Awaitable[Mapping[str, Json]]]
"""Runs a stage of a group; returns what `saved_result` makes of its result."""


def spawn_options(group_id: str) -> SpawnOptions:
    """One task for each group; attempts are counted by the worker, not limited by Absurd."""
    return group_task_options(group_id, VERSION)


def group_task_options(group_id: str, version: int) -> SpawnOptions:
    """The options of the only task of a group, whatever the strategy that processes it."""
    return SpawnOptions(headers=version_headers(version), idempotency_key=f"{TASK_NAME}:{group_id}")


def parse_params(params: object, paths: PathsConfig, task_name: str = TASK_NAME) -> GroupInputs:
    """The parameters of a task; raises `SettingError` that names the problems."""
    try:
        inputs = from_json(GroupInputs, cast(Mapping[str, Json], params))
    except ValueError as error:
        raise SettingError(
            f"The parameters of this {task_name} task are not valid: {error}.",
            "Spawn it again with: contimg spawn --group GROUP --respawn",
        ) from error
    places = {
        "input_files": files_here(inputs.input_files, paths),
        "catalog_path": catalogue_here(inputs.catalog_path, paths),
    }
    return inputs.model_copy(update=places)


@dataclass(frozen=True, slots=True)
class PipelineWorkflow:
    """The handler of pipeline tasks."""

    stages: Sequence[PipelineStage]
    """In order of their dependencies."""
    runner: StageRunner
    registry: GroupRegistry

    async def __call__(self, params: object, ctx: TaskContext) -> dict[str, Json]:
        """Run the group's stages; the task's result has the verdict and the outputs."""
        context = group_context(params, self.runner, ctx)

        async def run_stage(stage: PipelineStage, context: PipelineContext) -> Mapping[str, Json]:
            return await tracked_stage(self.runner, stage, context, ctx)

        context = await run_stages(self.stages, self.runner, self.registry, context, ctx, run_stage)
        return await end_group(self.registry, context)

    async def note_failure(
        self, claimed: ClaimedTask, decision: RetryDecision, reason: Mapping[str, Json]
    ) -> None:
        """Quarantine a group with poor data, else note its failure."""
        await note_group_failure(self.registry, claimed, decision, reason)


def group_context(
    params: object, runner: StageRunner, ctx: TaskContext, task_name: str = TASK_NAME
) -> PipelineContext:
    """The context before the first stage; raises `SettingError` for wrong parameters."""
    inputs = parse_params(params, runner.config.paths, task_name).model_dump(mode="json")
    return PipelineContext(runner.config, inputs, metadata={"task_id": ctx.task_id})


async def run_stages(
    stages: Sequence[PipelineStage],
    runner: StageRunner,
    registry: GroupRegistry,
    context: PipelineContext,
    ctx: TaskContext,
    run_stage: StageRun,
) -> PipelineContext:
    """Run the stages in their order; waits for a calibration and tells others of its own."""
    made_in: str | None = None
    for stage in stages:
        start = context
        if names(SelectCalibrationOutputs) <= stage.provides:
            start = await wait_for_calibration(registry, context, ctx)
        saved = await run_stage(stage, start)
        made_in = _earlier_output_dir(saved, runner) or made_in
        outputs = cast(Mapping[str, Json], saved["outputs"])
        if made_in is not None:  # the output folder has moved since the checkpoint was written
            output_dir = str(runner.config.paths.output_dir)
            outputs = cast(Mapping[str, Json], relocated(outputs, made_in, output_dir))
        context = context.with_outputs(outputs)
        if names(CalibrateSolveOutputs) <= stage.provides:
            await announce_calibration(registry, context, ctx)
    return context


def _earlier_output_dir(saved: Mapping[str, Json], runner: StageRunner) -> str | None:
    product = saved.get("product")
    if not isinstance(product, str):
        return None
    return earlier_output_dir(product, runner.config.paths.output_dir, runner.files)


async def end_group(registry: GroupRegistry, context: PipelineContext) -> dict[str, Json]:
    """Set the status of a group whose stages are done; returns the result of its task."""
    verdict = UNCHECKED
    if names(ValidateOutputs) <= context.outputs.keys():
        verdict = context.outputs_of(ValidateOutputs).validation.verdict
    status = GroupStatus.DEGRADED if verdict == DEGRADED else GroupStatus.DONE
    await asyncio.to_thread(registry.set_group_status, context.group_id, status)
    return {
        "group_id": context.group_id,
        "verdict": verdict,
        "outputs": dict(context.outputs),
        "config_ref": context.config.reference(),
    }


async def note_group_failure(
    registry: GroupRegistry,
    claimed: ClaimedTask,
    decision: RetryDecision,
    reason: Mapping[str, Json],
) -> None:
    """Set the status of the group whose task is about to fail.

    A task of another client may name what is no group: nothing is entered for it.
    """
    params = claimed.params
    group_id = params.get("group_id") if isinstance(params, Mapping) else None
    if not isinstance(group_id, str) or not 0 < len(group_id) <= _GROUP_ID_LENGTH_MAX:
        return
    poor_data = decision.verdict.rule_id in QUARANTINE_RULES
    status = GroupStatus.QUARANTINED if poor_data else GroupStatus.FAILED
    message = str(reason.get("message"))
    await asyncio.to_thread(registry.set_group_status, group_id, status, message)


async def tracked_stage(
    runner: StageRunner, stage: PipelineStage, context: PipelineContext, ctx: TaskContext
) -> Mapping[str, Json]:
    """Run a stage as a tracked step of its name."""

    async def run(start: int) -> dict[str, Json]:
        group_id, fallbacks = context.group_id, (*fallbacks_of(context), *ctx.fallbacks)
        differently = f" with {', '.join(fallbacks)}" if fallbacks else ""
        _log.info("group %s: %s begins, start %d%s", group_id, stage.name, start, differently)
        result = await runner.run(
            stage,
            with_fallbacks(context, fallbacks),
            attempt=attempt_name(ctx.task_id, start),
            fence=ctx.fence,
        )
        outcome = "was already there" if result.adopted else f"done in {result.seconds:.1f} s"
        _log.info("group %s: %s %s", group_id, stage.name, outcome)
        return saved_result(result)

    return await ctx.tracked_step(stage.name, run)


def attempt_name(task_id: str, start: int) -> str:
    """The name of one start of a stage in logs, scratch and manifests."""
    return f"{task_id[-12:]}-{start}"


def saved_result(result: StageResult) -> dict[str, Json]:
    """The checkpoint of a stage."""
    return {
        "outputs": dict(result.outputs),
        "adopted": result.adopted,
        "seconds": round(result.seconds, 3),
        "product": None if result.product is None else str(result.product),
        "logs": [str(result.casa_log), str(result.output_log)],
    }
