"""Committed image products of synthetic tiles, as the image stage leaves them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray
from synthetic_tiles import FREQUENCY_HZ, TilePlan, make_tile

from absurd_contimg.core.records import Json
from absurd_contimg.products.manifest import Manifest, file_entries, write_manifest
from absurd_contimg.products.outputs import (
    CalibrateApplyOutputs,
    ContinuumImage,
    ImageOutputs,
    MeasurementSet,
    ValidateOutputs,
    Validation,
    to_json,
)
from absurd_contimg.products.store import load_committed, publish
from absurd_contimg.registry import Registry
from absurd_contimg.science.catalogue import SkySource
from absurd_contimg.science.mosaicking import Tile
from absurd_contimg.science.noise import robust_rms

FIRST_MJD = 60690.4
STEP_DAYS = 309.24 / 86400.0


def commit_tiles(
    output_dir: Path,
    registry: Registry,
    plans: Sequence[TilePlan],
    sources: Sequence[SkySource],
    *,
    noise_jy: float = 0.002,
    scales: Sequence[float] | None = None,
    offsets_deg: Sequence[float] | None = None,
    seed: int = 1,
) -> list[str]:
    """An image product for each plan, registered; the groups.

    `scales` multiply the fluxes; `offsets_deg` are added to the right ascensions: a wrong clock.
    """
    rng = np.random.default_rng(seed)
    groups = []
    for number, plan in enumerate(plans):
        scale = 1.0 if scales is None else scales[number]
        offset = 0.0 if offsets_deg is None else offsets_deg[number]
        shown = [
            replace(source, flux_jy=source.flux_jy * scale, ra_deg=(source.ra_deg + offset) % 360)
            for source in sources
        ]
        group = f"2025-01-15T10:{5 * number:02d}:00"
        tile = make_tile(plan, shown, noise_jy, rng)
        mid_mjd = FIRST_MJD + number * STEP_DAYS
        commit_image(output_dir, registry, group, plan, tile, mid_mjd)
        commit_measurement_set(output_dir, registry, group, mid_mjd, round(plan.dec_deg, 3))
        groups.append(group)
    return groups


def commit_image(
    output_dir: Path,
    registry: Registry,
    group: str,
    plan: TilePlan,
    tile: Tile,
    mid_mjd: float,
    created_at: str = "2026-01-01T00:00:00+00:00",
) -> ContinuumImage:
    """Write, commit and register the image of a group."""
    key = hashlib.blake2b(f"{group}{tile.pixels.sum()}".encode(), digest_size=20).hexdigest()
    location = f"images/{group}-{key[:10]}"
    product, committed = output_dir / "scratch" / key, output_dir / location
    product.mkdir(parents=True)
    header = tile.wcs.to_header()
    header["BMAJ"], header["BMIN"] = plan.beam.major_arcsec / 3600, plan.beam.minor_arcsec / 3600
    header["BPA"], header["FREQ-EFF"] = plan.beam.angle_deg, FREQUENCY_HZ
    header["CTYPE3"], header["CRVAL3"], header["CDELT3"] = "FREQ", FREQUENCY_HZ, 1e6
    header["CTYPE4"], header["CRVAL4"] = "STOKES", 1.0
    for kind, data in (("image", tile.pixels), ("beam", tile.response)):
        write_plane(product / f"{group}-{kind}.fits", header, data)
    write_plane(product / f"{group}-image-pb.fits", header, tile.pixels / tile.response)
    peak = float(np.nanmax(tile.pixels))
    rms = robust_rms(tile.pixels[tile.response >= 0.2])
    image = ContinuumImage(
        path=committed / f"{group}-image.fits",
        pb_corrected_path=committed / f"{group}-image-pb.fits",
        beam_path=committed / f"{group}-beam.fits",
        ms_path=output_dir / "calibrated" / group,
        imager="tclean",
        rms_jy=rms,
        peak_jy=peak,
        dynamic_range=peak / rms,
        bmaj_arcsec=plan.beam.major_arcsec,
        bmin_arcsec=plan.beam.minor_arcsec,
        bpa_deg=plan.beam.angle_deg,
        size_px=plan.size_px,
        cell_arcsec=plan.cell_arcsec,
        ra_deg=plan.ra_deg,
        dec_deg=plan.dec_deg,
        mid_mjd=mid_mjd,
    )
    outputs = to_json(ImageOutputs(image))
    _commit(product, output_dir, location, "image", group, key, outputs, created_at)
    registry.register(committed, load_committed(committed))
    return image


def commit_measurement_set(
    output_dir: Path, registry: Registry, group: str, mid_mjd: float, declination_deg: float
) -> None:
    """Commit and register a calibrated Measurement Set, of which only the description is there."""
    key = hashlib.blake2b(f"ms {group}".encode(), digest_size=20).hexdigest()
    location = f"calibrated/{group}-{key[:10]}"
    product, committed = output_dir / "scratch" / key, output_dir / location
    product.mkdir(parents=True)
    (product / "table").write_text("")
    ms = MeasurementSet(
        path=committed / "table",
        beam_centres=committed / "table",
        n_rows=1,
        n_channels=1,
        channel_width_hz=1e6,
        n_antennas=28,
        start_mjd=mid_mjd - STEP_DAYS / 2,
        end_mjd=mid_mjd + STEP_DAYS / 2,
        mid_mjd=mid_mjd,
        ra_deg=0.0,
        dec_deg=declination_deg,
        declination_deg=declination_deg,
    )
    outputs = to_json(CalibrateApplyOutputs(ms))
    _commit(product, output_dir, location, "calibrate_apply", group, key, outputs)
    registry.register(committed, load_committed(committed))


def commit_validation(
    output_dir: Path,
    registry: Registry,
    group: str,
    failed_gates: tuple[str, ...],
    n_expected: int = 0,
    n_matched: int = 0,
) -> None:
    """Commit and register a validation that failed these gates, with its catalogue sources."""
    key = hashlib.blake2b(f"{group}{failed_gates}".encode(), digest_size=20).hexdigest()
    location = f"validation/{group}-{key[:10]}"
    product, committed = output_dir / "scratch" / key, output_dir / location
    product.mkdir(parents=True)
    (product / "report.json").write_text("{}")
    verdict = "degraded" if failed_gates else "clean"
    counts = n_expected, n_matched
    validation = Validation(committed / "report.json", verdict, failed_gates, *counts, *(None,) * 8)
    outputs = to_json(ValidateOutputs(validation))
    _commit(product, output_dir, location, "validate", group, key, outputs)
    registry.register(committed, load_committed(committed))


def write_plane(path: Path, header: fits.Header, data: NDArray[np.float64]) -> None:
    """With four axes, as CASA writes images."""
    fits.PrimaryHDU(data[None, None].astype(np.float32), header).writeto(path)


def _commit(
    product: Path,
    output_dir: Path,
    location: str,
    stage: str,
    group: str,
    key: str,
    outputs: dict[str, Json],
    created_at: str = "2026-01-01T00:00:00+00:00",
) -> None:
    write_manifest(
        product,
        Manifest(
            stage=stage,
            stage_version=1,
            key=key,
            location=location,
            output_dir=str(output_dir),
            group_id=group,
            parameters={},
            inputs=(),
            outputs=outputs,
            files=file_entries(product),
            software={},
            created_at=created_at,
            attempt="1",
            host="here",
        ),
    )
    publish(product, output_dir / location)
