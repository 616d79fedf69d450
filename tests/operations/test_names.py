"""Names that a user gives are looked at where they are given."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from absurd_contimg.config import PathsConfig
from absurd_contimg.errors import SettingError
from absurd_contimg.operations.cli.main import app
from absurd_contimg.operations.services.database import open_backend
from absurd_contimg.operations.services.preconditions import check_calibrator
from absurd_contimg.science.catalogue import SkySource, write_catalogue
from absurd_contimg.settings import Settings, load_settings


def settings_of(root: Path) -> Settings:
    paths = PathsConfig.below(root)
    return load_settings(
        {name: getattr(paths, name) for name in ("input_dir", "output_dir", "state_dir")},
        environment={"PIPELINE_CATALOG": str(root / "catalog.csv")},
    )


@pytest.mark.parametrize("name", ["3C286", "3c48", "", " 3C48", "FAINT"])
def test_unknown_calibrator_is_refused_before_anything_starts(tmp_path: Path, name: str) -> None:
    """It was found out after the conversion of every group, as poor data."""
    sources = [SkySource("3C48", 24.4, 33.2, 16.0, calibrator=True), SkySource("FAINT", 1, 2, 0.1)]
    write_catalogue(tmp_path / "catalog.csv", sources)
    settings = settings_of(tmp_path)
    check_calibrator(settings, "3C48")
    check_calibrator(settings, "auto")
    with pytest.raises(SettingError, match="3C48"):
        check_calibrator(settings, name)


def test_misspelt_queue_makes_no_queue(tmp_path_factory: pytest.TempPathFactory) -> None:
    settings = settings_of(tmp_path_factory.mktemp("q"))  # a socket's path has to be short

    async def queues(queue_name: str) -> list[str]:
        async with open_backend(replace(settings, queue_name=queue_name)) as backend:
            return await backend.list_queues()

    assert "night" in asyncio.run(queues("night"))
    with pytest.raises(
        SettingError, match=r"no queue 'nigth'; there are: night.*Did you mean night.*nigth db init"
    ):
        asyncio.run(queues("nigth"))
    assert "nigth" not in asyncio.run(queues("night"))


@pytest.mark.parametrize("arguments", [("--version",), ("-h",), ("spawn", "-h"), ("queue", "-h")])
def test_version_and_short_help(arguments: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    assert re.search(r"contimg \d|Usage", result.output)
