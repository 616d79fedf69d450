"""Restoring beams of images as Gaussians: one that contains all of them, and convolution to it.

A beam is its covariance matrix in (east, north), arcsec^2; the convolution of Gaussians adds them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

_FWHM_PER_SIGMA = math.sqrt(8.0 * math.log(2.0))
_MARGIN_SIGMAS = 5.0


@dataclass(frozen=True, slots=True)
class RestoringBeam:
    """Full widths at half maximum, and the angle of the major axis from north through east."""

    major_arcsec: float
    minor_arcsec: float
    angle_deg: float

    @property
    def area_arcsec2(self) -> float:
        """The integral of the Gaussian with peak 1."""
        return math.pi * self.major_arcsec * self.minor_arcsec / (4.0 * math.log(2.0))

    @property
    def covariance(self) -> NDArray[np.float64]:
        """In (east, north), arcsec^2."""
        angle = math.radians(self.angle_deg)
        axes = np.array(
            [[math.sin(angle), math.cos(angle)], [math.cos(angle), -math.sin(angle)]]
        )  # a row for the direction of each axis
        widths = np.array([self.major_arcsec, self.minor_arcsec]) / _FWHM_PER_SIGMA
        return np.asarray(axes.T @ np.diag(widths**2) @ axes)

    @classmethod
    def of_covariance(cls, covariance: NDArray[np.float64]) -> Self:
        """The beam of a covariance matrix; the angle lies in [0, 180)."""
        values, vectors = np.linalg.eigh(covariance)
        minor, major = np.sqrt(np.maximum(values, 0.0)) * _FWHM_PER_SIGMA
        east, north = vectors[:, 1]
        return cls(float(major), float(minor), math.degrees(math.atan2(east, north)) % 180.0)


def common_beam(beams: Sequence[RestoringBeam], tolerance: float) -> tuple[RestoringBeam, bool]:
    """A beam to which all can be convolved, and whether any has to be.

    Beams whose widths agree with the mean within the relative tolerance stay as they are. For
    others it is the mean covariance, enlarged as little as contains the largest of them.
    """
    covariances = np.array([beam.covariance for beam in beams])
    mean = covariances.mean(axis=0)
    inverse = np.linalg.inv(np.linalg.cholesky(mean))
    ratios = np.linalg.eigvalsh(inverse @ covariances @ inverse.T)
    alike = bool(np.all(np.abs(np.sqrt(ratios) - 1.0) <= tolerance))
    enlarged = mean if alike else mean * float(ratios.max())
    return RestoringBeam.of_covariance(enlarged), not alike


def convolved(
    pixels: NDArray[np.float64], wcs: Any, old: RestoringBeam, new: RestoringBeam
) -> NDArray[np.float64]:
    """An image in Jy per new beam; NaN stays, and spreads as far as the kernel reaches.

    The kernel is applied as its Fourier transform, so that it may be narrower than a pixel.
    Outside the image, its mirror image counts, so that the noise is the same up to its edge.
    """
    from scipy.ndimage import binary_dilation

    to_pixels = np.linalg.inv(np.asarray(wcs.pixel_scale_matrix) * 3600.0)
    kernel = to_pixels @ (new.covariance - old.covariance) @ to_pixels.T
    sigma_px = math.sqrt(max(float(np.linalg.eigvalsh(kernel).max()), 0.0))
    margin = math.ceil(_MARGIN_SIGMAS * sigma_px)
    blank = ~np.isfinite(pixels)
    filled = np.pad(np.where(blank, 0.0, pixels), margin, mode="symmetric")
    v = np.fft.fftfreq(filled.shape[0])[:, None]
    u = np.fft.rfftfreq(filled.shape[1])[None, :]
    exponent = kernel[0, 0] * u * u + 2.0 * kernel[0, 1] * u * v + kernel[1, 1] * v * v
    transfer = np.exp(-2.0 * math.pi**2 * exponent) * (new.area_arcsec2 / old.area_arcsec2)
    smooth = np.fft.irfft2(np.fft.rfft2(filled) * transfer, filled.shape)
    height, width = pixels.shape
    smooth = smooth[margin : margin + height, margin : margin + width]
    if blank.any() and sigma_px > 0:
        blank = binary_dilation(blank, np.ones((3, 3)), math.ceil(2.0 * sigma_px))
    return np.asarray(np.where(blank, np.nan, smooth))
