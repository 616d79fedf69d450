"""What somebody has put in the place of the worker's own small files in scratch."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from absurd_contimg.errors import SettingError
from absurd_contimg.execution.scratch import OWNERS
from absurd_contimg.operations.services.worker_identity import unique_worker_id


def pipe(path: Path, _: Path) -> None:
    os.mkfifo(path)


def folder(path: Path, _: Path) -> None:
    path.mkdir()


def endless(path: Path, _: Path) -> None:
    path.symlink_to("/dev/zero")


def link(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


def circle(path: Path, _: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize("make", [pipe, folder, endless, link, circle])
def test_what_is_no_file_is_refused_by_name(
    make: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    """A pipe or a device was waited for without end, a link written through."""
    place, victim = tmp_path / "scratch" / OWNERS / "place", tmp_path / "victim"
    place.parent.mkdir(parents=True)
    victim.write_text("precious")
    make(place, victim)
    with pytest.raises(SettingError, match=str(place)):
        unique_worker_id("w", tmp_path / "scratch")
    assert victim.read_text() == "precious"


@pytest.mark.parametrize(
    "content", ["", "5 \x1b[2J", "{number} \u202e", "{number} ' or 1=1", "x" * 10**6]
)
def test_an_id_from_outside_is_replaced(content: str, tmp_path: Path) -> None:
    """It becomes a part of the worker's name in the database; ours is kept."""
    place = tmp_path / OWNERS / "place"
    place.parent.mkdir(parents=True)
    place.touch()
    place.write_text(content.format(number=place.stat().st_ino))
    name = unique_worker_id("w", tmp_path)
    assert name.isascii()
    assert len(name) == len("w@") + 8
    assert unique_worker_id("w", tmp_path) == name
