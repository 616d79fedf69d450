"""Scratch: what belongs to living processes stays, what dead ones left goes."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from absurd_contimg.errors import SettingError
from absurd_contimg.execution.scratch import (
    Janitor,
    RemovedFolder,
    ScratchInUseError,
    ScratchOwner,
    safe_name,
)
from absurd_contimg.owned_folders import MARK_NAME, Mark, take_folder
from absurd_contimg.products.filesystem import LOCAL, FileSystem

MARK = Mark("test", "here")

_OWNER = """
import sys
from pathlib import Path
from absurd_contimg.execution.scratch import ScratchOwner
owner = ScratchOwner(Path(sys.argv[1]), sys.argv[2]).acquire()
folder = owner.new_path("run", "stage", "1")
folder.mkdir(parents=True)
(folder / "data").write_bytes(b"x" * 1000)
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that owns scratch under the name "other" and has put something there."""
    process = subprocess.Popen(
        [sys.executable, "-c", _OWNER, str(tmp_path), "other"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


def test_janitor_removes_what_a_killed_process_left(
    tmp_path: Path, other: subprocess.Popen[str]
) -> None:
    """By owner and never by age: while the process is alive nothing is removed."""
    assert Janitor(tmp_path).sweep() == []
    os.kill(other.pid, signal.SIGSTOP)
    assert Janitor(tmp_path).sweep() == []  # a stopped process may go on
    kill(other)
    (swept,) = Janitor(tmp_path).sweep()
    assert (swept.owner, swept.size_bytes) == ("other", 1000)
    assert not (tmp_path / "other").exists()
    assert not list((tmp_path / ".owners").iterdir())
    assert Janitor(tmp_path).sweep() == []


def test_a_name_belongs_to_one_living_process(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    """The second gets an error; when the first is dead, its name and an empty folder are free."""
    with pytest.raises(ScratchInUseError, match="other"):
        ScratchOwner(tmp_path, "other").acquire(patience_seconds=0.0)
    kill(other)
    with ScratchOwner(tmp_path, "other") as owner:
        assert [path.name for path in owner.folder.iterdir()] == [MARK_NAME]


def test_release_leaves_nothing(tmp_path: Path) -> None:
    """A worker that ends in order needs no janitor."""
    with ScratchOwner(tmp_path, "me") as owner:
        owner.new_path("run", "stage", "1").mkdir(parents=True)
    assert list((tmp_path / ".owners").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [".owners"]


def test_paths_are_given_out_once(tmp_path: Path) -> None:
    """Two attempts never share a folder, even of the same name."""
    with ScratchOwner(tmp_path, "me") as owner:
        assert owner.new_path("r", "s", "1") != owner.new_path("r", "s", "1")


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    """A user who sets scratch to the home folder loses nothing."""
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("one")
    Janitor(tmp_path).sweep()
    assert (tmp_path / "thesis" / "chapter").exists()


def test_many_janitors_sweep_each_folder_once(tmp_path: Path) -> None:
    """Workers start together and all sweep first."""
    for number in range(30):
        (tmp_path / f"dead{number}" / "run").mkdir(parents=True)
        lock = tmp_path / ".owners" / f"dead{number}.lock"
        lock.parent.mkdir(exist_ok=True)
        lock.touch()
    swept: list[str] = []
    threads = [
        threading.Thread(
            target=lambda: swept.extend(item.owner for item in Janitor(tmp_path).sweep())
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(swept) == sorted(f"dead{number}" for number in range(30))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".owners"]


def test_sweeping_never_takes_a_folder_from_a_new_owner(tmp_path: Path) -> None:
    """Owners come and go while a janitor sweeps: none is refused, none loses its folder."""
    done = threading.Event()

    def sweep() -> None:
        while not done.is_set():
            Janitor(tmp_path).sweep()

    with ThreadPoolExecutor(1) as pool:
        janitor = pool.submit(sweep)
        try:
            for _ in range(100):
                owner = ScratchOwner(tmp_path, "me").acquire()
                assert owner.folder.is_dir()
                owner.new_path("run", "stage", "1").mkdir(parents=True)
                owner.release()
        finally:
            done.set()
        janitor.result()


def test_lock_on_a_file_that_was_just_swept_is_worth_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening and locking, a janitor may remove the file and others make a new one."""
    path = tmp_path / ".owners" / "me.lock"
    real, calls = fcntl.flock, []

    def swept_meanwhile(descriptor: int, operation: int) -> None:
        real(descriptor, operation)
        calls.append(descriptor)
        if len(calls) == 1:
            path.unlink()
            path.touch()

    monkeypatch.setattr("fcntl.flock", swept_meanwhile)
    with ScratchOwner(tmp_path, "me"):
        with pytest.raises(ScratchInUseError):
            ScratchOwner(tmp_path, "me").acquire(patience_seconds=0.0)
        assert Janitor(tmp_path).sweep() == []


def test_read_only_folders_are_removed(tmp_path: Path) -> None:
    """Copies keep the modes of what they were copied from."""
    folder = tmp_path / "copy"
    take_folder(folder, MARK)
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "file").touch()
    (folder / "inner").chmod(0o500)
    LOCAL.remove_tree(folder, MARK)
    assert not folder.exists()


def test_removal_outlasts_a_dying_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is just being killed may finish one more file."""
    folder = tmp_path / "busy"
    take_folder(folder, MARK)
    real, calls = os.rmdir, []

    def first_fails(path: Path) -> None:
        calls.append(path)
        if len(calls) == 1:
            (folder / "last").touch()
        real(path)

    monkeypatch.setattr("os.rmdir", first_fails)
    LOCAL.remove_tree(folder, MARK)
    assert len(calls) == 2
    assert not folder.exists()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", ".hidden", "x" * 201, "a\0b"])
def test_names_that_leave_scratch_are_refused(name: str) -> None:
    """A group id comes from outside."""
    with pytest.raises(SettingError):
        safe_name(name)


def test_an_attempt_that_has_gone_leaves_nothing_of_its_run(tmp_path: Path) -> None:
    """Found by simulating a month: a folder for each run stayed, and every stage read them all."""
    with ScratchOwner(tmp_path, "worker") as owner:
        for run in ("one", "two"):
            folder = owner.new_path(run, "stage", "1")
            folder.mkdir(parents=True)
            owner.remove_path(folder)
        assert [path.name for path in owner.folder.iterdir()] == [MARK_NAME]


def test_what_cannot_be_removed_is_removed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that can only be read for a while: no stage fails for it, and nothing stays."""

    def refuse(_files: FileSystem, folder: Path, _mark: Mark) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(folder))

    with ScratchOwner(tmp_path, "worker") as owner:
        first, second = (owner.new_path("run", "stage", "1") for _ in range(2))
        first.mkdir()
        second.mkdir()
        with monkeypatch.context() as patch:
            patch.setattr(type(LOCAL), "remove_tree", refuse)
            owner.remove_path(first)
        assert first.exists()
        owner.remove_path(second)
        assert [path.name for path in owner.folder.iterdir()] == [MARK_NAME]


def test_a_removed_folder_is_told_in_words(tmp_path: Path) -> None:
    """The log had the record as Python writes it."""
    folder = tmp_path / "worker-1"
    assert str(RemovedFolder("worker-1", folder, 7_300_000)) == f"{folder} of worker-1, 7.3 MB"
