"""A site as a whole: what is read of it, and what is said when a part of it is away."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from psycopg import AsyncConnection

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.config.alerts import AlertsConfig
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.execution.disk_usage import disk_usage
from absurd_contimg.execution.host_scratch import host_name, host_scratch
from absurd_contimg.execution.scratch import ScratchOwner
from absurd_contimg.history.wait_explanation import explain_wait
from absurd_contimg.operations.overview import Site, read_context, read_site
from absurd_contimg.registry.database import Database
from absurd_contimg.registry.disk_samples import DiskSample, store_samples
from absurd_contimg.registry.ingestion import IngestionTables
from absurd_contimg.registry.ingestion_records import FileSighting
from absurd_contimg.registry.queue_pauses import QueuePause, QueuePauses
from absurd_contimg.registry.service_records import (
    ServiceKind,
    ServiceRecord,
    forget_services,
    list_services,
    store_service,
)
from absurd_contimg.settings import Settings, load_settings
from absurd_contimg.workflows.failure_rules import CLASSIFIER

QUEUE = "dsa110-pipeline"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Folders that exist, and a registry that does not yet."""
    for name in ("incoming", "products", "scratch", "state"):
        (tmp_path / name).mkdir()
    return load_settings(
        {
            "input_dir": tmp_path / "incoming",
            "output_dir": tmp_path / "products",
            "scratch_dir": tmp_path / "scratch",
            "state_dir": tmp_path / "state",
            "catalog": None,
        },
        environment={},
    )


@pytest.fixture
def registry(settings: Settings) -> Iterator[Database]:
    """The tables of the site's registry."""
    with closing(Database(settings.registry_url)) as database:
        yield database


def record(name: str, now: datetime, **changes: Any) -> ServiceRecord:
    """A process that was seen just now."""
    seconds = now.timestamp()
    values: dict[str, Any] = {
        "kind": ServiceKind.WORKER,
        "name": name,
        "host": "dsa-1",
        "pid": 1,
        "version": "1.0",
        "queues": QUEUE,
        "started_at": seconds - 3600,
        "seen_at": seconds,
    }
    return ServiceRecord(**{**values, **changes})


async def test_an_empty_site_has_no_problems(backend: Backend, settings: Settings) -> None:
    overview = await read_site(Site("production", backend, None, settings))
    assert overview.problems == ()
    assert [queue.queue_name for queue in overview.queues] == [QUEUE]
    assert overview.queues[0].depth == 0
    assert overview.queues[0].success_share is None
    assert {disk.role for disk in overview.disks} == {"input", "output", "scratch", "state"}
    assert all(disk.free_bytes for disk in overview.disks)
    assert overview.data is None


async def test_queues_workers_and_waits_of_a_busy_site(
    backend: Backend, settings: Settings, registry: Database
) -> None:
    """A worker that runs a task, one that is silent, one that stopped, and one without record."""
    now = await backend.current_time()
    for number in range(4):
        await backend.spawn_task(QUEUE, "pipeline", {"group_id": f"G{number}"})
    (done,) = await backend.claim_task(QUEUE, "w1@a", 600)
    await backend.complete_run(QUEUE, done.run_id, {})
    (failed,) = await backend.claim_task(QUEUE, "w1@a", 600)
    reason = {"name": "OSError", "kind": "transient", "rule": "busy"}
    await backend.fail_run_permanently(QUEUE, failed.run_id, reason)
    (held,) = await backend.claim_task(QUEUE, "w1@a", 600)
    (foreign,) = await backend.claim_task(QUEUE, "sdk-worker", 600)
    await backend.spawn_task(QUEUE, "pipeline", {"group_id": "G9"})
    store_service(registry, record("w1@a", now))
    store_service(registry, record("w2@b", now, host="dsa-2", seen_at=now.timestamp() - 300))
    store_service(registry, record("w3@b", now, stopped_at=now.timestamp() - 50))
    store_service(
        registry, record("mosaic", now, kind=ServiceKind.DAEMON, clock_offset_seconds=300.0)
    )
    overview = await read_site(Site("production", backend, None, settings))
    (queue,) = overview.queues
    assert (queue.completed_recently, queue.failed_recently, queue.depth) == (1, 1, 1)
    assert queue.success_share == 0.5
    assert queue.failures_by_kind == {"transient": 1}
    assert queue.failures_by_rule == {"busy": 1}
    assert queue.latency_seconds_p50 is not None
    services = {service.name: service for service in overview.services}
    assert services["w1@a"].running[0].task_id == held.task_id
    assert (services["w1@a"].state, services["w1@a"].health) == ("running", "ok")
    assert (services["w2@b"].state, services["w2@b"].health) == ("silent", "warning")
    assert "dsa-2" in services["w2@b"].problem
    assert (services["w3@b"].state, services["w3@b"].health) == ("stopped", "ok")
    assert services["sdk-worker"].host is None
    assert services["sdk-worker"].running[0].task_id == foreign.task_id
    assert "clock of host dsa-1 is 300 s ahead" in services["mosaic"].problem
    assert overview.worker_utilisation == 1.0
    (waiting,) = overview.waiting
    assert waiting.group == "G9"
    assert "waits for a worker: sdk-worker runs 1, w1@a on dsa-1 runs 1" in waiting.why
    QueuePauses(registry).pause(QueuePause(QUEUE, "new disk", "2026-11-29T03:00:00", "anna"))
    paused = await read_site(Site("production", backend, None, settings))
    assert "paused by anna" in paused.waiting[0].why
    assert paused.queues[0].pause is not None


async def test_a_worker_whose_process_is_gone_is_dead_at_once(
    backend: Backend, settings: Settings, registry: Database
) -> None:
    """It looked alive for a minute after it was killed; one in another container does not."""
    now = await backend.current_time()
    process = await asyncio.create_subprocess_exec("true")
    await process.wait()
    gone = process.pid
    here = {"host": host_name(), "pid": gone}
    await backend.spawn_task(QUEUE, "pipeline", {"group_id": "G1"})
    (held,) = await backend.claim_task(QUEUE, "w1@a", 600)
    store_service(registry, record("w1@a", now, **here))
    store_service(registry, record("w2@a", now, **here))
    store_service(registry, record("w3@a", now, **{**here, "pid": os.getpid()}))
    store_service(registry, record("mosaic", now, kind=ServiceKind.DAEMON, **here))
    scratch = host_scratch(settings.pipeline.paths.scratch_dir)
    with ScratchOwner(scratch, "w2"):
        overview = await read_site(Site("production", backend, None, settings))
    states = {each.name: (each.state, each.is_gone, each.health) for each in overview.services}
    assert states == {
        "mosaic": ("running", False, "ok"),
        "w1@a": ("silent", True, "failure"),
        "w2@a": ("running", False, "ok"),
        "w3@a": ("running", False, "ok"),
    }
    (dead,) = [each for each in overview.services if each.is_gone]
    assert (
        f"is dead: its process {gone} is gone. Start it again: contimg worker --worker-id w1 ("
        in dead.problem
    )
    task = (await backend.histories(QUEUE, [held.task_id]))[0]
    explanation = explain_wait(task, await read_context(Site("", backend, None, settings)))
    assert explanation is not None
    assert "w1@a on" in explanation.sentence
    assert "whose process is gone; its lease ends in" in explanation.sentence


async def test_the_warning_of_a_worker_that_is_gone_for_good_ends(
    backend: Backend, settings: Settings, registry: Database
) -> None:
    """After a day, but not while it holds a lease; of the only daemon it stays."""
    now = await backend.current_time()
    seconds = now.timestamp()
    await backend.spawn_task(QUEUE, "pipeline", {"group_id": "G1"})
    await backend.claim_task(QUEUE, "w1@a", 600)
    for name, hours in (("w1@a", 25), ("w2@a", 25), ("w3@a", 23)):
        store_service(registry, record(name, now, seen_at=seconds - 3600 * hours))
    for name, hours in (("old", 30), ("new", 29)):
        daemon = {"kind": ServiceKind.DAEMON, "seen_at": seconds - 3600 * hours}
        store_service(registry, record(name, now, **daemon))
    overview = await read_site(Site("production", backend, None, settings))
    assert [each.name for each in overview.services] == ["new", "w1@a", "w3@a"]
    assert "this ends 24 h after its last sign" in overview.services[2].problem
    assert "this ends" not in overview.services[0].problem
    assert forget_services(registry, seconds) == 3
    assert [each.name for each in list_services(registry)] == ["new", "old"]


async def test_work_that_waits_behind_a_forgotten_pause_is_a_problem(
    backend: Backend, settings: Settings, registry: Database
) -> None:
    """Nothing was done for a night after a drain, and all looked well."""
    await backend.spawn_task(QUEUE, "pipeline", {"group_id": "G1"})
    QueuePauses(registry).pause(QueuePause(QUEUE, "new disk", "2026-01-29T03:00:00", "anna"))
    site = Site("production", backend, None, settings)
    assert not [each for each in (await read_site(site)).problems if "behind a pause" in each]
    alerts = AlertsConfig(paused_minutes=1e-9)
    site.settings = replace(
        settings, pipeline=settings.pipeline.model_copy(update={"alerts": alerts})
    )
    problem = next(each for each in (await read_site(site)).problems if "behind a pause" in each)
    assert problem.startswith(
        (
            "1 task waiting for 0 s behind a pause: queue dsa110-pipeline is",
            "1 task waiting for 1 s",
        )
    )
    assert problem.endswith("To go on: contimg queue resume dsa110-pipeline")


async def test_a_stage_that_lacked_space_is_named_although_the_disks_look_well(
    backend: Backend, settings: Settings
) -> None:
    """What it wrote is removed when it fails, so that no disk shows it."""
    text = "No space left on device: 0 B free around /s; the stage was expected to write 2.0 GB"

    async def pipeline(_params: Any, ctx: TaskContext) -> None:
        async def image(_start: int) -> None:
            raise OSError(errno.ENOSPC, f"{text}. The stage said: x")

        await ctx.tracked_step("image", image)

    tasks = TaskRegistry()
    tasks.add("pipeline", pipeline)
    await backend.spawn_task(QUEUE, "pipeline", {"group_id": "G1"})
    worker = WorkerSettings(QUEUE, "worker-1", poll_interval_seconds=0.01)
    await Worker(backend, tasks, worker, CLASSIFIER).run(until_idle=True)
    overview = await read_site(Site("production", backend, None, settings))
    (shortage,) = overview.shortages
    assert (shortage.group, shortage.step, shortage.message) == ("G1", "image", f"{text}.")
    (problem,) = overview.problems
    assert f"last image of G1 on worker-1 at {shortage.at:%H:%M:%S} UTC: {text}." in problem


async def test_tasks_of_batches_count_with_those_of_the_site(
    backend: Backend, settings: Settings, registry: Database
) -> None:
    """They were seen by `contimg batch status` only, and told to wait for the wrong worker."""
    batches = f"{QUEUE}-reprocessing"
    await backend.create_queue(batches)
    await backend.spawn_task(batches, "pipeline", {"group_id": "G1"})
    store_service(registry, record("w1@a", await backend.current_time()))
    overview = await read_site(Site("production", backend, None, settings))
    assert [(each.queue_name, each.depth) for each in overview.queues] == [(QUEUE, 0), (batches, 1)]
    (waiting,) = overview.waiting
    assert waiting.advice == f"Start a worker of this queue: contimg worker --queue {batches}"


async def test_a_group_that_is_collected_tells_what_it_waits_for(
    backend: Backend, settings: Settings, registry: Database
) -> None:
    now = datetime.now(UTC)
    name = now.strftime("%Y-%m-%dT%H:%M:%S")
    paths = [settings.pipeline.paths.input_dir / f"{name}_sb{n:02d}.hdf5" for n in range(14)]
    sightings = [FileSighting(path, 10, 5) for path in paths]
    IngestionTables(registry).enter_files(sightings, now.timestamp(), 60)
    overview = await read_site(Site("production", backend, None, settings))
    (group,) = overview.groups
    assert (group.state, group.present, group.expected) == ("collecting", 14, 16)
    assert "for sb14, sb15, 14 arriving" in group.waits_for
    assert overview.data is not None
    assert overview.data.newest_file_seconds_ago == pytest.approx(0, abs=30)
    assert overview.data.groups_by_state == {"collecting": 1}


async def test_a_disk_that_fills_tells_its_hours(
    backend: Backend, settings: Settings, registry: Database
) -> None:
    """Of another host: 1 GB a minute, 120 GB left; a burst of scratch moves nothing."""
    now = (await backend.current_time()).timestamp()
    samples = [
        DiskSample("dsa-2", "/data", now - 60 * age, 120e9 + 1e9 * age - burst, 1e13, 1e6, 2e6)
        for age in range(180)
        for burst in ([60e9] if 30 < age < 40 else [0.0])
    ]
    store_samples(registry, samples)
    overview = await read_site(Site("production", backend, None, settings))
    disk = next(disk for disk in overview.disks if disk.host == "dsa-2")
    assert disk.hours_to_full == pytest.approx(2.0, rel=0.1)
    assert disk.health in ("warning", "failure")
    assert "is full in" in disk.problem or "GB left" in disk.problem


def damage(registry_url: str) -> None:
    """Overwrite the file of the registry."""
    Path(registry_url.removeprefix("sqlite:///")).write_bytes(b"no database" * 1000)


async def test_the_samples_of_this_host_are_of_its_own_folders(
    backend: Backend, settings: Settings, registry: Database
) -> None:
    """Each folder is shown once, with the trend of the samples and the space of now."""
    now = (await backend.current_time()).timestamp()
    folder = str(settings.pipeline.paths.output_dir)
    usage = disk_usage(settings.pipeline.paths.output_dir)
    total, free = usage.total_bytes, usage.free_bytes
    store_samples(
        registry,
        [
            DiskSample(host_name(), folder, now - 600 * age, free + 0.001 * total * age, total)
            for age in range(1, 20)
        ],
    )
    overview = await read_site(Site("production", backend, None, settings))
    assert len(overview.disks) == 4
    (disk,) = [disk for disk in overview.disks if disk.role == "output"]
    assert disk.hours_to_full == pytest.approx(free / (0.006 * total), rel=0.1)


@pytest.mark.parametrize("count", [3, 300])
async def test_a_look_takes_as_many_queries_whatever_the_number_of_tasks(
    database_url: str,
    settings: Settings,
    registry: Database,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
) -> None:
    async with PostgresBackend(database_url) as backend:
        await backend.create_queue(QUEUE)
        for number in range(count):
            await backend.spawn_task(QUEUE, "pipeline", {"group_id": f"G{number}"})
        for claimed in await backend.claim_task(QUEUE, "w", 600, count // 3):
            await backend.complete_run(QUEUE, claimed.run_id, {})
        statements = []
        execute = AsyncConnection.execute

        async def counted(self: Any, query: Any, *arguments: Any, **options: Any) -> Any:
            statements.append(query)
            return await execute(self, query, *arguments, **options)

        monkeypatch.setattr(AsyncConnection, "execute", counted)
        overview = await read_site(Site("production", backend, None, settings))
    assert overview.queues[0].tasks_by_state == {"completed": count // 3, "pending": count * 2 // 3}
    assert len(overview.waiting) <= 100
    statements = [query for query in statements if query]  # not those that ask for a sign of life
    assert len(statements) == 22


async def test_what_is_away_becomes_a_problem(settings: Settings, registry: Database) -> None:
    """Database, registry and a disk at once: the rest is shown."""
    registry.close()
    damage(settings.registry_url)
    settings.pipeline.paths.scratch_dir.rmdir()
    backend = PostgresBackend("postgresql://127.0.0.1:1/none")
    site = Site("production", backend, None, settings)
    overview = await read_site(site, database_seconds=1.0)
    assert overview.queues == ()
    assert len(overview.problems) == 2
    assert all("None" not in problem for problem in overview.problems)
    scratch = next(disk for disk in overview.disks if disk.role == "scratch")
    assert scratch.health == "unknown"
    assert "Mount or create it" in scratch.problem


async def test_a_database_that_does_not_answer_is_told_in_whole_sentences(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def hang(_backend: MemoryBackend) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(MemoryBackend, "current_time", hang)
    site = Site("emulator", MemoryBackend(MemoryDatabase()))
    overview = await read_site(site, database_seconds=0.1)
    assert "does not answer within 0.1 s. Workers wait" in overview.problems[0]


async def test_an_emulator_shows_all_its_queues() -> None:
    memory = MemoryBackend(MemoryDatabase())
    for name in ("a", "b"):
        await memory.create_queue(name)
        await memory.spawn_task(name, "task", {})
    overview = await read_site(Site("emulator", memory))
    assert [queue.depth for queue in overview.queues] == [1, 1]
    assert len(overview.waiting) == 2
