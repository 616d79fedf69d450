"""Space is promised once: on a real, small file system."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.disk_reservation import reserve
from absurd_contimg.execution.scratch import ScratchOwner
from absurd_contimg.stages.convert import ConvertStage

MB = 1 << 20


def attempt(owner: ScratchOwner, stage: str) -> Path:
    folder = owner.new_path("G", stage, "1")
    folder.mkdir(parents=True)
    return folder


def test_two_attempts_cannot_count_on_the_same_bytes(small_disk: Path) -> None:
    """8 MB: 5 and 2 fit, 5 and 5 do not; what an attempt has written is not counted twice."""
    with ScratchOwner(small_disk, "one") as owner, ScratchOwner(small_disk, "two") as two:
        first = attempt(owner, "image")
        reserve(small_disk, first, 5 * MB)
        with pytest.raises(OSError, match="promised to other stages") as caught:
            reserve(small_disk, attempt(two, "image"), 5 * MB)
        assert caught.value.errno == errno.ENOSPC
        reserve(small_disk, attempt(two, "flag"), 2 * MB)
        (first / "product").write_bytes(bytes(5 * MB))
        reserve(small_disk, attempt(owner, "flag"), MB // 2)


def test_ended_attempt_promises_nothing(small_disk: Path) -> None:
    with ScratchOwner(small_disk, "one") as first:
        reserve(small_disk, attempt(first, "image"), 6 * MB)
    with ScratchOwner(small_disk, "two") as two:
        reserve(small_disk, attempt(two, "image"), 6 * MB)


def test_what_a_dead_worker_left_is_swept_before_giving_up(small_disk: Path) -> None:
    """By its lock, not by its age."""
    dead = ScratchOwner(small_disk, "dead").acquire()
    folder = attempt(dead, "image")
    (folder / "product").write_bytes(bytes(6 * MB))
    with ScratchOwner(small_disk, "one") as first:
        folder = attempt(first, "image")
        with pytest.raises(OSError, match="No space to begin"):
            reserve(small_disk, folder, 4 * MB)
        _die(dead)
        reserve(small_disk, folder, 4 * MB)
    assert not folder.exists()


def _die(owner: ScratchOwner) -> None:
    """As the kernel ends a process: the lock is free, the files stay."""
    assert owner._lock is not None
    os.close(owner._lock)


def test_a_stage_of_tiny_data_expects_its_tables(tmp_path: Path) -> None:
    """Twice 1000 bytes of raw data were expected, and a Measurement Set was written."""
    (tmp_path / "raw").write_bytes(bytes(1000))

    class Tiny(ConvertStage):
        def input_paths(self, _context: PipelineContext) -> list[Path]:
            return [tmp_path / "raw"]

    assert Tiny().expected_bytes(None) == 16_000_000  # type: ignore[arg-type]
