"""Real parts only: synthetic UVH5 files, CASA, Postgres, worker processes, SIGKILL."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from absurd_contimg.backends.postgres.schema import install_schema
from absurd_contimg.config import PathsConfig, PipelineConfig
from absurd_contimg.synthesis import SynthesisConfig, SynthesisResult, synthesize

sys.path.append(str(Path(__file__).parent))
from real_site import Site, write_toml


@pytest.fixture(scope="session")
def observation(tmp_path_factory: pytest.TempPathFactory) -> SynthesisResult:
    """A calibrator group and a science group, tiny."""
    return synthesize(tmp_path_factory.mktemp("observation"), SynthesisConfig.tiny())


@pytest.fixture(scope="session")
def new_site(
    tmp_path_factory: pytest.TempPathFactory,
    observation: SynthesisResult,
    new_database: Callable[[], str],
) -> Callable[..., Site]:
    """Makes a site with an empty database each time it is called."""

    def make(observed: SynthesisResult = observation) -> Site:
        root = tmp_path_factory.mktemp("site")
        write_toml(root / "contimg.toml", PipelineConfig.tiny(PathsConfig.below(root)))
        url = new_database()
        install_schema(url)
        return Site(root, observed, url)

    return make


@pytest.fixture(scope="session")
def tiny_settings() -> Callable[[Path], None]:
    """Writes the settings for tiny data to a TOML file."""
    return lambda path: write_toml(path, PipelineConfig.tiny(PathsConfig.below(path.parent)))
