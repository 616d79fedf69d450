"""The orchestrator: stages in order without a database, the baseline for durability's cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from absurd_contimg.errors import SettingError
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.runner import Fence, StageResult, StageRunner
from absurd_contimg.execution.stage import PipelineStage
from absurd_contimg.registry import Registry
from absurd_contimg.stages.calibrate_apply import CalibrateApplyStage
from absurd_contimg.stages.calibrate_solve import CalibrateSolveStage
from absurd_contimg.stages.catalog_setup import CatalogSetupStage
from absurd_contimg.stages.convert import ConvertStage
from absurd_contimg.stages.flag import FlagStage
from absurd_contimg.stages.image import ImageStage
from absurd_contimg.stages.select_calibration import SelectCalibrationStage
from absurd_contimg.stages.validate import ValidateStage

IMAGING_STAGES: tuple[type[PipelineStage], ...] = (
    *(CatalogSetupStage, ConvertStage, FlagStage, CalibrateSolveStage),
    *(SelectCalibrationStage, CalibrateApplyStage, ImageStage, ValidateStage),
)
"""From the files of a group to its checked image, in their order."""


class StageOrderError(SettingError):
    """Stages cannot be ordered: an output is provided twice, by no stage, or in a circle."""


@dataclass(frozen=True, slots=True)
class OrchestratorResult:
    """The context with the outputs of all stages, and the result of each stage."""

    context: PipelineContext
    stages: tuple[StageResult, ...]


@dataclass(frozen=True, slots=True)
class PipelineOrchestrator:
    """Runs stages one after another."""

    stages: Sequence[PipelineStage]
    runner: StageRunner

    async def run(
        self, context: PipelineContext, *, attempt: str = "1", fence: Fence | None = None
    ) -> OrchestratorResult:
        """Run all stages; raises the first failure, or `StageOrderError` before any stage runs."""
        results = []
        for stage in resolve_order(self.stages, {*context.inputs, *context.outputs}):
            result = await self.runner.run(stage, context, attempt=attempt, fence=fence)
            context = context.with_outputs(result.outputs)
            results.append(result)
        return OrchestratorResult(context, tuple(results))


def standard_imaging_stages(registry: Registry) -> tuple[PipelineStage, ...]:
    """The stages from the files of a group to its checked image, in their order."""
    return tuple(
        SelectCalibrationStage(registry) if kind is SelectCalibrationStage else kind()
        for kind in IMAGING_STAGES
    )


def resolve_order(
    stages: Sequence[PipelineStage], given: Collection[str]
) -> tuple[PipelineStage, ...]:
    """Stages after the providers of what they need, otherwise in the order of the list."""
    _check_names(stages, given)
    ordered: list[PipelineStage] = []
    waiting = list(stages)
    while waiting:
        missing = {name for stage in waiting for name in stage.provides}
        needs = {stage.name: (stage.requires | stage.runs_after) & missing for stage in waiting}
        ready = next((stage for stage in waiting if not needs[stage.name]), None)
        if ready is None:
            waits = (f"{name} (waits for {', '.join(sorted(of))})" for name, of in needs.items())
            raise StageOrderError(f"Stages wait for each other in a circle: {', '.join(waits)}.")
        waiting.remove(ready)
        ordered.append(ready)
    return tuple(ordered)


def _check_names(stages: Sequence[PipelineStage], given: Collection[str]) -> None:
    """Each name that a stage requires has one provider, and each stage a name of its own."""
    providers = dict.fromkeys(given, "the inputs")
    for name, count in Counter(stage.name for stage in stages).items():
        if count > 1:
            raise StageOrderError(f"There are two stages named {name!r}.")
    for stage in stages:
        for name in stage.provides:
            if name in providers:
                raise StageOrderError(
                    f"{name!r} is provided by {providers[name]} and by stage {stage.name!r}.",
                    "Leave one of them out.",
                )
            providers[name] = f"stage {stage.name!r}"
    for stage in stages:
        if missing := sorted(stage.requires - providers.keys()):
            raise StageOrderError(
                f"Stage {stage.name!r} requires {', '.join(missing)}, which no stage and no "
                f"input provides.",
                "Add the stage that provides it, or give it as an input.",
            )
