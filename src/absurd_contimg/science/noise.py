"""The noise of an image in the presence of sources."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def robust_rms(values: NDArray[Any]) -> float:
    """1.4826 times the median absolute deviation of the finite values; 0 without any."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return 0.0
    return float(1.4826 * np.median(np.abs(finite - np.median(finite))))
