"""The verdict of a night: from the words that stages write, with no others of its own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from absurd_contimg.core.records import Json, State
from absurd_contimg.history.summary import TaskSummary
from absurd_contimg.operations.dashboard.nights import ListedTask, expected_groups, verdict_of
from absurd_contimg.products.verdicts import ACCEPTED, CLEAN, DEGRADED, UNCHECKED

NOW = datetime(2025, 1, 15, 10, tzinfo=UTC)


def task(result: Json, state: State = "completed") -> ListedTask:
    nothing = ((), (), None, None, None)
    summary = TaskSummary(UUID(int=1), "mosaic", "W1", state, 1, NOW, NOW, *nothing, result)
    return ListedTask("q", summary)


@pytest.mark.parametrize(
    ("words", "verdict"),
    [
        ([CLEAN, ACCEPTED, UNCHECKED], "clean"),
        ([CLEAN, DEGRADED], "degraded"),
        (["a word of a later release"], "degraded"),
        ([], "no task"),
    ],
)
def test_verdicts_of_images_and_mosaics(words: list[str], verdict: str) -> None:
    assert verdict_of([task({"verdict": word}) for word in words]) == verdict


def test_state_of_a_task_goes_before_its_result() -> None:
    done = task({"published": True})
    assert verdict_of([done]) == "clean"
    assert verdict_of([done, task(None, "cancelled")]) == "degraded"
    assert verdict_of([done, task(None, "failed")]) == "failed"
    assert verdict_of([task(None, "failed"), task(None, "sleeping")]) == "under way"


@pytest.mark.parametrize(("minutes", "expected"), [(0, 3), (10, 3), (15.4, 3), (300, 3)])
def test_groups_whose_files_cannot_be_there_yet_are_not_expected(
    minutes: float, expected: int
) -> None:
    """A night of which all was done had two groups too few: the page counted up to the present."""
    starts = [NOW + timedelta(seconds=309 * number) for number in range(3)]
    now = starts[-1] + timedelta(minutes=minutes)
    assert expected_groups([f"{start:%Y-%m-%dT%H:%M:%S}" for start in starts], now) == expected


def test_a_group_whose_files_are_late_is_expected() -> None:
    starts = [NOW, NOW + timedelta(seconds=309)]
    now = starts[-1] + timedelta(seconds=309 * 3.1)
    assert expected_groups([f"{start:%Y-%m-%dT%H:%M:%S}" for start in starts], now) == 3
    assert expected_groups([f"{start:%Y-%m-%dT%H:%M:%S}" for start in starts], None) == 2
