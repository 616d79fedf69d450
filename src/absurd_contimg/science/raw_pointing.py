"""When and at which declination a raw file was observed, read without its data."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from absurd_contimg.errors import CorruptInputError, InputError
from absurd_contimg.products.subband_files import parse_subband_name
from absurd_contimg.science.hdf5_files import TRANSFER_AGAIN, opened
from absurd_contimg.science.raw_file import HeaderReader

_MJD_OF_1970 = 40_587.0
_JD_OF_MJD_0 = 2_400_000.5
_NAME_TOLERANCE_DAYS = 1.0 / 24.0
"""The time in a name is that of another clock, seconds away; an hour is a wrong header."""


@dataclass(frozen=True, slots=True)
class Pointing:
    """The middle of an observation, and the apparent declination of its strip."""

    mid_mjd: float
    declination_deg: float


class _PointingReader(HeaderReader):
    """Reads the few keys that say when and where."""

    def pointing(self) -> Pointing:
        """The pointing, from a header that fits the shape of the data."""
        times = self._numbers("time_array").ravel()
        if not times.size:
            raise self._fail("Header/time_array", "is empty")
        n_channels = self._numbers("freq_array").size
        self._shape(times.size, n_channels, self._numbers("polarization_array").size)
        (_, declination_rad), *_ = self._declinations()
        return Pointing(
            mid_mjd=float(times.min() + times.max()) / 2.0 - _JD_OF_MJD_0,
            declination_deg=math.degrees(declination_rad),
        )


def read_pointing(path: Path) -> Pointing:
    """From a file's header, whose counts must agree with the shape of the data.

    Raises as `opened`, and `CorruptInputError` for a header that cannot be right.
    """
    name = parse_subband_name(path)
    with opened(path) as file:
        pointing = _PointingReader(path, file).pointing()
    named_mjd = mjd_of_name(name.timestamp_seconds)
    if not abs(pointing.mid_mjd - named_mjd) < _NAME_TOLERANCE_DAYS:
        raise CorruptInputError(
            f"{path}: Header/time_array is {(pointing.mid_mjd - named_mjd) * 24:.1f} h from the "
            "time in the name.",
            TRANSFER_AGAIN,
        )
    if not abs(pointing.declination_deg) <= 90.0:
        raise CorruptInputError(
            f"{path}: the declination is {pointing.declination_deg:g} deg.", TRANSFER_AGAIN
        )
    return pointing


def first_pointing(paths: Iterable[Path]) -> Pointing | None:
    """Of the first file that can be read: the files of a group agree."""
    for path in paths:
        with suppress(InputError, OSError):
            return read_pointing(path)
    return None


def mjd_of_name(timestamp_seconds: float) -> float:
    """The MJD (UTC) of a Unix time."""
    return _MJD_OF_1970 + timestamp_seconds / 86_400.0
