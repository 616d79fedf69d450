"""Data that are not fit for use end in quarantine, with the reason, and come out of it again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.config import ExecutionConfig, PathsConfig, PipelineConfig
from absurd_contimg.core.records import History
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
from absurd_contimg.execution.runner import StageResult
from absurd_contimg.execution.stage import PipelineStage
from absurd_contimg.history.timeline import step_starts
from absurd_contimg.operations.cli.main import app
from absurd_contimg.operations.services.quarantine import quarantined, release
from absurd_contimg.registry import GroupStatus, Registry
from absurd_contimg.workflows.assembly import make_workflow_worker
from absurd_contimg.workflows.group import TASK_NAME, PipelineParams

QUEUE = "dsa110-pipeline"
GROUP = "2025-01-02T03:04:05"


class Flag(PipelineStage):
    """One stage is enough."""

    name = "flag"
    provides = frozenset({"flagged"})
    product_folder = None

    def execute(self, context: Any, workspace: Any) -> Any:
        raise AssertionError("its runner stands in for it")


@dataclass
class StandIn:
    """A runner whose stage fails as told, then works."""

    config: PipelineConfig
    failures: list[Exception] = field(default_factory=list)
    fallbacks: list[tuple[str, ...]] = field(default_factory=list)

    async def run(self, stage: PipelineStage, context: Any, **_: Any) -> StageResult:
        self.fallbacks.append(fallbacks_of(context))
        if self.failures:
            raise self.failures.pop(0)
        log = Path("none")
        return StageResult(stage.name, {"flagged": True}, False, 0.0, None, log, log)


class House:
    """A queue, a registry and a worker for one group."""

    def __init__(self, root: Path) -> None:
        self.backend = MemoryBackend(MemoryDatabase())
        self.url = f"sqlite:///{root / 'registry.sqlite3'}"
        self.registry = Registry(self.url)
        execution = ExecutionConfig(calibration_wait_seconds=0)
        config = PipelineConfig(paths=PathsConfig.below(root), execution=execution)
        self.runner = StandIn(config)

    async def open(self) -> None:
        await self.backend.create_queue(QUEUE)
        params = PipelineParams(group_id=GROUP, input_files=["a"], catalog_path="c")
        self.task = await self.backend.spawn_task(QUEUE, TASK_NAME, params.model_dump())

    async def work(self) -> History:
        worker = make_workflow_worker(
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
async def house(tmp_path: Path) -> AsyncIterator[House]:
    made = House(tmp_path)
    await made.open()
    yield made
    made.registry.close()


async def test_refused_solutions_lead_to_another_calibration_and_not_to_quarantine(
    house: House,
) -> None:
    """The second start is told to leave its own calibrator alone, and the history shows it."""
    house.runner.failures = [SolutionsRefusedError("only 4 antennas have solutions.")]
    history = await house.work()
    assert house.runner.fallbacks == [(), (OTHER_CALIBRATION,)]
    assert history.task.state == "completed"
    assert [one.fallbacks for one in step_starts(history)] == house.runner.fallbacks
    assert quarantined(house.registry) == []


async def test_too_many_flags_of_ours_lead_to_gentler_ones_and_then_to_quarantine(
    house: House,
) -> None:
    house.runner.failures = [OverFlaggedError("85% is flagged.")]
    assert (await house.work()).task.state == "completed"
    assert house.runner.fallbacks == [(), (GENTLER_FLAGS,)]


async def test_too_many_flags_that_are_not_ours_are_quarantined(house: House) -> None:
    """After gentler flags too; the stage then says what the data are."""
    house.runner.failures = [OverFlaggedError("85% is flagged."), DataQualityError("81% is.")]
    assert (await house.work()).task.state == "failed"
    (group,) = quarantined(house.registry)
    assert group.reason == "81% is."


async def test_refused_solutions_that_end_the_task_quarantine_it(house: House) -> None:
    house.runner.failures = [SolutionsRefusedError("only 4 antennas.")] * 2
    assert (await house.work()).task.state == "failed"
    assert [group.group_id for group in quarantined(house.registry)] == [GROUP]


async def test_unfit_data_end_in_quarantine_and_are_released(house: House) -> None:
    """One attempt, the reason in the list; after the release it runs to its end."""
    house.runner.failures = [DataQualityError("91.0% of the group is flagged.")]
    history = await house.work()
    assert (history.task.state, len(history.runs)) == ("failed", 1)
    (group,) = quarantined(house.registry)
    assert (group.group_id, group.reason) == (GROUP, "91.0% of the group is flagged.")
    shown = CliRunner().invoke(app, ["quarantine", "list"], env={"PIPELINE_PRODUCTS_DB": house.url})
    assert GROUP in shown.output
    assert "91.0%" in shown.output

    await release(house.backend, house.registry, GROUP, history)
    assert quarantined(house.registry) == []
    assert (await house.work()).task.state == "completed"
    assert house.registry.group(GROUP).status is GroupStatus.DONE


async def test_released_group_with_the_same_data_comes_back(house: House) -> None:
    house.runner.failures = [DataQualityError("all flagged"), DataQualityError("still flagged")]
    history = await house.work()
    await release(house.backend, house.registry, GROUP, history)
    await house.work()
    (group,) = quarantined(house.registry)
    assert group.reason == "still flagged"


async def test_other_failures_are_no_quarantine(house: House) -> None:
    """A damaged file is failed, with the reason; passing failures leave no mark at all."""
    house.runner.failures = [ConnectionResetError("reset"), CorruptInputError("sub-band 7 is cut")]
    history = await house.work()
    assert len(history.runs) == 2
    group = house.registry.group(GROUP)
    assert (group.status, group.reason) == (GroupStatus.FAILED, "sub-band 7 is cut")
    with pytest.raises(SettingError, match="failed, not quarantined"):
        await release(house.backend, house.registry, GROUP, history)


async def test_registry_that_is_away_does_not_stop_the_verdict(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task is the record; the group's status is only a view of it."""
    house.runner.failures = [DataQualityError("all flagged")]

    def away(*_: object) -> None:
        raise ConnectionResetError("registry")

    monkeypatch.setattr(house.registry, "set_group_status", away)
    assert (await house.work()).task.state == "failed"
