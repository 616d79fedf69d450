"""`SimulatedExecutor`: stages as durations and failures, in place of processes with CASA.

What a stage's process does around the stage (digest the inputs, look for the product, write the
manifest) is production's code; the stage itself is a time in which space is written and at whose
end, or before, it fails as the failure table says. `StageWatch` observes how much of it was of use.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from typing_extensions import override

from absurd_contimg.core.evidence import Evidence
from absurd_contimg.core.records import Json
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.executor import StageExecutor, StageFailed, StageReport, StageRequest
from absurd_contimg.execution.product_builder import (
    PlannedProduct,
    Provenance,
    complete_product,
    plan_product,
)
from absurd_contimg.execution.stage import PipelineStage, Workspace
from absurd_contimg.products.mosaic_outputs import MosaicOutputs
from absurd_contimg.products.outputs import (
    CalibrateSolveOutputs,
    SolvedCaltables,
    UnsolvedCaltables,
    ValidateOutputs,
    Validation,
    names,
    to_json,
)
from absurd_contimg.simulation.model.disk import OUTPUT
from absurd_contimg.simulation.model.effect_gateway import Effect, EffectGateway
from absurd_contimg.simulation.model.files import SimulatedFiles
from absurd_contimg.simulation.model.hosts import Host
from absurd_contimg.simulation.model.simulated_config import path_of
from absurd_contimg.simulation.model.stage_model import (
    DEFAULT_COSTS,
    ENDS_WORKER,
    FAILURES,
    UNLISTED,
    Draw,
    StageModel,
)
from absurd_contimg.simulation.runtime.loop import SimLoop

_EPOCH_TEXT = "2026-01-01T00:00:00.000+00:00"
_SOFTWARE: Mapping[str, str] = {"simulation": "1"}
_SOLVED = SolvedCaltables("", (), "calibrator", "antenna", 0.0, 0.0, 0.0, 0.0)
_UNSOLVED = UnsolvedCaltables("no calibrator transits during this group")
_VALIDATED = to_json(
    ValidateOutputs(
        Validation(Path(OUTPUT, "report.json"), "clean", (), 0, 0, *(None,) * 8)  # not measured
    )
)


@lru_cache(maxsize=4096)
def _calibration(group: str, solves: bool) -> dict[str, Json]:
    solved = replace(_SOLVED, set_name=f"set {group}")
    return to_json(CalibrateSolveOutputs(solved if solves else _UNSOLVED))


class SimulatedStage(PipelineStage):
    """A real stage's name and contract; its inputs and products are paths without content."""

    def __init__(self, solves: Callable[[str], bool]) -> None:
        self._solves = solves
        """Whether a calibrator is in this group's field."""

    @override
    def input_paths(self, context: PipelineContext) -> list[Path]:
        """The files that the task names, or the products of the stages before."""
        known = {**context.inputs, **context.outputs}
        paths = [path for name in sorted(self.requires) for path in _paths_in(known[name])]
        return list(map(path_of, paths))

    @override
    def expected_bytes(self, context: PipelineContext) -> int:
        return DEFAULT_COSTS.get(self.name, UNLISTED).output_bytes

    @override
    def execute(self, context: PipelineContext, workspace: Workspace) -> dict[str, Json]:
        return self.outputs(context, None)

    def outputs(self, context: PipelineContext, committed: Path | None) -> dict[str, Json]:
        """What the stage returns when its work is done."""
        group, path = context.group_id, None if committed is None else str(committed)
        if names(CalibrateSolveOutputs) == self.provides:
            return _calibration(group, self._solves(group))
        if names(ValidateOutputs) == self.provides:
            return _VALIDATED
        if names(MosaicOutputs) == self.provides:
            return {"mosaic": {"path": path, "verdict": "accepted"}}
        return {name: {"path": path} for name in sorted(self.provides)}


def _paths_in(value: Json) -> list[str]:
    """The files and products in an input or an output; other texts are no absolute paths."""
    if isinstance(value, str):
        return [value] if value.startswith("/") else []
    if isinstance(value, list | tuple):
        return [path for part in value for path in _paths_in(part)]
    if isinstance(value, Mapping):
        return _paths_in(value.get("path", value.get("image")))
    return []


def simulated(stage: PipelineStage) -> type[SimulatedStage]:
    """The class that stands for a real stage in the simulation."""
    names = ("name", "version", "requires", "provides", "runs_after", "isolated", "product_folder")
    contract = {name: getattr(stage, name) for name in names}
    return type(f"Simulated{type(stage).__name__}", (SimulatedStage,), contract)


class LostStage(NamedTuple):
    """Stage time that ended without a product."""

    attempt: str
    """As in the request: which start of which task."""
    stage: str
    seconds: float


@dataclass(slots=True)
class StageWatch:
    """The stages that run now in a world, and what was observed of earlier ones."""

    running: dict[tuple[str, str], list[ObservedStage]] = field(default_factory=dict)
    """By group and stage."""
    overlaps: list[str] = field(default_factory=list)
    """Where two processes worked on one stage of one group at a time."""
    seconds_used: float = 0.0
    lost: list[LostStage] = field(default_factory=list)

    @property
    def seconds_lost(self) -> float:
        """Of stage time that ended without a product."""
        return sum(each.seconds for each in self.lost)


@dataclass(eq=False)
class ObservedStage:
    """One run of a stage by one process, as a context manager; set `useful` when it is done."""

    _watch: StageWatch
    _process: SimLoop
    _stage: tuple[str, str]
    """Group and stage."""
    _request: StageRequest
    useful: bool = False

    def __enter__(self) -> ObservedStage:
        self._started_at = self._process.kernel.now
        self._watch.running.setdefault(self._stage, []).append(self)
        self._leave_now = self._process.release_at_death(self._leave)
        return self

    def __exit__(self, *_error: object) -> None:
        self._leave_now()
        del self._leave_now  # a reference cycle, which would keep the world in memory

    def _leave(self) -> None:
        running = self._watch.running[self._stage]
        running.remove(self)
        for other in running:
            self._compare(other)
        seconds = self._process.kernel.now - self._started_at
        self._watch.seconds_used += seconds
        if not self.useful:
            attempt, (_, stage) = self._request.attempt, self._stage
            self._watch.lost.append(LostStage(attempt, stage, seconds))

    def _compare(self, other: ObservedStage) -> None:
        """Note the time in which both worked."""
        both, (group, stage) = (self, other), self._stage
        begin = max(max(each._started_at, each._process.resumed_at) for each in both)
        end = min(each._work_ended() for each in both)
        if end > begin:
            self._watch.overlaps.append(
                f"{stage} of {group} ran on {self._process.name} and on {other._process.name} "
                f"from {begin:.3f} s to {end:.3f} s"
            )

    def _work_ended(self) -> float:
        """The stage of a paused worker runs on until the watchdog ends it with the lease.

        So does that of one that is killed before it resumes.
        """
        process = self._process
        if process.paused_at <= process.resumed_at:
            return process.kernel.now
        ends_at = process.paused_at
        if self._request.may_live_until is not None:
            ends_at = max(ends_at, process.world_time(self._request.may_live_until()))
        return min(process.kernel.now, ends_at)


@dataclass
class SimulatedExecutor(StageExecutor):
    """Runs the stages of one simulated process."""

    _gateway: EffectGateway
    _files: SimulatedFiles
    _stages: Mapping[str, SimulatedStage]
    _model: StageModel
    _host: Host | None
    _watch: StageWatch

    @override
    async def execute(self, request: StageRequest) -> StageReport:
        clock = asyncio.get_running_loop().time
        started = clock()
        stage = self._stages[request.stage_name]
        release_core = None if self._host is None else await self._host.cores.take()
        try:
            self._note(f"start {stage.name}")
            outputs, planned = await self._run_process(stage, request)
            self._note(f"end {stage.name}")
        except OSError as error:  # in the child: the parent learns of it by its report
            raise StageFailed(str(error), request, Evidence.of(error)) from error
        finally:
            if release_core is not None:
                release_core()
        adopted = planned is not None and planned.existing is not None
        return StageReport(
            outputs,
            committed=None if planned is None else planned.committed,
            adopted=adopted,
            product=None if planned is None or adopted else request.scratch / "product",
            seconds=clock() - started,
        )

    async def _run_process(
        self, stage: SimulatedStage, request: StageRequest
    ) -> tuple[Mapping[str, Json], PlannedProduct | None]:
        """What the stage's process does, in the order of `execution.stage_process`."""
        context, product = request.context, request.scratch / "product"
        planned = plan_product(stage, context, self._files)
        if planned is not None and planned.existing is not None:
            return planned.existing.outputs, planned
        self._files.make_folder(product)
        group = context.group_id
        start = int(request.attempt.rsplit("-", 1)[1])
        draw = self._model.draw(stage.name, group, start)
        process = self._gateway.process
        with ObservedStage(self._watch, process, (group, stage.name), request) as observed:
            await self._work(product, stage, draw, request)
            observed.useful = True
        outputs = stage.outputs(context, None if planned is None else planned.committed)
        if planned is not None:
            provenance = Provenance(request.attempt, self._gateway.host, _EPOCH_TEXT, _SOFTWARE)
            complete_product(product, stage, context, planned, outputs, provenance, self._files)
        return outputs, planned

    async def _work(
        self, product: Path, stage: SimulatedStage, draw: Draw, request: StageRequest
    ) -> None:
        """The stage itself: half of its product is written by the middle, the rest at the end."""
        release_memory = None
        if self._host is not None and draw.memory_bytes:
            release_memory = self._host.take_memory(draw.memory_bytes)
            if release_memory is None:  # the kernel's out-of-memory killer
                raise FAILURES["killed"](request)
        try:
            if draw.failure is not None:
                await asyncio.sleep(min(draw.seconds * draw.fails_at, request.deadline_seconds))
                if draw.failure == ENDS_WORKER:
                    self._gateway.process.kill()
                    self._gateway.process.check_alive()
                raise FAILURES[draw.failure](request)
            for share in (0.5, 1.0):
                await self._half(draw)
                if stage.product_folder is not None:
                    self._files.write(product / "data", int(draw.output_bytes * share), "data")
        finally:
            if release_memory is not None:
                release_memory()

    async def _half(self, draw: Draw) -> None:
        """Half of a stage's time; it writes while it computes, and a busy disk makes it longer."""
        seconds = draw.seconds / 2
        if self._host is not None and self._host.channel is not None:
            clock = asyncio.get_running_loop().time
            started = clock()
            await self._host.channel.write(draw.output_bytes // 2)
            seconds -= clock() - started
        await asyncio.sleep(max(seconds, 0.0))

    def _note(self, event: str) -> None:
        """The start or end of a stage: a crash point that changes nothing."""
        self._gateway.perform_now(Effect("stage", event, False), bool)
