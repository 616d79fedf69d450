"""Pauses of queues and limits by resource: who holds work up is seen, and restarts keep it."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.operations.cli.main import app
from absurd_contimg.operations.doctor.site_folders import own_site
from absurd_contimg.operations.services.queue_gate import QueueGate
from absurd_contimg.registry.database import Database
from absurd_contimg.registry.queue_pauses import QueuePause, QueuePauses
from absurd_contimg.registry.resource_slots import ResourceSlots
from absurd_contimg.settings import load_settings

QUEUE = "dsa110-pipeline"


@pytest.fixture
def contimg(tmp_path: Path, database_url: str) -> Callable[..., Any]:
    """Run a command on 80 columns, in a folder and on a database of its own."""
    folders = ("--input-dir", str(tmp_path), "--output-dir", str(tmp_path / "products"))

    def run(*arguments: str) -> Any:
        clean = {key: None for key in os.environ if key.startswith(("ABSURD_", "PIPELINE_"))}
        options = [*folders, "--database-url", database_url, *arguments]
        return CliRunner().invoke(app, options, env={**clean, "COLUMNS": "80"})

    assert run("db", "init").exit_code == 0
    return run


@pytest.fixture(params=["sqlite", "postgres"])
def pauses(request: pytest.FixtureRequest, tmp_path: Path) -> QueuePauses:
    """The pauses of an empty registry."""
    if request.param == "sqlite":
        return QueuePauses(Database(tmp_path / "registry.sqlite3"))
    return QueuePauses(Database(request.getfixturevalue("database_url")))


def test_worker_serves_the_queues_that_it_is_given(contimg: Callable[..., Any]) -> None:
    """By default the main one and those of its stages, which db init makes."""
    unknown = str(contimg("worker", "--queue", "dsa110-pipeline-imagin").exception)
    assert "There is no queue 'dsa110-pipeline-imagin'; there are: dsa110-pipeline" in unknown
    assert contimg("worker", "--queue", "dsa110-pipeline-imaging", "--until-idle").exit_code == 0
    assert contimg("worker", "--until-idle").exit_code == 0


def test_db_init_says_which_queues_it_made_and_for_whom(contimg: Callable[..., Any]) -> None:
    """The first time it said of the queue that it exists, and made three more without a word."""

    def initialised(*arguments: str) -> str:
        return contimg(*arguments[:2], "db", "init", *arguments[2:]).stdout

    first, second = initialised("--queue", "orders"), initialised("--queue", "orders")
    made = [each for each in listed(contimg) if each.startswith("orders-")]
    assert len(made) == 3
    assert "Made queue 'orders'." in first
    assert f"Made for the stages of the telescope's pipeline: {', '.join(made)}." in first
    assert "Queue 'orders' exists." in second
    assert "Made" not in second


def test_db_init_makes_one_queue_for_a_program_with_handlers_of_its_own(
    contimg: Callable[..., Any],
) -> None:
    shown = contimg("--queue", "orders", "db", "init", "--without-stages").stdout
    assert "Made queue 'orders'." in shown
    assert "pipeline" not in shown.partition("Database")[0]
    assert [each for each in listed(contimg) if each.startswith("orders")] == ["orders"]
    (later,) = re.findall("Made.*", contimg("--queue", "orders", "db", "init").stdout)
    assert "stages of the telescope's pipeline: orders-" in later


def test_a_queue_that_was_removed_is_no_misspelling_of_those_of_its_stages(
    contimg: Callable[..., Any], tmp_path: Path, database_url: str
) -> None:
    """Commands proposed a queue of a stage, and the doctor saw no problem."""
    settings = load_settings({"output_dir": tmp_path / "products", "queue_name": QUEUE}, [])
    assert [each.ok for each in own_site(settings, database_url)] == [True]
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("select absurd.drop_queue(%s)", [QUEUE])
    problem = f"The queue '{QUEUE}' was removed; those of its stages are there: {QUEUE}-"
    for command in (("status",), ("worker", "--until-idle"), ("queue", "pause", "--reason", "x")):
        refused = str(contimg(*command).exception)
        assert problem in refused
        assert refused.endswith(f"without its former tasks: contimg --queue {QUEUE} db init")
    (finding,) = own_site(settings, database_url)
    assert not finding.ok
    assert problem in finding.finding
    assert finding.remedy.endswith(f"contimg --queue {QUEUE} db init")
    assert contimg("db", "init").exit_code == 0
    assert [each.ok for each in own_site(settings, database_url)] == [True]
    assert contimg("status").exit_code == 0


def listed(contimg: Callable[..., Any]) -> list[str]:
    """The names of all queues."""
    shown = json.loads(contimg("queue", "list", "--json").stdout)
    return sorted(each["queue"]["queue_name"] for each in shown)


def test_operator_pauses_and_resumes_a_queue_and_sees_who_has_paused_it(
    contimg: Callable[..., Any], tmp_path: Path
) -> None:
    registry = tmp_path / "products" / "state" / "registry.sqlite3"
    unknown = contimg("queue", "pause", "dsa110-pipelin", "--reason", "typo")
    assert "There is no queue 'dsa110-pipelin'; there are: dsa110-pipeline" in str(
        unknown.exception
    )
    assert "A pause needs a reason" in str(contimg("queue", "pause").exception)
    assert "not paused" in str(contimg("queue", "resume").exception)
    assert not registry.exists()

    assert contimg("queue", "pause", "--reason", "disk is [red]full").exit_code == 0
    again = str(contimg("queue", "pause", "--reason", "other").exception)
    assert "paused by" in again
    assert "disk is [red]full" in again
    status = contimg("status").stdout
    assert "Nothing is claimed: queue dsa110-pipeline is paused by" in status
    assert "disk is [red]full. To go on: contimg " in status
    assert "queue resume dsa110-pipeline" in status
    (pause,) = json.loads(contimg("status", "--json").stdout)["pauses"]
    assert (pause["queue"], pause["reason"]) == (QUEUE, "disk is [red]full")
    listed = contimg("queue", "list").stdout
    assert "disk is [red]full" in " ".join(listed.split())
    assert max(map(len, listed.splitlines())) <= 80
    paused = {
        each["queue"]["queue_name"]: each["pause"]
        for each in json.loads(contimg("queue", "list", "--json").stdout)
    }
    assert paused[QUEUE]["since"] == pause["since"]

    assert "disk is [red]full" in contimg("queue", "resume").stdout
    assert json.loads(contimg("status", "--json").stdout)["pauses"] == []


def test_resuming_one_queue_names_those_that_are_still_paused(contimg: Callable[..., Any]) -> None:
    """After a drain, those of the stages stayed paused without a word."""
    assert contimg("emergency", "drain", "--reason", "rack").exit_code == 0
    resumed = " ".join(contimg("queue", "resume").stdout.split())
    assert "Resumed: queue dsa110-pipeline was paused" in resumed
    assert "Not resumed: queue dsa110-pipeline-imaging is paused" in resumed
    assert "emergency resume" in resumed
    assert contimg("emergency", "resume").exit_code == 0
    assert contimg("queue", "pause", "--reason", "disk").exit_code == 0
    assert "Not resumed" not in contimg("queue", "resume").stdout


def test_of_two_operators_at_once_both_see_the_same_pause(pauses: QueuePauses) -> None:
    wanted = [QueuePause(QUEUE, f"reason {n}", f"2026-01-0{n}", f"user {n}") for n in range(1, 5)]
    with ThreadPoolExecutor() as pool:
        held = list(pool.map(pauses.pause, wanted))
        assert len({pause.by for (pause,) in held}) == 1
        ended = list(pool.map(pauses.resume, [QUEUE] * 4))
    assert ended.count([]) == 3
    assert pauses.pauses() == []


def test_a_stop_and_a_resumption_at_once_leave_all_queues_or_none(pauses: QueuePauses) -> None:
    """They took a transaction for each queue: some of the queues stayed stopped."""
    queues = [f"{QUEUE}-{n}" for n in range(8)]
    stops = [QueuePause(queue, "fire", "2026-01-01", "anna", ends_running=True) for queue in queues]
    with ThreadPoolExecutor() as pool:
        for _ in range(10):
            ending = pool.submit(pauses.resume, *queues)
            pool.submit(pauses.stop, *stops).result()
            assert len(ending.result()) in (0, 8)
            assert len(pauses.pauses()) in (0, 8)


@pytest.mark.timeout(60)
async def test_paused_queue_is_not_claimed_from_while_running_work_goes_on(
    tmp_path: Path,
) -> None:
    """Also not by a worker that is started later: the pause is in the registry."""
    backend, path = MemoryBackend(MemoryDatabase()), tmp_path / "registry.sqlite3"
    await backend.create_queue(QUEUE)
    pauses, go_on = QueuePauses(Database(path)), asyncio.Event()
    looks = Counter[str]()

    async def wait(_params: Any, _ctx: TaskContext) -> None:
        await go_on.wait()

    def new_worker(name: str) -> Worker:
        tasks = TaskRegistry()
        tasks.add("task", wait)
        gate = QueueGate(QueuePauses(Database(path)), QUEUE)
        settings = WorkerSettings(QUEUE, name, concurrency=5, poll_interval_seconds=0.01)

        async def ready_to_claim() -> bool:
            ready = await gate.ready_to_claim()
            looks[name] += 1
            return ready

        return Worker(backend, tasks, settings, ready_to_claim=ready_to_claim)

    async def two_looks() -> None:
        """Until the first worker has looked again, and has done what it had in mind before."""
        before = looks["first"]
        while looks["first"] < before + 2:
            await asyncio.sleep(0.01)

    async def states() -> list[str]:
        return sorted(task.state for task in await backend.list_tasks(QUEUE))

    await backend.spawn_task(QUEUE, "task", {})
    first = new_worker("first")
    working = asyncio.create_task(first.run())
    while await states() != ["running"]:
        await asyncio.sleep(0.01)
    pauses.pause(QueuePause(QUEUE, "disk", "2026-01-01", "operator"))
    await two_looks()  # and the claim that was under way
    await backend.spawn_task(QUEUE, "task", {})
    go_on.set()
    await new_worker("second").run(until_idle=True)
    while await states() != ["completed", "pending"]:
        await asyncio.sleep(0.01)
    await two_looks()
    assert await states() == ["completed", "pending"]
    pauses.resume(QUEUE)
    while await states() != ["completed", "completed"]:
        await asyncio.sleep(0.01)
    first.stop()
    await working


async def test_nothing_is_claimed_while_the_registry_is_away(tmp_path: Path) -> None:
    gate = QueueGate(QueuePauses(Database(tmp_path / "registry.sqlite3")), QUEUE)
    assert await gate.ready_to_claim()
    (tmp_path / "registry.sqlite3").rename(tmp_path / "away")
    assert not await gate.ready_to_claim()
    (tmp_path / "away").rename(tmp_path / "registry.sqlite3")
    assert await gate.ready_to_claim()


def test_status_says_who_holds_the_slots_of_a_limit_and_who_waits(
    contimg: Callable[..., Any], tmp_path: Path
) -> None:
    state = tmp_path / "products" / "state"
    state.mkdir(parents=True)
    slots = ResourceSlots(Database(state / "registry.sqlite3"))
    slots.take("imaging", "image of G1 on a:1 (t-1)", 1, 60.0)
    slots.take("imaging", "image of G2 on b:1 (t-1)", 1, 60.0)
    status = contimg("--set", "limits.imaging=1", "status").stdout
    lines = [line for line in status.splitlines() if line.startswith("imaging")]
    assert lines[0].startswith("imaging, limit 1: image of G1 on a:1 (t-1) has a slot for ")
    assert lines[1].startswith("imaging, limit 1: image of G2 on b:1 (t-1) waits for a slot for ")
    assert [slot["taken"] for slot in json.loads(contimg("status", "--json").stdout)["slots"]] == [
        True,
        False,
    ]


@pytest.mark.parametrize(
    "command", [("queue", "pause"), ("emergency", "stop")], ids=["pause", "stop"]
)
def test_reset_resumes_no_queue_that_somebody_else_holds(
    command: tuple[str, str], contimg: Callable[..., Any], tmp_path: Path
) -> None:
    """It ended the stop for smoke in the server room, and the pause for a new disk."""
    assert contimg(*command, "--reason", "smoke").exit_code == 0
    before = pauses_of(contimg)
    output = contimg("emergency", "reset", "--confirm", QUEUE).stdout
    assert f"Not resumed: queue {QUEUE} is" in output
    assert pauses_of(contimg) == before
    assert before[QUEUE]["reason"] == "smoke"


def pauses_of(contimg: Callable[..., Any]) -> dict[str, Any]:
    return {
        each["queue"]: each for each in json.loads(contimg("status", "--json").stdout)["pauses"]
    }


def test_a_stop_that_comes_during_a_reset_stays(pauses: QueuePauses) -> None:
    """It was taken for the reset's own, and resumed with it."""
    since = "2026-01-01T00:00:00+00:00"
    disk = QueuePause(QUEUE, "disk", since, "anna")
    reset, smoke = (
        QueuePause(QUEUE, reason, since, "anna", ends_running=True) for reason in ("reset", "smoke")
    )
    assert pauses.stop(reset) == [None]
    assert pauses.stop(smoke) == [reset]
    assert pauses.end_stop(reset, None) == smoke == pauses.of_queue(QUEUE)
    assert pauses.end_stop(smoke, disk) == disk == pauses.of_queue(QUEUE)
    assert pauses.resume(QUEUE) == [disk]
    assert pauses.end_stop(smoke, disk) is None
    assert pauses.of_queue(QUEUE) is None
