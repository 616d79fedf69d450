"""Doctor names why work waits for disk space though the disks look well."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from typing import Any

import pytest

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.execution.host_scratch import host_name, host_scratch
from absurd_contimg.execution.scratch import ScratchOwner
from absurd_contimg.operations.doctor import diagnose, doctor
from absurd_contimg.operations.services.disk_guard import DiskGuard
from absurd_contimg.settings import load_settings
from absurd_contimg.workflows.failure_rules import CLASSIFIER

QUEUE = "dsa110-pipeline"


def test_work_that_waits_for_disk_space_is_a_finding(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No problem was named while a stage waited for space, or a worker claimed nothing."""

    async def fill_a_disk() -> None:
        async def pipeline(_params: Any, ctx: TaskContext) -> None:
            async def image(_start: int) -> None:
                text = "No space left on device: 1.0 GB free around /s"
                raise OSError(errno.ENOSPC, text + 60 * " and another disk")

            await ctx.tracked_step("image", image)

        tasks = TaskRegistry()
        tasks.add("pipeline", pipeline)
        async with PostgresBackend(database_url) as backend:
            await backend.create_queue(QUEUE)
            await backend.spawn_task(QUEUE, "pipeline", {"group_id": "G1"})
            worker = WorkerSettings(QUEUE, "w", poll_interval_seconds=0.01)
            await Worker(backend, tasks, worker, CLASSIFIER).run(until_idle=True)

    asyncio.run(fill_a_disk())
    monkeypatch.setattr(doctor, "stage_software", lambda folders: [])  # CASA takes seconds
    site = {"input_dir": tmp_path / "in", "output_dir": tmp_path / "out"}
    paths = load_settings(site, []).pipeline.paths
    for name in ("alive", "dead"):
        guard = DiskGuard(name, [paths.state_dir / "gone"], paths.state_dir, host=host_name())
        asyncio.run(guard.ready_to_claim())
    with ScratchOwner(host_scratch(paths.scratch_dir), "alive"):
        findings = diagnose(site | {"database_url": database_url}, [])
    checks = {finding.check: finding for finding in findings}
    lacking, blocked = checks["space for stages"], checks["worker"]
    assert "last image of G1 on w at" in lacking.finding
    assert "1.0 GB free around /s" in lacking.finding
    assert lacking.finding.endswith("another...")  # else half a sentence looks whole
    assert lacking.remedy == "Make room, contimg maintenance plan."
    assert blocked.finding.startswith("alive, since")
    assert "gone cannot be used" in blocked.finding
    assert not any(finding.finding.startswith("dead") for finding in findings)
