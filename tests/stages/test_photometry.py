"""The photometry stage on images of known sources: fluxes, colours, a table, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from image_products import commit_tiles
from sky_products import FREQUENCY_HZ, RMS, SHAPE, SkyField
from synthetic_tiles import random_sources as tile_sources
from synthetic_tiles import strip

from absurd_contimg.config import PathsConfig, PipelineConfig
from absurd_contimg.core.records import Json
from absurd_contimg.errors import DataQualityError, MissingInputError
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.stage import Workspace
from absurd_contimg.execution.stage_process import run_stage
from absurd_contimg.products.outputs import to_json
from absurd_contimg.products.photometry_table import SourceFlux, read_photometry
from absurd_contimg.registry import Registry
from absurd_contimg.science.catalogue import SkySource, write_catalogue
from absurd_contimg.stages.mosaic import MosaicStage
from absurd_contimg.stages.photometry import PhotometryStage


@pytest.fixture
def sky(tmp_path: Path) -> SkyField:
    return SkyField(tmp_path)


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
    sky: SkyField, measure: Callable[[PipelineContext], list[SourceFlux]]
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


def test_outputs_sum_up_the_table(sky: SkyField, workspace: Workspace) -> None:
    """The median ratio is of bright sources without neighbours."""
    context = sky.context(sky.pixels() * 1.1, sky.sources)
    figures = PhotometryStage().execute(context, workspace).photometry
    rows = read_photometry(workspace.product / figures.table.name)
    assert figures.table.parent == workspace.committed
    assert figures.n_sources == figures.n_measured == len(rows)
    assert figures.n_blended == sum("blended" in row.flags for row in rows)
    assert figures.flux_ratio_n > 10
    assert figures.flux_ratio_median == pytest.approx(1.1, rel=0.01)


def test_a_source_that_is_not_in_the_catalogue_has_a_row(
    sky: SkyField, measure: Callable[[PipelineContext], list[SourceFlux]]
) -> None:
    """By its position, without a catalogue flux, after the sources of the catalogue."""
    hidden, *catalogue = sorted(sky.sources, key=lambda s: abs(s.ra_deg - 180) - 180)
    *others, row = measure(sky.context(sky.pixels(), catalogue))
    assert not any("uncatalogued" in other.flags for other in others)
    assert (row.flags, row.catalogue_jy) == (("uncatalogued",), None)
    assert row.flux_jy == pytest.approx(float(hidden.flux_at(np.array(FREQUENCY_HZ))), rel=0.03)
    assert row.ra_deg == pytest.approx(hidden.ra_deg, abs=1e-3)
    assert row.dec_deg == pytest.approx(hidden.dec_deg, abs=1e-3)
    assert row.source.startswith("J")


def test_an_image_without_noise_is_refused(sky: SkyField, workspace: Workspace) -> None:
    """All errors would be zero."""
    context = sky.context(np.zeros(SHAPE), sky.sources)
    with pytest.raises(DataQualityError, match=r"image\.fits has no noise"):
        PhotometryStage().execute(context, workspace)


def test_what_is_missing_is_named(sky: SkyField) -> None:
    """The image of the group, or the catalogue."""
    context = sky.context(sky.pixels(), sky.sources)
    without = PipelineContext(sky.config, context.inputs)
    with pytest.raises(MissingInputError, match="no image of 2025-01-02T03:04:05"):
        PhotometryStage().validate(without)
    (sky.root / "incoming/catalog.csv").unlink()
    with pytest.raises(MissingInputError, match=r"catalog\.csv does not exist"):
        PhotometryStage().validate(context)


@pytest.mark.parametrize("dec_deg", [16.0, 54.0])
def test_a_mosaic_is_measured_with_its_weights_and_its_own_north(
    tmp_path: Path, dec_deg: float
) -> None:
    """Across tile edges and RA 0 h; where a single tile covers a source its error is larger."""
    config = PipelineConfig(paths=PathsConfig.below(tmp_path))
    paths = config.paths
    paths.input_dir.mkdir()
    plans = strip(0.0, dec_deg, 3, size_px=416, cell_arcsec=15.0)
    catalogue = tile_sources(plans, 60, 0.03, np.random.default_rng(2))
    write_catalogue(paths.input_dir / "catalog.csv", catalogue)
    with closing(Registry(tmp_path / "registry.sqlite3", output_dir=paths.output_dir)) as registry:
        groups = commit_tiles(paths.output_dir, registry, plans, catalogue, noise_jy=0.003)
        members = registry.mosaic_members(groups)
    inputs: dict[str, Json] = {
        "window_id": "window-1",
        "tier": "quicklook",
        "members": list(groups),
        "left_out": {},
        "catalog_path": str(paths.input_dir / "catalog.csv"),
    }
    context = PipelineContext(config, inputs, to_json(members))
    folder = paths.output_dir / "mosaics/window-1"
    folder.mkdir(parents=True)
    workspace = Workspace(folder, tmp_path, tmp_path / "log", folder)
    mosaic = MosaicStage().execute(context, workspace)
    figures = PhotometryStage().execute(context.with_outputs(to_json(mosaic)), workspace)
    assert figures.photometry.measured_in == "mosaic"
    assert figures.photometry.n_uncatalogued == 0
    rows = read_photometry(figures.photometry.table)
    assert len(rows) > 50
    pulls = []
    for row in rows:
        assert row.flux_jy is not None
        assert row.error_jy is not None
        assert row.catalogue_jy is not None
        assert row.response == 1.0
        pulls.append((row.flux_jy - row.catalogue_jy) / row.error_jy)
    assert abs(np.mean(pulls)) < 0.3
    assert np.std(pulls) == pytest.approx(1.0, abs=0.2)
    errors = [row.error_jy for row in rows if row.error_jy is not None]
    assert max(errors) > 1.5 * min(errors)
