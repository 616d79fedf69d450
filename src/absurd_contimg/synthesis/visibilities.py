"""The visibilities of an ideal array in an Earth-fixed frame: the sky through the beam.

The delay of a source at an antenna is its position times the source's direction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from absurd_contimg.science.beam import SPEED_OF_LIGHT_M_S, airy_power
from absurd_contimg.science.catalogue import SkySource, separation_rad, unit_vectors
from absurd_contimg.synthesis.array import equatorial_positions_m
from absurd_contimg.synthesis.config import SynthesisConfig
from absurd_contimg.synthesis.frames import apparent_position, sidereal_time_rad

_NULL_RADII = 1.5
"""Sources beyond this many radii of the beam's first null (1.22 lambda / D) are left out."""


@dataclass(frozen=True, slots=True)
class SkyResponse:
    """Delays and beam angles of all sources for the integrations of one group.

    `delay_m` has the shape (integrations, antennas, sources): path towards a source minus path
    towards the meridian. `separation` (integrations, sources) is the angle to the beam's centre.
    """

    sources: Sequence[SkySource]
    times_jd: NDArray[np.float64]
    delay_m: NDArray[np.float64]
    separation: NDArray[np.float64]
    dish_diameter_m: float

    @classmethod
    def of(
        cls,
        sky: Sequence[SkySource],
        config: SynthesisConfig,
        stations: list[int],
        times_jd: NDArray[np.float64],
    ) -> Self:
        """The response to those sources that the beam reaches."""
        lst = sidereal_time_rad(times_jd)
        dec0 = math.radians(config.declination_deg)
        meridian = unit_vectors(np.zeros(1), np.array([dec0]))[0]
        reach = _NULL_RADII * 1.22 * SPEED_OF_LIGHT_M_S / 1.311e9 / config.dish_diameter_m
        kept, directions = [], []
        for source in sky:
            ra, dec = apparent_position(source.ra_deg, source.dec_deg, times_jd)
            direction = unit_vectors(ra - lst, dec)  # x on the meridian, y east, z north
            if separation_rad(direction, meridian).min() < reach:
                kept.append(source)
                directions.append(direction)
        towards = np.stack(directions, axis=1) if kept else np.zeros((len(times_jd), 0, 3))
        return cls(
            sources=kept,
            times_jd=times_jd,
            delay_m=np.einsum("ad,tsd->tas", equatorial_positions_m(stations), towards - meridian),
            separation=separation_rad(towards, meridian),
            dish_diameter_m=config.dish_diameter_m,
        )

    def channel(self, frequency_hz: float, width_hz: float) -> NDArray[np.complex128]:
        """`visibilities` smeared over a channel: Gauss-Legendre quadrature, to the third order."""
        offset = width_hz / (2.0 * math.sqrt(3.0))
        below = self.visibilities(frequency_hz - offset)
        return (below + self.visibilities(frequency_hz + offset)) / 2.0

    def visibilities(self, frequency_hz: float) -> NDArray[np.complex128]:
        """All antenna pairs (first, second), shape (integrations, antennas, antennas).

        The sign is that of pyuvdata: phase +2 pi (u l + v m + w (n - 1)) with baselines from
        the first antenna to the second.
        """
        beam = airy_power(self.separation, frequency_hz, self.dish_diameter_m)
        flux = np.array([float(s.flux_at(np.array(frequency_hz))) for s in self.sources])
        turns = (frequency_hz / SPEED_OF_LIGHT_M_S) * self.delay_m
        wave = np.exp(2j * math.pi * turns)
        pairs = np.einsum("tas,ts,tbs->tab", wave.conj(), beam * flux, wave, optimize=True)
        return np.asarray(pairs)
