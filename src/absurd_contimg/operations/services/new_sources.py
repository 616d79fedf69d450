"""Sources that are in no catalogue and were not there before: earlier images are measured again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from absurd_contimg.config import PipelineConfig
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.products.outputs import ImageOutputs
from absurd_contimg.products.photometry_table import UNCATALOGUED
from absurd_contimg.registry import Registry
from absurd_contimg.registry.models import ImageRow
from absurd_contimg.registry.photometry import FluxMeasurement, newest_measurements
from absurd_contimg.science.catalogue import SkySource, separation_rad, source_vectors
from absurd_contimg.science.photometry import Flux, PhotometryImage, measure_fluxes
from absurd_contimg.science.variability import Appearance, judge_appearance
from absurd_contimg.stages.photometry import Target

_BLEND_RADIUS_DEG = 0.2
"""Catalogue sources within this of a new one are fitted with it: they may be its neighbours."""


@dataclass(frozen=True, slots=True)
class Detection:
    """A source outside the catalogue, in the image that showed it first."""

    source: str
    ra_deg: float
    dec_deg: float
    group_id: str
    mjd: float
    flux_jy: float
    error_jy: float
    n_detections: int
    appearance: Appearance


def find_new_sources(registry: Registry, config: PipelineConfig) -> list[Detection]:
    """All sources outside the catalogue, the new ones first; reads the images before each.

    Images that have been removed are left out.
    """
    measured = newest_measurements(registry.database, "image")
    clusters = _clusters(
        [m for m in measured if UNCATALOGUED in m.flags.split()],
        config.validation.match_radius_arcsec,
    )
    known = {
        m.source: SkySource(m.source, m.ra_deg, m.dec_deg, m.catalogue_jy)
        for m in measured
        if m.catalogue_jy is not None
    }
    earlier = _measure_earlier(registry, config, [c[0] for c in clusters], list(known.values()))
    settings = config.variability
    detections = []
    for number, cluster in enumerate(clusters):
        first, fluxes = cluster[0], earlier[number]
        appearance = judge_appearance(
            first.flux_jy,
            [flux for flux, _ in fluxes],
            [error for _, error in fluxes],
            settings.new_sigma_min,
            settings.before_sigma_max,
        )
        place = first.source, first.ra_deg, first.dec_deg, first.group_id, first.mjd
        detections.append(
            Detection(*place, first.flux_jy, first.error_jy, len(cluster), appearance)
        )
    return sorted(detections, key=lambda d: (not d.appearance.new, -d.flux_jy / d.error_jy))


def _clusters(
    measurements: Sequence[FluxMeasurement], radius_arcsec: float
) -> list[list[FluxMeasurement]]:
    """Detections of the same place, in the order of time; each belongs to the first near it."""
    clusters: list[list[FluxMeasurement]] = []
    for measurement in measurements:
        near = _within(
            [_source(cluster[0]) for cluster in clusters], _source(measurement), radius_arcsec
        )
        if near:
            clusters[near[0]].append(measurement)
        else:
            clusters.append([measurement])
    return clusters


def _measure_earlier(
    registry: Registry,
    config: PipelineConfig,
    firsts: Sequence[FluxMeasurement],
    known: Sequence[SkySource],
) -> Mapping[int, list[tuple[float, float]]]:
    """For each first detection its flux and error in the images before it, the latest first."""
    earlier: Mapping[int, list[tuple[float, float]]] = defaultdict(list)
    groups = sorted({row["group_id"] for row in registry.rows(ImageRow)})
    contexts = [
        PipelineContext(config, {"group_id": group_id}, registry.image_outputs(group_id))
        for group_id in groups
    ]
    for context in sorted(contexts, key=_mid_mjd, reverse=True):
        described = context.outputs_of(ImageOutputs).image
        half_arcsec = 0.71 * described.size_px * described.cell_arcsec
        centre = SkySource("", described.ra_deg, described.dec_deg, 1.0)
        places = {
            number: _source(first)
            for number, first in enumerate(firsts)
            if first.mjd > described.mid_mjd
            and len(earlier[number]) < config.variability.earlier_images_max
            and _within([centre], _source(first), half_arcsec)
        }
        if not places or not described.path.is_file() or not described.beam_path.is_file():
            continue
        image, _ = Target.of(context).read(config)
        for number, place in places.items():
            flux = _measure(image, place, known, config)
            if flux is not None and flux.flux_jy is not None and flux.error_jy is not None:
                earlier[number].append((flux.flux_jy, flux.error_jy))
    return earlier


def _measure(
    image: PhotometryImage, place: SkySource, known: Sequence[SkySource], config: PipelineConfig
) -> Flux | None:
    near = _within(known, place, _BLEND_RADIUS_DEG * 3600.0)
    settings = config.photometry
    fluxes = measure_fluxes(
        image,
        [place, *(known[index] for index in near)],
        settings.joint_fit_beams,
        settings.response_min,
    )
    return fluxes.get(0)


def _mid_mjd(context: PipelineContext) -> float:
    return context.outputs_of(ImageOutputs).image.mid_mjd


def _source(measurement: FluxMeasurement) -> SkySource:
    return SkySource(measurement.source, measurement.ra_deg, measurement.dec_deg, 1.0)


def _within(sources: Sequence[SkySource], place: SkySource, radius_arcsec: float) -> list[int]:
    """The indices of the sources within a radius, the nearest first."""
    if not sources:
        return []
    distances = separation_rad(source_vectors(sources), source_vectors([place])[0])
    order = np.argsort(distances, kind="stable")
    return [int(k) for k in order if np.degrees(distances[k]) * 3600.0 <= radius_arcsec]
