"""``contimg compare``: two images of one group, from the registry, manifests and tables alone."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from absurd_contimg.core.records import Json
from absurd_contimg.operations.cli.main import app
from absurd_contimg.operations.services.image_comparison import compare_sources
from absurd_contimg.products.manifest import InputEntry, Manifest, file_entries, write_manifest
from absurd_contimg.products.outputs import (
    CalibrateApplyOutputs,
    ContinuumImage,
    ImageOutputs,
    MeasurementSet,
    SourceCheck,
    ValidateOutputs,
    Validation,
    to_json,
)
from absurd_contimg.products.store import load_committed, publish
from absurd_contimg.registry import Registry
from absurd_contimg.registry.photometry import newest_image_key

GROUP = "2025-01-15T10:00:00"


def commit(
    site: Path,
    stage: str,
    outputs: Mapping[str, Json],
    inputs: Mapping[Path, str],
    parameters: Mapping[str, Json],
    day: int,
    files: Mapping[str, str],
) -> tuple[str, Path]:
    """A product of one stage; its key and its folder."""
    key = hashlib.blake2b(f"{stage} {day}".encode(), digest_size=20).hexdigest()
    location = f"{stage}/{GROUP}-{key[:10]}"
    product, committed = site / "products" / "scratch" / key, site / "products" / location
    product.mkdir(parents=True)
    for name, text in files.items():
        (product / name).write_text(text)
    text = json.dumps(outputs).replace("COMMITTED", str(committed))
    manifest = Manifest(
        stage=stage,
        stage_version=1,
        key=key,
        location=location,
        output_dir=str(site / "products"),
        group_id=GROUP,
        parameters=parameters,
        inputs=tuple(InputEntry(str(p), "product", f"{k}/x") for p, k in inputs.items()),
        outputs=json.loads(text),
        files=file_entries(product),
        software={"casatasks": f"6.{day}"},
        created_at=f"2026-01-0{day}T00:00:00+00:00",
        attempt="1",
        host="here",
    )
    write_manifest(product, manifest)
    publish(product, committed)
    with closing(Registry(site / "state" / "registry.sqlite3")) as registry:
        registry.register(committed, load_committed(committed))
    return key, committed


def source(name: str, flux_jy: float | None, east: float = 0.0) -> SourceCheck:
    measured = (flux_jy, 1.0, east, 0.0, abs(east)) if flux_jy is not None else ()
    return SourceCheck(name, 10.0, 16.0, 0.1, 1.0, 20.0, True, *measured)


def process(
    site: Path, day: int, robust: float, noise_jy: float, flagged: float, scale: float
) -> None:
    """A calibrated set, its image and the validation of it, all made on one day."""
    gone = Path("COMMITTED")
    calibration = site / "products" / "calibration" / f"other-{day}-{'ab' * 5}"
    ms = MeasurementSet(
        path=gone / "ms", beam_centres=gone / "ms", start_mjd=60690.0, mid_mjd=60690.1,
        end_mjd=60690.2, ra_deg=10.0, dec_deg=16.0, declination_deg=16.0, n_rows=10,
        n_channels=4, flagged_fraction=flagged, channel_width_hz=1e6, n_antennas=10,
    )  # fmt: skip
    key, folder = commit(
        site, "calibrate_apply", to_json(CalibrateApplyOutputs(ms)),
        {calibration: "ab" * 20}, {}, day, {"ms": ""},
    )  # fmt: skip
    image = ContinuumImage(
        path=gone / "i.fits", pb_corrected_path=gone / "pb.fits", beam_path=gone / "beam.fits",
        ms_path=folder / "ms", imager="tclean", rms_jy=noise_jy, peak_jy=0.1, dynamic_range=20.0,
        bmaj_arcsec=12.0, bmin_arcsec=10.0, bpa_deg=5.0, size_px=64, cell_arcsec=3.0,
        ra_deg=10.0, dec_deg=16.0, mid_mjd=60690.1,
    )  # fmt: skip
    key, folder = commit(
        site, "image", to_json(ImageOutputs(image)), {folder: key},
        {"imaging": {"robust": robust, "niter": 500}}, day,
        {"i.fits": "", "pb.fits": "", "beam.fits": ""},
    )  # fmt: skip
    rows = [source("A", 0.1 * scale), source("B", 0.2 * scale, 1.0 - scale), source("C", None)]
    if day == 2:
        rows[2] = source("C", 0.05)
    table = json.dumps({"sources": [dataclasses.asdict(row) for row in rows]})
    figures = Validation(
        gone / "report.json", "clean", (), 3, day, None, noise_jy, 20.0, scale, None, None, 0.5, 1.0
    )
    commit(
        site, "validate", to_json(ValidateOutputs(figures)), {folder: key}, {}, day,
        {"report.json": table},
    )  # fmt: skip


def contimg(site: Path, *arguments: str) -> Any:
    return CliRunner().invoke(
        app, ["--folder", str(site), "compare", *arguments], env={"COLUMNS": "80"}
    )


def test_old_and_new_image_stand_side_by_side(tmp_path: Path) -> None:
    process(tmp_path, 1, robust=0.5, noise_jy=0.002, flagged=0.25, scale=1.0)
    process(tmp_path, 2, robust=0.0, noise_jy=0.003, flagged=0.2, scale=1.1)
    compared = json.loads(contimg(tmp_path, GROUP, "--json").stdout)
    changes = {each["name"]: (each["old"], each["new"]) for each in compared["changes"]}
    calibrations = tuple(f"other-{day}-{'ab' * 5}" for day in (1, 2))
    assert changes == {
        "image: imaging.robust": (0.5, 0.0),
        "calibrate_apply: of other groups": calibrations,
        "software: casatasks": ("6.1", "6.2"),
    }
    old, new = compared["old"], compared["new"]
    assert (old["noise_jy"], new["noise_jy"]) == (0.002, 0.003)
    assert (old["flagged_fraction"], new["flagged_fraction"]) == (0.25, 0.2)
    assert (old["n_matched"], new["n_matched"]) == (1, 2)
    sources = compared["sources"]
    assert (sources["n_common"], sources["only_new"], sources["only_old"]) == (2, ["C"], [])
    assert sources["flux_ratio_median"] == pytest.approx(1.1)
    assert sources["position_max_arcsec"] == pytest.approx(0.1)
    shown = contimg(tmp_path, GROUP).stdout
    assert "image: imaging.robust  " in shown
    assert "in both: 2; new flux over old 1.100 +- 0.000; moved" in shown
    assert "Only in the new one: C." in shown
    assert "flagged                 25.0%                20.0%" in shown
    for version in ("old", "new"):
        assert f"The {version} image: {compared[version]['folder']}" in shown.replace("\n", "")


def test_the_first_image_is_the_newest_again_without_the_second(tmp_path: Path) -> None:
    """The way back from a reprocessing, as docs/reprocessing.md has it."""
    for day in (1, 2):
        process(tmp_path, day, robust=0.5, noise_jy=0.002, flagged=0.25, scale=1.0)
    compared = json.loads(contimg(tmp_path, GROUP, "--json").stdout)
    page = " ".join((Path(__file__).parents[2] / "docs" / "reprocessing.md").read_text().split())
    assert "move the folder of the new image out of the output folder" in page
    Path(compared["new"]["folder"]).rename(tmp_path / "second")
    arguments = ["--folder", str(tmp_path), "registry", "rebuild"]
    rebuilt = CliRunner().invoke(app, arguments)
    assert rebuilt.exit_code == 0, rebuilt.output
    assert f"There is one image of {GROUP} only" in str(contimg(tmp_path, GROUP).exception)
    with closing(Registry(tmp_path / "state" / "registry.sqlite3")) as registry:
        with registry.database.reading() as session:
            key = newest_image_key(session, GROUP)
        assert key == compared["old"]["key"]


def test_one_image_is_nothing_to_compare(tmp_path: Path) -> None:
    process(tmp_path, 1, robust=0.5, noise_jy=0.002, flagged=0.25, scale=1.0)
    alone = contimg(tmp_path, GROUP)
    assert "There is one image of 2025-01-15T10:00:00 only" in str(alone.exception)
    process(tmp_path, 2, robust=0.5, noise_jy=0.002, flagged=0.25, scale=1.0)
    assert "No earlier image" in str(contimg(tmp_path, GROUP, "--with", "zz").exception)
    assert "Did you mean 2025-01-15T10:00:00?" in str(contimg(tmp_path, GROUP[:-1]).exception)


def test_sources_that_both_lack_leave_no_figures() -> None:
    compared = compare_sources([source("A", None)], [source("A", 1.0)])
    assert (compared.n_common, compared.only_new, compared.flux_ratio_median) == (0, ("A",), None)
