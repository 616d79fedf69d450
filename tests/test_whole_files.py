"""What is written whole or not at all: on a full disk, and in the place of something else."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from absurd_contimg.errors import SettingError
from absurd_contimg.history.history_file import write_histories
from absurd_contimg.products.filesystem import LOCAL
from absurd_contimg.whole_files import copy_folder, replaced_file, require_replaceable, write_whole


def fill(folder: Path) -> None:
    with suppress(OSError), (folder / "filler").open("wb", 0) as file:
        while True:
            file.write(bytes(1 << 12))


def test_a_copy_on_a_full_disk_keeps_the_number_of_its_error(small_disk: Path) -> None:
    """A list of all files that could not be copied is no full disk to those who read errno."""
    source = small_disk.parent / "table"
    (source / "ANTENNA").mkdir(parents=True)
    for name in ("table.dat", "ANTENNA/table.f0"):
        (source / name).write_bytes(bytes(10_000))
        (source / name).chmod(0o400)
    copy_folder(source, small_disk / "whole")
    assert (small_disk / "whole/ANTENNA/table.f0").read_bytes() == bytes(10_000)
    assert (small_disk / "whole/table.dat").stat().st_mode & 0o200
    fill(small_disk)
    with pytest.raises(OSError, match="No space") as caught:
        copy_folder(source, small_disk / "copy")
    assert caught.value.errno == errno.ENOSPC


def test_a_full_disk_is_told_with_the_file_and_leaves_nothing(small_disk: Path) -> None:
    """The kernel does not say which file: a report and an archive failed without a path."""
    fill(small_disk)
    report, archive = small_disk / "report.html", small_disk / "all.gz"
    with pytest.raises(OSError, match="No space") as caught:
        write_whole(report, bytes(100_000))
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(report))
    with pytest.raises(OSError, match="No space") as caught:
        write_histories(archive, [])
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(archive))
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


def test_another_failure_keeps_its_own_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        write_whole(tmp_path / "absent" / "report.html", b"")
    assert "absent" in str(caught.value.filename)


def replace(path: Path) -> None:
    with replaced_file(path, "test", lambda head: head.startswith(b"ours")) as file:
        file.write(b"ours, new")


def sync_answering(number: int, is_meant: Callable[[int], bool]) -> Callable[[int], None]:
    """The `os.fsync` of a file system that answers so where `is_meant` says it of a mode."""

    def fsync(descriptor: int) -> None:
        if is_meant(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))

    return fsync


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EBADF, errno.ENOTSUP])
def test_a_file_system_that_syncs_no_folders_is_used(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old SMB, or a shared folder of VirtualBox: every group of `contimg run` failed there."""
    monkeypatch.setattr(os, "fsync", sync_answering(number, stat.S_ISDIR))
    replace(tmp_path / "x")
    (tmp_path / "product").mkdir()
    LOCAL.write_json(tmp_path / "product/manifest.json", {})
    LOCAL.flush_tree(tmp_path)
    assert (tmp_path / "x").read_bytes() == b"ours, new"


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_folder_that_the_disk_does_not_take_is_named(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", sync_answering(number, stat.S_ISDIR))
    with pytest.raises(OSError, match=re.escape(str(tmp_path))) as caught:
        LOCAL.flush(tmp_path)
    assert caught.value.errno == number


@pytest.mark.parametrize("write", [
    LOCAL.flush,
    replace,
    lambda path: LOCAL.write_json(path, {}),
    lambda path: LOCAL.copy_file(Path(__file__), path.with_name("copy")),
])  # fmt: skip
def test_a_file_that_cannot_be_synced_is_named(
    write: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not on the disk must not count as written; the kernel does not say which file."""
    (tmp_path / "x").touch()
    monkeypatch.setattr(os, "fsync", sync_answering(errno.EINVAL, stat.S_ISREG))
    with pytest.raises(OSError, match="Invalid argument") as caught:
        write(tmp_path / "x")
    assert caught.value.errno == errno.EINVAL
    assert str(caught.value.filename).startswith(str(tmp_path))


def pipe(path: Path) -> None:
    os.mkfifo(path)


def link_to_what_is_ours(path: Path) -> None:
    path.with_name("target").write_bytes(b"ours")
    path.symlink_to(path.with_name("target"))


def broken_link(path: Path) -> None:
    path.symlink_to("nowhere")


def something_else(path: Path) -> None:
    path.write_bytes(b"a thesis")


@pytest.mark.parametrize(
    "make", [pipe, link_to_what_is_ours, broken_link, Path.mkdir, something_else]
)
def test_only_an_earlier_file_of_ours_is_replaced(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    """`contimg archive /dev/stdout` put a file in the place of the machine's /dev/stdout."""
    path = tmp_path / "x"
    make(path)
    before, names = path.lstat(), os.listdir(tmp_path)
    with pytest.raises(SettingError, match="x is there and is no test"):
        replace(path)
    assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)
    assert os.listdir(tmp_path) == names


def test_a_device_is_not_replaced() -> None:
    """The machine's own is only looked at."""
    with pytest.raises(SettingError, match="/dev/null is there and is no test"):
        require_replaceable(Path("/dev/null"), "test", lambda head: True)


@pytest.mark.parametrize("before", [None, b"", b"ours"])
def test_a_file_is_replaced_whole_or_not_at_all(before: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / ("x" * 255)
    if before is not None:
        path.write_bytes(before)

    def fail() -> None:
        with replaced_file(path, "test", lambda head: head.startswith(b"ours")) as file:
            file.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (path.read_bytes() if path.exists() else None) == before
    replace(path)
    assert path.read_bytes() == b"ours, new"
    assert os.listdir(tmp_path) == [path.name]


def test_what_killed_processes_have_left_of_a_file_is_removed(tmp_path: Path) -> None:
    """After an hour, and nothing with another name; `[` means nothing in it."""
    left, fresh, other = (
        f".{name}.{digit * 32}.partial"
        for name, digit in (("a[b", "1"), ("a[b", "2"), ("other", "3"))
    )
    for name in (left, fresh, other):
        (tmp_path / name).touch()
        if name != fresh:
            os.utime(tmp_path / name, (1e9, 1e9))
    replace(tmp_path / "a[b")
    assert sorted(os.listdir(tmp_path)) == sorted(["a[b", fresh, other])


def test_a_missing_folder_is_told_with_the_file(tmp_path: Path) -> None:
    """`contimg metrics --write` ended in a traceback about a file of ours."""
    with pytest.raises(FileNotFoundError) as raised:
        replace(tmp_path / "none" / "x")
    assert raised.value.filename == str(tmp_path / "none" / "x")


@pytest.mark.parametrize("path", [".", "", "..", "/"])
def test_a_path_without_a_name_is_refused(path: str) -> None:
    with pytest.raises(SettingError, match=r"no name of a file"):
        replace(Path(path))
