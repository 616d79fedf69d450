"""Interference stands out, noise and gaps do not; `casa_conditions.py` compares with tfcrop."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from absurd_contimg.science.outliers import flag_outliers, rows_by_time

TIMES, CHANNELS, PRODUCTS, ANTENNAS = 24, 96, 2, 8
FIRST, SECOND = np.triu_indices(ANTENNAS, 1)
BASELINES = len(FIRST)


def observation(seed: int, signal: float) -> NDArray[np.float32]:
    """Amplitudes (times, baselines, channels, products) of a source with a bandpass, in noise 1."""
    rng = np.random.default_rng(seed)
    shape = (TIMES, BASELINES, CHANNELS, PRODUCTS)
    place = np.linspace(-1.0, 1.0, CHANNELS)[:, None]
    shift = rng.uniform(0.0, 6.0, (BASELINES, 1, PRODUCTS))
    bandpass = (1.0 - 0.5 * place**4) * (1.0 + 0.1 * np.sin(5.0 * place + shift))
    drift = 1.0 + 0.2 * np.linspace(-1.0, 1.0, TIMES)[:, None, None, None]
    noise = rng.normal(size=shape) + 1j * rng.normal(size=shape)
    return np.abs(signal * bandpass * drift + noise).astype(np.float32)


def search(
    amplitudes: NDArray[np.float32], flags: NDArray[np.bool_], cutoff_sigma: float = 4.0
) -> NDArray[np.bool_]:
    """Flags after a search, with the shape of the observation, whose rows come in any order."""
    times = np.repeat(np.arange(TIMES) * 12.885, BASELINES)
    first, second = np.tile(FIRST, TIMES), np.tile(SECOND, TIMES)
    order = np.random.default_rng(0).permutation(len(times))
    rows = rows_by_time(times[order], first[order], second[order])
    shape = (len(times), CHANNELS, PRODUCTS)
    result = flags.reshape(shape)[order]
    flag_outliers(amplitudes.reshape(shape)[order], result, rows, cutoff_sigma)
    back = np.empty_like(result)
    back[order] = result
    return back.reshape(flags.shape)


def unflagged() -> NDArray[np.bool_]:
    return np.zeros((TIMES, BASELINES, CHANNELS, PRODUCTS), bool)


@pytest.mark.parametrize("signal", [0.0, 1.0, 10.0, 100.0])
def test_noise_and_bandpass_are_left_alone(signal: float) -> None:
    """Of noise alone 4 standard deviations cut off 0.06 %, and more in five rounds."""
    assert search(observation(1, signal), unflagged()).mean() < 0.002


@pytest.mark.parametrize("signal", [0.0, 10.0, 100.0])
def test_interference_is_found(signal: float) -> None:
    """In a channel for half of the time, and here and there; hardly anything beside it."""
    amplitudes, truth = observation(2, signal), unflagged()
    truth[12:, :9, 40] = True
    truth |= np.random.default_rng(3).random(truth.shape) < 0.002
    amplitudes[truth] += 8.0 + 2.0 * signal
    flags = search(amplitudes, unflagged())
    assert flags[truth].mean() > 0.99
    assert flags[~truth].mean() < 0.002


def test_a_burst_of_one_integration_is_found() -> None:
    """In all channels: only the search over time can see it."""
    amplitudes = observation(6, 10.0)
    amplitudes[10, ::2] += 30.0
    flags = search(amplitudes, unflagged())
    assert flags[10, ::2].mean() > 0.97
    assert flags[10, 1::2].mean() < 0.002


def test_channels_beside_a_gap_are_searched() -> None:
    """Of a piece of the spectrum without data tfcrop would make a fit that is no number."""
    amplitudes, flags = observation(7, 10.0), unflagged()
    flags[:, :, 24:56] = True
    amplitudes[3, :, 80] += 30.0
    after = search(amplitudes, flags)
    assert after[3, :, 80].all()
    assert after[:, :, 56:].mean() < 0.012


def test_what_is_flagged_counts_for_nothing_and_stays_flagged() -> None:
    """Also whole antennas, integrations and bands, and what is no number there."""
    amplitudes, flags = observation(4, 10.0), unflagged()
    flags[:, (FIRST == 2) | (SECOND == 2)] = True
    flags[3] = True
    flags[:, :, 16:32] = True
    flags[1:, 0] = True
    amplitudes[flags] = np.nan
    amplitudes[0, :, 16] = 1e30
    after = search(amplitudes, flags.copy())
    assert after[flags].all()
    assert after[~flags].mean() < 0.002


def test_an_integration_without_some_baselines_is_searched() -> None:
    amplitudes = observation(5, 10.0).reshape(-1, CHANNELS, PRODUCTS)
    times, first, second = (
        np.repeat(np.arange(TIMES) * 12.885, BASELINES),
        np.tile(FIRST, TIMES),
        np.tile(SECOND, TIMES),
    )
    kept = np.arange(len(times)) % 5 > 0
    amplitudes = amplitudes[kept]
    amplitudes[100, 50] = 60.0
    flags = np.zeros(amplitudes.shape, bool)
    flag_outliers(amplitudes, flags, rows_by_time(times[kept], first[kept], second[kept]), 4.0)
    assert flags[100, 50].all()
    assert flags.mean() < 0.002
