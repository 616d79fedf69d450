"""The pipeline of one observation group as one task, a tracked step for each stage.

A checkpoint holds outputs and paths; a later run rebuilds its context from them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, cast

from absurd_sdk import TimeoutError as EventTimeout

from absurd_contimg.config import PathsConfig
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.failure_handling import RetryDecision
from absurd_contimg.core.records import ClaimedTask, Json, SpawnOptions
from absurd_contimg.errors import SettingError
from absurd_contimg.execution.context import GroupInputs, PipelineContext
from absurd_contimg.execution.fallback import with_fallbacks
from absurd_contimg.execution.runner import StageRunner
from absurd_contimg.execution.stage import PipelineStage
from absurd_contimg.products.manifest import relocated
from absurd_contimg.products.outputs import (
    CalibrateSolveOutputs,
    SelectCalibrationOutputs,
    SolvedCaltables,
    ValidateOutputs,
    from_json,
    names,
)
from absurd_contimg.products.store import earlier_output_dir
from absurd_contimg.registry import Group, GroupStatus
from absurd_contimg.workflows.failure_rules import QUARANTINE_RULES
from absurd_contimg.workflows.task_paths import require_catalogue, require_inputs

_log = logging.getLogger(__name__)

TASK_NAME = "pipeline"
"""The task of one observation group."""


def spawn_options(group_id: str) -> SpawnOptions:
    """One task for each group; attempts are counted by the worker, not limited by Absurd."""
    return SpawnOptions(idempotency_key=f"{TASK_NAME}:{group_id}")


def parse_params(params: object, paths: PathsConfig) -> GroupInputs:
    """The parameters of a task; raises `SettingError` that names the problems."""
    try:
        inputs = from_json(GroupInputs, cast(Mapping[str, Json], params))
    except ValueError as error:
        raise SettingError(
            f"The parameters of this {TASK_NAME} task are not valid: {error}.",
            "Spawn it again with: contimg spawn --respawn",
        ) from error
    require_inputs(inputs.input_files, paths)
    require_catalogue(inputs.catalog_path, paths)
    return inputs


class GroupRegistry(Protocol):
    """The part of the registry that the workflow uses; called in a thread."""

    def set_group_status(
        self, group_id: str, status: GroupStatus, reason: str | None = None
    ) -> None:
        """Set the status of a group, with the reason if it did not end well."""

    def groups(self, status: GroupStatus | None = None) -> Sequence[Group]:
        """All groups, or those of one status."""

    def calibration_exists(self, group_id: str) -> bool:
        """Whether a set of caltables may serve the group."""


@dataclass(frozen=True, slots=True)
class PipelineWorkflow:
    """The handler of pipeline tasks."""

    stages: Sequence[PipelineStage]
    """In order of their dependencies."""
    runner: StageRunner
    registry: GroupRegistry

    async def __call__(self, params: object, ctx: TaskContext) -> dict[str, Json]:
        """Run the group's stages; the task's result has the verdict and the outputs."""
        inputs = parse_params(params, self.runner.config.paths).model_dump(mode="json")
        context = PipelineContext(self.runner.config, inputs, metadata={"task_id": ctx.task_id})
        made_in: str | None = None
        for stage in self.stages:
            if names(SelectCalibrationOutputs) <= stage.provides:
                await self._wait_for_calibration(context, ctx)
            saved = await ctx.tracked_step(stage.name, self._step(stage, context, ctx))
            made_in = self._earlier_output_dir(saved) or made_in
            outputs = cast(Mapping[str, Json], saved["outputs"])
            if made_in is not None:  # the output folder has moved since the checkpoint was written
                output_dir = str(self.runner.config.paths.output_dir)
                outputs = cast(Mapping[str, Json], relocated(outputs, made_in, output_dir))
            context = context.with_outputs(outputs)
            if names(CalibrateSolveOutputs) <= stage.provides:
                await self._announce_calibration(context, ctx)
        verdict = "unchecked"
        if names(ValidateOutputs) <= context.outputs.keys():
            verdict = context.outputs_of(ValidateOutputs).validation.verdict
        status = GroupStatus.DEGRADED if verdict == "degraded" else GroupStatus.DONE
        await asyncio.to_thread(self.registry.set_group_status, context.group_id, status)
        return {
            "group_id": context.group_id,
            "verdict": verdict,
            "outputs": dict(context.outputs),
            "config_ref": context.config.reference(),
        }

    def _earlier_output_dir(self, saved: Mapping[str, Json]) -> str | None:
        product = saved.get("product")
        if not isinstance(product, str):
            return None
        return earlier_output_dir(product, self.runner.config.paths.output_dir, self.runner.files)

    async def note_failure(
        self, claimed: ClaimedTask, decision: RetryDecision, reason: Mapping[str, Json]
    ) -> None:
        """For `Worker.on_failure`: quarantine a group with poor data, else note its failure."""
        params = claimed.params
        if claimed.task_name != TASK_NAME or not isinstance(params, Mapping):
            return
        poor_data = decision.verdict.rule_id in QUARANTINE_RULES
        status = GroupStatus.QUARANTINED if poor_data else GroupStatus.FAILED
        group_id, message = str(params.get("group_id")), str(reason.get("message"))
        await asyncio.to_thread(self.registry.set_group_status, group_id, status, message)

    def _step(
        self, stage: PipelineStage, context: PipelineContext, ctx: TaskContext
    ) -> Callable[[int], Awaitable[dict[str, Json]]]:
        async def run(start: int) -> dict[str, Json]:
            group_id = context.group_id
            fallbacks = f" with {', '.join(ctx.fallbacks)}" if ctx.fallbacks else ""
            _log.info("group %s: %s begins, start %d%s", group_id, stage.name, start, fallbacks)
            result = await self.runner.run(
                stage,
                with_fallbacks(context, ctx.fallbacks),
                attempt=f"{ctx.task_id[-12:]}-{start}",
                fence=ctx.fence,
            )
            outcome = "was already there" if result.adopted else f"done in {result.seconds:.1f} s"
            _log.info("group %s: %s %s", group_id, stage.name, outcome)
            return {
                "outputs": dict(result.outputs),
                "adopted": result.adopted,
                "seconds": round(result.seconds, 3),
                "product": None if result.product is None else str(result.product),
                "logs": [str(result.casa_log), str(result.output_log)],
            }

        return run

    async def _wait_for_calibration(self, context: PipelineContext, ctx: TaskContext) -> None:
        """Suspend until a calibration may serve this group, or the wait is over.

        None is missed: the group gets its waiting status before the second query, and a
        group that solves registers its tables before it reads which groups wait.
        """
        group_id, registry = context.group_id, self.registry
        if await asyncio.to_thread(registry.calibration_exists, group_id):
            return
        waiting = GroupStatus.WAITING_FOR_CALIBRATION
        await asyncio.to_thread(registry.set_group_status, group_id, waiting)
        if not await asyncio.to_thread(registry.calibration_exists, group_id):
            timeout = context.config.execution.calibration_wait_seconds
            with suppress(EventTimeout):
                await ctx.await_event(calibration_event(group_id), timeout=timeout)

    async def _announce_calibration(self, context: PipelineContext, ctx: TaskContext) -> None:
        """Wake the groups that wait for these solutions; no step: a repeated emit is harmless."""
        caltables = context.outputs_of(CalibrateSolveOutputs).caltables
        if not isinstance(caltables, SolvedCaltables):
            return
        for group_id in await asyncio.to_thread(served_groups, self.registry):
            await ctx.emit_event(calibration_event(group_id), {"set_name": caltables.set_name})


def served_groups(registry: GroupRegistry) -> list[str]:
    """The groups that wait for a calibration although there is one."""
    waiting = registry.groups(GroupStatus.WAITING_FOR_CALIBRATION)
    return [group.group_id for group in waiting if registry.calibration_exists(group.group_id)]


def calibration_event(group_id: str) -> str:
    """The event that a group waits for."""
    return f"calibration.available:{group_id}"
