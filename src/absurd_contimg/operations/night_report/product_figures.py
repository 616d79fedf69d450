"""Figures that are read from the products of a night: images and solutions.

Each is measured once: the report of a night keeps them by the key of the product.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from absurd_contimg.core.evidence import reason_of
from absurd_contimg.errors import UserError
from absurd_contimg.operations.night_report.facts import AntennaGain, ImageFigures
from absurd_contimg.products.outputs import ContinuumImage
from absurd_contimg.science.image_figures import measure_pixels
from absurd_contimg.stages.image import read_whole


def measure_image(image: ContinuumImage) -> ImageFigures:
    """The figures of an image without primary-beam correction; what hinders is its problem."""
    try:
        _, data = read_whole(image.path)
        pixels = data.astype(float).reshape(data.shape[-2:])
        figures = measure_pixels(pixels, image.cell_arcsec, image.bmaj_arcsec)
    except FileNotFoundError:
        return ImageFigures(problem=f"the image {image.path} is no longer there")
    except ImportError as error:
        return ImageFigures(problem=f"{error.name} is not installed: the extra casa has it")
    except (OSError, ValueError, UserError) as error:
        return ImageFigures(problem=f"the image {image.path} cannot be read: {error}")
    return ImageFigures(
        figures.noise,
        figures.minimum,
        figures.maximum,
        figures.anisotropy,
        figures.positive_spots,
        figures.negative_spots,
    )


def read_gains(path: Path) -> tuple[Mapping[str, AntennaGain], tuple[str, ...], str]:
    """The solution of each antenna in a file of total gains, those without one, and the problem.

    Antennas whose solutions are all flagged have none.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            names = [str(name) for name in file["antennas"]]
            frequencies = np.asarray(file["frequencies_hz"], dtype=float)
            gains, flags = np.asarray(file["gains"]), np.asarray(file["flags"], dtype=bool)
        solved = {
            name: _antenna_gain(gains[k], flags[k], frequencies)
            for k, name in enumerate(names)
            if not flags[k].all()
        }
    except FileNotFoundError:
        return {}, (), f"the solutions {path} are no longer there"
    except (OSError, ValueError, KeyError, IndexError, EOFError) as error:
        return {}, (), f"the solutions {path} cannot be read: {reason_of(error)}"
    return solved, tuple(name for name in names if name not in solved), ""


def _antenna_gain(
    gains: NDArray[np.complex128], flags: NDArray[np.bool_], frequencies_hz: NDArray[np.float64]
) -> AntennaGain:
    """Both polarisations (channels, 2) together: first the delay, then the phase at mid-band."""
    usable = ~flags & np.isfinite(gains) & (gains != 0)
    used = np.where(usable, gains, 0)
    amplitudes = np.abs(gains[usable])
    if not amplitudes.size:
        return AntennaGain(0.0, 0.0, 0.0)
    steps = np.diff(frequencies_hz)
    turned = used[1:] * np.conj(used[:-1])
    both = usable[1:] & usable[:-1]
    delay = 0.0
    if both.any() and len(steps):
        # Neighbouring channels differ by the delay times their distance in frequency.
        step = float(np.median(steps))
        delay = float(np.angle(turned[both].sum())) / (2.0 * math.pi * step) if step else 0.0
    offset = frequencies_hz - frequencies_hz.mean()
    straight = used * np.exp(-2j * math.pi * delay * offset)[:, None]
    phase = float(np.degrees(np.angle(straight.sum())))
    return AntennaGain(float(np.median(amplitudes)), phase, 1e9 * delay)
