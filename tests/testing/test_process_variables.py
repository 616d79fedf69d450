"""Each simulated process has the variables of the handlers' modules for itself, locks included."""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import pytest

from absurd_contimg.core.context import TaskContext
from absurd_contimg.simulation.model.primitives import primitives_in
from absurd_contimg.testing import explore_crashes, outside, replay_handler, run_handler

PAUSES = ["pause", "pause-late"]


class Device:
    """A client with a lock, as of a device that takes a request at a time."""

    ours = asyncio.Semaphore(1)

    def __init__(self) -> None:
        self.lock = asyncio.Lock()


class Slotted:
    __slots__ = ("empty", "lock")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()


LOCK = asyncio.Lock()
LOCKS = {"device": asyncio.Lock()}
DEVICE, SLOTTED = Device(), Slotted()
CONDITION = asyncio.Condition()
TOKENS: asyncio.Queue[int] = asyncio.Queue()
TOKENS.put_nowait(1)
FREE = asyncio.Event()
FREE.set()
THREAD_LOCK = threading.Lock()
THREAD_SEMAPHORE = threading.BoundedSemaphore(1)
THREAD_TOKENS: queue.Queue[int] = queue.Queue()
THREAD_TOKENS.put(1)
_made_later: dict[str, asyncio.Lock] = {}
_made_once: asyncio.Lock | None = None


async def request(ctx: TaskContext) -> Any:
    return await ctx.step("a", lambda: outside("a", 1))


async def in_lock(lock: Any, ctx: TaskContext) -> None:
    async with lock:
        await request(ctx)


async def by_hand(ctx: TaskContext) -> None:
    """As `finally` is left out, a killed process keeps it."""
    await LOCK.acquire()
    await request(ctx)
    LOCK.release()


async def twice(ctx: TaskContext) -> None:
    await in_lock(LOCK, ctx)
    await LOCK.acquire()
    await ctx.step("b", lambda: outside("b", 1))
    LOCK.release()


async def with_token(ctx: TaskContext) -> None:
    token = await TOKENS.get()
    await request(ctx)
    TOKENS.put_nowait(token)


async def while_free(ctx: TaskContext) -> None:
    await FREE.wait()
    FREE.clear()
    await request(ctx)
    FREE.set()


async def made_later(ctx: TaskContext) -> None:
    global _made_once  # noqa: PLW0603 - a variable of the process
    if _made_once is None:
        _made_once = asyncio.Lock()
    async with _made_once:
        await in_lock(_made_later.setdefault("device", asyncio.Lock()), ctx)


async def in_thread_lock(lock: Any, ctx: TaskContext) -> None:
    with lock:
        await request(ctx)


async def with_thread_token(ctx: TaskContext) -> None:
    token = THREAD_TOKENS.get(timeout=1)
    await request(ctx)
    THREAD_TOKENS.put(token)


async def in_default(ctx: TaskContext, lock: asyncio.Lock = asyncio.Lock()) -> None:  # noqa: B008
    await in_lock(lock, ctx)


def with_lock_of_its_own() -> Callable[[TaskContext], Any]:
    lock = asyncio.Lock()
    return lambda ctx: in_lock(lock, ctx)


USES: dict[str, Callable[[TaskContext], Any]] = {
    "lock": lambda ctx: in_lock(LOCK, ctx),
    "in a dict": lambda ctx: in_lock(LOCKS["device"], ctx),
    "in an object": lambda ctx: in_lock(DEVICE.lock, ctx),
    "in a slot": lambda ctx: in_lock(SLOTTED.lock, ctx),
    "of a class": lambda ctx: in_lock(Device.ours, ctx),
    "condition": lambda ctx: in_lock(CONDITION, ctx),
    "closure": with_lock_of_its_own(),
    "partial": partial(in_lock, asyncio.Lock()),
    **{each.__name__: each for each in (by_hand, twice, with_token, while_free, made_later)},
    "lock of threads": lambda ctx: in_thread_lock(THREAD_LOCK, ctx),
    "semaphore of threads": lambda ctx: in_thread_lock(THREAD_SEMAPHORE, ctx),
    "queue of threads": with_thread_token,
    "default": in_default,
}


@pytest.mark.parametrize("use", USES)
def test_a_lock_that_a_paused_process_holds_keeps_no_other_one_out(use: str) -> None:
    """Each process of production has its own; a second process waited for ever, or failed."""

    async def handler(_params: Any, ctx: TaskContext) -> int:
        await USES[use](ctx)
        return 1

    for _ in range(2):  # the first exploration leaves nothing to the second
        exploration = explore_crashes(handler, {}, faults=[*PAUSES, "kill", "term"])
        assert exploration.injected > 20
    asyncio.run(_take_all())


async def _take_all() -> None:
    """With another event loop, as the next test may have; somebody waits, which binds a lock."""
    for lock in (LOCK, LOCKS["device"], DEVICE.lock, SLOTTED.lock, Device.ours, CONDITION):
        assert not lock.locked()
        async with lock:
            waiting = asyncio.create_task(asyncio.wait_for(lock.acquire(), 1e-3))
            await asyncio.sleep(0)
        await waiting
        lock.release()
        vars(lock).pop("_loop", None)
    vars(CONDITION._lock).pop("_loop", None)
    assert _made_once is None
    assert not _made_later
    assert (TOKENS.qsize(), THREAD_TOKENS.qsize(), FREE.is_set()) == (1, 1, True)
    assert not THREAD_LOCK.locked()


_open: dict[str, int] = {}
_client: Any = None


async def remembers(_params: Any, ctx: TaskContext) -> int:
    """Rightly: between a request and its answer, in a dict of this process."""
    global _client  # noqa: PLW0603 - a variable of the process
    _client = _client or Device()
    ours, answers = _client, 0
    for number in range(8):
        _open["request"] = 1
        await ctx.step(f"request {number}", partial(outside, f"request {number}"))
        assert ours is _client
        answers += _open.pop("request")
    return answers


def test_a_paused_process_goes_on_with_its_own_variables() -> None:
    """Another process that began meanwhile set them back; it failed by a KeyError, a false one."""
    assert explore_crashes(remembers, {}, faults=PAUSES).injected > 30


async def never_released(_params: Any, ctx: TaskContext) -> None:
    """A mistake: the second attempt waits for what the first has taken, in the same process."""
    await LOCK.acquire()
    await ctx.sleep_for("nap", 10)
    await request(ctx)


def test_a_lock_that_is_not_released_is_a_mistake_as_before() -> None:
    with pytest.raises(AssertionError, match="has not ended"):
        run_handler(never_released, {}, horizon_seconds=3600)


async def fails_when_repeated(_params: Any, ctx: TaskContext) -> None:
    await ctx.step("a", lambda: outside("a", 1))
    if ctx.attempt > 1:
        raise RuntimeError(f"the device {LOCK!r} is busy")


def test_the_text_and_the_line_of_a_new_error_are_in_the_finding() -> None:
    """It said "runs ended as ['failed RuntimeError']"."""
    finding = replay_handler(fails_when_repeated, {}, "kill-other@8")
    (text,) = (each.text for each in finding.violations if "runs ended as" in each.text)
    assert text.startswith(
        "runs ended as ['failed RuntimeError']: RuntimeError at test_process_variables.py, line "
    )
    assert "in fails_when_repeated: the device <asyncio.locks.Lock" in text


@pytest.mark.parametrize("folder", ["/usr/lib/python3/dist-packages", "/other/lib/site-packages"])
def test_packages_of_other_environments_are_not_searched(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian has its own folder, and an environment may use the packages of another one."""
    library = ModuleType("library_elsewhere")
    library.__file__ = f"{folder}/library_elsewhere.py"
    monkeypatch.setitem(sys.modules, library.__name__, library)
    vars(library)["LOCK"] = threading.Lock()
    assert list(primitives_in([library], frozenset())) == []
    assert list(primitives_in([library], frozenset({library.__name__}))) == [vars(library)["LOCK"]]
