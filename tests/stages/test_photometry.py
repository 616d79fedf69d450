"""The photometry stage on images of known sources: fluxes, colours, a table, and refusals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from numpy.typing import NDArray
from sky_images import (
    BEAM_ANGLE_DEG,
    BEAM_ARCSEC,
    CELL_ARCSEC,
    draw_noise,
    draw_sources,
    random_sources,
    sky_wcs,
)

from absurd_contimg.config import PathsConfig, PipelineConfig
from absurd_contimg.core.records import Json
from absurd_contimg.errors import CorruptInputError, DataQualityError, MissingInputError
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.stage import Workspace
from absurd_contimg.execution.stage_process import run_stage
from absurd_contimg.products.outputs import ContinuumImage, ImageOutputs, to_json
from absurd_contimg.products.photometry_table import SourceFlux, read_photometry
from absurd_contimg.science.catalogue import SkySource, write_catalogue
from absurd_contimg.stages.photometry import PhotometryStage

SHAPE = (400, 400)
RMS = 2e-3
FREQUENCY_HZ = 1.36e9
"""Of an image without its upper sub-bands."""


class _Sky:
    """Writes an image as the image stage does, and the catalogue of its sources."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = PipelineConfig(paths=PathsConfig.below(root))
        self.wcs = sky_wcs(SHAPE, ra_deg=0.0)
        rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
        self.response = np.exp(-((columns - 200.0) ** 2 + (rows - 200.0) ** 2) / 180.0**2)
        sources = random_sources(np.random.default_rng(4), self.wcs, SHAPE, 20, (0.2, 2.0))
        self.sources = [
            SkySource(s.name, s.ra_deg, s.dec_deg, s.flux_jy, spectral_index=-0.8) for s in sources
        ]

    def pixels(self) -> NDArray[np.float64]:
        """The apparent sky at the frequency of the image, with noise."""
        apparent = []
        for s in self.sources:
            x, y = self.wcs.wcs_world2pix(s.ra_deg, s.dec_deg, 0)
            response = self.response[round(float(y)), round(float(x))]
            flux = float(s.flux_at(np.array(FREQUENCY_HZ))) * response
            apparent.append(SkySource(s.name, s.ra_deg, s.dec_deg, flux))
        noise = draw_noise(np.random.default_rng(9), SHAPE, RMS, width=1 / np.sqrt(2))
        return noise + draw_sources(self.wcs, SHAPE, apparent)

    def context(
        self, pixels: NDArray[np.float64], catalogue: Sequence[SkySource]
    ) -> PipelineContext:
        """The context after the image stage."""
        folder = self.root / "products/images"
        folder.mkdir(parents=True, exist_ok=True)
        (self.root / "incoming").mkdir(exist_ok=True)
        write_catalogue(self.root / "incoming/catalog.csv", catalogue)
        for name, plane in (("image", pixels), ("beam", self.response)):
            hdu = fits.PrimaryHDU(plane[None, None].astype(np.float32), self.wcs.to_header())
            hdu.header["FREQ-EFF"] = FREQUENCY_HZ
            hdu.writeto(folder / f"{name}.fits", overwrite=True)
        image = ContinuumImage(
            path=folder / "image.fits",
            pb_corrected_path=folder / "image.fits",
            beam_path=folder / "beam.fits",
            ms_path=folder / "x.ms",
            imager="tclean",
            rms_jy=RMS,
            peak_jy=1.0,
            dynamic_range=1.0 / RMS,
            bmaj_arcsec=BEAM_ARCSEC[0],
            bmin_arcsec=BEAM_ARCSEC[1],
            bpa_deg=BEAM_ANGLE_DEG,
            size_px=SHAPE[0],
            cell_arcsec=CELL_ARCSEC,
            ra_deg=0.0,
            dec_deg=16.0,
            mid_mjd=60123.25,
        )
        inputs: dict[str, Json] = {
            "group_id": "2025-01-02T03:04:05",
            "catalog_path": str(self.root / "incoming/catalog.csv"),
        }
        return PipelineContext(self.config, inputs, to_json(ImageOutputs(image)))


@pytest.fixture
def sky(tmp_path: Path) -> _Sky:
    return _Sky(tmp_path)


@pytest.fixture
def measure(workspace: Workspace) -> Callable[[PipelineContext], list[SourceFlux]]:
    """Runs the stage and reads its table."""

    def run(context: PipelineContext) -> list[SourceFlux]:
        stage = PhotometryStage()
        stage.validate(context)
        run_stage(stage, context, workspace)
        return read_photometry(workspace.product / f"{context.group_id}-photometry.ecsv")

    return run


def test_fluxes_are_the_catalogues_whatever_the_beam_and_the_frequency(
    sky: _Sky, measure: Callable[[PipelineContext], list[SourceFlux]]
) -> None:
    """Corrected for the primary beam, at the catalogue's frequency, also across RA 0 h."""
    elsewhere = SkySource("elsewhere", 90.0, -20.0, 1.0)
    faint = SkySource("faint", *(float(v) for v in sky.wcs.wcs_pix2world(5, 5, 0)), 1.0)
    rows = measure(sky.context(sky.pixels(), [*sky.sources, elsewhere, faint]))
    # All in the beam: neither beyond the horizon, nor where the response is below 0.2.
    seen = {row.source for row in rows}
    assert {"elsewhere", "faint"}.isdisjoint(seen)
    assert len(seen) > 15
    pulls = []
    for row in rows:
        source = next(s for s in sky.sources if s.name == row.source)
        assert (row.ra_deg, row.dec_deg, row.mjd) == (source.ra_deg, source.dec_deg, 60123.25)
        assert row.response >= 0.2
        assert row.flux_jy is not None
        assert row.error_jy is not None
        assert row.error_jy * row.response == pytest.approx(1.17 * RMS, rel=0.35)
        assert row.flux_jy == pytest.approx(source.flux_jy, rel=0.01, abs=4 * row.error_jy)
        pulls.append((row.flux_jy - source.flux_jy) / row.error_jy)
    assert np.std(pulls) < 1.6


def test_outputs_sum_up_the_table(sky: _Sky, workspace: Workspace) -> None:
    """The median ratio is of bright sources without neighbours."""
    context = sky.context(sky.pixels() * 1.1, sky.sources)
    figures = PhotometryStage().execute(context, workspace).photometry
    rows = read_photometry(workspace.product / figures.table.name)
    assert figures.table.parent == workspace.committed
    assert figures.n_sources == figures.n_measured == len(rows)
    assert figures.n_blended == sum("blended" in row.flags for row in rows)
    assert figures.flux_ratio_n > 10
    assert figures.flux_ratio_median == pytest.approx(1.1, rel=0.01)


def test_an_image_without_noise_is_refused(sky: _Sky, workspace: Workspace) -> None:
    """All errors would be zero."""
    context = sky.context(np.zeros(SHAPE), sky.sources)
    with pytest.raises(DataQualityError, match=r"image\.fits has no noise"):
        PhotometryStage().execute(context, workspace)


def test_two_sources_of_one_name_are_refused(sky: _Sky, workspace: Workspace) -> None:
    """Their light curves could not be told apart."""
    context = sky.context(sky.pixels(), [*sky.sources, sky.sources[3]])
    with pytest.raises(CorruptInputError, match=r"catalog\.csv has 2 sources named 'S3'"):
        PhotometryStage().execute(context, workspace)


def test_what_is_missing_is_named(sky: _Sky) -> None:
    """The image of the group, or the catalogue."""
    context = sky.context(sky.pixels(), sky.sources)
    without = PipelineContext(sky.config, context.inputs)
    with pytest.raises(MissingInputError, match="no image of 2025-01-02T03:04:05"):
        PhotometryStage().validate(without)
    (sky.root / "incoming/catalog.csv").unlink()
    with pytest.raises(MissingInputError, match=r"catalog\.csv does not exist"):
        PhotometryStage().validate(context)
