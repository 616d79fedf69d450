"""The array: a T of closely spaced dishes and outriggers to 2.6 km (docs/telescope.md#array).

The outriggers' positions are not public; here they lie on a spiral that fills the aperture.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

LATITUDE_DEG = 37.2314
LONGITUDE_DEG = -118.2817
ALTITUDE_M = 1222.0
"""Owens Valley Radio Observatory, as in the telescope's own constants."""

_EAST_WEST = [n for n in range(1, 52) if n not in (10, 21, 22, 23)]
_NORTH_SOUTH = list(range(68, 103))
_OUTRIGGERS = list(range(103, 117))
_GOLDEN_ANGLE = math.pi * (3.0 - math.sqrt(5.0))


def station_position_m(number: int) -> tuple[float, float, float]:
    """East, north and up of a station in metres from the corner of the T."""
    if 1 <= number <= 51:
        return (number - 26) * 5.75, 0.0, 0.0
    if 52 <= number <= 102:
        return 0.0, (number - 51) * 8.65, 0.0
    if 103 <= number <= 117:
        k = number - 103
        radius = 1320.0 * math.sqrt((k + 1.5) / 15.5)
        angle = k * _GOLDEN_ANGLE + 0.4
        return radius * math.cos(angle), radius * math.sin(angle), 3.0 * math.sin(5.0 * k)
    raise ValueError(f"station {number} does not exist; stations are 1 to 117")


def active_stations(count: int, outriggers: int | None = None) -> list[int]:
    """`count` of the 96 active stations; small arrays get more outriggers, for a round beam."""
    if outriggers is None:
        outriggers = min(len(_OUTRIGGERS), max(2, (count * 3) // 8))
    arm = count - outriggers
    east_west = min(len(_EAST_WEST), (arm * len(_EAST_WEST) + 41) // 82)
    arms = _spread(_EAST_WEST, east_west) + _spread(_NORTH_SOUTH, arm - east_west)
    return sorted(arms + _spread(_OUTRIGGERS, outriggers))


def equatorial_positions_m(numbers: list[int]) -> NDArray[np.float64]:
    """Earth-fixed positions (n, 3): x to the local meridian's equator, y east, z north."""
    east, north, up = np.array([station_position_m(n) for n in numbers]).T
    sin, cos = math.sin(math.radians(LATITUDE_DEG)), math.cos(math.radians(LATITUDE_DEG))
    return np.stack([up * cos - north * sin, east, up * sin + north * cos], axis=-1)


def terrestrial_positions_m(numbers: list[int]) -> NDArray[np.float64]:
    """Positions in the terrestrial frame (x to Greenwich), as UVH5 files hold them."""
    x, y, z = equatorial_positions_m(numbers).T
    sin, cos = math.sin(math.radians(LONGITUDE_DEG)), math.cos(math.radians(LONGITUDE_DEG))
    return np.stack([x * cos - y * sin, x * sin + y * cos, z], axis=-1)


def _spread(numbers: list[int], count: int) -> list[int]:
    """`count` of the numbers, evenly spread and with the first among them."""
    return [numbers[(i * len(numbers)) // count] for i in range(count)] if count else []
