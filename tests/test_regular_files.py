"""Files that others have put there are read in bounded time and memory, or refused by name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from absurd_contimg.regular_files import read_json


def deep(path: Path) -> None:
    path.write_text("[" * 100_000)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def bytes_that_are_no_text(path: Path) -> None:
    path.write_bytes(b"\xff\x00")


@pytest.mark.parametrize("make", [deep, pipe, endless, bytes_that_are_no_text])
def test_json_that_cannot_be_read_is_an_error_that_callers_expect(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    """`OSError` or `ValueError`; a `RecursionError` ended what looked at all groups of a night."""
    make(tmp_path / "x")
    with pytest.raises((OSError, ValueError)):
        read_json(tmp_path / "x")
