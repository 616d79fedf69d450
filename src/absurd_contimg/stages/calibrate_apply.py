"""Stage ``calibrate_apply``: solutions applied, corrected data split off and averaged.

A killed ``applycal`` leaves a half-corrected Measurement Set without a mark, so it works on a
scratch copy and the corrected data become a Measurement Set of their own. Runs in a child
process with CASA.
"""

# CASA, pyuvdata and astropy take seconds to import and may be missing: where they are used.
# ruff: noqa: PLC0415

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from typing_extensions import override

from absurd_contimg.config import ApplyConfig
from absurd_contimg.core.records import Json
from absurd_contimg.errors import (
    DataQualityError,
    InputError,
    MissingInputError,
    OutputError,
)
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.stage import PipelineStage, Workspace
from absurd_contimg.science.measurement_set import (
    MeasurementSet,
    channel_frequencies,
    count_flags,
    divisor_up_to,
    open_table,
    row_chunks,
    working_copy,
)


class CalibrateApplyStage(PipelineStage):
    """Applies the chosen set's tables in their order."""

    name = "calibrate_apply"
    requires = frozenset({"flagged_ms", "calibration"})
    provides = frozenset({"calibrated_ms"})
    product_folder: ClassVar[str | None] = "calibrated/ms"

    @override
    def parameters(self, context: PipelineContext) -> Mapping[str, Json]:
        return context.config.apply.model_dump(mode="json")

    @override
    def input_paths(self, context: PipelineContext) -> list[Path]:
        flagged = MeasurementSet.from_outputs(context.outputs, "flagged_ms")
        return [Path(flagged.path), *(Path(t["path"]) for t in _tables(context))]

    @override
    def validate(self, context: PipelineContext) -> None:
        MeasurementSet.from_outputs(context.outputs, "flagged_ms")
        for table in _tables(context):
            if not (Path(table["path"]) / "table.dat").is_file():
                raise MissingInputError(
                    f"the calibration table {table['path']} is missing or has no table.dat.",
                    "Retire its set in the registry, or solve again.",
                )

    @override
    def execute(self, context: PipelineContext, workspace: Workspace) -> dict[str, Json]:
        settings = context.config.apply
        ms = MeasurementSet.from_outputs(context.outputs, "flagged_ms")
        copy = working_copy(ms, workspace.temporary)
        _apply(copy, _tables(context))
        _check_corrected(copy, settings)
        target = workspace.product / copy.name
        factor = _split(copy, target, settings)
        centres = Path(shutil.copy(ms.beam_centres, workspace.product))
        counts = count_flags(target)
        calibrated = ms.moved(
            path=workspace.final_path(target),
            beam_centres=workspace.final_path(centres),
            n_channels=ms.n_channels // factor,
            flagged_fraction=round(counts.total, 6),
        )
        return {"calibrated_ms": calibrated.to_json()}

    @override
    def validate_outputs(
        self, context: PipelineContext, workspace: Workspace, outputs: Mapping[str, Json]
    ) -> None:
        described = outputs["calibrated_ms"]
        if not isinstance(described, Mapping):
            raise OutputError(f"applying described no Measurement Set but {described!r}.")
        path = workspace.product / Path(str(described["path"])).name
        channels = len(channel_frequencies(path))
        with open_table(path) as main:
            rows, columns = main.nrows(), main.colnames()
        if rows != described["n_rows"] or channels != described["n_channels"]:
            raise OutputError(
                f"{path.name} has {rows} rows and {channels} channels instead of "
                f"{described['n_rows']} and {described['n_channels']}.",
                "See CASA's log.",
            )
        if "CORRECTED_DATA" in columns:
            raise OutputError(f"{path.name} was not split from the corrected data.")


def _apply(ms: Path, tables: Sequence[Mapping[str, str]]) -> None:
    from casatasks import applycal

    applycal(
        vis=str(ms),
        gaintable=[t["path"] for t in tables],
        interp=[t["interp"] for t in tables],
        calwt=[True],
        applymode="calflag",
        flagbackup=False,
    )


def _check_corrected(ms: Path, settings: ApplyConfig) -> None:
    """CORRECTED_DATA is there, finite, not all zero, and enough of it is unflagged."""
    with open_table(ms) as main:
        if "CORRECTED_DATA" not in main.colnames():
            raise OutputError(f"applycal made no CORRECTED_DATA in {ms.name}.", "See CASA's log.")
        good = zero = 0
        values = int(np.prod(main.getcell("DATA", 0).shape))
        for first, count in row_chunks(main.nrows(), values):
            flags = main.getcol("FLAG", first, count)
            data = main.getcol("CORRECTED_DATA", first, count)[~flags]
            if not np.isfinite(data).all():
                raise OutputError(f"corrected data of {ms.name} are not finite.", "Solve again.")
            good += data.size
            zero += int((data == 0).sum())
    counts = count_flags(ms)
    if counts.total > settings.flagged_fraction_max:
        raise DataQualityError(
            f"{counts.total:.1%} of {ms.name} is flagged after calibration, more than "
            f"{settings.flagged_fraction_max:.0%}.",
            "The solutions do not cover these data: use another set, or solve again.",
        )
    if good == 0 or zero > 0.99 * good:
        raise OutputError(f"the corrected data of {ms.name} are all zero.", "See CASA's log.")


def _split(ms: Path, target: Path, settings: ApplyConfig) -> int:
    """Split the corrected data off, averaged; returns the averaging factor."""
    from casatasks import split

    frequencies = channel_frequencies(ms)
    width = float(np.diff(frequencies).mean()) if len(frequencies) > 1 else 0.0
    factor = divisor_up_to(
        len(frequencies), settings.averaging_max, width, settings.averaged_width_max_hz
    )
    # Flagged rows stay, so that rows can be counted and times do not shift.
    split(vis=str(ms), outputvis=str(target), datacolumn="corrected", width=factor, keepflags=True)
    if not (target / "table.dat").is_file():
        raise OutputError(f"split made no {target.name}.", "See CASA's log.")
    return factor


def _tables(context: PipelineContext) -> list[dict[str, str]]:
    """The chosen set's tables in order of application."""
    calibration = context.outputs["calibration"]
    tables = calibration.get("tables") if isinstance(calibration, Mapping) else None
    if not isinstance(tables, list) or not tables:
        raise InputError(
            f"the output calibration names no tables: {calibration!r}.",
            "Select a calibration first.",
        )
    entries = [t for t in tables if isinstance(t, Mapping)]
    ordered = sorted(entries, key=lambda t: float(str(t["apply_order"])))
    return [{k: str(t[k]) for k in ("path", "type", "interp")} for t in ordered]
