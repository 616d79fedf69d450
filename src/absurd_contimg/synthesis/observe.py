"""`synthesize`: one sub-band in memory at a time, 0.5 GB with 96 antennas and 48 channels."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from absurd_contimg.errors import SettingError
from absurd_contimg.products.subband_files import format_group_id
from absurd_contimg.science.catalogue import write_catalogue
from absurd_contimg.science.earth_orientation import use_bundled_tables
from absurd_contimg.synthesis import array, files
from absurd_contimg.synthesis.config import (
    BAND_HIGH_HZ,
    SUBBAND_WIDTH_HZ,
    SUBBANDS,
    SynthesisConfig,
)
from absurd_contimg.synthesis.frames import group_times_jd
from absurd_contimg.synthesis.instrument import Instrument, thermal_noise
from absurd_contimg.synthesis.sources import make_sky
from absurd_contimg.synthesis.truth import write_truth
from absurd_contimg.synthesis.visibilities import SkyResponse


@dataclass(frozen=True, slots=True)
class SynthesizedGroup:
    """One observation group on disk."""

    group_id: str
    """Time stamp of the earliest sub-band, ``YYYY-MM-DDTHH:MM:SS``."""
    files: tuple[Path, ...]
    """In order of sub-bands; a duplicate follows its original."""
    calibrator: bool


@dataclass(frozen=True, slots=True)
class SynthesisResult:
    """The files that `synthesize` wrote."""

    output_dir: Path
    catalog: Path
    truth: Path
    """Gains and bandpass (see `truth.compare_gains`)."""
    groups: tuple[SynthesizedGroup, ...]


def prepare_folder(path: Path) -> None:
    """Make a folder for observations; `SettingError` where it cannot be, or holds others.

    Two observations in one folder would have one catalogue and one truth.
    """
    catalog, truth = path / "catalog.csv", path / "truth.npz"
    _make_folder(path)
    observed = any(path.glob("*_sb[0-9][0-9].hdf5"))
    if not truth.exists() and (catalog.exists() or observed):
        raise SettingError(
            f"{path} holds a catalogue or observations that are not synthetic: there is no "
            f"{truth.name}.",
            "Give another folder.",
        )
    if observed:
        raise SettingError(
            f"{path} holds synthetic observations already: two skies would be mixed.",
            "Give another folder, or remove this one.",
        )


def _make_folder(path: Path) -> None:
    for part in (path, *path.parents):
        if part.exists() and not part.is_dir():
            raise SettingError(f"{part} is no folder.", "Give another folder.")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except PermissionError:
        raise
    except OSError as error:
        raise SettingError(
            f"The folder {path} cannot be made: {error.strerror}.", "Give another folder."
        ) from error


def synthesize(output_dir: Path, config: SynthesisConfig) -> SynthesisResult:
    """Write all groups, ``catalog.csv`` and ``truth.npz`` into a folder, which is created.

    Raises `SettingError` if a catalogue or observations of anybody else are in the folder.
    """
    prepare_folder(output_dir)
    use_bundled_tables()
    catalog, truth = output_dir / "catalog.csv", output_dir / "truth.npz"
    sky = make_sky(config)
    stations = array.active_stations(config.n_antennas, config.outriggers)
    instrument = Instrument.random(config, stations)
    write_truth(truth, instrument, channel_frequencies(config).ravel())
    write_catalogue(catalog, sky)
    groups = []
    for index in range(config.n_groups):
        times = group_times_jd(config, index)
        lost = config.integrations_lost if index == config.n_groups - 1 else 0
        times = times[: len(times) - lost]
        response = SkyResponse.of(sky, config, stations, times)
        layout = files.RawLayout(config, stations, times)
        paths: list[Path] = []
        for subband, frequencies in enumerate(channel_frequencies(config)):
            data = _observe(config, instrument, response, index, subband, frequencies)
            if lost:
                data[-1, data.shape[1] // 2 :] = np.nan
            paths += files.write_subband(output_dir, layout, index, subband, frequencies, data)
        start = config.start + timedelta(seconds=config.group_offset_s(index))
        calibrator = config.calibrator_group and index == 0
        groups.append(SynthesizedGroup(format_group_id(start), tuple(paths), calibrator))
    return SynthesisResult(output_dir, catalog, truth, tuple(groups))


def channel_frequencies(config: SynthesisConfig) -> NDArray[np.float64]:
    """Channel centres in Hz of all sub-bands, descending: shape (sub-bands, channels)."""
    width = SUBBAND_WIDTH_HZ / config.channels_per_subband
    tops = BAND_HIGH_HZ - np.arange(SUBBANDS) * SUBBAND_WIDTH_HZ
    return np.asarray(tops[:, None] - width * (np.arange(config.channels_per_subband) + 0.5))


def _observe(
    config: SynthesisConfig,
    instrument: Instrument,
    response: SkyResponse,
    group: int,
    subband: int,
    frequencies: NDArray[np.float64],
) -> NDArray[np.complex64]:
    """Visibilities of a sub-band, shape (integrations, baselines, channels, 2)."""
    first, second = files.antenna_pairs(config.n_antennas)
    width = SUBBAND_WIDTH_HZ / config.channels_per_subband
    data = np.empty((len(response.times_jd), len(first), len(frequencies), 2), np.complex64)
    gains = instrument.gains(frequencies)
    for channel, frequency in enumerate(frequencies):
        sky = response.channel(float(frequency), width)
        for pol in range(2):
            g = gains[:, channel, pol]
            data[:, :, channel, pol] = sky[:, first, second] * (g[first] * g[second].conj())
    rng = np.random.default_rng([config.seed, 3, group, subband])
    data += thermal_noise(config, rng, data.shape)
    return data
