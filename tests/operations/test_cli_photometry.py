"""`contimg photometry`, `lightcurve` and `variability`, as an operator uses them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sky_products import SkyField, commit_photometry
from typer.testing import CliRunner, Result

from absurd_contimg.errors import MissingInputError, SettingError
from absurd_contimg.operations.cli.main import app
from absurd_contimg.operations.night_report.result_reading import variability_facts
from absurd_contimg.operations.services.renamed_sources import latest_names
from absurd_contimg.operations.services.source_light_curves import parse_position
from absurd_contimg.products.photometry_table import SourceFlux
from absurd_contimg.registry import Registry
from absurd_contimg.registry.photometry import FluxMeasurement
from absurd_contimg.settings import load_settings

NIGHTS = [f"2025-01-{day:02d}T03:04:05" for day in range(10, 16)]
WINDOW = "window-7"


class Site:
    """A site with photometry of some nights: 30 constant sources, one that grows, one lost."""

    def __init__(
        self, root: Path, name: Callable[[str, int], str] = lambda source, _: source
    ) -> None:
        """`name` tells what the catalogue calls a source in a night."""
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
            rows = [replace(row, source=name(row.source, night)) for row in (*rows, grown, lost)]
            product = commit_photometry(root / "products", group, rows)
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


def measured(
    source: str, group: str, ra_deg: float = 10.0, flags: str = "", mjd: float | None = None
) -> FluxMeasurement:
    mjd = 60_000.0 + int(group[1:]) if mjd is None else mjd
    return FluxMeasurement(group, source, group, mjd, ra_deg, 0.0, 1.0, 0.01, 1.0, flags)


ARCSEC = 1 / 3600


def test_names_at_one_place_are_those_of_one_source() -> None:
    """Also across RA 0 h and over three editions; the name in the latest image counts."""
    for ra_deg in (10.0, 0.0):
        shift = (ra_deg - 0.3 * ARCSEC) % 360
        names = latest_names([
            measured("z", "g1", shift), measured("b", "g2", ra_deg), measured("a", "g3", ra_deg),
            measured("other", "g3", ra_deg + 3 * ARCSEC),
        ])  # fmt: skip
        assert names == {"z": "a", "b": "a", "a": "a", "other": "other"}


def test_sources_that_one_image_has_both_are_never_joined() -> None:
    """Nor by a third name: the old one belongs to the nearer of two."""
    pair = [measured("b", "g2", 10.0), measured("c", "g2", 10.0 + 0.6 * ARCSEC)]
    assert latest_names(pair) == {"b": "b", "c": "c"}
    old = measured("a", "g1", 10.0 + 0.1 * ARCSEC)
    assert latest_names([old, *pair]) == {"a": "b", "b": "b", "c": "c"}


def test_peaks_outside_the_catalogue_keep_their_names() -> None:
    """Their names are their fitted places."""
    peaks = [measured("p1", "g1", flags="uncatalogued"), measured("p2", "g2")]
    assert latest_names(peaks) == {"p1": "p1", "p2": "p2"}
    assert latest_names([]) == {}


@pytest.fixture(scope="module")
def renamed(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The catalogue has another name for 3C 84 in the last four nights, and for S7 in the last."""
    names = {"3C 84": "J0319+4130", "S7": "T7"}

    def name(source: str, night: int) -> str:
        is_new = night >= {"3C 84": 2, "S7": 5}.get(source, 99)
        return names[source] if is_new else source

    return Site(tmp_path_factory.mktemp("renamed"), name)


def test_a_renamed_source_has_one_light_curve_by_its_position(renamed: Site) -> None:
    """Only the epochs of the nearest name were shown, without a word on the others."""
    place = json.loads(renamed.run("lightcurve", "3C 84", "--json").output)
    position = f"{place['ra_deg']:.5f},{place['dec_deg']:.5f}"
    curve = json.loads(renamed.run("lightcurve", position, "--json").output)
    assert [point["epoch"] for point in curve["points"]] == NIGHTS
    assert curve["names"] == {"3C 84": 2, "J0319+4130": 4}
    assert curve["source"] == "J0319+4130"
    text = renamed.run("lightcurve", position).output
    assert "Measured as 3C 84 (2 epochs), J0319+4130 (4 epochs)." in text
    assert "6 epochs" in text


def test_a_name_shows_its_epochs_and_names_the_others(renamed: Site) -> None:
    old = renamed.run("lightcurve", "3C 84").output
    assert "2 epochs, V" in old
    assert "Also measured as J0319+4130 (4 epochs) here; all of them: contimg lightcurve " in old
    assert renamed.run("lightcurve", *old.split("contimg lightcurve ")[1].split()).exit_code == 0
    new = renamed.run("lightcurve", "J0319+4130", "--json").output
    assert len(json.loads(new)["points"]) == 4
    assert json.loads(new)["variability"]["n_epochs"] == 4
    assert "Also measured" not in renamed.run("lightcurve", "S5").output


def test_variability_joins_the_names_of_a_source(renamed: Site) -> None:
    """They were dropped where each name had too few epochs; T7 has a single one."""
    result = renamed.run("variability")
    assert "1 of 31 sources with two epochs or more vary." in result.output
    assert "J0319+4130: measured as 3C 84 (2 epochs), J0319+4130 (4 epochs)." in result.output
    listed = json.loads(renamed.run("variability", "--all", "--json").output)
    epochs = {entry["source"]: entry["n_epochs"] for entry in listed["sources"]}
    assert epochs["J0319+4130"] == epochs["T7"] == 6
    assert "3C 84" not in epochs


def test_the_report_of_an_old_night_has_the_sources_that_were_renamed_since(renamed: Site) -> None:
    """Its names are not those of the curves: the variable was missing."""
    group: Any = SimpleNamespace(group_id=NIGHTS[0], has_image=True, declination_deg=16.0)
    config = load_settings({}, environment={}).pipeline
    with closing(Registry(renamed.root / "state/registry.sqlite3")) as registry:
        facts = variability_facts(registry.database, config, [group])
    assert facts.n_sources == facts.n_with_epochs == 31
    assert [variable.name for variable in facts.variables] == ["J0319+4130"]
