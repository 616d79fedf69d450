"""Writing sub-bands as UVH5, with or without a fault."""

from __future__ import annotations

import math
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from absurd_contimg.synthesis import array
from absurd_contimg.synthesis.config import SUBBAND_WIDTH_HZ, FaultKind, SynthesisConfig
from absurd_contimg.synthesis.frames import meridian_icrs_deg, site


def antenna_pairs(n_antennas: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Indices of the first and second antenna of each baseline, without autocorrelations."""
    first, second = np.triu_indices(n_antennas, k=1)
    return first, second


def template(config: SynthesisConfig, stations: list[int], times_jd: NDArray[np.float64]) -> Any:
    """A pyuvdata object with everything but frequencies and data, shared by 16 sub-bands.

    It has a phase centre for each integration: the meridian in ICRS, named as in real files.
    """
    from pyuvdata import Telescope, UVData

    telescope = Telescope.new(
        name="DSA-110",
        location=site(),
        antenna_positions=array.terrestrial_positions_m(stations),
        antenna_names=[array.station_name(n) for n in stations],
        antenna_numbers=stations,
        antenna_diameters=[config.dish_diameter_m] * len(stations),
        feeds=["x", "y"],
        mount_type="fixed",
        x_orientation="east",
        instrument="DSA-110",
        update_from_known=False,
    )
    first, second = antenna_pairs(len(stations))
    numbers = np.array(stations)
    uvd = UVData.new(
        freq_array=np.array([1.4e9]),
        channel_width=SUBBAND_WIDTH_HZ / config.channels_per_subband,
        polarization_array=["xx", "yy"],
        telescope=telescope,
        times=times_jd,
        integration_time=config.integration_s,
        antpairs=np.stack([numbers[first], numbers[second]], axis=-1),
        do_blt_outer=True,
        time_axis_faster_than_bls=False,
        empty=False,
    )
    ra, dec = meridian_icrs_deg(times_jd, config.declination_deg)
    for t, time in enumerate(times_jd):
        position = {"lon": math.radians(ra[t]), "lat": math.radians(dec[t]), "phase_frame": "icrs"}
        rows = uvd.time_array == time
        uvd.phase(**position, cat_name=f"meridian_icrs_t{t}", select_mask=rows)
    uvd.vis_units = "Jy"
    uvd.extra_keywords = {
        "phase_center_dec": math.radians(config.declination_deg),
        "ha_phase_center": 0.0,
        "synthetic": True,
        "seed": config.seed,
    }
    return uvd


def write_subband(
    output_dir: Path,
    shared: Any,
    config: SynthesisConfig,
    group: int,
    subband: int,
    frequencies: NDArray[np.float64],
    data: NDArray[np.complex64],
) -> list[Path]:
    """Write one sub-band; returns its paths: none or two with some faults."""
    faults = {f.kind for f in config.faults if (f.group, f.subband) == (group, subband)}
    if FaultKind.MISSING in faults:
        return []
    path = output_dir / subband_name(config, group, subband)
    if FaultKind.NOT_HDF5 in faults:
        path.write_bytes(b"this is not HDF5\n" * 64)
        return [path]
    uvd = shared.copy()
    uvd.Nfreqs = len(frequencies)
    uvd.freq_array = frequencies
    uvd.channel_width = np.full(len(frequencies), SUBBAND_WIDTH_HZ / config.channels_per_subband)
    uvd.flex_spw_id_array = np.zeros(len(frequencies), dtype=int)
    uvd.extra_keywords["subband"] = subband
    uvd.data_array = data.reshape(-1, len(frequencies), 2)
    uvd.flag_array = np.full(uvd.data_array.shape, FaultKind.ALL_FLAGGED in faults)
    uvd.nsample_array = np.ones(uvd.data_array.shape, np.float32)
    if FaultKind.NAN in faults:
        uvd.data_array[:: max(1, uvd.Nblts // 48), 0, 0] = np.nan
    if FaultKind.SHIFTED in faults:
        uvd.time_array = uvd.time_array + config.integration_s / 86400.0
        uvd.set_lsts_from_time_array()
    path.unlink(missing_ok=True)
    uvd.write_uvh5(path, run_check=False, check_autos=False)
    if FaultKind.TRUNCATED in faults:
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size // 2)
    if FaultKind.DUPLICATED in faults:
        copy = output_dir / subband_name(config, group, subband, late_s=config.name_jitter_s + 1)
        return [path, shutil.copyfile(path, copy)]
    return [path]


def subband_name(config: SynthesisConfig, group: int, subband: int, late_s: int = 0) -> str:
    """``YYYY-MM-DDTHH:MM:SS_sbNN.hdf5``; the first named sub-band carries the group's time."""
    rng = np.random.default_rng([config.seed, 4, group])
    jitter = rng.integers(0, config.name_jitter_s, size=16, endpoint=True)
    jitter -= jitter.min()
    start = config.start + timedelta(seconds=config.group_offset_s(group))
    stamp = start.replace(microsecond=0) + timedelta(seconds=int(jitter[subband]) + late_s)
    return f"{stamp:%Y-%m-%dT%H:%M:%S}_sb{subband:02d}.hdf5"
