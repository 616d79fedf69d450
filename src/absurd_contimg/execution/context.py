"""`PipelineContext`: what travels from stage to stage, and how it is written as JSON.

Only `inputs`, `outputs`, `metadata` and a reference to the configuration are serialised, never
the configuration itself nor arrays: a checkpoint stays a small JSON object of paths, sizes,
digests and choices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from absurd_contimg.config import PipelineConfig
from absurd_contimg.core.records import Json


@dataclass(frozen=True, slots=True)
class PipelineContext:
    """The state of one group on its way through the stages.

    `inputs` is what the run was asked to do, `outputs` what the stages so far have provided
    (by the names in `PipelineStage.provides`), `metadata` who asked and why.
    """

    config: PipelineConfig
    inputs: Mapping[str, Json]
    outputs: Mapping[str, Json] = field(default_factory=dict)
    metadata: Mapping[str, Json] = field(default_factory=dict)

    def with_outputs(self, outputs: Mapping[str, Json]) -> Self:
        """A copy that also holds the given outputs."""
        return replace(self, outputs={**self.outputs, **outputs})

    def with_metadata(self, metadata: Mapping[str, Json]) -> Self:
        """A copy that also holds the given metadata."""
        return replace(self, metadata={**self.metadata, **metadata})

    def to_json(self) -> dict[str, Json]:
        """The serialisable part, with the digest of the configuration instead of itself."""
        return {
            "inputs": dict(self.inputs),
            "outputs": dict(self.outputs),
            "metadata": dict(self.metadata),
            "config_ref": self.config.reference(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Json], config: PipelineConfig) -> Self:
        """The context that `to_json` wrote, with the configuration given back to it."""

        def section(name: str) -> dict[str, Json]:
            value = data.get(name) or {}
            if not isinstance(value, Mapping):
                raise TypeError(f"context field {name!r} is not an object but {value!r}")
            return dict(value)

        return cls(config, section("inputs"), section("outputs"), section("metadata"))
