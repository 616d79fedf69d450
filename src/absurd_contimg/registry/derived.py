"""The registry's rows of a committed product, from the outputs in its manifest.

Outputs are recognised by their type in `products.outputs`. A product with other outputs is
entered as a product only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from absurd_contimg.core.records import Json
from absurd_contimg.errors import BrokenProductError
from absurd_contimg.products.manifest import Manifest
from absurd_contimg.products.outputs import (
    CalibrateApplyOutputs,
    CalibrateSolveOutputs,
    ConvertOutputs,
    FlagOutputs,
    ImageOutputs,
    MeasurementSet,
    SolvedCaltables,
    ValidateOutputs,
    from_json,
    names,
)
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

_PROGRESS: Mapping[type[Any], GroupStatus] = {
    ConvertOutputs: GroupStatus.CONVERTED,
    CalibrateApplyOutputs: GroupStatus.CALIBRATED,
    ImageOutputs: GroupStatus.IMAGED,
}


def progress_of(manifest: Manifest) -> GroupStatus | None:
    """How far the group of a product is, now that the product exists; None: no further."""
    return next((status for kind, status in _PROGRESS.items() if _has(manifest, kind)), None)


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
    try:
        return [product, *_typed_rows(folder, manifest)]
    except ValueError as error:
        raise BrokenProductError(
            f"The manifest in {folder} lacks what the registry needs of a product of "
            f"{manifest.stage!r}: {error}.",
            "Another version of that stage made it; raise the stage's version.",
        ) from error


def _typed_rows(folder: Path, manifest: Manifest) -> list[Base]:
    key, group_id, outputs = manifest.key, manifest.group_id, manifest.outputs
    rows: list[Base] = []
    if _has(manifest, ConvertOutputs):
        raw = from_json(ConvertOutputs, outputs).measurement_set
        rows = [_measurement_set(manifest, "raw", raw)]
    elif _has(manifest, FlagOutputs):
        flagged = from_json(FlagOutputs, outputs).flagged_ms
        rows = [_measurement_set(manifest, "flagged", flagged)]
    elif _has(manifest, CalibrateSolveOutputs):
        caltables = from_json(CalibrateSolveOutputs, outputs).caltables
        rows = _caltables(manifest, caltables) if isinstance(caltables, SolvedCaltables) else []
    elif _has(manifest, CalibrateApplyOutputs):
        calibrated = from_json(CalibrateApplyOutputs, outputs).calibrated_ms
        rows = [_measurement_set(manifest, "calibrated", calibrated)]
    elif _has(manifest, ImageOutputs):
        details: dict[str, Json] = dict(outputs)
        rows = [ImageRow(product_key=key, group_id=group_id, folder=str(folder), details=details)]
    elif _has(manifest, ValidateOutputs):
        rows = [ValidationRow(product_key=key, group_id=group_id, details=dict(outputs))]
    return rows


def _has(manifest: Manifest, kind: type[Any]) -> bool:
    return names(kind) == manifest.outputs.keys()


_MEASUREMENT_SET_FIGURES = (
    "start_mjd", "mid_mjd", "end_mjd", "ra_deg", "dec_deg", "declination_deg", "n_rows",
    "n_channels", "flagged_fraction",
)  # fmt: skip
_CALTABLE_SET_FIELDS = (
    "set_name", "calibrator", "refant", "declination_deg", "mid_mjd", "valid_start_mjd",
    "valid_end_mjd",
)  # fmt: skip


def _measurement_set(manifest: Manifest, kind: str, ms: MeasurementSet) -> Base:
    return MeasurementSetRow(
        product_key=manifest.key,
        group_id=manifest.group_id,
        kind=kind,
        path=str(ms.path),
        **{name: getattr(ms, name) for name in _MEASUREMENT_SET_FIGURES},
    )


def _caltables(manifest: Manifest, caltables: SolvedCaltables) -> list[Base]:
    caltable_set = CaltableSetRow(
        product_key=manifest.key,
        group_id=manifest.group_id,
        source_ms=manifest.inputs[0].path,
        status="active",
        retired_reason=None,
        created_at=manifest.created_at,
        quality={} if caltables.quality is None else asdict(caltables.quality),
        **{name: getattr(caltables, name) for name in _CALTABLE_SET_FIELDS},
    )
    tables = [
        CaltableRow(product_key=manifest.key, **{**asdict(table), "path": str(table.path)})
        for table in caltables.tables
    ]
    return [caltable_set, *tables]
