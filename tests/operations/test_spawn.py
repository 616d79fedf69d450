"""From files in the input folder to tasks: one for each group, a new one with respawn."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import closing
from pathlib import Path
from uuid import UUID

import h5py
import pytest
from every_product import commit
from sqlalchemy import update

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.core.records import TERMINAL_STATES
from absurd_contimg.errors import MissingInputError
from absurd_contimg.execution.stage import stage_queues
from absurd_contimg.ingest.arrivals import Arrivals
from absurd_contimg.ingest.closing import ArrivalRules, ClosingRules
from absurd_contimg.ingest.incoming_folder import IncomingFolder
from absurd_contimg.ingest.spawn import spawn_groups
from absurd_contimg.operations.cli.run import note_of
from absurd_contimg.operations.cli.task_search import find_task
from absurd_contimg.registry import GroupStatus, Registry
from absurd_contimg.registry.ingestion import IngestionTables
from absurd_contimg.registry.ingestion_records import Closure, FileSighting
from absurd_contimg.registry.models import (
    FileState,
    IngestState,
    ObservationGroup,
    Product,
    SubbandFile,
)
from absurd_contimg.registry.removed_products import RemovedProduct
from absurd_contimg.settings import Settings, load_settings

QUEUE = "dsa110-pipeline"
_LONG_AGO = time.time() - 7200.0
"""Files that have arrived; a young file that is not whole is waited for."""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    (tmp_path / "state").mkdir()
    (incoming / "catalog.csv").write_text("name\n")
    for subband in range(16):
        path = incoming / f"2025-01-15T10:00:0{subband % 3}_sb{subband:02d}.hdf5"
        path.write_text("of another format")  # nobody can be writing an HDF5 file there
        os.utime(path, (_LONG_AGO, _LONG_AGO))
    folders = {name: tmp_path / name.removesuffix("_dir") for name in ("state_dir", "scratch_dir")}
    return load_settings(
        {"input_dir": incoming, "output_dir": tmp_path / "products", **folders}, environment={}
    )


@pytest.fixture
async def backend() -> MemoryBackend:
    backend = MemoryBackend(MemoryDatabase())
    await backend.create_queue(QUEUE)
    return backend


async def test_group_has_one_task_however_often_it_is_spawned(
    settings: Settings, backend: MemoryBackend
) -> None:
    registry = Registry(settings.registry_url)
    (first,) = await spawn_groups(backend, settings, registry)
    (again,) = await spawn_groups(backend, settings, registry)
    assert first.task is not None
    assert again.task is not None
    assert (first.task.created, again.task.created) == (True, False)
    assert first.task.task_id == again.task.task_id
    assert first.group.group_id == "2025-01-15T10:00:00"


@pytest.mark.parametrize(("strategy", "task_name"), [("stages", "stages"), ("hybrid", "hybrid")])
async def test_strategy_decides_the_task_of_a_group(
    settings: Settings, backend: MemoryBackend, strategy: str, task_name: str
) -> None:
    """A group that has a task keeps it, whatever strategy is asked for later."""
    for queue in stage_queues(QUEUE).values():
        await backend.create_queue(queue)
    registry = Registry(settings.registry_url)
    (first,) = await spawn_groups(backend, settings, registry, strategy=strategy)
    (again,) = await spawn_groups(backend, settings, registry)
    assert first.task is not None
    assert again.task is not None
    assert first.task.task_id == again.task.task_id
    (task,) = await backend.list_tasks(QUEUE)
    assert (task.task_name, task.headers) == (task_name, {"workflow_version": 1})


async def test_stage_tasks_need_their_queues(settings: Settings, backend: MemoryBackend) -> None:
    """Or a group would fail at its first stage."""
    with pytest.raises(MissingInputError, match=r"dsa110-pipeline-io.*contimg db init"):
        await spawn_groups(backend, settings, Registry(settings.registry_url), strategy="stages")
    assert await backend.list_tasks(QUEUE) == []


async def test_a_file_that_is_still_being_copied_is_waited_for(
    settings: Settings, backend: MemoryBackend
) -> None:
    """A later spawn sees the whole file."""
    path = next(settings.pipeline.paths.input_dir.glob("*_sb07.hdf5"))
    path.write_bytes(b"\x89HDF\r\n")
    registry = Registry(settings.registry_url)
    (waiting,) = await spawn_groups(backend, settings, registry)
    assert waiting.task is None
    assert waiting.waits_for == f"1 files still arriving: {path.name}"
    with h5py.File(path, "w"):
        pass
    (whole,) = await spawn_groups(backend, settings, registry)
    assert whole.task is not None
    assert whole.task.created


async def test_a_name_with_an_impossible_date_stops_no_other(
    settings: Settings, backend: MemoryBackend, caplog: pytest.LogCaptureFixture
) -> None:
    (settings.pipeline.paths.input_dir / "2025-02-30T10:00:00_sb00.hdf5").touch()
    (spawned,) = await spawn_groups(backend, settings, Registry(settings.registry_url))
    assert spawned.task is not None
    assert "2025-02-30T10:00:00_sb00.hdf5" in caplog.text


async def test_young_group_with_missing_subbands_is_not_spawned(
    settings: Settings, backend: MemoryBackend
) -> None:
    paths = sorted(settings.pipeline.paths.input_dir.glob("*.hdf5"))
    paths[7].unlink()
    for path in paths[:7] + paths[8:]:
        with h5py.File(path, "w"):
            pass
    registry = Registry(settings.registry_url)
    (waiting,) = await spawn_groups(backend, settings, registry)
    assert waiting.task is None
    (at_once,) = await spawn_groups(backend, settings, registry, incomplete_now=True)
    assert at_once.task is not None


async def test_files_of_a_clock_far_ahead_do_not_make_a_group_wait_till_then(
    settings: Settings, backend: MemoryBackend
) -> None:
    paths = sorted(settings.pipeline.paths.input_dir.glob("*.hdf5"))
    paths[7].unlink()
    for path in paths[:7] + paths[8:]:
        os.utime(path, (4_000_000_000, 4_000_000_000))
    (spawned,) = await spawn_groups(backend, settings, Registry(settings.registry_url))
    assert spawned.task is not None


async def with_a_failed_task(settings: Settings, backend: MemoryBackend) -> tuple[Registry, UUID]:
    """The registry of a site whose group was spawned, and its task, which has failed."""
    registry = Registry(settings.registry_url)
    (first,) = await spawn_groups(backend, settings, registry)
    assert first.task is not None
    await backend.claim_task(QUEUE, "worker-1")
    await backend.fail_run_permanently(QUEUE, first.task.run_id, {"kind": "permanent"})
    return registry, first.task.task_id


async def test_a_group_whose_fork_is_live_gets_no_further_task(
    settings: Settings, backend: MemoryBackend
) -> None:
    """Two tasks of one group ran: a fork is none of the tasks that a respawn counts."""
    registry, _ = await with_a_failed_task(settings, backend)
    task = await backend.list_tasks(QUEUE)
    fork = await backend.spawn_task(QUEUE, task[0].task_name, task[0].params)
    (again,) = await spawn_groups(backend, settings, registry, respawn=True)
    assert again.task is not None
    assert (again.task.task_id, again.state) == (fork.task_id, "pending")
    assert len(await backend.list_tasks(QUEUE)) == 2


async def test_failed_group_can_be_respawned_without_its_bad_file(
    settings: Settings, backend: MemoryBackend
) -> None:
    registry, failed_id = await with_a_failed_task(settings, backend)
    bad = next(settings.pipeline.paths.input_dir.glob("*_sb07.hdf5"))
    bad.unlink()
    (second,) = await spawn_groups(backend, settings, registry, incomplete_now=True, respawn=True)
    (third,) = await spawn_groups(backend, settings, registry, incomplete_now=True, respawn=True)
    assert second.task is not None
    assert third.task is not None
    assert second.task.task_id != failed_id
    assert third.task.task_id == second.task.task_id  # it has not failed
    history = await backend.history(QUEUE, second.task.task_id)
    assert history is not None
    assert str(bad) not in history.task.params["input_files"]  # type: ignore[index,call-overload]


GROUP = "2025-01-15T10:00:00"


async def after_retention(
    settings: Settings, backend: MemoryBackend, status: GroupStatus, reason: str | None = None
) -> Registry:
    """The registry of a site whose group has ended so, and whose task retention has removed."""
    registry = Registry(settings.registry_url, output_dir=settings.pipeline.paths.output_dir)
    (first,) = await spawn_groups(backend, settings, registry)
    assert first.task is not None
    (run,) = await backend.claim_task(QUEUE, "worker-1")
    if status in (GroupStatus.DONE, GroupStatus.DEGRADED):
        await backend.complete_run(QUEUE, run.run_id, {})
    elif status in (GroupStatus.FAILED, GroupStatus.QUARANTINED):
        await backend.fail_run_permanently(QUEUE, run.run_id, {"kind": "permanent"})
    else:
        await backend.cancel_task(QUEUE, first.task.task_id)
    registry.set_group_status(GROUP, status, reason)
    await remove_ended_tasks(backend)
    return registry


async def remove_ended_tasks(backend: MemoryBackend) -> None:
    while await backend.cleanup_tasks(QUEUE, 0):
        pass
    assert await backend.list_tasks(QUEUE, states=sorted(TERMINAL_STATES)) == []


def with_an_image(registry: Registry, settings: Settings) -> Path:
    """The folder of the image of the group."""
    output_dir = settings.pipeline.paths.output_dir
    folder, manifest = commit(output_dir, "image", GROUP, {"image": {"fits": "x", "noise_jy": 1.0}})
    registry.register(folder, manifest)
    return folder


@pytest.mark.parametrize("status", [GroupStatus.DONE, GroupStatus.DEGRADED])
@pytest.mark.parametrize("image", ["there", "missing", "removed by retention"])
async def test_a_finished_group_is_not_processed_again_after_retention(
    settings: Settings, backend: MemoryBackend, status: GroupStatus, image: str
) -> None:
    """Its key went with its task, so that a month later all was done again."""
    registry = await after_retention(settings, backend, status)
    folder = with_an_image(registry, settings)
    if image != "there":
        folder.rename(folder.with_name("elsewhere"))
    if image == "removed by retention":
        (row,) = registry.rows(Product, GROUP)
        gone = RemovedProduct(row["key"], "image", GROUP, folder, 1, "2026-06-01", "images_days")
        assert registry.note_removed(gone)
    for respawn in (False, True):
        (item,) = await spawn_groups(backend, settings, registry, respawn=respawn)
        assert item.task is None
        assert item.ended is not None
        assert item.ended.is_finished
        assert "contimg reprocess plan" in note_of(item)
        assert ("missing" in note_of(item)) == (image == "missing")
        assert ("2026-06-01" in note_of(item)) == (image == "removed by retention")
    assert await backend.list_tasks(QUEUE) == []


async def test_a_done_group_of_which_no_image_is_known_gets_a_task(
    settings: Settings, backend: MemoryBackend
) -> None:
    registry = await after_retention(settings, backend, GroupStatus.DONE)
    (item,) = await spawn_groups(backend, settings, registry)
    assert item.task is not None
    assert item.task.created


@pytest.mark.parametrize(
    "status", [GroupStatus.FAILED, GroupStatus.QUARANTINED, GroupStatus.CONVERTED]
)
async def test_a_group_that_ended_badly_is_repeated_after_retention_only_when_asked(
    settings: Settings, backend: MemoryBackend, status: GroupStatus
) -> None:
    """As before its task was removed; of a cancelled one the registry has the stage it reached."""
    registry = await after_retention(settings, backend, status, "sb07 is noise")
    (item,) = await spawn_groups(backend, settings, registry)
    assert item.task is None
    assert item.ended is not None
    assert not item.ended.is_finished
    assert f"contimg spawn --group {GROUP} --respawn makes a new one" in note_of(item)
    assert ("sb07 is noise" in note_of(item)) == (status is not GroupStatus.CONVERTED)
    (again,) = await spawn_groups(backend, settings, registry, respawn=True)
    assert again.task is not None
    assert again.task.created
    (known,) = IngestionTables(registry.database).groups()
    assert known.task_id == str(again.task.task_id)


async def test_a_group_whose_first_task_retention_has_removed_keeps_its_newer_one(
    settings: Settings, backend: MemoryBackend
) -> None:
    """The key of the first was free again, so that a second task ran beside the newer one."""
    registry, _ = await with_a_failed_task(settings, backend)
    (second,) = await spawn_groups(backend, settings, registry, respawn=True)
    assert second.task is not None
    await remove_ended_tasks(backend)
    for state in ("pending", "failed"):
        for respawn in (False, True) if state == "pending" else (False,):
            (item,) = await spawn_groups(backend, settings, registry, respawn=respawn)
            assert item.task is not None
            assert (item.task.task_id, item.state) == (second.task.task_id, state)
        if state == "pending":
            (run,) = await backend.claim_task(QUEUE, "worker-1")
            await backend.fail_run_permanently(QUEUE, run.run_id, {"kind": "permanent"})
    assert len(await backend.list_tasks(QUEUE)) == 1


async def test_a_fork_of_a_group_whose_task_retention_has_removed_is_its_task(
    settings: Settings, backend: MemoryBackend
) -> None:
    registry, _ = await with_a_failed_task(settings, backend)
    registry.set_group_status(GROUP, GroupStatus.FAILED, "sb07 is noise")
    (task,) = await backend.list_tasks(QUEUE)
    fork = await backend.spawn_task(QUEUE, task.task_name, task.params)
    await remove_ended_tasks(backend)
    for respawn in (False, True):
        (item,) = await spawn_groups(backend, settings, registry, respawn=respawn)
        assert item.task is not None
        assert (item.task.task_id, item.state) == (fork.task_id, "pending")
    assert len(await backend.list_tasks(QUEUE)) == 1


async def test_a_group_that_went_with_the_queue_unfinished_gets_a_task(
    settings: Settings, backend: MemoryBackend
) -> None:
    """A task that is older than its queue was not removed by retention. What is done stays so."""
    registry = Registry(settings.registry_url, output_dir=settings.pipeline.paths.output_dir)
    await spawn_groups(backend, settings, registry)
    for status in (GroupStatus.CALIBRATED, GroupStatus.DONE):
        registry.set_group_status(GROUP, status)
        if status is GroupStatus.DONE:
            with_an_image(registry, settings)
        await backend.drop_queue(QUEUE)
        await asyncio.sleep(0.01)  # ids tell milliseconds
        await backend.create_queue(QUEUE)
        (item,) = await spawn_groups(backend, settings, registry)
        assert (item.task is None) == (status is GroupStatus.DONE)


async def test_history_of_a_rejected_group_says_why_there_is_none(
    settings: Settings, backend: MemoryBackend
) -> None:
    """It said that there was no task, and asked whether another group was meant."""
    with closing(Registry(settings.registry_url)) as registry:
        tables = IngestionTables(registry.database)
        path = settings.pipeline.paths.input_dir / "2025-01-15T10:00:00_sb00.hdf5"
        tables.enter_files([FileSighting(path, 17, 1)], 1.0, 30.0)
        reason = "10 of 16 sub-bands, 12 are needed"
        rejected = Closure(
            "2025-01-15T10:00:00", IngestState.REJECTED, reason, (), (), None, None, 1.0
        )
        tables.close_group(rejected)
    says = f"Group 2025-01-15T10:00:00 has no task on queue {QUEUE}: rejected, {reason}.*reopen"
    with pytest.raises(MissingInputError, match=says):
        await find_task(backend, settings, "2025-01-15T10:00:00")


async def test_wrong_input_folder_is_named_before_the_catalogue(
    settings: Settings, backend: MemoryBackend, tmp_path: Path
) -> None:
    elsewhere = load_settings(
        {"input_dir": tmp_path / "nowhere", "output_dir": tmp_path / "products"}, environment={}
    )
    registry = Registry(settings.registry_url)
    with pytest.raises(MissingInputError, match=r"The input folder .*nowhere cannot be read"):
        await spawn_groups(backend, elsewhere, registry)


async def test_history_of_a_group_after_retention_names_the_archive(
    settings: Settings, backend: MemoryBackend
) -> None:
    """It advised to collect the files again, which does all again."""
    registry = await after_retention(settings, backend, GroupStatus.DONE)
    registry.close()
    (row,) = registry.rows(ObservationGroup)
    says = rf"queue {QUEUE}: done.*Its task {row['task_id']} is no longer there.*--from .*/archive/"
    with pytest.raises(MissingInputError, match=says):
        await find_task(backend, settings, GROUP)


@pytest.mark.parametrize("target", [None, "/dev/zero", "/nowhere", "folder"])
async def test_group_of_files_that_cannot_be_read_waits_for_them(
    settings: Settings, backend: MemoryBackend, target: str | None
) -> None:
    """A link to itself, to a device, to nothing; a disk that is away for a moment looks like it."""
    link = settings.pipeline.paths.input_dir / "2025-01-17T00:00:00_sb00.hdf5"
    if target == "folder":
        link.mkdir()
    else:
        link.symlink_to(target or link.name)
    registry = Registry(settings.registry_url)
    for _ in range(2):
        whole, waiting = await spawn_groups(backend, settings, registry)
        assert whole.task is not None
        assert waiting.task is None
        assert "none of its files can be read" in waiting.waits_for


async def test_files_of_a_spawned_group_are_watched_as_the_daemons_own(
    settings: Settings, backend: MemoryBackend, caplog: pytest.LogCaptureFixture
) -> None:
    """Each of them "changed after the group was closed: 0 to N bytes", and came in 1970.

    Files of earlier versions have no size; a sub-band that the telescope does not have is none.
    """
    incoming = settings.pipeline.paths.input_dir
    files = sorted(incoming.glob("*.hdf5"))
    (incoming / "2025-01-15T10:00:00_sb99.hdf5").touch()
    registry = Registry(settings.registry_url)
    (spawned,) = await spawn_groups(backend, settings, registry)
    assert spawned.task is not None
    assert "there are 16 sub-bands" in caplog.text
    now = (await backend.current_time()).timestamp()
    tables = IngestionTables(registry.database)
    assert tables.newest_sighting() == pytest.approx(now, abs=60.0)

    with registry.database.writing() as session:
        session.execute(
            update(SubbandFile)
            .where(SubbandFile.path == str(files[0]))
            .values(size=None, mtime_ns=None)
        )
    files[0].write_text("changed, and nobody can know")
    files[1].write_text("changed")
    late = incoming / "2025-01-15T10:00:02_sb15.uvh5"
    late.touch()
    arrivals = Arrivals(
        IncomingFolder(incoming), tables, ArrivalRules(), ClosingRules(), watch_seconds=3600.0
    )
    arrivals.look(now)
    (group,) = tables.groups()
    states = {file.path: file.state for file in group.files if file.state is not FileState.WHOLE}
    assert states == {late: FileState.LATE, files[1]: FileState.CHANGED}
