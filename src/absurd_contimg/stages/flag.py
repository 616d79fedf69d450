"""Stage ``flag``: bad data, then antennas with hardly any left, are flagged in a copy."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from absurd_contimg.config import FlaggingConfig
from absurd_contimg.errors import DataQualityError, OutputError, OverFlaggedError
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.fallback import GENTLER_FLAGS, fallbacks_of
from absurd_contimg.execution.stage import (
    TABLES_BYTES,
    Parameters,
    PipelineStage,
    Resource,
    Workspace,
)
from absurd_contimg.products.outputs import (
    ConvertOutputs,
    FlaggedMeasurementSet,
    FlagOutputs,
    names,
)
from absurd_contimg.science.measurement_set import (
    check_table,
    count_flags,
    open_table,
    row_chunks,
    working_copy,
)
from absurd_contimg.science.outliers import flag_outliers, rows_by_time

_GENTLER_FACTOR = 2.0
"""On the cut-off in sigma: at 8 sigma, Gaussian noise loses nothing and interference its peaks."""

_NOTHING_FLAGGED = "nothing is flagged, which real data never show: look whether flagging works"
"""In production, flagging once did not run for months, and nobody saw it."""


class FlagStage(PipelineStage[FlagOutputs]):
    """Copies the Measurement Set into its own product and flags the copy."""

    name = "flag"
    version = 2
    resource = Resource.CALIBRATION
    requires = names(ConvertOutputs)
    provides = names(FlagOutputs)
    product_folder = "flagged/ms"
    bytes_min = TABLES_BYTES

    @override
    def parameters(self, context: PipelineContext) -> Parameters:
        settings = context.config.flagging.model_dump(mode="json")
        return settings | ({"gentler": True} if GENTLER_FLAGS in fallbacks_of(context) else {})

    @override
    def input_paths(self, context: PipelineContext) -> list[Path]:
        return [context.outputs_of(ConvertOutputs).measurement_set.path]

    @override
    def validate(self, context: PipelineContext) -> None:
        check_table(context.outputs_of(ConvertOutputs).measurement_set.path)

    @override
    def execute(self, context: PipelineContext, workspace: Workspace) -> FlagOutputs:
        ms = context.outputs_of(ConvertOutputs).measurement_set
        copy = working_copy(ms.path, workspace.product)
        centres = Path(shutil.copy(ms.beam_centres, workspace.product))
        settings, gentler = context.config.flagging, GENTLER_FLAGS in fallbacks_of(context)
        factor = _GENTLER_FACTOR if gentler else 1.0
        before = _flag(copy, settings, settings.tfcrop_cutoff_sigma * factor)
        counts = count_flags(copy)
        limit = settings.flagged_fraction_max
        if counts.total > limit:
            error = DataQualityError if gentler or before > limit else OverFlaggedError
            raise error(
                f"{counts.total:.1%} of group {context.group_id} is flagged, more than "
                f"{limit:.0%} ({before:.1%} before the search for outliers).",
                "Look at the data for interference or a dead correlator; "
                "flagging.flagged_fraction_max sets the limit.",
            )
        changed = replace(
            ms,
            path=workspace.final_path(copy),
            beam_centres=workspace.final_path(centres),
            flagged_fraction=round(counts.total, 6),
        )
        dead = tuple(sorted(name for name, share in counts.by_antenna.items() if share >= 1.0))
        warning = None if counts.total > 0 else _NOTHING_FLAGGED
        flagged = FlaggedMeasurementSet(
            **asdict(changed), dead_antennas=dead, gentler=gentler, flagging_warning=warning
        )
        return FlagOutputs(flagged)

    @override
    def validate_outputs(
        self, context: PipelineContext, workspace: Workspace, outputs: FlagOutputs
    ) -> None:
        before = context.outputs_of(ConvertOutputs).measurement_set.flagged_fraction
        after = outputs.flagged_ms.flagged_fraction
        if after < before - 1e-6:
            raise OutputError(
                f"flagging lowered the flagged fraction from {before:.4f} to {after:.4f}.",
                "Report it: the stage does not lower flags.",
            )


def _flag(path: Path, settings: FlaggingConfig, cutoff_sigma: float) -> float:
    """Flag in place, in the guide's order; the fraction flagged before the search for outliers."""
    with open_table(path, writable=True) as main:
        first, second = main.getcol("ANTENNA1"), main.getcol("ANTENNA2")
        amplitudes, flags = _read(main, settings.amplitude_max_jy)
        before = float(flags.mean())
        if settings.tfcrop:
            rows = rows_by_time(main.getcol("TIME"), first, second)
            flag_outliers(amplitudes, flags, rows, cutoff_sigma)
        flagged, number = flags.mean(axis=(1, 2)), int(max(first.max(), second.max())) + 1
        bad = np.bincount(first, flagged, number) + np.bincount(second, flagged, number)
        rows_of = np.bincount(first, minlength=number) + np.bincount(second, minlength=number)
        dead = np.flatnonzero(bad > settings.dead_antenna_fraction * rows_of)
        flags[np.isin(first, dead) | np.isin(second, dead)] = True
        for start, count in row_chunks(len(flags), flags[0].size):
            main.putcol("FLAG", flags[start : start + count].transpose(2, 1, 0), start, count)
        main.putcol("FLAG_ROW", flags.all(axis=(1, 2)))
    return before


def _read(main: Any, amplitude_max: float | None) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Amplitudes and flags (rows, channels, products); no data, and too large ones, are flagged."""
    shape = (main.nrows(), *main.getcell("DATA", 0).shape[::-1])
    amplitudes, flags = np.empty(shape, np.float32), np.empty(shape, bool)
    for start, count in row_chunks(shape[0], shape[1] * shape[2]):
        part = slice(start, start + count)
        data = main.getcol("DATA", start, count).transpose(2, 1, 0)
        amplitudes[part] = np.abs(data)
        flags[part] = main.getcol("FLAG", start, count).transpose(2, 1, 0)
        flags[part] |= ~((amplitudes[part] > 0.0) & np.isfinite(amplitudes[part]))
        if amplitude_max is not None:
            flags[part] |= amplitudes[part] > amplitude_max
    flags[main.getcol("FLAG_ROW")] = True
    return amplitudes, flags
