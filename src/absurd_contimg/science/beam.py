"""The primary beam of a fixed dish, and its mean while the sky drifts through it.

A uniformly lit circular aperture: ``[2 J1(x) / x]^2`` with ``x = pi D f sin(rho) / c``
(docs/telescope.md#primary-beam), around the meridian of each integration.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from absurd_contimg.errors import CorruptInputError
from absurd_contimg.regular_files import read_json
from absurd_contimg.science.catalogue import (
    REFERENCE_FREQUENCY_HZ,
    SkySource,
    separation_rad,
    source_vectors,
    unit_vectors,
)

SPEED_OF_LIGHT_M_S = 299_792_458.0


def airy_power(
    separation: NDArray[np.float64], frequency_hz: NDArray[np.float64] | float, diameter_m: float
) -> NDArray[np.float64]:
    """Power response, 1 at the centre, at an angle in radians from it; arguments broadcast."""
    from scipy.special import j1

    x = np.pi * diameter_m / SPEED_OF_LIGHT_M_S * np.sin(separation) * frequency_hz
    small = np.abs(x) < 1e-6
    safe = np.where(small, 1.0, x)
    return np.where(small, 1.0, (2.0 * j1(safe) / safe) ** 2)


@dataclass(frozen=True, slots=True)
class BeamCentres:
    """The beam's ICRS position (degrees) in each integration, by its middle (MJD, ascending)."""

    mjd: tuple[float, ...]
    ra_deg: tuple[float, ...]
    dec_deg: tuple[float, ...]

    @property
    def vectors(self) -> NDArray[np.float64]:
        """Unit vectors, shape (integrations, 3)."""
        return unit_vectors(np.radians(np.array(self.ra_deg)), np.radians(np.array(self.dec_deg)))

    def indices(self, mjd: NDArray[np.float64]) -> NDArray[np.int64]:
        """The integration that each time belongs to; `CorruptInputError` if none is near."""
        centres = np.array(self.mjd)
        nearest: NDArray[np.int64] = np.abs(mjd[:, None] - centres[None, :]).argmin(axis=1)
        step = float(np.diff(centres).min()) if len(centres) > 1 else 1.0
        if np.any(np.abs(mjd - centres[nearest]) > 0.5 * step):
            raise CorruptInputError(
                "the Measurement Set has times that its list of beam centres does not cover.",
                "Convert the group again: the two belong together.",
            )
        return nearest

    def write(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> BeamCentres:
        """Read what `write` wrote; raises `CorruptInputError` if it is anything else."""
        try:
            data = read_json(path)
            columns = [tuple(float(v) for v in data[k]) for k in ("mjd", "ra_deg", "dec_deg")]
            if not columns[0] or len({len(c) for c in columns}) != 1:
                raise ValueError("columns of unequal length or none at all")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CorruptInputError(
                f"the beam centres {path} cannot be read ({error}).", "Convert the group again."
            ) from error
        return cls(*columns)


def mean_response(
    directions: NDArray[np.float64],
    centres: BeamCentres,
    frequencies_hz: NDArray[np.float64],
    diameter_m: float,
    weights: NDArray[np.float64] | None = None,
    factor: Callable[[int], NDArray[np.float64]] | None = None,
) -> NDArray[np.float64]:
    """Mean response towards unit vectors (..., 3); `factor` multiplies that of an integration."""
    w = np.ones(len(centres.mjd)) if weights is None else np.asarray(weights, dtype=float)
    total = np.zeros(directions.shape[:-1])
    for index, (vector, weight) in enumerate(zip(centres.vectors, w, strict=True)):
        if weight > 0:
            rho = separation_rad(directions, vector)
            response = airy_power(rho[..., None], frequencies_hz, diameter_m).mean(axis=-1)
            total += weight * (response if factor is None else response * factor(index))
    return np.asarray(total / w.sum())


def source_response(
    sources: Sequence[SkySource], centres: BeamCentres, diameter_m: float
) -> NDArray[np.float64]:
    """Mean power response towards each source at the catalogue's frequency."""
    frequency = np.array([REFERENCE_FREQUENCY_HZ])
    return mean_response(source_vectors(sources), centres, frequency, diameter_m)
