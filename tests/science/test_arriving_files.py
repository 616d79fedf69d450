"""Files that move: being copied, open for writing, left behind by a writer that died."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import pytest
from search_extent import examples

from absurd_contimg.core.evidence import Evidence
from absurd_contimg.core.failures import FailureKind
from absurd_contimg.errors import CorruptInputError, UnfinishedInputError
from absurd_contimg.science.hdf5_files import is_finished
from absurd_contimg.science.raw_file import read_raw_header
from absurd_contimg.workflows.failure_rules import CLASSIFIER

sys.path += [str(Path(__file__).parents[1] / "shared"), str(Path(__file__).parent)]
from damaged_bytes import search
from raw_files import write_file

_WRITER = """
import sys, h5py
file = h5py.File(sys.argv[1], "a", libver="latest")
file.flush()
print("open", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process that has a file open for writing, as correlators and SWMR writers do."""
    path = write_file(tmp_path)
    newer = path.with_suffix(".newer")
    with h5py.File(path) as old, h5py.File(newer, "w", libver="latest") as file:
        for name in old:
            old.copy(name, file)
    newer.replace(path)
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "HDF5_USE_FILE_LOCKING": "FALSE"},
    )
    assert process.stdout is not None
    process.stdout.readline()
    yield process, path
    process.kill()
    process.wait()


def kind_of(error: Exception) -> FailureKind:
    return CLASSIFIER.classify(Evidence.of(error)).kind


def test_a_file_that_is_still_being_copied_is_waited_for(tmp_path: Path) -> None:
    path = write_file(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[:9000])
    with pytest.raises(UnfinishedInputError, match="not whole yet") as caught:
        read_raw_header(path)
    assert kind_of(caught.value) is FailureKind.RESOURCE
    assert not is_finished(path)
    path.write_bytes(content)
    assert is_finished(path)
    assert read_raw_header(path).index == 0


def test_a_file_that_is_something_else_is_refused_at_once(tmp_path: Path) -> None:
    """However young it is: a copy of an HDF5 file begins as one."""
    path = write_file(tmp_path)
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(CorruptInputError, match="not an HDF5 file"):
        read_raw_header(path)
    path.write_bytes(b"")
    with pytest.raises(UnfinishedInputError):
        read_raw_header(path)


def test_random_bytes_are_read_over_or_refused_by_name(tmp_path: Path) -> None:
    outcomes = search(tmp_path, examples(60), seed=4)
    assert outcomes.keys() == {"read", "refused"}


@pytest.mark.parametrize("modified", [0, 4_000_000_000])
def test_a_copy_that_stopped_long_ago_is_damaged(tmp_path: Path, modified: int) -> None:
    """Or that carries the time of a clock that is far ahead: it would be waited for till then."""
    path = write_file(tmp_path)
    path.write_bytes(path.read_bytes()[:9000])
    os.utime(path, (modified, modified))
    with pytest.raises(CorruptInputError, match="truncated") as caught:
        read_raw_header(path)
    assert kind_of(caught.value) is FailureKind.PERMANENT
    assert is_finished(path)


def test_a_file_with_a_living_writer_is_waited_for(
    writer: tuple[subprocess.Popen[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However old it is: a writer may be silent for longer than a copy."""
    _process, path = writer
    os.utime(path, (0, 0))
    monkeypatch.setenv("HDF5_USE_FILE_LOCKING", "FALSE")
    script = "from absurd_contimg.science.raw_file import *; read_raw_header(Path(sys.argv[1]))"
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; {script}", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "UnfinishedInputError" in result.stderr
    assert "open for writing" in result.stderr


def test_a_file_whose_writer_died_names_the_mark_and_its_remedy(
    writer: tuple[subprocess.Popen[str], Path],
) -> None:
    process, path = writer
    process.kill()
    process.wait()
    os.utime(path, (0, 0))
    with pytest.raises(
        CorruptInputError, match="mark of a file that is open for writing"
    ) as caught:
        read_raw_header(path)
    assert "h5clear -s" in caught.value.remedy
    assert kind_of(caught.value) is FailureKind.PERMANENT
