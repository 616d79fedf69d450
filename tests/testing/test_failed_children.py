"""`explore_crashes` of parents whose children fail for good: which worker met the failure is free.

Everything else of the failure is compared, and so are the handlers' own objects.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from absurd_contimg.core.context import TaskContext
from absurd_contimg.simulation.model.worker_factory import AnyHandler
from absurd_contimg.testing import explore_crashes


async def failure_of(task_name: str, queue: str, ctx: TaskContext) -> Any:
    child = await ctx.spawn(task_name, {}, queue=queue)
    return (await ctx.await_task_result(child, queue)).failure


async def parent(_params: Any, ctx: TaskContext) -> Any:
    return await failure_of("child", "k", ctx)


async def grandparent(_params: Any, ctx: TaskContext) -> Any:
    return await failure_of("middle", "m", ctx)


async def middle(_params: Any, ctx: TaskContext) -> Any:
    raise RuntimeError(f"its child: {(await failure_of('child', 'k', ctx))['message']}")


async def parent_of_two(_params: Any, ctx: TaskContext) -> Any:
    children = [await ctx.spawn("child", {}, queue="k") for _ in range(2)]
    results = await asyncio.gather(*(ctx.await_task_result(each, "k") for each in children))
    return [each.failure for each in results]


async def fails(_params: Any, _ctx: TaskContext) -> Any:
    raise ValueError("no")


@pytest.mark.parametrize(
    ("handler", "fault"),
    [
        (parent, "pause"),
        (grandparent, "kill-other"),
        (parent_of_two, "kill-other"),
    ],
)
def test_a_child_may_fail_on_another_worker(handler: AnyHandler, fault: str) -> None:
    others: Mapping[str, Mapping[str, AnyHandler]] = {
        "k": {"child": fails},
        "m": {"middle": middle},
    }
    assert explore_crashes(handler, {}, faults=[fault], others=others).futures > 50


async def names_the_worker(_params: Any, ctx: TaskContext) -> Any:
    failure = await failure_of("child", "k", ctx)
    return {"worker": failure["worker"], "message": failure["message"]}


async def saves_the_worker(_params: Any, ctx: TaskContext) -> Any:
    failure = await failure_of("child", "k", ctx)

    async def changed() -> Any:
        return {**failure, "seen": True}

    await ctx.step("seen", changed)


async def returns_its_attempt(_params: Any, ctx: TaskContext) -> Any:
    await failure_of("child", "k", ctx)
    return {"name": "ValueError", "message": "no", "attempt": ctx.attempt, "worker": "w"}


async def names_the_attempt(_params: Any, ctx: TaskContext) -> Any:
    raise ValueError(f"attempt {ctx.attempt}")


@pytest.mark.parametrize(
    ("handler", "child", "difference"),
    [
        (names_the_worker, fails, "its result differs at worker: "),
        (saves_the_worker, fails, "checkpoint 'seen' differs at worker: "),
        (returns_its_attempt, fails, "its result differs at attempt: 2"),
        (parent, names_the_attempt, "its result differs at .*message: "),
    ],
)
def test_what_else_differs_after_a_failure_is_found(
    handler: AnyHandler, child: AnyHandler, difference: str
) -> None:
    """The handler's own fields too, even where they are called as those of a failure."""
    with pytest.raises(AssertionError, match=difference):
        explore_crashes(handler, {}, faults=["kill-other"], others={"k": {"child": child}})
