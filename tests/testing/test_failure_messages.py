"""What a failed test of a handler says: the cause, in the words of its author's code."""

from __future__ import annotations

import asyncio
import re
import uuid
from contextlib import suppress
from typing import Any

import pytest

from absurd_contimg.backends.memory import MemoryDatabase
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.errors import QueueNotFound
from absurd_contimg.simulation.runtime.kernel import Kernel
from absurd_contimg.simulation.runtime.loop import new_process
from absurd_contimg.testing import ExternalInput, explore_crashes, happened, outside, run_handler


async def waits_for_go(_params: Any, ctx: TaskContext) -> Any:
    return await ctx.await_event("go", timeout=3600)


async def sleeps(_params: Any, ctx: TaskContext) -> None:
    await ctx.sleep_for("cooling off", 3600)


async def breaks(_backend: Any) -> None:
    raise RuntimeError("boom")


@pytest.mark.parametrize("handler", [waits_for_go, sleeps])
@pytest.mark.parametrize("function", [run_handler, explore_crashes])
@pytest.mark.parametrize(
    ("act", "says"),
    [
        (breaks, "RuntimeError: boom"),
        (lambda backend: backend.emit_evnt("default", "go"), "AttributeError: .*'emit_evnt'"),
        (lambda backend: backend.emit_event("orders", "go"), "QueueNotFound: .*orders"),
    ],
)
def test_an_external_input_that_fails_is_named(
    function: Any, handler: Any, act: Any, says: str
) -> None:
    """It went unnoticed, or the handler was blamed for the event that never came."""
    inputs = [ExternalInput(60, lambda _backend: _nothing()), ExternalInput(600, act)]
    with pytest.raises(AssertionError, match=f"^external input at 600 s: {says}"):
        function(handler, {}, external_inputs=inputs)


@pytest.mark.parametrize("function", [run_handler, explore_crashes])
def test_an_external_input_that_never_happens_is_named(function: Any) -> None:
    """One that emitted to a queue that is not there passed, where all had ended before."""
    late = ExternalInput(5000, lambda backend: backend.emit_event("orders", "go"))
    with pytest.raises(AssertionError, match=r"input at 5000 s has not happened: .* at 3600 s"):
        function(sleeps, {}, external_inputs=[late])
    with pytest.raises(AssertionError, match=r"^external input at 5000 s: QueueNotFound"):
        function(sleeps, {}, external_inputs=[late], ends_after_seconds=5000)


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), "7", None])
def test_an_external_input_at_no_time_is_refused(seconds: Any) -> None:
    with pytest.raises(ValueError, match=r"ExternalInput at .*: the time is a number of seconds"):
        ExternalInput(seconds, breaks)


def test_what_is_no_function_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="ExternalInput at 5 s: 7 is no function"):
        ExternalInput(5, 7)  # type: ignore[arg-type]
    with pytest.raises(
        TypeError, match=r"MemoryDatabase\(clock=\.\.\.\) must be a function, not 7"
    ):
        MemoryDatabase(clock=7)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"MemoryDatabase\(clock=.* aware datetimes, not 1\.5"):
        MemoryDatabase(clock=lambda: 1.5).now()  # type: ignore[arg-type, return-value]
    with pytest.raises(TypeError, match="clock of 'process' must be a HostClock"):
        new_process(Kernel(), "process", 7)  # type: ignore[arg-type]


async def _nothing() -> None:
    pass


def message_of(handler: Any, **arguments: Any) -> str:
    """What an exploration says about a handler that is wrong."""
    with pytest.raises(AssertionError) as caught:
        explore_crashes(handler, {}, **arguments)
    return str(caught.value)


async def fails_after_its_effect(_params: Any, ctx: TaskContext) -> Any:
    async def charge() -> int:
        await outside("charge", ctx.task_id)
        if ctx.attempt < 3:
            raise ConnectionError("refused")
        return 1

    return await ctx.step("charge", charge)


def test_an_effect_whose_step_fails_and_is_retried_is_not_sent_into_a_step() -> None:
    text = message_of(fails_after_its_effect)
    assert "happens 3 times outside: charge" in text
    assert "its step failed after it and was retried" in text
    assert "repeats=['charge']" in text
    assert "outside of a step" not in text
    assert explore_crashes(fails_after_its_effect, {}, repeats=["charge"]).futures


def test_the_hint_names_an_effect_of_several_words_whole() -> None:
    """Its name was cut at the first space, and what the hint says did not help."""

    async def sends_mail(_params: Any, ctx: TaskContext) -> None:
        await outside("send a mail", "to you")
        await outside("send a mail", "to you")

    assert "repeats=['send a mail']" in message_of(sends_mail)
    assert explore_crashes(sends_mail, {}, repeats=["send a mail"]).futures


def test_an_effect_of_two_steps_is_said_to_be_of_two() -> None:
    async def charges_twice(_params: Any, ctx: TaskContext) -> None:
        await ctx.step("charge", lambda: outside("charge"))
        await ctx.step("charge again", lambda: outside("charge"))

    assert "happens 2 times outside: charge null. Several steps do it" in message_of(charges_twice)


async def counts_the_charges(_params: Any, ctx: TaskContext) -> None:
    async def charge() -> None:
        await outside("charge", "card")
        await outside("mail", {"charges": happened("charge", "card")})

    for number in range(40):
        await ctx.step(f"load {number}", lambda: asyncio.sleep(0))
    await ctx.step("charge", charge)


def test_the_trace_is_shown_around_the_fault_and_says_what_is_left_out() -> None:
    text = message_of(counts_the_charges, faults=["kill-other"])
    lines = [line.strip() for line in text.splitlines()]
    (fault,) = (number for number, line in enumerate(lines) if ": kill-other at " in line)
    (left_out,) = (n for n, line in enumerate(lines) if re.match(r"\.\.\. \d+ earlier lines", line))
    assert left_out < fault < len(lines) - 10
    assert len(lines) < 100


def test_a_line_of_the_trace_names_the_checkpoint_and_the_value() -> None:
    text = message_of(counts_the_charges, faults=["kill-other"])
    assert "call set_task_checkpoint_state 'charge', committed" in text
    assert "own mail {'charges': 2}, committed" in text


async def key_made_in_the_step_of_its_effect(_params: Any, ctx: TaskContext) -> None:
    await ctx.step("charge", lambda: outside("charge", str(uuid.uuid4())))


def test_a_key_that_is_random_is_sent_into_a_step_of_its_own() -> None:
    text = message_of(key_made_in_the_step_of_its_effect)
    remedy = text.index("make it in a step of its own")
    assert text.index("an id, a time or a random value") < remedy < text.index("`happened`")


async def swallows_its_suspension(_params: Any, ctx: TaskContext) -> str:
    with suppress(BaseException):
        await ctx.sleep_for("cooling off", 600)
    return "done"


def test_a_swallowed_suspension_is_not_offered_as_the_right_end() -> None:
    text = message_of(swallows_its_suspension)
    assert "Let BaseException pass: catch Exception" in text
    assert "ends=" not in text
    assert ".." not in text.replace("(..., ", "")


async def releases_in_finally(_params: Any, ctx: TaskContext) -> None:
    try:
        await ctx.sleep_for("cooling off", 600)
    finally:
        await ctx.step("release", lambda: outside("release", 1))


def test_a_step_in_finally_is_named_with_what_to_do_instead() -> None:
    """`catch Exception, and return nothing in finally`, was said of a handler that does neither."""
    text = message_of(releases_in_finally)
    assert message_of(releases_in_finally, ends="failed") == text.replace(", not completed", "")
    assert "asked for 'release' although its run is suspended until" in text
    assert "await no step, sleep or event in `finally`" in text
    assert "compensate in `except Exception`" in text
    assert "ends=" not in text


async def step_in_a_step(_params: Any, ctx: TaskContext) -> None:
    await ctx.step("outer", lambda: ctx.step("inner", lambda: outside("charge", 1)))


def test_a_step_in_a_step_is_named_as_a_cause_of_changed_steps() -> None:
    assert "inside the function of another step" in message_of(step_in_a_step)


def test_findings_are_counted_without_a_limit_that_was_not_reached() -> None:
    few = message_of(counts_its_attempts(1), faults=["kill-other"])
    assert re.match(r"\d of \d+ futures have violations. The one with the fewest faults:", few)
    many = message_of(counts_its_attempts(20), faults=["kill-other"])
    assert re.match(r"20 of \d+ futures .*, and the others were not run: it stops at 20", many)


def counts_its_attempts(steps: int) -> Any:
    async def counts(_params: Any, ctx: TaskContext) -> int:
        for number in range(steps):
            await ctx.step(f"load {number}", lambda: asyncio.sleep(0))
        return ctx.attempt

    return counts


def plain(_params: Any, _ctx: TaskContext) -> int:
    return 5


async def step_of_a_plain_function(_params: Any, ctx: TaskContext) -> Any:
    return await ctx.step("load", lambda: 5)  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize(
    ("handler", "says"),
    [
        (plain, "the handler of task 'plain' must be an async function .* type int"),
        (step_of_a_plain_function, "the function of step 'load' must be an async function"),
    ],
)
def test_a_function_that_is_not_async_is_named(handler: Any, says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        run_handler(handler, {})


def test_an_unknown_queue_is_named_with_what_to_do(absurd_memory: Any, virtual_time: Any) -> None:
    with pytest.raises(QueueNotFound, match=r"absurd\.e_orders.*contimg --queue orders db init"):
        virtual_time(absurd_memory.emit_event("orders", "go"))
