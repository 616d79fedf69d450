"""Small raw files in the correlator writer's form, for tests of what is read and refused.

The sky is one point source at the phase centre, so every visibility is known: 2 Jy in each hand,
times a phase of zero.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import h5py
import numpy as np

from absurd_contimg.science.raw_baselines import expected_uvw
from absurd_contimg.science.raw_file import read_raw_header

N_ANTENNAS, N_TIMES, N_CHANNELS = 5, 3, 4
INTEGRATION_S = 12.884902
DECLINATION_RAD = np.radians(16.0)
START_JD = 2460690.4907
WIDTH_HZ = 11.71875e6 / N_CHANNELS
FLUX_JY = 2.0
_EAST_M = np.array([0.0, 120.0, 333.0, 520.0, 90.0])
_NORTH_M = np.array([0.0, 15.0, -70.0, 230.0, 410.0])
_LATITUDE, _LONGITUDE, _ALTITUDE_M = 37.2314, -118.2817, 1222.0


def write_file(folder: Path, subband: int = 0, n_times: int = N_TIMES) -> Path:
    """One sub-band file; baselines with the last antenna are written the other way round."""
    name = f"2025-01-14T23:46:{subband % 3:02d}_sb{subband:02d}.hdf5"
    path = folder / name
    path.write_bytes(_content(name, subband, n_times))
    return path


@cache
def _content(name: str, subband: int, n_times: int) -> bytes:
    """The file's bytes: hundreds of tests change a copy of the same."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        _make(path, subband, n_times)
        return path.read_bytes()


def _make(path: Path, subband: int, n_times: int) -> None:
    first, second = np.triu_indices(N_ANTENNAS)
    turned = (second == N_ANTENNAS - 1) & (first != second)
    first, second = np.where(turned, second, first), np.where(turned, first, second)
    n_baselines = len(first)
    top = 1498.75e6 - subband * 11.71875e6
    frequencies = top - WIDTH_HZ * (np.arange(N_CHANNELS) + 0.5)
    times = START_JD + INTEGRATION_S / 86400.0 * (np.arange(n_times) + 0.5)
    shape = (n_times * n_baselines, 1, N_CHANNELS, 2)
    with h5py.File(path, "w") as file:
        header = file.create_group("Header")
        values = {
            "latitude": _LATITUDE,
            "longitude": _LONGITUDE,
            "altitude": _ALTITUDE_M,
            "telescope_name": np.bytes_("OVRO_MMA"),
            "instrument": np.bytes_("DSA"),
            "object_name": np.bytes_("search"),
            "phase_type": np.bytes_("drift"),
            "phase_center_app_dec": DECLINATION_RAD,
            "Nants_data": N_ANTENNAS,
            "Nants_telescope": N_ANTENNAS,
            "Nbls": n_baselines,
            "Nblts": shape[0],
            "Nfreqs": N_CHANNELS,
            "Npols": 2,
            "Nspws": 1,
            "Ntimes": n_times,
            "antenna_names": np.array([str(n + 1) for n in range(N_ANTENNAS)], "S4"),
            "antenna_numbers": np.arange(N_ANTENNAS),
            "antenna_positions": positions_m(),
            "antenna_diameters": np.full(N_ANTENNAS, 4.65),
            "ant_1_array": np.tile(first, n_times),
            "ant_2_array": np.tile(second, n_times),
            "time_array": np.repeat(times, n_baselines),
            "integration_time": np.full(shape[0], INTEGRATION_S),
            "freq_array": frequencies[None],
            "channel_width": WIDTH_HZ,
            "spw_array": np.array([1]),
            "polarization_array": np.array([-5, -6]),
            "uvw_array": np.zeros((shape[0], 3), np.float32),
        }
        for key, value in values.items():
            header[key] = value
        extra = header.create_group("extra_keywords")
        extra["phase_center_dec"] = DECLINATION_RAD
        extra["ha_phase_center"] = 0.0
        extra["phase_center_epoch"] = np.bytes_("HADEC")
        data = file.create_group("Data")
        data["visdata"] = np.full(shape, FLUX_JY, np.complex64)
        data["flags"] = np.zeros(shape, bool)
        data["nsamples"] = np.ones(shape, np.float32)
    uvw = expected_uvw(read_raw_header(path)).astype(np.float32)
    with h5py.File(path, "r+") as file:
        file["Header/uvw_array"][...] = uvw


def write_group(folder: Path, subbands: int = 16) -> list[Path]:
    """All files of one observation."""
    folder.mkdir(parents=True, exist_ok=True)
    return [write_file(folder, subband) for subband in range(subbands)]


def positions_m() -> np.ndarray:
    """ITRF differences of the antennas from the array's place, shape (antennas, 3)."""
    latitude, longitude = np.radians(_LATITUDE), np.radians(_LONGITUDE)
    north_x = -np.sin(latitude) * _NORTH_M
    x = -np.sin(longitude) * _EAST_M + np.cos(longitude) * north_x
    y = np.cos(longitude) * _EAST_M + np.sin(longitude) * north_x
    return np.stack([x, y, np.cos(latitude) * _NORTH_M], axis=1)
