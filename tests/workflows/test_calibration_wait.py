"""A group without a calibration: it waits, and the settings say what follows the deadline."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest
from group_stages import QUEUE, Convert, Site

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.config import ExecutionConfig
from absurd_contimg.core.records import Json
from absurd_contimg.errors import NoCalibrationError
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.fallback import DISTANT_CALIBRATION, fallbacks_of
from absurd_contimg.execution.stage import PipelineStage, Workspace
from absurd_contimg.history.summary import TaskSummary, summarize
from absurd_contimg.ingest.spawn import STRATEGIES
from absurd_contimg.registry import GroupStatus
from absurd_contimg.workflows.calibration_wait import calibration_event, wake_served_groups

GROUP = "2026-01-01T00:00:00"


class Select(PipelineStage):
    """Finds a set only where a distant one will do, or once there is one."""

    name = "select_calibration"
    provides = frozenset({"calibration"})
    product_folder = None
    isolated = False
    is_there = False

    def execute(self, context: PipelineContext, workspace: Workspace) -> dict[str, Json]:
        distant = DISTANT_CALIBRATION in fallbacks_of(context)
        if not (distant or self.is_there):
            raise NoCalibrationError("No calibration serves it.")
        return {"calibration": "distant" if distant else "near"}


async def process(site: Site, strategy: str) -> UUID:
    await site.make_queues()
    name, options = STRATEGIES[strategy]
    spawned = await site.backend.spawn_task(QUEUE, name, site.params(GROUP), options(GROUP))
    await site.work()
    return spawned.task_id


async def summary_of(site: Site, task_id: UUID) -> TaskSummary:
    history = await site.backend.history(QUEUE, task_id)
    assert history is not None
    return summarize(history)


def site_of(root: Path, **execution: object) -> Site:
    stages = (Convert(), Select())
    settings = ExecutionConfig.model_validate(execution)
    return Site(root, MemoryBackend(MemoryDatabase()), stages, settings)


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_group_without_calibration_stops_after_the_deadline(
    tmp_path: Path, strategy: str
) -> None:
    """A failure with a rule of its own: nobody falls back in silence."""
    site = site_of(tmp_path, calibration_wait_seconds=0)
    summary = await summary_of(site, await process(site, strategy))
    failure = summary.last_failure
    assert failure is not None
    assert (summary.state, failure.rule, failure.kind) == ("failed", "no-calibration", "permanent")
    assert "calibration_wait_policy=degraded" in str(failure.advice)
    assert site.registry.group(GROUP).status is GroupStatus.FAILED


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_distant_calibration_is_taken_where_the_settings_allow_it(
    tmp_path: Path, strategy: str
) -> None:
    site = site_of(tmp_path, calibration_wait_seconds=0, calibration_wait_policy="degraded")
    summary = await summary_of(site, await process(site, strategy))
    assert summary.state == "completed"
    assert isinstance(summary.result, dict)
    outputs = summary.result["outputs"]
    assert isinstance(outputs, dict)
    assert outputs["calibration"] == "distant"


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_waiting_group_goes_on_when_a_calibration_comes(
    tmp_path: Path, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds no slot meanwhile, and has the status of a waiting group."""
    site = site_of(tmp_path)
    task_id = await process(site, strategy)
    assert (await summary_of(site, task_id)).waiting is not None
    assert site.registry.group(GROUP).status is GroupStatus.WAITING_FOR_CALIBRATION
    monkeypatch.setattr(Select, "is_there", True)
    monkeypatch.setattr(site.registry, "calibration_exists", lambda _: True)
    await site.backend.emit_event(QUEUE, calibration_event(GROUP), {"set_name": "x"})
    await site.work()
    assert (await summary_of(site, task_id)).state == "completed"
    group = site.registry.group(GROUP)
    assert (group.status, group.reason) == (GroupStatus.DONE, None)


async def test_groups_of_every_queue_are_woken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Absurd keeps events by queue: a batch waited until its deadline for a live calibration."""
    site = site_of(tmp_path)
    task_id = await process(site, "group")
    monkeypatch.setattr(Select, "is_there", True)
    monkeypatch.setattr(site.registry, "calibration_exists", lambda _: True)
    await site.backend.create_queue("another")
    await wake_served_groups(site.registry, site.backend, ["another", QUEUE])
    await site.work()
    assert (await summary_of(site, task_id)).state == "completed"
