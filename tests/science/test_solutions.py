"""The quality of calibration solutions and its gates."""

from __future__ import annotations

import math

import numpy as np
import pytest

from absurd_contimg.config import CalibrationConfig
from absurd_contimg.errors import DataQualityError
from absurd_contimg.science.solutions import Solutions, check_quality, measure_quality


def random_solutions(
    scatter: float, flagged: float = 0.0, antennas: int = 20
) -> tuple[Solutions, Solutions]:
    rng = np.random.default_rng(3)
    names = tuple(f"A{i}" for i in range(antennas))
    band = np.linspace(-1, 1, 64)[None, :, None]
    smooth = (1 + 0.1 * np.cos(3 * band)) * np.exp(3j * band * rng.normal(size=(antennas, 1, 2)))
    noise = rng.normal(size=(2, antennas, 64, 2)) * scatter
    flags = rng.random((antennas, 64, 2)) < flagged
    bandpass = Solutions(names, smooth * (1 + noise[0] + 1j * noise[1]), flags)
    ones = np.ones((antennas, 1, 2), complex)
    return bandpass, Solutions(names, ones, np.zeros(ones.shape, dtype=bool))


ALL_CHANNELS = np.ones(64, dtype=bool)


@pytest.mark.parametrize("scatter", [0.003, 0.03])
def test_scatter_is_measured_in_spite_of_delays_and_ripple(scatter: float) -> None:
    """The gate looks at noise, not at the shape of the band."""
    bandpass, gains = random_solutions(scatter)
    quality = measure_quality(bandpass, gains, bandpass.antennas, ALL_CHANNELS)
    assert quality.amplitude_scatter == pytest.approx(scatter, rel=0.1)
    assert quality.phase_scatter_deg == pytest.approx(math.degrees(scatter), rel=0.1)
    check_quality(quality, CalibrationConfig(), "it")


@pytest.mark.parametrize(
    ("solutions", "setting"),
    [
        (random_solutions(0.2), "amplitude_scatter_max"),
        (random_solutions(0.01, flagged=0.4), "flagged_fraction_max"),
        (random_solutions(0.01, antennas=8), "antennas_min"),
    ],
)
def test_bad_solutions_are_refused_with_the_gate(
    solutions: tuple[Solutions, Solutions], setting: str
) -> None:
    """Each gate by its setting's name, so that an operator can find it."""
    quality = measure_quality(*solutions, solutions[0].antennas, ALL_CHANNELS)
    with pytest.raises(DataQualityError, match=f"calibration.{setting}"):
        check_quality(quality, CalibrationConfig(), "CAL0")


def test_antennas_without_data_do_not_count_as_flagged_solutions() -> None:
    """Six dead antennas of twenty are not a bad calibration."""
    bandpass, gains = random_solutions(0.01)
    bandpass.flags[:6] = True
    assert measure_quality(
        bandpass, gains, bandpass.antennas, ALL_CHANNELS
    ).flagged_fraction == pytest.approx(0.3)
    assert (
        measure_quality(bandpass, gains, bandpass.antennas[6:], ALL_CHANNELS).flagged_fraction
        == 0.0
    )


def test_channels_without_data_count_as_flagged_and_fail_no_gate() -> None:
    """Four placeholders of sixteen sub-bands leave a good calibration good."""
    bandpass, gains = random_solutions(0.01, flagged=0.1)
    bandpass.flags[:, 16:32] = True
    present = ALL_CHANNELS.copy()
    present[16:32] = False
    quality = measure_quality(bandpass, gains, bandpass.antennas, present)
    assert quality.flagged_fraction == pytest.approx(0.25 + 0.75 * 0.1, abs=0.02)
    assert quality.flagged_with_data == pytest.approx(0.1, abs=0.02)
    check_quality(quality, CalibrationConfig(), "CAL0")
    quality = measure_quality(bandpass, gains, bandpass.antennas, ALL_CHANNELS)
    with pytest.raises(DataQualityError, match=r"calibration\.flagged_fraction_max"):
        check_quality(quality, CalibrationConfig(), "CAL0")


def test_antennas_with_data_that_the_solver_dropped_are_named() -> None:
    """In production it dropped the same antennas each night, a third of them healthy."""
    bandpass, gains = random_solutions(0.01)
    bandpass.flags[:3] = True
    bandpass.flags[5, 1:] = True
    quality = measure_quality(bandpass, gains, bandpass.antennas[1:], ALL_CHANNELS)
    assert quality.unsolved_antennas == ("A1", "A2")
