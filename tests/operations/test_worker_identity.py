"""Workers of one id on one database: only what a dead predecessor left is taken up."""

from __future__ import annotations

import asyncio
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.operations.services.worker_identity import given_worker_id, unique_worker_id


def test_a_restarted_worker_has_its_name_again(tmp_path: Path) -> None:
    name = unique_worker_id("host:1", tmp_path)
    assert unique_worker_id("host:1", tmp_path) == name
    assert given_worker_id(name) == "host:1"
    assert given_worker_id(unique_worker_id("a@b", tmp_path)) == "a@b"


def test_another_folder_and_a_copy_are_other_places(tmp_path: Path) -> None:
    """A copy has the file, but not the lock that guards the name."""
    first = tmp_path / "first"
    first.mkdir()
    name = unique_worker_id("w", first)
    shutil.copytree(first, tmp_path / "copy", copy_function=shutil.copy2)
    (tmp_path / "other").mkdir()
    names = {
        name,
        unique_worker_id("w", tmp_path / "copy"),
        unique_worker_id("w", tmp_path / "other"),
    }
    assert len(names) == 3
    first.rename(tmp_path / "moved")
    assert unique_worker_id("w", tmp_path / "moved") == name


def test_workers_that_start_together_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        names = set(pool.map(lambda _: unique_worker_id("w", tmp_path), range(32)))
    assert len(names) == 1


async def test_a_living_run_of_the_same_id_elsewhere_is_left_alone(
    tmp_path: Path, database_url: str
) -> None:
    """Two hosts or output folders, one database, the default id: no step runs twice."""
    running, finish, starts = asyncio.Event(), asyncio.Event(), 0

    async def handler(params: Any, ctx: Any) -> None:
        async def step() -> None:
            nonlocal starts
            starts += 1
            running.set()
            await finish.wait()

        await ctx.step("s", step)

    registry = TaskRegistry()
    registry.add("task", handler)

    def worker(backend: PostgresBackend, place: str) -> Worker:
        folder = tmp_path / place
        folder.mkdir(exist_ok=True)
        name = unique_worker_id("host:1", folder)
        return Worker(backend, registry, WorkerSettings("q", name, poll_interval_seconds=0.02))

    async with PostgresBackend(database_url) as backend:
        await backend.create_queue("q")
        task = await backend.spawn_task("q", "task", {})
        first = asyncio.create_task(worker(backend, "first").run(until_idle=True))
        await running.wait()
        await worker(backend, "second").run(until_idle=True)
        assert starts == 1
        finish.set()
        await first
        history = await backend.history("q", task.task_id)
        assert history is not None
        assert (history.task.state, len(history.runs)) == ("completed", 1)

        orphan = await backend.spawn_task("q", "task", {})
        dead = worker(backend, "first").settings.worker_id
        await backend.claim_task("q", dead, 3600)
        await worker(backend, "first").run(until_idle=True)
        history = await backend.history("q", orphan.task_id)
        assert history is not None
        assert history.task.state == "completed"
