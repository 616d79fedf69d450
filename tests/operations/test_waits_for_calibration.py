"""A group whose calibrator's group has failed: everybody is told, and nobody waits for a day."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from raw_files import write_file
from sqlalchemy import update
from typer.testing import CliRunner

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.errors import SettingError
from absurd_contimg.operations.cli.main import app
from absurd_contimg.operations.cli.run import waits_in_vain
from absurd_contimg.operations.overview.calibration_prospects import calibration_prospects
from absurd_contimg.registry import GroupStatus, Registry
from absurd_contimg.registry.calibration_sources import CalibrationSource, calibration_sources
from absurd_contimg.registry.models import ObservationGroup
from absurd_contimg.workflows.calibration_wait import calibration_event
from absurd_contimg.workflows.failure_rules import CLASSIFIER
from absurd_contimg.workflows.group import spawn_options

QUEUE = "dsa110-pipeline"
FAILURE = (
    "Stage 'catalog_setup' of attempt 7dcd5f55ae60-1 failed: IncompleteGroupError: only 3 of 16 "
    "sub-bands are present. It left no log."
)
CALIBRATOR, WAITING = "2025-01-14T23:46:00", "2025-01-14T23:51:09"


def observe(registry: Registry, group_id: str, mjd: float, declination_deg: float) -> None:
    """Enter when and where a group was observed."""
    values = {"mid_mjd": mjd, "declination_deg": declination_deg}
    with registry.database.writing() as session:
        session.execute(
            update(ObservationGroup).where(ObservationGroup.group_id == group_id).values(values)
        )


@pytest.fixture
def contimg(tmp_path: Path, database_url: str) -> Callable[..., Any]:
    """Run a command on a site: one group waits, and its calibrator's group has failed."""
    incoming = tmp_path / "in"
    incoming.mkdir()
    (incoming / "catalog.csv").write_text("name,ra_deg,dec_deg,flux_jy\nX,1.0,16.0,3.0\n")
    for subband in (0, 3, 6):
        write_file(incoming, subband)
    (tmp_path / "state").mkdir()
    with closing(Registry(tmp_path / "state" / "registry.sqlite3")) as registry:
        registry.set_group_status(WAITING, GroupStatus.WAITING_FOR_CALIBRATION)
        observe(registry, WAITING, 60689.9942, 16.0)
        registry.set_group_status(CALIBRATOR, GroupStatus.FAILED, FAILURE)
    asyncio.run(begin_waiting(database_url))
    folders = [
        *("--input-dir", str(incoming), "--output-dir", str(tmp_path / "out")),
        *("--scratch-dir", str(tmp_path / "scratch"), "--state-dir", str(tmp_path / "state")),
    ]
    clean = {key: None for key in os.environ if key.startswith(("ABSURD_", "PIPELINE_"))}

    def run(*arguments: str) -> Any:
        options = [*folders, "--database-url", database_url, *arguments]
        return CliRunner().invoke(app, options, env={**clean, "COLUMNS": "400"})

    return run


async def begin_waiting(database_url: str) -> None:
    """A task that has failed and one that waits for a day, as those of the pipeline."""

    async def pipeline(params: Any, ctx: TaskContext) -> None:
        if params["group_id"] == CALIBRATOR:
            raise SettingError(FAILURE)
        await ctx.await_event(calibration_event(params["group_id"]), timeout=86_400)

    tasks = TaskRegistry()
    tasks.add("pipeline", pipeline)
    async with PostgresBackend(database_url) as backend:
        await backend.create_queue(QUEUE)
        for group_id in (CALIBRATOR, WAITING):
            options = spawn_options(group_id)
            await backend.spawn_task(QUEUE, "pipeline", {"group_id": group_id}, options)
        settings = WorkerSettings(QUEUE, "worker-1", poll_interval_seconds=0.01)
        await Worker(backend, tasks, settings, CLASSIFIER).run(until_idle=True)


def test_run_ends_and_says_which_group_has_failed_and_why(contimg: Callable[..., Any]) -> None:
    """It waited for 24 h, although the group that could bring the calibration had failed."""
    shown = contimg("run", "--now")
    text = " ".join(shown.output.split())
    assert shown.exit_code == 1, text
    why = (
        f"no group under way can bring one: {CALIBRATOR} has failed (catalog_setup: "
        "IncompleteGroupError: only 3 of 16 sub-bands are present)"
    )
    assert why in text
    assert f"1 group not finished: {WAITING}. No task here can bring their calibration" in text
    (waiting,) = [
        task
        for task in json.loads(contimg("status", "--json").stdout)["tasks"]
        if task["group"] == WAITING
    ]
    assert why in waiting["why"]
    history = " ".join(contimg("history", WAITING).output.split())
    assert f"contimg history {CALIBRATOR}), then: contimg retry {CALIBRATOR}" in history


def test_only_groups_of_the_strip_that_were_not_solved_can_bring_a_calibration(
    tmp_path: Path,
) -> None:
    with closing(Registry(tmp_path / "registry.sqlite3")) as registry:
        for name, hours, declination_deg, status in (
            ("far", 13.0, 16.0, GroupStatus.FAILED),
            ("other strip", 1.0, 54.0, GroupStatus.FAILED),
            ("done", 1.0, 16.0, GroupStatus.DONE),
            ("waits too", 0.1, 16.0, GroupStatus.WAITING_FOR_CALIBRATION),
            ("failed", -2.0, 16.0, GroupStatus.FAILED),
            ("new", 1.0, 16.0, GroupStatus.DISCOVERED),
            ("waits", 0.0, 16.0, GroupStatus.WAITING_FOR_CALIBRATION),
        ):
            registry.set_group_status(name, status, "bad" if name == "failed" else None)
            observe(registry, name, 60000.0 + hours / 24.0, declination_deg)
        sources = calibration_sources(registry.database, ["waits", "unknown"], 5.0, 12.0)
    assert sources == {
        "waits": [
            CalibrationSource("new", GroupStatus.DISCOVERED, ""),
            CalibrationSource("failed", GroupStatus.FAILED, "bad"),
        ],
        "unknown": [],
    }
    prospects = calibration_prospects(sources, ["other"])
    assert prospects["waits"].sentence == "it may come from new; failed has failed (bad)"
    assert prospects["unknown"].sentence.startswith("no other group of its strip is known")
    retried = calibration_prospects(sources, ["failed"])["waits"]
    assert (retried.sentence, retried.advice) == ("it may come from new, failed", None)


async def test_a_wait_that_ends_soon_is_not_in_vain(database_url: str) -> None:
    await begin_waiting(database_url)
    async with PostgresBackend(database_url) as backend:
        tasks = await backend.list_tasks(QUEUE)
        histories = await backend.histories(QUEUE, [task.task_id for task in tasks])
    now = datetime.now(UTC)
    assert waits_in_vain(histories, now)
    assert not waits_in_vain(histories, now + timedelta(seconds=86_400 - 30))
