"""Tasks on DBOS and on Procrastinate, for `peer_speed.py`, which runs this in their environment.

    python peer_programs.py dbos|procrastinate DATABASE_URL TASKS STEPS SLOTS

Prints the tasks a second, from the first start to the last end. A step of DBOS is a step; one of
Procrastinate, which has none, is a job that defers the next one. Without steps a task is one
workflow or one job.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
import time
from typing import Any


def dbos(url: str, tasks: int, steps: int, slots: int) -> float:
    """Workflows of so many steps, taken from a queue."""
    package: Any = importlib.import_module("dbos")
    durable, client = package.DBOS, package.DBOSClient
    config = {
        "name": "speed",
        "system_database_url": url,
        "run_migrations": True,
        "log_level": "ERROR",
        "application_version": "1",
        "max_executor_threads": slots + 10,
        "sys_db_pool_size": max(10, min(slots, 40)),
    }
    durable(config=config)
    times: list[float] = []

    @durable.step()  # type: ignore[untyped-decorator, unused-ignore]
    async def step() -> dict[str, int]:
        return {"value": 1}

    @durable.workflow()  # type: ignore[untyped-decorator, unused-ignore]
    async def work(_number: int) -> None:
        times.append(time.perf_counter())
        for _ in range(steps):
            await step()
        times.append(time.perf_counter())

    durable.launch()
    durable.register_queue("work", worker_concurrency=slots, polling_interval_sec=0.01)
    durable.destroy()
    sender = client(system_database_url=url)
    options = {"workflow_name": work.__qualname__, "queue_name": "work", "app_version": "1"}
    handles = [sender.enqueue(options, number) for number in range(tasks)]
    durable(config=config)
    durable.launch()
    for handle in handles:
        handle.get_result()
    durable.destroy()
    sender.destroy()
    return tasks / (max(times) - min(times))


async def procrastinate(url: str, tasks: int, steps: int, slots: int) -> float:
    """Chains of so many jobs, or single ones."""
    package: Any = importlib.import_module("procrastinate")
    app = package.App(connector=package.PsycopgConnector(conninfo=url, max_size=slots + 4))
    starts, ended = 0, asyncio.Event()

    @app.task(name="work")  # type: ignore[untyped-decorator, unused-ignore]
    async def work(number: int, left: int) -> None:
        nonlocal starts
        starts += 1
        if starts == tasks * max(steps, 1):
            ended.set()
        if left > 1:
            await work.defer_async(number=number, left=left - 1)

    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        for number in range(tasks):
            await work.defer_async(number=number, left=max(steps, 1))
        began = time.perf_counter()
        running = asyncio.create_task(app.run_worker_async(concurrency=slots, wait=True))
        await ended.wait()
        seconds = time.perf_counter() - began
        running.cancel()
        await asyncio.wait({running})
    return tasks / seconds


if __name__ == "__main__":
    name, address, *counts = sys.argv[1:]
    numbers = [int(each) for each in counts]
    if name == "dbos":
        print(dbos(address, *numbers))
    else:
        print(asyncio.run(procrastinate(address, *numbers)))
