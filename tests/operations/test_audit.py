"""``contimg audit`` and ``contimg simulate --fit-from`` on a database of completed tasks."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from arriving_groups import DaemonSite

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.records import LIVE_STATES, History, Json, SpawnOptions
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.errors import SettingError
from absurd_contimg.history.invariants.check import STREAM_INVARIANTS, Violation, find_violations
from absurd_contimg.history.invariants.stream import (
    StreamObservation,
    no_group_is_processed_twice,
    no_window_twice,
)
from absurd_contimg.ingest.batches import FeedRules, create_batch, feed
from absurd_contimg.ingest.closing import ClosingRules
from absurd_contimg.ingest.stream_observation import observe_stream
from absurd_contimg.ingest.windows import WindowRules
from absurd_contimg.operations.services import Actions, SiteTables
from absurd_contimg.operations.services.stream_audit import audit_stream
from absurd_contimg.registry import GroupStatus, Registry
from absurd_contimg.registry.batches import Batches
from absurd_contimg.registry.database import Database
from absurd_contimg.registry.ingestion import IngestionTables
from absurd_contimg.registry.ingestion_records import Closure
from absurd_contimg.registry.models import IngestState
from absurd_contimg.registry.publications import Publications
from absurd_contimg.registry.windows import Window, WindowMember, WindowState, store_windows
from absurd_contimg.settings import load_settings
from absurd_contimg.simulation.model.stage_model import DEFAULT_COSTS, fit_costs

from .test_cli import contimg

QUEUE = "dsa110-pipeline"
GROUP = "2026-01-01T00:00:00"
CONVERT_SECONDS = 0.2


async def pipeline(params: Any, ctx: TaskContext) -> Any:
    """Two short stages; the first start of the second has a transient failure."""

    async def convert(_start: int) -> str:
        await asyncio.sleep(CONVERT_SECONDS)
        return "converted"

    async def image(start: int) -> str:
        if start == 1:
            raise ConnectionResetError("reset")
        return "imaged"

    await ctx.tracked_step("convert", convert)
    return await ctx.tracked_step("image", image)


@pytest.fixture(scope="module")
def completed(new_database: Callable[[], str]) -> str:
    """The URL of a database in which a worker has completed three tasks."""
    database_url = new_database()

    async def work() -> None:
        tasks = TaskRegistry()
        tasks.add("pipeline", pipeline)
        async with PostgresBackend(database_url) as backend:
            await backend.create_queue(QUEUE)
            for number in range(3):
                await backend.spawn_task(QUEUE, "pipeline", {"group_id": f"G{number}"})
            settings = WorkerSettings(QUEUE, "w", concurrency=3, poll_interval_seconds=0.1)
            worker = Worker(backend, tasks, settings)
            running = asyncio.create_task(worker.run())
            while (await backend.queue_stats(QUEUE)).tasks_by_state.get("completed", 0) < 3:
                await asyncio.sleep(0.1)
            worker.stop()
            await running

    asyncio.run(work())
    return database_url


async def _histories(url: str) -> list[History]:
    async with PostgresBackend(url) as backend:
        tasks = await backend.list_tasks(QUEUE)
        return await backend.histories(QUEUE, [task.task_id for task in tasks])


async def test_audit_is_clean_after_retention(backend: Backend, tmp_path: Path) -> None:
    """Groups, windows and batches name tasks that are gone: they were old enough."""
    site = DaemonSite(tmp_path, closing=ClosingRules(1, 1), rules=WindowRules(size=5, stride=4))
    site.backend = backend
    for number in range(6):
        site.write(number, [0])
    await site.polls(100, 3)
    batches, rules = Batches(site.database), FeedRules(task="pipeline", ahead=50, cap=50)
    items = [("extra", {"group_id": "extra"})]
    create_batch(batches, "b1", "pipeline", QUEUE, rules, items, datetime.now(UTC))
    await feed(batches, backend)
    for number in range(6):
        site.finish(number)
    await site.poll(60)
    for claimed in await backend.claim_task(QUEUE, "worker", qty=100):
        await backend.complete_run(QUEUE, claimed.run_id)
    for _ in range(2):  # it notes the ends of items, then that of the batch
        await feed(batches, backend)
    publications = Publications(site.database)
    publications.begin("0" * 40, "mosaic", tmp_path / "m", tmp_path / "published" / "m")
    publications.finish("0" * 40, "2026-01-01T00:00:00+00:00")

    async def violations() -> tuple[int, Sequence[Violation]]:
        tasks = await backend.list_tasks(QUEUE, limit=1000)
        histories = await backend.histories(QUEUE, [task.task_id for task in tasks])
        observed = observe_stream(histories, site.tables, publications, batches)
        return len(tasks), find_violations(STREAM_INVARIANTS, observed)

    assert batches.batch("b1").state == "completed"
    assert (await violations())[1] == []
    while await backend.cleanup_tasks(QUEUE, 0):
        pass
    assert await violations() == (0, [])


def test_simulation_uses_the_durations_of_a_history(completed: str, tmp_path: Path) -> None:
    """Conversion takes as long as in the history; other stages keep their defaults."""
    costs = fit_costs(asyncio.run(_histories(completed)))
    assert CONVERT_SECONDS <= costs["convert"].seconds < 20 * CONVERT_SECONDS
    assert costs["flag"] == DEFAULT_COSTS["flag"]
    short = tmp_path / "short.toml"
    short.write_text('name = "short"\ndays = 0.03\n')
    medians = []
    for fitted in ([], ["--fit-from"]):
        out = tmp_path / f"out{len(fitted)}"
        shown = contimg(
            *(tmp_path, "simulate", str(short), "--seed", "1", "--output", str(out), *fitted),
            ABSURD_DATABASE_URL=completed,
        )
        assert shown.returncode == 0, shown.stderr
        (row,) = json.loads((out / "report.json").read_text())
        medians.append(row["latency_p50"])
    saved = DEFAULT_COSTS["convert"].seconds - costs["convert"].seconds
    assert medians[0] - medians[1] > 0.9 * saved


def test_audit_looks_at_the_registry(tmp_path: Path) -> None:
    """Two windows of the same groups; a site without a registry has no violation."""
    url = f"sqlite:///{tmp_path / 'registry.sqlite3'}"
    environment = {"PIPELINE_PRODUCTS_DB": url, "PIPELINE_STATE_DIR": str(tmp_path)}
    settings = load_settings(environment=environment)
    assert audit_stream(settings, []) == []
    with closing(Database(url)) as database:
        members = (WindowMember("2026-01-01T00:00:00", 61_041.0),)
        times, rules = (61_041.0, 61_041.0), {"members_min": 1}
        windows = [
            Window(window_id, WindowState.OPEN, *times, 16.3, members, rules)
            for window_id in ("W1", "W2")
        ]
        store_windows(database, windows)
    assert [violation.invariant for violation in audit_stream(settings, [])] == ["no_window_twice"]


async def test_a_mosaic_that_was_asked_for_again_is_no_second_one() -> None:
    """``contimg mosaic make --again`` is a command of the page; two tasks by themselves are not."""
    backend = MemoryBackend(MemoryDatabase())
    await backend.create_queue("q")

    async def audited(key: str) -> list[str]:
        params = {"window_id": "W1", "tier": "nightly"}
        options = SpawnOptions(idempotency_key=key)
        await backend.spawn_task("q", "mosaic", params, options)
        tasks = [task.task_id for task in await backend.list_tasks("q")]
        observed = StreamObservation(histories=await backend.histories("q", tasks))
        return list(no_window_twice(observed))

    assert await audited("mosaic:W1") == []
    assert await audited("mosaic:W1#2") == []
    assert await audited("mosaic:other") == ["window W1 has 2 nightly mosaic tasks"]


async def test_audit_names_the_task_that_a_lost_queue_took_with_it(tmp_path: Path) -> None:
    """Of a group that is not finished; retention may have removed that of any other."""
    backend = MemoryBackend(MemoryDatabase())
    await backend.create_queue(QUEUE)
    task = await backend.spawn_task(QUEUE, "pipeline", {"group_id": GROUP})
    url = f"sqlite:///{tmp_path / 'registry.sqlite3'}"
    environment = {"PIPELINE_PRODUCTS_DB": url, "PIPELINE_STATE_DIR": str(tmp_path)}
    settings = load_settings(environment=environment)
    with closing(Registry(url)) as registry:
        registry.register_files([Path(f"/in/{GROUP}_sb00.hdf5")])
        tables = IngestionTables(registry.database)
        closure = Closure(GROUP, IngestState.CLOSED, "", (), (), None, None, 1.8e9)
        assert tables.close_group(closure)
        tables.note_task(GROUP, 1, str(task.task_id))
        created_at = await backend.queue_created_at(QUEUE)
        assert created_at is not None
        later = datetime.now(UTC) + timedelta(seconds=1)
        assert audit_stream(settings, [], created_at) == []
        (violation,) = audit_stream(settings, [], later)
        assert violation.invariant == "every_accepted_group_has_its_task"
        assert str(task.task_id) in violation.text
        registry.set_group_status(GROUP, GroupStatus.DONE)
        assert audit_stream(settings, [], later) == []


VIOLATIONS = {
    "attempts_are_counted_without_a_gap": "update {t} set attempts = attempts + 1 where {first}",
    "task_and_last_run_agree": "update {t} set state = 'pending' where {first}",
    "completed_task_has_saved_its_steps": "delete from {c} where checkpoint_name = 'image'",
    "failure_says_why": "update {r} set failure_reason = null where state = 'failed' and {first}",
}


def test_audit_names_the_violations_in_a_database(completed: str, tmp_path: Path) -> None:
    """And none before. The last test of this module: it damages the database."""
    before = contimg(tmp_path, "audit", ABSURD_DATABASE_URL=completed)
    assert "3 tasks audited, 0 violations" in before.stdout
    with psycopg.connect(completed) as connection:
        first = connection.execute(f'select min(task_id::text) from absurd."t_{QUEUE}"').fetchone()
        assert first is not None
        tables = {letter: f'absurd."{letter}_{QUEUE}"' for letter in "trc"}
        for change in VIOLATIONS.values():
            connection.execute(change.format(**tables, first=f"task_id = '{first[0]}'"))
    shown = contimg(tmp_path, "audit", ABSURD_DATABASE_URL=completed)
    assert shown.returncode == 1
    violations = re.findall(r"^(\w+): task ([0-9a-f-]+):", shown.stdout, re.MULTILINE)
    assert {name for name, _ in violations} >= VIOLATIONS.keys()
    assert {task for name, task in violations if name == "failure_says_why"} == {first[0]}


async def test_parameters_of_any_kind_are_audited() -> None:
    """A list in the place of a group or a window ended the audit of all tasks with a TypeError."""
    backend = MemoryBackend(MemoryDatabase())
    await backend.create_queue(QUEUE)
    odd: Sequence[Json] = (None, 5, "x", [], {}, {"a": [1]}, [["x"]])
    for value in odd:
        for name in ("pipeline", "mosaic"):
            params: Json = {"group_id": value, "window_id": value, "tier": value}
            await backend.spawn_task(QUEUE, name, {**params, "input_files": value})
            await backend.spawn_task(QUEUE, name, value)
    tasks = [task.task_id for task in await backend.list_tasks(QUEUE, limit=100)]
    histories = await backend.histories(QUEUE, tasks)
    observed = StreamObservation(histories, must_have_ended=True)
    assert find_violations(STREAM_INVARIANTS, observed) == []


async def fail_once(backend: Backend, params: Json) -> UUID:
    """A failed task with one step that has a result."""
    spawned = await backend.spawn_task(QUEUE, "pipeline", params, SpawnOptions(max_attempts=1))
    (run,) = await backend.claim_task(QUEUE, "w", 60)
    await backend.set_task_checkpoint_state(QUEUE, run.task_id, "image", "made", run.run_id)
    await backend.fail_run(QUEUE, run.run_id, {"name": "OSError"})
    return spawned.task_id


async def test_of_actions_at_one_moment_one_makes_a_group_live(
    tmp_path: Path, database_url: str
) -> None:
    """Forks of several processes, beside retries: each saw no other one, and two tasks ran."""
    settings = load_settings({"output_dir": tmp_path / "out", "state_dir": tmp_path / "state"})
    params: Json = {"group_id": GROUP, "input_files": ["a"]}
    async with AsyncExitStack() as stack:
        tables = stack.enter_context(closing(SiteTables(settings)))
        backends = [
            await stack.enter_async_context(PostgresBackend(database_url)) for _ in range(6)
        ]
        await backends[0].create_queue(QUEUE)
        task_id = await fail_once(backends[0], params)
        actions = [Actions(each, tables, "operator", "command line") for each in backends]
        outcomes = await asyncio.gather(
            *(each.fork(QUEUE, task_id, "image") for each in actions[:3]),
            *(each.retry_all_failed(QUEUE) for each in actions[3:5]),
            actions[5].retry(QUEUE, task_id),
            return_exceptions=True,
        )
        live = await backends[0].list_tasks(QUEUE, states=sorted(LIVE_STATES))
    assert len(live) == 1, outcomes
    errors = [each for each in outcomes if isinstance(each, BaseException)]
    assert len(errors) >= 3
    for error in errors:
        assert isinstance(error, SettingError)
        assert str(live[0].task_id) in str(error)


async def test_one_task_at_a_time_processes_a_group_also_after_a_fork(tmp_path: Path) -> None:
    """The audit called each fork a second task; a parent was retried beside its fork."""
    settings = load_settings({"output_dir": tmp_path / "out", "state_dir": tmp_path / "state"})
    params: Json = {"group_id": GROUP, "input_files": ["a"]}
    backend = MemoryBackend(MemoryDatabase())
    await backend.create_queue(QUEUE)
    task_id = await fail_once(backend, params)
    with closing(SiteTables(settings)) as tables:
        actions = Actions(backend, tables, "operator", "command line")
        fork = await actions.fork(QUEUE, task_id, "image")
        for again in (actions.retry(QUEUE, task_id), actions.fork(QUEUE, task_id, "image")):
            with pytest.raises(SettingError, match=f"{fork.task_id} is pending: two tasks would"):
                await again
    tasks = [await backend.history(QUEUE, each) for each in (task_id, fork.task_id)]
    observed = StreamObservation(histories=[each for each in tasks if each])
    assert list(no_group_is_processed_twice(observed)) == []
