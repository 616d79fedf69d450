"""Stage ``validate``: the image against the catalogue, and a verdict.

A bad image is not an error: the group ends degraded, with the gates that failed. Needs astropy,
not CASA.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from absurd_contimg.config import ValidationConfig
from absurd_contimg.core.records import Json
from absurd_contimg.errors import CorruptInputError, MissingInputError
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.stage import PipelineStage, Workspace
from absurd_contimg.products.outputs import (
    CatalogSetupOutputs,
    ContinuumImage,
    FlagOutputs,
    ImageOutputs,
    SourceCheck,
    ValidateOutputs,
    Validation,
    names,
    to_json,
)
from absurd_contimg.science.catalogue import (
    SkySource,
    read_catalogue,
    separation_rad,
    source_vectors,
    tangent_offsets_arcsec,
)
from absurd_contimg.science.source_fitting import fit_peak


class ValidateStage(PipelineStage[ValidateOutputs]):
    """Measures every catalogue source that should be seen, and applies the gates."""

    name = "validate"
    requires = names(ImageOutputs, CatalogSetupOutputs, FlagOutputs)
    provides = names(ValidateOutputs)
    product_folder: ClassVar[str | None] = "validation"

    @override
    def parameters(self, context: PipelineContext) -> Mapping[str, Json]:
        settings = context.config.validation.model_dump(mode="json")
        return {**settings, **({"gently_flagged": True} if _is_gently_flagged(context) else {})}

    @override
    def input_paths(self, context: PipelineContext) -> list[Path]:
        image = context.outputs_of(ImageOutputs).image
        return [image.path, image.beam_path, context.outputs_of(CatalogSetupOutputs).catalog.path]

    @override
    def validate(self, context: PipelineContext) -> None:
        image = context.outputs_of(ImageOutputs).image
        for path in (image.path, image.beam_path):
            if not path.is_file():
                raise MissingInputError(f"the image {path} does not exist.", "Image again.")

    @override
    def execute(self, context: PipelineContext, workspace: Workspace) -> ValidateOutputs:
        settings = context.config.validation
        image = _Image.read(context.outputs_of(ImageOutputs).image)
        catalogue = read_catalogue(context.outputs_of(CatalogSetupOutputs).catalog.path)
        checks = check_sources(image, catalogue, settings)
        path = workspace.product / f"{context.group_id}-validation.json"
        report, gentle = workspace.final_path(path), _is_gently_flagged(context)
        validation = summarise(checks, image, settings, report, gently_flagged=gentle)
        figures = to_json(validation)
        del figures["report"]  # that is this file
        rows = [{key: _rounded(value, key) for key, value in asdict(c).items()} for c in checks]
        content = json.dumps({**figures, "sources": rows}, indent=1)
        path.write_text(content + "\n", encoding="utf-8")
        return ValidateOutputs(validation)


@dataclass(frozen=True, slots=True)
class _Image:
    """Uncorrected pixels, mean beam and coordinates."""

    pixels: NDArray[np.float64]
    beam: NDArray[np.float64]
    wcs: Any
    frequency_hz: float
    described: ContinuumImage

    @classmethod
    def read(cls, described: ContinuumImage) -> _Image:
        from astropy.io import fits
        from astropy.wcs import WCS

        planes = []
        for path in (described.path, described.beam_path):
            try:
                with fits.open(path, memmap=False) as hdus:
                    header, data = hdus[0].header, hdus[0].data
            except OSError as error:
                text = f"{path} cannot be read ({error})."
                raise CorruptInputError(text, "Image again.") from error
            planes.append(np.asarray(data, dtype=float).reshape(data.shape[-2:]))
        pixels, beam = planes
        return cls(pixels, beam, WCS(header).celestial, float(header["FREQ-EFF"]), described)


def check_sources(
    image: _Image, catalogue: Sequence[SkySource], settings: ValidationConfig
) -> list[SourceCheck]:
    """One row for each catalogue source that the image should show, brightest first."""
    vectors = source_vectors(catalogue)
    checks = []
    for index, source in enumerate(catalogue):
        response = _response(image, source)
        snr = source.flux_jy * response / image.described.rms_jy
        if response < settings.beam_response_min or snr < settings.snr_min:
            continue
        separation = np.degrees(separation_rad(vectors, vectors[index])) * 3600.0
        near = separation < settings.isolation_beams * image.described.bmaj_arcsec
        neighbours = [s for k, s in enumerate(catalogue) if near[k] and k != index]
        isolated = all(s.flux_jy < 0.02 * source.flux_jy for s in neighbours)
        checks.append(_measure(image, source, response, snr, isolated, settings))
    return sorted(checks, key=lambda c: -c.flux_jy)


def _response(image: _Image, source: SkySource) -> float:
    """The mean beam at a source; 0 outside the image."""
    x, y = (float(v) for v in image.wcs.wcs_world2pix(source.ra_deg, source.dec_deg, 0))
    height, width = image.beam.shape
    if not (math.isfinite(x) and 0 <= x <= width - 1 and 0 <= y <= height - 1):
        return 0.0
    value = float(image.beam[round(y), round(x)])
    return value if math.isfinite(value) else 0.0


def _measure(
    image: _Image,
    source: SkySource,
    response: float,
    snr: float,
    isolated: bool,
    settings: ValidationConfig,
) -> SourceCheck:
    base = (source.name, source.ra_deg, source.dec_deg, source.flux_jy, response, snr, isolated)
    x, y = (float(v) for v in image.wcs.wcs_world2pix(source.ra_deg, source.dec_deg, 0))
    peak = fit_peak(image.pixels, x, y, settings.match_radius_arcsec / image.described.cell_arcsec)
    if peak is None or peak.height < 0.3 * source.flux_jy * response:
        return SourceCheck(*base)
    ra, dec = (float(v) for v in image.wcs.wcs_pix2world(peak.x, peak.y, 0))
    east, north = tangent_offsets_arcsec(source, ra, dec)
    # Back to the catalogue's frequency, from which missing sub-bands may have moved the image.
    colour = source.flux_jy / float(source.flux_at(np.array(image.frequency_hz)))
    measured = peak.height / response * colour
    return SourceCheck(
        *base, measured, measured / source.flux_jy, east, north, math.hypot(east, north)
    )


def summarise(
    checks: Sequence[SourceCheck],
    image: _Image,
    settings: ValidationConfig,
    report: Path,
    *,
    gently_flagged: bool,
) -> Validation:
    """Statistics, the gates that failed, and the verdict."""
    compared = [c for c in checks if c.isolated]
    matched = [c for c in compared if c.measured_jy is not None]
    strong = [c for c in matched if c.snr >= settings.gate_snr_min] or matched
    # NaN stands for a source that is not there, so that statistics of nothing are NaN.
    ratios = np.array([c.flux_ratio for c in strong] or [math.nan], dtype=float)
    errors = np.array([c.position_error_arcsec for c in strong] or [math.nan], dtype=float)
    completeness = len(matched) / len(compared) if compared else math.nan
    dynamic_range = image.described.peak_jy / image.described.rms_jy
    flux_median, position_median = float(np.median(ratios)), float(np.median(errors))
    gates = {
        "dynamic_range": dynamic_range >= settings.dynamic_range_min,
        # With nothing to compare, neither flux nor position can fail.
        "completeness": not completeness < settings.completeness_min,
        "flux": not abs(flux_median - 1.0) > settings.flux_error_max,
        "position": not position_median > settings.position_error_max_arcsec,
        "flagging": not gently_flagged,
    }
    failed = tuple(name for name, passed in gates.items() if not passed)
    return Validation(
        report=report,
        verdict="degraded" if failed else "clean",
        failed_gates=failed,
        n_expected=len(compared),
        n_matched=len(matched),
        completeness=_rounded(completeness),
        rms_jy=_rounded(image.described.rms_jy),
        dynamic_range=_rounded(dynamic_range),
        flux_ratio_median=_rounded(flux_median),
        flux_ratio_scatter=_rounded(float(ratios.std())),
        flux_error_max=_rounded(float(np.abs(ratios - 1).max())),
        position_error_median_arcsec=_rounded(position_median),
        position_error_max_arcsec=_rounded(float(errors.max())),
    )


def _rounded(value: Any, name: str = "") -> Any:
    """A float to six figures, except positions; None, which JSON can hold, for not-a-number."""
    if not isinstance(value, float) or name.endswith("_deg"):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _is_gently_flagged(context: PipelineContext) -> bool:
    """Whether the usual cut-off flagged too much of the data."""
    return context.outputs_of(FlagOutputs).flagged_ms.gentler
