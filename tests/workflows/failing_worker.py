"""Run by `test_failure_catalogue.py`: a worker whose process dies in a step, or whose steps change.

Arguments: the database's URL, the queue, and the steps of the task; ``die`` ends the process,
``doze`` catches what suspends the run.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress
from typing import Any

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings


async def handler(_params: Any, ctx: TaskContext) -> str:
    async def work(_start: int) -> str:
        return "done"

    async def die(_start: int) -> str:
        os._exit(9)

    for step in sys.argv[3:]:
        if step == "doze":
            with suppress(BaseException):
                await ctx.sleep_for("doze", 3600)
            continue
        await ctx.tracked_step(step, die if step == "die" else work)
    return "done"


async def main() -> None:
    registry = TaskRegistry()
    registry.add("task", handler)
    settings = WorkerSettings(
        sys.argv[2], "worker-1", poll_interval_seconds=0.01, strict_steps=True
    )
    async with PostgresBackend(sys.argv[1]) as backend:
        await Worker(backend, registry, settings).run(until_idle=True)


asyncio.run(main())
