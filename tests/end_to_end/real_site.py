"""One installation of the real pipeline: folders, a database and worker processes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from astropy.io import fits

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.config import PipelineConfig
from absurd_contimg.core.records import History
from absurd_contimg.ingest.spawn import spawn_groups
from absurd_contimg.registry import Registry
from absurd_contimg.settings import Settings, load_settings

QUEUE = "dsa110-pipeline"
Pixels = dict[str, np.ndarray[Any, Any]]


class Observation(Protocol):
    """Sub-band files on disk, such as a `SynthesisResult`."""

    @property
    def output_dir(self) -> Path:
        """The folder with the sub-band files and the catalogue."""
        ...


@dataclass(frozen=True, slots=True)
class Site:
    """All folders but the observation are below `root`."""

    root: Path
    observation: Observation
    database_url: str
    variables: Mapping[str, str] = field(default_factory=dict)
    """Added to the environment of its workers."""
    prefix: tuple[str, ...] = ()
    """A program and its options that start the workers."""

    @property
    def options(self) -> list[str]:
        """The options before the command on the command line."""
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
        """Equal to the command line's."""
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

    def start_worker(self, *arguments: str, log: Path | None = None) -> subprocess.Popen[bytes]:
        """Start a worker process; its output goes to ``worker.log`` in the site's folder."""
        with (log or self.root / "worker.log").open("ab") as output:
            return subprocess.Popen(
                [
                    *(*self.prefix, sys.executable, "-m", "absurd_contimg.operations"),
                    *(*self.options, "worker", *arguments),
                ],
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **self.variables},
            )

    def histories(self) -> list[History]:
        """Every task's history, in order of its group."""

        async def read() -> list[History]:
            async with PostgresBackend(self.database_url) as backend:
                tasks = await backend.list_tasks(QUEUE)
                return await backend.histories(QUEUE, [task.task_id for task in reversed(tasks)])

        return asyncio.run(read())

    def spawn(self) -> None:
        """Spawn a task for every group."""

        async def run() -> None:
            async with PostgresBackend(self.database_url) as backend:
                await backend.create_queue(QUEUE)
                registry = Registry(self.settings.registry_url)
                try:
                    await spawn_groups(backend, self.settings, registry, incomplete_now=True)
                finally:
                    registry.close()

        self.settings.pipeline.paths.state_dir.mkdir(parents=True, exist_ok=True)
        asyncio.run(run())

    def pixels(self) -> Pixels:
        """Every FITS image among the products, by file name."""
        return pixels_of(self.root / "products")


def pixels_of(output_dir: Path) -> Pixels:
    """Every FITS image among the products of an output folder, by file name."""
    return {
        path.name: fits.getdata(path) for path in sorted((output_dir / "images").glob("*/*.fits"))
    }


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
