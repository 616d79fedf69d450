"""Workers of several queues in one process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from absurd_contimg.core.worker import Worker


async def run_workers(workers: Sequence[Worker], until_idle: bool = False) -> None:
    """Run workers of several queues until all are stopped or, with `until_idle`, all are idle.

    Tasks of one queue wake and await those of another, so none is idle before all are. Idle means
    that no task can be claimed: those that sleep or wait for an event are left as they are, even if
    one is due in a second. To wait for a task, ask `get_task_result` for its state. When one worker
    fails, the others are stopped, and its error is raised.
    """
    begun = -1
    while begun < (begun := sum(worker.runs_begun for worker in workers)):
        await _run_round(workers, until_idle)
        if not until_idle:
            return


async def _run_round(workers: Sequence[Worker], until_idle: bool) -> None:
    """Until all are idle at the same time; what the last run has spawned is for the next round."""
    idle: set[int] = set()
    all_idle = asyncio.Event()

    async def run(number: int, worker: Worker) -> None:
        others = [other for other in workers if other is not worker]
        while not all_idle.is_set():
            await worker.run(until_idle, others)
            idle.add(number)
            if not until_idle or len(idle) == len(workers):
                all_idle.set()
            with suppress(TimeoutError):
                await asyncio.wait_for(all_idle.wait(), worker.settings.poll_interval_seconds)
            idle.discard(number)

    runs = [asyncio.create_task(run(*each)) for each in enumerate(workers)]
    try:
        await asyncio.gather(*runs)
    except Exception:
        all_idle.set()
        for worker in workers:
            worker.stop()
        raise
    finally:
        await asyncio.wait(runs)
