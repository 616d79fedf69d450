"""What the production `StageRunner` gets in a simulated process: configuration, scratch, thread.

Scratch, reservation, stage, fence, the last look at the clock, rename, registration: the order
is `absurd_contimg.execution.runner`'s own, and so are products and manifests.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TypeVar, TypeVarTuple, Unpack

from absurd_contimg.config import PathsConfig, PipelineConfig
from absurd_contimg.core.records import Json
from absurd_contimg.execution.scratch import Janitor, ScratchOwner
from absurd_contimg.simulation.model.disk import ROOT, Disk
from absurd_contimg.simulation.model.effect_gateway import EffectGateway
from absurd_contimg.simulation.model.files import SimulatedFiles
from absurd_contimg.simulation.model.paths import KeptPath

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


def acquire_scratch(gateway: EffectGateway, disk: Disk, worker_id: str) -> ScratchOwner:
    """Scratch of a new process; sweeps what dead processes left there, as the service does."""
    scratch_dir = SIMULATED_CONFIG.paths.scratch_dir
    unobserved = SimulatedFiles(gateway, disk, observed=False)
    owner = ScratchOwner(scratch_dir, worker_id, unobserved).acquire()
    Janitor(scratch_dir, unobserved).sweep()
    return owner


async def at_once(function: Callable[[Unpack[_Ts]], _T], /, *arguments: *_Ts) -> _T:
    """In the place of a thread: there are none in this world, and files take no time."""
    return function(*arguments)


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
