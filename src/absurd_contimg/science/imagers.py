"""Running an imager, CASA's tclean or WSClean; each gives a restored image and a PSF as FITS.

That a task returns proves nothing: callers check the files (docs/telescope.md#imaging).
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from absurd_contimg.config import ImagingConfig
from absurd_contimg.errors import OutputError, SettingError
from absurd_contimg.science.catalogue import SkySource, separation_rad, source_vectors, unit_vectors
from absurd_contimg.science.sky_model import direction_cosines

_MASK_EXTENSIONS = 3
"""Each finds sources down to half the brightest that the mask lacks."""

_CYCLE_MIN = 0.01
"""Of the peak, down to which a major cycle cleans at most; CASA's 0.05 costs one more cycle."""
_UNMASKED_CYCLE_FACTOR, _UNMASKED_CYCLE_MIN, _UNMASKED_GAIN = 0.3, 0.05, 0.1
"""Without a mask, cleaning as deep as within one takes sidelobes for sources and diverges."""


def run_imager(
    ms: Path, folder: Path, settings: ImagingConfig, regions: Sequence[str] = ()
) -> tuple[Path, Path]:
    """The FITS files of image and PSF; `regions` (`clean_regions`) are for tclean alone."""
    if settings.imager == "wsclean":
        return _wsclean(ms, folder, settings)
    return _tclean(ms, folder, settings, regions)


def clean_regions(
    sources: Sequence[SkySource], ra_deg: float, dec_deg: float, settings: ImagingConfig
) -> list[str]:
    """CASA regions around bright sources; none crosses the rim, where cleaning is not worth it."""
    radius = settings.mask_radius_arcsec
    bright = [s for s in sources if s.flux_jy >= settings.mask_flux_min_jy]
    if not bright or not radius:
        return []
    centre = unit_vectors(np.radians(ra_deg), np.radians(dec_deg))
    positions = [s.ra_deg for s in bright], [s.dec_deg for s in bright]
    offsets = np.abs(direction_cosines(*positions, ra_deg, dec_deg)[:, :2]).max(axis=1)
    away = separation_rad(source_vectors(bright), centre) > np.pi / 4
    half = math.radians((settings.size_px / 2 * settings.cell_arcsec - radius) / 3600.0)
    return [
        f"circle[[{source.ra_deg:.7f}deg, {source.dec_deg:.7f}deg], {radius}arcsec]"
        for source, offset, behind in zip(bright, offsets, away, strict=True)
        if offset < half and not behind
    ]


def check_imager(settings: ImagingConfig) -> None:
    """Raise `SettingError` if the configured imager is not installed."""
    if settings.imager == "wsclean" and shutil.which("wsclean") is None:
        raise SettingError(
            "imaging.imager is wsclean, but there is no wsclean on the PATH.",
            "Install WSClean (Debian: apt-get install wsclean), or set imaging.imager to tclean.",
        )


def _tclean(
    ms: Path, folder: Path, settings: ImagingConfig, regions: Sequence[str]
) -> tuple[Path, Path]:
    from casatasks import exportfits, tclean

    name, mask = folder / "clean", folder / "mask.crtf"
    mask.write_text("\n".join(("#CRTFv0", *regions, "")), encoding="utf-8")
    clean = partial(
        tclean,
        vis=str(ms),
        imagename=str(name),
        datacolumn="data",
        specmode="mfs",
        deconvolver="hogbom",
        gridder="wproject",
        wprojplanes=settings.w_planes,
        imsize=[settings.size_px, settings.size_px],
        cell=[f"{settings.cell_arcsec}arcsec"],
        stokes="I",
        weighting="briggs",
        robust=settings.robust,
        niter=settings.niter,
        nmajor=settings.nmajor,
        **_depth(settings, masked=bool(regions)),
        nsigma=settings.threshold_sigma,
        usemask="user",
        # Negative: no mask at the end of CASA's beam, which does not drift.
        pblimit=-0.1,
        pbcor=False,
        restoringbeam="common",
        interactive=False,
        parallel=False,
        savemodel="none",
    )
    clean(mask=str(mask) if regions else "")
    for _ in range(_MASK_EXTENSIONS if regions else 0):
        if not _extend_mask(name, settings):
            break
        clean(mask="", calcpsf=False, calcres=False)  # continues, with the mask on disk
    for suffix in ("image", "psf"):
        image = name.with_suffix(f".{suffix}")
        if not image.is_dir():
            raise OutputError(f"tclean made no {image.name}.", "See CASA's log.")
        exportfits(imagename=str(image), fitsimage=str(folder / f"{suffix}.fits"), overwrite=True)
    return folder / "image.fits", folder / "psf.fits"


def _depth(settings: ImagingConfig, *, masked: bool) -> dict[str, float]:
    """How far a major cycle of tclean cleans, and in which steps."""
    if masked:
        factor, least, gain = settings.cycle_factor, _CYCLE_MIN, settings.loop_gain
    else:
        factor = max(settings.cycle_factor, _UNMASKED_CYCLE_FACTOR)
        least, gain = _UNMASKED_CYCLE_MIN, min(settings.loop_gain, _UNMASKED_GAIN)
    return {"cyclefactor": factor, "minpsffraction": least, "gain": gain}


def _extend_mask(name: Path, settings: ImagingConfig) -> bool:
    """Add bright residuals outside of the mask to it; whether there are any."""
    from casatools import image

    planes = []
    for suffix in (".residual", ".mask"):
        tool = image()
        tool.open(str(name.with_suffix(suffix)))
        planes.append(tool.getchunk())
        tool.done()
    residual, mask = planes
    radius = settings.mask_radius_arcsec / settings.cell_arcsec
    added = bright_residuals(residual[:, :, 0, 0], mask[:, :, 0, 0] > 0, radius)
    if not added.any():
        return False
    mask[:, :, 0, 0] += added
    tool = image()
    tool.open(str(name.with_suffix(".mask")))
    tool.putchunk(mask)
    tool.done()
    return True


def bright_residuals(
    residual: NDArray[np.floating], mask: NDArray[np.bool_], radius_px: float
) -> NDArray[np.bool_]:
    """Pixels around sources outside of a mask; none without a source.

    Sidelobes are as deep as high, so a peak of twice the deepest hole is a source. So is every
    peak of half its height, which is above its own sidelobes.
    """
    from scipy.ndimage import distance_transform_edt

    outside = np.where(mask, 0.0, residual)
    peak = float(outside.max())
    if not peak > -2.0 * float(outside.min()):
        return np.zeros_like(mask)
    distance = distance_transform_edt(outside < peak / 2.0)
    return np.asarray((distance <= radius_px) & ~mask)


def _wsclean(ms: Path, folder: Path, settings: ImagingConfig) -> tuple[Path, Path]:
    size = str(settings.size_px)
    command = [
        "wsclean",
        *("-name", str(folder / "clean"), "-temp-dir", str(folder)),
        *("-size", size, size, "-scale", f"{settings.cell_arcsec}asec"),
        *("-weight", "briggs", str(settings.robust)),
        *("-niter", str(settings.niter), "-nmiter", str(settings.nmajor), "-mgain", "0.8"),
        *("-gain", str(min(settings.loop_gain, _UNMASKED_GAIN))),
        *("-auto-threshold", str(settings.threshold_sigma)),
        *("-data-column", "DATA", "-pol", "I"),
        *("-use-wgridder", "-wgridder-accuracy", "1e-4"),
        *("-j", os.environ.get("OMP_NUM_THREADS", "1")),
        *("-no-update-model-required", "-make-psf"),
        str(ms),
    ]
    log = folder / "wsclean.log"
    with log.open("wb") as output:
        done = subprocess.run(
            command, stdout=output, stderr=subprocess.STDOUT, cwd=folder, check=False
        )
    image = folder / "clean-image.fits"
    if done.returncode != 0 or not image.is_file():
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])
        raise OutputError(
            f"wsclean ended with {done.returncode} and made no image; its last lines:\n{tail}",
            "See WSClean's options; imaging.imager can be set to tclean.",
        )
    return image, folder / "clean-psf.fits"
