"""Visibilities of a raw sub-band as a pyuvdata object that is phased to the meridian.

pyuvdata reads the writer's ``drift`` as unphased data, which adds a wrong w term in silence. Here
each integration has its own phase centre, and baselines of antenna positions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from absurd_contimg.errors import CorruptInputError
from absurd_contimg.science.antenna_names import station_name
from absurd_contimg.science.raw_checks import HANDS
from absurd_contimg.science.raw_file import Floats, Integers, RawHeader, read_visibilities
from absurd_contimg.science.repeated_values import flag_repeated_values

TELESCOPE_NAME = "OVRO_MMA"
"""The observatory's name in CASA's table of observatories; it does not know DSA-110."""
DISH_DIAMETER_M = 4.65
"""docs/telescope.md#array"""


def read_uvdata(subbands: Mapping[int, RawHeader | None], reference: RawHeader, factor: int) -> Any:
    """XX and YY of sub-bands by index, without autocorrelations, each `factor` channels averaged.

    Channels ascend over all sub-bands; one without a header holds flagged zeros. Rows are in order
    of time, then of baseline, by the antennas' numbers. Times, place, positions and the grid of
    channels are those of `reference`, one of the group.
    """
    from pyuvdata import UVData

    location = _location(reference)
    number, middles = reference.integrations()
    _check_earth_orientation(reference, middles)
    used = np.union1d(reference.first, reference.second)
    rows = _Rows.of(reference, used, number)
    n_channels = len(reference.frequencies_hz) // factor
    shape = (len(rows.order), len(subbands) * n_channels, len(HANDS))
    data, samples = np.zeros(shape, np.complex64), np.zeros(shape, np.float32)
    flags = np.ones(shape, bool)
    indices = sorted(subbands, reverse=True)
    for place, index in enumerate(indices):
        if (header := subbands[index]) is not None:
            part = np.s_[:, place * n_channels : (place + 1) * n_channels]
            data[part], flags[part], samples[part] = _read_subband(header, used, factor)
    declination = math.degrees(reference.declination_rad)
    ra, dec = meridian_icrs(middles, declination, location)
    frequencies = [_frequencies(reference, i).reshape(-1, factor).mean(axis=1) for i in indices]
    return UVData.new(
        freq_array=np.concatenate(frequencies),
        channel_width=reference.width_hz * factor,
        polarization_array=list(HANDS),
        times=middles[number[rows.order]],
        integration_time=reference.length_s,
        antpairs=np.stack([rows.first, rows.second], axis=1),
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
        phase_center_id_array=number[rows.order],
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


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Rows of a file that are no autocorrelations, by time, then baseline."""

    order: Integers
    """Their places in the file."""
    first: Integers
    """Of each, the antenna with the lower number, as its place among those with data."""
    second: Integers
    swapped: NDArray[np.bool_]
    """Where the file names the other one first, so that its values are conjugate."""

    @classmethod
    def of(cls, header: RawHeader, used: Integers, number: Integers) -> Self:
        """By the integration of each row."""
        a, b = np.searchsorted(used, header.first), np.searchsorted(used, header.second)
        first, second = np.minimum(a, b), np.maximum(a, b)
        cross = np.flatnonzero(a != b)
        order = cross[np.lexsort((second[cross], first[cross], number[cross]))]
        return cls(order, first[order], second[order], (a > b)[order])


def _read_subband(header: RawHeader, used: Integers, factor: int) -> tuple[Any, Any, Any]:
    """Data, flags and samples of one file, averaged; rows and channels in order."""
    number, _middles = header.integrations()
    rows = _Rows.of(header, used, number)
    data, flags, samples = read_visibilities(header, HANDS)
    flag_repeated_values(header, data, flags, samples)
    if factor > 1:
        data, flags, samples = _average(data, samples, factor)
    if header.frequencies_hz[0] > header.frequencies_hz[-1]:
        data, flags, samples = data[:, ::-1], flags[:, ::-1], samples[:, ::-1]
    data = data[rows.order]
    np.conjugate(data, out=data, where=rows.swapped[:, None, None])
    return data, flags[rows.order], samples[rows.order]


def _average(data: Any, samples: Any, factor: int) -> tuple[Any, Any, Any]:
    """Means over neighbouring channels, weighted by samples; flagged where there are none.

    `data` are used up. Slices of real numbers are added: a sum over an axis of a few elements, or
    of every fourth complex number, takes three times as long.
    """
    data *= samples
    total = _sums(samples, factor)
    mean = _sums(data.view(np.float32), factor).view(np.complex64)
    empty = total == 0
    mean /= np.where(empty, np.float32(1.0), total)
    return mean, empty, total / np.float32(factor)


def _sums(values: Any, factor: int) -> Any:
    """Of each `factor` neighbouring channels of an array (rows, channels, products)."""
    n_rows, n_channels, n_products = values.shape
    apart = values.reshape(n_rows, n_channels // factor, factor, n_products)
    total = apart[:, :, 0].copy()
    for k in range(1, factor):
        total += apart[:, :, k]
    return total
