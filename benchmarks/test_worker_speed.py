"""Our worker beside absurd-sdk's on one Postgres: tasks of five steps, and spawn to start.

    pytest benchmarks/test_worker_speed.py -s

Both run the same handler on the same server that waits for its disk, in turn and several times;
the best of each and the ratio of each turn are printed. Nothing but that all tasks complete is
asserted: figures are for people to read.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from absurd_sdk import Absurd

from absurd_contimg.backends.postgres import EmbeddedPostgres, PostgresBackend
from absurd_contimg.backends.postgres.schema import install_schema
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings

TASKS = 300
STEPS = 5
ROUNDS = 3
STARTS = 40


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A database with Absurd's schema on a server that waits for its disk."""
    with EmbeddedPostgres(tmp_path_factory.mktemp("pg"), durable=True) as server:
        address = server.create_database("speed")
        install_schema(address)
        yield address


async def fill(backend: PostgresBackend, queue: str) -> None:
    await backend.create_queue(queue)
    for number in range(TASKS):
        await backend.spawn_task(queue, "work", {"number": number})


async def step() -> dict[str, int]:
    return {"value": 1}


def registry(steps: int) -> TaskRegistry:
    tasks = TaskRegistry()

    @tasks.register_task("work")
    async def work(_params: Any, ctx: Any) -> None:
        for number in range(steps):
            await ctx.step(f"step {number}", step)

    return tasks


async def ours(url: str, queue: str, concurrency: int, steps: int = STEPS) -> float:
    """Tasks a second."""
    async with PostgresBackend(url) as backend:
        await fill(backend, queue)
        settings = WorkerSettings(queue, "w", concurrency=concurrency)
        worker = Worker(backend, registry(steps), settings)
        began = time.perf_counter()
        await worker.run(until_idle=True)
        seconds = time.perf_counter() - began
        assert (await backend.queue_stats(queue)).tasks_by_state == {"completed": TASKS}
        return TASKS / seconds


async def sdk(url: str, queue: str, batch: int) -> float:
    """The same with absurd-sdk's synchronous worker, `batch` tasks a claim."""
    async with PostgresBackend(url) as backend:
        await fill(backend, queue)
    app, done = Absurd(url, queue_name=queue), 0

    @app.register_task(name="work")
    def work(_params: Any, ctx: Any) -> None:
        nonlocal done
        for number in range(STEPS):
            ctx.step(f"step {number}", lambda: {"value": 1})
        done += 1

    began = time.perf_counter()
    while done < TASKS:
        app.work_batch("w", batch_size=batch)
    seconds = time.perf_counter() - began
    app.close()
    return TASKS / seconds


def test_tasks_of_five_steps_beside_absurd_sdk(url: str) -> None:
    kinds = {
        "one at a time": ((ours, 1), (sdk, 1)),
        "8 slots; batches of 50": ((ours, 8), (sdk, 50)),
        "50 slots; batches of 50": ((ours, 50), (sdk, 50)),
    }
    print()
    for name, pair in kinds.items():
        rates = [
            [
                asyncio.run(function(url, f"{function.__name__}_{count}_{turn}", count))
                for function, count in pair
            ]
            for turn in range(ROUNDS)
        ]
        own, other = (max(column) for column in zip(*rates, strict=True))
        ratios = ", ".join(f"{first / second:.2f}" for first, second in rates)
        print(f"{name:24} ours {own:6.1f}/s, absurd-sdk {other:6.1f}/s, turn by turn {ratios}")


async def starts(url: str) -> list[float]:
    """Seconds from spawning to the handler's start, of single tasks on an idle queue."""
    delays: list[float] = []
    spawned_at = 0.0
    started = asyncio.Event()
    tasks = TaskRegistry()

    @tasks.register_task("work")
    async def work(_params: Any, _ctx: Any) -> None:
        delays.append(time.perf_counter() - spawned_at)
        started.set()

    async with PostgresBackend(url) as backend, PostgresBackend(url) as client:
        await backend.create_queue("starts")
        worker = Worker(backend, tasks, WorkerSettings("starts", "w"))
        async with backend.listening(worker):
            running = asyncio.create_task(worker.run())
            for number in range(STARTS):
                await asyncio.sleep(0.3 + number % 7 / 10)
                started.clear()
                spawned_at = time.perf_counter()
                await client.spawn_task("starts", "work", None)
                await started.wait()
            worker.stop()
            await running
    return delays


async def starts_with_many(url: str, workers: int, listen: bool) -> tuple[list[float], float]:
    """Seconds from spawn to start with so many idle workers, and their claims a second."""
    queue, spawned_at, delays = f"many_{listen}", 0.0, asyncio.Queue[float]()
    tasks = TaskRegistry()

    @tasks.register_task("work")
    async def work(_params: Any, _ctx: Any) -> None:
        delays.put_nowait(time.perf_counter() - spawned_at)

    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(PostgresBackend(url))
        await client.create_queue(queue)
        made = []
        for number in range(workers):
            if number % 4 == 0:
                shared = PostgresBackend(url, pool_max_size=2)
                backend = await stack.enter_async_context(shared)
            worker = Worker(backend, tasks, WorkerSettings(queue, f"w{number}"))
            if listen:
                await stack.enter_async_context(backend.listening(worker))
            made.append(worker)
        running = [asyncio.create_task(worker.run()) for worker in made]
        await asyncio.sleep(5.0)
        before, began = sum(worker.activity.claims_tried for worker in made), time.perf_counter()
        seconds = []
        for _ in range(STARTS):
            spawned_at = time.perf_counter()
            await client.spawn_task(queue, "work", None)
            seconds.append(await delays.get())
            await asyncio.sleep(0.25)
        claims = sum(worker.activity.claims_tried for worker in made) - before
        rate = claims / (time.perf_counter() - began)
        for worker in made:
            worker.stop()
        await asyncio.gather(*running)
    return seconds, rate


def test_spawn_to_start_with_a_hundred_idle_workers(url: str) -> None:
    print()
    for listen in (False, True):
        delays, rate = asyncio.run(starts_with_many(url, 100, listen))
        cuts = statistics.quantiles(delays, n=20)
        figures = f"p50 {cuts[9] * 1000:.0f} ms, p95 {cuts[18] * 1000:.0f} ms"
        print(
            f"{'signalled' if listen else 'polls alone':12} {figures}, {rate:.0f} claims a second"
        )


def test_spawn_to_start_on_an_idle_queue(url: str) -> None:
    delays = asyncio.run(starts(url))
    cuts = statistics.quantiles(delays, n=20)
    print(f"\nspawn to start: p50 {cuts[9] * 1000:.0f} ms, p95 {cuts[18] * 1000:.0f} ms")
