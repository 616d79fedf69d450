"""The synthetic sky: a calibrator with field sources, and sources around each science group."""

from __future__ import annotations

import math

import numpy as np

from absurd_contimg.science.catalogue import SkySource
from absurd_contimg.synthesis.config import SynthesisConfig
from absurd_contimg.synthesis.frames import group_times_jd, meridian_icrs_deg

CALIBRATOR_NAME = "CAL0"

_BRIGHT = (
    (0.02, 0.01, 0.80),
    (0.30, 0.05, 0.60),
    (-0.22, 0.42, 1.00),
    (0.55, -0.28, 0.70),
    (-0.62, -0.35, 0.90),
    (0.10, 0.95, 0.75),
    (-0.95, 0.15, 1.10),
    (0.20, -0.85, 0.55),
    (0.90, 0.55, 0.65),
    (-0.35, -0.75, 0.85),
    (-0.10, -0.30, 0.50),
    (0.65, 0.80, 0.95),
)
"""East and north offset in degrees, flux in Jy: from the centre to 1 deg in every direction."""

_CALIBRATOR_FIELD = ((0.45, 0.30, 0.8), (-0.60, 0.10, 0.6), (0.20, -0.70, 0.5), (-0.30, -0.40, 0.4))
"""Field sources around the calibrator, 2.3 Jy in all: a model without them is wrong."""

_CALIBRATOR_OFFSET = (0.0, 0.08)
_RANDOM_RADIUS_DEG = 1.0
_RANDOM_SEPARATION_DEG = 0.08
"""Of any two random sources: ten beams of 28 antennas, so that each can be measured."""


def make_sky(config: SynthesisConfig) -> list[SkySource]:
    """All sources of a run; positions are jittered, so that none lies on a pixel centre."""
    sky: list[SkySource] = []
    for group in range(config.n_groups):
        rng = np.random.default_rng([config.seed, 1, group])
        times = group_times_jd(config, group)
        ra, dec = meridian_icrs_deg(np.array([times.mean()]), config.declination_deg)
        centre = (float(ra[0]), float(dec[0]))
        if config.calibrator_group and group == 0:
            sky += _calibrator_field(config, centre, rng)
        else:
            sky += _science_field(config, group, centre, rng)
    return sky


def _calibrator_field(
    config: SynthesisConfig, centre: tuple[float, float], rng: np.random.Generator
) -> list[SkySource]:
    ra, dec = _offset(centre, *_CALIBRATOR_OFFSET)
    flux, known = config.calibrator_flux_jy, config.calibrator_in_catalogue
    field = [SkySource(CALIBRATOR_NAME, ra, dec, flux, -0.7, calibrator=known)]
    if config.random_sources:
        random = _random_field(config.random_sources, "F", centre, rng, _CALIBRATOR_OFFSET)
        return [*field, *random]
    for number, (east, north, flux) in enumerate(_CALIBRATOR_FIELD):
        ra, dec = _offset(centre, east + rng.uniform(-0.02, 0.02), north)
        field.append(SkySource(f"F{number:02d}", ra, dec, flux, float(rng.normal(-0.7, 0.2))))
    return field


def _science_field(
    config: SynthesisConfig, group: int, centre: tuple[float, float], rng: np.random.Generator
) -> list[SkySource]:
    if config.random_sources:
        return _random_field(config.random_sources, f"G{group}R", centre, rng)
    field = []
    for number, (east, north, flux) in enumerate(_BRIGHT[: config.bright_per_group]):
        jitter = rng.uniform(-0.02, 0.02, 2)
        ra, dec = _offset(centre, east + jitter[0], north + jitter[1])
        index = float(rng.normal(-0.7, 0.2))
        field.append(SkySource(f"G{group}B{number:02d}", ra, dec, flux, index))
    for number in range(config.faint_per_group):
        east, north = rng.uniform(-0.9, 0.9, 2)
        ra, dec = _offset(centre, float(east), float(north))
        flux = float(0.02 * 10.0 ** rng.uniform(0.0, 1.0))
        field.append(SkySource(f"G{group}F{number:02d}", ra, dec, flux, -0.7))
    return field


def _random_field(
    count: int,
    prefix: str,
    centre: tuple[float, float],
    rng: np.random.Generator,
    *occupied: tuple[float, float],
) -> list[SkySource]:
    """Sources apart from each other and from the `occupied` offsets."""
    offsets = list(occupied)
    field: list[SkySource] = []
    while len(field) < count:
        east, north = (float(v) for v in rng.uniform(-_RANDOM_RADIUS_DEG, _RANDOM_RADIUS_DEG, 2))
        nearest = min((math.dist((east, north), other) for other in offsets), default=math.inf)
        if math.hypot(east, north) > _RANDOM_RADIUS_DEG or nearest < _RANDOM_SEPARATION_DEG:
            continue
        offsets.append((east, north))
        flux, index = float(rng.uniform(0.4, 1.0)), float(rng.normal(-0.7, 0.2))
        field.append(
            SkySource(f"{prefix}{len(field):02d}", *_offset(centre, east, north), flux, index)
        )
    return field


def _offset(centre: tuple[float, float], east_deg: float, north_deg: float) -> tuple[float, float]:
    """A position at small offsets from a centre, all in degrees."""
    dec = centre[1] + north_deg
    ra = (centre[0] + east_deg / math.cos(math.radians(dec))) % 360.0
    return round(ra, 7), round(dec, 7)
