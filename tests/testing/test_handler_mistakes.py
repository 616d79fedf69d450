"""`explore_crashes` finds the mistakes of users' handlers, and refuses none that is right."""

from __future__ import annotations

from typing import Any

import pytest
from handler_mistakes import MISTAKES, RIGHT
from search_extent import some_of

from absurd_contimg.core.context import TaskContext
from absurd_contimg.testing import explore_crashes


async def child(_params: Any, _ctx: TaskContext) -> int:
    return 1


async def grandparent(params: Any, ctx: TaskContext) -> None:
    await ctx.spawn("child", params)


OTHERS = {"default": {"child": child}, "children": {"grandparent": grandparent, "child": child}}


@pytest.mark.parametrize("name", some_of(MISTAKES, 2))
def test_mistake_is_found(name: str) -> None:
    with pytest.raises(AssertionError):
        explore_crashes(MISTAKES[name], {}, others=OTHERS)


@pytest.mark.parametrize("name", some_of(RIGHT, 2))
def test_right_handler_is_accepted(name: str) -> None:
    assert explore_crashes(RIGHT[name], {}, others=OTHERS).futures > 10


def test_a_retry_that_a_paused_worker_has_decided_is_no_early_one() -> None:
    """Its delay counts from the decision; with this lease the pause is longer than the delay."""
    assert explore_crashes(RIGHT["fails_once_in_passing"], {}, lease_seconds=120).futures > 10


def test_there_are_30_mistakes_of_12_kinds() -> None:
    kinds = {name.partition(":")[0] for name in MISTAKES}
    assert len(MISTAKES) >= 30
    assert len(kinds) >= 10
