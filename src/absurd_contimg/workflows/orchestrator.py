"""The orchestrator: stages in the order of their dependencies, without any database.

It is the plain way to process a group, and the baseline for the cost of durability. It keeps only
what the stages commit: after a failure a second run adopts every finished product.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from absurd_contimg.errors import SettingError
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.runner import StageResult, StageRunner
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


class PipelineOrchestrator:
    """Runs stages one after another."""

    def __init__(self, stages: Sequence[PipelineStage], runner: StageRunner) -> None:
        self._stages = tuple(stages)
        self._runner = runner

    async def run(self, context: PipelineContext, *, attempt: str = "1") -> OrchestratorResult:
        """Run all stages on one group; raises the first failure of a stage.

        Raises `StageOrderError` before any stage runs if the stages do not fit together.
        """
        results = []
        for stage in resolve_order(self._stages, {*context.inputs, *context.outputs}):
            result = await self._runner.run(stage, context, attempt=attempt)
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
    """The stages in an order in which each follows the providers of what it requires.

    Independent stages stay in the order of the list. `given` are the inputs. A stage also follows
    the providers of the outputs in its `runs_after`.
    """
    providers = _providers(stages, given)
    _check_provided(stages, {*providers, *given})
    ordered: list[PipelineStage] = []
    waiting = list(stages)
    while waiting:
        missing = {name for stage in waiting for name in stage.provides}
        ready = next((stage for stage in waiting if not _needs(stage) & missing), None)
        if ready is None:
            names = ", ".join(
                f"{stage.name} (waits for {', '.join(sorted(_needs(stage) & missing))})"
                for stage in waiting
            )
            raise StageOrderError(f"Stages wait for each other in a circle: {names}.")
        waiting.remove(ready)
        ordered.append(ready)
    return tuple(ordered)


def _needs(stage: PipelineStage) -> frozenset[str]:
    return stage.requires | stage.runs_after


def _providers(stages: Sequence[PipelineStage], given: Collection[str]) -> dict[str, str]:
    """The provider of each name; raises `StageOrderError` if there are two."""
    providers: dict[str, str] = dict.fromkeys(given, "the inputs")
    names: set[str] = set()
    for stage in stages:
        if stage.name in names:
            raise StageOrderError(f"There are two stages named {stage.name!r}.")
        names.add(stage.name)
        for name in stage.provides:
            if name in providers:
                raise StageOrderError(
                    f"{name!r} is provided by {providers[name]} and by stage {stage.name!r}.",
                    "Leave one of them out.",
                )
            providers[name] = f"stage {stage.name!r}"
    return providers


def _check_provided(stages: Sequence[PipelineStage], provided: Collection[str]) -> None:
    for stage in stages:
        missing = sorted(stage.requires - set(provided))
        if missing:
            raise StageOrderError(
                f"Stage {stage.name!r} requires {', '.join(missing)}, which no stage and no "
                f"input provides.",
                "Add the stage that provides it, or give it as an input.",
            )
