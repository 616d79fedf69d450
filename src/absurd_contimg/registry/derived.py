"""What the manifest of each stage's product says to the registry: manifests into rows.

The names of outputs here are those that the stages in `absurd_contimg.stages` return. A stage
that is not listed is entered as a product and nothing more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from absurd_contimg.products.store import BrokenProductError, Manifest
from absurd_contimg.registry.models import (
    Base,
    CaltableRow,
    CaltableSetRow,
    GroupStatus,
    ImageRow,
    MeasurementSetRow,
    Product,
    ValidationRow,
)

PROGRESS: Mapping[str, GroupStatus] = {
    "convert": GroupStatus.CONVERTED,
    "calibrate_apply": GroupStatus.CALIBRATED,
    "image": GroupStatus.IMAGED,
}
"""How far a group is when the product of a stage is there."""


def derived_rows(folder: Path, manifest: Manifest) -> list[Base]:
    """The rows of a committed product, parents before children.

    Raises `BrokenProductError` when its outputs lack what the registry needs to know.
    """
    product = Product(
        key=manifest.key,
        stage=manifest.stage,
        stage_version=manifest.stage_version,
        group_id=manifest.group_id,
        folder=str(folder),
        outputs=dict(manifest.outputs),
        created_at=manifest.created_at,
        attempt=manifest.attempt,
        host=manifest.host,
        size_bytes=sum(entry.size for entry in manifest.files),
    )
    reader = _READERS.get(manifest.stage)
    if reader is None:
        return [product]
    try:
        return [product, *reader(folder, manifest)]
    except (KeyError, TypeError, IndexError) as error:
        raise BrokenProductError(
            f"The manifest in {folder} does not say what the registry must know about a product "
            f"of {manifest.stage!r}: {error!r}.",
            "It was made by another version of that stage; raise the stage's version.",
        ) from error


def _measurement_set(kind: str, name: str) -> Callable[[Path, Manifest], list[Base]]:
    def read(_folder: Path, manifest: Manifest) -> list[Base]:
        said = _object(manifest, name)
        columns = (
            "path", "start_mjd", "mid_mjd", "end_mjd", "ra_deg", "dec_deg", "declination_deg",
            "n_rows", "n_channels", "flagged_fraction",
        )  # fmt: skip
        return [
            MeasurementSetRow(
                product_key=manifest.key,
                group_id=manifest.group_id,
                kind=kind,
                **{column: said[column] for column in columns},
            )
        ]

    return read


def _caltables(_folder: Path, manifest: Manifest) -> list[Base]:
    said = _object(manifest, "caltables")
    if not said["solved"]:
        return []  # no calibrator in this group: nothing to enter but the product itself
    columns = (
        "set_name", "calibrator", "refant", "declination_deg", "mid_mjd", "valid_start_mjd",
        "valid_end_mjd",
    )  # fmt: skip
    rows: list[Base] = [
        CaltableSetRow(
            product_key=manifest.key,
            group_id=manifest.group_id,
            source_ms=manifest.inputs[0].path,
            status="active",
            retired_reason=None,
            created_at=manifest.created_at,
            quality=dict(said.get("quality") or {}),
            **{column: said[column] for column in columns},
        )
    ]
    rows += [
        CaltableRow(
            product_key=manifest.key,
            path=table["path"],
            type=table["type"],
            apply_order=table["apply_order"],
            interp=table["interp"],
        )
        for table in said["tables"]
    ]
    return rows


def _image(folder: Path, manifest: Manifest) -> list[Base]:
    return [
        ImageRow(
            product_key=manifest.key,
            group_id=manifest.group_id,
            folder=str(folder),
            details=dict(manifest.outputs),
        )
    ]


def _validation(_folder: Path, manifest: Manifest) -> list[Base]:
    return [
        ValidationRow(
            product_key=manifest.key,
            group_id=manifest.group_id,
            details=dict(manifest.outputs),
        )
    ]


def _object(manifest: Manifest, name: str) -> Mapping[str, Any]:
    said = manifest.outputs[name]
    if not isinstance(said, Mapping):
        raise TypeError(f"{name} is {said!r}, not an object")
    return said


_READERS: Mapping[str, Callable[[Path, Manifest], list[Base]]] = {
    "convert": _measurement_set("raw", "measurement_set"),
    "flag": _measurement_set("flagged", "flagged_ms"),
    "calibrate_solve": _caltables,
    "calibrate_apply": _measurement_set("calibrated", "calibrated_ms"),
    "image": _image,
    "validate": _validation,
}
