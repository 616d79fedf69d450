"""Stage ``flag``: bad data, then antennas with hardly any left, are flagged in a copy."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

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
from absurd_contimg.science.measurement_set import check_table, count_flags, working_copy

_GENTLER_FACTOR = 2.0
"""On the cut-off in sigma: at 8 sigma, Gaussian noise loses nothing and interference its peaks."""

_NOTHING_FLAGGED = "nothing is flagged, which real data never show: look whether flagging works"
"""In production, flagging once did not run for months, and nobody saw it."""


class FlagStage(PipelineStage[FlagOutputs]):
    """Copies the Measurement Set into its own product and flags the copy."""

    name = "flag"
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
                "CASA did not do what was asked of it; see its log.",
            )


def _flag(ms: Path, settings: FlaggingConfig, cutoff_sigma: float) -> float:
    """Flag in place, in the guide's order; the fraction flagged before the search for outliers."""
    from casatasks import flagdata

    common = {"vis": str(ms), "flagbackup": False}
    clip = partial(flagdata, mode="clip", datacolumn="DATA", **common)
    clip(clipzeros=True)
    if settings.amplitude_max_jy is not None:
        clip(clipminmax=[0.0, settings.amplitude_max_jy], correlation="ABS_ALL")
    before = count_flags(ms).total
    if settings.tfcrop:
        cutoffs = {"timecutoff": cutoff_sigma, "freqcutoff": cutoff_sigma}
        flagdata(mode="tfcrop", datacolumn="DATA", extendflags=False, **cutoffs, **common)
    shares = count_flags(ms).by_antenna
    dead = [name for name, share in shares.items() if share > settings.dead_antenna_fraction]
    if dead:
        flagdata(mode="manual", antenna=",".join(dead), **common)
    return before
