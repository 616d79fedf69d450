"""SIGTERM and a closed terminal end the process of a worker, whatever its work does."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from absurd_contimg.backends.postgres import PostgresBackend

SCRIPT = """
import sys, threading
from absurd_contimg.core import lease
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.execution.processes import uninterrupted
from absurd_contimg.operations.cli.main import main
from absurd_contimg.operations.services import worker_service

lease._END_SECONDS = 0.2


async def handler(params, ctx):
    print("begun", flush=True)
    await uninterrupted(threading.Event().wait)  # a file system that does not answer


def make_worker(backend, settings, *_others):
    registry = TaskRegistry()
    registry.add("stuck", handler)
    settings = WorkerSettings(settings.queue_name, "w", grace_seconds=0.1)
    return Worker(backend, registry, settings)


worker_service.make_worker = make_worker
main()
"""


@pytest.mark.parametrize(
    ("signals", "nohup"),
    [
        ([signal.SIGTERM], False),
        ([signal.SIGHUP], False),
        ([signal.SIGHUP, signal.SIGTERM], True),
    ],
    ids=["term", "terminal closed", "terminal closed under nohup"],
)
def test_work_in_a_thread_that_does_not_end_is_not_waited_for(
    database_url: str, tmp_path: Path, signals: list[signal.Signals], nohup: bool
) -> None:
    """Under nohup, only the second signal stops the worker."""

    async def spawn() -> None:
        async with PostgresBackend(database_url) as backend:
            await backend.create_queue("q")
            await backend.spawn_task("q", "stuck", {})

    asyncio.run(spawn())
    folders = ["--input-dir", str(tmp_path), "--output-dir", str(tmp_path / "out")]
    command = [*folders, "--database-url", database_url, "--queue", "q", "worker"]
    process = subprocess.Popen(
        [*(["nohup"] if nohup else []), sys.executable, "-c", SCRIPT, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        try:
            for number in signals[:-1]:
                process.send_signal(number)
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(timeout=1)
            process.send_signal(signals[-1])
            _, log = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 1
    assert "does not end" in log
