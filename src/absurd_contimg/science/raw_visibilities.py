"""Visibilities of a raw sub-band as a pyuvdata object that is phased to the meridian.

pyuvdata reads the writer's ``drift`` as unphased data, which adds a wrong w term in silence. Here
each integration has its own phase centre, and baselines of antenna positions.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from absurd_contimg.errors import CorruptInputError
from absurd_contimg.science.antenna_names import station_name
from absurd_contimg.science.raw_checks import HANDS
from absurd_contimg.science.raw_file import Floats, Integers, RawHeader, read_visibilities

TELESCOPE_NAME = "OVRO_MMA"
"""The observatory's name in CASA's table of observatories; it does not know DSA-110."""
DISH_DIAMETER_M = 4.65
"""docs/telescope.md#array"""


def read_uvdata(header: RawHeader, reference: RawHeader, factor: int) -> Any:
    """XX and YY without autocorrelations, channels ascending and averaged by `factor`.

    Rows are in order of time, then of baseline, by the antennas' numbers. Times, place, positions
    and the grid of channels are those of `reference`, another sub-band of the group: pyuvdata
    joins only what is equal to the bit.
    """
    from pyuvdata import UVData

    location = _location(reference)
    number, _middles = header.integrations()
    _number, middles = reference.integrations()
    _check_earth_orientation(reference, middles)
    used = np.union1d(header.first, header.second)
    first, second, swapped = _rows_of_antennas(header, used)
    cross = np.flatnonzero(first != second)
    order = cross[np.lexsort((second[cross], first[cross], number[cross]))]
    data, flags, samples = read_visibilities(header, HANDS)
    data, flags, samples = data[order], flags[order], samples[order]
    np.conjugate(data, out=data, where=swapped[order, None, None])
    ascending = np.argsort(header.frequencies_hz)
    data, flags, samples = (
        _average(data[:, ascending], flags[:, ascending], samples[:, ascending], factor)
        if factor > 1
        else (data[:, ascending], flags[:, ascending], samples[:, ascending])
    )
    declination = math.degrees(reference.declination_rad)
    ra, dec = meridian_icrs(middles, declination, location)
    return UVData.new(
        freq_array=_frequencies(reference, header.index).reshape(-1, factor).mean(axis=1),
        channel_width=reference.width_hz * factor,
        polarization_array=list(HANDS),
        times=middles[number[order]],
        integration_time=reference.length_s,
        antpairs=np.stack([first[order], second[order]], axis=1),
        do_blt_outer=False,
        blts_are_rectangular=True,
        time_axis_faster_than_bls=False,
        telescope=_telescope(reference, used, location),
        update_telescope_from_known=False,
        phase_center_catalog={
            n: {
                "cat_name": f"meridian_icrs_t{n}",
                "cat_type": "sidereal",
                "cat_lon": float(ra[n]),
                "cat_lat": float(dec[n]),
                "cat_frame": "icrs",
                "cat_epoch": 2000.0,
            }
            for n in range(len(middles))
        },
        phase_center_id_array=number[order],
        vis_units="uncalib",
        data_array=data,
        flag_array=flags,
        nsample_array=samples,
        check_kw={
            "check_extra": False,
            "run_check_acceptability": False,
            "strict_uvw_antpos_check": False,
        },
    )


def meridian_icrs(jd: Floats, declination_deg: float, location: Any) -> tuple[Floats, Floats]:
    """ICRS radians of the meridian at an apparent declination.

    Taking it and sidereal time for ICRS would put the beam 0.35 deg off (precession).
    """
    from pyuvdata.utils.phasing import transform_app_to_icrs

    ra, dec = transform_app_to_icrs(
        time_array=jd,
        app_ra=_sidereal_time(jd, location),
        app_dec=np.full(len(jd), math.radians(declination_deg)),
        telescope_loc=location,
    )
    return np.asarray(ra), np.asarray(dec)


def _sidereal_time(jd: Floats, location: Any) -> Floats:
    from pyuvdata.utils import get_lst_for_time

    return np.asarray(get_lst_for_time(jd, telescope_loc=location))


def _frequencies(reference: RawHeader, index: int) -> Floats:
    """Ascending channels of a sub-band, on the grid of another one."""
    n_channels, width = len(reference.frequencies_hz), reference.width_hz
    middle = reference.frequencies_hz.mean() + (reference.index - index) * n_channels * width
    return np.asarray(middle + width * (np.arange(n_channels) - (n_channels - 1) / 2.0))


def _check_earth_orientation(header: RawHeader, middles: Floats) -> None:
    """Refuse a time that the tables of `use_bundled_tables` do not reach."""
    from astropy.time import Time
    from astropy.utils import iers

    try:
        _ut1 = Time(middles, format="jd", scale="utc").ut1
    except iers.IERSRangeError as error:
        raise CorruptInputError(
            f"{header.path}: Header/time_array goes to the Julian Day {middles.max():.4f}, beyond "
            "the installed tables of the Earth's rotation.",
            "Have the clock corrected; if the time is right, update astropy-iers-data.",
        ) from error


def _location(header: RawHeader) -> Any:
    from astropy import units
    from astropy.coordinates import EarthLocation

    return EarthLocation.from_geodetic(
        header.longitude_deg * units.deg,
        header.latitude_deg * units.deg,
        header.altitude_m * units.m,
    )


def _telescope(header: RawHeader, used: Integers, location: Any) -> Any:
    """The antennas that have data, as CASA can use them: numbered by their rows.

    Station numbers would leave nameless gaps, each with solutions of its own. CASA has no mount
    that is fixed in azimuth.
    """
    from pyuvdata import Telescope

    places = [int(np.flatnonzero(header.antenna_numbers == number)[0]) for number in used]
    return Telescope.new(
        name=TELESCOPE_NAME,
        location=location,
        antenna_positions=header.antenna_positions_m[places],
        antenna_names=[station_name(header.antenna_names[place]) for place in places],
        antenna_numbers=np.arange(len(places)),
        antenna_diameters=[DISH_DIAMETER_M] * len(places),
        feeds=["x", "y"],
        mount_type="alt-az",
        x_orientation="east",
        instrument="DSA-110",
        update_from_known=False,
    )


def _rows_of_antennas(
    header: RawHeader, used: Integers
) -> tuple[Integers, Integers, NDArray[np.bool_]]:
    """Rows of each row's antennas, the lower first, and where that exchanged (conjugate) them."""
    first = np.searchsorted(used, header.first)
    second = np.searchsorted(used, header.second)
    return np.minimum(first, second), np.maximum(first, second), first > second


def _average(data: Any, flags: Any, samples: Any, factor: int) -> tuple[Any, Any, Any]:
    """Means over neighbouring channels, weighted by samples; flagged where nothing is left."""
    shape = (data.shape[0], -1, factor, data.shape[2])
    weights = samples.reshape(shape)
    total = weights.sum(axis=2)
    empty = flags.reshape(shape).all(axis=2)
    mean = (data.reshape(shape) * weights).sum(axis=2) / np.where(empty, 1.0, total)
    return mean.astype(np.complex64), empty, (total / factor).astype(np.float32)
