"""A state folder that cannot be written to, on a site with a private database."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from small_disk import mounted, read_only_view
from typer.testing import CliRunner

from absurd_contimg.backends.postgres import EmbeddedPostgres
from absurd_contimg.operations.cli.main import app


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short one: the socket of the private server lies below it."""
    with tempfile.TemporaryDirectory(prefix="u-") as name:
        yield Path(name)


def contimg(folder: Path, *arguments: str) -> Any:
    """Run a command on the site of a folder."""
    given = ["--folder", str(folder), "--input-dir", str(folder.parent)]
    clean = {key: None for key in os.environ if key.startswith(("ABSURD_", "PIPELINE_"))}
    return CliRunner().invoke(app, [*given, *arguments], env={**clean, "COLUMNS": "400"})


def private_server(folder: Path) -> EmbeddedPostgres:
    (path,) = folder.rglob("server.lock")
    return EmbeddedPostgres(path.parent)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount over a folder")
def test_commands_use_a_server_that_runs_in_a_folder_that_can_only_be_read(folder: Path) -> None:
    """They ended with: cannot use .../lock: Read-only file system."""
    site = folder / "s"
    assert contimg(site, "db", "init").exit_code == 0
    server = private_server(site)
    try:
        with read_only_view(site):
            status = contimg(site, "status")
            assert status.exit_code == 0, status.exception
            assert "tasks cannot be seen" not in contimg(site, "monitor", "--once").output
            output = contimg(site, "emergency", "stop", "--reason", "x", "--timeout", "1").output
            assert "lock: Read-only" not in output
            assert "is given back through the database" in output
    finally:
        server.stop()


def test_the_monitor_shows_the_rest_while_the_private_server_cannot_start(folder: Path) -> None:
    """It ended with what the server said of its full disk, and showed nothing."""
    with mounted(folder / "s", megabytes=120) as disk:
        site = disk / "site"
        assert contimg(site, "db", "init").exit_code == 0
        server = private_server(site)
        server.stop()
        with (disk / "filler").open("wb", 0) as file, suppress(OSError):
            while True:
                file.write(bytes(1 << 12))
        try:
            shown = contimg(site, "monitor", "--once")
            assert shown.exit_code == 1, shown.exception
            assert "The tasks cannot be seen" in shown.output
            assert "0 B" in shown.output  # the disks
        finally:
            (disk / "filler").unlink()
            server.stop("immediate")
