"""What is written whole or not at all, on a disk that is full."""

from __future__ import annotations

import errno
from contextlib import suppress
from pathlib import Path

import pytest

from absurd_contimg.history.history_file import write_histories
from absurd_contimg.whole_files import write_whole


def fill(folder: Path) -> None:
    with suppress(OSError), (folder / "filler").open("wb", 0) as file:
        while True:
            file.write(bytes(1 << 12))


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
