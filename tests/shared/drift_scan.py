"""Beam centres of a drift scan, for tests of beams and calibrators."""

from __future__ import annotations

import numpy as np

from absurd_contimg.science.beam import BeamCentres


def drift(centre_ra: float = 150.0, dec: float = 16.0, n: int = 24) -> BeamCentres:
    offsets = (np.arange(n) - (n - 1) / 2) * 12.884902 / 86164.0905 * 360.0
    ra = tuple(float(r) for r in (centre_ra + offsets) % 360.0)
    mjd = tuple(60000.0 + i * 12.884902 / 86400 for i in range(n))
    return BeamCentres(mjd, ra, (dec,) * n)
