"""A handler whose loop never ends is an error that names its line, soon."""

from __future__ import annotations

import asyncio
import inspect
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest

from absurd_contimg.core.context import TaskContext
from absurd_contimg.simulation.exploration import endless_loops
from absurd_contimg.simulation.exploration.explorer import baseline
from absurd_contimg.testing import explore_crashes, run_handler
from absurd_contimg.testing.crashes import handler_spec


async def step() -> int:
    return 1


async def steps(_params: Any, ctx: TaskContext) -> None:
    for number in count():
        await ctx.step(f"step {number}", step)


async def steps_that_yield(_params: Any, ctx: TaskContext) -> None:
    for number in count():
        await ctx.step(f"step {number}", partial(asyncio.sleep, 0, 1))


async def steps_beside_a_child(_params: Any, ctx: TaskContext) -> None:
    await ctx.spawn("child", {}, queue="other")
    for number in count():
        await ctx.step(f"step {number}", step)


async def child(_params: Any, _ctx: TaskContext) -> int:
    return 1


@pytest.mark.parametrize("handler", [steps, steps_that_yield, steps_beside_a_child])
@pytest.mark.parametrize("function", [run_handler, explore_crashes])
def test_steps_without_an_end_are_an_error_with_the_line_of_the_handler(
    handler: Any, function: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No time passes for them, and they need not wait, so that nothing else gets a turn."""
    monkeypatch.setattr(endless_loops, "_CALLS_MAX", 1000)
    line = handler.__code__.co_firstlineno + len(inspect.getsource(handler).splitlines()) - 1
    name = handler.__name__
    says = f"at 0 s by '{name}' at {Path(__file__).name}, line {line}, in {name}: "
    with pytest.raises(AssertionError, match=says):
        function(handler, {}, others={"other": {"child": child}})


def test_backlog_that_is_done_at_one_moment_is_no_loop_without_an_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The worker claims all of it in one task of asyncio."""
    monkeypatch.setattr(endless_loops, "_CALLS_MAX", 100)
    spec = handler_spec(partial(steps_of, 1), {}, task_name="short")
    outcome, histories = baseline(replace(spec, jobs=[spec.jobs[0]] * 300))
    assert not outcome.violations
    assert {each.task.state for each in histories} == {"completed"}


def test_long_handler_is_no_loop_without_an_end() -> None:
    assert len(run_handler(partial(steps_of, 10_000), {}).checkpoints) == 10_000


async def steps_of(number: int, _params: Any, ctx: TaskContext) -> None:
    for each in range(number):
        await ctx.step(f"step {each}", step)


async def _returns(_params: Any, _ctx: TaskContext) -> int:
    return 1


@pytest.mark.parametrize("run", [run_handler, explore_crashes])
def test_a_replaced_sleep_is_refused(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a fixture against sleeping in tests, say: the worker's waits did not end either."""
    monkeypatch.setattr(asyncio, "sleep", AsyncMock())
    with pytest.raises(ValueError, match=r"asyncio\.sleep is replaced .* would never end"):
        run(_returns, {})
