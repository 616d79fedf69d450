"""Files that others have put there are read in bounded time and memory, or refused by name."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from absurd_contimg.regular_files import parse_toml, parse_typed_json, read_json


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


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a": {"b": [1, ' + "7" * 5000 + "]}}", "a.b.1 is a number of 5000 digits"),
        ("7" * 5000, "it is a number of 5000 digits"),
        ("[" * 100_000, "it has too many levels"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' is there twice"),
        ("{'a': 1}", "Expecting property name"),
    ],
)
def test_json_that_a_person_types_is_refused_by_key(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        parse_typed_json(text)


def test_json_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1, "a": 2}')  # of a program: the last one counts
    assert read_json(path) == {"a": 2}
    path.write_bytes('{"a": 1}'.encode("utf-16"))
    with pytest.raises(ValueError, match=rf"{path}: it is no text in UTF-8"):
        read_json(path)


@pytest.mark.parametrize(
    "text", ["[" + "a." * 5000 + "b]", "a." * 60 + "b = 1", f"a={60 * '['}{60 * ']'}"]
)
def test_toml_of_too_many_levels_is_refused(text: str) -> None:
    """What reads its tables recurses: a settings file ended with a traceback."""
    with pytest.raises(ValueError, match="too many levels"):
        parse_toml(text.encode())
