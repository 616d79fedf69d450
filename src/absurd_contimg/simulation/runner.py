"""`SimRunner`: the order of `StageRunner`, on a simulated disk and in virtual time.

Scratch folder, stage, seal, fence, rename, register: the same operations in the same order, each
a numbered effect. The stage itself is a duration with an end: success, or an error of the real
catalogue. When the order in `StageRunner` changes, it has to change here.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol, cast

from absurd_contimg.core.failures import Evidence
from absurd_contimg.core.records import Json
from absurd_contimg.simulation.disk import Disk
from absurd_contimg.simulation.doors import Doors, Effect
from absurd_contimg.simulation.sky import SimRegistry
from absurd_contimg.simulation.stage_model import CATALOGUE, ENDS_WORKER, Draw, StageModel
from absurd_contimg.stages.base import PipelineStage
from absurd_contimg.stages.config import PathsConfig, PipelineConfig
from absurd_contimg.stages.context import PipelineContext
from absurd_contimg.stages.executor import StageFailed, StageRequest
from absurd_contimg.stages.runner import Fence, StageResult, check_requirements

_NOWHERE = Path("/simulated")
_KEY_DIGITS = 10


class Machine(Protocol):
    """The computer that stages run on."""

    async def take_core(self) -> Callable[[], None]:
        """Wait for a core; the answer gives it back."""
        ...

    def take_memory(self, size: int) -> Callable[[], None] | None:
        """Take memory; the answer gives it back. None when there is not enough."""
        ...


@dataclass(slots=True)
class StageWatch:
    """Which processes run which stage of which group just now, and what went wrong in that."""

    running: dict[tuple[str, str], list[_Watched]]
    overlaps: list[str]
    seconds_used: float = 0.0
    seconds_lost: float = 0.0
    """Of stage time that ended without a product: work that has to be done again."""


class SimRunner:
    """Runs stages of one simulated process."""

    def __init__(
        self,
        config: PipelineConfig,
        doors: Doors,
        disk: Disk,
        registry: SimRegistry,
        model: StageModel,
        machine: Machine | None = None,
        watch: StageWatch | None = None,
    ) -> None:
        self.config = config
        self._doors = doors
        self._disk = disk
        self._registry = registry
        self._model = model
        self._machine = machine
        self._watch = StageWatch({}, []) if watch is None else watch

    async def run(
        self,
        stage: PipelineStage,
        context: PipelineContext,
        *,
        attempt: str,
        fence: Fence | None = None,
    ) -> StageResult:
        """See `StageRunner.run`."""
        check_requirements(stage, context)
        group = str(context.inputs["group_id"])
        scratch = f"scratch/{self._doors.process.name}/{group}/{stage.name}-{attempt}"
        # The folder of a dead life of this worker is swept first, as its janitor would.
        await self._file("sweep", self._disk.remove, scratch)
        await self._file("make", self._disk.make, scratch)
        try:
            return await self._run_in(scratch, stage, context, attempt, fence)
        finally:
            await self._file("remove", self._disk.remove, scratch)

    async def _run_in(
        self,
        scratch: str,
        stage: PipelineStage,
        context: PipelineContext,
        attempt: str,
        fence: Fence | None,
    ) -> StageResult:
        clock = asyncio.get_running_loop().time
        started = clock()
        outputs = self._outputs(stage, context)
        place = self._place(stage, context)
        adopted = place is not None and self._disk.find(place) is not None
        if not adopted:
            await self._execute(scratch, stage, context, attempt, place, outputs)
        seconds = clock() - started
        if fence is not None:
            await fence()
        if place is not None:
            if not adopted:
                adopted = await self._publish(scratch, place)
            await self._register(place, outputs)
        log = Path("/simulated/logs") / f"{stage.name}-{attempt}.log"
        product = None if place is None else Path("/simulated") / place
        return StageResult(stage.name, outputs, adopted, seconds, product, log, log)

    async def _execute(
        self,
        scratch: str,
        stage: PipelineStage,
        context: PipelineContext,
        attempt: str,
        place: str | None,
        outputs: Mapping[str, Json],
    ) -> None:
        group = str(context.inputs["group_id"])
        draw = self._model.draw(stage.name, group, _start_of(attempt))
        request = self._request(stage, context, attempt)
        give_back = None if self._machine is None else await self._machine.take_core()
        try:
            await self._note(stage, "start")
            with _Watched(self._watch, self._doors, (group, stage.name)) as watched:
                await self._work(scratch, stage, draw, request)
                watched.useful = True
            if place is not None:
                await self._file("seal", self._disk.seal, scratch, _manifest(place, outputs))
            await self._note(stage, "end")
        finally:
            if give_back is not None:
                give_back()

    async def _work(
        self, scratch: str, stage: PipelineStage, draw: Draw, request: StageRequest
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
                await asyncio.sleep(draw.seconds / 2)
                if stage.product_folder is not None:
                    size = int(draw.output_bytes * share)
                    await self._file("write", self._write, scratch, size, request)
        finally:
            if release is not None:
                release()

    def _write(self, scratch: str, size: int, request: StageRequest) -> None:
        try:
            self._disk.write(scratch, "data", size)
        except OSError as error:
            raise StageFailed(str(error), request, Evidence.of(error)) from error

    async def _publish(self, scratch: str, place: str) -> bool:
        """Rename into place; True if somebody else was faster and his product is adopted."""
        try:
            await self._file("rename", self._disk.rename, scratch, place)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            return True
        return False

    async def _register(self, place: str, outputs: Mapping[str, Json]) -> None:
        async def enter() -> None:
            self._registry.register(place, outputs)

        await self._doors.through(Effect("registry", "register", True), enter)

    async def _file(self, name: str, act: Callable[..., None], *args: object) -> None:
        async def operate() -> None:
            act(*args)

        await self._doors.through(Effect("file", name, True), operate)

    async def _note(self, stage: PipelineStage, what: str) -> None:
        await self._doors.through(Effect("stage", f"{what} {stage.name}", False), _nothing)

    # -- what a stage makes ---------------------------------------------------------------

    def _outputs(self, stage: PipelineStage, context: PipelineContext) -> dict[str, Json]:
        group = str(context.inputs["group_id"])
        outputs: dict[str, Json] = {}
        for name in sorted(stage.provides):
            key = _key(stage, context)
            described: dict[str, Json] = {"path": f"{stage.product_folder}/{group}-{key}"}
            if name == "caltables":
                described |= {"solved": self._registry.solves(group), "set_name": f"set {group}"}
            elif name == "validation":
                described["verdict"] = "good"
            outputs[name] = described
        return outputs

    def _place(self, stage: PipelineStage, context: PipelineContext) -> str | None:
        if stage.product_folder is None:
            return None
        group = context.inputs["group_id"]
        return f"output/{stage.product_folder}/{group}-{_key(stage, context)}"

    def _request(
        self, stage: PipelineStage, context: PipelineContext, attempt: str
    ) -> StageRequest:
        deadline = self.config.execution.deadline_seconds
        logs = (_NOWHERE / "casa.log", _NOWHERE / "out.log")
        return StageRequest("", stage.name, context, attempt, _NOWHERE, *logs, deadline)


class _Watched:
    """Notes which process runs a stage, and how much of its time was of use."""

    def __init__(self, watch: StageWatch, doors: Doors, what: tuple[str, str]) -> None:
        self._watch, self._what = watch, what
        self._process = doors.process
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
        """Note for how long both were at work: a process that stands still does nothing."""
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
        return self._process.paused_at if self._process.paused else self._process.kernel.now


async def _nothing() -> None:
    """A stage's start or end: a moment, no effect."""


def _start_of(attempt: str) -> int:
    return int(attempt.rsplit("-", 1)[1])


def _manifest(place: str, outputs: Mapping[str, Json]) -> dict[str, Json]:
    return {"location": place, "outputs": dict(outputs)}


def _key(stage: PipelineStage, context: PipelineContext) -> str:
    """As in production: the stage, its version, and what its inputs are."""
    inputs = [
        str(cast("Mapping[str, Json]", context.outputs[name]).get("path"))
        for name in sorted(stage.requires & context.outputs.keys())
    ]
    text = "\0".join((stage.name, str(stage.version), str(context.inputs["group_id"]), *inputs))
    return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()[:_KEY_DIGITS]


class _SimulatedConfig(PipelineConfig):
    """The pipeline's configuration; its digest is computed once and not for each future."""

    def reference(self) -> dict[str, Json]:
        """See `PipelineConfig.reference`."""
        return _reference()


def simulated_config() -> PipelineConfig:
    """The pipeline's defaults, with folders that exist in no real file system."""
    return _SimulatedConfig(paths=_simulated_paths())


def _simulated_paths() -> PathsConfig:
    names = ("input", "output", "scratch", "state")
    return PathsConfig(**{f"{name}_dir": _NOWHERE / name for name in names})


@cache
def _reference() -> dict[str, Json]:
    return PipelineConfig(paths=_simulated_paths()).reference()
