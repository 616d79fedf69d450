"""Something in an attempt's folder cannot be removed: all else goes on, and it is named."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from small_disk import mounted
from toy_stages import Make

from absurd_contimg.config import ExecutionConfig, PathsConfig, PipelineConfig
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.executor import IsolatedStageExecutor, StageFailed, no_environment
from absurd_contimg.execution.runner import StageRunner, prepare_folders
from absurd_contimg.execution.scratch import Janitor, ScratchOwner
from absurd_contimg.operations.services.disk_guard import DiskGuard
from absurd_contimg.owned_folders import MARK_NAME, MountPointError
from absurd_contimg.registry import Registry

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount where it looks")


@contextmanager
def disk_with_thesis(folder: Path) -> Iterator[None]:
    """A disk mounted at a folder, of which nothing goes."""
    with mounted(folder, 1) as disk:
        (disk / "thesis").mkdir(mode=0o500)
        (disk / "thesis" / "chapter").write_text("text")
        yield
        assert (disk / "thesis" / "chapter").read_text() == "text"
        assert (disk / "thesis").stat().st_mode & 0o777 == 0o500


@contextmanager
def immutable(path: Path) -> Iterator[None]:
    subprocess.run(["chattr", "+i", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", path], check=True)


@contextmanager
def dead_owner(scratch_dir: Path, name: str) -> Iterator[Path]:
    """The folder of an attempt with 1,000 bytes whose worker is then killed."""
    owner = ScratchOwner(scratch_dir, name).acquire()
    folder = owner.new_path("run", "stage", "1")
    (folder / "product").mkdir(parents=True)
    (folder / "data").write_bytes(bytes(1000))
    assert owner._lock is not None
    os.close(owner._lock)
    yield folder


async def test_a_mount_on_the_folder_of_an_attempt_fails_this_attempt_alone(tmp_path: Path) -> None:
    """The whole worker ended as if its settings were wrong, and the other group's work was lost."""
    execution = ExecutionConfig(deadline_seconds=60)
    config = PipelineConfig(paths=PathsConfig.below(tmp_path), execution=execution)
    prepare_folders(config.paths)
    source = tmp_path / "source"
    source.write_bytes(b"data")
    registry = Registry(tmp_path / "registry.sqlite3")
    owner = ScratchOwner(config.paths.scratch_dir, "w").acquire()
    runner = StageRunner(config, IsolatedStageExecutor(no_environment), registry, owner)

    def run(group: str, attempt: str, seconds: float) -> asyncio.Task[object]:
        inputs = {"group_id": group, "source": str(source), "do": "work", "seconds": seconds}
        context = PipelineContext(config, inputs)
        return asyncio.create_task(runner.run(Make(), context, attempt=attempt))

    tasks = [run("A", "1", 1.0), run("B", "1", 1.0)]
    while len(list(owner.folder.rglob("rubbish"))) < 2:
        await asyncio.sleep(0.01)
    (covered,) = owner.folder.glob("A-*")
    with disk_with_thesis(covered):
        failed, healthy = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(failed, StageFailed)
        assert "was moved, removed or replaced" in str(failed)
        assert not isinstance(healthy, BaseException)
        assert str(covered) in owner.remove_left()
        assert "mounted" in owner.remove_left()
        await run("A", "2", 0.0)
    assert owner.remove_left() == ""
    assert [path.name for path in owner.folder.iterdir()] == [MARK_NAME]
    owner.release()
    registry.close()


def test_a_worker_starts_beside_what_cannot_be_removed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It names the mount point, uses no path of what is left, and what it leaves goes later."""
    with dead_owner(tmp_path, "w") as left:
        server = tmp_path / "w" / ".stage-server"
        server.mkdir()
        with disk_with_thesis(left / "product"), mounted(server, 1):
            owner = ScratchOwner(tmp_path, "w").acquire()
            (warning,) = [each.getMessage() for each in caplog.records]
            assert str(left / "product") in warning
            assert os.listdir(left) == ["product"]
            path = owner.new_path("run", "stage", "1")
            assert path != left
            path.mkdir()
            owner.remove_path(path)
            (server / "output.log").touch()
            assert str(left) in owner.remove_left()
            assert (server / "output.log").exists()  # which is in use again
            owner.release()
            assert sorted(os.listdir(tmp_path / "w")) == [MARK_NAME, ".stage-server", left.name]
        (swept,) = Janitor(tmp_path).sweep()
        assert swept.owner == "w"
        assert os.listdir(tmp_path) == [".owners"]


def test_a_worker_whose_own_folder_is_a_mount_point_says_so(tmp_path: Path) -> None:
    """Not even a mark is written there; it is no wrong setting, after which nothing is tried."""
    folder = tmp_path / "w"
    with disk_with_thesis(folder):
        with pytest.raises(MountPointError, match=f"mounted.*'{folder}'"):
            ScratchOwner(tmp_path, "w").acquire()
        assert Janitor(tmp_path).sweep() == []
        assert not (folder / MARK_NAME).exists()
    ScratchOwner(tmp_path, "w").acquire().release()


async def test_a_worker_claims_nothing_while_its_folder_is_covered(tmp_path: Path) -> None:
    """Its stages could publish nothing from there."""
    owner = ScratchOwner(tmp_path / "scratch", "w").acquire()
    guard = DiskGuard("w", [tmp_path], tmp_path, remove_left=owner.remove_left)
    assert guard.check() == (True, "")
    with mounted(owner.folder, 1):
        ready, reason = guard.check()
        assert not ready
        assert str(owner.folder) in reason
        assert os.listdir(owner.folder) == []
    assert guard.check() == (True, "")
    os.rename(owner.folder, tmp_path / "elsewhere")
    owner.folder.mkdir()
    (owner.folder / "thesis").touch()
    assert not guard.check()[0]
    (owner.folder / "thesis").unlink()
    assert guard.check() == (True, "")
    owner.release()


def test_a_link_in_place_of_an_attempt_is_named_and_stays(tmp_path: Path) -> None:
    """It ended the worker, too."""
    with ScratchOwner(tmp_path / "scratch", "w") as owner:
        path = owner.new_path("run", "stage", "1")
        (tmp_path / "outside").mkdir()
        path.symlink_to(tmp_path / "outside")
        owner.remove_path(path)
        assert str(path) in owner.remove_left()
        assert (tmp_path / "outside").exists()
        path.unlink()
        assert owner.remove_left() == ""


def test_a_sweep_goes_on_after_what_it_may_not_remove(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount, an immutable file, a lock that cannot be opened: the others' folders go."""
    real = os.open

    def refuse(path: object, *arguments: int, **options: int) -> int:
        if str(path).endswith("c.lock"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, *arguments, **options)  # type: ignore[arg-type]

    with mounted(tmp_path / "disk") as scratch_dir:
        with (
            dead_owner(scratch_dir, "a") as a,
            dead_owner(scratch_dir, "b") as b,
            dead_owner(scratch_dir, "c") as c,
            dead_owner(scratch_dir, "d") as d,
        ):
            (b / "product" / "file").touch()
            with (
                disk_with_thesis(a / "product"),
                immutable(b / "product" / "file"),
                monkeypatch.context() as patch,
                caplog.at_level(logging.WARNING),
            ):
                patch.setattr("os.open", refuse)
                assert [each.owner for each in Janitor(scratch_dir).sweep()] == ["d"]
                assert not d.exists()
                # What can be removed beside it has gone.
                assert (os.listdir(a), os.listdir(b)) == (["product"], ["product"])
                assert (c / "data").exists()
            for path in (a / "product", b / "product" / "file", scratch_dir / ".owners" / "c.lock"):
                assert str(path) in caplog.text
        assert [each.owner for each in Janitor(scratch_dir).sweep()] == ["a", "b", "c"]
        assert os.listdir(scratch_dir) == [".owners"]
