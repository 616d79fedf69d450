"""A worker of one of two releases: ``versioned_worker.py RELEASE URL FOLDER``.

Between them the workflow has got another order of steps and another step. The later release keeps
the earlier handler, as `make_workflows` does. Each step says that it is at work in FOLDER, and
waits there as long as a file ``hold`` exists.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.failure_handling import RetryDecision
from absurd_contimg.core.records import ClaimedTask, Json
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.workflows.failure_rules import CLASSIFIER
from absurd_contimg.workflows.versions import VersionedWorkflow

QUEUE, TASK = "dsa110-pipeline", "pipeline"
LEASE_SECONDS = 2
STEPS = {1: ("convert", "solve", "image"), 2: ("convert", "image", "publish")}
"""Of each version; the step ``image`` of the second one comes earlier."""
RELEASES = {"earlier": (1,), "later": (1, 2)}
"""The versions that a release can finish."""


@dataclass(frozen=True, slots=True)
class ReleaseWorkflow:
    """The handler of one version."""

    version: int
    folder: Path
    release: str

    async def __call__(self, params: Json, ctx: TaskContext) -> Json:
        """Every step notes when it has ended, and who carried it out."""
        assert isinstance(params, Mapping)
        group, made = str(params["group_id"]), []
        for name in STEPS[self.version]:
            run = partial(self._carry_out, group, name)
            made.append(await ctx.tracked_step(name, run))
        return made

    async def note_failure(
        self, claimed: ClaimedTask, decision: RetryDecision, reason: Mapping[str, Json]
    ) -> None:
        """Nothing is entered elsewhere."""

    async def _carry_out(self, group: str, name: str, _start: int) -> Json:
        (self.folder / f"at-{group}-{name}").write_text(str(os.getpid()))
        while (self.folder / f"hold-{group}-{name}").exists():
            await asyncio.sleep(0.02)
        with (self.folder / "effects").open("a") as file:
            file.write(f"{group} {name}\n")
        return f"{name} of version {self.version} by {self.release}"


async def work(release: str, url: str, folder: Path, versions: Sequence[int]) -> None:
    """Until SIGTERM."""
    tasks = TaskRegistry()
    handlers = {version: ReleaseWorkflow(version, folder, release) for version in versions}
    tasks.add(TASK, VersionedWorkflow(TASK, handlers))
    settings = WorkerSettings(
        queue_name=QUEUE,
        worker_id=release,
        concurrency=4,
        claim_timeout_seconds=LEASE_SECONDS,
        poll_interval_seconds=0.05,
        grace_seconds=0.1,
    )
    policy = RetryPolicy(resource_wait_seconds=0.5, resource_wait_limit_seconds=0.5)
    async with PostgresBackend(url, pool_max_size=4) as backend:
        worker = Worker(backend, tasks, settings, CLASSIFIER, policy)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
        await worker.run()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    asyncio.run(work(sys.argv[1], sys.argv[2], Path(sys.argv[3]), RELEASES[sys.argv[1]]))
