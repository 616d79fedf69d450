"""The disk guard on a real, small file system: no claims while it is full."""

from __future__ import annotations

import errno
import json
import os
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from small_disk import make_read_only, mounted

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.config import PathsConfig
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.errors import SettingError
from absurd_contimg.execution.disk_marks import Watermarks
from absurd_contimg.execution.runner import check_folders
from absurd_contimg.execution.scratch import ScratchOwner, living_owners
from absurd_contimg.operations.overview.disks import measure
from absurd_contimg.operations.services.disk_guard import DiskGuard, worker_notes
from absurd_contimg.operations.services.worker_service import (
    make_guard,
    make_policy,
    sweep_scratch,
)
from absurd_contimg.owned_folders import Mark
from absurd_contimg.products.filesystem import _LocalFileSystem
from absurd_contimg.settings import load_settings

QUEUE = "dsa110-pipeline"


async def test_worker_claims_only_while_there_is_space(tmp_path: Path, small_disk: Path) -> None:
    """``contimg status`` finds the reason in the note, until its cause is removed."""
    backend = MemoryBackend(MemoryDatabase())
    await backend.create_queue(QUEUE)
    await backend.spawn_task(QUEUE, "task", None)
    guard = DiskGuard("worker-1", [small_disk], tmp_path, Watermarks(0.003, 0.002))
    tasks = TaskRegistry()

    async def handler(params: object, ctx: object) -> str:
        return "done"

    tasks.add("task", handler)
    options = WorkerSettings(QUEUE, "worker-1", poll_interval_seconds=0.001)
    worker = Worker(backend, tasks, options, ready_to_claim=guard.ready_to_claim)

    filler = small_disk / "filler"
    filler.write_bytes(b"x" * 7_000_000)
    await worker.run(until_idle=True)
    assert (await backend.queue_stats(QUEUE)).tasks_by_state["pending"] == 1
    (note,) = worker_notes(tmp_path)
    assert note["claims"] is False
    assert str(small_disk) in str(note["reason"])
    assert "CONTIMG_DISK_CRITICAL_GB" in str(note["reason"])

    filler.unlink()
    await worker.run(until_idle=True)
    assert (await backend.queue_stats(QUEUE)).tasks_by_state["completed"] == 1
    (note,) = worker_notes(tmp_path)
    assert (note["claims"], note["reason"]) == (True, "")
    guard.close()
    assert worker_notes(tmp_path) == []


async def test_scratch_of_dead_workers_is_removed_before_claims_stop(
    tmp_path: Path, small_disk: Path
) -> None:
    """As soon as space is short, without a restart; live workers keep their files."""
    dead = ScratchOwner(small_disk, "worker-2").acquire()
    (dead.folder / "image.tmp").write_bytes(b"x" * 4_000_000)
    assert dead._lock is not None
    os.close(dead._lock)  # as the kernel does when the process dies
    with ScratchOwner(small_disk, "worker-1") as alive:
        (alive.folder / "image.tmp").write_bytes(b"x" * 3_000_000)
        guard = DiskGuard("worker-1", [small_disk], tmp_path, Watermarks(0.003, 0.002))
        assert not await guard.ready_to_claim()
        guard.make_room = partial(sweep_scratch, small_disk)
        assert await guard.ready_to_claim()
        assert not dead.folder.exists()
        assert (alive.folder / "image.tmp").exists()


async def test_warning_comes_before_claims_stop(tmp_path: Path, small_disk: Path) -> None:
    guard = DiskGuard("worker-1", [small_disk], tmp_path, Watermarks(1.0, 0.001))
    assert await guard.ready_to_claim()
    (note,) = worker_notes(tmp_path)
    assert note["claims"] is True
    assert "filling up" in str(note["reason"])
    before = json.dumps(note)
    await guard.ready_to_claim()
    assert json.dumps(worker_notes(tmp_path)[0]) == before, "written only when it changes"


@pytest.mark.parametrize(
    ("total_gb", "critical_gb", "warn_gb"), [(10, 0.2, 0.5), (250, 5, 12.5), (100_000, 20, 100)]
)
def test_default_marks_fit_the_disk(total_gb: int, critical_gb: float, warn_gb: float) -> None:
    """The guide's marks on the telescope's disks, a share of a small disk."""
    marks = Watermarks()
    total = int(total_gb * 1e9)
    assert marks.critical_bytes(total) == pytest.approx(critical_gb * 1e9)
    assert marks.warn_bytes(total) == pytest.approx(warn_gb * 1e9)
    assert Watermarks(critical_gb=3.0).critical_bytes(total) == 3e9


def test_settings_of_the_guide_are_read(tmp_path: Path) -> None:
    folders = {"input_dir": tmp_path, "output_dir": tmp_path}
    environment = {"CONTIMG_DISK_CRITICAL_GB": "7", "CONTIMG_ON_SHORTAGE": "fail"}
    settings = load_settings(folders, environment=environment)
    assert settings.disk_critical_gb == 7.0
    assert make_policy(settings).resource_waits_max == 0
    for word in ("wait", "park"):  # the second is that of earlier versions
        kept = load_settings(folders, environment={"CONTIMG_ON_SHORTAGE": word})
        assert make_policy(kept).resource_waits_max > 0
    with pytest.raises(SettingError, match="wait or fail"):
        load_settings(folders, environment={"CONTIMG_ON_SHORTAGE": "stop"})


def idle_worker(backend: MemoryBackend, guard: DiskGuard) -> Worker:
    tasks = TaskRegistry()

    async def handler(params: object, ctx: object) -> str:
        return "done"

    tasks.add("task", handler)
    options = WorkerSettings(QUEUE, "worker-1", poll_interval_seconds=0.001)
    return Worker(backend, tasks, options, ready_to_claim=guard.ready_to_claim)


async def test_disk_that_is_full_to_the_last_byte_does_not_end_the_worker(
    small_disk: Path,
) -> None:
    """The note has no room on it; it is written once there is."""
    backend = MemoryBackend(MemoryDatabase())
    await backend.create_queue(QUEUE)
    await backend.spawn_task(QUEUE, "task", None)
    guard = DiskGuard("worker-1", [small_disk], small_disk, Watermarks(0.003, 0.002))
    (small_disk / "workers").mkdir()
    with (small_disk / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(512))
    await idle_worker(backend, guard).run(until_idle=True)
    assert (await backend.queue_stats(QUEUE)).tasks_by_state == {"pending": 1}
    assert worker_notes(small_disk) == []
    os.truncate(small_disk / "filler", 6_500_000)
    assert not await guard.ready_to_claim()
    (note,) = worker_notes(small_disk)
    assert "nearly full" in str(note["reason"])
    (small_disk / "filler").unlink()
    await idle_worker(backend, guard).run(until_idle=True)
    assert (await backend.queue_stats(QUEUE)).tasks_by_state == {"completed": 1}


async def test_folder_that_is_removed_stops_claims_until_it_is_back(tmp_path: Path) -> None:
    """The scratch folder, say; the note names it."""
    backend = MemoryBackend(MemoryDatabase())
    await backend.create_queue(QUEUE)
    await backend.spawn_task(QUEUE, "task", None)
    scratch = tmp_path / "scratch"
    guard = DiskGuard("worker-1", [tmp_path, scratch], tmp_path, Watermarks(0.0, 0.0))
    await idle_worker(backend, guard).run(until_idle=True)
    assert (await backend.queue_stats(QUEUE)).tasks_by_state == {"pending": 1}
    (note,) = worker_notes(tmp_path)
    assert f"{scratch} cannot be used" in str(note["reason"])
    scratch.mkdir()
    await idle_worker(backend, guard).run(until_idle=True)
    assert (await backend.queue_stats(QUEUE)).tasks_by_state == {"completed": 1}


async def test_room_that_cannot_be_made_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def make_room() -> None:
        raise PermissionError(1, "Operation not permitted", "/scratch/x")

    guard = DiskGuard("w", [tmp_path], tmp_path, Watermarks(1e9, 0.0), make_room)
    assert await guard.ready_to_claim()
    assert "cannot make room" in caplog.text


NO_NOTES = {
    "empty": b"",
    "cut": b'{"worker": "w", "rea',
    "no JSON": b"\xff\xfe\0",
    "list": b"[]",
    "without a reason": b'{"worker": "w", "claims": true, "since": "x"}',
    "reason of numbers": b'{"worker": "w", "claims": true, "since": "x", "reason": [1]}',
    "5000 levels": b"[" * 5000,
    "5000 digits": b"9" * 5000,
}


@pytest.mark.parametrize("content", NO_NOTES)
def test_damaged_note_is_shown_as_unknown(tmp_path: Path, content: str) -> None:
    """Beside the notes of other workers, and with the name of its file."""
    (tmp_path / "workers").mkdir()
    path = tmp_path / "workers" / "w.json"
    path.write_bytes(NO_NOTES[content])
    (note,) = worker_notes(tmp_path)
    assert (note["worker"], note["claims"]) == ("w", None)
    assert str(path) in str(note["reason"])


async def test_hosts_with_workers_of_one_name_have_notes_of_their_own(tmp_path: Path) -> None:
    """The state folder may be shared, and each unit of a host is worker 1 of it."""
    for host in ("h03-1a2b3c", "h04-4d5e6f"):
        guard = DiskGuard("worker-1", [tmp_path], tmp_path, Watermarks(1e9, 0.0), host=host)
        assert await guard.ready_to_claim()
    assert [note["host"] for note in worker_notes(tmp_path)] == ["h03-1a2b3c", "h04-4d5e6f"]
    guard.close()
    assert [note["host"] for note in worker_notes(tmp_path)] == ["h03-1a2b3c"]


async def test_worker_claims_nothing_without_inodes(tmp_path: Path) -> None:
    """There is space left, but no new file can be made: as a full disk."""
    with mounted(tmp_path / "disk", inodes=200) as folder:
        guard = DiskGuard("worker-1", [folder], tmp_path, Watermarks(0.001, 0.0005))
        assert await guard.ready_to_claim()
        files = [folder / f"file-{number}" for number in range(197)]
        for file in files:
            file.touch()
        assert not await guard.ready_to_claim()
        assert "no inodes left" in guard.problem()
        for file in files[:6]:
            file.unlink()
        assert await guard.ready_to_claim()
        assert guard.problem() == ""
        (note,) = worker_notes(tmp_path)
        assert "runs out of inodes" in str(note["reason"])


async def test_a_disk_that_can_only_be_read_is_waited_for(tmp_path: Path, small_disk: Path) -> None:
    """Each task that was claimed failed there; status, monitor and start told of other things."""
    with ScratchOwner(small_disk, "worker-2"):
        pass
    (small_disk / ".owners").mkdir(exist_ok=True)
    (small_disk / ".owners" / "worker-3.lock").touch()
    make_read_only(small_disk)
    guard = DiskGuard("worker-1", [small_disk], tmp_path, Watermarks(0.003, 0.002))
    assert not await guard.ready_to_claim()
    assert guard.problem().startswith(f"{small_disk} can only be read: workers claim nothing.")
    assert living_owners(small_disk) == []
    written, failures = measure({str(small_disk): "scratch"}, "h1", 0.0)
    assert (written, failures[str(small_disk)][:16]) == ({}, "can only be read")
    assert measure({str(small_disk): "input"}, "h1", 0.0)[1] == {}
    with pytest.raises(OSError, match="Read-only file system"):
        check_folders(PathsConfig.below(small_disk))


async def test_scratch_that_cannot_be_removed_is_noted_until_it_is(tmp_path: Path) -> None:
    """Only the log named it, once for each stage that ended; it is tried again meanwhile."""

    class Stuck(_LocalFileSystem):
        is_busy = True

        def remove_tree(self, path: Path, mark: Mark) -> None:
            if self.is_busy:
                raise OSError(errno.EBUSY, "Device or resource busy")
            super().remove_tree(path, mark)

    files = Stuck()
    settings = load_settings({"output_dir": tmp_path / "out", "worker_id": "w"}, [], {})
    settings.pipeline.paths.output_dir.mkdir()
    settings.pipeline.paths.state_dir.mkdir(exist_ok=True)
    owner = ScratchOwner(settings.pipeline.paths.scratch_dir, "w", files).acquire()
    path = owner.new_path("run", "image", "1")
    path.mkdir()
    guard = make_guard(settings, owner)
    guard.watermarks = Watermarks(1e-9, 1e-9)
    owner.remove_path(path)
    assert await guard.ready_to_claim()
    (note,) = worker_notes(settings.pipeline.paths.state_dir)
    assert str(path) in str(note["reason"])
    assert "resource busy" in str(note["reason"])
    files.is_busy = False
    assert await guard.ready_to_claim()
    (note,) = worker_notes(settings.pipeline.paths.state_dir)
    assert note["reason"] == ""
    assert not path.exists()
