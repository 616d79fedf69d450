"""Bad sub-bands: each has one error that names the file and the remedy."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import h5py
import pytest

from absurd_contimg.config import ConversionConfig, SiteConfig
from absurd_contimg.errors import (
    CorruptInputError,
    IncompleteGroupError,
    InputError,
    MissingInputError,
)
from absurd_contimg.science.raw_group import read_raw_group
from absurd_contimg.synthesis import SynthesisResult


@pytest.fixture
def files(tiny: SynthesisResult, tmp_path: Path) -> list[Path]:
    """A copy of one group's sixteen files, in the order of sub-bands."""
    return [Path(shutil.copy(f, tmp_path)) for f in tiny.groups[0].files]


def refused(files: list[Path], kind: type[InputError], *texts: object) -> None:
    """The group is refused, and the error holds all the texts and a remedy."""
    with pytest.raises(kind) as caught:
        read_raw_group(files, ConversionConfig(), SiteConfig())
    for text in texts:
        assert str(text) in str(caught.value)
    assert caught.value.remedy


def test_a_healthy_group_is_accepted_in_any_order(files: list[Path]) -> None:
    """Sub-bands are taken by their number, not by their place or time stamp."""
    group = read_raw_group(files[::-1], ConversionConfig(), SiteConfig())
    assert sorted(group.subbands) == list(range(16))
    assert group.missing == ()
    assert group.declination_deg == pytest.approx(16.0)
    assert group.n_channels == 2


def test_missing_file(files: list[Path]) -> None:
    files[4].unlink()
    refused(files, MissingInputError, files[4], "does not exist", "Restore it")


def test_truncated_file(files: list[Path]) -> None:
    content = files[4].read_bytes()
    files[4].write_bytes(content[: len(content) // 2])
    os.utime(files[4], (0, 0))
    refused(files, CorruptInputError, files[4], "truncated", "Transfer the file again")


def test_file_that_is_not_hdf5(files: list[Path]) -> None:
    files[4].write_text("not found\n" * 100)
    os.utime(files[4], (0, 0))
    refused(files, CorruptInputError, files[4], "not an HDF5 file")


def test_hdf5_without_the_header(files: list[Path]) -> None:
    with h5py.File(files[4], "r+") as file:
        del file["Header/freq_array"]
    refused(files, CorruptInputError, files[4], "Header/freq_array is missing")


def test_name_without_a_subband(files: list[Path]) -> None:
    files[4] = files[4].rename(files[4].with_name("something.hdf5"))
    refused(files, InputError, "something.hdf5", "_sbNN.hdf5")


def test_duplicated_subband(files: list[Path]) -> None:
    """All pairs are named at once, and how the group goes on without them."""
    again = [
        Path(shutil.copy(files[n], files[n].with_name(f"{files[n].name[:17]}07_sb0{n}.hdf5")))
        for n in (4, 6)
    ]
    pairs = [f"({files[n].name} and {copy.name})" for n, copy in zip((4, 6), again, strict=True)]
    refused(
        [*files, *again],
        CorruptInputError,
        *pairs,
        "2 sub-bands",
        "contimg spawn --group GROUP --respawn",
    )


def test_subband_with_frequencies_of_another(files: list[Path]) -> None:
    """A copy under another number: pyuvdata would join repeated channels in silence."""
    shutil.copy(files[5], files[4])
    refused(files, CorruptInputError, files[4], "where sub-band 04 of this group has")


def test_subband_of_another_observation(files: list[Path], tiny: SynthesisResult) -> None:
    files[4] = tiny.groups[1].files[4]
    refused(files, CorruptInputError, files[4], "Header/time_array", "Move it")


def test_subband_a_second_late_is_still_another_observation(
    files: list[Path],
) -> None:
    with h5py.File(files[4], "r+") as file:
        file["Header/time_array"][...] += 1.0 / 86400.0
    refused(files, CorruptInputError, files[4], "Header/time_array")


def test_eleven_of_sixteen(files: list[Path]) -> None:
    refused(files[:11], IncompleteGroupError, "only 11 of 16", "11, 12, 13, 14, 15", "12")


def test_twelve_of_sixteen_are_accepted(files: list[Path]) -> None:
    """The rest becomes flagged placeholders (see the conversion's tests)."""
    assert read_raw_group(files[4:], ConversionConfig(), SiteConfig()).missing == (0, 1, 2, 3)
