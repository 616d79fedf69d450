"""Whether sub-band files are one observation, and which file is the odd one: by headers.

pyuvdata accepts missing, duplicated and disordered sub-bands in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from absurd_contimg.config import ConversionConfig, SiteConfig
from absurd_contimg.errors import CorruptInputError, IncompleteGroupError
from absurd_contimg.science.antenna_names import station_name
from absurd_contimg.science.raw_checks import check_header
from absurd_contimg.science.raw_file import JD_OF_1970, Floats, Integers, RawHeader, read_raw_header

_SAME_TIME_SECONDS = 0.5
_SAME_POSITION_M = 0.05
_SAME_PLACE_DEG = 1e-6
_SAME_DECLINATION_RAD = 1e-5
_SAME_WIDTH_HZ = 1.0
_ANTENNAS_APART = 1 << 31
"""More than any antenna's number."""
_CLOCKS_APART_SECONDS = 60.0
"""Between a name and its data; more is a wrong clock, or a name of another observation."""


@dataclass(frozen=True, slots=True, eq=False)
class RawGroup:
    """Sub-bands of one observation, by index."""

    subbands: Mapping[int, RawHeader]
    """Those into whose files visibilities were written."""
    missing: tuple[int, ...]
    """Indices that need placeholders: without a file, or `unwritten`."""
    unwritten: tuple[int, ...]
    """Indices of files that hold a header alone."""
    times_jd: Floats
    """The middle of each integration."""

    @property
    def reference(self) -> RawHeader:
        """Any one of the headers; in what the group needs they agree."""
        return next(iter(self.subbands.values()))

    @property
    def n_channels(self) -> int:
        """Per sub-band."""
        return len(self.reference.frequencies_hz)

    @property
    def channel_width_hz(self) -> float:
        """Width of a channel, positive."""
        return self.reference.width_hz

    @property
    def integration_s(self) -> float:
        """Length of an integration."""
        return self.reference.length_s

    @property
    def declination_deg(self) -> float:
        """Apparent declination of the strip."""
        return float(np.degrees(self.reference.declination_rad))


def read_raw_group(paths: Sequence[Path], config: ConversionConfig, site: SiteConfig) -> RawGroup:
    """All headers, checked to be one observation, or the `InputError` of the first bad file."""
    headers = [read_raw_header(path) for path in paths]
    for header in headers:
        check_header(header, site)
    subbands = _by_index(headers, config)
    for part in _PARTS:
        part.check(subbands)
    _check_band(subbands)
    unwritten = tuple(sorted(i for i, header in subbands.items() if not header.is_written))
    written = {i: header for i, header in subbands.items() if header.is_written}
    check_count(len(written), unwritten, config, headers[0].path.parent)
    reference = next(iter(written.values()))
    missing = tuple(i for i in range(config.expected_subbands) if i not in written)
    _number, middles = reference.integrations()
    return RawGroup(written, missing, unwritten, middles)


def check_count(
    n_with_data: int, empty: Sequence[int], config: ConversionConfig, folder: Path
) -> None:
    """Refuse a group in which too many files hold no data: they count as missing ones do."""
    if empty and n_with_data < max(1, config.subbands_min):
        listed = ", ".join(f"{i:02d}" for i in empty)
        raise IncompleteGroupError(
            f"only {n_with_data} of {config.expected_subbands} sub-bands hold data, at least "
            f"{config.subbands_min} are needed; the files of {listed} in {folder} hold none: never "
            "written, the same number all over, zero, or without samples.",
            "Look with contimg inspect --data at what these nodes wrote, or give the group up.",
        )


def _by_index(headers: Sequence[RawHeader], config: ConversionConfig) -> dict[int, RawHeader]:
    subbands: dict[int, RawHeader] = {}
    twice: list[str] = []
    for header in headers:
        other = subbands.setdefault(header.index, header)
        if other is not header:
            twice.append(f"sb{header.index:02d} ({other.path.name} and {header.path.name})")
        if header.index >= config.expected_subbands:
            raise CorruptInputError(
                f"{header.path} is sub-band {header.index:02d} of {config.expected_subbands}.",
                "Rename or remove it.",
            )
    if twice:
        raise CorruptInputError(
            f"{len(twice)} sub-bands in {headers[0].path.parent} are there twice: "
            f"{', '.join(twice)}.",
            "Move one file of each pair out of that folder, then: contimg spawn --group GROUP "
            "--respawn, or contimg reopen GROUP where the daemon has spawned it.",
        )
    if len(subbands) < config.subbands_min:
        missing = [i for i in range(config.expected_subbands) if i not in subbands]
        listed = ", ".join(f"{i:02d}" for i in missing)
        raise IncompleteGroupError(
            f"only {len(subbands)} of {config.expected_subbands} sub-bands are present "
            f"(missing: {listed}); at least {config.subbands_min} are needed."
            f"{_wrong_clocks(headers)}",
            f"Find the missing files near {headers[0].path.parent}, or give the group up.",
        )
    return subbands


def _wrong_clocks(headers: Sequence[RawHeader]) -> str:
    """The file whose name is furthest from its data in time: it may belong to another group."""
    odd = max(headers, key=lambda header: abs(header.name_late_s))
    if abs(odd.name_late_s) < _CLOCKS_APART_SECONDS:
        return ""
    start = _utc(odd.times_jd.min() - odd.length_s / 2.0 / 86400.0)
    return f" The data of {odd.path.name} begin at {start}: rename it if its name is wrong."


@dataclass(frozen=True, slots=True)
class _Part:
    """Something in which all files of an observation agree."""

    key: str
    value: Callable[[RawHeader], Any]
    shown: Callable[[RawHeader, RawHeader], str]
    """What the first of two headers holds, told apart from the second."""
    tolerance: float = 0.0

    def check(self, subbands: Mapping[int, RawHeader]) -> None:
        """Raise the `CorruptInputError` that names the file that differs from most others."""
        classes: list[list[RawHeader]] = []
        values: list[Any] = []
        for header in subbands.values():
            value = self.value(header)
            home = next((n for n, other in enumerate(values) if self._same(value, other)), None)
            if home is None:
                classes.append([header])
                values.append(value)
            else:
                classes[home].append(header)
        if len(classes) == 1:
            return
        classes.sort(key=len, reverse=True)
        common, odd = classes[0][0], classes[1][0]
        others = sum(map(len, classes[1:])) - 1
        raise CorruptInputError(
            f"{odd.path}: {self.key} {self.shown(odd, common)}, but in {len(classes[0])} of "
            f"{len(subbands)} files of the group, as in {common.path.name}, it "
            f"{self.shown(common, odd)}{f' ({others} more differ)' if others else ''}.",
            "Move it to the group that it belongs to, or leave it out.",
        )

    def _same(self, a: Any, b: Any) -> bool:
        if isinstance(a, np.ndarray):
            return a.shape == b.shape and bool((np.abs(a - b) <= self.tolerance).all())
        return bool(a == b)


def _utc(jd: float) -> str:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=jd - JD_OF_1970)
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00")


def _antennas(header: RawHeader) -> dict[int, str]:
    names = map(station_name, header.antenna_names)
    return dict(zip(header.antenna_numbers.tolist(), names, strict=True))


def _baselines(header: RawHeader) -> Integers:
    """Every baseline once, whichever antenna is named first, as one number in order."""
    low, high = np.minimum(header.first, header.second), np.maximum(header.first, header.second)
    return np.unique(low.astype(np.int64) * _ANTENNAS_APART + high)


def _positions(header: RawHeader) -> Floats:
    """Of the antennas with data, in the order of their numbers."""
    order = np.argsort(header.antenna_numbers[header.has_data])
    return np.asarray(header.antenna_positions_m[header.has_data][order])


def _shown_times(header: RawHeader, _other: RawHeader) -> str:
    _number, middles = header.integrations()
    return f"has {len(middles)} integrations from {_utc(middles[0])} to {_utc(middles[-1])}"


def _shown_antennas(header: RawHeader, other: RawHeader) -> str:
    only = sorted(set(_antennas(header).items()) - set(_antennas(other).items()))
    named = f", {only[0][1]} with number {only[0][0]}" if only else ""
    return f"holds {len(header.antenna_names)} antennas{named}"


def _shown_baselines(header: RawHeader, other: RawHeader) -> str:
    only = np.setdiff1d(_baselines(header), _baselines(other))
    first, second = divmod(int(only[0]), _ANTENNAS_APART) if len(only) else (0, 0)
    named = f", {first}-{second} among them" if len(only) else ""
    return f"holds {len(_baselines(header))} baselines{named}"


def _shown_position(header: RawHeader, other: RawHeader) -> str:
    worst = int(np.abs(_positions(header) - _positions(other)).max(axis=1).argmax())
    number = np.sort(header.antenna_numbers[header.has_data])[worst]
    place = ", ".join(f"{metres:.2f}" for metres in _positions(header)[worst])
    return f"puts antenna {_antennas(header)[number]} at ({place}) m"


_PARTS = (
    _Part(
        "Header/time_array",
        lambda h: h.integrations()[1] * 86400.0,
        _shown_times,
        _SAME_TIME_SECONDS,
    ),
    _Part(
        "Header/integration_time",
        lambda h: np.array([h.length_s]),
        lambda h, _: f"is {h.length_s:.4f} s",
        1e-2,
    ),
    _Part("Header/antenna_names", _antennas, _shown_antennas),
    _Part("Header/ant_1_array", _baselines, _shown_baselines),
    _Part("Header/antenna_positions", _positions, _shown_position, _SAME_POSITION_M),
    _Part(
        "Header/latitude and longitude",
        lambda h: np.array([h.latitude_deg, h.longitude_deg % 360.0]),
        lambda h, _: f"is {h.latitude_deg:.5f}, {h.longitude_deg:.5f} degrees",
        _SAME_PLACE_DEG,
    ),
    _Part(
        "Header/altitude",
        lambda h: np.array([h.altitude_m]),
        lambda h, _: f"is {h.altitude_m:g} m",
        0.1,
    ),
    _Part(
        "the declination",
        lambda h: np.array([h.declination_rad]),
        lambda h, _: f"is {np.degrees(h.declination_rad):.4f} degrees",
        _SAME_DECLINATION_RAD,
    ),
    _Part(
        "Header/freq_array",
        lambda h: np.array([len(h.frequencies_hz), h.width_hz]),
        lambda h, _: f"has {len(h.frequencies_hz)} channels of {h.width_hz:g} Hz",
        _SAME_WIDTH_HZ,
    ),
    _Part(
        "the form",
        lambda h: h.phased_to_meridian,
        lambda h, _: "is the writer's" if h.phased_to_meridian else "is the converter's",
    ),
)


def _check_band(subbands: Mapping[int, RawHeader]) -> None:
    """Each sub-band must lie where its number says, or channels would repeat or be missing."""
    tops = {
        index: h.frequencies_hz.max() + index * len(h.frequencies_hz) * h.width_hz
        for index, h in subbands.items()
    }
    common = float(np.median(list(tops.values())))
    for index, top in tops.items():
        header = subbands[index]
        if abs(top - common) > 0.1 * header.width_hz:
            raise CorruptInputError(
                f"{header.path}: Header/freq_array has its highest channel at "
                f"{header.frequencies_hz.max() / 1e6:.3f} MHz, where sub-band {index:02d} of this "
                f"group has {(common - top) / 1e6 + header.frequencies_hz.max() / 1e6:.3f} MHz.",
                "Rename it to the sub-band that it holds, or leave it out.",
            )
