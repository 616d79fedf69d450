"""The catalogue file and angles on the sky."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from absurd_contimg.errors import CorruptInputError, MissingInputError
from absurd_contimg.science.catalogue import (
    SkySource,
    read_catalogue,
    separation_rad,
    tangent_offsets_arcsec,
    unit_vectors,
    write_catalogue,
)

sources = st.builds(
    SkySource,
    st.text("abcXYZ 0_+", min_size=1),
    st.floats(0, 360),
    st.floats(-90, 90),
    st.floats(1e-6, 1e3),
    st.floats(-3, 3),
    st.booleans(),
)


@given(
    st.lists(
        sources,
        unique_by=(
            lambda source: source.name,
            lambda source: (round(source.ra_deg, 5), round(source.dec_deg, 5)),
        ),
    )
)
def test_a_catalogue_is_read_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, catalogue: list[SkySource]
) -> None:
    """To the last bit: fluxes are compared with it."""
    path = tmp_path_factory.getbasetemp() / "catalogue.csv"
    write_catalogue(path, catalogue)
    assert read_catalogue(path) == catalogue


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("A,1,2,x,0,0", "cannot be read: flux_jy is 'x'"),
        ("A,1,2,3,0,yes", "cannot be read: calibrator is 'yes'.* is 0 or 1"),
        ("A,1,2,3,0,2", "calibrator is '2'"),
        ("A,1,95,3,0,0", "source 'A', is out of range: declination 95 deg"),
        ("A,1,2,nan,0,0", "out of range"),
        ("A,1,2,1e308,0,0", "out of range"),
        ("A,1,2,3,1e308,0", "out of range"),
        ("A,1,2", "cannot be read: flux_jy is missing"),
    ],
)
def test_a_bad_line_of_a_catalogue_is_named(tmp_path: Path, line: str, message: str) -> None:
    """With its number, the file and what to do."""
    path = tmp_path / "c.csv"
    path.write_text(f"name,ra_deg,dec_deg,flux_jy,spectral_index,calibrator\n{line}\n")
    with pytest.raises(CorruptInputError, match=message) as caught:
        read_catalogue(path)
    assert "line 2" in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("A,350.0,16.0,10.0,-0.7,1", "lines 2 and 3 .* the same name, 'A'"),
        ("A,350.1,16.0,3.0,0,0", "lines 2 and 3 .* the same name, 'A'"),
        ("B,350.000001,16.0,3.0,0,0", "lines 2 and 3 .* the same position, 'B'"),
    ],
)
def test_a_source_that_is_there_twice_is_named(tmp_path: Path, second: str, message: str) -> None:
    """A calibrator that stood twice in its model doubled the scale of all fluxes in silence."""
    path = tmp_path / "c.csv"
    header = "name,ra_deg,dec_deg,flux_jy,spectral_index,calibrator"
    path.write_text(f"{header}\nA,350.0,16.0,10.0,-0.7,1\n{second}\n")
    with pytest.raises(CorruptInputError, match=message):
        read_catalogue(path)


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    write_catalogue(path, [SkySource("A", 350.0, 16.0, 10.0)])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_catalogue(path) == [SkySource("A", 350.0, 16.0, 10.0)]


def test_a_missing_catalogue_and_missing_columns_are_named(tmp_path: Path) -> None:
    """Two different remedies."""
    with pytest.raises(MissingInputError, match="does not exist"):
        read_catalogue(tmp_path / "none.csv")
    path = tmp_path / "c.csv"
    path.write_text("name,ra_deg\nA,1\n")
    with pytest.raises(CorruptInputError, match="lacks the columns calibrator, dec_deg"):
        read_catalogue(path)


@given(st.floats(-100, 100), st.floats(-100, 100), st.sampled_from([0.0, 0.001, 180.0, 359.999]))
def test_position_errors_are_continuous_at_zero_hours(east: float, north: float, ra: float) -> None:
    """Offsets of arcseconds are recovered, across RA 0 h too."""
    source = SkySource("s", ra, 40.0, 1.0)
    there = ((ra + east / 3600 / np.cos(np.radians(40.0))) % 360.0, 40.0 + north / 3600)
    assert tangent_offsets_arcsec(source, *there) == pytest.approx((east, north), abs=1e-5)


def test_small_angles_keep_their_digits() -> None:
    """A milliarcsecond apart is not zero."""
    angle = np.radians(0.001 / 3600)
    pair = unit_vectors(np.array([1.0, 1.0]), np.array([0.5, 0.5 + angle]))
    assert separation_rad(pair[0], pair[1]) == pytest.approx(angle, rel=1e-3)
