"""Stage ``validate``: the image against the catalogue; a bad image ends degraded, without error."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from absurd_contimg.config import ValidationConfig
from absurd_contimg.errors import CorruptInputError, MissingInputError
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.stage import Parameters, PipelineStage, Workspace
from absurd_contimg.products.outputs import (
    CatalogSetupOutputs,
    ContinuumImage,
    FlagOutputs,
    ImageOutputs,
    SelectCalibrationOutputs,
    SourceCheck,
    ValidateOutputs,
    Validation,
    names,
    to_json,
)
from absurd_contimg.products.verdicts import CLEAN, DEGRADED
from absurd_contimg.science.catalogue import (
    SkySource,
    read_catalogue,
    separation_rad,
    source_vectors,
    tangent_offsets_arcsec,
)
from absurd_contimg.science.source_fitting import fit_peak
from absurd_contimg.stages.image import read_whole


class ValidateStage(PipelineStage[ValidateOutputs]):
    """Measures every catalogue source that should be seen, and applies the gates."""

    name = "validate"
    requires = names(ImageOutputs, CatalogSetupOutputs, FlagOutputs)
    provides = names(ValidateOutputs)
    product_folder = "validation"

    @override
    def parameters(self, context: PipelineContext) -> Parameters:
        settings = context.config.validation.model_dump(mode="json")
        gentler = context.outputs_of(FlagOutputs).flagged_ms.gentler
        return (
            settings
            | ({"gently_flagged": True} if gentler else {})
            | ({"distant_calibration": True} if _is_distant(context) else {})
        )

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
        noise = judge_noise(checks, image, catalogue, settings)
        path = workspace.product / f"{context.group_id}-validation.json"
        gentle = context.outputs_of(FlagOutputs).flagged_ms.gentler
        report = workspace.final_path(path)
        validation = summarise(
            checks,
            image,
            settings,
            report,
            noise,
            gently_flagged=gentle,
            distant=_is_distant(context),
        )
        figures = to_json(validation)
        del figures["report"]  # that is this file
        rows = [{key: rounded(value, key) for key, value in asdict(c).items()} for c in checks]
        figures["sources"] = rows
        path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        return ValidateOutputs(validation)


def _is_distant(context: PipelineContext) -> bool:
    """Whether the calibration is from beyond the reach; an image alone has none."""
    if not names(SelectCalibrationOutputs) <= context.outputs.keys():
        return False
    return context.outputs_of(SelectCalibrationOutputs).calibration.beyond_reach


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
        from astropy.wcs import WCS

        _, image = read_whole(described.path, CorruptInputError)
        header, response = read_whole(described.beam_path, CorruptInputError)
        pixels, beam = (data.astype(float).reshape(data.shape[-2:]) for data in (image, response))
        frequency_hz = float(header["FREQ-EFF"])
        return cls(pixels, beam, WCS(header).celestial, frequency_hz, described)

    def pixel_at(self, source: SkySource) -> tuple[float, float]:
        x, y = self.wcs.wcs_world2pix(source.ra_deg, source.dec_deg, 0)
        return float(x), float(y)

    def response_at(self, source: SkySource) -> float:
        """The mean beam at a source; 0 outside the image."""
        x, y = self.pixel_at(source)
        height, width = self.beam.shape
        if not (0 <= x <= width - 1 and 0 <= y <= height - 1):  # not-a-number is outside
            return 0.0
        return float(np.nan_to_num(self.beam[round(y), round(x)], posinf=0.0, neginf=0.0))


def check_sources(
    image: _Image, catalogue: Sequence[SkySource], settings: ValidationConfig
) -> list[SourceCheck]:
    """One row for each catalogue source that the image should show, brightest first."""
    shown = _sources_above(image.described.rms_jy, image, catalogue, settings)
    return [_measure(image, source, check, settings.match_radius_arcsec) for source, check in shown]


@dataclass(frozen=True, slots=True)
class _NoiseLimit:
    """What the noise of an image is held against: not the image itself, which bad data raise."""

    limit_jy: float
    n_hidden: int
    """Isolated sources that noise at the limit would show, and that of the image does not."""


def judge_noise(
    checks: Sequence[SourceCheck],
    image: _Image,
    catalogue: Sequence[SkySource],
    settings: ValidationConfig,
) -> _NoiseLimit:
    """The limit by the settings, or by the sidelobes of the brightest source in the image."""
    apparent = (source.flux_jy * image.response_at(source) for source in catalogue)
    sidelobes = max(apparent, default=0.0) / settings.sidelobe_range_min
    limit_jy = max(settings.noise_max_jy, sidelobes)
    usual = _sources_above(limit_jy, image, catalogue, settings)
    n_usual, n_shown = sum(c.isolated for _, c in usual), sum(c.isolated for c in checks)
    return _NoiseLimit(limit_jy, max(0, n_usual - n_shown))


def _sources_above(
    noise_jy: float, image: _Image, catalogue: Sequence[SkySource], settings: ValidationConfig
) -> list[tuple[SkySource, SourceCheck]]:
    """Sources that stand out of such a noise, brightest first, each with an empty check."""
    vectors = source_vectors(catalogue)
    shown = []
    for index, source in enumerate(catalogue):
        response = image.response_at(source)
        snr = source.flux_jy * response / noise_jy
        if response < settings.beam_response_min or snr < settings.snr_min:
            continue
        separation = np.degrees(separation_rad(vectors, vectors[index])) * 3600.0
        near = separation < settings.isolation_beams * image.described.bmaj_arcsec
        neighbours = [s for k, s in enumerate(catalogue) if near[k] and k != index]
        isolated = all(s.flux_jy < 0.02 * source.flux_jy for s in neighbours)
        position = source.name, source.ra_deg, source.dec_deg, source.flux_jy
        shown.append((source, SourceCheck(*position, response, snr, isolated)))
    return sorted(shown, key=lambda each: -each[0].flux_jy)


def _measure(
    image: _Image, source: SkySource, check: SourceCheck, radius_arcsec: float
) -> SourceCheck:
    """The check with what the image shows within a radius of the source, if it is detected."""
    radius_px = radius_arcsec / image.described.cell_arcsec
    peak = fit_peak(image.pixels, *image.pixel_at(source), radius_px)
    if peak is None or peak.height < 0.3 * source.flux_jy * check.beam_response:
        return check
    ra, dec = (float(v) for v in image.wcs.wcs_pix2world(peak.x, peak.y, 0))
    east, north = tangent_offsets_arcsec(source, ra, dec)
    # Back to the catalogue's frequency, from which missing sub-bands may have moved the image.
    colour = source.flux_jy / float(source.flux_at(np.array(image.frequency_hz)))
    measured = peak.height / check.beam_response * colour
    return replace(
        check,
        measured_jy=measured,
        flux_ratio=measured / source.flux_jy,
        east_arcsec=east,
        north_arcsec=north,
        position_error_arcsec=math.hypot(east, north),
    )


def summarise(
    checks: Sequence[SourceCheck],
    image: _Image,
    settings: ValidationConfig,
    report: Path,
    noise: _NoiseLimit,
    *,
    gently_flagged: bool,
    distant: bool = False,
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
        "noise": image.described.rms_jy <= noise.limit_jy,
        # With nothing to compare, neither flux nor position can fail.
        "completeness": not completeness < settings.completeness_min,
        "flux": not abs(flux_median - 1.0) > settings.flux_error_max,
        "position": not position_median > settings.position_error_max_arcsec,
        "flagging": not gently_flagged,
        "calibration": not distant,
    }
    failed = tuple(name for name, passed in gates.items() if not passed)
    return Validation(
        report=report,
        verdict=DEGRADED if failed else CLEAN,
        failed_gates=failed,
        n_expected=len(compared),
        n_matched=len(matched),
        completeness=rounded(completeness),
        rms_jy=rounded(image.described.rms_jy),
        dynamic_range=rounded(dynamic_range),
        flux_ratio_median=rounded(flux_median),
        flux_ratio_scatter=rounded(float(ratios.std())),
        flux_error_max=rounded(float(np.abs(ratios - 1).max())),
        position_error_median_arcsec=rounded(position_median),
        position_error_max_arcsec=rounded(float(errors.max())),
        noise_limit_jy=rounded(noise.limit_jy),
        n_hidden=noise.n_hidden,
    )


def rounded(value: Any, name: str = "") -> Any:
    """A float to six figures, except positions; None, which JSON can hold, for not-a-number."""
    if not isinstance(value, float) or name.endswith("_deg"):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None
