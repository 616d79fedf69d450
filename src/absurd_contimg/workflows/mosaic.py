"""The mosaic of a window as one task: which images, the mosaic, its photometry, its publication.

The images are chosen once, in a checkpoint: a later attempt, or one after a group was processed
again, makes the same mosaic.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from absurd_contimg.config import PathsConfig
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.failure_handling import RetryDecision
from absurd_contimg.core.records import ClaimedTask, Json, SpawnOptions
from absurd_contimg.errors import SettingError
from absurd_contimg.execution.context import MosaicInputs, PipelineContext
from absurd_contimg.execution.runner import StageRunner
from absurd_contimg.execution.stage import PipelineStage
from absurd_contimg.products.manifest import relocated
from absurd_contimg.products.mosaic_outputs import MissingMember, MosaicMembers
from absurd_contimg.products.outputs import from_json, to_json
from absurd_contimg.products.store import earlier_output_dir
from absurd_contimg.stages.mosaic import MosaicStage
from absurd_contimg.stages.photometry import PhotometryStage
from absurd_contimg.workflows.group import tracked_stage
from absurd_contimg.workflows.publication import Publisher
from absurd_contimg.workflows.task_paths import catalogue_here
from absurd_contimg.workflows.versions import version_headers

TASK_NAME = "mosaic"
VERSION = 1
"""Raise it when the names, the order or the results of the steps change."""
MEMBERS_STEP = "members"


def spawn_options(inputs: MosaicInputs) -> SpawnOptions:
    """One task for each window; other tiers have names of their own."""
    tier = "" if inputs.tier == "quicklook" else f"{inputs.tier}:"
    key = f"{TASK_NAME}:{tier}{inputs.window_id}"
    return SpawnOptions(headers=version_headers(VERSION), idempotency_key=key)


def mosaic_stages() -> tuple[PipelineStage, ...]:
    """The stages of a mosaic task, in their order."""
    return (MosaicStage(), PhotometryStage())


def parse_params(params: object, paths: PathsConfig) -> MosaicInputs:
    """The parameters of a task; raises `SettingError` that names the problems."""
    try:
        inputs = from_json(MosaicInputs, cast(Mapping[str, Json], params))
    except ValueError as error:
        raise SettingError(
            f"The parameters of this {TASK_NAME} task are not valid: {error}.",
            "Make the mosaic again: contimg mosaic make",
        ) from error
    catalogue = catalogue_here(inputs.catalog_path, paths)
    return inputs.model_copy(update={"catalog_path": catalogue})


class MemberRegistry(Protocol):
    """The part of the registry that the workflow uses; called in a thread."""

    def mosaic_members(self, group_ids: Sequence[str]) -> MosaicMembers:
        """The newest image of each group, and the groups without one, with the reason."""


@dataclass(frozen=True, slots=True)
class MosaicWorkflow:
    """The handler of mosaic tasks."""

    stages: Sequence[PipelineStage]
    """In order of their dependencies."""
    runner: StageRunner
    registry: MemberRegistry
    publisher: Publisher

    async def __call__(self, params: object, ctx: TaskContext) -> dict[str, Json]:
        """Choose the images, run the stages, publish; the result has the verdict and outputs.

        What fails its checks is not published, which is no failure of the task.
        """
        config = self.runner.config
        inputs = parse_params(params, config.paths)

        async def choose() -> dict[str, Json]:
            return await asyncio.to_thread(self._choose, inputs)

        members = await ctx.step(MEMBERS_STEP, choose)
        context = PipelineContext(
            config,
            inputs.model_dump(mode="json"),
            self._in_place(members, _first_image(members)),
            {"task_id": ctx.task_id},
        )
        products: dict[str, Json] = {}
        for stage in self.stages:
            saved = await tracked_stage(self.runner, stage, context, ctx)
            saved = self._in_place(saved, saved["product"])
            products[stage.name] = saved["product"]
            context = context.with_outputs(cast(Mapping[str, Json], saved["outputs"]))
        publication = await self.publisher.publish(ctx, Path(str(products[MosaicStage.name])))
        result: dict[str, Json] = {
            "window_id": inputs.window_id,
            "tier": inputs.tier,
            "outputs": {name: context.outputs[name] for name in context.outputs.keys() - members},
            "publication": publication,
            "config_ref": config.reference(),
        }
        mosaic = context.outputs["mosaic"]
        if isinstance(mosaic, Mapping) and "verdict" in mosaic:
            result["verdict"] = mosaic["verdict"]
        return result

    async def note_failure(
        self, claimed: ClaimedTask, decision: RetryDecision, reason: Mapping[str, Json]
    ) -> None:
        """A mosaic's failure is no group's: its own task has it."""

    def _choose(self, inputs: MosaicInputs) -> dict[str, Json]:
        members = self.registry.mosaic_members(inputs.members)
        left_out = [MissingMember(*item) for item in inputs.left_out.items()]
        return to_json(MosaicMembers(members.tiles, (*members.missing, *left_out)))

    def _in_place(self, saved: Mapping[str, Json], product: Json) -> Mapping[str, Json]:
        """What was saved, with its paths as they are now, if the output folder has moved."""
        output_dir = self.runner.config.paths.output_dir
        if not isinstance(product, str):
            return saved
        made_in = earlier_output_dir(product, output_dir, self.runner.files)
        if made_in is None:
            return saved
        return cast(Mapping[str, Json], relocated(saved, made_in, str(output_dir)))


def _first_image(members: Mapping[str, Json]) -> Json:
    """The folder of a product in the members' outputs, to see whether it has moved."""
    tiles = from_json(MosaicMembers, members).tiles
    return str(tiles[0].image.path.parent) if tiles else None
