"""What is wrong with the header of a raw file, key by key with values and remedies.

These pure functions stand in for pyuvdata's checks, which reject the telescope's files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from absurd_contimg.config import SiteConfig
from absurd_contimg.errors import CorruptInputError
from absurd_contimg.science.antenna_names import station_name
from absurd_contimg.science.raw_baselines import expected_uvw, explain_baselines, sidereal_times
from absurd_contimg.science.raw_file import RawHeader

_REMEDY = "Have the writer's settings corrected, and leave this file out until then."

_JD_MIN, _JD_MAX = 2455197.5, 2488069.5
"""2010 to 2100: a time outside is in another unit or of another epoch."""
_SAME_TIME_SECONDS = 0.5
"""Rows of one integration agree to this; the correlator's clocks agree to the last bits."""
_INTEGRATION_SECONDS = (0.1, 120.0)
"""A length outside is in another unit."""
_SPACING_TOLERANCE = 0.02
"""Of the integration time: how far apart neighbouring integrations may lie from it."""
_BAND_HZ = (1.0e9, 2.0e9)
"""The receivers end well inside."""
_STEP_TOLERANCE = 1e-3
_DECLINATION_TOLERANCE_RAD = 1e-4
_LST_TOLERANCE_SECONDS = 4.0
"""60 arcsec on the meridian; 0.9 s of it for the Earth's rotation, 1.2 s for nutation."""
_POSITION_MAX_M = 10_000.0
_DISTANCE_MIN_M = 1.0
"""Two dishes of 4.65 m cannot stand closer."""

LINEAR = {-5: "XX", -6: "YY", -7: "XY", -8: "YX"}
_CODES = LINEAR | {1: "I", 2: "Q", 3: "U", 4: "V", -1: "RR", -2: "LL", -3: "RL", -4: "LR"}
HANDS = (-5, -6)
"""XX and YY: what is imaged."""


@dataclass(frozen=True, slots=True)
class Deviation:
    """One thing that is wrong with a file."""

    key: str
    problem: str
    """Goes on from the key: "holds ..."; names the value and what belongs there."""
    remedy: str = _REMEDY

    def error(self, header: RawHeader) -> CorruptInputError:
        """The error that refuses the file."""
        return CorruptInputError(f"{header.path}: {self.key} {self.problem}.", self.remedy)


Deviations = Iterator[Deviation]


def deviations(header: RawHeader, site: SiteConfig) -> Deviations:
    """All deviations, the most basic first; checks that rely on a wrong value are left out."""
    checks: tuple[Callable[[RawHeader, SiteConfig], Deviations], ...] = (
        _counts,
        _values,
        _place,
        _polarizations,
        _frequencies,
        _times,
        _sidereal_times,
        _rows,
        _pointing,
        _positions,
        _baselines,
    )
    for check in checks:
        wrong = list(check(header, site))
        yield from wrong
        if wrong:
            return


def check_header(header: RawHeader, site: SiteConfig) -> None:
    """Raise the `CorruptInputError` of the first deviation."""
    for deviation in deviations(header, site):
        raise deviation.error(header)


# -- one check for each kind of value -------------------------------------------------------


def _values(header: RawHeader, _site: SiteConfig) -> Deviations:
    arrays = {
        "time_array": header.times_jd,
        "integration_time": header.integration_s,
        "freq_array": header.frequencies_hz,
        "channel_width": header.channel_width_hz,
        "antenna_positions": header.antenna_positions_m[header.has_data],
        "uvw_array": header.uvw_m,
        "latitude": np.array([header.latitude_deg]),
        "longitude": np.array([header.longitude_deg]),
        "altitude": np.array([header.altitude_m]),
        "extra_keywords/ha_phase_center": np.array([header.hour_angle_rad]),
    }
    for key, value in header.declinations_rad:
        arrays[key.removeprefix("Header/")] = np.array([value])
    if header.lst_rad is not None:
        arrays["lst_array"] = header.lst_rad
    for key, values in arrays.items():
        bad = int((~np.isfinite(values)).sum())
        if values.size == 0:
            yield Deviation(f"Header/{key}", "is empty")
        elif bad:
            yield Deviation(
                f"Header/{key}", f"holds {bad} values of {values.size} that are NaN or infinite"
            )


def _counts(header: RawHeader, _site: SiteConfig) -> Deviations:
    for key, stated, actual in header.counts:
        if stated != actual:
            yield Deviation(key, f"says {stated:g}, but the file holds {actual}")
    rows, channels = len(header.times_jd), len(header.frequencies_hz)
    lengths = {
        "ant_1_array": (header.first.shape, (rows,)),
        "ant_2_array": (header.second.shape, (rows,)),
        "uvw_array": (header.uvw_m.shape, (rows, 3)),
        "antenna_names": ((len(header.antenna_names),), header.antenna_numbers.shape),
        "antenna_positions": (header.antenna_positions_m.shape, (len(header.antenna_numbers), 3)),
    }
    if len(header.integration_s) != 1:
        lengths["integration_time"] = (header.integration_s.shape, (rows,))
    if len(header.channel_width_hz) != 1:
        lengths["channel_width"] = (header.channel_width_hz.shape, (channels,))
    if header.lst_rad is not None:
        lengths["lst_array"] = (header.lst_rad.shape, (rows,))
    for key, (shape, expected) in lengths.items():
        if shape != expected:
            yield Deviation(f"Header/{key}", f"has the shape {shape} instead of {expected}")


def _place(header: RawHeader, site: SiteConfig) -> Deviations:
    latitude, longitude = header.latitude_deg, header.longitude_deg
    if _near(latitude, site.latitude_deg, site) and _near_longitude(longitude, site):
        if abs(header.altitude_m - site.altitude_m) > site.altitude_tolerance_m:
            yield Deviation(
                "Header/altitude",
                f"is {header.altitude_m:g} m, the array stands at {site.altitude_m:g} m",
            )
        return
    place = f"{site.latitude_deg:.4f}, {site.longitude_deg:.4f} degrees"
    reason = ""
    if latitude == 0 and longitude == 0:
        reason = ": it was never set"
    elif _near(np.degrees(latitude), site.latitude_deg, site):
        reason = ": these are radians"
    elif _near_longitude(-longitude, site) and _near(latitude, site.latitude_deg, site):
        reason = ": east and west are exchanged"
    elif _near(longitude, site.latitude_deg, site):
        reason = ": latitude and longitude are exchanged"
    yield Deviation(
        "Header/latitude and longitude",
        f"are {latitude:.4f} and {longitude:.4f}, the array stands at {place}{reason}",
        "Have the header corrected; for another site set site.latitude_deg and its neighbours.",
    )


def _near(value: float, expected: float, site: SiteConfig) -> bool:
    return bool(abs(value - expected) <= site.tolerance_deg)


def _near_longitude(value: float, site: SiteConfig) -> bool:
    return bool(abs((value - site.longitude_deg + 180.0) % 360.0 - 180.0) <= site.tolerance_deg)


def _polarizations(header: RawHeader, _site: SiteConfig) -> Deviations:
    codes = header.polarizations
    shown = ", ".join(_CODES.get(code, str(code)) for code in codes) or "nothing"
    if len(set(codes)) != len(codes):
        yield Deviation("Header/polarization_array", f"holds one product twice ({shown})")
    elif not set(codes) <= LINEAR.keys():
        yield Deviation(
            "Header/polarization_array",
            f"holds {shown}; the receivers are linear, so XX and YY belong there",
        )
    elif not set(HANDS) <= set(codes):
        yield Deviation(
            "Header/polarization_array",
            f"holds {shown}; total intensity needs XX and YY",
            "Have both hands written: one alone measures half of the sky's light.",
        )


def _frequencies(header: RawHeader, _site: SiteConfig) -> Deviations:
    frequencies = header.frequencies_hz
    low, high = frequencies.min(), frequencies.max()
    if low < _BAND_HZ[0] or high > _BAND_HZ[1]:
        unit = ", perhaps MHz" if high < 1e5 else ", perhaps kHz" if high < 1e8 else ""
        yield Deviation(
            "Header/freq_array",
            f"goes from {low:g} to {high:g} Hz{unit}; the receivers see 1.0 to 2.0 GHz",
        )
        return
    width = np.median(np.abs(header.channel_width_hz))
    if width <= 0 or np.ptp(np.abs(header.channel_width_hz)) > _STEP_TOLERANCE * width:
        yield Deviation("Header/channel_width", f"is {width:g} Hz, or differs between channels")
        return
    steps = np.diff(frequencies)
    if not len(steps):
        return
    if (steps == 0).any() or (np.sign(steps) != np.sign(steps[0])).any():
        yield Deviation("Header/freq_array", "repeats channels or changes direction")
    elif np.abs(np.abs(steps) - width).max() > _STEP_TOLERANCE * width:
        yield Deviation(
            "Header/channel_width",
            f"is {width:g} Hz, but the channels of freq_array lie "
            f"{np.median(np.abs(steps)):g} Hz apart",
        )


def _times(header: RawHeader, _site: SiteConfig) -> Deviations:
    times, lengths, length = header.times_jd, header.integration_s, header.length_s
    if times.min() < _JD_MIN or times.max() > _JD_MAX:
        unit = ": these are Modified Julian Days" if 5e4 < times.min() < 1e5 else ""
        yield Deviation(
            "Header/time_array",
            f"begins at {times.min():.3f}, which is no Julian Day of 2010 to 2100{unit}",
        )
        return
    shortest, longest = _INTEGRATION_SECONDS
    if not shortest <= length <= longest or np.ptp(lengths) > _SPACING_TOLERANCE * length:
        yield Deviation(
            "Header/integration_time",
            f"goes from {lengths.min():g} to {lengths.max():g} s; one length from {shortest:g} to "
            f"{longest:g} s belongs there",
        )
        return
    number, middles = header.integrations()
    spread = np.abs(times - middles[number]).max() * 86400.0
    if spread > _SAME_TIME_SECONDS:
        yield Deviation(
            "Header/time_array",
            f"has times within one integration that lie {spread:.2f} s from its middle",
        )
        return
    spacing = np.diff(middles) * 86400.0
    if len(spacing) and np.abs(spacing - length).max() > _SPACING_TOLERANCE * length:
        worst = spacing[np.abs(spacing - length).argmax()]
        yield Deviation(
            "Header/integration_time",
            f"is {length:.4f} s, but integrations of time_array lie {worst:.4f} s apart",
        )


def _sidereal_times(header: RawHeader, _site: SiteConfig) -> Deviations:
    if header.lst_rad is None:
        return
    expected = sidereal_times(header.times_jd, header.longitude_deg)
    difference = (header.lst_rad - expected + np.pi) % (2.0 * np.pi) - np.pi
    worst = int(np.abs(difference).argmax())
    seconds = abs(float(difference[worst])) * 43200.0 / np.pi
    if seconds > _LST_TOLERANCE_SECONDS:
        yield Deviation(
            "Header/lst_array",
            f"says {header.lst_rad[worst]:.5f} rad where time_array and the place give "
            f"{expected[worst]:.5f} rad, {seconds:.1f} s from it",
            "Have the place or the clock of the writer corrected.",
        )


def _rows(header: RawHeader, _site: SiteConfig) -> Deviations:
    """Each integration holds each baseline once, of antennas that the header knows."""
    for key, antennas in (("ant_1_array", header.first), ("ant_2_array", header.second)):
        unknown = np.setdiff1d(antennas, header.antenna_numbers)
        if len(unknown):
            yield Deviation(
                f"Header/{key}", f"names antenna {unknown[0]}, which antenna_numbers does not hold"
            )
            return
    numbers = header.antenna_numbers
    if len(np.unique(numbers)) != len(numbers):
        yield Deviation("Header/antenna_numbers", "holds one number twice")
        return
    yield from _names(header)
    number, middles = header.integrations()
    numbers = np.sort(numbers)
    first, second = np.searchsorted(numbers, header.first), np.searchsorted(numbers, header.second)
    span = len(numbers)
    baseline = np.minimum(first, second) * span + np.maximum(first, second)
    expected = np.unique(baseline)
    pairs, counts = np.unique(number * span * span + baseline, return_counts=True)
    if (first == second).all():
        yield Deviation("Header/ant_1_array", "holds no baseline between two antennas")
    elif counts.max() > 1:
        low, high = divmod(int(pairs[counts.argmax()]) % (span * span), span)
        yield Deviation(
            "Header/ant_1_array",
            f"holds baseline {numbers[low]}-{numbers[high]} twice in one integration",
        )
    elif len(pairs) != len(expected) * len(middles):
        yield Deviation(
            "Header/Nblts",
            f"is {len(number)}, but {len(expected)} baselines in {len(middles)} integrations are "
            f"{len(expected) * len(middles)} rows: integrations disagree in their baselines",
        )


def _names(header: RawHeader) -> Deviations:
    stations: dict[str, str] = {}
    for name in header.antenna_names:
        other = stations.setdefault(station_name(name), name)
        if not name or not name.isascii() or not name.isprintable():
            yield Deviation("Header/antenna_names", f"holds {name!a}, which is no name")
            return
        if header.antenna_names.count(name) > 1 or other != name:
            yield Deviation(
                "Header/antenna_names", f"holds one station twice: {other!r} and {name!r}"
            )
            return


def _pointing(header: RawHeader, site: SiteConfig) -> Deviations:
    if header.phase_type == "unprojected":
        yield Deviation(
            "Header/phase_center_catalog",
            "says unprojected; the correlator phases to the meridian, and data that are not "
            "phased would get a wrong w term",
        )
        return
    if header.phase_type not in ("", "drift", "phased"):
        yield Deviation(
            "Header/phase_type", f"is {header.phase_type!r}, neither 'drift' nor 'phased'"
        )
        return
    for key, value in header.declinations_rad:
        if abs(value) > np.pi / 2.0:
            yield Deviation(key, f"is {value:g}: radians belong there, and these may be degrees")
            return
    (key, value), *others = header.declinations_rad
    for other, second in others:
        if abs(value - second) > _DECLINATION_TOLERANCE_RAD:
            yield Deviation(
                other, f"is {np.degrees(second):.4f} deg, but {key} is {np.degrees(value):.4f} deg"
            )
            return
    if np.degrees(value) < site.latitude_deg - 90.0:
        yield Deviation(key, f"is {np.degrees(value):.2f} deg, which never rises over the array")
    if abs(header.hour_angle_rad) > _DECLINATION_TOLERANCE_RAD:
        yield Deviation(
            "Header/extra_keywords/ha_phase_center",
            f"is {header.hour_angle_rad:g} rad; data phased away from the meridian are not read",
        )


def _positions(header: RawHeader, _site: SiteConfig) -> Deviations:
    places = header.antenna_positions_m[header.has_data]
    names = np.array(header.antenna_names)[header.has_data]
    distance = np.sqrt((places**2).sum(axis=1))
    furthest = int(distance.argmax())
    if distance[furthest] > _POSITION_MAX_M:
        absolute = (
            ": these are measured from the centre of the Earth" if distance.min() > 6e6 else ""
        )
        yield Deviation(
            "Header/antenna_positions",
            f"puts antenna {names[furthest]} {distance[furthest]:.0f} m from the array's place"
            f"{absolute}",
        )
        return
    apart = np.sqrt(((places[:, None] - places[None]) ** 2).sum(axis=2))
    np.fill_diagonal(apart, np.inf)
    nearest = int(apart.argmin())
    i, j = divmod(nearest, len(places))
    if len(places) > 1 and apart[i, j] < _DISTANCE_MIN_M:
        yield Deviation(
            "Header/antenna_positions",
            f"puts antennas {names[i]} and {names[j]} {apart[i, j]:.2f} m apart",
        )


def _baselines(header: RawHeader, _site: SiteConfig) -> Deviations:
    problem = explain_baselines(header, expected_uvw(header))
    if problem is not None:
        yield Deviation("Header/uvw_array", problem)
