"""Images and photometry of a known sky as outputs and committed products."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
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
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.products.manifest import InputEntry, Manifest, file_entries, write_manifest
from absurd_contimg.products.outputs import (
    ContinuumImage,
    ImageOutputs,
    Photometry,
    PhotometryOutputs,
    to_json,
)
from absurd_contimg.products.photometry_table import SourceFlux, write_photometry
from absurd_contimg.products.store import Published, publish
from absurd_contimg.science.catalogue import SkySource, write_catalogue

SHAPE = (400, 400)
RMS = 2e-3
FREQUENCY_HZ = 1.36e9
"""Of an image without its upper sub-bands."""


class SkyField:
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
        folder = self.root / "products/work"
        folder.mkdir(parents=True, exist_ok=True)
        (self.root / "incoming").mkdir(exist_ok=True)
        write_catalogue(self.root / "incoming/catalog.csv", catalogue)
        for name, plane in (("image", pixels), ("beam", self.response)):
            hdu = fits.PrimaryHDU(plane[None, None].astype(np.float32), self.wcs.to_header())
            hdu.header["FREQ-EFF"] = FREQUENCY_HZ
            hdu.writeto(folder / f"{name}.fits", overwrite=True)
        image = described_image(folder)
        inputs: dict[str, Json] = {
            "group_id": "2025-01-02T03:04:05",
            "catalog_path": str(self.root / "incoming/catalog.csv"),
        }
        return PipelineContext(self.config, inputs, to_json(ImageOutputs(image)))

    def commit_image(
        self,
        group_id: str,
        number: int = 1,
        mid_mjd: float = 60123.25,
        unseen: Sequence[str] = (),
    ) -> Published:
        """The image as a committed product; another number is a newer one of the group.

        Sources that are `unseen` are not in it.
        """
        catalogue = self.sources
        self.sources = [s for s in catalogue if s.name not in unseen]
        pixels = self.pixels()
        self.sources = catalogue
        self.context(pixels, self.sources)
        key = product_key(group_id, number)
        output_dir = self.config.paths.output_dir
        image = described_image(output_dir / f"images/{group_id}-{key[:10]}", mid_mjd)
        scratch = self.root / "made" / key
        copytree(self.root / "products/work", scratch)
        outputs = to_json(ImageOutputs(image))
        return commit(scratch, output_dir, "image", group_id, key, outputs, number)


def product_key(group_id: str, number: int) -> str:
    """A key like that of a real product: the same for the same things."""
    return hashlib.blake2b(f"{group_id} {number}".encode(), digest_size=20).hexdigest()


def described_image(folder: Path, mid_mjd: float = 60123.25) -> ContinuumImage:
    """The outputs for the files of an image in a folder."""
    return ContinuumImage(
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
        mid_mjd=mid_mjd,
    )


def commit_photometry(
    output_dir: Path,
    group_id: str,
    rows: Sequence[SourceFlux],
    *,
    measured_in: Any = "image",
    number: int = 1,
) -> Published:
    """A table as a committed product; another number is a newer one of the group."""
    key = product_key(group_id, number)
    scratch = output_dir.parent / "made" / f"{group_id}-{key}"
    scratch.mkdir(parents=True)
    write_photometry(scratch / "table.ecsv", rows)
    table = output_dir / f"photometry/{group_id}-{key[:10]}" / "table.ecsv"
    figures = Photometry(table, measured_in, rows[0].mjd, len(rows), len(rows), 0, None, None, 0)
    outputs = to_json(PhotometryOutputs(figures))
    return commit(scratch, output_dir, "photometry", group_id, key, outputs, number)


def commit(
    scratch: Path,
    output_dir: Path,
    stage: str,
    group_id: str,
    key: str,
    outputs: Mapping[str, Json],
    number: int = 1,
    input_paths: Sequence[Path] = (),
) -> Published:
    """A folder as a committed product of a stage."""
    folder = {"image": "images"}.get(stage, stage)
    location = f"{folder}/{group_id}-{key[:10]}"
    manifest = Manifest(
        stage=stage,
        stage_version=1,
        key=key,
        location=location,
        output_dir=str(output_dir),
        group_id=group_id,
        parameters={},
        inputs=tuple(InputEntry(str(path), "content", "0") for path in input_paths),
        outputs=outputs,
        files=file_entries(scratch),
        software={},
        created_at=f"2026-01-{number:02d}T00:00:00+00:00",
        attempt="1",
        host="here",
    )
    write_manifest(scratch, manifest)
    return publish(scratch, output_dir / location)
