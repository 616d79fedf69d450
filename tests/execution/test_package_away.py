"""The package or Python is away or broken for a while, as during an upgrade: work waits for it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy_stages import request_for

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.failures import FailureKind
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.execution.executor import (
    IsolatedStageExecutor,
    StageFailed,
    no_environment,
)
from absurd_contimg.workflows.failure_rules import CLASSIFIER

Break = Callable[[Path, pytest.MonkeyPatch], None]


def package_that_does_not_import(folder: Path, patch: pytest.MonkeyPatch) -> None:
    (folder / "absurd_contimg").mkdir()
    (folder / "absurd_contimg" / "__init__.py").write_text("from absurd_contimg.core_x import y\n")
    patch.setenv("PYTHONPATH", str(folder))


def package_that_is_half_written(folder: Path, patch: pytest.MonkeyPatch) -> None:
    (folder / "absurd_contimg").mkdir()
    (folder / "absurd_contimg" / "__init__.py").write_text("from typing import (\n    Any,\n")
    patch.setenv("PYTHONPATH", str(folder))


def package_without_the_program(folder: Path, patch: pytest.MonkeyPatch) -> None:
    (folder / "absurd_contimg" / "execution").mkdir(parents=True)
    for place in (folder / "absurd_contimg", folder / "absurd_contimg" / "execution"):
        (place / "__init__.py").touch()
    patch.setenv("PYTHONPATH", str(folder))


def python_that_is_away(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sys, "executable", str(folder / "bin" / "python"))


CASES = [
    *(package_that_does_not_import, package_that_is_half_written),
    *(package_without_the_program, python_that_is_away),
]


@pytest.mark.parametrize("break_it", CASES)
def test_a_stage_that_cannot_begin_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, break_it: Break
) -> None:
    """It was retried once, by the rule `unrecognised`, and failed for good within seconds."""
    break_it(tmp_path, monkeypatch)
    with pytest.raises(StageFailed) as caught:
        asyncio.run(IsolatedStageExecutor(no_environment).execute(request_for(tmp_path)))
    verdict = CLASSIFIER.classify(caught.value.evidence)
    assert (verdict.kind, verdict.rule_id) == (FailureKind.RESOURCE, "import-failed")
    assert verdict.resource_waits_max is not None


@pytest.mark.parametrize("is_mended", [True, False])
async def test_a_task_goes_on_when_its_package_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_mended: bool
) -> None:
    """Without another attempt; a package that stays broken fails it in the end."""
    package_that_does_not_import(tmp_path, monkeypatch)
    backend, starts = MemoryBackend(MemoryDatabase()), []

    async def handler(_params: Any, ctx: TaskContext) -> str:
        async def make(start: int) -> str:
            starts.append(start)
            if is_mended and len(starts) == 3:
                monkeypatch.delenv("PYTHONPATH")
                monkeypatch.setenv("PYTHONPATH", str(Path(request_for.__code__.co_filename).parent))
            await IsolatedStageExecutor(no_environment).execute(request_for(tmp_path))
            return "made"

        return await ctx.tracked_step("make", make)

    await backend.create_queue("q")
    tasks = TaskRegistry()
    tasks.add("task", handler)
    worker = Worker(
        backend,
        tasks,
        WorkerSettings(queue_name="q", worker_id="w", poll_interval_seconds=0.02),
        classifier=CLASSIFIER,
        policy=RetryPolicy(resource_wait_seconds=0.01, backoff_first_seconds=0.0),
    )
    spawned = await backend.spawn_task("q", "task", {})
    running = asyncio.create_task(worker.run())
    async with asyncio.timeout(50):
        while (history := await backend.history("q", spawned.task_id)) is None or (
            history.task.state not in ("completed", "failed")
        ):
            await asyncio.sleep(0.02)
    worker.stop()
    await running
    assert history.task.state == ("completed" if is_mended else "failed")
    assert [run.attempt for run in history.runs] == [1]
    assert len(starts) == (3 if is_mended else 5)
