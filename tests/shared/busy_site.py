"""A site in use: folders, a database, worker processes whose stages are held, and the program."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from held_stages import HOLD
from typer.testing import CliRunner

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.core.records import Json, SpawnOptions
from absurd_contimg.operations.cli.main import app

QUEUE = "dsa110-pipeline"
SHARED = Path(__file__).parent
END_SECONDS = 5.0
"""Within this a stage's process has to end (issue 17)."""


class BusySite:
    """Folders, a database and worker processes whose stages are held."""

    def __init__(self, root: Path, url: str, **variables: str) -> None:
        self.incoming, self.url = root / "in", url
        self.incoming.mkdir()
        self.hold = self.incoming / HOLD
        self.hold.touch()
        self.state, self.output = root / "state", root / "out"
        self.options = [
            *("--input-dir", str(self.incoming), "--output-dir", str(self.output)),
            *("--state-dir", str(self.state), "--database-url", url),
        ]
        self.clean = {key: None for key in os.environ if key.startswith(("ABSURD_", "PIPELINE_"))}
        self.variables = variables
        """Of the environment."""
        self.workers: list[subprocess.Popen[bytes]] = []

    def contimg(self, *arguments: str, given: str | None = None) -> Any:
        env = {**self.clean, **self.variables, "COLUMNS": "200"}
        return CliRunner().invoke(app, [*self.options, *arguments], env=env, input=given)

    def start_worker(self, name: str) -> None:
        script, log = SHARED / "held_stages.py", (self.incoming / f"{name}.log").open("wb")
        with log:
            self.workers.append(
                subprocess.Popen(
                    [sys.executable, str(script), *self.options, "worker", "--worker-id", name],
                    stdout=log,
                    stderr=log,
                    env={k: v for k, v in os.environ.items() if k not in self.clean}
                    | self.variables,
                )
            )

    def spawn(self, group_id: str, params: dict[str, Json] | None = None, **options: Any) -> UUID:
        source = self.incoming / f"{group_id}_sb00.hdf5"
        source.write_text(group_id)
        files: list[Json] = [str(source)]
        given = params or {
            "group_id": group_id,
            "input_files": files,
            "catalog_path": str(source),
        }

        async def call() -> UUID:
            async with PostgresBackend(self.url) as backend:
                chosen = SpawnOptions(**options)
                return (await backend.spawn_task(QUEUE, "pipeline", given, chosen)).task_id

        return asyncio.run(call())

    def running(self) -> dict[str, int]:
        """The groups whose stage processes are alive, and those processes."""
        alive = {}
        for file in self.incoming.glob("*.pid"):
            pid = int(file.read_text() or 0)
            if pid and os.path.exists(f"/proc/{pid}"):
                alive[file.name.partition("_")[0]] = pid
        return alive

    def wait(self, what: str, until: Callable[[], Any], seconds: float = 60.0) -> float:
        """Wait until something is so; after how many seconds it was."""
        begun = time.monotonic()
        while not until():
            for worker in self.workers:
                assert worker.poll() is None, "a worker has ended"
            assert time.monotonic() < begun + seconds, f"after {seconds:g} s: {what}"
            time.sleep(0.05)
        return time.monotonic() - begun

    def states(self) -> Counter[str]:
        async def call() -> Counter[str]:
            async with PostgresBackend(self.url) as backend:
                return Counter((await backend.queue_stats(QUEUE)).tasks_by_state)

        return asyncio.run(call())

    def task_of(self, group_id: str) -> Any:
        async def call() -> Any:
            async with PostgresBackend(self.url) as backend:
                (task,) = await backend.list_tasks(QUEUE, params={"group_id": group_id})
                return task

        return asyncio.run(call())

    def stop(self) -> None:
        for worker in self.workers:
            worker.kill()
            worker.wait()


def require(outcome: Any, code: int = 0) -> str:
    assert outcome.exit_code == code, (outcome.output, outcome.exception)
    return str(outcome.output)


def assert_audit_is_clean(site: BusySite) -> None:
    assert "0 violations" in require(site.contimg("audit"))


def groups(count: int) -> Sequence[str]:
    return [f"2026-01-01T00:{number:02}:00" for number in range(count)]
