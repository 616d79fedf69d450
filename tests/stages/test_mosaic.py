"""The mosaic stage: which tiles it takes, its product, its checks and its gates."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from hypothesis import given
from hypothesis import strategies as st
from image_products import commit_tiles, commit_validation
from synthetic_tiles import BEAM, TilePlan, random_sources, strip

from absurd_contimg.config import PathsConfig, PipelineConfig
from absurd_contimg.errors import OutputError, SettingError, TooFewTilesError
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.stage import Workspace
from absurd_contimg.products.mosaic_outputs import (
    MosaicMember,
    MosaicMembers,
    MosaicOutputs,
    TileTable,
)
from absurd_contimg.products.outputs import ContinuumImage, SourceTable, from_json, to_json
from absurd_contimg.registry import GroupStatus, Registry
from absurd_contimg.science.catalogue import SkySource, write_catalogue
from absurd_contimg.science.restoring_beams import RestoringBeam
from absurd_contimg.science.tile_selection import select_tiles
from absurd_contimg.stages.mosaic import MosaicStage

SIZE = {"size_px": 416, "cell_arcsec": 15.0}


class Site:
    """Output folder, registry and catalogue of a window of tiles."""

    def __init__(self, root: Path) -> None:
        self.paths = PathsConfig.below(root)
        self.paths.input_dir.mkdir(parents=True)
        self.catalogue = self.paths.input_dir / "catalog.csv"
        self.registry = Registry(root / "registry.sqlite3", output_dir=self.paths.output_dir)
        self.config = PipelineConfig(paths=self.paths)
        self.groups: list[str] = []

    def commit(
        self,
        plans: Sequence[TilePlan],
        n_sources: int = 12,
        scales: Sequence[float] | None = None,
        noise_jy: float = 0.002,
        offsets_deg: Sequence[float] | None = None,
    ) -> list[SkySource]:
        sources = random_sources(plans, n_sources, 1.0, np.random.default_rng(2))
        write_catalogue(self.catalogue, sources)
        self.groups = commit_tiles(
            self.paths.output_dir, self.registry, plans, sources, scales=scales, noise_jy=noise_jy,
            offsets_deg=offsets_deg,
        )  # fmt: skip
        return sources

    def members(self) -> MosaicMembers:
        return self.registry.mosaic_members(self.groups)

    def context(self, members: MosaicMembers | None = None) -> PipelineContext:
        inputs = {
            "window_id": "window-1",
            "tier": "quicklook",
            "members": self.groups,
            "left_out": {},
            "catalog_path": str(self.catalogue),
        }
        return PipelineContext(self.config, inputs, to_json(members or self.members()))

    def make(
        self, workspace: Workspace, members: MosaicMembers | None = None
    ) -> tuple[MosaicOutputs, PipelineContext]:
        stage, context = MosaicStage(), self.context(members)
        stage.validate(context)
        outputs = stage.execute(context, workspace)
        stage.validate_outputs(context, workspace, outputs)
        return outputs, context


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path / "site")
    with closing(made.registry):
        yield made


def test_a_window_across_0_h_becomes_one_accepted_product(site: Site, workspace: Workspace) -> None:
    sources = site.commit(strip(0.0, 16.0, 3, **SIZE))
    outputs, context = site.make(workspace)
    mosaic = outputs.mosaic
    assert (mosaic.verdict, mosaic.failed_gates) == ("accepted", ())
    assert sorted(path.name for path in workspace.product.iterdir()) == [
        "tiles.json", "window-1-checks.json", "window-1-mosaic.fits", "window-1-weight.fits",
    ]  # fmt: skip
    assert mosaic.path == workspace.committed / "window-1-mosaic.fits"
    assert mosaic.n_tiles == 3
    assert abs((mosaic.ra_deg + 180) % 360 - 180) < 0.1
    assert mosaic.noise_ratio == pytest.approx(1.0, abs=0.1)
    assert mosaic.n_compared >= 8
    assert mosaic.flux_ratio_median == pytest.approx(1.0, abs=0.01)
    assert mosaic.position_error_median_arcsec < 0.5
    assert mosaic.tile_ratio_worst == pytest.approx(1.0, abs=0.03)
    assert (mosaic.n_tile_pairs, mosaic.negative_sources) == (2, 0)
    assert mosaic.positive_sources == len(sources)
    assert mosaic.covered_deg2 == pytest.approx((2 * 1.24 + 1.733) * 1.733, rel=0.05)
    table = from_json(TileTable, json.loads((workspace.product / "tiles.json").read_text()))
    assert [tile.group_id for tile in table.used] == site.groups
    assert all(0.0015 < tile.noise_jy < 0.0025 for tile in table.used)
    checks = json.loads((workspace.product / "window-1-checks.json").read_text())
    assert len(from_json(SourceTable, checks).sources) >= 8
    header = fits.getheader(workspace.product / "window-1-mosaic.fits")
    assert (header["BUNIT"], header["NTILES"], header["TIER"]) == ("Jy/beam", 3, "quicklook")
    assert header["BMAJ"] * 3600 == pytest.approx(BEAM.major_arcsec)
    x, y = WCS(header).celestial.wcs_world2pix(sources[0].ra_deg, sources[0].dec_deg, 0)
    assert 0 < x < mosaic.width_px
    assert 0 < y < mosaic.height_px
    assert context.group_id == "window-1"


def test_equal_inputs_give_equal_files(site: Site, tmp_path: Path, workspace: Workspace) -> None:
    site.commit(strip(120.0, 54.0, 2, **SIZE), 4)
    site.make(workspace)
    folders = (tmp_path / "again", tmp_path / "tmp2")
    for folder in folders:
        folder.mkdir()
    again = Workspace(*folders, tmp_path / "log", workspace.committed)
    site.make(again)
    for path in workspace.product.iterdir():
        assert path.read_bytes() == (again.product / path.name).read_bytes(), path.name


def test_tiles_of_different_restoring_beams_are_convolved_to_a_common_one(
    site: Site, workspace: Workspace
) -> None:
    plans = strip(30.0, 16.0, 2, **SIZE)
    plans[1] = replace(plans[1], beam=RestoringBeam(66.0, 47.0, 40.0))
    sources = site.commit(plans, 8)
    mosaic = site.make(workspace)[0].mosaic
    assert mosaic.n_convolved == 2
    assert mosaic.bmaj_arcsec > 63.0
    # The flux is also the sum of the pixels over the area of the beam that the header names.
    with fits.open(workspace.product / mosaic.path.name) as hdus:
        pixels, wcs = hdus[0].data, WCS(hdus[0].header).celestial
    beam = RestoringBeam(mosaic.bmaj_arcsec, mosaic.bmin_arcsec, mosaic.bpa_deg)
    area_px = beam.area_arcsec2 / mosaic.cell_arcsec**2
    sums = []
    for source in sources:
        x, y = (round(float(v)) for v in wcs.wcs_world2pix(source.ra_deg, source.dec_deg, 0))
        box = pixels[max(0, y - 7) : y + 8, max(0, x - 7) : x + 8]
        if box.shape == (15, 15) and np.isfinite(box).all():
            sums.append(box.sum() / area_px / source.flux_jy)
    assert len(sums) >= 4
    assert np.mean(sums) == pytest.approx(1.0, abs=0.02)
    table = json.loads((workspace.product / "tiles.json").read_text())
    for tile, member in zip(table["used"], site.members().tiles, strict=True):
        assert abs(tile["noise_jy"] / member.image.rms_jy - 1) > 0.005  # measured again
    assert mosaic.flux_ratio_median == pytest.approx(1.0, abs=0.01)
    assert mosaic.flux_ratio_scatter < 0.02
    assert mosaic.noise_ratio == pytest.approx(1.0, abs=0.1)


def test_tiles_that_are_not_good_enough_are_refused_with_the_reason(
    site: Site, workspace: Workspace
) -> None:
    plans = strip(30.0, 16.0, 6, size_px=128, cell_arcsec=30.0)
    plans[2] = replace(plans[2], beam=RestoringBeam(90.0, 80.0, 0.0))
    site.commit(plans, 8)
    commit_validation(site.paths.output_dir, site.registry, site.groups[0], ("flux",))
    commit_validation(site.paths.output_dir, site.registry, site.groups[1], ("completeness",))
    site.registry.set_group_status(site.groups[5], GroupStatus.QUARANTINED, "antennas are dead")
    site.groups.append("2025-01-15T11:00:00")
    members = site.members()
    noisy = replace(members.tiles[3], image=replace(members.tiles[3].image, rms_jy=0.02))
    members = replace(members, tiles=(*members.tiles[:3], noisy, *members.tiles[4:]))
    selection = select_tiles(members, site.config, "quicklook")
    assert [member.group_id for member in selection.used] == [site.groups[1], site.groups[4]]
    reasons = {member.group_id: member.reason for member in selection.refused}
    assert reasons == {
        site.groups[0]: "its validation failed: flux",
        site.groups[2]: "its restoring beam has 2.79 times the median area; the limit is 1.5",
        site.groups[3]: reasons[site.groups[3]],
        site.groups[5]: "it is quarantined: antennas are dead",
        "2025-01-15T11:00:00": "it is not in the registry",
    }
    assert "noise of 20 mJy exceeds" in reasons[site.groups[3]]
    mosaic = site.make(workspace, members)[0].mosaic
    assert (mosaic.n_tiles, mosaic.n_refused, mosaic.failed_gates) == (2, 5, ("coverage",))


def test_a_tile_without_the_catalogue_s_sources_is_refused(
    site: Site, workspace: Workspace
) -> None:
    """A clock that was 60 s off: flux and position have nothing to measure, and pass.

    A tile that misses a few faint sources fails the same gate of its validation, and is used.
    """
    site.commit(strip(30.0, 16.0, 3, **SIZE), 18, offsets_deg=(0.0, 0.25, 0.0))
    for group, n_matched in zip(site.groups, (14, 0, 16), strict=True):
        gates = () if n_matched == 16 else ("completeness",)
        commit_validation(site.paths.output_dir, site.registry, group, gates, 16, n_matched)
    mosaic = site.make(workspace)[0].mosaic
    table = json.loads((workspace.product / "tiles.json").read_text())
    assert [tile["group_id"] for tile in table["used"]] == [site.groups[0], site.groups[2]]
    (refused,) = table["refused"]
    assert refused == {
        "group_id": site.groups[1],
        "reason": "0 of the 16 catalogue sources that it should show are where the catalogue has "
        "them; a tile needs 50%",
    }
    assert (mosaic.verdict, mosaic.completeness_worst) == ("accepted", 1.0)


def test_a_mosaic_with_a_tile_without_the_catalogue_s_sources_is_degraded(
    site: Site, workspace: Workspace
) -> None:
    """A tile that no validation judged; the sources of the other tile pass all other gates."""
    site.commit(strip(30.0, 16.0, 2, **SIZE), 12, offsets_deg=(0.0, 0.25))
    mosaic = site.make(workspace)[0].mosaic
    assert mosaic.n_compared >= 4
    assert (mosaic.verdict, mosaic.failed_gates) == ("degraded", ("completeness",))
    assert mosaic.completeness_worst == 0.0
    good, displaced = json.loads((workspace.product / "tiles.json").read_text())["used"]
    assert good["n_matched"] == good["n_expected"] >= 4
    assert displaced["n_matched"] == 0
    assert displaced["n_expected"] >= 4


_COUNTS = st.integers(0, 30).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n)))


@given(counts=st.lists(_COUNTS, min_size=1, max_size=6))
def test_a_tile_is_used_exactly_if_enough_of_its_sources_are_recognised(
    counts: list[tuple[int, int]],
) -> None:
    path = Path("image.fits")
    image = ContinuumImage(
        path, path, path, path, "tclean", 0.002, 1.0, 500.0, 60.0, 43.0, 20.0, 64, *(0.0,) * 4
    )
    tiles = tuple(
        MosaicMember(f"group-{k}", image, ("completeness",), *count)
        for k, count in enumerate(counts)
    )
    config = PipelineConfig(paths=PathsConfig.below(Path()))
    # Groups that were not validated, so that a mosaic can be made.
    whole = tuple(MosaicMember(f"whole-{k}", image) for k in range(config.mosaic.tiles_min))
    selection = select_tiles(MosaicMembers((*tiles, *whole)), config, "deep")
    used = {member.group_id for member in selection.used}
    refused = {member.group_id for member in selection.refused}
    assert used.isdisjoint(refused)
    assert used | refused == {member.group_id for member in (*tiles, *whole)}
    for tile in tiles:
        n_expected, n_matched = tile.n_expected, tile.n_matched
        assert (tile.group_id in refused) == (n_expected >= 2 and 2 * n_matched < n_expected)


def test_too_few_tiles_are_poor_data_and_every_reason_is_given(site: Site) -> None:
    site.commit(strip(30.0, 16.0, 1, size_px=128, cell_arcsec=30.0), 1)
    site.groups.append("2025-01-15T11:00:00")
    with pytest.raises(TooFewTilesError, match=r"1 tiles can be used.*11:00:00: it is not in"):
        select_tiles(site.members(), site.config, "quicklook")


def test_a_canvas_above_the_cap_names_the_setting(site: Site, workspace: Workspace) -> None:
    site.commit(strip(30.0, 16.0, 2, size_px=128, cell_arcsec=30.0), 2)
    mosaic = site.config.mosaic.model_copy(update={"pixels_max": 20_000})
    site.config = site.config.model_copy(update={"mosaic": mosaic})
    with pytest.raises(SettingError, match=r"mosaic\.pixels_max \(20000\)"):
        site.make(workspace)


@pytest.mark.parametrize(
    ("scales", "gate"), [((1.0, 1.2), "tiles"), ((0.06, 0.06), "flux"), ((1.0, 1.0), None)]
)
def test_a_wrong_flux_scale_degrades_the_mosaic(
    site: Site, workspace: Workspace, scales: tuple[float, ...], gate: str | None
) -> None:
    """Of one tile against the other, or of both: a calibration of another strip."""
    plans = strip(30.0, 54.0, 2, **SIZE)
    sources = site.commit(plans, 12, scales=scales, noise_jy=0.0005)
    if gate == "flux":  # the peak search would take 0.06 Jy for another source
        write_catalogue(site.catalogue, [replace(s, flux_jy=s.flux_jy * 0.15) for s in sources])
    mosaic = site.make(workspace)[0].mosaic
    assert mosaic.failed_gates == (() if gate is None else (gate,))
    assert mosaic.tile_excess_worst is not None
    assert (mosaic.tile_excess_worst > 0.03) == (gate == "tiles")
    assert mosaic.verdict == ("accepted" if gate is None else "degraded")


def test_a_damaged_product_is_refused(site: Site, workspace: Workspace) -> None:
    """Blank pixels that have a weight, or a table that lacks a member."""
    site.commit(strip(30.0, 16.0, 2, size_px=128, cell_arcsec=30.0), 2)
    outputs, context = site.make(workspace)
    path = workspace.product / "window-1-mosaic.fits"
    with fits.open(path, mode="update") as hdus:
        hdus[0].data[70, 100] = np.nan
    with pytest.raises(OutputError, match="not blank exactly where"):
        MosaicStage().validate_outputs(context, workspace, outputs)
    with fits.open(path, mode="update") as hdus:
        hdus[0].data[70, 100] = 1.0
    (workspace.product / "tiles.json").write_text('{"used": [], "refused": []}')
    with pytest.raises(OutputError, match="the table of tiles lists"):
        MosaicStage().validate_outputs(context, workspace, outputs)


def test_the_newest_image_of_a_group_counts_and_paths_move_with_the_output_folder(
    site: Site,
) -> None:
    site.commit(strip(30.0, 16.0, 2, size_px=64, cell_arcsec=60.0), 1)
    members = site.members()
    assert [tile.group_id for tile in members.tiles] == site.groups
    assert all(tile.image.path.is_file() for tile in members.tiles)
