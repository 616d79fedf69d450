"""Texts and numbers that one of the registry's databases does not take: the same on both."""

from __future__ import annotations

from pathlib import Path

import pytest

from absurd_contimg.errors import AwayError, CorruptInputError
from absurd_contimg.registry import GroupStatus, Registry
from absurd_contimg.registry.batches import Batch, Batches, BatchState
from absurd_contimg.registry.models import ObservationGroup
from absurd_contimg.science.catalogue import COLUMNS, read_catalogue

NAMES = ("a\0b", "\0", "\ud800", "x\udcffy", "\ud83d\ude00", "é\u202e\x1b[2J", "x" * 100_000)


@pytest.mark.parametrize("name", NAMES)
def test_any_text_is_stored_and_found_again(registry: Registry, name: str) -> None:
    """As key and as plain text, with escapes for what no database takes; the same name twice."""
    key = name[:500]
    registry.set_group_status(key, GroupStatus.FAILED, name)
    registry.set_group_status(key, GroupStatus.FAILED, f"again {name}")
    stored = registry.group(key)
    assert stored.status == GroupStatus.FAILED
    assert stored.reason is not None
    assert stored.reason.startswith("again ")
    shown = stored.group_id + stored.reason
    assert "\0" not in shown
    shown.encode()
    assert len(registry.rows(ObservationGroup)) == 1


def test_json_of_odd_values_is_stored(registry: Registry) -> None:
    """In the parameters of a batch; numbers that JSON does not have are null."""
    params = {"n\0": "v\0", "s": "\ud800", "nan": float("nan"), "l": [float("inf"), {"x": 1.5}]}
    batches = Batches(registry.database)
    batches.create(
        Batch("b", "groups", BatchState.ACTIVE, "q", params, "2026-01-01T00:00:00Z"),
        [("G\0", params)],
    )
    stored = {**params, "nan": None, "l": [None, {"x": 1.5}]}
    assert batches.batch("b").parameters == stored
    (item,) = batches.items("b")
    assert (item.name, item.params) == ("G\\x00", stored)


def test_a_key_that_no_index_holds_is_no_outage(registry: Registry) -> None:
    """Postgres says so as it says that a disk is full; work with it must not wait for ever."""
    key = "".join(chr(33 + (number * number) % 7919 % 90) for number in range(20_000))
    try:
        registry.set_group_status(key, GroupStatus.FAILED)
    except AwayError as error:
        pytest.fail(str(error))
    except ValueError as error:
        assert "too long" in str(error)  # noqa: PT017 - one of two databases


@pytest.mark.parametrize("name", ["a\0b", "", "x" * 201, "two\nlines"])
def test_a_catalogue_with_unusable_names_is_refused(tmp_path: Path, name: str) -> None:
    """With the line, where the name enters: photometry would fail much later."""
    path = tmp_path / "catalogue.csv"
    path.write_text(f'{",".join(COLUMNS)}\n"{name}",1,2,3,0,1\n', newline="")
    with pytest.raises(CorruptInputError, match=r"line [23] of the sky catalogue.*name"):
        read_catalogue(path)
