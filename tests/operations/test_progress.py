"""The live display continues while the database is away, and ends with the tasks."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from rich.console import Console

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.core.errors import BackendUnavailable
from absurd_contimg.core.records import History
from absurd_contimg.operations import terminal
from absurd_contimg.operations.terminal import watch

QUEUE = "dsa110-pipeline"


class Away(MemoryBackend):
    """A database that restarts during the display; then the task has ended."""

    answers = 0

    async def histories(self, queue_name: str, task_ids: Sequence[UUID]) -> list[History]:
        self.answers += 1
        if self.answers in (2, 3):
            raise BackendUnavailable("the server closed the connection.")
        if self.answers == 4:
            await self.cancel_task(queue_name, task_ids[0])
        return await super().histories(queue_name, task_ids)


async def test_watching_survives_a_restart_of_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "_REFRESH_SECONDS", 0.001)
    backend = Away(MemoryDatabase())
    await backend.create_queue(QUEUE)
    task = await backend.spawn_task(QUEUE, "pipeline", {"group_id": "G1"})
    shown = io.StringIO()
    console: Any = Console(file=shown, force_terminal=True, width=120)
    (history,) = await watch(backend, QUEUE, [task.task_id], console)
    assert (history.task.state, backend.answers) == ("cancelled", 4)
    assert "G1" in shown.getvalue()
