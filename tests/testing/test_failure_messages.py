"""What a failed test of a handler says: the cause, in the words of its author's code."""

from __future__ import annotations

from typing import Any

import pytest

from absurd_contimg.core.context import TaskContext
from absurd_contimg.testing import ExternalInput, explore_crashes, run_handler


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


async def _nothing() -> None:
    pass
