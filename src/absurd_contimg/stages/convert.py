"""Stage ``convert``: UVH5 sub-bands to one Measurement Set, phased to the group's middle.

pyuvdata does the format. What it does wrong without an error is corrected here: sub-bands are
ordered by frequency, and each gets ascending channels before they are joined. Rephasing to one
centre removes the 24 meridian centres from the data, so a file beside it keeps them: the primary
beam follows them. Runs in a child process with pyuvdata and python-casacore.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from typing_extensions import override

from absurd_contimg.config import ConversionConfig
from absurd_contimg.core.records import Json
from absurd_contimg.errors import CorruptInputError, DataQualityError, OutputError
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.stage import PipelineStage, Workspace
from absurd_contimg.products.outputs import ConvertOutputs, MeasurementSet, names
from absurd_contimg.science.beam import BeamCentres
from absurd_contimg.science.catalogue import separation_rad, unit_vectors
from absurd_contimg.science.earth_orientation import use_bundled_tables
from absurd_contimg.science.measurement_set import divisor_up_to
from absurd_contimg.science.uvh5 import GroupHeader, SubbandHeader, read_group

TELESCOPE_NAME = "OVRO_MMA"
"""The observatory's name in CASA's table of observatories; it does not know DSA-110."""
_MJD_ZERO_JD = 2400000.5


class ConvertStage(PipelineStage[ConvertOutputs]):
    """Reads, averages, joins, rephases and writes; keeps the beam centres."""

    name = "convert"
    requires = frozenset({"input_files"})
    provides = names(ConvertOutputs)
    product_folder: ClassVar[str | None] = "raw/ms"

    @override
    def parameters(self, context: PipelineContext) -> Mapping[str, Json]:
        return context.config.conversion.model_dump(mode="json")

    @override
    def input_paths(self, context: PipelineContext) -> list[Path]:
        return list(context.group_inputs.input_files)

    @override
    def validate(self, context: PipelineContext) -> None:
        read_group(context.group_inputs.input_files, context.config.conversion)

    @override
    def execute(self, context: PipelineContext, workspace: Workspace) -> ConvertOutputs:
        use_bundled_tables()
        settings = context.config.conversion
        group = read_group(context.group_inputs.input_files, settings)
        group_id = context.group_id
        uvd = _read_and_join(group, settings)
        if uvd.flag_array.all():
            raise DataQualityError(
                f"all visibilities of group {group_id} are flagged in its files.",
                "No image can be made of it; look at what flagged them.",
            )
        centres = _beam_centres(uvd, group, settings)
        ra, dec = _middle(uvd, group)
        uvd.phase(lon=ra, lat=dec, cat_name=group_id, phase_frame="icrs", cat_type="sidereal")
        _adapt_to_casa(uvd)
        path = workspace.product / f"{group_id}.ms"
        uvd.write_ms(str(path), run_check=False, check_autos=False)
        centres_path = workspace.product / "beam_centres.json"
        centres.write(centres_path)
        half = float(np.median(uvd.integration_time)) / 86400.0 / 2.0
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
                ra_deg=math.degrees(ra) % 360.0,
                dec_deg=math.degrees(dec),
                declination_deg=group.declination_deg,
                placeholder_subbands=group.missing,
                flagged_fraction=float(uvd.flag_array.mean()),
            )
        )

    @override
    def validate_outputs(
        self, context: PipelineContext, workspace: Workspace, outputs: ConvertOutputs
    ) -> None:
        ms = outputs.measurement_set
        _check_written(workspace.product / ms.path.name, ms.n_rows, context.config.conversion)


def _read_and_join(group: GroupHeader, settings: ConversionConfig) -> Any:
    """One UVData with ascending channels, averaged."""
    limits = settings.averaging_max, group.channel_width_hz, settings.averaged_width_max_hz
    factor = divisor_up_to(group.n_channels, *limits)
    by_index = {i: _read_subband(header, factor) for i, header in group.subbands.items()}
    template = next(iter(by_index.values()))
    first = next(iter(group.subbands))
    for index in group.missing:
        shift = (first - index) * group.n_channels * group.channel_width_hz
        by_index[index] = _placeholder(template, shift)
    in_order = [by_index[i] for i in sorted(by_index, reverse=True)]
    joined = in_order[0]
    if len(in_order) > 1:
        joined.fast_concat(in_order[1:], axis="freq", inplace=True, run_check=False)
    return joined


def _read_subband(header: SubbandHeader, factor: int) -> Any:
    from pyuvdata import UVData

    uvd = UVData()
    uvd.read(
        header.path,
        file_type="uvh5",
        keep_all_metadata=False,
        run_check=False,
        check_extra=False,
        run_check_acceptability=False,
        strict_uvw_antpos_check=False,
    )
    if np.any(uvd.ant_1_array == uvd.ant_2_array):
        # Nothing here uses autocorrelations, and imagers would grid them.
        uvd.select(ant_str="cross", run_check=False, run_check_acceptability=False)
    bad = int((~np.isfinite(uvd.data_array) & ~uvd.flag_array).sum())
    if bad:
        raise CorruptInputError(
            f"{header.path} has {bad} visibilities of {uvd.data_array.size} that are NaN or "
            "infinite and not flagged.",
            "Flag them in the file or leave the sub-band out: the group is accepted without it.",
        )
    # Files may hold baselines in single precision, too coarse for phases.
    uvd.uvw_array = uvd.uvw_array.astype(np.float64)
    uvd.data_array = np.where(uvd.flag_array, 0, uvd.data_array)
    uvd.reorder_freqs(channel_order="freq", run_check=False)
    if factor > 1:
        uvd.frequency_average(factor)
    return uvd


def _adapt_to_casa(uvd: Any) -> None:
    """Change antenna numbers, mounts and the telescope's name to what CASA supports.

    A Measurement Set numbers antennas by its rows: station numbers would leave gaps without a
    name, each with solutions of its own. CASA has no mount that is fixed in azimuth.
    """
    telescope = uvd.telescope
    numbers = np.asarray(telescope.antenna_numbers)
    row = {int(number): index for index, number in enumerate(numbers)}
    uvd.ant_1_array = np.array([row[int(a)] for a in uvd.ant_1_array])
    uvd.ant_2_array = np.array([row[int(a)] for a in uvd.ant_2_array])
    telescope.antenna_numbers = np.arange(len(numbers))
    telescope.mount_type = ["alt-az"] * len(numbers)
    telescope.name = TELESCOPE_NAME


def _placeholder(template: Any, shift_hz: float) -> Any:
    """A sub-band of flagged zeros with the template's layout, shifted in frequency."""
    uvd = template.copy()
    uvd.freq_array = template.freq_array + shift_hz
    uvd.data_array = np.zeros_like(template.data_array)
    uvd.flag_array = np.ones_like(template.flag_array)
    uvd.nsample_array = np.zeros_like(template.nsample_array)
    return uvd


def _meridian(uvd: Any, jd: Any, declination_deg: float) -> tuple[Any, Any]:
    """ICRS radians of the meridian at an apparent declination.

    Sidereal time and the strip's declination are apparent; used as ICRS they would put the beam
    0.35 deg off (precession since 2000).
    """
    from pyuvdata.utils import get_lst_for_time
    from pyuvdata.utils.phasing import transform_app_to_icrs

    location = uvd.telescope.location
    lst = get_lst_for_time(jd, telescope_loc=location)
    declination = np.full(len(jd), math.radians(declination_deg))
    apparent = {"app_ra": lst, "app_dec": declination}
    ra, dec = transform_app_to_icrs(time_array=jd, telescope_loc=location, **apparent)
    return ra, dec


def _beam_centres(uvd: Any, group: GroupHeader, settings: ConversionConfig) -> BeamCentres:
    """The meridian of every integration, checked against the phase centres in the files."""
    jd, rows = np.unique(uvd.time_array, return_index=True)
    ra, dec = _meridian(uvd, jd, group.declination_deg)
    in_file = unit_vectors(uvd.phase_center_app_ra[rows], uvd.phase_center_app_dec[rows])
    lst = uvd.lst_array[rows]
    expected = unit_vectors(lst, np.full(len(lst), math.radians(group.declination_deg)))
    worst = float(np.degrees(separation_rad(in_file, expected).max())) * 3600.0
    if worst > settings.meridian_tolerance_arcsec:
        raise CorruptInputError(
            f"phase centres of {next(iter(group.subbands.values())).path} lie up to {worst:.0f} "
            "arcsec from the meridian at the declination of its header.",
            "The data are not a drift scan, or their header's phase_center_dec is wrong.",
        )
    columns = jd - _MJD_ZERO_JD, np.degrees(ra) % 360.0, np.degrees(dec)
    return BeamCentres(*(tuple(map(float, column)) for column in columns))


def _middle(uvd: Any, group: GroupHeader) -> tuple[float, float]:
    """The meridian at the middle of the group, ICRS radians."""
    middle = np.array([(uvd.time_array.min() + uvd.time_array.max()) / 2.0])
    ra, dec = _meridian(uvd, middle, group.declination_deg)
    return float(ra[0]), float(dec[0])


def _check_written(path: Path, n_rows: int, settings: ConversionConfig) -> None:
    """Check the Measurement Set on disk for what pyuvdata does not warn about."""
    from casacore.tables import table

    def refuse(problem: str) -> None:
        raise OutputError(f"{path}: {problem}", "Convert the group again; report it if it recurs.")

    with table(str(path / "SPECTRAL_WINDOW"), ack=False) as window:
        if window.nrows() != 1:
            refuse(f"{window.nrows()} spectral windows instead of one.")
        frequencies = window.getcell("CHAN_FREQ", 0)
    steps = np.diff(frequencies)
    if len(steps) and (steps.min() <= 0 or np.ptp(steps) > 1e-3 * steps.mean()):
        refuse("the channels are not evenly spaced in ascending order.")
    with table(str(path / "FIELD"), ack=False) as fields:
        if fields.nrows() != 1:
            refuse(f"{fields.nrows()} fields instead of one.")
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
