"""Old tasks are archived before Absurd's own procedures remove them; nothing is lost or doubled."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.config.retention import RetentionConfig
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.forks import FORK_HEADER, Fork
from absurd_contimg.core.records import SpawnOptions, Task
from absurd_contimg.errors import SettingError
from absurd_contimg.history.history_file import HistoryFile, read_histories_file
from absurd_contimg.ingest.batches import feed
from absurd_contimg.operations.maintenance import archive as archives
from absurd_contimg.operations.maintenance.archive import (
    archive_histories,
    clean_queue,
    old_histories,
    plan_cleaning,
    write_dump,
)
from absurd_contimg.operations.maintenance.needs import needed_tasks
from absurd_contimg.operations.maintenance.site import plan_site, run_site
from absurd_contimg.registry import Registry
from absurd_contimg.registry.batches import Batch, Batches, BatchState, ItemState
from absurd_contimg.settings import load_settings

QUEUE = "dsa110-pipeline"


class AgedQueue:
    """A queue whose tasks have ended some days ago, by the database's fake time."""

    def __init__(self, backend: Backend, url: str) -> None:
        self.backend, self.url = backend, url

    async def end(self, name: str, how: str) -> UUID:
        task = await self.backend.spawn_task(QUEUE, "task", {"name": name})
        if how == "cancelled":
            await self.backend.cancel_task(QUEUE, task.task_id)
            return task.task_id
        (run,) = await self.backend.claim_task(QUEUE, "w", 60, 1)
        if how == "completed":
            await self.backend.complete_run(QUEUE, run.run_id, {"of": name})
        elif how == "failed":
            await self.backend.fail_run_permanently(QUEUE, run.run_id, {"name": "E"})
        return task.task_id


def shift(url: str, days: float) -> None:
    """Let everything in the queue have happened so many days earlier."""
    columns = {
        "t": ("enqueue_at", "first_started_at", "cancelled_at"),
        "r": ("created_at", "started_at", "completed_at", "failed_at", "available_at"),
        "e": ("emitted_at",),
    }
    with psycopg.connect(url, autocommit=True) as connection:
        for kind, names in columns.items():
            sets = ", ".join(f"{name} = {name} - interval '{days} days'" for name in names)
            connection.execute(f'update absurd."{kind}_{QUEUE}" set {sets}'.encode())


@pytest.fixture
async def queue(database_url: str) -> AsyncIterator[AgedQueue]:
    async with PostgresBackend(database_url) as backend:
        await backend.create_queue(QUEUE)
        yield AgedQueue(backend, database_url)


def archived_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("histories-*.jsonl.gz"))


async def names(backend: Backend) -> set[Any]:
    tasks: list[Task] = await backend.list_tasks(QUEUE, limit=1000)
    return {task.params["name"] for task in tasks if isinstance(task.params, dict)}


async def test_ended_tasks_go_after_they_are_archived(queue: AgedQueue, tmp_path: Path) -> None:
    """Of every final state; what has not ended stays however old it is; the younger ones stay."""
    backend = queue.backend
    old = [await queue.end(how, how) for how in ("completed", "failed", "cancelled")]
    await backend.emit_event(QUEUE, "event", {})
    waiting = await backend.spawn_task(QUEUE, "task", {"name": "pending"})
    shift(queue.url, 31)
    await backend.cancel_task(QUEUE, waiting.task_id)  # it ends only now
    before = {each.task.task_id: each for each in await backend.histories(QUEUE, old)}
    done = await clean_queue(backend, QUEUE, tmp_path, tasks_days=30, events_days=30)
    assert (done.archived, done.removed_tasks, done.removed_events) == (3, 3, 1)
    assert await names(backend) == {"pending"}
    (file,) = archived_files(tmp_path)
    assert {each.task.task_id: each for each in read_histories_file(file)} == before
    shown = HistoryFile(file)
    assert await shown.list_queues() == [QUEUE]
    assert await shown.history(QUEUE, old[0]) == before[old[0]]
    again = await clean_queue(backend, QUEUE, tmp_path, tasks_days=30, events_days=30)
    assert (again.archived, again.removed_tasks, again.removed_events) == (0, 0, 0)


async def test_a_kill_between_archive_and_removal_doubles_nothing(
    queue: AgedQueue, tmp_path: Path
) -> None:
    """The next run archives the same tasks again, into the same files."""
    ids = [await queue.end(str(number), "completed") for number in range(3)]
    shift(queue.url, 40)
    limit = datetime.now(UTC) - timedelta(days=30)
    archive_histories(tmp_path, await old_histories(queue.backend, QUEUE, limit))
    await clean_queue(queue.backend, QUEUE, tmp_path, tasks_days=30, events_days=30)
    archived = [h for f in archived_files(tmp_path) for h in read_histories_file(f)]
    assert sorted(each.task.task_id for each in archived) == sorted(ids)
    assert await names(queue.backend) == set()


async def test_what_becomes_old_meanwhile_is_not_removed_before_it_is_archived(
    queue: AgedQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task passes the limit after the archive was written, and before the removal.

    So what ended shortly after the limit is archived too.
    """
    old = [await queue.end("old", "completed")]
    shift(queue.url, 2)
    old.append(await queue.end("young", "completed"))
    shift(queue.url, 29.995)
    written = archives.archive_histories

    def slowly(folder: Path, histories: Any) -> list[Path]:
        files = written(folder, histories)
        shift(queue.url, 0.009)
        return files

    monkeypatch.setattr(archives, "archive_histories", slowly)
    done = await clean_queue(queue.backend, QUEUE, tmp_path, tasks_days=30, events_days=30)
    assert (done.archived, done.removed_tasks) == (1, 2)
    archived = [h for f in archived_files(tmp_path) for h in read_histories_file(f)]
    assert sorted(each.task.task_id for each in archived) == sorted(old)


async def test_as_many_tasks_go_as_the_plan_says(queue: AgedQueue, tmp_path: Path) -> None:
    """With a retention of two minutes none went that had ended in the quarter of an hour before.

    The shortest that can be set: so long what ended after the histories were read must stay.
    """
    with pytest.raises(ValueError, match="greater than or equal to"):
        RetentionConfig(tasks_days=0.001)
    days = 0.02
    assert RetentionConfig(tasks_days=days).tasks_days == days
    await queue.end("old", "completed")
    shift(queue.url, 120 / 86_400)
    await queue.end("young", "completed")
    shift(queue.url, days - 60 / 86_400)
    ended_before = await queue.backend.current_time() - timedelta(days=days)
    planned = await plan_cleaning(queue.backend, QUEUE, ended_before, {})
    done = await clean_queue(queue.backend, QUEUE, tmp_path, tasks_days=days, events_days=30)
    assert (planned.count, done.archived, done.removed_tasks) == (1, 1, 1)
    assert await names(queue.backend) == {"young"}


async def test_a_task_stays_that_one_names_which_has_not_ended(
    queue: AgedQueue, tmp_path: Path
) -> None:
    """A parent failed that no worker had looked at for a month: its child was gone.

    Tasks are removed by age alone, so those that ended after it stay too.
    """
    first, child, last = [await queue.end(name, "completed") for name in ("first", "child", "last")]
    with psycopg.connect(queue.url, autocommit=True) as connection:
        move = f'update absurd."r_{QUEUE}" set completed_at = completed_at + %s where task_id = %s'
        connection.execute(move.encode(), (timedelta(hours=1), child))
        connection.execute(move.encode(), (timedelta(hours=2), last))
    shift(queue.url, 40)
    parent = await queue.backend.spawn_task(QUEUE, "task", {"name": "parent", "child": str(child)})
    live = await queue.backend.history(QUEUE, parent.task_id)
    assert live is not None
    needed = needed_tasks([live])
    assert needed == {child: f"task {parent.task_id} (task) has not ended"}
    limit = await queue.backend.current_time() - timedelta(days=30)
    planned = await plan_cleaning(queue.backend, QUEUE, limit, needed)
    assert (planned.count, planned.kept) == (1, 2)
    assert str(parent.task_id) in planned.kept_for
    days = {"tasks_days": 30, "events_days": 30}
    done = await clean_queue(queue.backend, QUEUE, tmp_path, **days, needed=needed)
    assert (done.archived, done.removed_tasks, done.kept) == (1, 1, 2)
    assert await names(queue.backend) == {"child", "last", "parent"}
    await queue.backend.cancel_task(QUEUE, parent.task_id)
    done = await clean_queue(queue.backend, QUEUE, tmp_path, **days)
    assert (done.archived, done.removed_tasks, done.kept) == (2, 2, 0)
    archived = [h for f in archived_files(tmp_path) for h in read_histories_file(f)]
    assert sorted(each.task.task_id for each in archived) == sorted([first, child, last])


async def test_maintenance_notes_the_ends_of_batches_and_keeps_what_is_waited_for(
    queue: AgedQueue, tmp_path: Path
) -> None:
    """The daemon was off for a month and the timer of maintenance was not: it had failed."""
    folders = {f"{name}_dir": tmp_path / name for name in ("input", "output", "state", "scratch")}
    settings = load_settings(folders, environment={})
    (tmp_path / "state").mkdir()
    with closing(Registry(settings.registry_url, output_dir=folders["output_dir"])) as registry:
        batches = Batches(registry.database)
        rules = {"task": "pipeline", "ahead": 3, "cap": 5}
        batches.create(
            Batch("b", "reprocess", BatchState.ACTIVE, QUEUE, rules, "2026-01-01"),
            [("G", {"group_id": "G"})],
        )
        await feed(batches, queue.backend)
        (run,) = await queue.backend.claim_task(QUEUE, "w", 60, 1)
        await queue.backend.complete_run(QUEUE, run.run_id, {})
        shift(queue.url, 31)
        planned = await plan_site(settings, queue.backend, registry)
        assert (planned.tasks, planned.kept_tasks) == ({QUEUE: 1}, {})
        (cleaned,) = (await run_site(settings, queue.backend, registry)).queues
        assert (cleaned.archived, cleaned.removed_tasks, cleaned.kept) == (1, 1, 0)
        await feed(batches, queue.backend)
        assert batches.counts("b")[ItemState.COMPLETED] == 1
        assert batches.batch("b").state is BatchState.COMPLETED
        child = await queue.end("child", "completed")
        await queue.backend.spawn_task(QUEUE, "task", {"child": str(child)})
        shift(queue.url, 31)
        planned = await plan_site(settings, queue.backend, registry)
        assert planned.tasks == {QUEUE: 0}
        assert re.fullmatch("1 old tasks stay: task .* has not ended", planned.kept_tasks[QUEUE])
        (cleaned,) = (await run_site(settings, queue.backend, registry)).queues
        assert (cleaned.archived, cleaned.removed_tasks, cleaned.kept) == (0, 0, 1)


async def test_the_parent_of_a_fork_that_has_not_run_stays(backend: Backend) -> None:
    """Its checkpoints are copied when the fork begins."""
    parent = await backend.spawn_task(QUEUE, "task", {})
    fork = Fork(QUEUE, parent.task_id, "image")
    options = SpawnOptions(headers={FORK_HEADER: fork.to_json()})
    task = await backend.spawn_task(QUEUE, "task", {}, options)
    live = await backend.histories(QUEUE, [task.task_id])
    assert set(needed_tasks(live)) == {parent.task_id}


async def test_a_dump_has_every_task_of_a_large_queue(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read in pages, in whatever state."""
    monkeypatch.setattr(archives, "_PAGE", 3)
    ids = {(await backend.spawn_task(QUEUE, "task", {"n": n})).task_id for n in range(10)}
    await backend.claim_task(QUEUE, "w", 60, 4)
    path = tmp_path / "sub" / "dump.gz"
    assert await write_dump(backend, [QUEUE], path) == 10
    histories = read_histories_file(path)
    assert {each.task.task_id for each in histories} == ids
    assert histories == await backend.histories(QUEUE, [h.task.task_id for h in histories])


async def test_an_archive_takes_the_place_of_no_other_file(
    backend: Backend, tmp_path: Path
) -> None:
    """A registry whose name was given was replaced."""
    registry = tmp_path / "registry.sqlite3"
    registry.write_bytes(b"SQLite format 3\0")
    with pytest.raises(SettingError, match=r"is no file of histories\. Give another name"):
        await write_dump(backend, [QUEUE], registry)
    assert registry.read_bytes() == b"SQLite format 3\0"
    for _ in range(2):  # the second takes the place of the first
        assert await write_dump(backend, [QUEUE], tmp_path / "histories.gz") == 0
