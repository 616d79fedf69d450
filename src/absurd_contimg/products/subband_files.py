"""The names of the telescope's sub-band files: ``2026-01-25T22:26:05_sb03.hdf5``, times in UTC."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from absurd_contimg.errors import InputError

NAMES_HELP = "Names are YYYY-MM-DDTHH:MM:SS_sbNN.hdf5 (or .uvh5), in UTC"
_TIME_FORMAT = "%Y-%m-%dT%H:%M:%S"
_NAME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)_sb(\d\d)\.(?:hdf5|uvh5)", re.ASCII)
_LEAP_SECOND = "23:59:60"


@dataclass(frozen=True, slots=True, order=True)
class SubbandName:
    """The parts of a file's name: Unix time of its timestamp, and the index of its sub-band."""

    timestamp_seconds: int
    subband: int
    path: Path


def is_subband_name(name: str) -> bool:
    """Whether a file name has the form of a sub-band file."""
    return _NAME.fullmatch(name) is not None


_END_SECONDS = 4_102_444_800
"""2100-01-01: days near the end of the calendar have no next one."""


def parse_subband_name(path: Path) -> SubbandName:
    """The parts of a sub-band file's name; raises `InputError` for any other name."""
    match = _NAME.fullmatch(path.name)
    try:
        if match is None:
            raise ValueError("the pattern does not match")
        is_leap_second = match[1].endswith(_LEAP_SECOND)
        stamp = match[1].replace(_LEAP_SECOND, "23:59:59")
        timestamp = datetime.strptime(stamp, _TIME_FORMAT).replace(tzinfo=UTC)
        seconds = int(timestamp.timestamp()) + is_leap_second
        if seconds < 0:
            raise ValueError("the time is before 1970")
        if seconds >= _END_SECONDS:
            raise ValueError("the time is after 2099")
    except ValueError as error:
        raise InputError(
            f"{path} is not named like a sub-band file ({error}).",
            f"{NAMES_HELP}.",
        ) from error
    return SubbandName(seconds, int(match[2]), path)


def parse_group_id(group_id: str) -> int:
    """The Unix time in a group's id; raises `InputError` for any other text."""
    return parse_subband_name(Path(f"{group_id}_sb00.hdf5")).timestamp_seconds


def format_subband_name(timestamp: datetime, subband: int) -> str:
    """The file name of a sub-band."""
    return f"{format_group_id(timestamp)}_sb{subband:02d}.hdf5"


def format_group_id(timestamp: datetime) -> str:
    """The id of the group whose earliest sub-band has this timestamp (UTC)."""
    return timestamp.strftime(_TIME_FORMAT)
