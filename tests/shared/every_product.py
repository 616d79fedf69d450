"""Every sort of committed product, of two groups and a window of them, as stages leave them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from absurd_contimg.core.records import Json
from absurd_contimg.products.manifest import InputEntry, Manifest, file_entries, write_manifest
from absurd_contimg.products.mosaic_outputs import MosaicImage
from absurd_contimg.products.photometry_table import SourceFlux, write_photometry
from absurd_contimg.products.store import load_committed

GROUPS = ("2026-01-25T22:26:05", "2026-01-25T22:31:14")
WINDOW = "2026-01-25T22:26:05_w2"
N_PRODUCTS = 18
_MOSAIC_FILES = ("", "weight_", "tiles_", "checks_")


def measurement_set(name: str, path: str, mjd: float) -> dict[str, Json]:
    described: dict[str, Json] = {
        "path": path, "start_mjd": mjd - 0.001, "mid_mjd": mjd, "end_mjd": mjd + 0.001,
        "ra_deg": 10.0, "dec_deg": 16.1, "declination_deg": 16.0, "n_rows": 100,
        "n_channels": 48, "flagged_fraction": 0.1, "beam_centres": f"{path}.json",
        "channel_width_hz": 244e3, "n_antennas": 20,
    }  # fmt: skip
    return {name: described}


def caltables(folder: Path, mjd: float, *, declination: float = 16.0) -> dict[str, Json]:
    tables: list[Json] = [
        {"path": str(folder / "x_gacal"), "type": "GA", "apply_order": 40, "interp": "linear"},
        {"path": str(folder / "x_bpcal"), "type": "BP", "apply_order": 30, "interp": "nearest"},
    ]
    described: dict[str, Json] = {
        "solved": True, "set_name": f"set_{mjd:.6f}", "tables": tables, "calibrator": "3C286",
        "refant": "DSA103", "mid_mjd": mjd, "declination_deg": declination,
        "valid_start_mjd": mjd - 0.1, "valid_end_mjd": mjd + 0.1,
    }  # fmt: skip
    return {"caltables": described}


def mosaic(output_dir: Path, mjd: float) -> dict[str, Json]:
    described: dict[str, Json] = {field.name: 1 for field in fields(MosaicImage)}
    described |= {f"{name}path": f"{output_dir}/{name}x" for name in _MOSAIC_FILES}
    described |= {"window_id": WINDOW, "tier": "quicklook", "verdict": "accepted"}
    return {"mosaic": {**described, "failed_gates": [], "mid_mjd": mjd}}


def photometry(output_dir: Path, mjd: float, measured_in: str) -> dict[str, Json]:
    described: dict[str, Json] = {
        "table": f"{output_dir}/table.ecsv", "measured_in": measured_in, "mid_mjd": mjd,
        "n_sources": 3, "n_measured": 2, "n_blended": 0, "error_median_jy": 0.1,
        "flux_ratio_median": None, "flux_ratio_n": 0,
    }  # fmt: skip
    return {"photometry": described}


def fluxes(mjd: float) -> list[SourceFlux]:
    """Two sources that were measured and one that was not."""
    return [
        SourceFlux(f"S{number}", 10.0, 16.0, mjd, flux, flux, 1.0, 0.1, 0.9, 0, ("edge", "blended"))
        for number, flux in enumerate((1.0, 0.5, None))
    ]


def commit(
    output_dir: Path,
    stage: str,
    group_id: str,
    outputs: dict[str, Json],
    name: str = "x",
    table: Sequence[SourceFlux] = (),
) -> tuple[Path, Manifest]:
    """A committed product on disk, as a stage would leave it."""
    key = f"{stage}-{group_id}-{name}"
    folder = output_dir / stage / key
    folder.mkdir(parents=True)
    (folder / "file").write_text(key)
    write_photometry(folder / "table.ecsv", table)
    manifest = Manifest(
        *(stage, 1, key, f"{stage}/{key}", str(output_dir), group_id, {}),
        *((InputEntry("/in/flagged.ms", "product", "k"),), outputs, file_entries(folder)),
        *({}, "2026-01-26T00:00:00+00:00", "1", "host"),
    )
    write_manifest(folder, manifest)
    return folder, load_committed(folder)


def commit_all(output_dir: Path) -> list[tuple[Path, Manifest]]:
    """Every sort of product, for two groups and a window of them."""
    made = []
    for number, group_id in enumerate(GROUPS):
        mjd = 61065.9 + number * 0.0036
        table_folder = output_dir / "calibrate_solve" / f"calibrate_solve-{group_id}-x"
        solved = caltables(table_folder, mjd) if number == 0 else _UNSOLVED
        ms = f"{output_dir}/{group_id}"
        for stage, outputs in (
            ("catalog_setup", {"catalog": {"path": "/c.csv"}}),
            ("convert", measurement_set("measurement_set", f"{ms}.raw.ms", mjd)),
            ("flag", measurement_set("flagged_ms", f"{ms}.flagged.ms", mjd)),
            ("calibrate_solve", solved),
            ("calibrate_apply", measurement_set("calibrated_ms", f"{ms}.ms", mjd)),
            ("image", {"image": {"fits": f"{ms}.fits", "noise_jy": 0.001}}),
            ("validate", {"validation": {"passed": True}}),
        ):
            made.append(commit(output_dir, stage, group_id, outputs))
        measured = photometry(output_dir, mjd, "image")
        made.append(commit(output_dir, "photometry", group_id, measured, table=fluxes(mjd)))
    made.append(commit(output_dir, "mosaic", WINDOW, mosaic(output_dir, 61065.902)))
    measured = photometry(output_dir, 61065.902, "mosaic")
    made.append(commit(output_dir, "photometry", WINDOW, measured, table=fluxes(61065.902)))
    assert len(made) == N_PRODUCTS
    return made


_UNSOLVED: dict[str, Json] = {"caltables": {"solved": False, "reason": "no calibrator"}}
