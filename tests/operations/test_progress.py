"""The live display continues while the database is away, and ends with the tasks."""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from rich.console import Console

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.core.errors import BackendUnavailable
from absurd_contimg.core.records import History, SpawnOptions
from absurd_contimg.core.worker_deaths import note_death
from absurd_contimg.operations import terminal
from absurd_contimg.operations.terminal import history_table, progress_table, short_names, watch

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


async def test_a_death_in_plain_code_is_seen_in_the_history() -> None:
    """One worker's run was taken up by its successor of the same name, another's lease ended."""
    now = datetime(2026, 3, 1, 3, tzinfo=UTC)
    database = MemoryDatabase(clock=lambda: now)
    backend = MemoryBackend(database)
    await backend.create_queue(QUEUE)
    task = await backend.spawn_task(QUEUE, "plain", {}, SpawnOptions(max_attempts=3))
    await backend.claim_task(QUEUE, "w1", 60)
    history = await backend.history(QUEUE, task.task_id)
    assert history is not None
    await note_death(backend, QUEUE, history.runs[-1])
    now += timedelta(seconds=100)
    await backend.claim_task(QUEUE, "w2", 60)
    history = await backend.history(QUEUE, task.task_id)
    assert history is not None
    shown = io.StringIO()
    Console(file=shown, width=200).print(history_table(history))
    text = " ".join(shown.getvalue().split())
    assert "its worker died or was cut off, and its lease ended" in text
    assert "its worker had died 1 time before" in text
    assert "$" not in text  # no step of the handler


async def test_without_a_terminal_there_is_a_line_for_each_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A log grows while stages run for minutes."""
    monkeypatch.setattr(terminal, "_REFRESH_SECONDS", 0.001)
    monkeypatch.setattr(terminal, "LINE_SECONDS", 0.0)
    backend = Away(MemoryDatabase())
    await backend.create_queue(QUEUE)
    task = await backend.spawn_task(QUEUE, "pipeline", {"group_id": "G1"})
    shown = io.StringIO()
    await watch(backend, QUEUE, [task.task_id], Console(file=shown, width=120))
    assert "G1 is ready and waits for a worker" in shown.getvalue().splitlines()[0]


def test_history_has_the_names_that_workers_were_given() -> None:
    """Unless two of them, on two hosts, would have one name."""
    assert short_names(["vm:1@2e99", "w2"]) == {"vm:1@2e99": "vm:1", "w2": "w2"}
    assert short_names(["w@1", "w@2"]) == {"w@1": "w@1", "w@2": "w@2"}


async def test_a_dead_workers_lease_looks_unlike_a_running_stage() -> None:
    backend = MemoryBackend(MemoryDatabase())
    await backend.create_queue(QUEUE)
    task = await backend.spawn_task(QUEUE, "pipeline", {"group_id": "G1"})
    await backend.claim_task(QUEUE, "w1", 60)
    histories = await backend.histories(QUEUE, [task.task_id])
    now = await backend.current_time()
    texts = []
    for seconds in (1, 100):
        shown = io.StringIO()
        console = Console(file=shown, width=200)
        console.print(progress_table(histories, now + timedelta(seconds=seconds)))
        texts.append(shown.getvalue())
    assert "worker silent" not in texts[0]
    assert "running, worker silent" in texts[1]
    assert "its lease: it ended 40 s ago" in texts[1]
