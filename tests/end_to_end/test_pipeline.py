"""``contimg run`` on an embedded Postgres: the command does everything in its own folders."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.stats import mad_std
from forked_programs import ForkedProcess, run_commands, run_program
from typer.testing import CliRunner

from absurd_contimg.config import PathsConfig, PipelineConfig
from absurd_contimg.execution.casa_environment import casa_environment
from absurd_contimg.operations.cli.main import app
from absurd_contimg.synthesis import SynthesisResult

FEWER_STEPS = f"imaging.niter={PipelineConfig.tiny(PathsConfig.below(Path('/'))).imaging.niter}"
"""The setting for tiny data: the line of the README has one for the larger data of the demo."""
pytestmark = pytest.mark.timeout(600)


def readme_line(command: str, root: Path, incoming: Path) -> list[str]:
    """The words after ``contimg --folder`` of the README's first line with this command, here."""
    readme = Path(__file__).parents[2] / "README.md"
    lines = [line.partition("#")[0] for line in readme.read_text().splitlines()]
    line = next(
        each
        for each in lines
        if each.startswith("contimg --folder") and each.rstrip().endswith(f" {command}")
    )
    line = line.replace("demo/incoming", str(incoming)).replace("imaging.niter=100", FEWER_STEPS)
    _, option, _, *rest = line.split()
    return [option, str(root), *rest]


@pytest.fixture(scope="module")
def ran(
    tmp_path_factory: pytest.TempPathFactory,
    observation: SynthesisResult,
    tiny_settings: Callable[[Path], None],
) -> tuple[subprocess.CompletedProcess[str], Path, dict[str, Path]]:
    """The ended command, its folder, and folders that it must not write into."""
    root = tmp_path_factory.mktemp("run")
    tiny_settings(root / "contimg.toml")
    forbidden = {name: tmp_path_factory.mktemp(name.lower()) for name in ("HOME", "TMPDIR", "CWD")}
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ABSURD_", "PIPELINE_", "XDG_", "MPL"))
    }
    done = subprocess.run(
        [
            *(sys.executable, "-m", "absurd_contimg.operations"),
            *("--config", str(root / "contimg.toml")),
            *readme_line("run", root, observation.output_dir),
            *("--concurrency", "2"),
        ],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
        cwd=forbidden["CWD"],
        env={**clean, "HOME": str(forbidden["HOME"]), "TMPDIR": str(forbidden["TMPDIR"])},
    )
    return done, root, forbidden


def test_every_group_is_imaged_and_reported(
    ran: tuple[subprocess.CompletedProcess[str], Path, dict[str, Path]],
) -> None:
    done, root, _ = ran
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("completed, clean") == 2
    report = (root / "products" / "report.html").read_text(encoding="utf-8")
    assert report.count("data:image/png;base64,") >= 2
    assert len(list((root / "products" / "report_images").glob("*.png"))) == 2


def test_the_lines_of_the_readme_show_what_is_there(
    ran: tuple[subprocess.CompletedProcess[str], Path, dict[str, Path]],
    observation: SynthesisResult,
    tmp_path: Path,
) -> None:
    """Status, dashboard and the end of the server; the line with ``run`` has made the site."""
    _, root, _ = ran
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("ABSURD_", "PIPELINE_"))}
    status = run_program(readme_line("status", root, observation.output_dir), clean)
    assert "2 completed" in status.stdout, status.stderr
    words = readme_line("dashboard", root, observation.output_dir)
    output = tmp_path / "output"

    def show() -> None:
        sys.argv = ["contimg", *words, "--port", "0"]
        run_commands()

    pages = ForkedProcess(show, clean, output)
    try:
        give_up = time.monotonic() + 60
        while "Dashboard: http" not in output.read_text():
            assert pages.poll() is None, output.read_text()
            assert time.monotonic() < give_up, output.read_text()
            time.sleep(0.05)
    finally:
        pages.send_signal(signal.SIGINT)
    assert pages.wait(30) in (0, 130)
    stopped = run_program(readme_line("db stop", root, observation.output_dir), clean)
    assert stopped.returncode == 0, stopped.stderr


def test_nothing_is_written_outside_the_given_folders(
    ran: tuple[subprocess.CompletedProcess[str], Path, dict[str, Path]],
) -> None:
    _, root, forbidden = ran
    for name, folder in forbidden.items():
        assert not list(folder.rglob("*")), f"something was written to {name}"
    assert {path.name for path in root.iterdir()} == {
        "contimg.toml",
        "products",
        "scratch",
        "state",
    }


def test_the_server_that_it_started_is_stopped(
    ran: tuple[subprocess.CompletedProcess[str], Path, dict[str, Path]],
) -> None:
    _, root, _ = ran
    assert (root / "state" / "postgres" / "data" / "PG_VERSION").exists()
    assert not (root / "state" / "postgres" / "data" / "postmaster.pid").exists()


_COUNT_FLAGS = """
import json, sys
from casatools import table
def flagged_shares(path):
    main, antennas = table(), table()
    antennas.open(path + "/ANTENNA")
    main.open(path)
    flags = main.getcol("FLAG") | main.getcol("FLAG_ROW")[None, None, :]
    first, second = main.getcol("ANTENNA1"), main.getcol("ANTENNA2")
    return {
        str(name): float(flags[:, :, (first == n) | (second == n)].mean())
        for n, name in enumerate(antennas.getcol("NAME"))
        if ((first == n) | (second == n)).any()
    }
print(json.dumps([flagged_shares(path) for path in sys.argv[1:]]))
"""


def test_report_of_the_night_agrees_with_products_and_commands(
    ran: tuple[subprocess.CompletedProcess[str], Path, dict[str, Path]],
    observation: SynthesisResult,
    tmp_path: Path,
) -> None:
    """Flags, noise and fluxes are those of CASA, the pixels and the validation."""
    _, root, _ = ran
    folders = {"output": root / "products", "scratch": root / "scratch", "state": root / "state"}
    options = [text for name, path in folders.items() for text in (f"--{name}-dir", str(path))]
    options += ["--input-dir", str(observation.output_dir), "--config", str(root / "contimg.toml")]
    clean = {name: None for name in os.environ if name.startswith(("ABSURD_", "PIPELINE_"))}

    def contimg(*arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, [*options, *arguments], env={**clean, "COLUMNS": "200"})
        assert result.exit_code == code, result.output
        return str(result.stdout)

    # Ten antennas for a minute are noisier than the gate allows, and have nothing to flag.
    contimg("report", "--night", "last", code=1)
    products = root / "products"
    (path,) = (products / "reports").glob("*.json")
    report = json.loads(path.read_text())
    rows = {row["key"]: row for row in report["rows"]}
    groups = report["groups"]
    assert (report["groups_by_state"], report["unprocessed"]) == ({"done": 2}, [])
    assert report["problems"] == []
    not_measured = {key for key, row in rows.items() if row["status"] == "not measured"}
    assert not_measured == {"mosaics", "variability"}

    def product(group: dict[str, Any], pattern: str) -> Path:
        (path,) = products.glob(pattern.format(group["group_id"]))
        return path

    sets = [str(product(group, "calibrated/*/*/{}.ms")) for group in groups]
    environment = casa_environment(tmp_path / "casa", tmp_path / "casa.log")
    counted = subprocess.run(
        [sys.executable, "-c", _COUNT_FLAGS, *sets],
        capture_output=True,
        check=True,
        timeout=240,
        env={**os.environ, **environment},
    )
    noise, ratios = [], []
    for group, shares in zip(groups, json.loads(counted.stdout.splitlines()[-1]), strict=True):
        assert group["data"]["flagged_by_antenna"] == pytest.approx(shares, abs=1e-9)
        total = np.mean(list(shares.values()))
        assert group["flagged_calibrated"] == pytest.approx(total, abs=1e-5)
        pixels = fits.getdata(product(group, "images/{}-*/*-image.fits")).squeeze()
        height, width = (side // 4 for side in pixels.shape)
        inner = pixels[height:-height, width:-width]
        noise.append(mad_std(inner))
        table = json.loads(product(group, "validation/{}-*/*-validation.json").read_text())
        isolated = [source for source in table["sources"] if source["isolated"]]
        ratios += [each["flux_ratio"] for each in isolated if each["flux_ratio"] is not None]
    assert rows["noise"]["number"] == pytest.approx(1e3 * np.median(noise), rel=1e-3)
    assert rows["flux_scale"]["number"] == pytest.approx(np.median(ratios))

    status = json.loads(contimg("status", "--json"))
    tasks = {task["group"]: (task["task_id"], task["state"]) for task in status["tasks"]}
    assert tasks == {each["group_id"]: (each["task"]["task_id"], "completed") for each in groups}
    assert report["operations"]["tasks_by_state"] == {"completed": 2}
    assert f"{len(status['tasks'])} tasks audited, 0 violations" in contimg("audit")
