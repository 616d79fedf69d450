"""`contimg status`, `contimg monitor` and `contimg audit` tell the same of the same tasks."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.history.metrics import measure
from absurd_contimg.history.summary import read_histories
from absurd_contimg.operations.cli.main import app
from absurd_contimg.operations.night_report.task_reading import operations_facts

QUEUE = "dsa110-pipeline"
Contimg = Callable[..., Any]


@pytest.fixture
def contimg(tmp_path: Path, database_url: str) -> Contimg:
    """Run a command in temporary folders, on a database with the queue."""
    for name in ("incoming", "scratch", "products", "state"):
        (tmp_path / name).mkdir()

    def run(*arguments: str) -> Any:
        folders = ["--input-dir", str(tmp_path / "incoming")]
        for option, name in (("scratch", "scratch"), ("output", "products"), ("state", "state")):
            folders += [f"--{option}-dir", str(tmp_path / name)]
        clean = {key: None for key in os.environ if key.startswith(("ABSURD_", "PIPELINE_"))}
        return CliRunner().invoke(
            app,
            [*folders, "--database-url", database_url, *arguments],
            env={**clean, "COLUMNS": "200"},
        )

    assert run("db", "init").exit_code == 0
    return run


async def work(url: str) -> Any:
    """Tasks in every state, ours and those of an SDK; the figures of their histories."""
    reasons: list[Any] = [
        {
            "kind": "transient",
            "rule": "busy",
            "name": "OSError",
            "action": "failed",
            "step": "flag",
        },
        {"name": "ValueError", "message": "by the SDK"},
        "text",
    ]
    async with PostgresBackend(url) as backend:
        for number in range(12):
            await backend.spawn_task(QUEUE, "pipeline", {"group_id": f"G{number}"})
        for number, claimed in enumerate(await backend.claim_task(QUEUE, "w1", 600, 9)):
            if number < 3:
                await backend.complete_run(QUEUE, claimed.run_id, {})
            elif number < 6:
                await backend.fail_run_permanently(QUEUE, claimed.run_id, reasons[number - 3])
            elif number == 6:
                wake_at = await backend.current_time() + timedelta(hours=1)
                await backend.schedule_run(QUEUE, claimed.run_id, wake_at)
            elif number == 7:
                await backend.await_event(QUEUE, claimed.task_id, claimed.run_id, "s", "weather")
        await backend.spawn_task(QUEUE, "pipeline", {"group_id": "G4"})  # in place of a failed one
        histories = await read_histories(backend, QUEUE)
        return measure(histories), operations_facts(histories, ())


def test_status_monitor_and_audit_agree(contimg: Contimg, database_url: str) -> None:
    """Number for number, and word for word."""
    figures, of_night = asyncio.run(work(database_url))
    status = json.loads(contimg("status", "--json").stdout)
    shown = contimg("monitor", "--json")
    monitor = json.loads(shown.stdout)
    audit = contimg("audit").stdout
    queue = next(each for each in monitor["queues"] if each["queue_name"] == QUEUE)
    tasks = status["tasks"]
    assert queue["tasks_by_state"] == status["queue"]["tasks_by_state"] == figures.tasks_by_state
    assert Counter(task["state"] for task in tasks) == queue["tasks_by_state"]
    assert f"{len(tasks)} tasks audited" in audit
    assert queue["completed_recently"] == figures.tasks_by_state["completed"]
    assert (status["failed_superseded"], figures.tasks_by_state["failed"]) == (1, 3)
    assert (queue["failed_recently"], queue["superseded_recently"]) == (2, 1)
    assert queue["last_failed"] in {each["task_id"] for each in tasks if each["group"] != "G4"}
    assert (of_night.tasks_by_state["failed"], of_night.superseded_failures) == (3, 1)
    metrics = contimg("metrics").stdout
    for state, count in (("failed", 2), ("superseded", 1)):
        name = f'contimg_recent_ended_tasks{{queue="{QUEUE}",state="{state}"}}'
        assert f"{name} {count}.0" in metrics
    assert queue["failures_by_kind"] == figures.failures_by_kind
    assert queue["failures_by_rule"] == figures.failures_by_rule
    assert queue["latency_seconds_p50"] == pytest.approx(figures.latency_seconds[1])
    waiting = {task["task_id"]: task["why"] for task in monitor["waiting"]}
    assert len(waiting) == 6
    for task in tasks:
        if task["task_id"] in waiting and task["state"] == "sleeping":
            assert (
                task["why"].partition(" (")[0].split()[0]
                == (waiting[task["task_id"]].partition(" (")[0].split()[0])
            )
    assert any(why == "waits for event 'weather', without a deadline" for why in waiting.values())
    (worker,) = monitor["services"]
    assert worker["name"] == "w1"
    assert [step["task_id"] for step in worker["running"]] == [
        task["task_id"] for task in tasks if task["state"] == "running"
    ]
    assert shown.exit_code == 1  # a task waits for an event without a deadline
    assert "without a deadline" in queue["problems"][0]


def test_the_monitor_shows_a_site_once(contimg: Contimg) -> None:
    """An empty site is in order: exit code 0; a folder that is gone is not."""
    shown = contimg("monitor", "--once")
    assert shown.exit_code == 0, shown.output
    for part in ("Task Queue Depth 0", "Disk Usage", QUEUE):
        assert part in shown.output


def test_the_monitor_of_a_damaged_site_ends_with_1(contimg: Contimg, tmp_path: Path) -> None:
    (tmp_path / "incoming").rmdir()
    shown = contimg("monitor", "--once")
    assert shown.exit_code == 1
    assert "cannot be looked at" in shown.output
