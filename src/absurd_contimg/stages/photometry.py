"""Stage ``photometry``: the fluxes of all catalogue sources in an image or a mosaic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from absurd_contimg.config import PipelineConfig
from absurd_contimg.config.photometry import PhotometryConfig
from absurd_contimg.errors import (
    BrokenProductError,
    CorruptInputError,
    DataQualityError,
    MissingInputError,
    OutputError,
)
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.stage import Parameters, PipelineStage, Workspace
from absurd_contimg.products.mosaic_outputs import MosaicImage, MosaicOutputs, TileTable
from absurd_contimg.products.outputs import (
    ContinuumImage,
    ImageOutputs,
    Photometry,
    PhotometryOutputs,
    from_json,
    names,
)
from absurd_contimg.products.photometry_table import (
    UNCATALOGUED,
    SourceFlux,
    read_photometry,
    write_photometry,
)
from absurd_contimg.regular_files import read_json
from absurd_contimg.science.catalogue import REFERENCE_FREQUENCY_HZ, SkySource, read_catalogue
from absurd_contimg.science.noise_map import NoiseMap
from absurd_contimg.science.photometry import (
    BLENDED,
    Flux,
    PhotometryImage,
    TileWeights,
    measure_fluxes,
)
from absurd_contimg.science.restoring_beams import RestoringBeam
from absurd_contimg.science.uncatalogued import find_uncatalogued
from absurd_contimg.stages.image import read_whole

_CORRELATION_BEAMS = 2.0
"""The noise's correlation is measured up to this many major axes."""
_TABLE_BYTES = 16_000_000
"""Space for the table: 160 bytes for each source of a dense catalogue."""


class PhotometryStage(PipelineStage[PhotometryOutputs]):
    """Measures the sources of the sky catalogue, the input ``catalog_path``.

    The context has the outputs of an image stage or of a mosaic stage; a mosaic comes first.
    """

    name = "photometry"
    provides = names(PhotometryOutputs)
    requires = frozenset({"catalog_path"})
    runs_after = names(ImageOutputs, MosaicOutputs)
    product_folder = "photometry"

    @override
    def parameters(self, context: PipelineContext) -> Parameters:
        dish = context.config.beam.dish_diameter_m
        return context.config.photometry.model_dump(mode="json") | {"dish_diameter_m": dish}

    @override
    def input_paths(self, context: PipelineContext) -> list[Path]:
        return [*Target.of(context).paths, _catalogue(context)]

    @override
    def expected_bytes(self, context: PipelineContext) -> int:
        return _TABLE_BYTES

    @override
    def validate(self, context: PipelineContext) -> None:
        if not (catalogue := _catalogue(context)).is_file():
            raise MissingInputError(f"the catalogue {catalogue} does not exist.", "Restore it.")
        for path in Target.of(context).paths:
            require_image(path, context.group_id)

    @override
    def execute(self, context: PipelineContext, workspace: Workspace) -> PhotometryOutputs:
        settings, target = context.config.photometry, Target.of(context)
        image, frequency_hz = target.read(context.config)
        if not np.isfinite(image.noise.local).any():
            raise DataQualityError(
                f"{target.pixels} has no noise: it is blank or constant.", "Image again."
            )
        catalogue = read_catalogue(_catalogue(context))
        response_min = settings.response_min
        fluxes = measure_fluxes(image, catalogue, settings.joint_fit_beams, response_min)
        others = find_uncatalogued(
            image,
            catalogue,
            fluxes,
            settings.uncatalogued_sigma_min,
            response_min,
            settings.uncatalogued_max,
        )
        if others:
            sources = [*catalogue, *others]
            fluxes = measure_fluxes(image, sources, settings.joint_fit_beams, response_min)
        rows = [
            _row(catalogue[index], flux, target.mid_mjd, frequency_hz)
            if index < len(catalogue)
            else _uncatalogued_row(sources[index], flux, target.mid_mjd)
            for index, flux in fluxes.items()
        ]
        path = workspace.product / f"{context.group_id}-photometry.ecsv"
        write_photometry(path, rows)
        return PhotometryOutputs(summarise(rows, settings, workspace.final_path(path), target))

    @override
    def validate_outputs(
        self, context: PipelineContext, workspace: Workspace, outputs: PhotometryOutputs
    ) -> None:
        rows = read_photometry(workspace.product / outputs.photometry.table.name)
        if len(rows) != outputs.photometry.n_sources:
            raise OutputError(
                f"{outputs.photometry.table.name} has {len(rows)} rows instead of "
                f"{outputs.photometry.n_sources}."
            )


def require_image(path: Path, name: str) -> None:
    """Raise `BrokenProductError` if a file of the image of a group or window is gone."""
    if not path.is_file():
        raise BrokenProductError(
            f"{path}, of the image of {name}, is not there.",
            "Restore it, or make it again (contimg reprocess plan, then start; of a window: "
            f"contimg mosaic make {name}); then: contimg photometry {name} --make.",
        )


@dataclass(frozen=True, slots=True)
class Target:
    """An image to measure in, by its files."""

    pixels: Path
    plane: Path
    """The response of an image; the weights of a mosaic, whose response is 1."""
    tiles: Path | None
    """The table of a mosaic's tiles; None: it is no mosaic."""
    beam: RestoringBeam
    mid_mjd: float

    @classmethod
    def of(cls, context: PipelineContext) -> Target:
        """The mosaic or else the image of the context; `MissingInputError` without either."""
        described: ContinuumImage | MosaicImage
        tiles: Path | None = None
        if names(MosaicOutputs) <= context.outputs.keys():
            described = context.outputs_of(MosaicOutputs).mosaic
            plane, tiles = described.weight_path, described.tiles_path
        elif names(ImageOutputs) <= context.outputs.keys():
            described = context.outputs_of(ImageOutputs).image
            plane = described.beam_path
        else:
            raise MissingInputError(
                f"There is no image of {context.group_id} to measure in.", "Make its image first."
            )
        beam = RestoringBeam(described.bmaj_arcsec, described.bmin_arcsec, described.bpa_deg)
        return cls(described.path, plane, tiles, beam, described.mid_mjd)

    @property
    def paths(self) -> list[Path]:
        """All of its files."""
        return [self.pixels, self.plane, *([] if self.tiles is None else [self.tiles])]

    def read(self, config: PipelineConfig) -> tuple[PhotometryImage, float | None]:
        """The image, and the frequency of its fluxes in Hz if its header tells."""
        from astropy.wcs import WCS

        header, pixels = _read_plane(self.pixels)
        _, plane = _read_plane(self.plane)
        wcs = WCS(header).celestial
        beam_px = self.beam.major_arcsec / 3600.0 / float(np.min(np.abs(wcs.wcs.cdelt)))
        box, reach = config.photometry.noise_box_beams * beam_px, _CORRELATION_BEAMS * beam_px
        frequency = header.get("FREQ-EFF")
        frequency_hz = None if frequency is None else float(frequency)
        smearing = float(header.get("SMEARING", 0.0))  # which earlier versions do not have
        if self.tiles is None:
            noise = NoiseMap.measure(pixels, box, reach)
            image = PhotometryImage(pixels, noise, plane, wcs, self.beam, smearing=smearing)
        else:
            expected = np.where(plane > 0, 1.0 / np.sqrt(np.where(plane > 0, plane, 1.0)), np.nan)
            image = PhotometryImage(
                pixels,
                NoiseMap.measure(pixels, box, reach, expected),
                None,
                wcs,
                self.beam,
                beam_follows_north=True,
                smearing=smearing,
                tiles=_tile_weights(self.tiles, config.beam.dish_diameter_m, frequency_hz),
            )
        return image, frequency_hz


def _tile_weights(path: Path, dish_diameter_m: float, frequency_hz: float | None) -> TileWeights:
    try:
        table = from_json(TileTable, read_json(path))
    except ValueError as error:
        raise CorruptInputError(
            f"the tile table {path} cannot be read ({error}).", "Make the mosaic again."
        ) from error
    return TileWeights(
        tuple((tile.ra_deg, tile.dec_deg) for tile in table.used),
        tuple(tile.noise_jy for tile in table.used),
        dish_diameter_m,
        frequency_hz or REFERENCE_FREQUENCY_HZ,
    )


def _catalogue(context: PipelineContext) -> Path:
    return Path(str(context.inputs["catalog_path"]))


def _read_plane(path: Path) -> tuple[Any, NDArray[np.float64]]:
    header, data = read_whole(path, CorruptInputError)
    return header, data.astype(float).reshape(data.shape[-2:])


def _row(source: SkySource, flux: Flux, mjd: float, frequency_hz: float | None) -> SourceFlux:
    """The row of a source, with its flux at the catalogue's frequency.

    Missing sub-bands move the frequency of an image, which would look like a variable source.
    """
    colour = 1.0
    if frequency_hz is not None:
        colour = source.flux_jy / float(source.flux_at(np.array(frequency_hz)))
    values = (
        None if value is None or not math.isfinite(value) else value * colour
        for value in (flux.flux_jy, flux.error_jy, flux.noise_jy)
    )
    flux_jy, error_jy, noise_jy = values
    return SourceFlux(
        source=source.name,
        ra_deg=source.ra_deg % 360.0,
        dec_deg=source.dec_deg,
        mjd=mjd,
        flux_jy=flux_jy,
        error_jy=error_jy,
        catalogue_jy=source.flux_jy,
        noise_jy=noise_jy,
        response=flux.response,
        n_neighbours=flux.n_neighbours,
        flags=flux.flags,
    )


def _uncatalogued_row(source: SkySource, flux: Flux, mjd: float) -> SourceFlux:
    """The row of a source without a catalogue flux; its spectrum is taken as flat."""
    flags = (UNCATALOGUED, *flux.flags)
    return replace(_row(source, flux, mjd, None), catalogue_jy=None, flags=flags)


def summarise(
    rows: Sequence[SourceFlux], settings: PhotometryConfig, table: Path, target: Target
) -> Photometry:
    """The figures of a table."""
    errors = [row.error_jy for row in rows if row.error_jy is not None]
    ratios = [
        row.flux_jy / row.catalogue_jy
        for row in rows
        if row.catalogue_jy is not None
        and row.flux_jy is not None
        and row.error_jy is not None
        and not row.flags
        and row.flux_jy >= settings.ratio_snr_min * row.error_jy
    ]
    return Photometry(
        table=table,
        measured_in="image" if target.tiles is None else "mosaic",
        mid_mjd=target.mid_mjd,
        n_sources=len(rows),
        n_measured=len(errors),
        n_uncatalogued=sum(UNCATALOGUED in row.flags for row in rows),
        n_blended=sum(BLENDED in row.flags for row in rows),
        error_median_jy=float(np.median(errors)) if errors else None,
        flux_ratio_median=float(np.median(ratios)) if ratios else None,
        flux_ratio_n=len(ratios),
    )
