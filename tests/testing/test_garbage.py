"""The search for calls that were not awaited goes only through what the handler has made."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest

from absurd_contimg.core.context import TaskContext
from absurd_contimg.testing import explore_crashes, run_handler


async def handler(_params: Any, ctx: TaskContext) -> Any:
    async def answer() -> int:
        return 1

    return await ctx.step("a", answer)


@pytest.fixture
def searches() -> Iterator[list[bool]]:
    """Of each full search for garbage, whether older objects were left out; none is at first."""
    left_out: list[bool] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start" and info["generation"] == 2:
            left_out.append(gc.get_freeze_count() > 0)

    gc.unfreeze()
    gc.callbacks.append(note)
    try:
        yield left_out
    finally:
        gc.callbacks.remove(note)
        gc.freeze()


@pytest.mark.parametrize("function", [run_handler, explore_crashes])
def test_the_objects_of_the_session_are_left_out_and_given_back(
    function: Any, searches: list[bool]
) -> None:
    function(handler, {})
    assert searches
    assert all(searches)
    assert gc.get_freeze_count() == 0


def test_what_the_session_has_frozen_stays_frozen() -> None:
    gc.freeze()
    run_handler(handler, {})
    assert gc.get_freeze_count() > 0
