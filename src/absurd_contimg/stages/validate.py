"""Stage ``validate``: the image against the catalogue, and a verdict.

A bad image is not an error: the group ends degraded, with the gates that failed. Needs astropy,
not CASA.
"""

# CASA, pyuvdata and astropy take seconds to import and may be missing: where they are used.
# ruff: noqa: PLC0415

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
from absurd_contimg.errors import CorruptInputError, InputError, MissingInputError
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.stage import PipelineStage, Workspace
from absurd_contimg.science.catalogue import (
    SkySource,
    read_catalogue,
    separation_rad,
    source_vectors,
    tangent_offsets_arcsec,
)
from absurd_contimg.science.source_fitting import fit_peak


@dataclass(frozen=True, slots=True)
class SourceCheck:
    """One catalogue source in the image; the measured values are None when it was not found."""

    name: str
    ra_deg: float
    dec_deg: float
    flux_jy: float
    beam_response: float
    snr: float
    """Apparent flux over the image's noise."""
    isolated: bool
    measured_jy: float | None = None
    flux_ratio: float | None = None
    east_arcsec: float | None = None
    north_arcsec: float | None = None
    position_error_arcsec: float | None = None


class ValidateStage(PipelineStage):
    """Measures every catalogue source that should be seen, and applies the gates."""

    name = "validate"
    requires = frozenset({"image", "catalog"})
    provides = frozenset({"validation"})
    product_folder: ClassVar[str | None] = "validation"

    @override
    def parameters(self, context: PipelineContext) -> Mapping[str, Json]:
        settings = context.config.validation.model_dump(mode="json")
        return {**settings, **({"gently_flagged": True} if _gently_flagged(context) else {})}

    @override
    def input_paths(self, context: PipelineContext) -> list[Path]:
        return [*_image_paths(context).values(), _catalogue_path(context)]

    @override
    def validate(self, context: PipelineContext) -> None:
        for path in _image_paths(context).values():
            if not path.is_file():
                raise MissingInputError(f"the image {path} does not exist.", "Image again.")

    @override
    def execute(self, context: PipelineContext, workspace: Workspace) -> dict[str, Json]:
        settings = context.config.validation
        image = _Image.read(_image_paths(context), _described(context, "image"))
        checks = check_sources(image, read_catalogue(_catalogue_path(context)), settings)
        figures = summarise(checks, image, settings, gently_flagged=_gently_flagged(context))
        report = workspace.product / f"{context.inputs['group_id']}-validation.json"
        rows: list[Json] = [_rounded(asdict(c)) for c in checks]
        content: dict[str, Json] = {**figures, "sources": rows}
        report.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        return {"validation": {"report": workspace.final_path(report), **figures}}


@dataclass(frozen=True, slots=True)
class _Image:
    """Uncorrected pixels, mean beam and coordinates."""

    pixels: NDArray[np.float64]
    beam: NDArray[np.float64]
    wcs: Any
    frequency_hz: float
    rms_jy: float
    peak_jy: float
    beam_major_arcsec: float
    cell_arcsec: float

    @classmethod
    def read(cls, paths: Mapping[str, Path], described: Mapping[str, Json]) -> _Image:
        from astropy.io import fits
        from astropy.wcs import WCS

        planes = {}
        for kind, path in paths.items():
            try:
                with fits.open(path, memmap=False) as hdus:
                    header, data = hdus[0].header, hdus[0].data
            except OSError as error:
                raise CorruptInputError(
                    f"{path} cannot be read ({error}).", "Image again."
                ) from error
            planes[kind] = np.asarray(data, dtype=float).reshape(data.shape[-2:])
        return cls(
            planes["path"],
            planes["beam_path"],
            WCS(header).celestial,
            float(header["FREQ-EFF"]),
            float(str(described["rms_jy"])),
            float(str(described["peak_jy"])),
            float(str(described["bmaj_arcsec"])),
            float(str(described["cell_arcsec"])),
        )


def check_sources(
    image: _Image, catalogue: Sequence[SkySource], settings: ValidationConfig
) -> list[SourceCheck]:
    """One row for each catalogue source that the image should show, brightest first."""
    vectors = source_vectors(catalogue)
    checks = []
    for index, source in enumerate(catalogue):
        response = _response(image, source)
        snr = source.flux_jy * response / image.rms_jy
        if response < settings.beam_response_min or snr < settings.snr_min:
            continue
        separation = np.degrees(separation_rad(vectors, vectors[index])) * 3600.0
        near = separation < settings.isolation_beams * image.beam_major_arcsec
        rivals = [s for k, s in enumerate(catalogue) if near[k] and k != index]
        isolated = all(s.flux_jy < 0.02 * source.flux_jy for s in rivals)
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
    peak = fit_peak(image.pixels, x, y, settings.match_radius_arcsec / image.cell_arcsec)
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
    *,
    gently_flagged: bool = False,
) -> dict[str, Json]:
    """Statistics, gates and the verdict; ``failed_gates`` says which and by how much."""
    compared = [c for c in checks if c.isolated]
    found = [c for c in compared if c.measured_jy is not None]
    strong = [c for c in found if c.snr >= settings.gate_snr_min] or found
    ratios = np.array([c.flux_ratio for c in strong], dtype=float)
    errors = np.array([c.position_error_arcsec for c in strong], dtype=float)
    completeness = len(found) / len(compared) if compared else float("nan")
    dynamic_range = image.peak_jy / image.rms_jy
    flux_median = float(np.median(ratios)) if len(ratios) else float("nan")
    position_median = float(np.median(errors)) if len(errors) else float("nan")
    gates = {
        "dynamic_range": dynamic_range >= settings.dynamic_range_min,
        # With nothing to compare, neither flux nor position can fail.
        "completeness": not completeness < settings.completeness_min,
        "flux": not abs(flux_median - 1.0) > settings.flux_error_max,
        "position": not position_median > settings.position_error_max_arcsec,
        "flagging": not gently_flagged,
    }
    failed: list[Json] = [name for name, passed in gates.items() if not passed]
    return _rounded(
        {
            "verdict": "degraded" if failed else "clean",
            "failed_gates": failed,
            "n_expected": len(compared),
            "n_matched": len(found),
            "completeness": completeness,
            "rms_jy": image.rms_jy,
            "dynamic_range": dynamic_range,
            "flux_ratio_median": flux_median,
            "flux_ratio_scatter": float(ratios.std()) if len(ratios) else float("nan"),
            "flux_error_max": float(np.abs(ratios - 1).max()) if len(ratios) else float("nan"),
            "position_error_median_arcsec": position_median,
            "position_error_max_arcsec": float(errors.max()) if len(errors) else float("nan"),
        }
    )


def _rounded(values: Mapping[str, Any]) -> dict[str, Json]:
    """Numbers to six figures; not-a-number becomes null, which JSON can hold."""
    rounded: dict[str, Json] = {}
    for key, value in values.items():
        if isinstance(value, float) and not key.endswith("_deg"):
            rounded[key] = float(f"{value:.6g}") if math.isfinite(value) else None
        else:
            rounded[key] = value
    return rounded


def _gently_flagged(context: PipelineContext) -> bool:
    """Whether the data could be had only with gentler flags than usual."""
    flagged = context.outputs.get("flagged_ms")
    return isinstance(flagged, Mapping) and bool(flagged.get("gentler"))


def _described(context: PipelineContext, name: str) -> Mapping[str, Json]:
    value = context.outputs[name]
    if not isinstance(value, Mapping):
        raise InputError(f"the output {name} is not an object but {value!r}.")
    return value


def _image_paths(context: PipelineContext) -> dict[str, Path]:
    described = _described(context, "image")
    return {kind: Path(str(described[kind])) for kind in ("path", "beam_path")}


def _catalogue_path(context: PipelineContext) -> Path:
    return Path(str(_described(context, "catalog")["path"]))
