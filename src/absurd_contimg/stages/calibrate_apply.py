"""Stage ``calibrate_apply``: solutions applied, corrected data split off and averaged.

On a copy: a killed ``applycal`` leaves a half-corrected Measurement Set without a mark.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from typing_extensions import override

from absurd_contimg.config import ApplyConfig, ConversionConfig
from absurd_contimg.errors import DataQualityError, InputError, OutputError
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.stage import (
    TABLES_BYTES,
    Parameters,
    PipelineStage,
    Resource,
    Workspace,
)
from absurd_contimg.products.outputs import (
    CalibrateApplyOutputs,
    Caltable,
    FlagOutputs,
    MeasurementSet,
    SelectCalibrationOutputs,
    names,
)
from absurd_contimg.science.antenna_matching import matched_table
from absurd_contimg.science.measurement_set import (
    FlagCounts,
    channel_frequencies,
    check_table,
    count_flags,
    divisor_up_to,
    open_table,
    row_chunks,
    whole_subbands,
    working_copy,
)
from absurd_contimg.science.solutions import with_flags


class CalibrateApplyStage(PipelineStage[CalibrateApplyOutputs]):
    """Applies the selected set's tables in their order."""

    name = "calibrate_apply"
    version = 3
    resource = Resource.CALIBRATION
    requires = names(FlagOutputs, SelectCalibrationOutputs)
    provides = names(CalibrateApplyOutputs)
    product_folder = "calibrated/ms"
    bytes_min = TABLES_BYTES

    @override
    def parameters(self, context: PipelineContext) -> Parameters:
        parameters: Parameters = context.config.apply.model_dump(mode="json")
        return {
            **parameters,
            "antennas_min": context.config.calibration.antennas_min,
            "subbands_min": context.config.conversion.subbands_min,
        }

    @override
    def input_paths(self, context: PipelineContext) -> list[Path]:
        ms = context.outputs_of(FlagOutputs).flagged_ms
        return [ms.path, *(table.path for table in _tables(context))]

    @override
    def validate(self, context: PipelineContext) -> None:
        check_table(context.outputs_of(FlagOutputs).flagged_ms.path)
        tables = _tables(context)
        if not tables:
            raise InputError("the selected calibration has no tables.", "Select another set.")
        for table in tables:
            remedy = "Retire its set in the registry, or solve again."
            check_table(table.path, "calibration table", remedy)

    @override
    def execute(self, context: PipelineContext, workspace: Workspace) -> CalibrateApplyOutputs:
        from casatasks import applycal

        settings = context.config.apply
        ms = context.outputs_of(FlagOutputs).flagged_ms
        copy = working_copy(ms.path, workspace.temporary)
        tables = _tables(context)
        antennas_min = context.config.calibration.antennas_min
        matched = [
            matched_table(table.path, copy, workspace.temporary, antennas_min) for table in tables
        ]
        before = count_flags(copy)
        applycal(
            vis=str(copy),
            gaintable=[str(path) for path in matched],
            interp=[_interpolation(table) for table in tables],
            calwt=[True],
            applymode="calflag",
            flagbackup=False,
        )
        flags = _check_corrected(copy, settings.flagged_fraction_max)
        uncalibrated = _check_subbands(ms, before, flags, context.config.conversion)
        without_data = {name for name, share in flags.by_antenna.items() if share >= 1.0}
        target = workspace.product / copy.name
        factor = _split(copy, target, settings)
        _check_values(target)
        centres = Path(shutil.copy(ms.beam_centres, workspace.product))
        calibrated = replace(
            ms,
            path=workspace.final_path(target),
            beam_centres=workspace.final_path(centres),
            n_channels=ms.n_channels // factor,
            flagged_fraction=round(count_flags(target).total, 6),
            uncalibrated_antennas=tuple(sorted(without_data - set(ms.dead_antennas))),
            uncalibrated_channels=int(
                ((before.by_channel < 1.0) & (flags.by_channel >= 1.0)).sum()
            ),
            uncalibrated_subbands=uncalibrated,
        )
        return CalibrateApplyOutputs(calibrated)

    @override
    def validate_outputs(
        self, context: PipelineContext, workspace: Workspace, outputs: CalibrateApplyOutputs
    ) -> None:
        ms = outputs.calibrated_ms
        path = workspace.product / ms.path.name
        n_channels = len(channel_frequencies(path))
        with open_table(path) as main:
            n_rows, columns = main.nrows(), main.colnames()
        if (n_rows, n_channels) != (ms.n_rows, ms.n_channels):
            raise OutputError(
                f"{path.name} has {n_rows} rows and {n_channels} channels instead of "
                f"{ms.n_rows} and {ms.n_channels}.",
                "See CASA's log.",
            )
        if "CORRECTED_DATA" in columns:
            raise OutputError(f"{path.name} was not split from the corrected data.")


def _tables(context: PipelineContext) -> list[Caltable]:
    """The selected set's tables in order of application."""
    tables = context.outputs_of(SelectCalibrationOutputs).calibration.tables
    return sorted(tables, key=lambda table: table.apply_order)


def _interpolation(table: Caltable) -> str:
    """How ``applycal`` interpolates in time, and for a bandpass in frequency.

    By default CASA takes solutions of other channels for data without any, however far away:
    delays of 15 ns made fluxes 16 % low with four sub-bands missing (measured).
    """
    return with_flags(table.interp) if table.type == "BP" else table.interp


def _check_subbands(
    ms: MeasurementSet, before: FlagCounts, after: FlagCounts, config: ConversionConfig
) -> tuple[int, ...]:
    """The sub-bands that lost all their data for want of solutions: they count as missing ones."""
    empty, empty_before = (
        whole_subbands(flags.by_channel >= 1.0, config.expected_subbands)
        for flags in (after, before)
    )
    lost = tuple(sorted({*empty} - {*empty_before}))
    absent = {*lost, *ms.placeholder_subbands}
    n_left = config.expected_subbands - len(absent)
    if lost and n_left < config.subbands_min:
        raise DataQualityError(
            f"only {n_left} of {config.expected_subbands} sub-bands of {ms.path.name} have data "
            f"and solutions, at least {config.subbands_min} are needed (without solutions: "
            f"{_numbers(lost)}; without data: {_numbers(ms.placeholder_subbands)}).",
            "The solutions do not cover these data: use another set, or solve again.",
        )
    return lost


def _numbers(subbands: Sequence[int]) -> str:
    return ", ".join(f"{i:02d}" for i in subbands) or "none"


def _check_corrected(ms: Path, flagged_fraction_max: float) -> FlagCounts:
    """CORRECTED_DATA is there and sufficiently unflagged; returns its flags."""
    with open_table(ms) as main:
        if "CORRECTED_DATA" not in main.colnames():
            raise OutputError(f"applycal wrote no CORRECTED_DATA in {ms.name}.", "See CASA's log.")
    flags = count_flags(ms)
    if flags.total > flagged_fraction_max:
        raise DataQualityError(
            f"{flags.total:.1%} of {ms.name} is flagged after calibration, more than "
            f"{flagged_fraction_max:.0%}.",
            "The solutions do not cover these data: use another set, or solve again.",
        )
    return flags


def _check_values(ms: Path) -> None:
    """Unflagged data are finite and not all zero: a mean keeps what is no number."""
    with open_table(ms) as main:
        good = zero = 0
        values = int(np.prod(main.getcell("DATA", 0).shape))
        for first, count in row_chunks(main.nrows(), values):
            used = ~main.getcol("FLAG", first, count)
            data = main.getcol("DATA", first, count)
            if (used & ~np.isfinite(data)).any():
                raise OutputError(f"corrected data of {ms.name} are not finite.", "Solve again.")
            good += int(used.sum())
            zero += int((used & (data == 0)).sum())
    if good == 0 or zero > 0.99 * good:
        raise OutputError(f"the corrected data of {ms.name} are all zero.", "See CASA's log.")


def _split(ms: Path, target: Path, settings: ApplyConfig) -> int:
    """Split the corrected data off, averaged; returns the averaging factor."""
    from casatasks import split

    frequencies = channel_frequencies(ms)
    width = float(np.diff(frequencies).mean()) if len(frequencies) > 1 else 0.0
    limits = settings.averaging_max, width, settings.averaged_width_max_hz
    factor = divisor_up_to(len(frequencies), *limits)
    # Keeping flagged rows lets rows be counted, and times do not shift.
    split(vis=str(ms), outputvis=str(target), datacolumn="corrected", width=factor, keepflags=True)
    if not (target / "table.dat").is_file():
        raise OutputError(f"split wrote no {target.name}.", "See CASA's log.")
    return factor
