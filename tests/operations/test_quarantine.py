"""Groups with unusable data go into quarantine, with the reason, and can be released."""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.config import ExecutionConfig, PathsConfig, PipelineConfig
from absurd_contimg.core.forks import fork_options
from absurd_contimg.core.records import History, Json
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.core.worker import WorkerSettings
from absurd_contimg.errors import (
    CorruptInputError,
    DataQualityError,
    OverFlaggedError,
    SettingError,
    SolutionsRefusedError,
)
from absurd_contimg.execution.fallback import GENTLER_FLAGS, OTHER_CALIBRATION, fallbacks_of
from absurd_contimg.execution.processes import uninterrupted
from absurd_contimg.execution.runner import InThread, StageResult
from absurd_contimg.execution.stage import PipelineStage
from absurd_contimg.history.timeline import step_starts
from absurd_contimg.operations.cli.main import app
from absurd_contimg.operations.services.quarantine import release, retry_failed
from absurd_contimg.products.filesystem import LOCAL, FileSystem
from absurd_contimg.registry import GroupStatus, Registry
from absurd_contimg.workflows.assembly import make_pipeline_worker
from absurd_contimg.workflows.group import TASK_NAME

QUEUE = "dsa110-pipeline"
GROUP = "2025-01-02T03:04:05"


class Flag(PipelineStage):
    """The only stage of the tasks here."""

    name = "flag"
    provides = frozenset({"flagged"})
    product_folder = None

    def execute(self, context: Any, workspace: Any) -> Any:
        raise AssertionError("the runner replaces it")


@dataclass
class FailingRunner:
    """A runner whose stage fails with each of `failures`, then completes."""

    config: PipelineConfig
    failures: list[Exception] = field(default_factory=list)
    fallbacks: list[tuple[str, ...]] = field(default_factory=list)
    files: FileSystem = LOCAL
    in_thread: InThread = uninterrupted

    async def run(self, stage: PipelineStage, context: Any, **_: Any) -> StageResult:
        self.fallbacks.append(fallbacks_of(context))
        if self.failures:
            raise self.failures.pop(0)
        log = Path("none")
        return StageResult(stage.name, {"flagged": True}, False, 0.0, None, log, log)


class Site:
    """A queue, a registry and a worker for one group."""

    def __init__(self, root: Path) -> None:
        self.backend = MemoryBackend(MemoryDatabase())
        self.url = f"sqlite:///{root / 'registry.sqlite3'}"
        self.registry = Registry(self.url)
        execution = ExecutionConfig(calibration_wait_seconds=0)
        config = PipelineConfig(paths=PathsConfig.below(root), execution=execution)
        self.runner = FailingRunner(config)

    async def open(self) -> None:
        await self.backend.create_queue(QUEUE)
        incoming = self.runner.config.paths.input_dir
        files: Json = [f"{incoming}/a"]
        params: Json = {"group_id": GROUP, "input_files": files, "catalog_path": f"{incoming}/c"}
        self.task = await self.backend.spawn_task(QUEUE, TASK_NAME, params)

    async def work(self) -> History:
        worker = make_pipeline_worker(
            self.backend,
            WorkerSettings(QUEUE, "worker-1", poll_interval_seconds=0.001),
            RetryPolicy(backoff_first_seconds=0.0),
            [Flag()],
            self.runner,
            self.registry,
        )
        await worker.run(until_idle=True)
        history = await self.backend.history(QUEUE, self.task.task_id)
        assert history is not None
        return history


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    opened = Site(tmp_path)
    await opened.open()
    yield opened
    opened.registry.close()


async def test_refused_solutions_lead_to_another_calibration_and_not_to_quarantine(
    site: Site,
) -> None:
    """The second start uses another calibrator, which the history shows."""
    site.runner.failures = [SolutionsRefusedError("only 4 antennas have solutions.")]
    history = await site.work()
    assert site.runner.fallbacks == [(), (OTHER_CALIBRATION,)]
    assert history.task.state == "completed"
    assert [start.fallbacks for start in step_starts(history)] == site.runner.fallbacks
    assert site.registry.groups(GroupStatus.QUARANTINED) == []


async def test_overflagging_is_repeated_with_gentler_flags(
    site: Site,
) -> None:
    site.runner.failures = [OverFlaggedError("85% is flagged.")]
    assert (await site.work()).task.state == "completed"
    assert site.runner.fallbacks == [(), (GENTLER_FLAGS,)]


async def test_data_with_many_flags_are_quarantined(site: Site) -> None:
    """The second start, with gentler flags, raises the quality error of the data."""
    site.runner.failures = [OverFlaggedError("85% is flagged."), DataQualityError("81% is.")]
    assert (await site.work()).task.state == "failed"
    (group,) = site.registry.groups(GroupStatus.QUARANTINED)
    assert group.reason == "81% is."


async def test_refused_solutions_that_end_the_task_quarantine_it(site: Site) -> None:
    site.runner.failures = [SolutionsRefusedError("only 4 antennas.")] * 2
    assert (await site.work()).task.state == "failed"
    assert [group.group_id for group in site.registry.groups(GroupStatus.QUARANTINED)] == [GROUP]


async def test_unusable_data_are_quarantined_and_released(site: Site) -> None:
    """One attempt, the reason in the list; after the release it runs to its end."""
    site.runner.failures = [DataQualityError("91.0% of the group is flagged.")]
    history = await site.work()
    assert (history.task.state, len(history.runs)) == ("failed", 1)
    (group,) = site.registry.groups(GroupStatus.QUARANTINED)
    assert (group.group_id, group.reason) == (GROUP, "91.0% of the group is flagged.")
    listed = CliRunner().invoke(app, ["quarantine", "list"], env={"PIPELINE_PRODUCTS_DB": site.url})
    assert GROUP in listed.output
    assert "91.0%" in listed.output

    await release(site.backend, site.registry, GROUP, history)
    assert site.registry.groups(GroupStatus.QUARANTINED) == []
    assert (await site.work()).task.state == "completed"
    assert site.registry.group(GROUP).status is GroupStatus.DONE


async def test_released_group_with_the_same_data_is_quarantined_again(site: Site) -> None:
    site.runner.failures = [DataQualityError("all flagged"), DataQualityError("still flagged")]
    history = await site.work()
    await release(site.backend, site.registry, GROUP, history)
    await site.work()
    (group,) = site.registry.groups(GroupStatus.QUARANTINED)
    assert group.reason == "still flagged"


async def test_other_failures_are_not_quarantined(site: Site) -> None:
    """A damaged file fails the group with the reason; a retried failure does not."""
    site.runner.failures = [ConnectionResetError("reset"), CorruptInputError("sub-band 7 is cut")]
    history = await site.work()
    assert len(history.runs) == 2
    group = site.registry.group(GROUP)
    assert (group.status, group.reason) == (GroupStatus.FAILED, "sub-band 7 is cut")
    with pytest.raises(SettingError, match="failed, not quarantined"):
        await release(site.backend, site.registry, GROUP, history)


async def test_task_fails_although_the_registry_is_not_reachable(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task has the failure; the status of the group only repeats it."""
    site.runner.failures = [DataQualityError("all flagged")]

    def away(*_: object) -> None:
        raise ConnectionResetError("registry")

    monkeypatch.setattr(site.registry, "set_group_status", away)
    assert (await site.work()).task.state == "failed"


async def test_retry_of_a_cancelled_task_advises_what_can_work() -> None:
    """Without a group it named the group all the same."""
    backend = MemoryBackend(MemoryDatabase())
    await backend.create_queue("orders")

    async def refusal(params: dict[str, Json], step: str | None) -> tuple[History, str]:
        task = await backend.spawn_task("orders", "charge", params)
        if step is not None:
            (run,) = await backend.claim_task("orders", "w", 60, 1)
            await backend.set_task_checkpoint_state("orders", task.task_id, step, 1, run.run_id, 60)
        await backend.cancel_task("orders", task.task_id)
        history = await backend.history("orders", task.task_id)
        assert history is not None
        with pytest.raises(SettingError, match="is cancelled") as refused:
            await retry_failed(backend, history)
        return history, refused.value.remedy

    assert "--respawn" in (await refusal({"group_id": GROUP}, None))[1]
    assert "spawn a new one" in (await refusal({"order": 7}, None))[1]
    history, remedy = await refusal({"order": 7}, "a step")
    *_, command, task_id, step = shlex.split(remedy)
    assert (command, task_id) == ("fork", str(history.task.task_id))
    assert fork_options(history, step).headers
