"""The line of a handler's own code in a failure, as ``contimg history`` shows it."""

from __future__ import annotations

import json
import re
from typing import Any, cast
from uuid import UUID

import pytest
from rich.console import Console

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.evidence import line_of_handler
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.history.summary import read_histories, summarize
from absurd_contimg.operations.terminal import history_table, tasks_table
from absurd_contimg.workflows.failure_rules import CLASSIFIER
from absurd_contimg.workflows.publication import PublicationWorkflow


async def charge(params: Any, ctx: TaskContext) -> Any:
    async def ask_bank() -> Any:
        return json.loads(params["answer"])

    return await ctx.step("charge", ask_bank)


@pytest.mark.parametrize("tries", [1, 2])
async def test_history_and_status_show_type_and_line(tries: int) -> None:
    """Of a task that has failed, and of one that waits for its second try."""
    backend = MemoryBackend(MemoryDatabase())
    await backend.create_queue("q")
    params = {"answer": "{"} if tries == 1 else {}
    await backend.spawn_task("q", "task", params)
    registry = TaskRegistry()
    registry.add("task", charge)
    policy = RetryPolicy(backoff_first_seconds=3600.0)
    hook = None if tries == 1 else (lambda _evidence: 60.0)
    worker = Worker(backend, registry, WorkerSettings("q", "w"), policy=policy, retry_hook=hook)
    await worker.run(until_idle=True)
    (history,) = await read_histories(backend, "q")
    console = Console(width=200)
    with console.capture() as capture:
        now = await backend.current_time()
        console.print(history_table(history), tasks_table([summarize(history)], now))
    shown = " ".join(capture.get().split())
    name = "JSONDecodeError" if tries == 1 else "KeyError"
    assert re.search(name + r" at test_failed_lines.py, line \d+, in ask_bank:", shown)


async def test_a_failure_outside_of_any_step_shows_no_empty_name_of_a_step() -> None:
    """A publication task without a key fails in this package's own code."""
    backend = MemoryBackend(MemoryDatabase())
    await backend.create_queue("q")
    await backend.spawn_task("q", "task", {})
    registry = TaskRegistry()
    registry.add("task", PublicationWorkflow(cast(Any, None)))
    worker = Worker(backend, registry, WorkerSettings("q", "w"), CLASSIFIER)
    await worker.run(until_idle=True)
    (history,) = await read_histories(backend, "q")
    console = Console(width=200)
    with console.capture() as capture:
        console.print(tasks_table([summarize(history)], await backend.current_time()))
    assert "permanent, bad-setting" in capture.get()
    assert ": permanent" not in capture.get()


OWN = '  File "/venv/lib/python3.11/site-packages/absurd_contimg/core/tasks.py", line 76, in call\n'
LIBRARY = '  File "/venv/lib/python3.11/site-packages/{}.py", line {}, in f\n'


@pytest.mark.parametrize(
    ("traceback", "line"),
    [
        (OWN + '  File "/opt/orders.py", line 8, in order\n', "orders.py, line 8, in order"),
        (
            OWN + LIBRARY.format("orders", 7) + LIBRARY.format("httpx", 70),
            "orders.py, line 7, in f",
        ),
        (OWN + OWN, None),
        (LIBRARY.format("casatasks", 7), None),
        ('  | File "/opt/a.py", line 1, in group\n', "a.py, line 1, in group"),
    ],
    ids=["own file", "installed handler", "this package", "a stage", "group"],
)
def test_the_innermost_line_of_the_handler_is_found(traceback: str, line: str | None) -> None:
    assert line_of_handler(traceback) == line


async def test_the_log_names_task_type_and_line(caplog: pytest.LogCaptureFixture) -> None:
    backend = MemoryBackend(MemoryDatabase())
    await backend.create_queue("q")
    await backend.spawn_task("q", "task", {})
    registry = TaskRegistry()
    registry.add("task", charge)
    await Worker(backend, registry, WorkerSettings("q", "w")).run(until_idle=True)
    messages = [record.getMessage() for record in caplog.records]
    (line,) = [message for message in messages if "failed (" in message]
    assert line.startswith("task task, run ")
    assert "step charge: failed (permanent, wrong-value): KeyError at test_failed_lines.py" in line


async def test_waits_are_shown_as_words() -> None:
    """A terminal's width went to the ids of children."""

    async def handler(_params: Any, ctx: TaskContext) -> Any:
        child = await ctx.spawn("part", {}, queue="parts")
        await backend.cancel_task("parts", UUID(child))
        await ctx.await_task_result(child, "parts")
        return child

    backend = MemoryBackend(MemoryDatabase())
    for queue in ("q", "parts"):
        await backend.create_queue(queue)
    await backend.spawn_task("q", "task", {})
    registry = TaskRegistry()
    registry.add("task", handler)
    await Worker(backend, registry, WorkerSettings("q", "w")).run(until_idle=True)
    (history,) = await read_histories(backend, "q")
    console = Console(width=100)
    with console.capture() as capture:
        console.print(history_table(history))
    assert f"child part, result of task {str(history.result)[-12:]}" in capture.get()
