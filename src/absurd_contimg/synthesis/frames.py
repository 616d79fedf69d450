"""Times and apparent coordinates, by pyuvdata's formulas."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from absurd_contimg.synthesis import array
from absurd_contimg.synthesis.config import SynthesisConfig


def site() -> Any:
    """The array's position as an astropy `EarthLocation`."""
    from astropy.coordinates import EarthLocation

    # Degrees and metres.
    return EarthLocation.from_geodetic(array.LONGITUDE_DEG, array.LATITUDE_DEG, array.ALTITUDE_M)


def group_times_jd(config: SynthesisConfig, index: int) -> NDArray[np.float64]:
    """Middles of a group's integrations, Julian days UTC."""
    start_jd = config.start.timestamp() / 86400.0 + 2440587.5
    middles_s = config.integration_s * (np.arange(config.n_integrations) + 0.5)
    return np.asarray(start_jd + (config.group_offset_s(index) + middles_s) / 86400.0)


def sidereal_time_rad(times_jd: NDArray[np.float64]) -> NDArray[np.float64]:
    """Local apparent sidereal time."""
    from pyuvdata.utils import get_lst_for_time

    return np.asarray(get_lst_for_time(times_jd, telescope_loc=site()))


def apparent_position(
    ra_deg: float, dec_deg: float, times_jd: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Apparent right ascension and declination in radians at each time, from ICRS degrees."""
    from pyuvdata.utils.phasing import transform_icrs_to_app

    ra, dec = transform_icrs_to_app(
        time_array=times_jd,
        ra=math.radians(ra_deg),
        dec=math.radians(dec_deg),
        telescope_loc=site(),
    )
    return np.asarray(ra), np.asarray(dec)


def meridian_icrs_deg(
    times_jd: NDArray[np.float64], declination_deg: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """ICRS position of the meridian at an apparent declination: the dishes' pointing."""
    from pyuvdata.utils.phasing import transform_app_to_icrs

    ra, dec = transform_app_to_icrs(
        time_array=times_jd,
        app_ra=sidereal_time_rad(times_jd),
        app_dec=np.full(len(times_jd), math.radians(declination_deg)),
        telescope_loc=site(),
    )
    return np.degrees(ra) % 360.0, np.degrees(dec)
