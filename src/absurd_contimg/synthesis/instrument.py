"""Gains, bandpass and noise of the synthetic instrument."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from absurd_contimg.synthesis.config import BAND_HIGH_HZ, BAND_LOW_HZ, SynthesisConfig


@dataclass(frozen=True, slots=True)
class Instrument:
    """Constant gains, delays, bandpass ripples: each an array of shape (antennas, 2)."""

    antennas: tuple[str, ...]
    gain: NDArray[np.complex128]
    delay_s: NDArray[np.float64]
    ripple: NDArray[np.float64]
    ripple_phase: NDArray[np.float64]
    ripple_periods: NDArray[np.float64]

    @classmethod
    def random(cls, config: SynthesisConfig, stations: list[int]) -> Self:
        """Drawn from the seed."""
        rng = np.random.default_rng([config.seed, 2])
        shape = (len(stations), 2)
        amplitude = np.exp(rng.normal(0.0, config.gain_scatter, shape))
        phase = math.radians(config.gain_phase_max_deg) * rng.uniform(-1.0, 1.0, shape)
        return cls(
            antennas=tuple(f"DSA{number:03d}" for number in stations),
            gain=amplitude * np.exp(1j * phase),
            delay_s=rng.uniform(-1.0, 1.0, shape) * config.delay_max_ns * 1e-9,
            ripple=np.full(shape, config.bandpass_ripple),
            ripple_phase=rng.uniform(0.0, 2.0 * math.pi, shape),
            ripple_periods=rng.uniform(1.0, 3.0, shape),
        )

    def gains(self, frequencies_hz: NDArray[np.float64]) -> NDArray[np.complex128]:
        """Total complex gain, shape (antennas, channels, 2)."""
        middle = (BAND_LOW_HZ + BAND_HIGH_HZ) / 2.0
        offset = (frequencies_hz - middle)[None, :, None]
        across = offset / (BAND_HIGH_HZ - BAND_LOW_HZ)
        angle = 2.0 * math.pi * self.ripple_periods[:, None, :] * across
        shape = 1.0 + self.ripple[:, None, :] * np.cos(angle + self.ripple_phase[:, None, :])
        delay = np.exp(2j * math.pi * self.delay_s[:, None, :] * offset)
        return np.asarray(self.gain[:, None, :] * shape * delay)


def thermal_noise(
    config: SynthesisConfig, rng: np.random.Generator, shape: tuple[int, ...]
) -> NDArray[np.complex64]:
    """Noise by the radiometer equation: SEFD / sqrt(2 bandwidth time) in each component."""
    width = (BAND_HIGH_HZ - BAND_LOW_HZ) / 16 / config.channels_per_subband
    sigma = config.sefd_jy / math.sqrt(2.0 * width * config.integration_s)
    parts = rng.standard_normal((*shape, 2), dtype=np.float32) * np.float32(sigma)
    return parts.view(np.complex64)[..., 0]
