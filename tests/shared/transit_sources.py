"""Calibrators that cross the meridian at a given time; without pyuvdata, whose import is slow."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np

from absurd_contimg.config import SiteConfig
from absurd_contimg.science.catalogue import SkySource
from absurd_contimg.science.transits import apparent_position_deg, sidereal_time_deg


@cache
def source_on_meridian(mjd: float, name: str, declination_deg: float = 16.0) -> SkySource:
    """A calibrator at a declination of date that transits at a time."""
    times = np.array([mjd])
    lst = float(sidereal_time_deg(times, SiteConfig().longitude_deg)[0])
    source = SkySource(name, lst, declination_deg, 8.0, calibrator=True)
    for _ in range(3):
        ra, dec = apparent_position_deg(source, times)
        source = replace(
            source,
            ra_deg=(source.ra_deg + math.remainder(lst - float(ra[0]), 360.0)) % 360.0,
            dec_deg=source.dec_deg + declination_deg - float(dec[0]),
        )
    return source
