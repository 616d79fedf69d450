"""Real parts only: synthetic UVH5 files, CASA, Postgres, worker processes, SIGKILL."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.backends.postgres.schema import install_schema
from absurd_contimg.core.records import History
from absurd_contimg.operations.settings import Settings, load_settings
from absurd_contimg.operations.spawning import spawn_groups
from absurd_contimg.registry import Registry
from absurd_contimg.stages.config import PathsConfig, PipelineConfig
from absurd_contimg.synthesis import SynthesisConfig, SynthesisResult, synthesize

QUEUE = "dsa110-pipeline"


@pytest.fixture(scope="session")
def observation(tmp_path_factory: pytest.TempPathFactory) -> SynthesisResult:
    """A calibrator group and a science group, tiny."""
    return synthesize(tmp_path_factory.mktemp("observation"), SynthesisConfig.tiny())


@dataclass(frozen=True, slots=True)
class Site:
    """One installation: folders, a database, and worker processes that can be killed."""

    root: Path
    observation: SynthesisResult
    database_url: str

    @property
    def options(self) -> list[str]:
        """What comes before the command on the command line."""
        config = self.root / "contimg.toml"
        return [
            *("--input-dir", str(self.observation.output_dir)),
            *("--output-dir", str(self.root / "products")),
            *("--scratch-dir", str(self.root / "scratch")),
            *("--state-dir", str(self.root / "state")),
            *("--database-url", self.database_url),
            *("--config", str(config)),
        ]

    @property
    def settings(self) -> Settings:
        """The same as the command line's."""
        values: dict[str, Any] = {
            "input_dir": self.observation.output_dir,
            "output_dir": self.root / "products",
            "scratch_dir": self.root / "scratch",
            "state_dir": self.root / "state",
            "database_url": self.database_url,
            "config_file": self.root / "contimg.toml",
        }
        return load_settings(values, environment={})

    def command(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command of ``contimg`` to its end."""
        return subprocess.run(
            [sys.executable, "-m", "absurd_contimg.operations", *self.options, *arguments],
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
            env={**os.environ, "COLUMNS": "300", **environment},
        )

    def start_worker(self, *arguments: str, log: str = "worker.log") -> subprocess.Popen[bytes]:
        """Start a worker process; its output goes to a file in the site's folder."""
        with (self.root / log).open("ab") as output:
            return subprocess.Popen(
                [
                    *(sys.executable, "-m", "absurd_contimg.operations", *self.options),
                    *("worker", *arguments),
                ],
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
            )

    def histories(self) -> list[History]:
        """Every task's history, in order of its group."""

        async def read() -> list[History]:
            async with PostgresBackend(self.database_url, pool_min_size=1) as backend:
                tasks = await backend.list_tasks(QUEUE)
                found = [await backend.history(QUEUE, task.task_id) for task in tasks]
                return [one for one in reversed(found) if one is not None]

        return asyncio.run(read())

    def spawn(self) -> None:
        """Spawn a task for every group."""

        async def run() -> None:
            async with PostgresBackend(self.database_url, pool_min_size=1) as backend:
                await backend.create_queue(QUEUE)
                registry = Registry(self.settings.registry_url)
                try:
                    await spawn_groups(backend, self.settings, registry, incomplete_now=True)
                finally:
                    registry.close()

        self.settings.pipeline.paths.state_dir.mkdir(parents=True, exist_ok=True)
        asyncio.run(run())

    def pixels(self) -> dict[str, np.ndarray[Any, Any]]:
        """Every FITS image among the products, by file name."""
        return {
            path.name: fits.getdata(path)
            for path in sorted((self.root / "products" / "images").glob("*/*.fits"))
        }


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
def undisturbed(new_site: Callable[..., Site]) -> tuple[Site, float]:
    """A site whose groups one worker has processed without a disturbance, and the seconds."""
    site = new_site()
    site.spawn()
    began = time.monotonic()
    worker = site.start_worker("--until-idle")
    assert worker.wait(240) == 0, (site.root / "worker.log").read_text()
    states = [history.task.state for history in site.histories()]
    assert states == ["completed", "completed"], (site.root / "worker.log").read_text()
    return site, time.monotonic() - began


@pytest.fixture(scope="session")
def tiny_settings() -> Callable[[Path], None]:
    """Writes the settings for tiny data to a TOML file."""
    return lambda path: write_toml(path, PipelineConfig.tiny(PathsConfig.below(path.parent)))


def write_toml(path: Path, config: PipelineConfig) -> None:
    """Write the settings in which a configuration differs from the defaults."""
    lines = []
    values: Mapping[str, Any] = config.model_dump(
        mode="json", exclude={"paths"}, exclude_unset=True
    )
    for section, settings in values.items():
        lines.append(f"[{section}]")
        lines += [f"{name} = {str(value).lower()}" for name, value in settings.items()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
