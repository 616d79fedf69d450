"""Reading one raw sub-band file, of the writer's form or the converter's (`docs/data.md`).

Only h5py is used, so that a bad file is found before anything expensive starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from absurd_contimg.errors import CorruptInputError
from absurd_contimg.products.subband_files import parse_subband_name
from absurd_contimg.science.hdf5_files import TRANSFER_AGAIN, opened

_EXPANSION_MAX = 64
"""Bytes of data for each byte on disk; more is a sparse file or a compressed bomb."""
_SMALL_BYTES = 64_000_000
"""Data up to this size may be compressed as much as they like."""

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
    counts: tuple[tuple[str, int, int], ...]
    """Key, the count in the header, and the count of what is there."""


def read_raw_header(path: Path) -> RawHeader:
    """The header of a sub-band file; raises as `opened`, or for a key that cannot be read."""
    index = parse_subband_name(path).subband
    with opened(path) as file:
        return _Reader(path, file).header(index)


def read_visibilities(header: RawHeader, polarizations: tuple[int, ...]) -> tuple[Any, Any, Any]:
    """Data, flags and samples of these products, each of shape (rows, channels, products).

    Flagged, and set to zero, is what the file flags, and what has no samples, is NaN, infinite
    or exactly zero.
    """
    with opened(header.path) as file:
        group = file["Data"]
        take = [header.polarizations.index(code) for code in polarizations]
        data = _products(group["visdata"], header, take).astype(np.complex64)
        samples = (
            _products(group["nsamples"], header, take).astype(np.float32)
            if "nsamples" in group
            else np.ones(data.shape, np.float32)
        )
        missing = ~np.isfinite(data) | (data == 0) | ~(samples > 0)
        if "flags" in group:
            missing |= _products(group["flags"], header, take).astype(bool)
    data[missing] = 0
    samples[missing] = 0
    return data, missing, samples


def _products(dataset: Any, header: RawHeader, take: list[int]) -> Any:
    values = dataset[()]
    if values.dtype.names:  # a compound of two real parts, as fixed-point correlators write it
        values = values[values.dtype.names[0]] + 1j * values[values.dtype.names[1]]
    return values.reshape(header.shape)[:, :, take]


class _Reader:
    """Reads the keys of one open file; every error names the file and the key."""

    def __init__(self, path: Path, file: Any) -> None:
        self._path, self._file = path, file
        self._header = self._group("Header")

    def header(self, index: int) -> RawHeader:
        numbers = self._integers("antenna_numbers")
        frequencies = self._numbers("freq_array").ravel()
        codes = tuple(int(code) for code in self._integers("polarization_array"))
        times = self._numbers("time_array").ravel()
        declinations = self._declinations()
        phase_type = self._phase_type()
        extra = self._group("Header/extra_keywords", required=False)
        hour_angle = (
            self._number("extra_keywords/ha_phase_center")
            if extra is not None and "ha_phase_center" in extra
            else 0.0
        )
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
            hour_angle_rad=hour_angle,
            lst_rad=self._numbers("lst_array").ravel() if "lst_array" in self._header else None,
            phase_type=phase_type,
            phased_to_meridian="phase_center_catalog" not in self._header,
            shape=self._shape(len(times), len(frequencies), len(codes)),
            counts=self._counts(len(times), len(frequencies), len(codes), len(numbers)),
        )

    def _fail(self, key: str, problem: str) -> CorruptInputError:
        return CorruptInputError(f"{self._path}: {key} {problem}.", TRANSFER_AGAIN)

    def _group(self, name: str, required: bool = True) -> Any:
        link = self._link(name)
        if link is None:
            if required:
                raise self._fail(name, "is missing")
            return None
        self._check_link(name, link)
        return self._file[name]

    def _link(self, name: str) -> Any:
        """The link of that name, None if there is none; it is not followed."""
        parent, _, last = name.rpartition("/")
        if parent and self._file.get(parent, getclass=True) is None:
            return None
        return (self._file[parent] if parent else self._file).get(last, getlink=True)

    def _check_link(self, name: str, link: Any) -> None:
        import h5py

        if isinstance(link, h5py.ExternalLink):
            raise self._fail(name, f"is a link into another file ({link.filename!r})")

    def _dataset(self, key: str) -> Any:
        import h5py

        full = f"Header/{key}"
        link = self._link(full)
        if link is None:
            raise self._fail(full, "is missing")
        self._check_link(full, link)
        dataset = self._file[full]
        if not isinstance(dataset, h5py.Dataset):
            raise self._fail(full, "is a group where a value belongs")
        if dataset.size > _SMALL_BYTES // 8:
            raise self._fail(full, f"claims {dataset.size} values, too many for a header")
        return dataset

    def _numbers(self, key: str) -> Floats:
        dataset = self._dataset(key)
        if dataset.dtype.kind not in "fiu":
            raise self._fail(f"Header/{key}", f"holds {_shown(dataset[()])}, which is no number")
        return np.atleast_1d(np.asarray(dataset[()], np.float64))

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
        return tuple(_text(value) for value in np.atleast_1d(self._dataset(key)[()]).ravel())

    def _declinations(self) -> tuple[tuple[str, float], ...]:
        keys = ("extra_keywords/phase_center_dec", "phase_center_app_dec")
        present = [key for key in keys if f"Header/{key}" in self._file]
        if not present:
            raise self._fail(
                "Header/phase_center_app_dec", "is missing: nothing says the declination"
            )
        values = []
        for key in present:
            numbers = self._numbers(key).ravel()
            if not len(numbers):
                raise self._fail(f"Header/{key}", "is empty")
            values.append((f"Header/{key}", float(np.median(numbers))))
        return tuple(values)

    def _phase_type(self) -> str:
        if "phase_type" in self._header:
            return _text(self._dataset("phase_type")[()])
        catalog = self._group("Header/phase_center_catalog", required=False)
        for name in catalog or ():
            entry = catalog[name]
            if "cat_type" in entry and _text(entry["cat_type"][()]) == "unprojected":
                return "unprojected"
        return "phased" if catalog is not None else ""

    def _shape(self, n_rows: int, n_channels: int, n_products: int) -> tuple[int, ...]:
        """Of the visibilities; flags and samples must agree, and the file must hold so much."""
        self._group("Data")
        expected = (n_rows, n_channels, n_products)
        for name in ("visdata", "flags", "nsamples"):
            full = f"Data/{name}"
            if full not in self._file:
                if name == "visdata":
                    raise self._fail(full, "is missing")
                continue
            self._check_link(full, self._link(full))
            dataset = self._file[full]
            shape = dataset.shape
            if len(shape) == 4 and shape[1] == 1:
                shape = (shape[0], *shape[2:])
            if shape != expected:
                raise self._fail(
                    full,
                    f"has the shape {dataset.shape}, but the header has {n_rows} rows, "
                    f"{n_channels} channels and {n_products} products",
                )
            self._check_storage(full, dataset)
        return expected

    def _check_storage(self, name: str, dataset: Any) -> None:
        if dataset.external or dataset.is_virtual:
            raise self._fail(name, "keeps its data in another file")
        stored = dataset.id.get_storage_size()
        if dataset.nbytes > _SMALL_BYTES and dataset.nbytes > _EXPANSION_MAX * stored:
            raise self._fail(
                name, f"claims {dataset.nbytes} bytes, of which the file holds {stored}"
            )

    def _counts(
        self, n_rows: int, n_channels: int, n_products: int, n_antennas: int
    ) -> tuple[tuple[str, int, int], ...]:
        actual = {
            "Nblts": n_rows,
            "Nfreqs": n_channels,
            "Npols": n_products,
            "Nants_telescope": n_antennas,
        }
        return tuple(
            (f"Header/{key}", int(self._number(key)), count)
            for key, count in actual.items()
            if key in self._header
        )


def _text(value: object) -> str:
    if isinstance(value, bytes | np.bytes_):
        return value.decode("utf-8", "replace").strip("\0 ")
    return str(value).strip("\0 ")


def _shown(value: object, length_max: int = 40) -> str:
    values = np.asarray(value).ravel()
    text = repr(_text(values[0])) if len(values) else "nothing"
    return text if len(text) <= length_max else f"{text[:length_max]}..."
