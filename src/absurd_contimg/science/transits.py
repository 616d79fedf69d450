"""Transits of calibrators: when a source crosses the meridian, and in which group that is.

The telescope looks at the meridian, so a calibrator is in the beam around its transit. A transit
belongs to the group whose middle is nearest to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from absurd_contimg.science.beam import airy_power
from absurd_contimg.science.catalogue import REFERENCE_FREQUENCY_HZ, SkySource

_SIDEREAL_DEG_PER_DAY = 360.985_647_366_29
"""Rotation of the Earth in a day of UT."""
_MINUTES_PER_DAY = 1440.0
_MJD_ZERO = 2_400_000.5
_TT_MINUS_UTC_DAYS = 69.184 / 86_400.0
"""Since 2017; a leap second more changes nothing here."""


class ObservedGroup(Protocol):
    """A group whose time and declination are known."""

    @property
    def group_id(self) -> str:
        """Its name."""

    @property
    def mid_mjd(self) -> float:
        """The middle of its observation."""

    @property
    def declination_deg(self) -> float:
        """Apparent."""

    @property
    def n_subbands(self) -> int:
        """Files of it that were accepted."""

    @property
    def has_measurement_set(self) -> bool:
        """Whether it was converted."""

    @property
    def status(self) -> str:
        """How far it is, in the words of the registry."""


_Group = TypeVar("_Group", bound=ObservedGroup)


@dataclass(frozen=True, slots=True)
class Transit:
    """A transit of a calibrator through the beam, and the group in which it is."""

    calibrator: str
    flux_jy: float
    transit_mjd: float
    group_id: str
    delta_minutes: float
    """From the transit to the middle of the group."""
    declination_offset_deg: float
    """Of the calibrator from the declination of the group, both apparent."""
    beam_response: float
    """Of the primary beam at the transit."""
    n_subbands: int
    has_measurement_set: bool
    n_groups: int
    """Of the same declination around the transit; `n_measurement_sets` of them are converted."""
    n_measurement_sets: int
    group_status: str


@dataclass(frozen=True, slots=True)
class TransitLimits:
    """Which transits count, and which groups belong to them."""

    response_min: float = 0.3
    """Smallest beam response (guide: 0.3)."""
    offset_minutes_max: float = 5.0
    """A group whose middle is further from the transit has not observed it (a group: 5.15 min)."""
    window_minutes: float = 25.0
    """Groups so far from the transit count as its own (guide: 50 min around it)."""
    declination_tolerance_deg: float = 0.1
    """Their declination is that of the transit's group."""


def find_transits(
    groups: Sequence[ObservedGroup],
    calibrators: Sequence[SkySource],
    longitude_deg: float,
    dish_diameter_m: float,
    limits: TransitLimits,
) -> list[Transit]:
    """The transits that were observed, most recent first; `longitude_deg` is east of Greenwich."""
    if not groups:
        return []
    mjd = np.array([group.mid_mjd for group in groups])
    declination = np.array([group.declination_deg for group in groups])
    lst = sidereal_time_deg(mjd, longitude_deg)
    transits = []
    for source in calibrators:
        ra, dec = apparent_position_deg(source, mjd)
        hour_angle = np.remainder(lst - ra + 180.0, 360.0) - 180.0
        offset = dec - declination
        response = airy_power(np.radians(np.abs(offset)), REFERENCE_FREQUENCY_HZ, dish_diameter_m)
        minutes = hour_angle / _SIDEREAL_DEG_PER_DAY * _MINUTES_PER_DAY
        fit = (np.abs(minutes) <= limits.offset_minutes_max) & (response >= limits.response_min)
        # The main lobe only: further out the response rises again, to 0.02.
        order = sorted(np.flatnonzero(fit & (np.abs(offset) < 5.0)), key=lambda i: abs(minutes[i]))
        taken: list[float] = []
        for index in order:
            transit_mjd = float(mjd[index] - minutes[index] / _MINUTES_PER_DAY)
            if any(abs(transit_mjd - other) < 0.5 for other in taken):
                continue  # a nearer group has the same transit
            taken.append(transit_mjd)
            near = groups_around(groups, transit_mjd, groups[index].declination_deg, limits)
            transits.append(
                Transit(
                    calibrator=source.name,
                    flux_jy=source.flux_jy,
                    transit_mjd=transit_mjd,
                    group_id=groups[index].group_id,
                    delta_minutes=float(minutes[index]),
                    declination_offset_deg=float(offset[index]),
                    beam_response=float(response[index]),
                    n_subbands=groups[index].n_subbands,
                    has_measurement_set=groups[index].has_measurement_set,
                    n_groups=len(near),
                    n_measurement_sets=sum(group.has_measurement_set for group in near),
                    group_status=groups[index].status,
                )
            )
    return sorted(transits, key=lambda transit: (-transit.transit_mjd, transit.calibrator))


def groups_around(
    groups: Sequence[_Group], transit_mjd: float, declination_deg: float, limits: TransitLimits
) -> list[_Group]:
    """The groups of one declination around a transit, in the order of time."""
    reach = limits.window_minutes / _MINUTES_PER_DAY
    tolerance = limits.declination_tolerance_deg
    near = [
        group
        for group in groups
        if abs(group.mid_mjd - transit_mjd) <= reach
        and abs(group.declination_deg - declination_deg) <= tolerance
    ]
    return sorted(near, key=lambda group: (group.mid_mjd, group.group_id))


def sidereal_time_deg(mjd: NDArray[np.float64], longitude_deg: float) -> NDArray[np.float64]:
    """Local apparent sidereal time, with UT1 taken for UTC: less than 0.9 s wrong.

    So it needs no table of the Earth's rotation, which ends a year after it was made.
    """
    import erfa

    tt = mjd + _TT_MINUS_UTC_DAYS
    greenwich = np.degrees(erfa.gst06a(_MJD_ZERO, mjd, _MJD_ZERO, tt))
    return np.asarray(np.remainder(greenwich + longitude_deg, 360.0))


def apparent_position_deg(
    source: SkySource, mjd: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Right ascension and declination of date, computed once for each day: 1 arcsec is enough."""
    import erfa

    days, place = np.unique(np.floor(mjd), return_inverse=True)
    ra, dec = math.radians(source.ra_deg), math.radians(source.dec_deg)
    still = (0.0, 0.0, 0.0, 0.0)  # proper motions, parallax, radial velocity
    of_date, declination, origins = erfa.atci13(ra, dec, *still, _MJD_ZERO, days + 0.5)
    right_ascension = np.remainder(np.degrees(of_date - origins), 360.0)
    return right_ascension[place], np.degrees(declination)[place]
