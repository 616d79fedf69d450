"""Baselines against antenna positions, from which they follow as the array stands still."""

from __future__ import annotations

import numpy as np

from absurd_contimg.science.raw_file import Floats, RawHeader

_TOLERANCE_M = 0.1
"""Single precision holds 2 km to 0.0001 m; the readers of the telescope allow 0.05 m."""
_PRECESSION_RAD_PER_YEAR = np.radians(20.042 / 3600.0)
"""Of the pole, towards the equinox."""
_REST_MAX_RAD = np.radians(60.0 / 3600.0)
"""Nutation, aberration and higher terms, which turn the frame of date beside precession."""
_SHARE_MIN = 0.9
"""Of the deviating baselines that one or two antennas must explain."""
_WRONG_MAX = 0.75
"""Where more baselines than this deviate, no antenna is at fault but something common to all."""


def expected_uvw(header: RawHeader) -> Floats:
    """Baselines in metres at hour angle 0, shape (rows, 3): second antenna minus first."""
    antenna_uvw = meridian_uvw(
        header.antenna_positions_m, header.longitude_deg, header.declination_rad
    )
    order = np.argsort(header.antenna_numbers)
    first = order[np.searchsorted(header.antenna_numbers[order], header.first)]
    second = order[np.searchsorted(header.antenna_numbers[order], header.second)]
    return np.asarray(antenna_uvw[second] - antenna_uvw[first])


def meridian_uvw(positions_m: Floats, longitude_deg: float, declination_rad: float) -> Floats:
    """Positions (antennas, 3) in metres as seen from the meridian at a declination.

    Positions are ITRF differences, turned here to the local meridian (Thompson, Moran and
    Swenson, Interferometry and Synthesis, section 4.1).
    """
    longitude = np.radians(longitude_deg)
    towards, across, z = positions_m.T
    x = np.cos(longitude) * towards + np.sin(longitude) * across
    y = np.cos(longitude) * across - np.sin(longitude) * towards
    sine, cosine = np.sin(declination_rad), np.cos(declination_rad)
    return np.stack([y, cosine * z - sine * x, cosine * x + sine * z], axis=1)


def sidereal_times(times_jd: Floats, longitude_deg: float) -> Floats:
    """Mean sidereal time of each time, radians from 0 to 2 pi; true within 2.1 s of time.

    Formula of 1982 without its small terms (Meeus, Astronomical Algorithms, chapter 12).
    """
    degrees = 280.46061837 + 360.98564736629 * (times_jd - 2451545.0) + longitude_deg
    return np.asarray(np.radians(degrees % 360.0))


def explain_baselines(header: RawHeader, expected: Floats) -> str | None:
    """Why the file's baselines are not those of its antennas; None where they are."""
    stored = _without_rotation(header, expected)
    wrong = _distance(stored, expected) > _tolerance(expected)
    wrong &= header.first != header.second  # an autocorrelation has no baseline, whatever it says
    if not wrong.any():
        return None
    if not (_distance(-stored, expected) > _tolerance(expected)).any():
        return "has the opposite sign of second antenna minus first"
    scale = _scale(stored, expected)
    if scale is not None:
        unit = " (wavelengths?)" if scale > 1 else ""
        return f"is {scale:.4g} times the baselines of antenna_positions{unit}; metres belong there"
    antennas = _antennas_at_fault(header, wrong)
    worst = int(_distance(stored, expected).argmax())
    shown = (
        f"says {_shown(stored[worst])} m for baseline {_name(header, header.first[worst])}-"
        f"{_name(header, header.second[worst])}, antenna_positions say {_shown(expected[worst])} m"
    )
    return f"{shown}; {int(wrong.sum())} of {len(wrong)} rows differ{antennas}"


def _without_rotation(header: RawHeader, expected: Floats) -> Floats:
    """The file's baselines, turned back if they are in the frame of 2000 and not in that of date.

    The turn is about the line of sight and changes no phase. Precession gives it for each row;
    what is left is about the same for all rows.
    """
    years = (header.times_jd - 2451545.0) / 365.25
    cosine = np.cos(header.declination_rad)
    right_ascension = sidereal_times(header.times_jd, header.longitude_deg)
    precession = -_PRECESSION_RAD_PER_YEAR * years * np.sin(right_ascension) / cosine
    stored = header.uvw_m
    turned = _turned(stored, precession)
    cross = (expected[:, 0] * turned[:, 1] - expected[:, 1] * turned[:, 0]).sum()
    along = (expected[:, 0] * turned[:, 0] + expected[:, 1] * turned[:, 1]).sum()
    rest = -np.arctan2(cross, along)
    if abs(rest) > _REST_MAX_RAD / cosine:
        return stored
    turned = _turned(turned, np.full(len(turned), rest))
    return (
        turned if _distance(turned, expected).max() < _distance(stored, expected).max() else stored
    )


def _turned(uvw: Floats, angle_rad: Floats) -> Floats:
    sine, cosine = np.sin(angle_rad), np.cos(angle_rad)
    u, v, w = uvw.T
    return np.stack([cosine * u - sine * v, sine * u + cosine * v, w], axis=1)


def _tolerance(expected: Floats) -> Floats:
    return np.asarray(_TOLERANCE_M + 1e-5 * _length(expected))


def _distance(stored: Floats, expected: Floats) -> Floats:
    return _length(stored - expected)


def _length(vectors: Floats) -> Floats:
    return np.asarray(np.sqrt((vectors**2).sum(axis=1)))


def _scale(stored: Floats, expected: Floats) -> float | None:
    """The one factor between the two, if there is one."""
    power = float((expected**2).sum())
    factor = float((stored * expected).sum()) / power if power else 0.0
    if factor <= 0 or abs(factor - 1.0) < 1e-3:
        return None
    same = _distance(stored / factor, expected) <= _tolerance(expected)
    return factor if same.all() else None


def _antennas_at_fault(header: RawHeader, wrong: np.ndarray) -> str:
    """The one or two antennas that all deviating baselines have in common."""
    if wrong.mean() > _WRONG_MAX:
        return ""
    pairs = np.stack([header.first[wrong], header.second[wrong]], axis=1)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    chosen: list[int] = []
    total = len(pairs)
    while len(chosen) < 2 and len(pairs):
        numbers, counts = np.unique(pairs, return_counts=True)
        chosen.append(int(numbers[counts.argmax()]))
        pairs = pairs[(pairs != chosen[-1]).all(axis=1)]
        if total - len(pairs) >= _SHARE_MIN * total:
            break
    if total - len(pairs) < _SHARE_MIN * total or not chosen:
        return ""
    names = " and ".join(_name(header, number) for number in chosen)
    if len(chosen) == 1:
        return f", all of them of antenna {names}"
    return f", all of them of antennas {names}: are the two exchanged?"


def _name(header: RawHeader, number: int) -> str:
    return header.antenna_names[int(np.flatnonzero(header.antenna_numbers == number)[0])]


def _shown(vector: Floats) -> str:
    return "(" + ", ".join(f"{value:.2f}" for value in vector) + ")"
