"""The production `StageRunner` in a simulated process: its executor, disk and thread exchanged.

Scratch, reservation, stage, fence, the last look at the clock, rename, registration: the order
is `absurd_contimg.execution.runner`'s own, and so are products and manifests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TypeVar, TypeVarTuple, Unpack

from absurd_contimg.config import PathsConfig, PipelineConfig
from absurd_contimg.core.records import Json
from absurd_contimg.execution.runner import StageRunner
from absurd_contimg.execution.scratch import Janitor, ScratchOwner
from absurd_contimg.products.store import Manifest
from absurd_contimg.simulation.model.disk import ROOT, Disk
from absurd_contimg.simulation.model.effect_gateway import Doors, Effect
from absurd_contimg.simulation.model.executor import (
    Machine,
    SimExecutor,
    SimulatedStage,
    StageWatch,
)
from absurd_contimg.simulation.model.files import SimFiles
from absurd_contimg.simulation.model.paths import KeptPath
from absurd_contimg.simulation.model.simulated_registry import SimRegistry
from absurd_contimg.simulation.model.stage_model import StageModel

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")
_REGISTER = Effect("registry", "register", True)


def make_runner(
    doors: Doors,
    disk: Disk,
    registry: SimRegistry,
    stages: Mapping[str, SimulatedStage],
    model: StageModel,
    machine: Machine | None,
    watch: StageWatch,
    worker_id: str,
) -> StageRunner:
    """The runner of a new process; sweeps what the dead left in scratch, as the service does."""
    scratch_dir = SIMULATED_CONFIG.paths.scratch_dir
    unobserved = SimFiles(doors, disk, observed=False)
    owner = ScratchOwner(scratch_dir, worker_id, unobserved).acquire()
    Janitor(scratch_dir, unobserved).sweep()
    files = SimFiles(doors, disk)
    executor = SimExecutor(doors, files, stages, model, machine, watch)
    entering = _RegistryDoor(doors, registry)
    return StageRunner(SIMULATED_CONFIG, executor, entering, owner, files, at_once)


async def at_once(function: Callable[[Unpack[_Ts]], _T], /, *arguments: *_Ts) -> _T:
    """In the place of a thread: there are none in this world, and files take no time."""
    return function(*arguments)


class _RegistryDoor:
    """`ProductRegistry`: entering a product is an effect."""

    def __init__(self, doors: Doors, registry: SimRegistry) -> None:
        self._doors, self._registry = doors, registry

    def register(self, folder: Path, manifest: Manifest) -> None:
        """See `ProductRegistry`."""
        self._doors.pass_at_once(_REGISTER, self._registry.register, str(folder), manifest.outputs)


class _SimulatedConfig(PipelineConfig):
    """The pipeline's configuration; its digest is computed once and not for each future."""

    def reference(self) -> dict[str, Json]:
        """See `PipelineConfig.reference`."""
        return _reference()


def _simulated_paths() -> PathsConfig:
    names = ("input", "output", "scratch", "state")
    return PathsConfig(**{f"{name}_dir": KeptPath(ROOT) / name for name in names})


@cache
def _reference() -> dict[str, Json]:
    return PipelineConfig(paths=_simulated_paths()).reference()


SIMULATED_CONFIG = _SimulatedConfig(paths=_simulated_paths())
"""The pipeline's defaults, with folders that exist in no real file system."""
