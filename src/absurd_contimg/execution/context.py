"""The pipeline context: what stages pass on to each other, as small JSON without arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from absurd_contimg.config import PipelineConfig
from absurd_contimg.config.mosaic import MosaicTier
from absurd_contimg.core.records import Json
from absurd_contimg.errors import InputError
from absurd_contimg.products.outputs import from_json

_T = TypeVar("_T")


class GroupInputs(BaseModel):
    """The parameters of a pipeline task: the data to process. How is configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    group_id: str = Field(min_length=1)
    """The observation group: the timestamp of its earliest sub-band, UTC."""
    input_files: tuple[Path, ...] = Field(min_length=1)
    """The group's sub-band files (UVH5)."""
    catalog_path: Path
    """The sky catalogue (CSV) for the model and the validation."""
    calibrator: str = "auto"
    """``auto``, ``none``, or the name of the calibrator that must be in the field."""


class MosaicInputs(BaseModel):
    """The parameters of a mosaic task: the groups, whose images the registry knows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    window_id: str = Field(min_length=1)
    """The window, or another name of the set of groups."""
    tier: MosaicTier = "quicklook"
    members: tuple[str, ...] = Field(min_length=1)
    """The ids of the groups, those in `left_out` not among them."""
    left_out: dict[str, str] = Field(default_factory=dict)
    """Groups of the window that are not used, and why: they are listed with the mosaic."""
    catalog_path: Path
    """The sky catalogue (CSV) for the checks."""


@dataclass(frozen=True, slots=True)
class PipelineContext:
    """One group's or window's state between two stages, as JSON; metadata are task, fallbacks."""

    config: PipelineConfig
    inputs: Mapping[str, Json]
    outputs: Mapping[str, Json] = field(default_factory=dict)
    metadata: Mapping[str, Json] = field(default_factory=dict)

    @property
    def group_id(self) -> str:
        """The observation group, or the window of a mosaic."""
        return str(self.inputs["group_id" if "group_id" in self.inputs else "window_id"])

    @property
    def group_inputs(self) -> GroupInputs:
        """The inputs of a group's stages; raises `InputError` if they are something else."""
        return _read(GroupInputs, self.inputs, "Correct the parameters and spawn the group again.")

    @property
    def mosaic_inputs(self) -> MosaicInputs:
        """The inputs of a mosaic's stages; raises `InputError` if they are something else."""
        return _read(MosaicInputs, self.inputs, "Make the mosaic again: contimg mosaic make")

    def outputs_of(self, kind: type[_T]) -> _T:
        """An earlier stage's outputs by their type, or `InputError`.

        No path in them may lead out of the folders of the pipeline.
        """
        folders = self.config.paths.readable
        return _read(kind, self.outputs, "Run the stages before this one again.", folders)

    def with_outputs(self, outputs: Mapping[str, Json]) -> Self:
        """A copy that also holds the given outputs."""
        joined = {**self.outputs, **outputs}
        return type(self)(self.config, self.inputs, joined, self.metadata)

    def to_json(self) -> dict[str, Json]:
        """The serialisable part, with a reference to the configuration."""
        return {
            "inputs": dict(self.inputs),
            "outputs": dict(self.outputs),
            "metadata": dict(self.metadata),
            "config_ref": self.config.reference(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Json], config: PipelineConfig) -> Self:
        """The context that `to_json` wrote, with its configuration."""

        sections = []
        for name in ("inputs", "outputs", "metadata"):
            value = data.get(name) or {}
            if not isinstance(value, Mapping):
                raise TypeError(f"context field {name!r} is not an object but {value!r}")
            sections.append(dict(value))
        return cls(config, *sections)


def _read(
    kind: type[_T], data: Mapping[str, Json], remedy: str, folders: Sequence[Path] | None = None
) -> _T:
    try:
        return from_json(kind, data, folders)
    except ValueError as error:
        raise InputError(f"{error}.", remedy) from error
