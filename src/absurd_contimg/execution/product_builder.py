"""A stage's product before it is made, and its manifest afterwards; also in the simulation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from absurd_contimg.core.records import Json
from absurd_contimg.errors import BrokenProductError, MissingInputError, SettingError
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.fallback import fallbacks_of
from absurd_contimg.execution.stage import PipelineStage
from absurd_contimg.products.filesystem import LOCAL, FileSystem
from absurd_contimg.products.manifest import (
    MANIFEST_NAME,
    InputEntry,
    Manifest,
    file_entries,
    read_manifest,
    write_manifest,
)
from absurd_contimg.products.store import enclosing_product, find_committed, verify

_KEY_DIGITS_IN_NAME = 10
"""Hex digits of the key in a folder's name: 40 bits, with the readable name before it."""


@dataclass(frozen=True, slots=True)
class PlannedProduct:
    """The product that a stage will make of this context."""

    inputs: tuple[InputEntry, ...]
    key: str
    committed: Path
    """Where it belongs."""
    existing: Manifest | None
    """Of the product that is already there: nothing is to be made."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Attempt, host, time and software of a product: in its manifest, but no part of its key."""

    attempt: str
    host: str
    created_at: str
    """ISO 8601, UTC."""
    software: Mapping[str, str]


def plan_product(
    stage: PipelineStage, context: PipelineContext, files: FileSystem = LOCAL
) -> PlannedProduct | None:
    """What the stage will make, or None; `BrokenProductError` if something else is there."""
    inputs = input_entries(stage, context, files)
    if stage.product_folder is None:
        return None
    key, committed = product_location(stage, context, inputs)
    existing = find_committed(committed, key, files=files)
    if existing is not None:
        _require_same(existing, stage, context.group_id, committed)
    return PlannedProduct(inputs, key, committed, existing)


def _require_same(existing: Manifest, stage: PipelineStage, group_id: str, committed: Path) -> None:
    """The key stands for them, so another name means that somebody has changed the manifest."""
    given = (existing.stage, existing.stage_version, existing.group_id)
    if given != (stage.name, stage.version, group_id):
        raise BrokenProductError(
            f"The manifest of {committed} says that stage {given[0]!r}, version {given[1]}, made "
            f"it for {given[2]!r}; its key says {stage.name!r}, {stage.version}, {group_id!r}.",
            "Move it away and have it made again.",
        )


def complete_product(
    product: Path,
    stage: PipelineStage,
    context: PipelineContext,
    planned: PlannedProduct,
    outputs: Mapping[str, Json],
    provenance: Provenance,
    files: FileSystem = LOCAL,
) -> None:
    """Write the manifest of a finished product in scratch, and flush all of it to the disk."""
    output_dir = context.config.paths.output_dir
    manifest = Manifest(
        stage=stage.name,
        stage_version=stage.version,
        key=planned.key,
        location=planned.committed.relative_to(output_dir).as_posix(),
        output_dir=str(output_dir),
        group_id=context.group_id,
        parameters=stage.parameters(context),
        inputs=planned.inputs,
        outputs=outputs,
        files=file_entries(product, files),
        software=provenance.software,
        created_at=provenance.created_at,
        attempt=provenance.attempt,
        host=provenance.host,
        fallbacks=fallbacks_of(context),
    )
    write_manifest(product, manifest, files)


def input_entries(
    stage: PipelineStage, context: PipelineContext, files: FileSystem = LOCAL
) -> tuple[InputEntry, ...]:
    """The digests of the stage's inputs, or `MissingInputError`, or `BrokenProductError`."""
    output_dir = context.config.paths.output_dir
    return tuple(_input_entry(path, output_dir, files) for path in stage.input_paths(context))


def product_location(
    stage: PipelineStage, context: PipelineContext, inputs: tuple[InputEntry, ...]
) -> tuple[str, Path]:
    """The product's key, in which no paths count, and the folder where it belongs."""
    if stage.product_folder is None:
        raise ValueError(f"stage {stage.name!r} makes no product")
    name = context.group_id
    if not name or "/" in name or name.startswith("."):
        raise SettingError(f"{name!r} cannot be the name of a product of {stage.name!r}.")
    identity = {
        "stage": stage.name,
        "version": stage.version,
        "folder": stage.product_folder,
        "name": name,
        "parameters": stage.parameters(context),
        "inputs": [entry.digest for entry in inputs],
    }
    text = json.dumps(identity, sort_keys=True, allow_nan=False)
    key = hashlib.blake2b(text.encode(), digest_size=20).hexdigest()
    folder = f"{name}-{key[:_KEY_DIGITS_IN_NAME]}"
    return key, context.config.paths.output_dir / stage.product_folder / folder


def _input_entry(path: Path, output_dir: Path, files: FileSystem) -> InputEntry:
    if not files.exists(path):
        raise MissingInputError(
            f"Input {path} does not exist.", "Restore it, or run the stage that makes it."
        )
    if path.is_relative_to(output_dir):
        product = enclosing_product(path, output_dir, files)
        if product is None:
            raise BrokenProductError(
                f"Input {path} lies in the output folder, but in no committed product: there is no "
                f"{MANIFEST_NAME}.",
                "Move it away and have it made again; files of your own belong elsewhere.",
            )
        manifest = read_manifest(product, files)
        # The key stands for bytes that are not digested again, so the files must be unchanged.
        verify(product, manifest, touched=True, files=files)
        inside = path.relative_to(product).as_posix()
        return InputEntry(str(path), "product", f"{manifest.key}/{inside}")
    if files.is_folder(path):
        digest = hashlib.blake2b(digest_size=20)
        for name in files.sizes(path):
            digest.update(f"{name}\0{files.digest(path / name)}\0".encode())
        return InputEntry(str(path), "folder", digest.hexdigest())
    return InputEntry(str(path), "file", files.digest(path))
