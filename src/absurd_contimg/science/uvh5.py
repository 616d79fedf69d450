"""Reading the headers of UVH5 sub-bands, and checking that a set of them is one group.

Uses h5py alone, so that a bad file is found before anything expensive starts. pyuvdata accepts
missing, duplicated and disordered sub-bands without an error, so the checks here are the only
ones (docs/telescope.md#raw-files).
"""

from __future__ import annotations

import errno
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from absurd_contimg.config import ConversionConfig
from absurd_contimg.errors import (
    CorruptInputError,
    IncompleteGroupError,
    InputError,
    MissingInputError,
)

_NAME = re.compile(r"_sb(\d\d)\.(?:hdf5|uvh5)$")
_TRANSFER_AGAIN = "Transfer the file again, or leave it out of the group."


@dataclass(frozen=True, slots=True)
class SubbandHeader:
    """The header of one sub-band; the data are not read."""

    path: Path
    index: int
    """From the file's name; 0 is the highest in frequency."""
    n_channels: int
    top_hz: float
    """Centre of the highest channel."""
    channel_width_hz: float
    start_jd: float
    """Middle of the first integration."""
    n_times: int
    declination_deg: float
    """Apparent declination of the strip."""
    layout_digest: str
    """Of times and antenna pairs: equal for sub-bands of one observation."""
    shape: tuple[int, ...]
    """Of the visibilities."""


@dataclass(frozen=True, slots=True)
class GroupHeader:
    """Sub-bands that belong together, by index."""

    subbands: Mapping[int, SubbandHeader]
    missing: tuple[int, ...]
    """Indices that need placeholders."""
    declination_deg: float
    n_channels: int
    """Per sub-band."""
    channel_width_hz: float


def read_header(path: Path) -> SubbandHeader:
    """Open one sub-band and read its header.

    Raises `MissingInputError` or `CorruptInputError`; an error of the file system (no
    permission, locked by a writer) passes as it is, because it may go away.
    """
    import h5py

    if not path.is_file():
        raise MissingInputError(
            f"the input file {path} does not exist.",
            "Restore it, or spawn the group again without it.",
        )
    match = _NAME.search(path.name)
    if match is None:
        raise InputError(
            f"the file name {path.name} does not end in _sbNN.hdf5.",
            "Rename it: the sub-band's number is taken from the name.",
        )
    try:
        with h5py.File(path, "r") as file:
            return _header(path, int(match[1]), file)
    except OSError as error:
        if error.errno in {errno.EACCES, errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.EIO}:
            raise
        problem = "truncated" if "truncated" in str(error) else "not an HDF5 file, or damaged"
        raise CorruptInputError(f"{path} is {problem} ({error}).", _TRANSFER_AGAIN) from error
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise CorruptInputError(
            f"{path} is HDF5, but its UVH5 header cannot be read ({error}).", _TRANSFER_AGAIN
        ) from error


def _header(path: Path, index: int, file: Any) -> SubbandHeader:
    header = file["Header"]
    frequencies = np.atleast_1d(header["freq_array"][()]).ravel()
    widths = np.atleast_1d(header["channel_width"][()]).ravel()
    times = header["time_array"][()]
    digest = blake2b(digest_size=8)
    # Times of one observation are equal to the bit; rounding accepts a file that was rewritten.
    digest.update(np.round(times * 86400.0e2).astype(np.int64).tobytes())
    for name in ("ant_1_array", "ant_2_array"):
        digest.update(header[name][()].astype(np.int64).tobytes())
    keyword = header["extra_keywords"]["phase_center_dec"][()]
    return SubbandHeader(
        path=path,
        index=index,
        n_channels=len(frequencies),
        top_hz=float(frequencies.max()),
        channel_width_hz=float(widths[0]),
        start_jd=float(times.min()),
        n_times=len(np.unique(times)),
        declination_deg=float(np.degrees(keyword)),
        layout_digest=digest.hexdigest(),
        shape=tuple(file["Data"]["visdata"].shape),
    )


def read_group(paths: Sequence[Path], config: ConversionConfig) -> GroupHeader:
    """Read all headers and check that they are one observation, complete enough.

    Raises the `InputError` that names the first bad file and what to do about it.
    """
    headers = [read_header(path) for path in paths]
    subbands: dict[int, SubbandHeader] = {}
    for header in headers:
        other = subbands.setdefault(header.index, header)
        if other is not header:
            raise CorruptInputError(
                f"sub-band {header.index:02d} is there twice: {other.path} and {header.path}.",
                "Remove one of them from the group.",
            )
        if header.index >= config.expected_subbands:
            raise CorruptInputError(
                f"{header.path} is sub-band {header.index:02d} of {config.expected_subbands}.",
                "Rename or remove it.",
            )
    missing = tuple(i for i in range(config.expected_subbands) if i not in subbands)
    if len(subbands) < config.subbands_min:
        listed = ", ".join(f"{i:02d}" for i in missing)
        raise IncompleteGroupError(
            f"only {len(subbands)} of {config.expected_subbands} sub-bands are present "
            f"(missing: {listed}); at least {config.subbands_min} are needed.",
            f"Find the missing files near {headers[0].path.parent}, or give the group up.",
        )
    _check_same_observation(headers)
    _check_frequencies(headers)
    first = headers[0]
    values = first.declination_deg, first.n_channels, first.channel_width_hz
    return GroupHeader(subbands, missing, *values)


def _check_same_observation(headers: Sequence[SubbandHeader]) -> None:
    """Every header must agree with the majority in times, antennas, declination and channels."""

    def identity(h: SubbandHeader) -> tuple[object, ...]:
        return (h.layout_digest, h.shape, round(h.declination_deg, 4), round(h.channel_width_hz, 3))

    (common, _count), *_ = Counter(map(identity, headers)).most_common(1)
    reference = next(h for h in headers if identity(h) == common)
    for header in headers:
        if identity(header) != common:
            shift = (header.start_jd - reference.start_jd) * 86400.0
            raise CorruptInputError(
                f"{header.path} does not belong to the observation of {reference.path}: its "
                f"times start {shift:+.1f} s apart, it has visibilities of shape "
                f"{header.shape} at declination {header.declination_deg:.3f} deg, the other "
                f"{reference.shape} at {reference.declination_deg:.3f} deg.",
                "Move it to the group that it belongs to.",
            )


def _check_frequencies(headers: Sequence[SubbandHeader]) -> None:
    """Each sub-band must have the frequencies of its number: no channel twice or missing."""

    def top_of_band(h: SubbandHeader) -> float:
        return round(h.top_hz + h.index * h.n_channels * h.channel_width_hz, 0)

    (common, _count), *_ = Counter(map(top_of_band, headers)).most_common(1)
    for header in headers:
        if abs(top_of_band(header) - common) > 0.1 * header.channel_width_hz:
            raise CorruptInputError(
                f"{header.path} is named sub-band {header.index:02d}, but its highest channel is "
                f"at {header.top_hz / 1e6:.3f} MHz, which belongs elsewhere in the band.",
                "Rename it to the sub-band that it holds, or remove it.",
            )
