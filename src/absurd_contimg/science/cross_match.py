"""Cross-match of positions with those of a catalogue, with what makes a match doubtful."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from absurd_contimg.science.catalogue import SkySource, source_vectors

_ARCSEC = np.pi / 180.0 / 3600.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A catalogue source within the radius, by its index."""

    index: int
    separation_arcsec: float


@dataclass(frozen=True, slots=True)
class Match:
    """What lies near one position."""

    candidates: tuple[Candidate, ...]
    """All within the radius, the nearest first."""
    matched: int | None
    """The nearest candidate, if the position is the nearest to it in turn."""
    confusion: str
    """Why the match is doubtful, or why there is none although there are candidates."""


def cross_match(
    positions: Sequence[SkySource], catalogue: Sequence[SkySource], radius_arcsec: float
) -> list[Match]:
    """The match of each position: mutually nearest, within the radius.

    No source is matched twice, and it does not matter which of the two lists is the catalogue. Of
    equal distances the first counts.
    """
    from scipy.spatial import cKDTree

    if not positions or not catalogue:
        return [Match((), None, "") for _ in positions]
    near, far = source_vectors(positions), source_vectors(catalogue)
    chord = 2.0 * np.sin(min(radius_arcsec * _ARCSEC, np.pi) / 2.0)
    neighbours = cKDTree(near).query_ball_tree(cKDTree(far), chord)
    candidates = [
        _candidates(near[index], far, indices) for index, indices in enumerate(neighbours)
    ]
    nearest = _nearest_positions(candidates)
    return [
        _match(index, of_position, nearest, positions)
        for index, of_position in enumerate(candidates)
    ]


def _candidates(
    vector: NDArray[np.float64], catalogue: NDArray[np.float64], indices: Sequence[int]
) -> tuple[Candidate, ...]:
    chords = np.linalg.norm(catalogue[indices] - vector, axis=-1)
    separations = 2.0 * np.arcsin(np.minimum(chords / 2.0, 1.0)) / _ARCSEC
    pairs = sorted(zip(separations.tolist(), indices, strict=True))
    return tuple(Candidate(int(index), separation) for separation, index in pairs)


def _nearest_positions(candidates: Sequence[Sequence[Candidate]]) -> dict[int, int]:
    """For each catalogue source with a position in its radius, the nearest of them."""
    best: dict[int, tuple[float, int]] = {}
    for position, of_position in enumerate(candidates):
        for candidate in of_position:
            rank = candidate.separation_arcsec, position
            best[candidate.index] = min(best.get(candidate.index, rank), rank)
    return {index: position for index, (_, position) in best.items()}


def _match(
    index: int,
    candidates: tuple[Candidate, ...],
    nearest: dict[int, int],
    positions: Sequence[SkySource],
) -> Match:
    if not candidates:
        return Match((), None, "")
    first = candidates[0].index
    reasons = [f"{len(candidates)} candidates"] if len(candidates) > 1 else []
    if nearest[first] != index:
        reasons.append(f"its candidate is nearer to {positions[nearest[first]].name}")
        return Match(candidates, None, "; ".join(reasons))
    return Match(candidates, first, "; ".join(reasons))
