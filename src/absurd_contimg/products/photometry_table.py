"""The table of a photometry product: ECSV, which is CSV with the units in front.

Written and read here without Astropy, because the registry reads it too.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from io import StringIO, TextIOWrapper
from pathlib import Path

from absurd_contimg.errors import CorruptInputError, MissingInputError
from absurd_contimg.regular_files import UnsuitableFileError, open_regular

UNCATALOGUED = "uncatalogued"
"""Flag: the source is not in the catalogue; its position is the peak's."""
_BYTES_MAX = 1_000_000_000


@dataclass(frozen=True, slots=True)
class SourceFlux:
    """A source in one image; None where it could not be measured.

    Fluxes are true ones (corrected for the primary beam) at the catalogue's frequency; errors are
    1 sigma.
    """

    source: str
    ra_deg: float
    """Of the catalogue, ICRS, as the declination."""
    dec_deg: float
    mjd: float
    """Middle of the observation, UTC."""
    flux_jy: float | None
    error_jy: float | None
    catalogue_jy: float | None
    """None for a source that is not in the catalogue."""
    noise_jy: float | None
    """Local noise of a pixel, corrected for the primary beam too."""
    response: float
    """Apparent over true flux."""
    n_neighbours: int
    """Catalogue sources that were fitted together with it."""
    flags: tuple[str, ...] = ()
    """`UNCATALOGUED` and those of `science.photometry`: none for a good measurement."""


_UNITS = {
    "ra_deg": "deg", "dec_deg": "deg", "mjd": "d", "flux_jy": "Jy", "error_jy": "Jy",
    "catalogue_jy": "Jy", "noise_jy": "Jy",
}  # fmt: skip
_TYPES = {"source": "string", "flags": "string", "n_neighbours": "int64"}
COLUMNS = tuple(field.name for field in fields(SourceFlux))


def write_photometry(path: Path, rows: Iterable[SourceFlux]) -> None:
    """Write a table; reading gives the same numbers, to the bit."""
    lines = ["# %ECSV 1.0", "# ---", "# delimiter: ','", "# datatype:"]
    for name in COLUMNS:
        unit = f", unit: {_UNITS[name]}" if name in _UNITS else ""
        lines.append(f"# - {{name: {name}{unit}, datatype: {_TYPES.get(name, 'float64')}}}")
    text = StringIO()
    text.write("\n".join([*lines, "# schema: astropy-2.0", ""]))
    text.write(",".join(COLUMNS) + "\n")
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    for row in rows:
        values = [getattr(row, name) for name in COLUMNS[:-1]]
        writer.writerow([*("" if v is None else v for v in values), " ".join(row.flags)])
    path.write_text(text.getvalue(), encoding="utf-8")


def read_photometry(path: Path) -> list[SourceFlux]:
    """Read a table; raises `MissingInputError`, or `CorruptInputError` with the line number."""
    if not path.exists():
        raise MissingInputError(
            f"the photometry table {path} does not exist.", "Measure the image again."
        )
    try:
        with TextIOWrapper(open_regular(path, _BYTES_MAX), "utf-8", newline="") as file:
            reader = csv.reader(file)
            header = next((row for row in reader if not (row and row[0].startswith("#"))), [])
            if tuple(header) != COLUMNS:
                raise ValueError(f"its columns are not {', '.join(COLUMNS)}")
            rows = []
            for row in reader:
                try:
                    rows.append(_source_flux(row))
                except ValueError as error:
                    raise ValueError(f"line {reader.line_num}: {error}") from error
            return rows
    except (UnsuitableFileError, IsADirectoryError, ValueError, csv.Error) as error:
        raise CorruptInputError(
            f"the photometry table {path} cannot be read ({error}).", "Measure the image again."
        ) from error


def _source_flux(row: list[str]) -> SourceFlux:
    source, *numbers, neighbours, flags = row
    ra, dec, mjd, flux, error, catalogue, noise, response = (_number(text) for text in numbers)
    if ra is None or dec is None or mjd is None or response is None:
        raise ValueError("a position, time or response is missing")
    measured = flux, error, catalogue, noise, response
    return SourceFlux(source, ra, dec, mjd, *measured, int(neighbours), tuple(flags.split()))


def _number(text: str) -> float | None:
    number = float(text) if text else None
    if number is not None and not math.isfinite(number):
        raise ValueError(f"{text} is no finite number")
    return number
