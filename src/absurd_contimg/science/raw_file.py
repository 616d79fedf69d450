"""Reading one raw sub-band file, of the writer's form or the converter's (`docs/data.md`).

Only h5py is used, so that a bad file is found before anything expensive starts.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from absurd_contimg.errors import CorruptInputError
from absurd_contimg.products.subband_files import parse_subband_name
from absurd_contimg.science.hdf5_files import TRANSFER_AGAIN, opened
from absurd_contimg.science.header_values import read_values, shown, text_of

JD_OF_1970 = 2440587.5
_EXPANSION_MAX = 64
"""Bytes of data for each byte on disk; more is a sparse file or a compressed bomb."""
_SMALL_BYTES = 64_000_000
"""Data up to this size may be compressed as much as they like."""
_COMPLEX_PARTS = (("r", "i"), ("re", "im"), ("real", "imag"))
"""Fields of a compound that is a complex number, as fixed-point correlators write it."""
_AMPLITUDE_MAX = 1e15
"""No visibility is larger; sums and squares of such values overflow single precision."""
_SAMPLES_MIN, _SAMPLES_MAX = 1e-6, 1e15
_DECLINATION_SPREAD_MAX_RAD = 1e-4

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class RawHeader:
    """What the header of one sub-band file says. Rows are baselines times integrations."""

    path: Path
    index: int
    """Sub-band, from the file's name; 0 is the highest in frequency."""
    times_jd: Floats
    """Of each row: the middle of its integration."""
    integration_s: Floats
    """As stored: one number, or one for each row."""
    first: Integers
    second: Integers
    """Antenna numbers of each row."""
    uvw_m: Floats
    """Shape (rows, 3)."""
    antenna_numbers: Integers
    antenna_names: tuple[str, ...]
    antenna_positions_m: Floats
    """Shape (antennas, 3): ITRF, relative to the array's place."""
    frequencies_hz: Floats
    channel_width_hz: Floats
    """As stored: one number, or one for each channel."""
    polarizations: tuple[int, ...]
    """AIPS codes: -5 XX, -6 YY, -7 XY, -8 YX."""
    latitude_deg: float
    longitude_deg: float
    altitude_m: float
    declination_rad: float
    """Apparent declination to which the correlator phased."""
    declinations_rad: tuple[tuple[str, float], ...]
    """Every key that says it, with what it says."""
    hour_angle_rad: float
    lst_rad: Floats | None
    """Of each row, where the header has it."""
    phase_type: str
    """``drift``, ``phased``, ``unprojected`` or empty."""
    phased_to_meridian: bool
    """Baselines are those at hour angle 0, one set for all times: the writer's form."""
    shape: tuple[int, ...]
    """Of the visibilities: (rows, channels, products), an axis of one window left out."""
    is_written: bool
    """False: no visibility was ever stored, and HDF5 gives one number for all of them."""
    counts: tuple[tuple[str, float, int], ...]
    """Key, the count in the header, and the count of what is there."""

    @property
    def has_data(self) -> NDArray[np.bool_]:
        """Of each antenna in the header, whether a row names it."""
        return np.isin(self.antenna_numbers, np.union1d(self.first, self.second))

    @property
    def length_s(self) -> float:
        """Length of an integration."""
        return float(np.median(self.integration_s))

    @property
    def width_hz(self) -> float:
        """Width of a channel, positive."""
        return float(np.abs(self.channel_width_hz).mean())

    @property
    def name_late_s(self) -> float:
        """Seconds from the beginning of the data to the time in the name: two clocks."""
        start = (self.times_jd.min() - JD_OF_1970) * 86400.0 - self.length_s / 2.0
        return float(parse_subband_name(self.path).timestamp_seconds - start)

    def integrations(self) -> tuple[Integers, Floats]:
        """The integration of each row, from 0 in time order, and the middle of each in JD.

        Times that lie closer than half an integration are one integration, so that the last bits
        of a clock do not make two of one.
        """
        order = np.argsort(self.times_jd, kind="stable")
        times = self.times_jd[order]
        gaps = np.diff(times) * 86400.0 > self.length_s / 2.0
        number = np.empty(len(order), np.int64)
        number[order] = np.concatenate([[0], np.cumsum(gaps)])
        middles = [np.median(part) for part in np.split(times, np.flatnonzero(gaps) + 1)]
        return number, np.array(middles)


def read_raw_header(path: Path) -> RawHeader:
    """The header of a sub-band file; raises as `opened`, or for a key that cannot be read."""
    index = parse_subband_name(path).subband
    with opened(path) as file:
        return HeaderReader(path, file).header(index)


def read_visibilities(header: RawHeader, polarizations: tuple[int, ...]) -> tuple[Any, Any, Any]:
    """Data, flags and samples of these products, each of shape (rows, channels, products).

    Flagged, and set to zero, is what the file flags, and what has no samples, is NaN, infinite,
    beyond any visibility or exactly zero.
    """
    with opened(header.path) as file:
        group = file["Data"]
        take = [header.polarizations.index(code) for code in polarizations]
        with np.errstate(over="ignore"):
            data = _products(group["visdata"], header, take).astype(np.complex64, copy=False)
        samples = (
            _products(group["nsamples"], header, take).astype(np.float32, copy=False)
            if "nsamples" in group
            else np.ones(data.shape, np.float32)
        )
        missing = ~(np.abs(data) < _AMPLITUDE_MAX) | (data == 0)
        missing |= ~((samples > _SAMPLES_MIN) & (samples < _SAMPLES_MAX))
        if "flags" in group:
            missing |= _products(group["flags"], header, take).astype(bool, copy=False)
    data[missing] = 0
    samples[missing] = 0
    return data, missing, samples


def _products(dataset: Any, header: RawHeader, take: list[int]) -> Any:
    values = dataset[()]
    if values.dtype.names:
        real, imaginary = _complex_parts(values.dtype)
        values = values[real] + 1j * values[imaginary]
    values = values.reshape(header.shape)
    return values if take == list(range(header.shape[2])) else values[:, :, take]


def _complex_parts(dtype: np.dtype[Any]) -> tuple[str, str]:
    """The fields of a compound that are the parts of a complex number; ("", "") if none are.

    HDF5 corrupts its memory over a damaged type whose fields overlap.
    """
    fields: Mapping[str, Any] = dtype.fields or {}
    for real, imaginary in _COMPLEX_PARTS:
        if fields.keys() == {real, imaginary}:
            (type_, start), (other, end) = fields[real][:2], fields[imaginary][:2]
            is_sound = type_ == other and abs(start - end) >= type_.itemsize
            return (real, imaginary) if is_sound and type_.kind in "fiu" else ("", "")
    return "", ""


def _is_written(dataset: Any) -> bool:
    """Whether the file holds a byte of a dataset."""
    return bool(dataset.size == 0 or dataset.id.get_storage_size() > 0)


class HeaderReader:
    """Reads the keys of one open file; every error names the file and the key."""

    def __init__(self, path: Path, file: Any) -> None:
        self._path, self._file = path, file

    def header(self, index: int) -> RawHeader:
        """All of it."""
        self._group("Header")
        numbers = self._integers("antenna_numbers")
        frequencies = self._numbers("freq_array").ravel()
        codes = tuple(int(code) for code in self._integers("polarization_array"))
        times = self._numbers("time_array").ravel()
        if self._find("Header/time_array").dtype.itemsize < times.itemsize:
            raise self._fail("Header/time_array", "is stored in less than 8 bytes a time")
        declinations = self._declinations()
        phase_type = self._phase_type()
        hour_angle = "extra_keywords/ha_phase_center"
        return RawHeader(
            path=self._path,
            index=index,
            times_jd=times,
            integration_s=self._numbers("integration_time").ravel(),
            first=self._integers("ant_1_array"),
            second=self._integers("ant_2_array"),
            uvw_m=self._numbers("uvw_array"),
            antenna_numbers=numbers,
            antenna_names=self._texts("antenna_names"),
            antenna_positions_m=self._numbers("antenna_positions"),
            frequencies_hz=frequencies,
            channel_width_hz=self._numbers("channel_width").ravel(),
            polarizations=codes,
            latitude_deg=self._number("latitude"),
            longitude_deg=self._number("longitude"),
            altitude_m=self._number("altitude"),
            declination_rad=declinations[0][1],
            declinations_rad=declinations,
            hour_angle_rad=self._number(hour_angle) if self._has(hour_angle) else 0.0,
            lst_rad=self._numbers("lst_array").ravel() if self._has("lst_array") else None,
            phase_type=phase_type,
            phased_to_meridian=not self._has("phase_center_catalog"),
            shape=self._shape(len(times), len(frequencies), len(codes)),
            is_written=_is_written(self._file["Data/visdata"]),
            counts=self._counts(len(times), len(frequencies), len(codes), len(numbers)),
        )

    def _fail(self, key: str, problem: str) -> CorruptInputError:
        return CorruptInputError(f"{self._path}: {key} {problem}.", TRANSFER_AGAIN)

    def _find(self, name: str) -> Any:
        """The object of that path, None where there is none; a link is refused, not followed."""
        import h5py

        parts = name.split("/")
        node = self._file
        for depth, part in enumerate(parts):
            if not isinstance(node, h5py.Group):
                raise self._fail("/".join(parts[:depth]), "is a value where a group belongs")
            link = node.get(part, getlink=True)
            if link is None:
                return None
            here = "/".join(parts[: depth + 1])
            if not isinstance(link, h5py.HardLink):
                target = f"{getattr(link, 'filename', '')}{link.path}"
                raise self._fail(here, f"is a link to {target!r}: the value itself belongs there")
            node = node[part]
        return node

    def _group(self, name: str) -> Any:
        import h5py

        group = self._find(name)
        if group is None:
            raise self._fail(name, "is missing")
        if not isinstance(group, h5py.Group):
            raise self._fail(name, "is a value where a group belongs")
        return group

    def _dataset(self, name: str) -> Any:
        """A dataset that holds its own values and at least its shape."""
        import h5py

        dataset = self._find(name)
        if dataset is None:
            raise self._fail(name, "is missing")
        if not isinstance(dataset, h5py.Dataset):
            raise self._fail(name, "is a group where a value belongs")
        if dataset.shape is None:
            raise self._fail(name, "is empty")
        self._check_storage(name, dataset)
        return dataset

    def _has(self, key: str) -> bool:
        return self._find(f"Header/{key}") is not None

    def _values(self, key: str, kinds: str, belongs: str) -> Any:
        """What a key of the header holds, whose type must be one of these kinds."""
        name = f"Header/{key}"
        dataset = self._dataset(name)
        if dataset.size > _SMALL_BYTES // 8:
            raise self._fail(name, f"claims {dataset.size} values, too many for a header")
        try:
            values = read_values(dataset)
        except ValueError as error:
            raise self._fail(name, f"{error}: {belongs} belong there") from error
        if dataset.dtype.kind not in kinds:
            raise self._fail(name, f"holds {shown(values)}: {belongs} belong there")
        return values

    def _numbers(self, key: str) -> Floats:
        return np.atleast_1d(np.asarray(self._values(key, "fiu", "numbers"), np.float64))

    def _number(self, key: str) -> float:
        values = self._numbers(key).ravel()
        if len(values) != 1:
            raise self._fail(f"Header/{key}", f"holds {len(values)} values where one belongs")
        return float(values[0])

    def _integers(self, key: str) -> Integers:
        values = self._numbers(key).ravel()
        if not np.isfinite(values).all() or (values != np.round(values)).any():
            raise self._fail(f"Header/{key}", "holds values that are no whole numbers")
        return values.astype(np.int64)

    def _texts(self, key: str) -> tuple[str, ...]:
        values = np.atleast_1d(self._values(key, "SOiu", "names")).ravel()
        return tuple(text_of(value) for value in values)

    def _declinations(self) -> tuple[tuple[str, float], ...]:
        keys = ("extra_keywords/phase_center_dec", "phase_center_app_dec")
        declinations = []
        for key in filter(self._has, keys):
            numbers = self._numbers(key).ravel()
            if not len(numbers):
                raise self._fail(f"Header/{key}", "is empty")
            low, high = numbers.min(), numbers.max()
            if low < high - _DECLINATION_SPREAD_MAX_RAD:
                raise self._fail(
                    f"Header/{key}", f"goes from {low:.6f} to {high:.6f} rad; one belongs there"
                )
            declinations.append((f"Header/{key}", float(np.median(numbers))))
        if not declinations:
            raise self._fail(
                "Header/phase_center_app_dec", "is missing: nothing says the declination"
            )
        return tuple(declinations)

    def _phase_type(self) -> str:
        if self._has("phase_type"):
            return ", ".join(self._texts("phase_type")).lower()
        if not self._has("phase_center_catalog"):
            return ""
        for name in self._group("Header/phase_center_catalog"):
            key = f"phase_center_catalog/{name}/cat_type"
            if self._has(key) and self._texts(key) == ("unprojected",):
                return "unprojected"
        return "phased"

    def _shape(self, n_rows: int, n_channels: int, n_products: int) -> tuple[int, ...]:
        """Of the visibilities; flags and samples must agree, and the file must hold so much."""
        expected = (n_rows, n_channels, n_products)
        for name, kinds in (("visdata", "c"), ("flags", "biu"), ("nsamples", "fiu")):
            full = f"Data/{name}"
            if name != "visdata" and self._find(full) is None:
                continue
            dataset = self._dataset(full)
            shape = dataset.shape
            if len(shape) == 4 and shape[1] == 1:
                shape = (shape[0], *shape[2:])
            if shape != expected:
                raise self._fail(
                    full,
                    f"has the shape {dataset.shape}, but the header has {n_rows} rows, "
                    f"{n_channels} channels and {n_products} products",
                )
            if dataset.dtype.kind not in kinds and not (
                name == "visdata" and any(_complex_parts(dataset.dtype))
            ):
                belongs = {"c": "complex numbers", "biu": "true and false"}.get(kinds, "numbers")
                raise self._fail(full, f"holds {dataset.dtype} values: {belongs} belong there")
        return expected

    def _check_storage(self, name: str, dataset: Any) -> None:
        if dataset.external or dataset.is_virtual:
            raise self._fail(name, "keeps its data in another file")
        self._check_filters(name, dataset)
        if name == "Data/visdata" and not _is_written(dataset):
            return  # nothing of it is read
        on_disk = self._path.stat().st_blocks * 512 or sys.maxsize  # 0 where it is not counted
        stored = min(dataset.id.get_storage_size(), on_disk)
        chunk = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize  # is read as a whole
        claimed = max(dataset.nbytes, chunk)
        if claimed > _SMALL_BYTES and claimed > _EXPANSION_MAX * stored:
            raise self._fail(name, f"claims {claimed} bytes, of which the file holds {stored}")

    def _check_filters(self, name: str, dataset: Any) -> None:
        import h5py

        created = dataset.id.get_create_plist()
        for code, *_values, text in map(created.get_filter, range(created.get_nfilters())):
            if not h5py.h5z.filter_avail(code):
                raise CorruptInputError(
                    f"{self._path}: {name} is compressed by the filter {code} {text_of(text)!r}, "
                    "which this installation does not have.",
                    "Install hdf5plugin and set HDF5_PLUGIN_PATH to its plugins, or write the "
                    "file without this filter.",
                )

    def _counts(
        self, n_rows: int, n_channels: int, n_products: int, n_antennas: int
    ) -> tuple[tuple[str, float, int], ...]:
        actual = {
            "Nblts": n_rows,
            "Nfreqs": n_channels,
            "Npols": n_products,
            "Nants_telescope": n_antennas,
        }
        return tuple(
            (f"Header/{key}", self._number(key), count)
            for key, count in actual.items()
            if self._has(key)
        )
