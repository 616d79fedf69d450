"""Sources that a new edition of the catalogue calls by another name: one source by its place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from absurd_contimg.products.photometry_table import UNCATALOGUED
from absurd_contimg.registry.photometry import FluxMeasurement
from absurd_contimg.science.catalogue import unit_vectors

_SAME_PLACE_ARCSEC = 1.0
"""Less than a tenth of a beam: no image gives the fluxes of two sources that are so near."""


def latest_names(measurements: Sequence[FluxMeasurement]) -> dict[str, str]:
    """For each name the one that its source has in its latest image; in the order of time.

    Names at one place are those of one source unless an image has both: a catalogue that lists
    both means two. Peaks outside the catalogue are named by where each image shows them, and keep
    their names.
    """
    from scipy.spatial import cKDTree  # noqa: PLC0415 - takes a while

    later = {m.source: m.source for m in measurements}
    """A later name of each; the last one has itself."""
    latest = {m.source: m for m in measurements if UNCATALOGUED not in m.flags.split()}
    images: dict[str, set[str]] = defaultdict(set)
    for measurement in measurements:
        images[measurement.source].add(measurement.group_id)
    places = list(latest.values())
    if len(places) < 2:
        return later
    ra, dec = (np.radians([getattr(m, axis) for m in places]) for axis in ("ra_deg", "dec_deg"))
    vectors = unit_vectors(ra, dec)
    chord = 2.0 * np.sin(np.radians(_SAME_PLACE_ARCSEC / 3600.0) / 2.0)
    pairs = cKDTree(vectors).query_pairs(chord)
    for a, b in sorted(pairs, key=lambda pair: (_distance(vectors, pair), pair)):
        first, second = _last(later, places[a].source), _last(later, places[b].source)
        if first == second or images[first] & images[second]:
            continue
        newer, older = sorted(
            (first, second), key=lambda name: (latest[name].mjd, name), reverse=True
        )
        images[newer] |= images[older]
        later[older] = newer
    return {name: _last(later, name) for name in later}


def _last(later: Mapping[str, str], name: str) -> str:
    while later[name] != name:
        name = later[name]
    return name


def _distance(vectors: NDArray[np.float64], pair: tuple[int, int]) -> float:
    return float(np.linalg.norm(vectors[pair[0]] - vectors[pair[1]]))
