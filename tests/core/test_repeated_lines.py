"""What lasts for hours is logged once, when it changes, and each hour."""

from __future__ import annotations

import errno
import logging
from pathlib import Path

import pytest

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.core import worker as workers
from absurd_contimg.core.repeated_lines import RepeatedLines
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.execution.disk_marks import Watermarks
from absurd_contimg.execution.scratch import OWNERS, Janitor
from absurd_contimg.operations.services.disk_guard import DiskGuard

QUEUE = "dsa110-pipeline"


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    texts = [each.message for each in caplog.records if each.levelno >= logging.WARNING]
    caplog.clear()
    return texts


def test_a_line_is_news_when_it_changes_ends_or_an_hour_has_passed() -> None:
    lines = RepeatedLines()
    seen = [("a", 0.0), ("a", 3599.0), ("a", 3600.0), ("b", 3601.0), ("b", 3602.0)]
    levels = [lines.level("x", text, now) == logging.WARNING for text, now in seen]
    assert levels == [True, False, True, True, False]
    lines.ended("x")
    assert lines.level("x", "b", 3603.0) == logging.WARNING
    assert lines.level("y", "b", 3603.0) == logging.WARNING


def test_scratch_that_cannot_be_removed_is_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker that lacks space sweeps before each claim, every second."""
    (tmp_path / OWNERS).mkdir()
    (tmp_path / OWNERS / "someone.lock").touch()
    (tmp_path / "someone").mkdir()
    (tmp_path / "someone" / "data").touch()
    for _ in range(5):
        Janitor(tmp_path).sweep()
    (text,) = warnings(caplog)
    assert str(tmp_path / "someone") in text

    def make_room() -> None:
        raise OSError(errno.EIO, "Input/output error")

    guard = DiskGuard("w", [tmp_path], tmp_path / "state", Watermarks(1e6, 0.0), make_room)
    for _ in range(5):
        guard.check()
    assert [text for text in warnings(caplog) if "make room" in text] == [
        "worker w: cannot make room: [Errno 5] Input/output error"
    ]


async def test_a_task_without_a_handler_is_named_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes back every 15 s for as long as no other worker takes it."""
    monkeypatch.setattr(workers, "_UNKNOWN_TASK_SECONDS", 0.0)
    backend = MemoryBackend(MemoryDatabase())
    await backend.create_queue(QUEUE)
    for name in ("a", "a", "b"):
        await backend.spawn_task(QUEUE, name, None)
    options = WorkerSettings(QUEUE, "w", poll_interval_seconds=0.001)
    worker = Worker(backend, TaskRegistry(), options)
    claim, claims = backend.claim_task, 0

    async def claim_some(*arguments: object) -> object:
        nonlocal claims
        claims += 1
        if claims == 9:
            worker.stop()
        return await claim(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(backend, "claim_task", claim_some)
    await worker.run()
    texts = [f"no handler for task {name!r} here: left to other workers" for name in "ab"]
    assert sorted(warnings(caplog)) == texts
