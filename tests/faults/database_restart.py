"""Throughput before a crash of Postgres and after its restart.

    python tests/faults/database_restart.py [--workers 3] [--crashes 3]

Many short tasks of three steps, several worker processes, a real server that waits for its disk.
The server is stopped with ``-m immediate`` and started again; counted are the tasks completed in
each second before the crash and after the server accepts connections again.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg

from absurd_contimg.backends.postgres import EmbeddedPostgres, PostgresBackend
from absurd_contimg.backends.postgres.schema import install_schema
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.records import Json
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings

QUEUE = "short"
STEPS = 3
STEP_SECONDS = 0.1
CONCURRENCY = 4
BEFORE_SECONDS = 10
AFTER_SECONDS = 15


async def short_task(_params: Json, ctx: TaskContext) -> Json:
    """Three steps that wait: the machine is never the limit."""

    async def wait() -> Json:
        await asyncio.sleep(STEP_SECONDS)
        return None

    for number in range(STEPS):
        await ctx.step(f"step-{number}", wait)
    return None


async def work(url: str, name: str) -> None:
    """A worker with the default settings, and four slots."""
    tasks = TaskRegistry()
    tasks.add("short", short_task)
    async with PostgresBackend(url) as backend:
        await Worker(backend, tasks, WorkerSettings(QUEUE, name, concurrency=CONCURRENCY)).run()


async def spawn(url: str, number: int) -> None:
    """That many tasks."""
    async with PostgresBackend(url) as backend:
        await backend.create_queue(QUEUE)
        for _ in range(number):
            await backend.spawn_task(QUEUE, "short", None)


def completions(url: str) -> list[float]:
    """When each task was completed, seconds since the epoch."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            f"select extract(epoch from completed_at)::float8 from absurd.r_{QUEUE}"
            " where completed_at is not null order by 1"
        )
        return [row[0] for row in rows]


def accepts(url: str) -> bool:
    """Whether the server answers."""
    try:
        with psycopg.connect(url) as connection:
            connection.execute("select 1")
    except psycopg.OperationalError:
        return False
    return True


def crash_once(server: EmbeddedPostgres, number: int, workers: int) -> None:
    """One crash on a fresh database; prints what was found."""
    url = server.create_database(f"restart_{number}")
    install_schema(url)
    expected = workers * CONCURRENCY / (STEPS * STEP_SECONDS)
    asyncio.run(spawn(url, int(expected * (BEFORE_SECONDS + AFTER_SECONDS + 10))))
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "--work-on", url, f"worker-{item}"],
            stderr=subprocess.DEVNULL,
        )
        for item in range(workers)
    ]
    try:
        while not completions(url):
            time.sleep(0.1)
        time.sleep(2 + BEFORE_SECONDS)
        crashed_at = time.time()
        server.stop("immediate")
        server.start()
        while not accepts(url):
            time.sleep(0.02)
        back_at = time.time()
        time.sleep(AFTER_SECONDS)
        done = completions(url)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    counted = [item for item in done if crashed_at - BEFORE_SECONDS <= item < crashed_at]
    before = len(counted) / BEFORE_SECONDS
    after = [
        sum(back_at + n <= item < back_at + n + 1 for item in done) for n in range(AFTER_SECONDS)
    ]
    later = sum(after[5:]) / len(after[5:])
    print(
        f"before {before:.1f} tasks/s; away {back_at - crashed_at:.1f} s; in each second after: "
        f"{' '.join(map(str, after))}; from second 5 on {later:.1f}/s, {later / before:.0%}"
    )
    with psycopg.connect(url) as connection:
        row = connection.execute(f"select max(attempts) from absurd.t_{QUEUE}").fetchone()
    print(f"most attempts of any task: {row[0] if row else '?'}", flush=True)


def main() -> None:
    """Crash the server a few times, each with a fresh database."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--crashes", type=int, default=3)
    parser.add_argument("--work-on", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work_on:
        logging.disable(logging.CRITICAL)
        asyncio.run(work(*arguments.work_on))
        return
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedPostgres(Path(folder) / "server", durable=True) as server,
    ):
        for number in range(arguments.crashes):
            crash_once(server, number, arguments.workers)


if __name__ == "__main__":
    main()
