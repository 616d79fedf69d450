"""The outputs of each stage as records, and their JSON at the edge.

A field is a key of the JSON: one that changes its name lists the old one as an alias.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AliasChoices, Field, TypeAdapter, ValidationError

from absurd_contimg.core.records import Json
from absurd_contimg.products.manifest import MANIFEST_NAME

_T = TypeVar("_T")
_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


@dataclass(frozen=True, slots=True)
class StripCatalogue:
    """The part of the sky catalogue around a declination."""

    path: Path
    declination_deg: float
    n_sources: int


@dataclass(frozen=True, slots=True)
class MeasurementSet:
    """One Measurement Set of one group, phased to one centre."""

    path: Path
    beam_centres: Path
    """JSON file of `science.beam.BeamCentres`."""
    n_rows: int
    n_channels: int
    channel_width_hz: float
    """As converted, before the data were rephased; averaging after calibration leaves it."""
    n_antennas: int
    start_mjd: float
    end_mjd: float
    mid_mjd: float
    ra_deg: float
    """Phase centre, ICRS."""
    dec_deg: float
    declination_deg: float
    """Apparent declination of the strip."""
    placeholder_subbands: Annotated[
        tuple[int, ...], Field(validation_alias=AliasChoices("placeholder_subbands", "stand_ins"))
    ] = ()
    """Missing and empty sub-bands, which the data hold as flagged zeros."""
    empty_subbands: tuple[int, ...] = ()
    """Those of them that have a file, in which nothing was measured."""
    flagged_fraction: float = 0.0
    uncalibrated_antennas: tuple[str, ...] = ()
    """Antennas whose data were flagged as the applied tables have no solutions for them."""
    uncalibrated_channels: int = 0
    """Such channels, counted before they were averaged for imaging."""
    uncalibrated_subbands: tuple[int, ...] = ()
    """Sub-bands that consist of such channels."""


@dataclass(frozen=True, slots=True)
class FlaggedMeasurementSet(MeasurementSet):
    """A Measurement Set after flagging."""

    dead_antennas: tuple[str, ...] = ()
    """Antennas without any unflagged data."""
    gentler: bool = False
    """The usual cut-off flagged too much, so a higher one was used."""
    flagging_warning: str | None = None


@dataclass(frozen=True, slots=True)
class Caltable:
    """One calibration table and how ``applycal`` uses it."""

    path: Path
    type: str
    """``BP`` or ``GA``."""
    apply_order: int
    """K 10, BA 20, BP 30, GA 40, GP 50, 2G 60, FLUX 70: the telescope's own order."""
    interp: str
    """CASA's interpolation in time: ``nearest`` or ``linear``."""


@dataclass(frozen=True, slots=True)
class SolutionQuality:
    """The figures that the gates of a solve compare with their limits."""

    n_antennas: int
    """With at least half of their channels solved."""
    flagged_fraction: float
    """Of the solutions of antennas that have data, missing sub-bands included."""
    amplitude_scatter: float
    """From channel to channel, relative; median over antennas and polarisations."""
    phase_scatter_deg: float
    unsolved_antennas: tuple[str, ...] = ()
    """Antennas with data but without any solution: the solver has dropped them."""
    flagged_with_data: float = 0.0
    """Of those in channels that have data: sub-bands that are missing have a limit of their own."""


@dataclass(frozen=True, slots=True)
class SolvedCaltables:
    """The tables that a group's own calibrator gave."""

    set_name: str
    tables: tuple[Caltable, ...]
    calibrator: str
    refant: str
    mid_mjd: float
    declination_deg: float
    valid_start_mjd: float
    valid_end_mjd: float
    solved: Literal[True] = True
    gains: Path | None = None
    """Product of both tables as ``.npz``, for plots and comparisons without CASA."""
    beam_response: float | None = None
    """Mean primary beam at the calibrator."""
    model_sources: int | None = None
    model_mean_jy: float | None = None
    quality: SolutionQuality | None = None


@dataclass(frozen=True, slots=True)
class UnsolvedCaltables:
    """A group that gives no tables, and why."""

    reason: str
    solved: Literal[False] = False


@dataclass(frozen=True, slots=True)
class SelectedCalibration:
    """The set of calibration tables that serves a group."""

    set_name: str
    product_key: str
    group_id: str
    """The group that it was solved from."""
    calibrator: str
    refant: str
    hours_away: float
    inside_window: bool
    warning: str | None
    tables: tuple[Caltable, ...]
    beyond_reach: bool = False
    """Too far in time for a good image, taken because the settings say so."""


@dataclass(frozen=True, slots=True)
class ContinuumImage:
    """The FITS files of a group and the statistics of its image."""

    path: Path
    """Without primary-beam correction."""
    pb_corrected_path: Path
    beam_path: Path
    ms_path: Path
    imager: str
    rms_jy: float
    peak_jy: float
    dynamic_range: float
    bmaj_arcsec: float
    bmin_arcsec: float
    bpa_deg: float
    size_px: int
    cell_arcsec: float
    ra_deg: float
    dec_deg: float
    mid_mjd: float


@dataclass(frozen=True, slots=True)
class Validation:
    """The comparison of an image with the catalogue; None: there was nothing to compare."""

    report: Path
    """JSON file with these figures and a row for each source."""
    verdict: str
    """``clean`` or ``degraded``."""
    failed_gates: tuple[str, ...]
    n_expected: int
    n_matched: int
    completeness: float | None
    rms_jy: float | None
    dynamic_range: float | None
    flux_ratio_median: float | None
    flux_ratio_scatter: float | None
    flux_error_max: float | None
    position_error_median_arcsec: float | None
    position_error_max_arcsec: float | None
    noise_limit_jy: float | None = None
    """The noise above which this image fails its gate: by the settings and its brightest source."""
    n_hidden: int = 0
    """Isolated sources that an image with noise at that limit would show, and this one does not."""


@dataclass(frozen=True, slots=True)
class SourceCheck:
    """One catalogue source in an image; measured values are None when it is not detected."""

    name: str
    ra_deg: float
    dec_deg: float
    flux_jy: float
    beam_response: float
    snr: float
    """Apparent flux over the image's noise."""
    isolated: bool
    """No bright neighbour, so it is compared."""
    measured_jy: float | None = None
    flux_ratio: float | None = None
    east_arcsec: float | None = None
    north_arcsec: float | None = None
    position_error_arcsec: float | None = None


@dataclass(frozen=True, slots=True)
class SourceTable:
    """The rows in the file `Validation.report`."""

    sources: tuple[SourceCheck, ...]


@dataclass(frozen=True, slots=True)
class Photometry:
    """The fluxes of catalogue sources in an image or mosaic; None: there was nothing to measure."""

    table: Path
    """ECSV file of `products.photometry_table`, a row for each source in the image."""
    measured_in: Literal["image", "mosaic"]
    mid_mjd: float
    n_sources: int
    n_measured: int
    n_blended: int
    """Fitted together with neighbours."""
    error_median_jy: float | None
    flux_ratio_median: float | None
    """Measured over catalogue flux of bright sources without neighbours."""
    flux_ratio_n: int
    n_uncatalogued: int = 0
    """Sources that stand out and are not in the catalogue."""


# The outputs of each stage: a field is a name in the pipeline context.


@dataclass(frozen=True, slots=True)
class CatalogSetupOutputs:
    catalog: StripCatalogue


@dataclass(frozen=True, slots=True)
class ConvertOutputs:
    measurement_set: MeasurementSet


@dataclass(frozen=True, slots=True)
class FlagOutputs:
    flagged_ms: FlaggedMeasurementSet


@dataclass(frozen=True, slots=True)
class CalibrateSolveOutputs:
    caltables: Annotated[SolvedCaltables | UnsolvedCaltables, Field(discriminator="solved")]


@dataclass(frozen=True, slots=True)
class SelectCalibrationOutputs:
    calibration: SelectedCalibration


@dataclass(frozen=True, slots=True)
class CalibrateApplyOutputs:
    calibrated_ms: MeasurementSet


@dataclass(frozen=True, slots=True)
class ImageOutputs:
    image: ContinuumImage


@dataclass(frozen=True, slots=True)
class ValidateOutputs:
    validation: Validation


@dataclass(frozen=True, slots=True)
class PhotometryOutputs:
    photometry: Photometry


def names(*kinds: type[Any]) -> frozenset[str]:
    """The names of these types' fields: the keys of their outputs in the pipeline context."""
    return _names(kinds)


@cache
def _names(kinds: tuple[type[Any], ...]) -> frozenset[str]:
    return frozenset(field.name for kind in kinds for field in fields(kind))


def to_json(outputs: object) -> dict[str, Json]:
    """The JSON object of a record, or of a mapping of JSON values and paths."""
    data: dict[str, Json] = _adapter(type(outputs)).dump_python(outputs, mode="json")
    return data


def from_json(kind: type[_T], data: Mapping[str, Any], folders: Sequence[Path] | None = None) -> _T:
    """The record of these keys, or `ValueError` that names what is missing or does not fit.

    With `folders`, every path must lie in one of them when its links are followed: a role that may
    write checkpoints could otherwise have any file of the worker's user read and copied.
    """
    try:
        record: _T = _adapter(kind).validate_python(data)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()
        )
        raise ValueError(f"{kind.__name__} cannot be read: {problems}") from error
    if folders is not None:
        for name, path in _paths(record, kind.__name__):
            if not is_within(path, folders):
                allowed = ", ".join(map(str, folders))
                raise ValueError(f"{name} cannot be used: {path} lies in none of {allowed}")
    return record


def is_within(path: Path, folders: Sequence[Path]) -> bool:
    """Whether a path lies in one of the folders, its symbolic links and ``..`` followed.

    A product that was moved elsewhere, with a link in its place, still lies in its folder; what a
    link in a product leads to does not.
    """
    try:
        real = Path(os.path.realpath(path))
    except ValueError:  # a NUL
        return False
    return any(real.is_relative_to(os.path.realpath(folder)) for folder in folders) or any(
        is_named_within(path, folder) and _is_in_moved_product(path, real, folder)
        for folder in folders
    )


def is_named_within(path: Path, folder: Path) -> bool:
    """Whether a path lies in the folder by its name, wherever its links lead to."""
    parts, above = path.parts, folder.parts
    return ".." not in parts and parts[: len(above)] == above


def _is_in_moved_product(path: Path, real: Path, folder: Path) -> bool:
    for parent in (path, *path.parents):
        if parent == folder:
            break
        if (parent / MANIFEST_NAME).is_file():
            return real.is_relative_to(os.path.realpath(parent))
    return False


def _paths(value: object, name: str) -> Iterator[tuple[str, Path]]:
    """All paths in a record, with the names of their fields."""
    if isinstance(value, Path):
        yield name, value
    elif isinstance(value, tuple):
        for number, part in enumerate(value):
            yield from _paths(part, f"{name}.{number}")
    elif value is not None and not isinstance(value, str | float) and is_dataclass(value):
        for field in fields(value):
            yield from _paths(getattr(value, field.name), f"{name}.{field.name}")
