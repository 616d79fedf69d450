"""Stage ``convert``: UVH5 sub-bands to one Measurement Set, phased to the group's middle.

That removes the meridian centres, which the primary beam follows: a file keeps them.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from absurd_contimg.config import ConversionConfig
from absurd_contimg.errors import DataQualityError, OutputError
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.stage import TABLES_BYTES, Parameters, PipelineStage, Workspace
from absurd_contimg.products.outputs import ConvertOutputs, MeasurementSet, names
from absurd_contimg.science.beam import BeamCentres
from absurd_contimg.science.earth_orientation import use_bundled_tables
from absurd_contimg.science.measurement_set import divisor_up_to
from absurd_contimg.science.raw_group import RawGroup, check_count, read_raw_group
from absurd_contimg.science.raw_visibilities import meridian_icrs, read_uvdata

_MJD_ZERO_JD = 2400000.5


class ConvertStage(PipelineStage[ConvertOutputs]):
    """Reads, averages, rephases and writes; keeps the beam centres."""

    name = "convert"
    version = 3
    requires = frozenset({"input_files"})
    provides = names(ConvertOutputs)
    product_folder = "raw/ms"
    bytes_min = TABLES_BYTES

    @override
    def parameters(self, context: PipelineContext) -> Parameters:
        return context.config.conversion.model_dump(mode="json")

    @override
    def input_paths(self, context: PipelineContext) -> list[Path]:
        return list(context.group_inputs.input_files)

    @override
    def validate(self, context: PipelineContext) -> None:
        _group(context)

    @override
    def execute(self, context: PipelineContext, workspace: Workspace) -> ConvertOutputs:
        use_bundled_tables()
        settings = context.config.conversion
        group = _group(context)
        group_id = context.group_id
        uvd = _read(group, settings)
        if uvd.flag_array.all():
            raise DataQualityError(
                f"all visibilities of group {group_id} are flagged in its files.",
                "No image can be made of it; look at what flagged them.",
            )
        empty = (*group.unwritten, *_without_data(group, uvd.flag_array))
        n_with_data = len(group.subbands) + len(group.unwritten) - len(empty)
        check_count(n_with_data, sorted(empty), settings, group.reference.path.parent)
        location = uvd.telescope.location
        centres = _beam_centres(group, location)
        middle = np.array([(group.times_jd[0] + group.times_jd[-1]) / 2.0])
        ((ra,), (dec,)) = meridian_icrs(middle, group.declination_deg, location)
        uvd.phase(lon=ra, lat=dec, cat_name=group_id, phase_frame="icrs", cat_type="sidereal")
        path = workspace.product / f"{group_id}.ms"
        uvd.write_ms(str(path), run_check=False, check_autos=False)
        centres_path = workspace.product / "beam_centres.json"
        centres.write(centres_path)
        half = group.integration_s / 86400.0 / 2.0
        start, end = centres.mjd[0] - half, centres.mjd[-1] + half
        return ConvertOutputs(
            MeasurementSet(
                path=workspace.final_path(path),
                beam_centres=workspace.final_path(centres_path),
                n_rows=int(uvd.Nblts),
                n_channels=int(uvd.Nfreqs),
                channel_width_hz=float(np.median(uvd.channel_width)),
                n_antennas=int(uvd.Nants_data),
                start_mjd=start,
                end_mjd=end,
                mid_mjd=(start + end) / 2.0,
                ra_deg=math.degrees(float(ra)) % 360.0,
                dec_deg=math.degrees(float(dec)),
                declination_deg=group.declination_deg,
                placeholder_subbands=tuple(sorted({*group.missing, *empty})),
                empty_subbands=tuple(sorted(empty)),
                flagged_fraction=float(uvd.flag_array.mean()),
            )
        )

    @override
    def validate_outputs(
        self, context: PipelineContext, workspace: Workspace, outputs: ConvertOutputs
    ) -> None:
        ms = outputs.measurement_set
        _check_written(workspace.product / ms.path.name, ms.n_rows, context.config.conversion)


def _group(context: PipelineContext) -> RawGroup:
    config = context.config
    return read_raw_group(context.group_inputs.input_files, config.conversion, config.site)


def _read(group: RawGroup, settings: ConversionConfig) -> Any:
    """One averaged UVData with ascending channels; missing sub-bands are flagged zeros."""
    limits = settings.averaging_max, group.channel_width_hz, settings.averaged_width_max_hz
    factor = divisor_up_to(group.n_channels, *limits)
    return read_uvdata({**dict.fromkeys(group.missing), **group.subbands}, group.reference, factor)


def _without_data(group: RawGroup, flags: NDArray[np.bool_]) -> list[int]:
    """Sub-bands whose files hold nothing but flagged visibilities; channels ascend."""
    indices = sorted({*group.missing, *group.subbands}, reverse=True)
    by_subband = flags.reshape(len(flags), len(indices), -1)
    empty = [index for place, index in enumerate(indices) if by_subband[:, place].all()]
    return [index for index in empty if index in group.subbands]


def _beam_centres(group: RawGroup, location: Any) -> BeamCentres:
    """The meridian of every integration."""
    ra, dec = meridian_icrs(group.times_jd, group.declination_deg, location)
    columns = group.times_jd - _MJD_ZERO_JD, np.degrees(ra) % 360.0, np.degrees(dec)
    return BeamCentres(*(tuple(map(float, column)) for column in columns))


def _check_written(path: Path, n_rows: int, settings: ConversionConfig) -> None:
    """Check the Measurement Set on disk for what pyuvdata does not warn about."""
    from casacore.tables import table

    def refuse(problem: str) -> None:
        raise OutputError(f"{path}: {problem}", "Convert the group again; report it if it recurs.")

    for name in ("SPECTRAL_WINDOW", "FIELD"):
        with table(str(path / name), ack=False) as part:
            if part.nrows() != 1:
                refuse(f"{part.nrows()} rows in {name} instead of one.")
    with table(str(path / "SPECTRAL_WINDOW"), ack=False) as window:
        steps = np.diff(window.getcell("CHAN_FREQ", 0))
    if len(steps) and (steps.min() <= 0 or np.ptp(steps) > 1e-3 * steps.mean()):
        refuse("the channels are not evenly spaced in ascending order.")
    with table(str(path), ack=False) as main:
        missing = {"DATA", "FLAG", "UVW", "TIME", "ANTENNA1", "ANTENNA2"} - set(main.colnames())
        if missing:
            refuse(f"the columns {', '.join(sorted(missing))} are missing.")
        if main.nrows() != n_rows:
            refuse(f"{main.nrows()} rows instead of {n_rows}.")
        length = np.sqrt((main.getcol("UVW") ** 2).sum(axis=1))
        cross = main.getcol("ANTENNA1") != main.getcol("ANTENNA2")
        low, high, limit = length[cross].min(), length.max(), settings.baseline_max_m
        if low <= 0 or high > limit:
            refuse(f"baselines from {low:.1f} to {high:.1f} m; more than 0, at most {limit} m.")
        if not np.isfinite(main.getcol("DATA")).all():
            refuse("the column DATA is not finite.")
