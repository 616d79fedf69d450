"""A standard error that nobody reads stops neither a worker nor its end."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.operations.log_stream import QueuedStream

SCRIPT = """
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.operations.cli.main import main
from absurd_contimg.operations.services import worker_service

def make_worker(backend, settings, *_others):
    async def handler(params, ctx):
        return "done"
    registry = TaskRegistry()
    registry.add("short", handler)
    return Worker(backend, registry, WorkerSettings(settings.queue_name, "w"))

worker_service.make_worker = make_worker
main()
"""


def full_pipe() -> tuple[int, int]:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writer, b"x" * 4096)
    return reader, writer


def test_worker_works_and_ends_while_nobody_reads_its_errors(
    database_url: str, tmp_path: Path
) -> None:
    async def spawn() -> None:
        async with PostgresBackend(database_url) as backend:
            await backend.create_queue("q")
            await backend.spawn_task("q", "short", {})

    async def completed() -> bool:
        async with PostgresBackend(database_url) as backend:
            stats = await backend.queue_stats("q")
            return stats.tasks_by_state.get("completed", 0) == 1

    asyncio.run(spawn())
    reader, writer = full_pipe()
    folders = ["--input-dir", str(tmp_path), "--output-dir", str(tmp_path / "out")]
    command = [*folders, "--database-url", database_url, "--queue", "q", "worker"]
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *command], stdout=writer, stderr=writer
    ) as process:
        try:
            give_up = time.monotonic() + 60
            while not asyncio.run(completed()):
                assert time.monotonic() < give_up, "the worker claims nothing"
                time.sleep(0.2)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()
            os.close(writer)
            os.close(reader)


def test_dropped_messages_are_counted() -> None:
    reader, writer = full_pipe()
    stream = QueuedStream(writer)
    for number in range(1500):
        stream.write(f"message {number}\n")
    begin = time.monotonic()
    stream.drain()
    assert time.monotonic() - begin < 5
    text, kept, dropped = b"", 0, 0
    while kept + dropped < 1500:  # a count may come in parts: of what was dropped so far
        text += os.read(reader, 4096)
        lines = text.lstrip(b"x").decode().split("\n")[:-1]
        kept = sum(line.startswith("message ") for line in lines)
        dropped = sum(int(line.split()[0]) for line in lines if "were dropped" in line)
    assert (kept + dropped, lines[0]) == (1500, "message 0")
    assert kept >= 1000
    stream.drain()
