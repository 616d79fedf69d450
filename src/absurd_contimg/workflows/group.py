"""Strategy 1: the pipeline of one observation group as one task, a step for each stage.

Each stage is a tracked step whose checkpoint holds the stage's new outputs and where its product
and logs lie: small JSON, never arrays. A resumed run rebuilds its `PipelineContext` from the
checkpoints and goes on with the first stage that has none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from absurd_sdk import TimeoutError as EventTimeout
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from absurd_contimg.config import PipelineConfig
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.failure_handling import RetryDecision
from absurd_contimg.core.records import ClaimedTask, Json, SpawnOptions
from absurd_contimg.errors import SettingError
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.fallback import with_fallbacks
from absurd_contimg.execution.runner import Fence, StageResult
from absurd_contimg.execution.stage import PipelineStage
from absurd_contimg.products.outputs import (
    CalibrateSolveOutputs,
    SelectCalibrationOutputs,
    SolvedCaltables,
    ValidateOutputs,
    names,
)
from absurd_contimg.registry import Group, GroupStatus
from absurd_contimg.workflows.failure_rules import QUARANTINE_RULES

_log = logging.getLogger(__name__)

TASK_NAME = "pipeline"
"""The task of one observation group."""


class PipelineParams(BaseModel):
    """The parameters of a pipeline task: what to process, not how (that is configuration)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    group_id: str = Field(min_length=1)
    """The observation group: the timestamp of its earliest sub-band, UTC."""
    input_files: list[str] = Field(min_length=1)
    """The group's sub-band files (UVH5)."""
    catalog_path: str
    """The sky catalogue (CSV) to calibrate and validate against."""
    calibrator: str = "auto"
    """``auto``, ``none``, or the name of the calibrator that must be in the field."""

    @property
    def idempotency_key(self) -> str:
        """One task for each observation group, however often it is spawned."""
        return f"{TASK_NAME}:{self.group_id}"

    def spawn_options(self) -> SpawnOptions:
        """No attempt limit for Absurd: the worker counts by step and by kind of failure."""
        return SpawnOptions(idempotency_key=self.idempotency_key)

    @classmethod
    def parse(cls, params: object) -> PipelineParams:
        """The parameters of a task; raises `SettingError` that names what is wrong."""
        try:
            return cls.model_validate(params)
        except ValidationError as error:
            wrong = "; ".join(
                f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}"
                for one in error.errors()
            )
            raise SettingError(
                f"The parameters of this {TASK_NAME} task are not valid: {wrong}.",
                "Spawn it again with: contimg spawn --respawn",
            ) from error


class Runner(Protocol):
    """What runs a stage: `StageRunner`, or durations and failures in the simulation."""

    @property
    def config(self) -> PipelineConfig:
        """The configuration that stages are run with."""
        ...

    async def run(
        self,
        stage: PipelineStage,
        context: PipelineContext,
        *,
        attempt: str,
        fence: Fence | None = None,
    ) -> StageResult:
        """Run one attempt; returns when its product is committed and registered."""
        ...


class GroupRegistry(Protocol):
    """What the workflow needs of the registry; called in a thread, because it blocks."""

    def set_group_status(
        self, group_id: str, status: GroupStatus, reason: str | None = None
    ) -> None:
        """Note where a group stands."""
        ...

    def groups(self, status: GroupStatus | None = None) -> Sequence[Group]:
        """The groups of one status."""
        ...

    def calibration_exists(self, group_id: str) -> bool:
        """Whether a set of caltables may serve the group."""
        ...


@dataclass(frozen=True, slots=True)
class PipelineWorkflow:
    """The handler of pipeline tasks."""

    stages: Sequence[PipelineStage]
    """In order of their dependencies."""
    runner: Runner
    registry: GroupRegistry
    calibration_wait_seconds: int
    """How long a group waits for somebody else's calibration before it fails."""

    async def __call__(self, params: object, ctx: TaskContext) -> dict[str, Json]:
        """Run the group's stages; the task's result is its verdict and its products."""
        wanted = PipelineParams.parse(params)
        context = PipelineContext(
            self.runner.config,
            inputs=wanted.model_dump(),
            metadata={"task_id": ctx.task_id},
        )
        for stage in self.stages:
            if names(SelectCalibrationOutputs) <= stage.provides:
                await self._wait_for_calibration(context, ctx)
            saved = await ctx.tracked_step(stage.name, self._step(stage, context, ctx))
            context = context.with_outputs(cast(Mapping[str, Json], saved["outputs"]))
            if names(CalibrateSolveOutputs) <= stage.provides:
                await self._announce_calibration(context, ctx)
        await asyncio.to_thread(self._close_group, wanted.group_id, _verdict(context))
        return {
            "group_id": wanted.group_id,
            "verdict": _verdict(context),
            "outputs": dict(context.outputs),
            "config_ref": context.config.reference(),
        }

    async def note_failure(
        self, claimed: ClaimedTask, decision: RetryDecision, reason: Mapping[str, Json]
    ) -> None:
        """For `Worker.on_failure`: enter into the registry how the group ends, and why.

        Data that are not good enough end in quarantine, everything else as failed.
        """
        params = claimed.params
        if claimed.task_name != TASK_NAME or not isinstance(params, Mapping):
            return
        unfit = decision.verdict.rule_id in QUARANTINE_RULES
        status = GroupStatus.QUARANTINED if unfit else GroupStatus.FAILED
        group_id, why = str(params.get("group_id")), str(reason.get("message"))
        await asyncio.to_thread(self.registry.set_group_status, group_id, status, why)

    def _step(
        self, stage: PipelineStage, context: PipelineContext, ctx: TaskContext
    ) -> Callable[[int], Awaitable[dict[str, Json]]]:
        async def run(start: int) -> dict[str, Json]:
            group_id = context.group_id
            how = f" with {', '.join(ctx.fallbacks)}" if ctx.fallbacks else ""
            _log.info("group %s: %s begins, start %d%s", group_id, stage.name, start, how)
            result = await self.runner.run(
                stage,
                with_fallbacks(context, ctx.fallbacks),
                attempt=f"{ctx.task_id[-12:]}-{start}",
                fence=ctx.fence,
            )
            how = "was already there" if result.adopted else f"done in {result.seconds:.1f} s"
            _log.info("group %s: %s %s", group_id, stage.name, how)
            return {
                "outputs": dict(result.outputs),
                "adopted": result.adopted,
                "seconds": round(result.seconds, 3),
                "product": None if result.product is None else str(result.product),
                "logs": [str(result.casa_log), str(result.output_log)],
            }

        return run

    async def _wait_for_calibration(self, context: PipelineContext, ctx: TaskContext) -> None:
        """Suspend until a calibration is valid for this group, or the wait is over.

        Nothing is lost between looking and waiting: the group is noted as waiting *before* the
        second look, and whoever solves enters his tables *before* he reads who waits. When the
        wait is over, the stage that selects the calibration says what is missing.
        """
        group_id = context.group_id
        if await asyncio.to_thread(self.registry.calibration_exists, group_id):
            return
        waiting = GroupStatus.WAITING_FOR_CALIBRATION
        await asyncio.to_thread(self.registry.set_group_status, group_id, waiting)
        if await asyncio.to_thread(self.registry.calibration_exists, group_id):
            return
        try:
            await ctx.await_event(_available(group_id), timeout=self.calibration_wait_seconds)
        except EventTimeout:
            return

    async def _announce_calibration(self, context: PipelineContext, ctx: TaskContext) -> None:
        """Wake the groups that wait for what this one has solved.

        Not a step: a repeated emit of the same event changes nothing.
        """
        caltables = context.outputs_of(CalibrateSolveOutputs).caltables
        if not isinstance(caltables, SolvedCaltables):
            return
        for group_id in await asyncio.to_thread(self._groups_now_served):
            payload = {"set_name": caltables.set_name}
            await ctx.emit_event(_available(group_id), payload)

    def _close_group(self, group_id: str, verdict: str) -> None:
        status = GroupStatus.DEGRADED if verdict == "degraded" else GroupStatus.DONE
        self.registry.set_group_status(group_id, status)

    def _groups_now_served(self) -> list[str]:
        waiting = self.registry.groups(GroupStatus.WAITING_FOR_CALIBRATION)
        return [one.group_id for one in waiting if self.registry.calibration_exists(one.group_id)]


def _available(group_id: str) -> str:
    return f"calibration.available:{group_id}"


def _verdict(context: PipelineContext) -> str:
    """``clean`` or ``degraded``; ``unchecked`` if no stage validates."""
    if not names(ValidateOutputs) <= context.outputs.keys():
        return "unchecked"
    return context.outputs_of(ValidateOutputs).validation.verdict
