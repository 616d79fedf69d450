"""Handlers with the mistakes that the documentation of durable engines warns of, and right ones.

`MISTAKES` has each by kind and name; `RIGHT` has handlers that look like them and are right.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

from absurd_contimg.core.context import TaskContext
from absurd_contimg.testing import happened, outside

Handler = Callable[[Any, TaskContext], Awaitable[Any]]

MISTAKES: dict[str, Handler] = {}
RIGHT: dict[str, Handler] = {}

CACHE: dict[str, int] = {}
SEEN: list[str] = []
counter = 0


def mistake(kind: str) -> Callable[[Handler], Handler]:
    """Enter a handler as wrong, by its kind and its name."""

    def enter(handler: Handler) -> Handler:
        MISTAKES[f"{kind}: {handler.__name__}"] = handler
        return handler

    return enter


def right(handler: Handler) -> Handler:
    """Enter a handler as right."""
    RIGHT[handler.__name__] = handler
    return handler


async def charge(key: Any = "card") -> str:
    await outside("charge", key)
    return "charged"


async def load() -> int:
    return 7


# -- an id that is another one in each attempt ------------------------------------------------


@mistake("id")
async def uuid_as_key(_params: Any, ctx: TaskContext) -> Any:
    key = str(uuid.uuid4())
    return await ctx.step("charge", lambda: charge(key))


@mistake("id")
async def hex_as_key(_params: Any, ctx: TaskContext) -> Any:
    key = uuid.uuid4().hex
    return await ctx.step("charge", lambda: charge(key))


@mistake("id")
async def uuid_in_a_text(_params: Any, ctx: TaskContext) -> Any:
    key = f"order-{uuid.uuid1()}"
    return await ctx.step("charge", lambda: charge({"key": key}))


@mistake("id")
async def uuid_in_the_result(_params: Any, ctx: TaskContext) -> Any:
    receipt = str(uuid.uuid4())
    await ctx.step("load", load)
    return {"receipt": receipt}


@mistake("id")
async def uuid_saved_and_returned(_params: Any, ctx: TaskContext) -> Any:
    receipt = str(uuid.uuid4())

    async def store() -> str:
        return receipt

    await ctx.step("store", store)
    await ctx.step("load", load)
    return receipt


@mistake("id")
async def run_id_as_key(_params: Any, ctx: TaskContext) -> Any:
    return await ctx.step("charge", lambda: charge(str(ctx.run_id)))


# -- chance -----------------------------------------------------------------------------------


@mistake("chance")
async def random_key(_params: Any, ctx: TaskContext) -> Any:
    key = random.random()
    return await ctx.step("charge", lambda: charge(key))


@mistake("chance")
async def random_branch(_params: Any, ctx: TaskContext) -> Any:
    if os.urandom(1)[0] < 128:
        return await ctx.step("cheap", load)
    return await ctx.step("expensive", load)


# -- the clock --------------------------------------------------------------------------------


@mistake("clock")
async def time_as_key(_params: Any, ctx: TaskContext) -> Any:
    key = time.time()
    return await ctx.step("charge", lambda: charge(key))


@mistake("clock")
async def date_as_key(_params: Any, ctx: TaskContext) -> Any:
    key = datetime.now(UTC).isoformat()
    return await ctx.step("charge", lambda: charge(key))


@mistake("clock")
async def duration_in_the_result(_params: Any, ctx: TaskContext) -> Any:
    began = time.perf_counter()
    await ctx.step("load", load)
    return {"took": time.perf_counter() - began}


# -- an effect outside of a step --------------------------------------------------------------


@mistake("effect outside of a step")
async def effect_at_the_start(_params: Any, ctx: TaskContext) -> Any:
    await charge()
    return await ctx.step("load", load)


@mistake("effect outside of a step")
async def effect_at_the_end(_params: Any, ctx: TaskContext) -> Any:
    number = await ctx.step("load", load)
    await charge()
    return number


@mistake("effect outside of a step")
async def effect_between_steps(_params: Any, ctx: TaskContext) -> Any:
    await ctx.step("load", load)
    await charge()
    return await ctx.step("store", load)


@mistake("effect outside of a step")
async def effect_before_a_sleep(_params: Any, ctx: TaskContext) -> Any:
    await ctx.step("load", load)
    await charge()
    await ctx.sleep_for("pause", 60)
    return "ok"


@mistake("effect outside of a step")
async def effect_in_finally(_params: Any, ctx: TaskContext) -> Any:
    try:
        return await ctx.step("load", load)
    finally:
        await charge()


@mistake("effect outside of a step")
async def effect_of_a_loop(_params: Any, ctx: TaskContext) -> Any:
    for number in range(3):
        await ctx.step(f"load {number}", load)
        await outside("mail", number)
    return "ok"


@mistake("effect outside of a step")
async def effect_beside_a_step(_params: Any, ctx: TaskContext) -> Any:
    async def charge_at_once() -> str:
        await asyncio.sleep(1)
        return await charge()

    await asyncio.gather(ctx.step("load", lambda: asyncio.sleep(5)), charge_at_once())


# -- state of the process ---------------------------------------------------------------------


@mistake("state of the process")
async def cached_in_a_module(_params: Any, ctx: TaskContext) -> Any:
    async def fill() -> None:
        CACHE["number"] = 7

    await ctx.step("fill", fill)
    return CACHE.get("number")


@mistake("state of the process")
async def list_of_a_module(_params: Any, ctx: TaskContext) -> Any:
    async def note() -> None:
        SEEN.append("x")

    await ctx.step("note", note)
    return len(SEEN)


@mistake("state of the process")
async def counter_of_a_module(_params: Any, ctx: TaskContext) -> Any:
    global counter  # noqa: PLW0603 - the mistake
    counter += 1
    await ctx.step("load", load)
    await ctx.sleep_for("pause", 30)
    return counter


@mistake("state of the process")
async def variable_set_in_a_step(_params: Any, ctx: TaskContext) -> Any:
    total = 0

    async def add() -> None:
        nonlocal total
        total += 5

    await ctx.step("add", add)
    await ctx.step("load", load)
    return total


# -- control flow that is caught --------------------------------------------------------------


@mistake("control flow is caught")
async def bare_except_round_a_short_sleep(_params: Any, ctx: TaskContext) -> Any:
    try:
        await ctx.sleep_for("pause", 5)
    except:  # noqa: E722 - the mistake
        await ctx.step("fallback", load)
    return "ok"


@mistake("control flow is caught")
async def base_exception_round_a_long_sleep(_params: Any, ctx: TaskContext) -> Any:
    with suppress(BaseException):
        await ctx.sleep_for("pause", 600)
    return "ok"


@mistake("control flow is caught")
async def return_in_finally(_params: Any, ctx: TaskContext) -> Any:
    try:
        await ctx.sleep_for("pause", 10)
    finally:
        return "ok"  # noqa: B012 - the mistake


@mistake("control flow is caught")
async def caught_and_charged(_params: Any, ctx: TaskContext) -> Any:
    try:
        await ctx.sleep_for("pause", 5)
    except BaseException:  # noqa: BLE001 - the mistake
        await ctx.step("charge", charge)
    return "ok"


@mistake("control flow is caught")
async def stopped_worker_saves_a_refusal(_params: Any, ctx: TaskContext) -> Any:
    """The cancellation of a worker that is stopped is taken for an answer of the outside."""

    async def charge_slowly() -> str:
        try:
            await asyncio.sleep(2)
            return await charge()
        except BaseException:  # noqa: BLE001 - the mistake
            return "refused"

    return await ctx.step("charge", charge_slowly)


@mistake("control flow is caught")
async def cancelled_call_is_a_refusal(_params: Any, ctx: TaskContext) -> Any:
    async def charge_at_once() -> str:
        try:
            return await charge()
        except asyncio.CancelledError:
            return "refused"

    return await ctx.step("charge", charge_at_once)


# -- names of steps ---------------------------------------------------------------------------


@mistake("name of a step")
async def attempt_in_the_name(_params: Any, ctx: TaskContext) -> Any:
    await ctx.step(f"load {ctx.attempt}", load)
    return "ok"


@mistake("name of a step")
async def uuid_in_the_name(_params: Any, ctx: TaskContext) -> Any:
    await ctx.step(f"load {uuid.uuid4()}", load)
    return "ok"


@mistake("name of a step")
async def order_by_chance(_params: Any, ctx: TaskContext) -> Any:
    names = ["a", "b", "c", "d", "e", "f"]
    random.shuffle(names)
    return [await ctx.step("next", lambda name=name: _value(name)) for name in names]


async def _value(value: Any) -> Any:
    return value


# -- the attempt ------------------------------------------------------------------------------


@mistake("the attempt")
async def attempt_in_the_key(_params: Any, ctx: TaskContext) -> Any:
    return await ctx.step("charge", lambda: charge(f"attempt {ctx.attempt}"))


@mistake("the attempt")
async def attempt_in_the_result(_params: Any, ctx: TaskContext) -> Any:
    await ctx.step("load", load)
    return {"attempts": ctx.attempt}


@mistake("the attempt")
async def work_of_the_first_attempt_only(_params: Any, ctx: TaskContext) -> Any:
    if ctx.attempt == 1:
        await ctx.step("charge", charge)
    return "ok"


# -- the state of the outside -----------------------------------------------------------------


@mistake("state of the outside")
async def looks_outside_of_a_step(_params: Any, ctx: TaskContext) -> Any:
    if not happened("charge", "card"):
        await ctx.step("charge", charge)
        return "new"
    return "old"


@mistake("state of the outside")
async def numbers_what_it_does(_params: Any, ctx: TaskContext) -> Any:
    async def append() -> None:
        number = sum(happened("row", earlier) for earlier in range(5))
        await outside("row", number)

    await ctx.step("append", append)
    return "ok"


# -- a checkpoint at the wrong moment ---------------------------------------------------------


@mistake("checkpoint at the wrong moment")
async def saved_before_it_is_done(_params: Any, ctx: TaskContext) -> Any:
    handle = await ctx.begin_step("charge")
    if not handle.done:
        await ctx.complete_step(handle, "charged")
        await charge()
    return "ok"


@mistake("checkpoint at the wrong moment")
async def step_begun_and_never_saved(_params: Any, ctx: TaskContext) -> Any:
    await ctx.begin_step("charge")
    await outside("charge", ctx.attempt)
    return "ok"


# -- work that nobody waits for ---------------------------------------------------------------


@mistake("nobody waits")
async def task_in_the_background(_params: Any, ctx: TaskContext) -> Any:
    async def later() -> None:
        await asyncio.sleep(5)
        await charge()

    async def begin() -> None:
        background.add(asyncio.create_task(later()))

    background: set[asyncio.Task[None]] = set()
    await ctx.step("begin", begin)
    await ctx.step("load", load)
    await asyncio.sleep(10)
    return "ok"


@mistake("nobody waits")
async def step_that_is_not_awaited(_params: Any, ctx: TaskContext) -> Any:
    ctx.step("charge", charge)  # type: ignore[unused-coroutine]
    return await ctx.step("load", load)


@mistake("nobody waits")
async def effect_that_is_not_awaited(_params: Any, ctx: TaskContext) -> Any:
    async def forgetful() -> None:
        charge()  # type: ignore[unused-coroutine]

    return await ctx.step("charge", forgetful)


# -- what others are told: events and the parameters of children --------------------------------


@mistake("event")
async def uuid_in_the_name_of_an_event(_params: Any, ctx: TaskContext) -> Any:
    await ctx.emit_event(f"done:{uuid.uuid4()}", {})


@mistake("event")
async def attempt_in_the_name_of_an_event(_params: Any, ctx: TaskContext) -> Any:
    await ctx.emit_event(f"done:{ctx.attempt}", {})


@mistake("event")
async def chance_in_the_payload_of_an_event(_params: Any, ctx: TaskContext) -> Any:
    await ctx.emit_event("done", {"number": random.random()})


@mistake("child")
async def uuid_in_the_parameters_of_a_child(_params: Any, ctx: TaskContext) -> Any:
    await ctx.spawn("child", {"id": str(uuid.uuid4())})


# -- right ------------------------------------------------------------------------------------


@right
async def saved_uuid_in_events_and_children(_params: Any, ctx: TaskContext) -> Any:
    key = await ctx.step("key", lambda: _value(str(uuid.uuid4())))
    await ctx.emit_event(f"done:{key}", {"task": ctx.task_id, "key": key})
    child = await ctx.spawn("grandparent", {"key": key, "parent": ctx.task_id}, queue="children")
    await ctx.emit_event(f"spawned:{child}", [child])
    return child


@right
async def fails_once_in_passing(_params: Any, ctx: TaskContext) -> Any:
    async def connect() -> int:
        if ctx.attempt == 1:
            raise ConnectionError("refused")
        return 1

    return await ctx.step("connect", connect)


@right
async def steps_at_the_same_time(_params: Any, ctx: TaskContext) -> Any:
    async def slow_charge() -> str:
        await charge("slow")
        await asyncio.sleep(5)
        return "charged"

    both = ctx.step("slow", slow_charge), ctx.step("quick", lambda: charge("quick"))
    results = await asyncio.gather(*both)
    await ctx.sleep_for("pause", 10)
    return results


@right
async def slow_steps_at_the_same_time(_params: Any, ctx: TaskContext) -> Any:
    async def part(number: int) -> int:
        await asyncio.sleep(5 * number)
        await charge(number)
        return number

    steps = [ctx.step(f"part {number}", partial(part, number)) for number in range(3)]
    return await asyncio.gather(*steps)


@right
async def uuid_made_in_a_step(_params: Any, ctx: TaskContext) -> Any:
    key = await ctx.step("key", lambda: _value(str(uuid.uuid4())))
    await ctx.step("charge", lambda: charge(key))
    return {"key": key, "text": f"order {key}"}


@right
async def chance_in_a_step(_params: Any, ctx: TaskContext) -> Any:
    number = await ctx.step("draw", lambda: _value(random.random()))
    await ctx.step("charge", lambda: charge(number))
    return number


@right
async def time_in_a_step(_params: Any, ctx: TaskContext) -> Any:
    now = await ctx.step("now", lambda: _value(datetime.now(UTC).isoformat()))
    await ctx.sleep_for("pause", 30)
    return [now, await ctx.step("charge", lambda: charge(now))]


@right
async def task_id_as_key(_params: Any, ctx: TaskContext) -> Any:
    await ctx.step("charge", lambda: charge(f"{ctx.task_id}"))
    return ctx.task_id


@right
async def failures_are_caught(_params: Any, ctx: TaskContext) -> Any:
    with suppress(Exception):
        await ctx.sleep_for("pause", 5)
    return await ctx.step("load", load)


@right
async def constant_of_a_module(_params: Any, ctx: TaskContext) -> Any:
    return [await ctx.step("load", load), len(CACHE), counter]
