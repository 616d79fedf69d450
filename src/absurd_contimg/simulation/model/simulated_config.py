"""The pipeline's configuration in the simulated world: defaults, and folders that nowhere exist."""

from __future__ import annotations

from functools import cache

from typing_extensions import override

from absurd_contimg.config import PathsConfig, PipelineConfig
from absurd_contimg.core.records import Json
from absurd_contimg.simulation.model.disk import ROOT
from absurd_contimg.simulation.model.paths import KeptPath


class _SimulatedConfig(PipelineConfig):
    """Computes its reference once, and not for each future."""

    @override
    def reference(self) -> dict[str, Json]:
        return _reference()


def _paths() -> PathsConfig:
    names = ("input", "output", "scratch", "state")
    return PathsConfig(**{f"{name}_dir": KeptPath(ROOT) / name for name in names})


@cache
def _reference() -> dict[str, Json]:
    return PipelineConfig(paths=_paths()).reference()


SIMULATED_CONFIG = _SimulatedConfig(paths=_paths())
