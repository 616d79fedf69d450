"""The registry's rows of a product, whose outputs are recognised by their type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from absurd_contimg.errors import BrokenProductError, CorruptInputError, MissingInputError
from absurd_contimg.products.manifest import Manifest
from absurd_contimg.products.mosaic_outputs import MosaicOutputs
from absurd_contimg.products.outputs import (
    CalibrateApplyOutputs,
    CalibrateSolveOutputs,
    ConvertOutputs,
    FlagOutputs,
    ImageOutputs,
    MeasurementSet,
    Photometry,
    PhotometryOutputs,
    SolvedCaltables,
    ValidateOutputs,
    from_json,
    names,
)
from absurd_contimg.products.photometry_table import read_photometry
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
from absurd_contimg.registry.mosaics import MosaicRow
from absurd_contimg.registry.photometry import PhotometryRow
from absurd_contimg.registry.stored_types import require_readable

DERIVED_TABLES: tuple[type[Base], ...] = (
    CaltableRow, CaltableSetRow, MeasurementSetRow, ImageRow, ValidationRow,
    MosaicRow, PhotometryRow, Product,
)  # fmt: skip
"""The tables that a rebuild replaces, children before parents."""

_PROGRESS: Mapping[type[Any], GroupStatus] = {
    ConvertOutputs: GroupStatus.CONVERTED,
    CalibrateApplyOutputs: GroupStatus.CALIBRATED,
    ImageOutputs: GroupStatus.IMAGED,
}
_MEASUREMENT_SETS: Mapping[type[Any], str] = {
    ConvertOutputs: "raw",
    FlagOutputs: "flagged",
    CalibrateApplyOutputs: "calibrated",
}


def progress_of(manifest: Manifest) -> GroupStatus | None:
    """How far the group of a product is, now that the product exists; None: no further."""
    return next((status for kind, status in _PROGRESS.items() if _has(manifest, kind)), None)


def is_image(manifest: Manifest) -> bool:
    """Whether a product is the image of a group."""
    return _has(manifest, ImageOutputs)


def belongs_to_window(manifest: Manifest) -> bool:
    """Whether a product is of a window of groups, whose id it has in place of a group's."""
    if _has(manifest, PhotometryOutputs):
        photometry = cast(Mapping[str, Any], manifest.outputs["photometry"])
        return photometry.get("measured_in") == "mosaic"
    return _has(manifest, MosaicOutputs)


def derived_rows(folder: Path, manifest: Manifest) -> list[Base]:
    """The rows, parents before children; `BrokenProductError` when outputs lack something."""
    columns = {**_columns(Product, manifest), "outputs": dict(manifest.outputs)}
    size_bytes = sum(entry.size for entry in manifest.files)
    product = Product(**columns, folder=str(folder), size_bytes=size_bytes)
    try:
        rows = [product, *_typed_rows(folder, manifest)]
        for row in rows:
            require_readable(row)
        return rows
    except (CorruptInputError, MissingInputError) as error:  # of a table in it
        text = f"The product {folder} is broken: {error.problem}"
        raise BrokenProductError(text, error.remedy) from error
    except (ValueError, LookupError) as error:
        raise BrokenProductError(
            f"The manifest in {folder} lacks what the registry needs of a product of "
            f"{manifest.stage!r}: {error}.",
            "Another version of that stage made it; raise the stage's version.",
        ) from error


def _typed_rows(folder: Path, manifest: Manifest) -> list[Base]:
    ids = {"product_key": manifest.key, "group_id": manifest.group_id}
    for kind, state in _MEASUREMENT_SETS.items():
        if _has(manifest, kind):
            (outputs,) = manifest.outputs.values()
            ms = from_json(MeasurementSet, cast(Mapping[str, Any], outputs))
            columns = {**_columns(MeasurementSetRow, ms), **ids, "path": str(ms.path)}
            return [MeasurementSetRow(**columns, kind=state)]
    if _has(manifest, CalibrateSolveOutputs):
        caltables = from_json(CalibrateSolveOutputs, manifest.outputs).caltables
        return _caltables(manifest, caltables) if isinstance(caltables, SolvedCaltables) else []
    details = dict(manifest.outputs)
    if _has(manifest, PhotometryOutputs):
        return _fluxes(folder, ids, from_json(PhotometryOutputs, manifest.outputs).photometry)
    if _has(manifest, MosaicOutputs):
        mosaic = from_json(MosaicOutputs, manifest.outputs).mosaic
        columns = {**_columns(MosaicRow, mosaic), "product_key": manifest.key}
        return [MosaicRow(**columns, folder=str(folder), details=details)]
    if _has(manifest, ImageOutputs):
        return [ImageRow(**ids, folder=str(folder), details=details)]
    return [ValidationRow(**ids, details=details)] if _has(manifest, ValidateOutputs) else []


def _fluxes(folder: Path, ids: Mapping[str, str], photometry: Photometry) -> list[Base]:
    """A row for each source that could be measured."""
    return [
        PhotometryRow(
            **{**_columns(PhotometryRow, row), **ids, "flags": " ".join(row.flags)},
        )
        for row in read_photometry(folder / photometry.table.name)
        if row.flux_jy is not None and row.error_jy is not None
    ]


def _has(manifest: Manifest, kind: type[Any]) -> bool:
    return names(kind) == manifest.outputs.keys()


def _columns(table: type[Base], record: object) -> dict[str, Any]:
    """The fields of a record that are columns of the table."""
    columns = table.__table__.columns.keys()
    return {name: getattr(record, name) for name in columns if hasattr(record, name)}


def _caltables(manifest: Manifest, caltables: SolvedCaltables) -> list[Base]:
    columns = {
        **_columns(CaltableSetRow, caltables),
        "product_key": manifest.key,
        "group_id": manifest.group_id,
        "source_ms": manifest.inputs[0].path,
        "status": "active",
        "created_at": manifest.created_at,
        "quality": {} if caltables.quality is None else asdict(caltables.quality),
    }
    tables = [
        CaltableRow(product_key=manifest.key, **{**asdict(table), "path": str(table.path)})
        for table in caltables.tables
    ]
    return [CaltableSetRow(**columns, retired_reason=None), *tables]
