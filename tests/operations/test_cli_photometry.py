"""`contimg photometry`, `lightcurve` and `variability`, as an operator uses them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sky_products import SkyField, commit_photometry
from typer.testing import CliRunner, Result

from absurd_contimg.errors import MissingInputError, SettingError
from absurd_contimg.operations.cli.main import app
from absurd_contimg.operations.services.source_light_curves import parse_position
from absurd_contimg.products.photometry_table import SourceFlux
from absurd_contimg.registry import Registry

NIGHTS = [f"2025-01-{day:02d}T03:04:05" for day in range(10, 16)]
WINDOW = "window-7"


class Site:
    """A site with photometry of some nights: 30 constant sources, one that grows, one lost."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folders = [
            f"--{name}-dir={root / folder}"
            for name, folder in (
                ("input", "incoming"), ("output", "products"), ("scratch", "scratch"),
                ("state", "state"),
            )
        ]  # fmt: skip
        (root / "state").mkdir()
        random = np.random.default_rng(3)
        fluxes = random.uniform(0.1, 0.6, 30)
        with_registry = Registry(root / "state/registry.sqlite3", output_dir=root / "products")
        for night, group in enumerate(NIGHTS):
            scale = random.normal(1.0, 0.05)
            rows = [
                SourceFlux(
                    f"S{k}", (359.6 + 0.03 * k) % 360, 16.0 + 0.01 * k, 60685.0 + night,
                    float(flux * scale + random.normal(0, 0.003)), 0.003, float(flux), 0.003,
                    0.9, 0,
                )
                for k, flux in enumerate(fluxes)
            ]  # fmt: skip
            grown = replace(rows[3], source="3C 84", flux_jy=0.2 * (1 + night / 5) * scale)
            lost = replace(
                rows[4], source="lost", flux_jy=None, error_jy=None, flags=("blended", "edge")
            )
            product = commit_photometry(root / "products", group, [*rows, grown, lost])
            with_registry.register(product.folder, product.manifest)
        mosaic = commit_photometry(
            root / "products",
            WINDOW,
            [replace(rows[0], source="mosaic only"), rows[1]],
            measured_in="mosaic",
        )
        with_registry.register(mosaic.folder, mosaic.manifest)
        with_registry.close()

    def run(self, *arguments: str) -> Result:
        """The outcome of a command on this site."""
        return CliRunner(env={"COLUMNS": "80"}).invoke(app, [*self.folders, *arguments])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site"))


def test_photometry_shows_the_sources_of_a_group(site: Site) -> None:
    """Brightest first, on 80 columns; without a flux where none was measured."""
    result = site.run("photometry", NIGHTS[0])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert max(map(len, lines[:-1])) <= 80
    fluxes = [float(line.split()[3]) for line in lines[1:6] if line.startswith("S")]
    assert fluxes == sorted(fluxes, reverse=True)
    assert "31 of 32 sources measured; for all of them: --limit 32." in lines[-2]
    rows = json.loads(site.run("photometry", NIGHTS[0], "--json").output)
    assert len(rows) == 32
    assert rows[-1]["source"] == "lost"
    assert rows[-1]["flux_jy"] is None
    assert rows[-1]["flags"] == ["blended", "edge"]
    assert site.run("photometry", WINDOW).exit_code == 0


def test_lightcurve_shows_a_variable_and_draws_it(site: Site, tmp_path: Path) -> None:
    """By its name; the scale of each night is taken out."""
    picture = tmp_path / "curve.png"
    result = site.run("lightcurve", "3C 84", "--png", str(picture))
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert max(map(len, lines)) <= 80 or f"Wrote {picture}" in lines[-1]
    assert ": variable" in result.output
    assert picture.read_bytes().startswith(b"\x89PNG")
    first = picture.read_bytes()
    assert site.run("lightcurve", "3C 84", "--png", str(picture)).exit_code == 0
    assert picture.read_bytes() == first
    curve = json.loads(site.run("lightcurve", "3C 84", "--json").output)
    assert [point["epoch"] for point in curve["points"]] == NIGHTS
    measured = [point["flux_jy"] for point in curve["points"]]
    expected = [0.2 * (1 + night / 5) for night in range(6)]
    ratios = np.array(measured) / expected
    assert np.ptp(ratios) < 0.04
    assert curve["variability"]["variable"] is True
    assert all(point["n_neighbours"] > 20 for point in curve["points"])


def test_lightcurve_of_a_position_across_ra_0_h(site: Site) -> None:
    """In degrees or sexagesimal: the source there, constant."""
    for position in ("0.05,16.15", "00:00:12.5,+16:09:30", "0.0502 16.1502"):
        result = site.run("lightcurve", position)
        assert result.exit_code == 0, result.output
        assert "S15 at" in result.output
        assert ": not variable" in result.output


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("3C84", "Did you mean 3C 84?"),
        ("s3", "Did you mean S3?"),
        ("lost", "No source 'lost' has been measured"),
        ("0.05,17.0", "the nearest is S24"),
        ("400,17", "no position on the sky"),
        ("0.0,-91", "no position on the sky"),
        ("mosaic only", "only in others"),
    ],
)
def test_an_unknown_source_is_refused_with_the_nearest(
    site: Site, source: str, message: str
) -> None:
    """Of name or place."""
    result = site.run("lightcurve", source)
    assert isinstance(result.exception, MissingInputError | SettingError)
    assert message in str(result.exception)


def test_variability_lists_the_variable_source_alone(site: Site) -> None:
    """All others with --all; --json has the statistics."""
    result = site.run("variability")
    assert result.exit_code == 0, result.output
    assert "1 of 31 sources with two epochs or more vary." in result.output
    assert "3C 84" in result.output
    assert max(map(len, result.output.splitlines())) <= 80
    assert len(site.run("variability", "--all", "--limit", "5").output.splitlines()) == 7
    listed = json.loads(site.run("variability", "--json").output)
    assert [entry["source"] for entry in listed["sources"]] == ["3C 84"]
    assert listed["n_compared"] == 31


def test_unknown_names_and_empty_sites_are_refused(site: Site, tmp_path: Path) -> None:
    """With similar groups, and without making a registry."""
    unknown = site.run("photometry", "2025-01-10T03:04:06").exception
    assert isinstance(unknown, MissingInputError)
    assert f"Did you mean {NIGHTS[0]}?" in str(unknown)
    empty = [f"--{name}-dir={tmp_path / name}" for name in ("input", "output", "scratch", "state")]
    for command in (["photometry", "x"], ["lightcurve", "x"], ["variability"]):
        result = CliRunner().invoke(app, [*empty, *command])
        assert isinstance(result.exception, MissingInputError), command
        assert "no registry" in str(result.exception)
    assert not (tmp_path / "state").exists()


def test_make_spawns_a_task_once_while_it_waits(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image without photometry says how; --make spawns, and again only after the task."""
    sky = SkyField(tmp_path)
    registry_path = tmp_path / "state/registry.sqlite3"
    registry_path.parent.mkdir()
    registry = Registry(registry_path, output_dir=sky.config.paths.output_dir)
    product = sky.commit_image(NIGHTS[0])
    registry.register(product.folder, product.manifest)
    registry.close()
    monkeypatch.setenv("ABSURD_DATABASE_URL", database_url)
    paths = sky.config.paths
    options = [
        f"--input-dir={paths.input_dir}", f"--output-dir={paths.output_dir}",
        f"--scratch-dir={paths.scratch_dir}", f"--state-dir={paths.state_dir}",
        "--queue=photometry-test",
    ]  # fmt: skip
    before = CliRunner().invoke(app, [*options, "photometry", NIGHTS[0]])
    assert "--make" in str(before.exception)
    assert CliRunner().invoke(app, [*options, "db", "init"]).exit_code == 0
    tasks = [
        json.loads(
            CliRunner().invoke(app, [*options, "photometry", NIGHTS[0], "--make", "--json"]).output
        )
        for _ in range(2)
    ]
    assert tasks[0]["created"]
    assert not tasks[1]["created"]
    assert tasks[0]["task_id"] == tasks[1]["task_id"]
    shutil.rmtree(product.folder)
    gone = CliRunner().invoke(app, [*options, "photometry", NIGHTS[0], "--make"])
    assert "is not there" in str(gone.exception)
    assert "make it again (contimg reprocess plan, then start" in str(gone.exception)


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("10.684,41.269", (10.684, 41.269)),
        ("10.684 -41.269", (10.684, -41.269)),
        ("00:42:44.2,+41:16:09", (10.6841667, 41.2691667)),
        ("00h42m44.2s,-00d16m09s", (10.6841667, -0.2691667)),
        ("360,0", (0.0, 0.0)),
        ("J0042+4116", None),
        ("3C 84", None),
        ("1:70:00,2", None),
    ],
)
def test_positions_are_read(text: str, position: tuple[float, float] | None) -> None:
    """In degrees, or in hours and degrees; other text is a name."""
    assert parse_position(text) == (None if position is None else pytest.approx(position))
