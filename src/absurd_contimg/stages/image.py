"""Stage ``image``: a cleaned image, the response over the group, and their quotient.

CASA's own correction knows one pointing only and is 4 to 6 % wrong here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from absurd_contimg.errors import DataQualityError, OutputError, UserError
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.stage import (
    TABLES_BYTES,
    Parameters,
    PipelineStage,
    Resource,
    Workspace,
)
from absurd_contimg.products.outputs import (
    CalibrateApplyOutputs,
    CatalogSetupOutputs,
    ContinuumImage,
    ImageOutputs,
    MeasurementSet,
    names,
)
from absurd_contimg.science.beam import BeamCentres
from absurd_contimg.science.catalogue import read_catalogue, unit_vectors
from absurd_contimg.science.imagers import check_imager, clean_regions, run_imager
from absurd_contimg.science.measurement_set import channel_frequencies, check_table, working_copy
from absurd_contimg.science.noise import robust_rms
from absurd_contimg.science.response import effective_frequency, peak_response, smearing_width
from absurd_contimg.science.total_intensity import write_total_intensity

_UNWANTED_KEYS = (
    *("DATE", "HISTORY", "ORIGIN", "MPIPROCS", "CHNCHNKS", "MEMREQ", "MEMAVAIL", "USEWEIGH"),
    *("OBSGEO-X", "OBSGEO-Y", "OBSGEO-Z", "OBSERVER", "DISTANCE"),
)
"""CASA's header keys of the machine and the time of the run. Without them equal data give equal
files; the manifest has both. CASA's observatory position is another telescope's."""
_MAYBE_FLAGGED = "All data may be flagged; see the imager's log."


_PLANES = 12
"""Images of the pixels and of the spread function, residuals, model, beam; what is kept of them."""


class ImageStage(PipelineStage[ImageOutputs]):
    """Images the calibrated data and writes three FITS files."""

    name = "image"
    version = 2
    resource = Resource.IMAGING
    requires = names(CalibrateApplyOutputs, CatalogSetupOutputs)
    provides = names(ImageOutputs)
    product_folder = "images"
    bytes_min = TABLES_BYTES

    @override
    def parameters(self, context: PipelineContext) -> Parameters:
        return {
            "imaging": context.config.imaging.model_dump(mode="json"),
            "beam": context.config.beam.model_dump(mode="json"),
        }

    @override
    def input_paths(self, context: PipelineContext) -> list[Path]:
        catalog = context.outputs_of(CatalogSetupOutputs).catalog
        return [context.outputs_of(CalibrateApplyOutputs).calibrated_ms.path, catalog.path]

    @override
    def expected_bytes(self, context: PipelineContext) -> int:
        """Also the planes of the imager, of 4 bytes a pixel, whatever the size of the data."""
        return super().expected_bytes(context) + 4 * _PLANES * context.config.imaging.size_px**2

    @override
    def validate(self, context: PipelineContext) -> None:
        check_imager(context.config.imaging)
        ms = context.outputs_of(CalibrateApplyOutputs).calibrated_ms
        check_table(ms.path)
        BeamCentres.read(ms.beam_centres)
        if ms.flagged_fraction >= 1.0:
            raise DataQualityError(
                f"all data of {ms.path.name} are flagged: there is nothing to image.",
                "Look at what flagged them.",
            )

    @override
    def execute(self, context: PipelineContext, workspace: Workspace) -> ImageOutputs:
        config = context.config
        ms = context.outputs_of(CalibrateApplyOutputs).calibrated_ms
        # tclean locks what it images and may write into it.
        copier = write_total_intensity if config.imaging.imager == "tclean" else working_copy
        copy = copier(ms.path, workspace.temporary)
        sources = read_catalogue(context.outputs_of(CatalogSetupOutputs).catalog.path)
        regions = clean_regions(sources, ms.ra_deg, ms.dec_deg, config.imaging)
        image, psf = run_imager(copy, workspace.temporary, config.imaging, regions)
        header, pixels = read_whole(image)
        psf_peak = float(np.nanmax(read_whole(psf)[1]))
        if not abs(psf_peak - 1.0) < 0.01:
            text = f"the point spread function peaks at {psf_peak:.3f} instead of 1."
            raise OutputError(text, _MAYBE_FLAGGED)
        _describe(header, context, ms)
        header["FREQ-EFF"] = (effective_frequency(ms.path), "mean over unflagged data, Hz")
        smearing = smearing_width(header, ms, config)
        header["SMEARING"] = (smearing, "radial width over radius, by channel widths")
        beam = peak_response(header, ms, config)
        corrected = np.where(beam >= config.beam.cutoff, pixels / beam, np.nan)
        paths = {}
        for kind, data in (("image", pixels), ("image-pb", corrected), ("beam", beam)):
            path = workspace.product / f"{context.group_id}-{kind}.fits"
            paths[kind] = workspace.final_path(path)
            _write(path, header, np.broadcast_to(data, pixels.shape), kind)
        plane = pixels.reshape(pixels.shape[-2:])
        rms = robust_rms(plane[beam >= config.beam.cutoff])
        peak = float(np.nanmax(plane))
        return ImageOutputs(
            ContinuumImage(
                path=paths["image"],
                pb_corrected_path=paths["image-pb"],
                beam_path=paths["beam"],
                ms_path=ms.path,
                imager=config.imaging.imager,
                rms_jy=rms,
                peak_jy=peak,
                dynamic_range=peak / rms if rms > 0 else 0.0,
                bmaj_arcsec=float(header["BMAJ"]) * 3600.0,
                bmin_arcsec=float(header["BMIN"]) * 3600.0,
                bpa_deg=float(header["BPA"]),
                size_px=config.imaging.size_px,
                cell_arcsec=config.imaging.cell_arcsec,
                ra_deg=ms.ra_deg,
                dec_deg=ms.dec_deg,
                mid_mjd=ms.mid_mjd,
            )
        )

    @override
    def validate_outputs(
        self, context: PipelineContext, workspace: Workspace, outputs: ImageOutputs
    ) -> None:
        size = context.config.imaging.size_px
        image = outputs.image
        for path in (image.path, image.pb_corrected_path, image.beam_path):
            _, data = read_whole(workspace.product / path.name)
            if (shape := data.shape[-2:]) != (size, size):
                raise OutputError(f"{path.name} has {shape} pixels instead of {size} x {size}.")
            if not np.isfinite(data).any():
                raise OutputError(f"{path.name} has no finite pixel.", "See the imager's log.")
        if not image.rms_jy > 0:
            raise OutputError(
                f"the image of group {context.group_id} is empty: its noise is {image.rms_jy}.",
                _MAYBE_FLAGGED,
            )


def aberration_scale(ra_deg: float, dec_deg: float, mjd: float) -> float:
    """True over apparent angular scale around a position (annual aberration), good to 1e-8.

    The reciprocal of 1 - v.s / c, with the Earth's velocity v from the IAU's SOFA routines.
    """
    import erfa

    _, barycentric = erfa.epv00(2400000.5, mjd)
    # AU per day to units of the speed of light.
    velocity = np.asarray(barycentric["v"], dtype=float) * 499.004784 / 86400.0
    direction = unit_vectors(np.radians(np.array(ra_deg)), np.radians(np.array(dec_deg)))
    return float(1.0 + velocity @ direction)


def doppler_scale(header: Any, ms: Path) -> float:
    """True over nominal pixel scale of an image gridded in another frequency frame.

    Positions scale with the ratio of the image's and the telescope's frequencies, whatever
    ``outframe`` is (measured 5.4e-5, computed 4.9e-5 to 5.5e-5; at most 1.7e-4).
    """
    if not str(header.get("SPECSYS", "")).startswith("LSR"):
        return 1.0
    channels = channel_frequencies(ms)
    return float(header["CRVAL3"]) / float((channels[0] + channels[-1]) / 2.0)


def _describe(header: Any, context: PipelineContext, ms: MeasurementSet) -> None:
    """Correct the pixel scale and write the image's origin into the header."""
    from astropy.time import Time

    if context.config.imaging.correct_scale:
        aberration = aberration_scale(ms.ra_deg, ms.dec_deg, ms.mid_mjd)
        doppler = doppler_scale(header, ms.path)
        for axis in ("CDELT1", "CDELT2"):
            header[axis] = float(header[axis]) * aberration * doppler
        header["ABSCALE"] = (aberration, "pixel scale corrected for annual aberration")
        header["DOPSCALE"] = (doppler, "and for the imager's frequency frame")
    header["OBJECT"] = context.group_id
    header["MJD-MID"] = (ms.mid_mjd, "middle of the observation, UTC")
    header["MJD-OBS"] = (ms.start_mjd, "start of the observation, UTC")
    # The imager's own is the middle of the first integration; FITS has one moment for both.
    header["DATE-OBS"] = (Time(ms.start_mjd, format="mjd", precision=6).isot, "as MJD-OBS")
    header["TELESCOP"] = header["INSTRUME"] = "DSA-110"
    for key in _UNWANTED_KEYS:
        while key in header:
            del header[key]


def read_whole(
    path: Path, failure: type[UserError] = OutputError
) -> tuple[Any, NDArray[np.float32]]:
    """Header and pixels; `failure` if it is not whole: exportfits ignores a full disk."""
    from astropy.io import fits

    try:
        with fits.open(path, memmap=False) as hdus:
            return hdus[0].header, np.asarray(hdus[0].data, dtype=np.float32)
    except (OSError, TypeError, ValueError, fits.VerifyError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the operating system's error decides how the failure is handled
        raise failure(f"the FITS image {path} cannot be read: {error}.", "Image again.") from error


def _write(path: Path, header: Any, data: NDArray[Any], kind: str) -> None:
    from astropy.io import fits

    header = header.copy()
    header["BUNIT"] = "" if kind == "beam" else "Jy/beam"
    header["BTYPE"] = "Beam" if kind == "beam" else "Intensity"
    fits.PrimaryHDU(np.asarray(data, dtype=np.float32), header).writeto(path, overwrite=True)
