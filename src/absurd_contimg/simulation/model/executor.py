"""`SimulatedExecutor`: stages as durations and failures, in the place of child processes with CASA.

It is the one part of `StageRunner` that the simulation replaces, with the file system and the
thread. What a child process does around the stage (digest the inputs, look whether the product
is there, write the manifest) is the production code; the stage itself is a time in which space
is written and at whose end, or before, it fails as the real catalogue has it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from absurd_contimg.core.evidence import Evidence
from absurd_contimg.core.records import Json
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.executor import StageFailed, StageReport, StageRequest
from absurd_contimg.execution.product_builder import (
    PlannedProduct,
    Provenance,
    complete_product,
    plan_product,
)
from absurd_contimg.execution.stage import PipelineStage, Workspace
from absurd_contimg.products.outputs import (
    CalibrateSolveOutputs,
    SolvedCaltables,
    UnsolvedCaltables,
    ValidateOutputs,
    Validation,
    names,
    to_json,
)
from absurd_contimg.simulation.model.effect_gateway import Effect, EffectGateway
from absurd_contimg.simulation.model.files import SimulatedFiles
from absurd_contimg.simulation.model.paths import path_of
from absurd_contimg.simulation.model.stage_model import (
    CATALOGUE,
    DEFAULT_COSTS,
    ENDS_WORKER,
    UNLISTED,
    Draw,
    StageModel,
)

_EPOCH_TEXT = "2026-01-01T00:00:00.000+00:00"
_SOFTWARE: Mapping[str, str] = {"simulation": "1"}
_SOLVED = SolvedCaltables("", (), "calibrator", "antenna", 0.0, 0.0, 0.0, 0.0)
_UNSOLVED = UnsolvedCaltables("no calibrator transits during this group")
_VALIDATED = ValidateOutputs(
    Validation(Path("report.json"), "clean", (), 0, 0, *(None,) * 8)  # nothing was measured
)


class Machine(Protocol):
    """The computer that stages run on."""

    async def take_core(self) -> Callable[[], None]:
        """Wait for a core; the answer gives it back."""
        ...

    def take_memory(self, size: int) -> Callable[[], None] | None:
        """Take memory; the answer gives it back. None when there is not enough."""
        ...

    @property
    def channel(self) -> Channel | None:
        """The way to the disk; None when nobody ever waits for it."""
        ...


class Channel(Protocol):
    """The way to a disk."""

    async def carry(self, size_bytes: int) -> None:
        """Return when so many bytes have been written."""
        ...


class SimulatedStage(PipelineStage):
    """A real stage's name and contract; what it reads and makes are paths without content."""

    solves: Callable[[str], bool]
    """Whether a calibrator is in this group's field: as the sky decides it."""

    def __init__(self, solves: Callable[[str], bool]) -> None:
        self.solves = solves

    def input_paths(self, context: PipelineContext) -> list[Path]:
        """The files it was spawned with, or the products of the stages before."""
        found: list[Path] = []
        for name in sorted(self.requires):
            made = context.outputs.get(name)
            if isinstance(made, Mapping):
                found += [path_of(str(made["path"]))] if made.get("path") else []
                continue
            given = context.inputs[name]
            several = given if isinstance(given, list | tuple) else [given]
            found += [path_of(str(one)) for one in several]
        return found

    def expected_bytes(self, context: PipelineContext) -> int:
        """What the model says that it writes."""
        return DEFAULT_COSTS.get(self.name, UNLISTED).output_bytes

    def execute(self, context: PipelineContext, workspace: Workspace) -> dict[str, Json]:
        """The outputs: what a stage returns that runs in the worker's own process."""
        return self.outputs(context, None)

    def outputs(self, context: PipelineContext, committed: Path | None) -> dict[str, Json]:
        """What the stage returns when its work is done."""
        group, path = context.group_id, None if committed is None else str(committed)
        if names(CalibrateSolveOutputs) == self.provides:
            solved = replace(_SOLVED, set_name=f"set {group}")
            return to_json(CalibrateSolveOutputs(solved if self.solves(group) else _UNSOLVED))
        if names(ValidateOutputs) == self.provides:
            return to_json(_VALIDATED)
        return {name: {"path": path} for name in sorted(self.provides)}


def simulated(stage: PipelineStage) -> type[SimulatedStage]:
    """The class that stands for a real stage in the simulation."""
    names = ("name", "version", "requires", "provides", "runs_after", "isolated", "product_folder")
    contract = {name: getattr(stage, name) for name in names}
    return type(f"Simulated{type(stage).__name__}", (SimulatedStage,), contract)


@dataclass(slots=True)
class StageWatch:
    """Which processes run which stage of which group just now, and what went wrong in that."""

    running: dict[tuple[str, str], list[_Watched]]
    overlaps: list[str]
    seconds_used: float = 0.0
    seconds_lost: float = 0.0
    """Of stage time that ended without a product: work that has to be done again."""


class SimulatedExecutor:
    """Runs the stages of one simulated process; see `StageExecutor`."""

    def __init__(
        self,
        gateway: EffectGateway,
        files: SimulatedFiles,
        stages: Mapping[str, SimulatedStage],
        model: StageModel,
        machine: Machine | None,
        watch: StageWatch,
    ) -> None:
        self._doors = gateway
        self._files = files
        self._stages = stages
        self._model = model
        self._machine = machine
        self._watch = watch

    async def execute(self, request: StageRequest) -> StageReport:
        """See `StageExecutor`."""
        clock = asyncio.get_running_loop().time
        started = clock()
        stage = self._stages[request.stage_name]
        give_back = None if self._machine is None else await self._machine.take_core()
        try:
            self._note(f"start {stage.name}")
            report = await self._child(stage, request)
            self._note(f"end {stage.name}")
        except OSError as error:  # in the child: the parent learns of it by its report
            raise StageFailed(str(error), request, Evidence.of(error)) from error
        finally:
            if give_back is not None:
                give_back()
        outputs, planned = report
        adopted = planned is not None and planned.existing is not None
        return StageReport(
            outputs,
            committed=None if planned is None else planned.committed,
            adopted=adopted,
            product=None if planned is None or adopted else request.scratch / "product",
            seconds=clock() - started,
        )

    async def _child(
        self, stage: SimulatedStage, request: StageRequest
    ) -> tuple[Mapping[str, Json], PlannedProduct | None]:
        """What the stage's process does, in the order of `execution.stage_process`."""
        context, product = request.context, request.scratch / "product"
        planned = plan_product(stage, context, self._files)
        if planned is not None and planned.existing is not None:
            return planned.existing.outputs, planned
        self._files.make_folder(product)
        group = context.group_id
        draw = self._model.draw(stage.name, group, _start_of(request.attempt))
        with _Watched(self._watch, self._doors, (group, stage.name), request) as watched:
            await self._work(product, stage, draw, request)
            watched.useful = True
        outputs = stage.outputs(context, None if planned is None else planned.committed)
        if planned is not None:
            provenance = Provenance(request.attempt, self._doors.host, _EPOCH_TEXT, _SOFTWARE)
            complete_product(product, stage, context, planned, outputs, provenance, self._files)
        return outputs, planned

    async def _work(
        self, product: Path, stage: SimulatedStage, draw: Draw, request: StageRequest
    ) -> None:
        """The stage itself: half of its product is written by the middle, the rest at the end."""
        release = None
        if self._machine is not None and draw.memory_bytes:
            release = self._machine.take_memory(draw.memory_bytes)
            if release is None:  # what the kernel's out-of-memory killer does
                raise CATALOGUE["killed"](request)
        try:
            if draw.failure is not None:
                await asyncio.sleep(min(draw.seconds * draw.strikes_at, request.deadline_seconds))
                if draw.failure == ENDS_WORKER:
                    self._doors.process.kill()
                    self._doors.process.check_alive()
                raise CATALOGUE[draw.failure](request)
            for share in (0.5, 1.0):
                await self._half(draw)
                if stage.product_folder is not None:
                    self._files.write(product / "data", int(draw.output_bytes * share), "data")
        finally:
            if release is not None:
                release()

    async def _half(self, draw: Draw) -> None:
        """Half of a stage's time; it writes while it computes, and a busy disk makes it longer."""
        half = draw.seconds / 2
        if self._machine is not None and self._machine.channel is not None:
            clock = asyncio.get_running_loop().time
            began = clock()
            await self._machine.channel.carry(draw.output_bytes // 2)
            half -= clock() - began
        await asyncio.sleep(max(half, 0.0))

    def _note(self, what: str) -> None:
        self._doors.perform_now(Effect("stage", what, False), _nothing)


class _Watched:
    """Notes which process runs a stage, and how much of its time was of use."""

    def __init__(
        self,
        watch: StageWatch,
        gateway: EffectGateway,
        what: tuple[str, str],
        request: StageRequest,
    ) -> None:
        self._watch, self._what, self._request = watch, what, request
        self._process = gateway.process
        self.useful = False

    def __enter__(self) -> _Watched:
        self._since = self._process.kernel.now
        self._watch.running.setdefault(self._what, []).append(self)
        self._process.at_death(self, self._leave)
        return self

    def __exit__(self, *_error: object) -> None:
        if not self._process.dead:
            self._process.at_death(self, None)
            self._leave()

    def _leave(self) -> None:
        here = self._watch.running[self._what]
        here.remove(self)
        for other in here:
            self._compare(other)
        if not here:
            del self._watch.running[self._what]
        seconds = self._process.kernel.now - self._since
        self._watch.seconds_used += seconds
        if not self.useful:
            self._watch.seconds_lost += seconds

    def _compare(self, other: _Watched) -> None:
        """Note for how long both were at work."""
        begin = max(self._work_began(), other._work_began())
        end = min(self._work_ended(), other._work_ended())
        if end > begin:
            group, stage = self._what
            self._watch.overlaps.append(
                f"{stage} of {group} ran on {self._process.name} and on {other._process.name} "
                f"from {begin:.3f} s to {end:.3f} s"
            )

    def _work_began(self) -> float:
        return max(self._since, self._process.resumed_at)

    def _work_ended(self) -> float:
        """The child of a stopped worker works on until the watchdog ends it with the lease."""
        now = self._process.kernel.now
        if not self._process.paused:
            return now
        until = self._request.may_live_until
        stopped = self._process.paused_at
        return min(
            now, stopped if until is None else max(stopped, self._process.world_time(until()))
        )


def _nothing() -> None:
    """A stage's start or end: a moment, no effect."""


def _start_of(attempt: str) -> int:
    return int(attempt.rsplit("-", 1)[1])
