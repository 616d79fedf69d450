"""Sources outside the catalogue are compared with the images before their first detection."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sky_products import SkyField, commit
from typer.testing import CliRunner

from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.stage import Workspace
from absurd_contimg.operations.cli.main import app
from absurd_contimg.products.outputs import to_json
from absurd_contimg.registry import Registry
from absurd_contimg.science.catalogue import write_catalogue
from absurd_contimg.stages.photometry import PhotometryStage

GROUPS = [f"2025-01-{day:02d}T03:04:05" for day in (10, 11, 12)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> SkyField:
    """Three nights, measured. S1 and S2 are in no catalogue: S1 appears in the second night."""
    sky = SkyField(tmp_path_factory.mktemp("site"))
    (sky.root / "state").mkdir()
    output_dir = sky.config.paths.output_dir
    registry = Registry(sky.root / "state/registry.sqlite3", output_dir=output_dir)
    for night, group in enumerate(GROUPS):
        unseen = ["S1"] if night == 0 else []
        image = sky.commit_image(group, 1, 60685.0 + night, unseen)
        registry.register(image.folder, image.manifest)
        catalogue = [source for source in sky.sources if source.name not in ("S1", "S2")]
        write_catalogue(sky.root / "incoming/catalog.csv", catalogue)
        inputs = {"group_id": group, "catalog_path": str(sky.root / "incoming/catalog.csv")}
        context = PipelineContext(sky.config, inputs, image.manifest.outputs)
        product = sky.root / "made" / group
        product.mkdir(parents=True)
        key = f"{night:010x}".ljust(40, "0")
        final = output_dir / f"photometry/{group}-{key[:10]}"
        workspace = Workspace(product, product, product / "log", final)
        outputs = to_json(PhotometryStage().execute(context, workspace))
        table = commit(product, output_dir, "photometry", group, key, outputs)
        registry.register(table.folder, table.manifest)
    registry.close()
    return sky


def test_a_source_that_appears_is_new_and_one_that_was_there_is_not(site: SkyField) -> None:
    """S1 by the first night's image; S2 was in the first image of all, so nothing is known."""
    options = [
        f"--{name}-dir={site.root / folder}"
        for name, folder in (
            ("input", "incoming"), ("output", "products"), ("scratch", "scratch"),
            ("state", "state"),
        )
    ]  # fmt: skip
    command = CliRunner(env={"COLUMNS": "80"})
    result = command.invoke(app, [*options, "variability", "--new", "--json"])
    assert result.exit_code == 0, (result.output, result.exception)
    appeared, always = json.loads(result.output)
    by_name = {source.name: source for source in site.sources}
    for detection, name in ((appeared, "S1"), (always, "S2")):
        source = by_name[name]
        assert detection["ra_deg"] == pytest.approx(source.ra_deg, abs=1e-3)
        assert detection["dec_deg"] == pytest.approx(source.dec_deg, abs=1e-3)
    assert appeared["group_id"] == GROUPS[1]
    assert appeared["n_detections"] == 2
    assert appeared["appearance"]["new"] is True
    assert appeared["appearance"]["n_images"] == 1
    assert appeared["appearance"]["sigma_expected"] > 5
    assert appeared["appearance"]["sigma_before"] < 3
    assert (always["group_id"], always["n_detections"]) == (GROUPS[0], 3)
    assert always["appearance"]["new"] is False
    assert always["appearance"]["n_images"] == 0
    shown = command.invoke(app, [*options, "variability", "--new"]).output
    assert "1 of 2 sources outside the catalogue are new." in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_images_that_are_gone_are_left_out(site: SkyField) -> None:
    """Without the image of the first night nothing is known of the night before."""
    (image,) = (site.root / "products/images").glob(f"{GROUPS[0]}-*/image.fits")
    away = image.rename(Path(f"{image}.away"))
    options = [f"--{name}-dir={site.root / name}" for name in ("state", "scratch")]
    folders = [f"--input-dir={site.root / 'incoming'}", f"--output-dir={site.root / 'products'}"]
    result = CliRunner().invoke(app, [*options, *folders, "variability", "--new", "--json"])
    away.rename(image)
    assert all(not detection["appearance"]["new"] for detection in json.loads(result.output))
