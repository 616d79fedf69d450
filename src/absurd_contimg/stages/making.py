"""What a stage is about to make, and the manifest of what it has made.

The part of a stage's life that is the same whoever runs it: a child process on real data, or the
simulation with durations instead of CASA.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from absurd_contimg.core.records import Json
from absurd_contimg.stages.base import PipelineStage
from absurd_contimg.stages.context import PipelineContext
from absurd_contimg.stages.escalation import escalations_of
from absurd_contimg.stages.filesystem import LOCAL, FileSystem
from absurd_contimg.stages.products import (
    InputEntry,
    Manifest,
    file_entries,
    find_committed,
    input_entries,
    product_location,
    seal,
)


@dataclass(frozen=True, slots=True)
class Intended:
    """The product that a stage will make of this context."""

    inputs: tuple[InputEntry, ...]
    key: str
    committed: Path
    """Where it belongs."""
    found: Manifest | None
    """It is there already: nothing is to be made."""


@dataclass(frozen=True, slots=True)
class Maker:
    """Who makes a product, when, and with what: for its manifest, no part of its key."""

    attempt: str
    host: str
    created_at: str
    """ISO 8601, UTC."""
    software: Mapping[str, str]


def intend(
    stage: PipelineStage, context: PipelineContext, files: FileSystem = LOCAL
) -> Intended | None:
    """Digest the inputs, name the product and look whether it is there; None: it makes none.

    Raises `MissingInputError` for an input that is not there, and `BrokenProductError` when
    something else stands in the product's place.
    """
    inputs = input_entries(stage, context, files)
    if stage.product_folder is None:
        return None
    key, committed = product_location(stage, context, inputs)
    return Intended(inputs, key, committed, find_committed(committed, key, files=files))


def seal_product(
    product: Path,
    stage: PipelineStage,
    context: PipelineContext,
    intended: Intended,
    outputs: Mapping[str, Json],
    maker: Maker,
    files: FileSystem = LOCAL,
) -> None:
    """Write the manifest of a finished product in scratch, and have the disk hold all of it."""
    output_dir = context.config.paths.output_dir
    manifest = Manifest(
        stage=stage.name,
        stage_version=stage.version,
        key=intended.key,
        location=intended.committed.relative_to(output_dir).as_posix(),
        output_dir=str(output_dir),
        group_id=str(context.inputs["group_id"]),
        parameters=stage.parameters(context),
        inputs=intended.inputs,
        outputs=outputs,
        files=file_entries(product, files),
        software=maker.software,
        created_at=maker.created_at,
        attempt=maker.attempt,
        host=maker.host,
        escalations=escalations_of(context),
    )
    seal(product, manifest, files)
