"""Explorations of several threads of one process: each is judged by its own run."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from absurd_contimg.core.context import TaskContext
from absurd_contimg.testing import explore_crashes, run_handler

_calls: list[str] = []


async def _charge() -> int:
    _calls.append("charge")
    return len(_calls)


async def remembers(params: Any, ctx: TaskContext) -> int:
    """A mistake: the second step relies on what the first has left in this process."""
    first = await ctx.step("first", _charge)
    await ctx.sleep_for("nap", 60)
    return first + await ctx.step("second", _charge)


async def right(params: Any, ctx: TaskContext) -> int:
    return await ctx.step("first", _charge)


def _verdict(number: int) -> str:
    if number % 3 == 2:
        run_handler(right, {})
        return "ok"
    try:
        explore_crashes((remembers, right)[number % 3], {}, faults=["kill"])
    except AssertionError as error:
        return "fault" if "futures have violations" in str(error) else str(error)
    return "ok"


def test_explorations_of_several_threads_do_not_see_each_other() -> None:
    """They set back the variables of the handlers' modules of each other."""
    with ThreadPoolExecutor(6) as threads:
        verdicts = list(threads.map(_verdict, range(6)))
    assert verdicts == ["fault", "ok", "ok"] * 2
