"""The sky catalogue: a CSV file of point sources with the columns of `COLUMNS`; and angles."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from absurd_contimg.errors import CorruptInputError, MissingInputError
from absurd_contimg.regular_files import UnsuitableFileError, open_regular

COLUMNS = ("name", "ra_deg", "dec_deg", "flux_jy", "spectral_index", "calibrator")
NAME_LENGTH_MAX = 200
_BYTES_MAX = 1_000_000_000
_PLACE_DIGITS = 5
"""Of degrees, 0.04 arcsec: positions that are equal so far are one source."""
_INDEX_MAX = 10.0
"""No spectrum is steeper; fluxes over the band would overflow."""
_FLUX_MAX_JY = 1e6
REFERENCE_FREQUENCY_HZ = 1.405e9
"""Middle of the science band, 1311.25 to 1498.75 MHz; catalogue fluxes belong to it."""


@dataclass(frozen=True, slots=True)
class SkySource:
    """A point source: ICRS degrees, and flux in Jy at the reference frequency."""

    name: str
    ra_deg: float
    dec_deg: float
    flux_jy: float
    spectral_index: float = 0.0
    calibrator: bool = False

    def flux_at(self, frequency_hz: NDArray[np.float64]) -> NDArray[np.float64]:
        """Flux in Jy at each frequency."""
        return self.flux_jy * (frequency_hz / REFERENCE_FREQUENCY_HZ) ** self.spectral_index


def write_catalogue(path: Path, sources: Iterable[SkySource]) -> None:
    """Write sources as CSV; reading gives the same numbers, to the bit."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for s in sources:
            row = (s.name, s.ra_deg, s.dec_deg, s.flux_jy, s.spectral_index, int(s.calibrator))
            writer.writerow(row)


def read_catalogue(path: Path) -> list[SkySource]:
    """Read a catalogue; raises `MissingInputError`, or `CorruptInputError` with the line number."""
    if not path.exists():
        raise MissingInputError(
            f"the sky catalogue {path} does not exist.", "Give the path of a catalogue CSV."
        )
    try:
        with TextIOWrapper(open_regular(path, _BYTES_MAX), "utf-8-sig", newline="") as file:
            return _read_sources(path, file)
    except (UnsuitableFileError, IsADirectoryError, UnicodeDecodeError, csv.Error) as error:
        raise CorruptInputError(
            f"the sky catalogue {path} cannot be read ({error}).", "Give a catalogue CSV."
        ) from error


def _read_sources(path: Path, file: TextIO) -> list[SkySource]:
    reader = csv.DictReader(file)
    missing = set(COLUMNS) - set(reader.fieldnames or ())
    if missing:
        raise CorruptInputError(
            f"the sky catalogue {path} lacks the columns {', '.join(sorted(missing))}.",
            f"Its first line must name: {','.join(COLUMNS)}.",
        )
    sources, lines = [], dict[object, int]()
    for row in reader:
        source = _source(path, reader.line_num, row)
        place = round(source.ra_deg, _PLACE_DIGITS), round(source.dec_deg, _PLACE_DIGITS)
        for key in (source.name, place):
            first = lines.setdefault(key, reader.line_num)
            if first != reader.line_num:
                # Twice in the model, a calibrator doubles the scale of all fluxes in silence.
                raise CorruptInputError(
                    f"lines {first} and {reader.line_num} of the sky catalogue {path} have the "
                    f"same {'name' if key == source.name else 'position'}, {source.name!r}.",
                    "Remove one of them, or correct it.",
                )
        sources.append(source)
    return sources


def _source(path: Path, line: int, row: dict[str, str]) -> SkySource:
    numbers = []
    for column in COLUMNS[1:]:
        try:
            numbers.append(float(row[column]))
        except (ValueError, TypeError) as error:
            raise _unreadable(path, line, column, row[column]) from error
    ra, dec, flux, index, calibrator = numbers
    if calibrator not in (0, 1):
        raise _unreadable(path, line, "calibrator", row["calibrator"])
    source = SkySource(row["name"], ra, dec, flux, index, bool(calibrator))
    if not (source.name.isprintable() and 0 < len(source.name) <= NAME_LENGTH_MAX):
        raise CorruptInputError(
            f"line {line} of the sky catalogue {path} has no usable name "
            f"({source.name[:50]!a}, {len(source.name)} characters).",
            f"A name has 1 to {NAME_LENGTH_MAX} characters that can be printed.",
        )
    is_inside = abs(dec) <= 90 and 0 < flux <= _FLUX_MAX_JY and abs(index) <= _INDEX_MAX
    if not all(map(math.isfinite, numbers)) or not is_inside:
        raise CorruptInputError(
            f"line {line} of the sky catalogue {path}, source {source.name!r}, is out of range: "
            f"declination {dec:g} deg, {flux:g} Jy, spectral index {index:g}.",
            "Declination lies within 90 degrees of the equator, flux is positive and at most "
            f"{_FLUX_MAX_JY:g} Jy, the spectral index within {_INDEX_MAX:g}.",
        )
    return source


def _unreadable(path: Path, line: int, column: str, value: str | None) -> CorruptInputError:
    shown = "is missing" if value is None else f"is {value[:50]!a}"
    return CorruptInputError(
        f"line {line} of the sky catalogue {path} cannot be read: {column} {shown}.",
        "Correct or remove the line; calibrator is 0 or 1, the rest but the name are numbers.",
    )


def unit_vectors(ra_rad: NDArray[np.float64], dec_rad: NDArray[np.float64]) -> NDArray[np.float64]:
    """Directions as unit vectors; the last axis is x, y, z."""
    cos_dec = np.cos(dec_rad)
    return np.stack([cos_dec * np.cos(ra_rad), cos_dec * np.sin(ra_rad), np.sin(dec_rad)], axis=-1)


def separation_rad(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Angle between unit vectors along the last axis, exact for small angles too."""
    chord = np.sqrt(np.sum((a - b) ** 2, axis=-1))
    return np.asarray(2.0 * np.arcsin(np.minimum(chord / 2.0, 1.0)))


def source_vectors(sources: Sequence[SkySource]) -> NDArray[np.float64]:
    """Unit vectors of sources, shape (n, 3)."""
    return unit_vectors(
        np.radians(np.array([s.ra_deg for s in sources], dtype=float)),
        np.radians(np.array([s.dec_deg for s in sources], dtype=float)),
    )


def tangent_offsets_arcsec(source: SkySource, ra_deg: float, dec_deg: float) -> tuple[float, float]:
    """East and north offsets from a source in arcsec; for arcminutes, also across RA 0 h."""
    d_ra = math.remainder(ra_deg - source.ra_deg, 360.0)
    east = d_ra * math.cos(math.radians(source.dec_deg)) * 3600.0
    return east, (dec_deg - source.dec_deg) * 3600.0
