"""Which sub-band files belong to one observation: pure functions over names and times.

The sub-bands of one observation carry timestamps up to a minute apart; observations follow each
other every 309 s. A group is named by its earliest timestamp.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from absurd_contimg.errors import InputError

TOLERANCE_SECONDS = 60
"""The telescope's cluster tolerance (CONTIMG_CLUSTER_TOLERANCE_S); well below 309 s."""

GROUP_WAIT_SECONDS = 300.0
"""An incomplete group is left alone this long after its first file arrived."""

_NAME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)_sb(\d\d)\.(?:hdf5|uvh5)")


@dataclass(frozen=True, slots=True, order=True)
class SubbandName:
    """What a file's name says: Unix time of its timestamp and the index of its sub-band."""

    timestamp_seconds: int
    subband: int
    path: Path


@dataclass(frozen=True, slots=True)
class FormedGroup:
    """The files of one observation, in the order of their times."""

    group_id: str
    files: tuple[SubbandName, ...]

    @property
    def duplicates(self) -> tuple[int, ...]:
        """Sub-bands that are there more than once."""
        indices = [file.subband for file in self.files]
        return tuple(sorted({index for index in indices if indices.count(index) > 1}))


def parse_subband_name(path: Path) -> SubbandName:
    """What a name like ``2026-01-25T22:26:05_sb03.hdf5`` says; raises `InputError` otherwise."""
    match = _NAME.fullmatch(path.name)
    try:
        if match is None:
            raise ValueError("the pattern does not match")
        moment = datetime.strptime(match[1], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
    except ValueError as error:
        raise InputError(
            f"{path} is not named like a sub-band file ({error}).",
            "Names are YYYY-MM-DDTHH:MM:SS_sbNN.hdf5 (or .uvh5), in UTC.",
        ) from error
    return SubbandName(int(moment.timestamp()), int(match[2]), path)


def group_name(timestamp_seconds: int) -> str:
    """The name of a group that begins then: ``2026-01-25T22:26:05``."""
    return datetime.fromtimestamp(timestamp_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def form_groups(
    files: Iterable[SubbandName], tolerance_seconds: int = TOLERANCE_SECONDS
) -> tuple[FormedGroup, ...]:
    """All files sorted into groups; the order in which they are given does not matter.

    A group takes every file up to the tolerance after its first one. So no group spans more
    than the tolerance, and no observation whose sub-bands keep to it is ever split.
    """
    groups: list[list[SubbandName]] = []
    for file in sorted(set(files)):
        if groups and file.timestamp_seconds - groups[-1][0].timestamp_seconds <= tolerance_seconds:
            groups[-1].append(file)
        else:
            groups.append([file])
    return tuple(FormedGroup(group_name(one[0].timestamp_seconds), tuple(one)) for one in groups)


def nearest_group(
    timestamp_seconds: int,
    neighbours: Iterable[tuple[str, int]],
    tolerance_seconds: int = TOLERANCE_SECONDS,
) -> str | None:
    """The group of the nearest file within the tolerance; `neighbours` are (group, time).

    The earlier group wins a tie, so that the answer does not depend on the order.
    """
    near = [
        (abs(time - timestamp_seconds), group)
        for group, time in neighbours
        if abs(time - timestamp_seconds) <= tolerance_seconds
    ]
    return min(near)[1] if near else None
