"""The three ways to process a group: the same products, and what becomes of failures."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from group_stages import QUEUE, STAGES, Image, Site

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.records import History, SpawnOptions
from absurd_contimg.core.retries import retry_options
from absurd_contimg.errors import CorruptInputError, DataQualityError
from absurd_contimg.execution.stage import stage_queues
from absurd_contimg.history.stage_tasks import COORDINATOR, with_stage_tasks
from absurd_contimg.history.summary import summarize
from absurd_contimg.history.timeline import step_starts
from absurd_contimg.operations.services import cancel
from absurd_contimg.registry import GroupStatus
from absurd_contimg.workflows import group, hybrid, stage_tasks

GROUP = "2026-01-01T00:00:00"
IO, IMAGING = f"{QUEUE}-io", f"{QUEUE}-imaging"
STRATEGIES = {
    group.TASK_NAME: group.spawn_options,
    COORDINATOR: stage_tasks.spawn_options,
    hybrid.TASK_NAME: hybrid.spawn_options,
}


@pytest.fixture
async def site(tmp_path: Path, backend: Backend) -> AsyncIterator[Site]:
    opened = Site(tmp_path, backend)
    await opened.make_queues()
    yield opened
    opened.close()


@pytest.fixture
async def toy(tmp_path: Path) -> AsyncIterator[Site]:
    """On the emulator alone."""
    opened = Site(tmp_path, MemoryBackend(MemoryDatabase()))
    await opened.make_queues()
    yield opened
    opened.close()


async def spawn(site: Site, task_name: str = COORDINATOR, group_id: str = GROUP) -> UUID:
    options = replace(STRATEGIES[task_name](group_id), idempotency_key=None)
    spawned = await site.backend.spawn_task(QUEUE, task_name, site.params(group_id), options)
    return spawned.task_id


async def history_of(site: Site, task_id: UUID, queue: str = QUEUE) -> History:
    history = await site.backend.history(queue, task_id)
    assert history is not None
    return history


async def stage_task(site: Site, queue: str) -> History:
    """The newest task of a queue."""
    (task, *_) = await site.backend.list_tasks(queue)
    return await history_of(site, task.task_id, queue)


def manifests(root: Path) -> dict[str, Any]:
    """All manifests and files by path, without what differs between two runs of the same."""
    products: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        if path.name == "manifest.json":
            manifest = json.loads(path.read_text())
            for name in ("attempt", "host", "created_at"):
                del manifest[name]
            products[str(path.relative_to(root))] = manifest
        elif path.is_file():
            products[str(path.relative_to(root))] = path.read_bytes()
    return products


async def test_all_strategies_make_the_same_products(site: Site) -> None:
    """Byte for byte; manifests differ in attempt, host and time alone."""
    products, results = {}, {}
    output_dir = site.config.paths.output_dir
    for name in STRATEGIES:
        task_id = await spawn(site, name)
        await site.work()
        history = await history_of(site, task_id)
        assert history.task.state == "completed", history.runs[-1].failure_reason
        results[name] = history.task.completed_payload
        products[name] = manifests(output_dir)
        for folder in output_dir.iterdir():
            shutil.rmtree(folder)
    assert len(products[COORDINATOR]) == 2 * len(STAGES)
    assert products[COORDINATOR] == products[group.TASK_NAME] == products[hybrid.TASK_NAME]
    assert results[COORDINATOR] == results[group.TASK_NAME] == results[hybrid.TASK_NAME]
    assert site.registry.group(GROUP).status is GroupStatus.DONE


async def test_images_of_several_groups_run_at_the_same_time(toy: Site) -> None:
    """Coordinators hold no slot while they wait, so one slot serves any number of them."""
    groups = [f"2026-01-01T00:0{n}:00" for n in range(3)]
    toy.executor.seconds = {"image": 0.3}
    ids = [await spawn(toy, group_id=group_id) for group_id in groups]
    await toy.work(concurrency=3)
    assert {(await history_of(toy, task_id)).task.state for task_id in ids} == {"completed"}
    assert toy.executor.running_max["image"] == 3


async def test_stage_is_retried_on_its_own(toy: Site) -> None:
    """The coordinator neither fails nor runs another stage again."""
    toy.executor.failures["image"] = [ConnectionResetError("reset")]
    task_id = await spawn(toy)
    await toy.work()
    history = await history_of(toy, task_id)
    assert (history.task.state, len(history.runs)) == ("completed", 1)
    assert [name for name, _ in toy.executor.starts] == [
        *("convert", "calibrate_apply", "image", "image"),
    ]
    assert len((await stage_task(toy, IMAGING)).runs) == 2


async def test_failure_of_a_stage_is_the_failure_of_its_group(site: Site) -> None:
    """By the same rule, and never a success (docs/telescope.md, row 46).

    After a retry only that stage runs again, in a new task.
    """
    site.executor.failures["image"] = [CorruptInputError("table is cut.", "Copy it again.")]
    task_id = await spawn(site)
    await site.work()
    history = await history_of(site, task_id)
    failure = summarize(history).last_failure
    assert history.task.state == "failed"
    assert failure is not None
    assert (failure.rule, failure.kind) == ("bad-input", "permanent")
    assert "Stage 'image'" in str(failure.message)
    assert "table is cut" in str(failure.message)
    assert site.registry.group(GROUP).status is GroupStatus.FAILED

    await site.backend.retry_task(QUEUE, task_id, retry_options(history.task))
    await site.work()
    assert (await history_of(site, task_id)).task.state == "completed"
    assert [name for name, _ in site.executor.starts].count("convert") == 1
    assert len(await site.backend.list_tasks(IMAGING)) == 2


async def test_stage_that_spent_its_budget_is_not_tried_again_by_the_coordinator(
    toy: Site,
) -> None:
    toy.executor.failures["image"] = [ConnectionResetError("reset")] * 9
    task_id = await spawn(toy)
    await toy.work()
    history = await history_of(toy, task_id)
    assert (history.task.state, len(history.runs)) == ("failed", 1)
    assert len(toy.executor.failures["image"]) == 6


async def test_poor_data_in_a_stage_quarantine_the_group(toy: Site) -> None:
    toy.executor.failures["calibrate_apply"] = [DataQualityError("91% is flagged.")]
    await spawn(toy)
    await toy.work()
    assert [each.group_id for each in toy.registry.groups(GroupStatus.QUARANTINED)] == [GROUP]


async def test_stage_that_kills_its_workers_fails_its_group_as_poison(toy: Site) -> None:
    task_id = await spawn(toy)
    await toy.work([QUEUE])
    silent = {"attempt": 1, "worker": "dead", "started_at": "2026-01-01T00:00:00+00:00"}
    (claimed,) = await toy.backend.claim_task(IO, "dead", 60)
    starts = [{**silent, "start": n, "run_id": str(claimed.run_id)} for n in (1, 2, 3)]
    await toy.backend.set_task_checkpoint_state(
        IO, claimed.task_id, "$start:convert", {"starts": starts}, claimed.run_id
    )
    await toy.backend.schedule_run(IO, claimed.run_id, await toy.backend.current_time())
    await toy.work()
    history = await history_of(toy, task_id)
    failure = summarize(history).last_failure
    assert failure is not None
    assert (history.task.state, failure.rule) == ("failed", "poison")
    assert toy.executor.starts == []


async def test_vanished_stage_task_is_spawned_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody emits its event; the coordinator's look finds that it is gone."""
    monkeypatch.setattr(stage_tasks, "_FIRST_LOOK_SECONDS", 1)
    task_id = await spawn(site)
    await site.work([QUEUE])
    child = await stage_task(site, IO)
    await site.backend.cancel_task(IO, child.task.task_id)
    assert await site.backend.cleanup_tasks(IO, 0) == 1
    await site.work_until_ended(task_id)
    assert (await history_of(site, task_id)).task.state == "completed"


async def test_cancelled_stage_task_fails_its_group(toy: Site) -> None:
    """At once and with its own rule; a retry of the group spawns it again."""
    task_id = await spawn(toy)
    await toy.work([QUEUE])
    child = await stage_task(toy, IO)
    await cancel(toy.backend, child)
    await toy.work([QUEUE])
    history = await history_of(toy, task_id)
    failure = summarize(history).last_failure
    assert failure is not None
    assert (history.task.state, failure.rule) == ("failed", "stage-cancelled")
    await toy.backend.retry_task(QUEUE, task_id, retry_options(history.task))
    await toy.work()
    assert (await history_of(toy, task_id)).task.state == "completed"


async def test_cancelled_coordinator_cancels_its_stage_tasks(toy: Site) -> None:
    task_id = await spawn(toy)
    await toy.work([QUEUE])
    text = await cancel(toy.backend, await history_of(toy, task_id))
    assert text.endswith("1 of its stage tasks were cancelled too.")
    assert await cancel(toy.backend, await history_of(toy, task_id)) != text
    assert (await stage_task(toy, IO)).task.state == "cancelled"


async def test_stage_task_of_a_coordinator_cancelled_elsewhere_cancels_itself(
    toy: Site,
) -> None:
    """No stage begins for a group that nobody wants any more."""
    task_id = await spawn(toy)
    await toy.work([QUEUE])
    await toy.backend.cancel_task(QUEUE, task_id)
    await toy.work()
    assert (await stage_task(toy, IO)).task.state == "cancelled"
    assert toy.executor.starts == []


async def test_history_of_a_group_shows_the_starts_of_its_stage_tasks(toy: Site) -> None:
    """As for a pipeline task: each stage, its starts, its worker."""
    toy.executor.failures["image"] = [ConnectionResetError("reset")]
    task_id = await spawn(toy)
    await toy.work([QUEUE])
    (waiting,) = await with_stage_tasks(toy.backend, [await history_of(toy, task_id)])
    reason = summarize(waiting).waiting
    assert reason is not None
    assert reason.cause == "worker"
    await toy.work()
    (history,) = await with_stage_tasks(toy.backend, [await history_of(toy, task_id)])
    assert [(start.step, start.outcome) for start in step_starts(history)] == [
        *(("convert", "done"), ("calibrate_apply", "done"), ("image", "retry"), ("image", "done")),
    ]


@pytest.mark.parametrize("task_name", STRATEGIES)
async def test_group_killed_in_a_stage_goes_on_at_the_first_missing_product(
    site: Site, task_name: str
) -> None:
    """Whatever the strategy: products that are there are taken as they are."""
    task_id = await spawn(site, task_name)
    site.executor.seconds = {"image": 60.0}
    workers = [site.worker(queue) for queue in (QUEUE, *stage_queues(QUEUE).values())]
    runs = [asyncio.create_task(worker.run()) for worker in workers]
    async with asyncio.timeout(20):
        while site.executor.running["image"] == 0:
            await asyncio.sleep(0.01)
    for run in runs:
        run.cancel()
    await asyncio.gather(*runs, return_exceptions=True)
    inodes = {path: path.stat().st_ino for path in site.config.paths.output_dir.rglob("convert")}
    site.executor.seconds = {}
    await site.work()
    assert (await history_of(site, task_id)).task.state == "completed"
    assert len(inodes) == 1
    assert {path: path.stat().st_ino for path in inodes} == inodes
    assert len(list(site.config.paths.output_dir.rglob(Image.name))) == 1


async def test_unknown_version_fails_with_a_sentence(toy: Site) -> None:
    """An earlier one that has gone; a later one waits for a worker that knows it."""
    for name, options in STRATEGIES.items():
        spawned = await toy.backend.spawn_task(
            QUEUE, name, toy.params(GROUP), SpawnOptions(headers={"workflow_version": 0})
        )
        await toy.work()
        failure = summarize(await history_of(toy, spawned.task_id)).last_failure
        assert failure is not None
        assert failure.rule == "workflow-version"
        assert "version 0" in str(failure.message)
        assert options(GROUP).headers == {"workflow_version": 1}
    spawned = await toy.backend.spawn_task(
        QUEUE,
        group.TASK_NAME,
        toy.params(GROUP),
        SpawnOptions(headers={"workflow_version": 2}),
    )
    await toy.work()
    reason = summarize(await history_of(toy, spawned.task_id)).waiting
    assert reason is not None
    assert (reason.rule, reason.kind) == ("workflow-newer", "resource")
