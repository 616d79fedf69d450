"""Whatever a row holds, its task fails by name and everybody else goes on, on both backends."""

from __future__ import annotations

import asyncio
import io
import json
from typing import Any

import pytest
from pydantic_core import to_jsonable_python
from rich.console import Console
from unreadable_rows import JSON_VALUES, connected, rows, store

from absurd_contimg.backends.memory import MemoryBackend
from absurd_contimg.core import row_values
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.records import SpawnOptions
from absurd_contimg.core.retries import retry_options
from absurd_contimg.core.row_values import JSON_DEPTH_MAX, Unreadable, depth_of, read_json
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.history.invariants.check import audit
from absurd_contimg.history.metrics import measure
from absurd_contimg.history.queue_health import find_problems
from absurd_contimg.history.summary import read_histories, summarize
from absurd_contimg.operations.report.group_content import group_content
from absurd_contimg.operations.report.report import write_report
from absurd_contimg.operations.report.timeline import worker_names
from absurd_contimg.operations.terminal import (
    history_table,
    progress_table,
    task_summary,
    tasks_table,
)

QUEUE = "dsa110-pipeline"
UNREADABLE = [
    name for name in JSON_VALUES if "levels" in name or name.startswith(("whole", "numb"))
]
UNREADABLE.remove("number")


@pytest.fixture
def url(request: pytest.FixtureRequest, backend: Backend) -> str:
    """Of the backend's database; the emulator has none."""
    if "backend[postgres]" in request.node.callspec.id or "postgres" in request.node.name:
        return str(request.getfixturevalue("database_url"))
    return ""


async def test_every_reader_takes_every_row(backend: Backend, url: str, tmp_path: Any) -> None:
    """Failed, waiting and completed tasks with each value in each column; a third on Postgres."""
    cases = list(rows(QUEUE))[:: 3 if url else 1]
    with connected(backend, url) as connection:
        for place, (_, _, statement) in enumerate(cases):
            task = await backend.spawn_task(QUEUE, "task", {"group_id": f"g{place}"})
            (claimed,) = await backend.claim_task(QUEUE, "w", 60)
            await backend.set_task_checkpoint_state(
                QUEUE, task.task_id, "other", {}, claimed.run_id
            )
            if place % 3 == 0:
                await backend.fail_run_permanently(QUEUE, claimed.run_id, {"name": "E"})
            elif place % 3 == 1:
                await backend.complete_run(QUEUE, claimed.run_id, {"group_id": "g"})
            else:
                await backend.await_event(QUEUE, task.task_id, claimed.run_id, "s", f"e{place}")
            store(connection, statement, task.task_id)
    now = await backend.current_time()
    console = Console(file=io.StringIO(), width=300)
    histories = await read_histories(backend, QUEUE)
    assert len(histories) == len(cases)
    for history, (column, value, _) in zip(reversed(histories), cases, strict=True):
        try:
            summary = summarize(history)
            json.dumps(to_jsonable_python([history, task_summary(summary, now)]))
            console.print(history_table(history), tasks_table([summary], now))
            console.print(progress_table([history], now))
            audit([history])
            measure([history])
            group_content(history, worker_names([history]), tmp_path)
            await backend.get_task_result(QUEUE, history.task.task_id)
            run_id = history.runs[0].run_id
            await backend.get_task_checkpoint_states(QUEUE, history.task.task_id, run_id)
            if history.task.state == "failed":
                await backend.retry_task(QUEUE, history.task.task_id, retry_options(history.task))
            else:
                await backend.cancel_task(QUEUE, history.task.task_id)
        except Exception as error:
            raise AssertionError(f"{column} with {value}") from error
    write_report(tmp_path / "report.html", histories[::20])
    assert await backend.list_runs(QUEUE)
    await backend.queue_stats(QUEUE)
    await find_problems(backend, QUEUE)


async def run_beside_a_healthy_task(
    backend: Backend, url: str, statement: str, options: SpawnOptions | None = None
) -> Any:
    """The last run of a task whose row the statement has changed; the healthy one is done."""

    async def handler(params: Any, ctx: TaskContext) -> Any:
        async def value() -> int:
            return 1

        return [await ctx.tracked_step("image", lambda _start: value()), params, ctx.headers]

    changed = await backend.spawn_task(QUEUE, "task", {}, options)
    with connected(backend, url) as connection:
        store(connection, statement, changed.task_id)
    healthy = await backend.spawn_task(QUEUE, "task", {})
    registry = TaskRegistry()
    registry.add("task", handler)
    worker = Worker(backend, registry, WorkerSettings(QUEUE, "w", 1, poll_interval_seconds=0.01))
    async with asyncio.timeout(20):
        await worker.run(until_idle=True)
    result = await backend.get_task_result(QUEUE, healthy.task_id)
    assert result is not None
    assert result.state == "completed"
    history = await backend.history(QUEUE, changed.task_id)
    assert history is not None
    return history.runs[-1]


@pytest.mark.parametrize("column", ["params", "headers", "image"])
async def test_what_cannot_be_read_fails_its_own_task_by_name(
    backend: Backend, url: str, column: str
) -> None:
    for name, value, statement in rows(QUEUE):
        if name != column or value not in UNREADABLE:
            continue
        run = await run_beside_a_healthy_task(backend, url, statement)
        assert run.state == "failed"
        assert run.failure_reason["rule"] == "unreadable-value"
        assert column in run.failure_reason["message"]
        assert (
            "levels" in run.failure_reason["message"] or "digits" in run.failure_reason["message"]
        )


async def test_headers_that_are_no_object_fail_their_task_by_name(
    backend: Backend, url: str
) -> None:
    for value in ("5", "[]", '"x"', "true", "[[1]]"):
        statement = f"update absurd.\"t_{QUEUE}\" set headers = '{value}'::jsonb where task_id = %s"
        run = await run_beside_a_healthy_task(backend, url, statement)
        assert run.failure_reason["rule"] == "unreadable-value"
        assert "headers of task" in run.failure_reason["message"]


async def test_journal_of_another_client_stops_no_worker(backend: Backend, url: str) -> None:
    """What is no journal counts for nothing: the step starts, and is recorded."""
    for column, _, statement in rows(QUEUE):
        if column.startswith("$start:"):
            run = await run_beside_a_healthy_task(backend, url, statement)
            assert run.state == "completed"


async def test_params_of_70_mb_fail_their_task_and_stay_in_the_database(
    backend: Backend, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a claim nor a reader of many tasks is sent what it will not read."""
    if isinstance(backend, MemoryBackend):
        monkeypatch.setattr(row_values, "JSON_BYTES_MAX", 10_000)
    megabytes = 0 if isinstance(backend, MemoryBackend) else 70
    value = f"'[\"{'x' * 20_000}\"]'::jsonb"
    if megabytes:
        value = f"jsonb_build_array(repeat('x', {megabytes * 2**20}))"
    statement = f'update absurd."t_{QUEUE}" set params = {value} where task_id = %s'
    run = await run_beside_a_healthy_task(backend, url, statement)
    assert f"{megabytes} MB" in run.failure_reason["message"]
    (task,) = await backend.list_tasks(QUEUE, states=["failed"])
    assert isinstance(task.params, Unreadable)


def test_depth_is_counted_to_the_limit() -> None:
    for depth in (1, JSON_DEPTH_MAX, JSON_DEPTH_MAX + 1, 900):
        text = "[" * depth + "1" + "]" * depth
        assert isinstance(read_json(text), Unreadable) == (depth > JSON_DEPTH_MAX)
        assert depth_of(json.loads(text)) == min(depth, JSON_DEPTH_MAX + 1)
    wide = json.dumps([{"a": [1]}] * 1000)
    assert read_json(wide.encode()) == json.loads(wide)


def test_long_numbers_that_python_holds_are_read() -> None:
    exact = "0." + "1" * 500
    assert read_json("1" + "0" * 305) == 10**305  # as another SDK stores 1e305
    assert read_json(f'["{"9" * 500}", {exact}]') == ["9" * 500, float(exact)]
