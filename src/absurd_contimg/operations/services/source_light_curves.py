"""Light curves and variability of what the registry has measured, for commands and reports."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from absurd_contimg.config.photometry import VariabilityConfig
from absurd_contimg.errors import MissingInputError, SettingError
from absurd_contimg.operations.services.renamed_sources import latest_names
from absurd_contimg.registry.database import Database
from absurd_contimg.registry.photometry import (
    FluxMeasurement,
    newest_measurements,
    source_positions,
)
from absurd_contimg.science.catalogue import SkySource, separation_rad, source_vectors
from absurd_contimg.science.light_curves import (
    FluxPoint,
    LightCurve,
    Normalisation,
    make_light_curves,
)
from absurd_contimg.science.variability import measure_variability
from absurd_contimg.similar_names import did_you_mean

MeasuredIn = Literal["image", "mosaic"]

_POSITION = re.compile(r"^([0-9.:hm ]+?)s?[,\s]\s*([+-]?[0-9.:dms'\" ]+)$")
_FORM_OF_POSITION = "A position is RA,DEC: 10.684,41.269 in degrees or 00:42:44.2,+41:16:09."
_SEARCH_RADIUS_ARCSEC = 60.0
"""A source within this of a position is taken for it."""


def find_source(database: Database, text: str) -> SkySource:
    """The measured source of a name, or the nearest one to a position.

    Raises `MissingInputError` that names similar sources, or the nearest one.
    """
    positions = source_positions(database)
    if text in positions:
        return SkySource(text, *positions[text], 1.0)
    place = parse_position(text)
    if place is None:
        others = f"of {len(positions)} that have" if positions else "and no other either"
        raise MissingInputError(
            f"No source {text!r} has been measured, {others}.",
            did_you_mean(text, positions, _FORM_OF_POSITION),
        )
    sources = [SkySource(name, *position, 1.0) for name, position in positions.items()]
    if not sources:
        raise MissingInputError(
            "No source has been measured yet.", "Measure a group: contimg photometry GROUP --make"
        )
    target = SkySource(text, *place, 1.0)
    distances = separation_rad(source_vectors(sources), source_vectors([target])[0])
    nearest = int(distances.argmin())
    arcsec = math.degrees(float(distances[nearest])) * 3600.0
    if arcsec > _SEARCH_RADIUS_ARCSEC:
        raise MissingInputError(
            f"No source within {_SEARCH_RADIUS_ARCSEC:.0f} arcsec of {text} has been measured; the "
            f"nearest is {sources[nearest].name}, {_distance(arcsec)} away."
        )
    return sources[nearest]


def _distance(arcsec: float) -> str:
    return f"{arcsec:.0f} arcsec" if arcsec < 600 else f"{arcsec / 3600:.2f} deg"


def parse_position(text: str) -> tuple[float, float] | None:
    """Right ascension and declination in degrees; None if the text is no position at all.

    Sexagesimal right ascension is in hours. Raises `SettingError` for one out of range.
    """
    match = _POSITION.match(text.strip())
    if match is None:
        return None
    try:
        ra, sexagesimal = _number(match[1])
        dec, _ = _number(match[2])
    except ValueError:
        return None
    ra *= 15.0 if sexagesimal else 1.0
    if not (0 <= ra <= 360 and abs(dec) <= 90):
        raise SettingError(f"{text!r} is no position on the sky.", _FORM_OF_POSITION)
    return ra % 360.0, dec


def _number(text: str) -> tuple[float, bool]:
    """A decimal or sexagesimal number, and whether it is the latter."""
    sign = -1.0 if text.strip().startswith("-") else 1.0
    parts = [float(part) for part in re.split(r"[:hdms'\" ]+", text.strip(" +-sm\"'")) if part]
    if not 1 <= len(parts) <= 3 or any(not 0 <= part < 60 for part in parts[1:]):
        raise ValueError(text)
    value = sum(part / 60.0**power for power, part in enumerate(parts))
    return sign * value, len(parts) > 1


def light_curve(
    database: Database,
    settings: VariabilityConfig,
    source: SkySource,
    measured_in: MeasuredIn,
) -> LightCurve:
    """The light curve of one source, under all its names; reads the measurements around it.

    Raises `MissingInputError` if it was measured in the other kind of images only.
    """
    # Neighbours of neighbours count: their means are from other images.
    reach = 2.0 * settings.neighbour_radius_deg
    strip = source.dec_deg - reach, source.dec_deg + reach
    curves = light_curves(newest_measurements(database, measured_in, strip), settings)
    for curve in curves:
        if source.name in curve.names:
            return curve
    other = "--mosaics shows those" if measured_in == "image" else "leave --mosaics out"
    raise MissingInputError(
        f"{source.name} has not been measured in {measured_in}s, only in others.", f"{other}."
    )


def under_one_name(curve: LightCurve, name: str, settings: VariabilityConfig) -> LightCurve:
    """What was measured under one of the names of a source."""
    points = tuple(point for point in curve.points if point.measured_as == name)
    fluxes, errors = [p.flux_jy for p in points], [p.error_jy for p in points]
    statistics = measure_variability(fluxes, errors, settings.vs_min, settings.m_min)
    return replace(curve, source=name, points=points, variability=statistics)


def sources_around(database: Database, curve: LightCurve) -> list[tuple[str, float]]:
    """The other sources that a search for its position reaches, with their distances in arcsec."""
    positions = source_positions(database)
    others = [SkySource(n, *place, 1.0) for n, place in positions.items() if n not in curve.names]
    if not others:
        return []
    place = SkySource(curve.source, curve.ra_deg, curve.dec_deg, 1.0)
    distances = separation_rad(source_vectors(others), source_vectors([place])[0])
    near = [
        (math.degrees(float(distance)) * 3600.0, other.name)
        for other, distance in zip(others, distances, strict=True)
    ]
    return [(name, arcsec) for arcsec, name in sorted(near) if arcsec <= _SEARCH_RADIUS_ARCSEC]


def light_curves(
    measurements: Sequence[FluxMeasurement], settings: VariabilityConfig
) -> list[LightCurve]:
    """The light curves of all sources, those that differ most first.

    A source that a new edition of the catalogue calls otherwise has one curve, under its name in
    the latest image.
    """
    measurements = [m for m in measurements if m.error_jy > 0]
    names = latest_names(measurements)
    points = make_light_curves(
        [
            FluxPoint(
                names[m.source], m.ra_deg, m.dec_deg, m.group_id, m.mjd, m.flux_jy, m.error_jy,
                reliable=not m.flags, measured_as=m.source,
            )
            for m in measurements
        ],
        Normalisation(
            radius_deg=settings.neighbour_radius_deg,
            neighbours_min=settings.neighbours_min,
            snr_min=settings.neighbour_snr_min,
            relative_error=settings.relative_error,
            vs_min=settings.vs_min,
            m_min=settings.m_min,
        ),
    )  # fmt: skip
    by_source: Mapping[str, list[FluxMeasurement]] = defaultdict(list)
    for measurement in measurements:
        by_source[names[measurement.source]].append(measurement)
    curves = []
    for name, curve in points.items():
        latest = by_source[name][-1]
        fluxes, errors = [p.flux_jy for p in curve], [p.error_jy for p in curve]
        statistics = measure_variability(fluxes, errors, settings.vs_min, settings.m_min)
        place = latest.ra_deg, latest.dec_deg, latest.catalogue_jy
        curves.append(LightCurve(name, *place, tuple(curve), statistics))
    return sorted(curves, key=_rank)


def _rank(curve: LightCurve) -> tuple[bool, float, str]:
    pair = curve.variability.pair
    return not curve.variability.variable, 0.0 if pair is None else -abs(pair.vs), curve.source
