"""A task that waits for a resource says why, where, what to do and until when."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.records import History
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.operations import services
from absurd_contimg.operations.cli.main import app
from absurd_contimg.workflows.failure_rules import CLASSIFIER

QUEUE = "dsa110-pipeline"
FULL_DISK = "/data/scratch/G1.ms"
ADVICE = next(rule.advice for rule in CLASSIFIER.rules if rule.id == "disk-full")


async def pipeline(params: Any, ctx: TaskContext) -> None:
    """One stage, which meets a full disk."""

    async def convert(_start: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), FULL_DISK)

    await ctx.tracked_step("convert", convert)


async def meet_full_disk(backend: Backend) -> History:
    """The history of a task whose worker met ENOSPC, through the pipeline's failure table."""
    await backend.create_queue(QUEUE)
    task = await backend.spawn_task(QUEUE, "pipeline", {"group_id": "G1"})
    tasks = TaskRegistry()
    tasks.add("pipeline", pipeline)
    settings = WorkerSettings(QUEUE, "worker-1", poll_interval_seconds=0.001)
    await Worker(backend, tasks, settings, CLASSIFIER).run(until_idle=True)
    history = await backend.history(QUEUE, task.task_id)
    assert history is not None
    return history


@pytest.fixture(params=["memory", "postgres"])
def history(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> History:
    """The history of the waiting task, in the database that `contimg` then reads."""
    url = request.getfixturevalue("database_url") if request.param == "postgres" else None
    memory = MemoryDatabase()

    @asynccontextmanager
    async def open_backend(*_: object, **__: object) -> AsyncIterator[Backend]:
        if url is None:
            yield MemoryBackend(memory)
            return
        async with PostgresBackend(url) as backend:
            yield backend

    async def prepare() -> History:
        async with open_backend() as backend:
            return await meet_full_disk(backend)

    monkeypatch.setattr(services, "open_backend", open_backend)
    return asyncio.run(prepare())


def contimg(folder: Path, *arguments: str) -> str:
    """The output of a command, without line breaks and repeated spaces."""
    folders = ("--input-dir", str(folder), "--output-dir", str(folder / "products"))
    clean = {key: None for key in os.environ if key.startswith(("ABSURD_", "PIPELINE_"))}
    done = CliRunner().invoke(app, [*folders, *arguments], env={**clean, "COLUMNS": "400"})
    assert done.exit_code == 0, done.output
    return done.stdout


def test_waiting_task_says_kind_rule_path_advice_and_until(
    history: History, tmp_path: Path
) -> None:
    due = history.runs[-1].available_at
    until = f"{due:%H:%M:%S} UTC"
    report = tmp_path / "report.html"
    contimg(tmp_path, "report", str(report))
    outputs = {
        "status": contimg(tmp_path, "status"),
        "history": contimg(tmp_path, "history", "G1"),
        "report": re.sub(r"<[^>]*>", " ", report.read_text()),
    }
    for command, output in outputs.items():
        text = re.sub(r"\s+", " ", output)
        for expected in ("convert", "resource", "disk-full", FULL_DISK, ADVICE, until):
            assert expected in text, (command, expected)

    (task,) = json.loads(contimg(tmp_path, "status", "--json"))["tasks"]
    waiting = task["waiting"]
    assert json.loads(contimg(tmp_path, "history", "G1", "--json"))["waiting"] == waiting
    assert {key: waiting[key] for key in ("cause", "step", "kind", "rule", "path", "advice")} == {
        "cause": "resource",
        "step": "convert",
        "kind": "resource",
        "rule": "disk-full",
        "path": FULL_DISK,
        "advice": ADVICE,
    }
    assert datetime.fromisoformat(waiting["until"]) == due
    assert "No space left on device" in waiting["message"]
