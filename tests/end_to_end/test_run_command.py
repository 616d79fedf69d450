"""``contimg run`` on an embedded Postgres: everything in one command, in its own folders."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from absurd_contimg.synthesis import SynthesisResult


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
            *("--input-dir", str(observation.output_dir), "--output-dir", str(root / "products")),
            *("--scratch-dir", str(root / "scratch"), "--state-dir", str(root / "state")),
            *("--config", str(root / "contimg.toml"), "run", "--concurrency", "2"),
        ],
        capture_output=True,
        text=True,
        timeout=240,
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
