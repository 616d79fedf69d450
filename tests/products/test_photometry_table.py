"""The table of a photometry product: to the bit, with units, refused by line when damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
from astropy import units
from astropy.table import Table
from hypothesis import given, settings
from hypothesis import strategies as st

from absurd_contimg.errors import CorruptInputError, MissingInputError
from absurd_contimg.products.photometry_table import SourceFlux, read_photometry, write_photometry

_finite = st.floats(allow_nan=False, allow_infinity=False)
_row = st.builds(
    SourceFlux,
    source=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0")),
    ra_deg=_finite,
    dec_deg=_finite,
    mjd=_finite,
    flux_jy=st.none() | _finite,
    error_jy=st.none() | _finite,
    catalogue_jy=st.none() | _finite,
    noise_jy=st.none() | _finite,
    response=_finite,
    n_neighbours=st.integers(0, 99),
    flags=st.lists(st.sampled_from(["edge", "blended", "inseparable"]), unique=True).map(tuple),
)


@settings(max_examples=40)
@given(st.lists(_row, max_size=4))
def test_reading_gives_what_was_written(rows: list[SourceFlux]) -> None:
    """Whatever the names of the sources are."""
    path = Path("table.ecsv")
    write_photometry(path, rows)
    assert read_photometry(path) == rows


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_astropy_reads_the_table_with_its_units() -> None:
    """It is ECSV; a flux that was not measured is masked."""
    row = SourceFlux('# J1, "x"', 359.9, -1.0, 60000.5, 0.5, 0.01, 0.4, 0.01, 0.9, 0)
    path = Path("table.ecsv")
    write_photometry(path, [row, SourceFlux("B", 1, 2, 3, None, None, 1, None, 0.5, 1, ("edge",))])
    table = Table.read(path)
    assert table["flux_jy"].unit == units.Jy
    assert table["ra_deg"].unit == units.deg
    assert list(table["source"]) == ['# J1, "x"', "B"]
    assert table["flux_jy"][0] == 0.5
    assert table["flux_jy"].mask[1]
    assert list(table["flags"].filled("")) == ["", "edge"]


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ("60000.5", "sixty", "line 18: .*sixty"),
        ("60000.5", "nan", "no finite number"),
        ("60000.5,", "", "line 18"),
        ("mjd,", "", "columns"),
        ("60000.5", "", "missing"),
    ],
)
def test_a_damaged_table_is_refused_by_name(before: str, after: str, problem: str) -> None:
    """With the line and what to do."""
    path = Path("table.ecsv")
    write_photometry(path, [SourceFlux("A", 1.0, 2.0, 60000.5, 1.0, 0.1, 1.0, 0.1, 0.9, 0)])
    head, mark, body = path.read_text().partition("schema")
    path.write_text(head + mark + body.replace(before, after))
    with pytest.raises(CorruptInputError, match=f"table.ecsv.*{problem}"):
        read_photometry(path)


def test_a_missing_table_is_named() -> None:
    """With what to do."""
    with pytest.raises(MissingInputError, match=r"nowhere\.ecsv does not exist"):
        read_photometry(Path("nowhere.ecsv"))
