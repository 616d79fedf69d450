"""Writing sub-bands as the correlator's writer does (docs/data.md), or with a fault."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from absurd_contimg.products.subband_files import format_subband_name
from absurd_contimg.science.raw_baselines import meridian_uvw
from absurd_contimg.synthesis import array
from absurd_contimg.synthesis.config import SUBBAND_WIDTH_HZ, FaultKind, SynthesisConfig

_REVERSED_STATIONS = (101, 115)
"""Baselines to these are written with the antennas exchanged, as the correlator does."""
_HANDS, _ALL_PRODUCTS = (-5, -6), (-5, -7, -8, -6)


def antenna_pairs(n_antennas: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Indices of the first and second antenna of each baseline, without autocorrelations."""
    first, second = np.triu_indices(n_antennas, k=1)
    return first, second


@dataclass(frozen=True, slots=True)
class RawLayout:
    """What all sub-bands of a group share."""

    config: SynthesisConfig
    stations: list[int]
    times_jd: NDArray[np.float64]
    """The middle of each integration."""

    def baselines(self) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.bool_]]:
        """Both station numbers in the writer's order, and which are exchanged; autos come last."""
        numbers = np.array(self.stations)
        first, second = (numbers[index] for index in antenna_pairs(len(numbers)))
        exchanged = np.isin(second, _REVERSED_STATIONS) & ~np.isin(first, _REVERSED_STATIONS)
        ends = np.where(exchanged, second, first), np.where(exchanged, first, second)
        autos = np.zeros(len(numbers), bool)
        return (
            np.concatenate([ends[0], numbers]),
            np.concatenate([ends[1], numbers]),
            np.concatenate([exchanged, autos]),
        )

    def header(self, frequencies_hz: NDArray[np.float64], subband: int) -> Mapping[str, object]:
        """Every key of ``Header`` without rows."""
        config = self.config
        first, _second, _exchanged = self.baselines()
        everybody = list(range(1, 118))
        return {
            "latitude": array.LATITUDE_DEG,
            "longitude": array.LONGITUDE_DEG,
            "altitude": array.ALTITUDE_M,
            "telescope_name": np.bytes_("OVRO_MMA"),
            "instrument": np.bytes_("DSA"),
            "object_name": np.bytes_("search"),
            "history": np.bytes_("synthetic"),
            "phase_type": np.bytes_("drift"),
            "phase_center_app_dec": math.radians(config.declination_deg),
            "Nants_data": len(self.stations),
            "Nants_telescope": len(everybody),
            "Nbls": len(first),
            "Nblts": len(first) * len(self.times_jd),
            "Ntimes": len(self.times_jd),
            "Nfreqs": len(frequencies_hz),
            "Npols": config.products,
            "Nspws": 1,
            "antenna_names": np.array([str(number) for number in everybody], "S4"),
            "antenna_numbers": np.array(everybody) - 1,
            "antenna_positions": array.terrestrial_positions_m(everybody),
            "antenna_diameters": np.full(len(everybody), config.dish_diameter_m),
            "freq_array": frequencies_hz[None],
            "channel_width": SUBBAND_WIDTH_HZ / config.channels_per_subband,
            "spw_array": np.array([1]),
            "polarization_array": np.array(_ALL_PRODUCTS if config.products == 4 else _HANDS),
            "extra_keywords/phase_center_dec": math.radians(config.declination_deg),
            "extra_keywords/ha_phase_center": 0.0,
            "extra_keywords/phase_center_epoch": np.bytes_("HADEC"),
            "extra_keywords/synthetic": True,
            "extra_keywords/seed": config.seed,
            "extra_keywords/subband": subband,
        }

    def uvw_m(self) -> NDArray[np.float32]:
        """Baselines at hour angle 0, one set for all times."""
        first, second, _exchanged = self.baselines()
        positions = array.terrestrial_positions_m(list(range(1, 118)))
        antennas = meridian_uvw(
            positions, array.LONGITUDE_DEG, math.radians(self.config.declination_deg)
        )
        return (antennas[second - 1] - antennas[first - 1]).astype(np.float32)


def write_subband(
    output_dir: Path,
    layout: RawLayout,
    group: int,
    subband: int,
    frequencies_hz: NDArray[np.float64],
    data: NDArray[np.complex64],
) -> list[Path]:
    """Write data (integrations, baselines, channels, 2); some faults give no path or two."""
    config = layout.config
    faults = {f.kind for f in config.faults if (f.group, f.subband) == (group, subband)}
    if FaultKind.MISSING in faults:
        return []
    path = output_dir / subband_name(config, group, subband)
    if FaultKind.NOT_HDF5 in faults:
        path.write_bytes(b"this is not HDF5\n" * 64)
        return [_aged(path, config)]
    samples = np.isfinite(data).astype(np.float32)
    if FaultKind.ALL_FLAGGED in faults:
        samples[:] = 0.0
    if FaultKind.STUCK in faults:
        data[:] = 1.0
    if FaultKind.NAN in faults:
        rows = data.reshape(-1, *data.shape[2:])
        rows[:: max(1, len(rows) // 48), 0, 0] = np.nan
    late_s = config.integration_s if FaultKind.SHIFTED in faults else 0.0
    growing = path.with_name(f"{path.stem}_incomplete.hdf5")
    with h5py.File(growing, "w") as file:
        for key, value in layout.header(frequencies_hz, subband).items():
            file[f"Header/{key}"] = value
        for key, rows in _rows(layout, data, samples, late_s / 86400.0).items():
            cell = rows.shape[1:]
            chunk = len(rows) // len(layout.times_jd)
            file.create_dataset(key, data=rows, maxshape=(None, *cell), chunks=(chunk, *cell))
    growing.rename(path)
    if FaultKind.TRUNCATED in faults:
        with path.open("r+b") as raw:
            raw.truncate(path.stat().st_size // 2)
        _aged(path, config)
    if FaultKind.DUPLICATED in faults:
        again = output_dir / subband_name(config, group, subband, late_s=config.name_jitter_s + 1)
        shutil.copyfile(path, again)
        return [path, again]
    return [path]


def _aged(path: Path, config: SynthesisConfig) -> Path:
    """A damaged file of the observation's time: a young one is taken for one that still arrives."""
    moment = config.start.timestamp()
    os.utime(path, (moment, moment))
    return path


def _rows(
    layout: RawLayout, data: NDArray[np.complex64], samples: NDArray[np.float32], late_days: float
) -> dict[str, NDArray[Any]]:
    """The keys with a row for each baseline and time; autocorrelations beside what is given."""
    config = layout.config
    first, second, exchanged = layout.baselines()
    n_times, n_cross, n_channels, _ = data.shape
    visibilities = np.zeros((n_times, len(first), 1, n_channels, config.products), np.complex64)
    weights = np.ones(visibilities.shape, np.float32)
    hands = [0, config.products - 1]
    turned = np.where(exchanged[:n_cross, None, None], data.conj(), data)
    visibilities[:, :n_cross, 0][..., hands] = turned
    weights[:, :n_cross, 0][..., hands] = samples
    visibilities[:, n_cross:, 0][..., hands] = config.sefd_jy
    cells = visibilities.shape[2:]
    return {
        "Header/ant_1_array": np.tile(first - 1, n_times),
        "Header/ant_2_array": np.tile(second - 1, n_times),
        "Header/time_array": np.repeat(layout.times_jd + late_days, len(first)),
        "Header/integration_time": np.full(n_times * len(first), config.integration_s),
        "Header/uvw_array": np.tile(layout.uvw_m(), (n_times, 1)),
        "Data/visdata": visibilities.reshape(-1, *cells),
        "Data/flags": np.zeros((n_times * len(first), *cells), bool),
        "Data/nsamples": weights.reshape(-1, *cells),
    }


def subband_name(config: SynthesisConfig, group: int, subband: int, late_s: int = 0) -> str:
    """``YYYY-MM-DDTHH:MM:SS_sbNN.hdf5``; the first named sub-band carries the group's time."""
    rng = np.random.default_rng([config.seed, 4, group])
    jitter = rng.integers(0, config.name_jitter_s, size=16, endpoint=True)
    jitter -= jitter.min()
    start = config.start + timedelta(seconds=config.group_offset_s(group))
    stamp = start.replace(microsecond=0) + timedelta(seconds=int(jitter[subband]) + late_s)
    return format_subband_name(stamp, subband)
