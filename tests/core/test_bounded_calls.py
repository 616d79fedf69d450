"""`wait_under` behaves as `async with asyncio.timeout`; an answer at once costs no timer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from absurd_contimg.core.call_bounds import wait_under
from absurd_contimg.simulation.runtime.loop import in_virtual_time

_STEPS = ("wait short", "wait long", "ignore cancellation", "gather", "raise", "own timeout")


async def _work(steps: list[str], log: list[str]) -> int:
    loop = asyncio.get_running_loop()
    for step in steps:
        log.append(f"{step} at {loop.time()}")
        if step == "raise":
            raise LookupError(step)
        if step == "own timeout":
            raise TimeoutError(step)
        if step == "gather":
            await asyncio.gather(asyncio.sleep(2, 1), asyncio.sleep(3, 2))
        elif step == "ignore cancellation":
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(20)
        else:
            await asyncio.sleep(1 if step == "wait short" else 20)
    return len(log)


async def _by_timeout(timeout: asyncio.Timeout, call: Callable[[], Awaitable[int]]) -> int:
    async with timeout:
        return await call()


Bound = Callable[[asyncio.Timeout, Callable[[], Awaitable[int]]], Awaitable[int]]


def _outcome(bound: Bound, steps: list[str], cancelled_after: float | None) -> tuple[object, ...]:
    """What the work did and how it ended, at which time and with which requests left."""

    async def main() -> tuple[object, ...]:
        log: list[str] = []
        loop = asyncio.get_running_loop()
        timeout = asyncio.timeout(5)

        async def waiting() -> tuple[object, ...]:
            task = asyncio.current_task()
            assert task is not None
            try:
                result: object = await bound(timeout, lambda: _work(steps, log))
            except (LookupError, TimeoutError, asyncio.CancelledError) as error:
                result = type(error)
            return result, task.cancelling(), timeout.expired(), loop.time()

        task = asyncio.create_task(waiting())
        if cancelled_after is not None:
            loop.call_later(cancelled_after, task.cancel)
        return (*await task, *log)

    return in_virtual_time(main())


@given(st.lists(st.sampled_from(_STEPS), max_size=5), st.sampled_from((None, 0.5, 4.5, 7.5)))
def test_the_outcome_is_that_of_a_timeout(steps: list[str], cancelled_after: float | None) -> None:
    expected = _outcome(_by_timeout, steps, cancelled_after)
    assert _outcome(wait_under, steps, cancelled_after) == expected


@pytest.mark.parametrize("waits", [False, True])
def test_only_a_wait_makes_a_timer(waits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[asyncio.Timeout] = []
    enter = asyncio.Timeout.__aenter__

    async def count(timeout: asyncio.Timeout) -> asyncio.Timeout:
        entered.append(timeout)
        return await enter(timeout)

    monkeypatch.setattr(asyncio.Timeout, "__aenter__", count)

    async def main() -> int:
        steps = ["wait short"] if waits else []
        return await wait_under(asyncio.timeout(5), lambda: _work(steps, []))

    assert in_virtual_time(main()) == len(entered) == int(waits)
