"""A handler whose loop never ends is an error that names its line, soon."""

from __future__ import annotations

import asyncio
import gc
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
from absurd_contimg.testing import ExternalInput, explore_crashes, run_handler
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


async def tick(_params: Any, ctx: TaskContext) -> None:
    await ctx.spawn("tick", {}, queue="default")


async def tick_of_an_hour(_params: Any, ctx: TaskContext) -> None:
    await ctx.sleep_for("hour", 3600)
    await ctx.spawn("tick_of_an_hour", {}, queue="default")


async def ping(_params: Any, ctx: TaskContext) -> None:
    await ctx.spawn("pong", {}, queue="other")


async def pong(_params: Any, ctx: TaskContext) -> None:
    await ctx.spawn("ping", {}, queue="default")
    await ctx.spawn("ping", {}, queue="default")


async def awaits_its_successor(_params: Any, ctx: TaskContext) -> None:
    task = await ctx.spawn("awaits_its_successor", {}, queue="default")
    await ctx.await_task_result(task, "default")


@pytest.mark.parametrize("function", [run_handler, explore_crashes])
@pytest.mark.parametrize(
    ("handler", "chain"),
    [
        (tick, "tick <- tick"),
        (tick_of_an_hour, "tick_of_an_hour <- tick_of_an_hour"),
        (ping, "p[io]ng <- p[io]ng <- p[io]ng"),
        (awaits_its_successor, "awaits_its_successor <- awaits_its_successor"),
    ],
)
def test_tasks_that_spawn_tasks_without_end_are_named(
    handler: Any, chain: str, function: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ran on silently, each task slower than the one before."""
    monkeypatch.setattr(endless_loops, "_SPAWNS_MAX", 50)
    says = rf"^tasks spawn tasks without end: {chain}\. By \d+ s 50 tasks .* the last at test_endl"
    with pytest.raises(AssertionError, match=says):
        function(handler, {}, others={"other": {"pong": pong}}, concurrency=100)


async def spawns_many(_params: Any, ctx: TaskContext) -> None:
    for number in range(200):
        await ctx.spawn("child", {"number": number}, queue="other")


async def countdown(params: Any, ctx: TaskContext) -> None:
    if params["left"]:
        await ctx.spawn("countdown", {"left": params["left"] - 1}, queue="default")


def test_many_children_and_a_few_successors_are_no_spawn_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(endless_loops, "_SPAWNS_MAX", 50)
    run_handler(spawns_many, {}, others={"other": {"child": child}})
    run_handler(countdown, {"left": 49})


async def _interrupted(_backend: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("run", [run_handler, explore_crashes])
def test_ctrl_c_leaves_no_page_of_destroyed_tasks(
    run: Any, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    inputs = [ExternalInput(1800, _interrupted)]
    with pytest.raises(KeyboardInterrupt):
        run(tick_of_an_hour, {}, external_inputs=inputs)
    gc.collect()
    assert (caplog.text, *capfd.readouterr()) == ("", "", "")
