"""One FITS image read for drawing: pixels in mJy/beam, noise, coordinates, beams."""

# astropy may be missing: it is imported where it is used.
# ruff: noqa: PLC0415

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from absurd_contimg.errors import CorruptInputError, MissingInputError
from absurd_contimg.stages.image import robust_rms


@dataclass(frozen=True, slots=True)
class SkyImage:
    """Pixels and noise in mJy/beam; beam sizes and pixel size in degrees."""

    pixels: NDArray[np.float64]
    rms: float
    wcs: Any
    cell_deg: float
    major_deg: float
    minor_deg: float
    angle_deg: float
    frequency_hz: float | None
    primary_beam: NDArray[np.float64] | None

    @classmethod
    def read(cls, path: Path, beam_path: Path | None, rms_jy: float | None) -> SkyImage:
        """Read the image; raises `MissingInputError` or `CorruptInputError`."""
        from astropy.wcs import WCS

        header, plane = _read_plane(path)
        finite = plane[np.isfinite(plane)]
        if finite.size == 0:
            raise CorruptInputError(f"{path} has no finite pixel.", "Image again.")
        # An image of zeros has no noise, but it must be drawn as well.
        rms = rms_jy or robust_rms(finite) or float(np.ptp(finite)) / 100.0 or 1e-3
        wcs = WCS(header).celestial
        return cls(
            1e3 * plane,
            1e3 * rms,
            wcs,
            float(np.mean(np.abs(wcs.wcs.cdelt))),
            float(header.get("BMAJ", 0.0)),
            float(header.get("BMIN", 0.0)),
            float(header.get("BPA", 0.0)),
            float(header["CRVAL3"]) if header.get("CTYPE3") == "FREQ" else None,
            None if beam_path is None else _read_plane(beam_path)[1],
        )

    def pixel_at(self, ra_deg: float, dec_deg: float) -> tuple[float, float] | None:
        """The pixel at a position; None outside the image."""
        x, y = (float(v) for v in self.wcs.wcs_world2pix(ra_deg, dec_deg, 0))
        height, width = self.pixels.shape
        inside = 0 <= x <= width - 1 and 0 <= y <= height - 1
        return (x, y) if inside else None  # not-a-number, beyond the horizon, is outside


def _read_plane(path: Path) -> tuple[Any, NDArray[np.float64]]:
    from astropy.io import fits

    try:
        with fits.open(path, memmap=False) as hdus:
            header, data = hdus[0].header, hdus[0].data
    except FileNotFoundError as error:
        raise MissingInputError(f"The image {path} is no longer there.") from error
    except (OSError, TypeError, ValueError) as error:  # astropy raises any of them if truncated
        raise CorruptInputError(f"The image {path} cannot be read: {error}.") from error
    if data is None or data.ndim < 2:
        raise CorruptInputError(f"The file {path} holds no image.")
    return header, np.asarray(data, dtype=float).reshape(data.shape[-2:])
