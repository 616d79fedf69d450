"""Only folders with our mark are removed, whatever names, links and settings say."""

from __future__ import annotations

import gc
import logging
import os
import re
import resource
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small_disk import mounted

import absurd_contimg
from absurd_contimg.errors import SettingError
from absurd_contimg.execution.scratch import Janitor, ScratchOwner
from absurd_contimg.owned_folders import (
    MARK_NAME,
    ForeignFolderError,
    Mark,
    read_mark,
    remove_tree,
    take_folder,
    temporary_folder,
)

SOURCE = Path(absurd_contimg.__file__).parent
IN_MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
MARK = Mark("scratch", "worker-1")
NAMES = ["images", "worker-1", "a b", "$HOME", "[x]", "é", "\udcff", "..x", "new\nline", ".hidden"]
TARGETS = ["..", ".", "../..", "images", "../outside", "/", "worker-1"]


def _paths(tree: Path) -> dict[str, bytes | str | None]:
    """Every path below a folder with the bytes of files and the targets of links."""
    contents: dict[str, bytes | str | None] = {}
    for parent, folders, files in os.walk(tree):
        for name in (*folders, *files):
            path = Path(parent, name)
            content = os.readlink(path) if path.is_symlink() else None
            contents[str(path)] = path.read_bytes() if path.is_file() and not content else content
    return contents


entries = st.lists(
    st.tuples(
        st.lists(st.sampled_from(NAMES), min_size=1, max_size=3),
        st.sampled_from(["file", "folder", "marked", "link", "foreign mark"]),
        st.sampled_from(TARGETS),
    ),
    max_size=8,
)
owner_names = st.one_of(
    st.sampled_from([*NAMES, "..", ".", "", "a/b", "../outside"]),
    st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=8),
)


def _plant(root: Path, plan: list[tuple[list[str], str, str]]) -> None:
    for parts, kind, target in plan:
        path = root.joinpath(*parts)
        if os.path.realpath(path) != str(path):
            continue  # through a link, this would write outside
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == "file":
                path.write_bytes(b"thesis")
            elif kind == "link":
                path.symlink_to(target)
            else:
                path.mkdir(exist_ok=True)
                (path / "thesis.txt").write_bytes(b"thesis")
                if kind == "foreign mark":
                    (path / MARK_NAME).write_text('{"product": "x", "kind": "scratch"}')
                elif kind == "marked":
                    text = '{"product": "absurd-contimg", "kind": "scratch", "owner": "worker-1"}'
                    (path / MARK_NAME).write_text(text)
        except OSError:
            continue  # a file or a link is where this plan wants a folder


def _is_empty_folder(path: Path) -> bool:
    return not path.is_symlink() and path.is_dir() and not any(path.iterdir())


def _marked_folders(tree: Path) -> list[Path]:
    return [Path(parent) for parent, _, _ in os.walk(tree) if read_mark(Path(parent)) == MARK]


@contextmanager
def _scratch_beside_others() -> Iterator[Path]:
    """An empty scratch folder beside a folder with a thesis."""
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        root = Path(folder).resolve() / "scratch"
        root.mkdir()
        (root.parent / "outside" / "inner").mkdir(parents=True)
        (root.parent / "outside" / "inner" / "thesis.txt").write_text("thesis")
        yield root


def _check_only_marked_went(tree: Path, act: Callable[[], object], allowed: list[Path]) -> None:
    before = _paths(tree)
    logging.disable()  # pytest-xdist cannot send a captured log with such names
    try:
        with suppress(ForeignFolderError, SettingError):
            act()
    finally:
        logging.disable(logging.NOTSET)
    after = _paths(tree)
    changed = [Path(path) for path, content in before.items() if after.get(path) != content]
    ours = [path for path in changed if any(path.is_relative_to(each) for each in allowed)]
    assert changed == ours, "something without our mark went or changed"


@settings(max_examples=40, deadline=None)
@example(
    plan=[(["worker-1"], "marked", ""), (["images"], "folder", "")],
    parts=["worker-1", "..", "images"],
)
@example(
    plan=[(["worker-1"], "marked", ""), (["worker-1", "a b"], "link", "../../outside")],
    parts=["worker-1", "a b", "inner"],
)
@given(plan=entries, parts=st.lists(st.sampled_from([*NAMES, ".."]), min_size=1, max_size=4))
def test_removal_takes_only_marked_folders(
    plan: list[tuple[list[str], str, str]], parts: list[str]
) -> None:
    """Random trees with links in and out, and paths with ``..`` through them."""
    with _scratch_beside_others() as root:
        _plant(root, plan)
        allowed = _marked_folders(root)
        _check_only_marked_went(
            root.parent, lambda: remove_tree(root.joinpath(*parts), MARK), allowed
        )


@settings(max_examples=40, deadline=None)
@given(plan=entries, owner=owner_names, locks=st.lists(owner_names, max_size=3))
def test_scratch_takes_only_marked_folders(
    plan: list[tuple[list[str], str, str]], owner: str, locks: list[str]
) -> None:
    """A worker of any name comes and goes and sweeps, with any lock files among the owners'."""
    with _scratch_beside_others() as root:
        (root / ".owners").mkdir()
        _plant(root, plan)
        for lock in locks:
            if "/" not in lock:
                (root / ".owners" / f"{lock}.lock").touch()
        allowed = [*_marked_folders(root), root / ".owners"]
        allowed += [each for each in root.iterdir() if _is_empty_folder(each)]

        def come_and_go() -> None:
            Janitor(root).sweep()
            scratch = ScratchOwner(root, owner).acquire(patience_seconds=0.0)
            Janitor(root).sweep()
            scratch.release()

        _check_only_marked_went(root.parent, come_and_go, allowed)


def test_scratch_of_somebody_else_is_not_taken(tmp_path: Path) -> None:
    """The worker's name is that of a folder with a thesis, or of the folder of the products."""
    for name in ("worker-1", "images"):
        thesis = tmp_path / name / "thesis.txt"
        thesis.parent.mkdir()
        thesis.write_text("thesis")
        with pytest.raises(ForeignFolderError, match="remove it yourself"):
            ScratchOwner(tmp_path, name).acquire()
        assert thesis.read_text() == "thesis"
        assert Janitor(tmp_path).sweep() == []
        assert thesis.read_text() == "thesis"


def test_what_an_earlier_version_left_in_scratch_is_taken(tmp_path: Path) -> None:
    """It set no marks: attempts' folders are known by the request that names them."""
    attempt = tmp_path / "worker-1" / "group-image-1-0"
    (attempt / "product").mkdir(parents=True)
    (attempt / "request.json").write_text(f'{{"scratch": "{attempt}", "stage": "a:B"}}')
    with ScratchOwner(tmp_path, "worker-1") as owner:
        assert not attempt.exists()
        assert read_mark(owner.folder) == MARK


def test_mark_is_of_its_worker(tmp_path: Path) -> None:
    """A folder that another worker left is not taken under a lock of another name."""
    ScratchOwner(tmp_path, "worker-2").acquire()
    (tmp_path / "worker-2").rename(tmp_path / "worker-1")
    with pytest.raises(ForeignFolderError):
        ScratchOwner(tmp_path, "worker-1").acquire()


def test_removal_stops_at_mount_points(tmp_path: Path) -> None:
    """A disk that is mounted in scratch is not emptied."""
    folder = tmp_path / "worker-1"
    take_folder(folder, MARK)
    with mounted(folder / "disk", 1) as disk:
        (disk / "thesis.txt").write_text("thesis")
        (disk / "inner").mkdir()
        for path in (folder, disk, disk / "inner"):
            with pytest.raises(OSError, match=f"mounted.*'{disk}'"):
                remove_tree(path, MARK)
        assert (disk / "thesis.txt").exists()
    remove_tree(folder, MARK)
    assert not folder.exists()


def test_interrupted_removal_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mark goes last: what is left of a folder is still known as ours."""
    folder = tmp_path / "worker-1"
    take_folder(folder, MARK)
    (folder / "a").mkdir()
    (folder / "b").touch()

    def killed(path: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.unlink", killed)
        with warnings.catch_warnings(record=True, action="always") as caught:
            with pytest.raises(KeyboardInterrupt):
                remove_tree(folder, MARK)
            gc.collect()
    assert [str(each.message) for each in caught] == []
    assert read_mark(folder) == MARK
    remove_tree(folder, MARK)
    assert not folder.exists()


def test_a_folder_that_cannot_be_looked_at_is_nobody_elses(tmp_path: Path) -> None:
    """A worker without a free descriptor said so, and its service was not started again."""
    take_folder(tmp_path / "a", MARK)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            take_folder(tmp_path / "a", MARK)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_full_disk_is_told_by_its_folder(small_disk: Path) -> None:
    """A worker that started there ended with: No space left on device. Free space on its disk."""
    with suppress(OSError), (small_disk / "filler").open("wb", 0) as file:
        while True:
            file.write(bytes(1 << 12))
    with pytest.raises(OSError, match=f"No space left on device: '{small_disk}/w1'"):
        take_folder(small_disk / "w1", MARK)


def test_a_temporary_folder_goes_with_those_that_killed_processes_left(tmp_path: Path) -> None:
    """Also with one that has no mark yet; folders in use and of others stay, for an hour."""
    mark = Mark("copy", "a test")
    for name in ("old", "empty", "used", "foreign"):
        (tmp_path / f".copy-{name}").mkdir()
        if name != "empty":
            take_folder(tmp_path / f".copy-{name}", mark)
            (tmp_path / f".copy-{name}" / "file").touch()
    (tmp_path / ".copy-foreign" / MARK_NAME).unlink()
    for path in tmp_path.rglob("*"):
        if path != tmp_path / ".copy-used" / "file":
            os.utime(path, (1e9, 1e9))
    with temporary_folder(tmp_path, mark) as folder:
        (folder / "file").touch()
        assert folder.stat().st_mode & 0o777 == 0o700
    assert sorted(os.listdir(tmp_path)) == [".copy-foreign", ".copy-used"]


def test_a_temporary_folder_on_a_full_disk_leaves_nothing(small_disk: Path) -> None:
    before = os.listdir(small_disk)
    with suppress(OSError), (small_disk / "full").open("wb", 0) as file:
        while True:
            file.write(bytes(4096))
    with pytest.raises(OSError, match="No space"), temporary_folder(small_disk, Mark("x", "y")):
        pass
    assert sorted(os.listdir(small_disk)) == sorted([*before, "full"])


def test_one_module_removes_folders() -> None:
    """Every other module asks it; the rest removes single files by names of its own."""
    removing = re.compile(r"\b(rmtree|rmdir|removedirs|shutil\.move)\b")
    modules = (path for path in SOURCE.rglob("*.py") if removing.search(path.read_text()))
    assert [path.relative_to(SOURCE).as_posix() for path in modules] == ["owned_folders.py"]
