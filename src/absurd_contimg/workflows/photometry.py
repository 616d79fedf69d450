"""The photometry of one group's image or one window's mosaic as a task of one step."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from pydantic import BaseModel, ConfigDict, Field

from absurd_contimg.config import PathsConfig
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.failure_handling import RetryDecision
from absurd_contimg.core.records import ClaimedTask, Json, SpawnOptions
from absurd_contimg.errors import SettingError
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.fallback import with_fallbacks
from absurd_contimg.execution.runner import StageRunner
from absurd_contimg.execution.stage import PipelineStage
from absurd_contimg.products.outputs import from_json
from absurd_contimg.workflows.group import attempt_name
from absurd_contimg.workflows.task_paths import catalogue_here
from absurd_contimg.workflows.versions import version_headers

_log = logging.getLogger(__name__)

TASK_NAME = "photometry"
"""The task that measures in the image of a group or the mosaic of a window."""
VERSION = 1
"""Raise it when the names, the order or the results of the steps change."""


class PhotometryInputs(BaseModel):
    """The parameters of a photometry task."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    group_id: str = Field(min_length=1)
    """The group whose newest image, or the window whose mosaic is measured."""
    catalog_path: Path
    """The sky catalogue (CSV) with the positions."""


def spawn_options(group_id: str, image_key: str | None = None) -> SpawnOptions:
    """One task for each group or window, and for each image of it by its product key."""
    key = f"{TASK_NAME}:{group_id}" + ("" if image_key is None else f":{image_key}")
    return SpawnOptions(headers=version_headers(VERSION), idempotency_key=key)


def parse_params(params: object, paths: PathsConfig) -> PhotometryInputs:
    """The parameters of a task; raises `SettingError` that names the problems."""
    try:
        inputs = from_json(PhotometryInputs, cast(Mapping[str, Json], params))
    except ValueError as error:
        raise SettingError(
            f"The parameters of this {TASK_NAME} task are not valid: {error}.",
            "Measure it again: contimg photometry GROUP",
        ) from error
    catalogue = catalogue_here(inputs.catalog_path, paths)
    return inputs.model_copy(update={"catalog_path": catalogue})


class MeasuredImageRegistry(Protocol):
    """The part of the registry that the workflow uses; called in a thread."""

    def image_outputs(self, group_id: str) -> Mapping[str, Json]:
        """The outputs of the newest image of a group, or of the newest mosaic of a window.

        Raises `MissingInputError` without any.
        """


@dataclass(frozen=True, slots=True)
class PhotometryWorkflow:
    """The handler of photometry tasks."""

    stage: PipelineStage
    runner: StageRunner
    registry: MeasuredImageRegistry

    async def __call__(self, params: object, ctx: TaskContext) -> dict[str, Json]:
        """Measure; the task's result has the figures of the table."""
        inputs = parse_params(params, self.runner.config.paths)

        async def run(start: int) -> dict[str, Json]:
            outputs = await asyncio.to_thread(self.registry.image_outputs, inputs.group_id)
            context = PipelineContext(
                self.runner.config,
                inputs.model_dump(mode="json"),
                outputs,
                {"task_id": ctx.task_id},
            )
            result = await self.runner.run(
                self.stage,
                with_fallbacks(context, ctx.fallbacks),
                attempt=attempt_name(ctx.task_id, start),
                fence=ctx.fence,
            )
            outcome = "was already there" if result.adopted else f"done in {result.seconds:.1f} s"
            _log.info("%s: %s %s", inputs.group_id, self.stage.name, outcome)
            return {
                "outputs": dict(result.outputs),
                "adopted": result.adopted,
                "seconds": round(result.seconds, 3),
                "product": None if result.product is None else str(result.product),
                "logs": [str(result.casa_log), str(result.output_log)],
            }

        saved = await ctx.tracked_step(self.stage.name, run)
        return {
            "group_id": inputs.group_id,
            "outputs": saved["outputs"],
            "config_ref": self.runner.config.reference(),
        }

    async def note_failure(
        self, claimed: ClaimedTask, decision: RetryDecision, reason: Mapping[str, Json]
    ) -> None:
        """A failed measurement is no failure of its group: its own task has it."""
