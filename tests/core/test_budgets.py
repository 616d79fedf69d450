"""Random failure plans on the emulator: each kind of failure gets its budget and no try more."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_extent import examples

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.errors import BackendUnavailable, RunReleased
from absurd_contimg.core.evidence import Evidence
from absurd_contimg.core.failure_handling import FailureHandler
from absurd_contimg.core.failures import RetryHook
from absurd_contimg.core.records import History
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.core.step_order_check import STEPS_CHANGED
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.errors import RegistryAwayError

QUEUE = "dsa110-pipeline"
POLICY = RetryPolicy(backoff_first_seconds=0.0, resource_wait_seconds=0.0, resource_waits_max=6)
STEPS = ("convert", "image")

FAILURES: dict[str, Exception] = {
    "transient": ConnectionResetError("reset"),
    "unknown": RuntimeError("never seen"),
    "permanent": ValueError("negative"),
    "disk": OSError(errno.ENOSPC, "full"),
    "memory": MemoryError("8 GB"),
}


def worker_for(backend: Backend, handler: Any, **more: Any) -> Worker:
    registry = TaskRegistry()
    registry.add("task", handler)
    strict = more.pop("strict_steps", False)
    options = WorkerSettings(
        QUEUE, "worker-1", poll_interval_seconds=0.001, grace_seconds=0.0, strict_steps=strict
    )
    return Worker(backend, registry, options, policy=more.pop("policy", POLICY), **more)


class Plan:
    """What each start of each step meets: a failure, an interruption, or (at the end) success."""

    def __init__(self, plans: dict[str, Sequence[str]]) -> None:
        self.plans = plans
        self.met: dict[str, list[str]] = {step: [] for step in STEPS}
        self.worker: Worker | None = None

    async def __call__(self, params: Any, ctx: TaskContext) -> str:
        for step in STEPS:
            await ctx.tracked_step(step, lambda start, step=step: self.work(step))  # type: ignore[misc]
        return "done"

    async def work(self, step: str) -> None:
        position = len(self.met[step])
        event = self.plans[step][position] if position < len(self.plans[step]) else "success"
        self.met[step].append(event)
        if event == "interruption":
            assert self.worker is not None
            self.worker.stop()
            await asyncio.Event().wait()
        if event in FAILURES:
            raise FAILURES[event]


def expected(plan: Sequence[str]) -> tuple[list[str], bool]:
    """What one step meets by the retry policy, and whether it succeeds: the oracle."""
    counts = dict.fromkeys(FAILURES, 0)
    for number, failure in enumerate(plan, 1):
        if failure not in FAILURES:
            continue
        counts[failure] += 1
        waits = counts["disk"] + counts["memory"]
        over = {
            "transient": counts["transient"] >= POLICY.transient_attempts,
            "unknown": counts["unknown"] >= POLICY.unknown_attempts,
            "permanent": True,
            "disk": waits > POLICY.resource_waits_max,
            "memory": waits > POLICY.resource_waits_max or counts["memory"] > 3,
        }
        if over[failure]:
            return list(plan[:number]), False
    return [*plan, "success"], True


async def carry_out(plan: Plan) -> History:
    backend = MemoryBackend(MemoryDatabase())
    await backend.create_queue(QUEUE)
    task = await backend.spawn_task(QUEUE, "task", None)
    for _ in range(40):
        plan.worker = worker_for(backend, plan)
        await plan.worker.run(until_idle=True)
        history = await backend.history(QUEUE, task.task_id)
        assert history is not None
        if history.task.state in ("completed", "failed"):
            return history
    raise AssertionError(f"not ended: {plan.met}")


plans = st.lists(st.sampled_from([*FAILURES, "interruption"]), max_size=8)


@settings(deadline=None, max_examples=examples(60))
@given(plans, plans)
def test_every_kind_gets_its_budget_and_interruptions_cost_nothing(
    convert: list[str], image: list[str]
) -> None:
    """Permanent failures are never retried, transient ones never beyond their budget."""
    plan = Plan({"convert": convert, "image": image})
    history = asyncio.run(carry_out(plan))
    met, well = expected(convert)
    assert plan.met["convert"] == met
    if well:
        met, well = expected(image)
        assert plan.met["image"] == met
    assert (history.task.state == "completed") is well
    met_in_all = [item for step in STEPS for item in plan.met[step]]
    retried = sum(item in ("transient", "unknown") for item in met_in_all[:-1])
    assert len(history.runs) == 1 + retried


async def story(backend: Backend, handler: Any, **more: Any) -> History:
    task = await backend.spawn_task(QUEUE, "task", None)
    await worker_for(backend, handler, **more).run(until_idle=True)
    history = await backend.history(QUEUE, task.task_id)
    assert history is not None
    return history


async def test_operators_retry_has_a_full_budget(backend: Backend) -> None:
    """Failures before the operator's retry no longer count."""
    ran: list[int] = []

    async def handler(params: Any, ctx: TaskContext) -> None:
        ran.append(ctx.attempt)
        raise ConnectionResetError("reset")

    history = await story(backend, handler)
    assert ran == [1, 2, 3]
    await backend.retry_task(QUEUE, history.task.task_id, {"max_attempts": 100})
    await worker_for(backend, handler).run(until_idle=True)
    assert ran == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("answer", "tries", "kind"),
    [
        (True, 3, "transient"),
        (False, 1, "permanent"),
        (0.0, 3, "transient"),
        (timedelta(0), 3, "transient"),
        (None, 2, "unknown"),
    ],
)
async def test_users_hook_decides_before_the_table(
    backend: Backend, answer: Any, tries: int, kind: str
) -> None:
    """True, False, a delay, or None; True keeps to the budget too."""
    seen: list[Evidence] = []

    def hook(evidence: Evidence) -> Any:
        seen.append(evidence)
        return answer

    history = await story(backend, fail_strangely, retry_hook=hook)
    assert [run.failure_reason["kind"] for run in history.runs] == [kind] * tries  # type: ignore[index,call-overload]
    assert seen[0].exceptions[0].message == "never seen"


def raising(error: BaseException) -> RetryHook:
    def hook(evidence: Evidence) -> bool:
        raise error

    return hook


async def async_hook(evidence: Evidence) -> bool:
    return True


BROKEN_HOOKS: dict[str, Any] = {
    "bug": raising(LookupError("a bug in the hook")),
    "exit": raising(SystemExit(1)),
    "interrupt": raising(KeyboardInterrupt()),
    "cancellation": raising(asyncio.CancelledError()),
    "coroutine": async_hook,
    "text": lambda evidence: "soon",
    "never": lambda evidence: float("inf"),
    "no number": lambda evidence: float("nan"),
    "beyond a timedelta": lambda evidence: 1e308,
    "beyond the calendar": lambda evidence: timedelta.max,
}


async def test_broken_hook_leaves_the_decision_to_the_table(backend: Backend) -> None:
    for name, hook in BROKEN_HOOKS.items():
        history = await story(backend, fail_strangely, retry_hook=hook)
        assert [run.state for run in history.runs] == ["failed", "failed"], name


async def test_listener_that_raises_anything_changes_nothing(backend: Backend) -> None:
    for error in (SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError(), RunReleased()):

        async def listen(*_: Any, error: BaseException = error) -> None:
            raise error

        history = await story(backend, fail_strangely, on_failure=listen)
        assert [run.state for run in history.runs] == ["failed", "failed"], error


@pytest.mark.parametrize("error", [BackendUnavailable("away"), RegistryAwayError("r", "away", "")])
async def test_listener_whose_database_is_away_leaves_no_traceback(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def listen(*_: Any) -> None:
        raise error

    backend = MemoryBackend(MemoryDatabase())
    await backend.create_queue(QUEUE)
    await story(backend, fail_strangely, on_failure=listen)
    records = [each for each in caplog.records if "noted elsewhere: away" in each.getMessage()]
    assert [each.exc_info for each in records] == [None]


async def fail_strangely(params: Any, ctx: TaskContext) -> None:
    raise RuntimeError("never seen")


async def test_delay_of_the_hook_is_kept(backend: Backend) -> None:
    history = await story(backend, fail_strangely, retry_hook=lambda evidence: 3600.0)
    failed, waiting = history.runs
    assert failed.failed_at is not None
    waits = waiting.available_at - failed.failed_at
    assert timedelta(seconds=3590) < waits <= timedelta(seconds=3600)


async def test_waits_outside_a_tracked_step_are_bounded(backend: Backend) -> None:
    """A handler written for the SDK has no tracked steps, and must not wait for ever."""
    tries = 0

    async def handler(params: Any, ctx: TaskContext) -> None:
        nonlocal tries
        tries += 1
        raise OSError(errno.ENOSPC, "full")

    history = await story(backend, handler)
    assert (tries, history.task.state) == (POLICY.resource_waits_max + 1, "failed")


def test_waits_for_a_resource_grow_and_differ_between_tasks() -> None:
    """Workers that met the same full disk met it again in the same second, for ever."""
    policy = RetryPolicy()
    assert [policy.resource_delay_seconds(waits, 0.0) for waits in (0, 1, 2, 3, 289)] == [
        *(60.0, 120.0, 240.0, 300.0, 300.0),
    ]
    day = sum(policy.resource_delay_seconds(n, 0.0) for n in range(policy.resource_waits_max))
    assert day == pytest.approx(86_400, rel=0.01)
    assert policy.resource_delay_seconds(0, 1.0) == 75.0


async def test_two_tasks_that_lack_the_same_resource_come_back_apart(backend: Backend) -> None:
    async def handler(params: Any, ctx: TaskContext) -> None:
        raise OSError(errno.ENOSPC, "full")

    delays = []
    for _ in range(2):
        before = await backend.current_time()
        history = await story(backend, handler, policy=RetryPolicy())
        delays.append((history.runs[-1].available_at - before).total_seconds())
    assert all(60.0 <= delay <= 76.0 for delay in delays)
    assert abs(delays[0] - delays[1]) > 1e-3


async def test_shortage_can_be_set_to_fail(backend: Backend) -> None:
    async def handler(params: Any, ctx: TaskContext) -> None:
        raise OSError(errno.ENOSPC, "full")

    history = await story(backend, handler, policy=RetryPolicy(resource_waits_max=0))
    assert history.task.state == "failed"


# -- steps that change between attempts ----------------------------------------------------


def changing(first: Sequence[str], later: Sequence[str]) -> Any:
    """A handler whose steps are `first`, then a failure, and `later` from then on."""

    async def handler(params: Any, ctx: TaskContext) -> list[Any]:
        names = first if ctx.attempt == 1 else later
        got = [await ctx.step(name, value(f"{name} {place}")) for place, name in enumerate(names)]
        if ctx.attempt == 1:
            raise ConnectionResetError("reset")
        return got

    return handler


def value(text: str) -> Any:
    async def give() -> str:
        return text

    return give


CHANGES = [
    (("load", "save"), ("load", "store"), "'store' has no checkpoint"),
    (("load", "save", "load"), ("load", "load", "save"), "'load#2' was completed later"),
    (("load", "save"), ("load",), "ended without asking for: 'save'"),
    (("load", "save"), ("check", "load", "save"), "'check' has no checkpoint"),
]


@pytest.mark.parametrize(("first", "later", "says"), CHANGES)
async def test_changed_steps_are_reported(
    backend: Backend, first: Sequence[str], later: Sequence[str], says: str
) -> None:
    """Renamed, reordered, removed or inserted: the task goes on, and its history says so."""
    history = await story(backend, changing(first, later))
    assert history.task.state == "completed"
    states = {checkpoint.checkpoint_name: checkpoint.state for checkpoint in history.checkpoints}
    assert says in states[STEPS_CHANGED]["difference"]  # type: ignore[index,call-overload,operator]


@pytest.mark.parametrize(("first", "later", "says"), CHANGES)
async def test_changed_steps_can_fail_the_task(
    backend: Backend, first: Sequence[str], later: Sequence[str], says: str
) -> None:
    """Before the handler gets the value of another step."""
    history = await story(backend, changing(first, later), strict_steps=True)
    assert history.task.state == "failed"
    assert history.runs[-1].failure_reason["rule"] == "steps-changed"  # type: ignore[index,call-overload]
    assert says in history.runs[-1].failure_reason["message"]  # type: ignore[index,call-overload,operator]


async def test_concurrent_steps_keep_no_order(backend: Backend) -> None:
    """Each attempt asks for all at the same moment; what was quicker was completed before."""
    limit = asyncio.Semaphore(2)

    async def handler(params: Any, ctx: TaskContext) -> Any:
        async def branch(name: str, seconds: float) -> Any:
            async def work() -> str:
                await asyncio.sleep(seconds)
                return name

            async with limit:
                return [await ctx.step(name, work), await ctx.step(f"{name} again", work)]

        slow, *quick = (branch(name, delay) for name, delay in (("a", 0.05), ("b", 0), ("c", 0)))
        results = await asyncio.gather(slow, *quick)
        if ctx.attempt == 1:
            raise ConnectionError("after all")
        return results

    history = await story(backend, handler, strict_steps=True)
    assert history.task.completed_payload == [[name, name] for name in "abc"]
    saved = [checkpoint.checkpoint_name for checkpoint in history.checkpoints]
    assert STEPS_CHANGED not in saved


async def test_a_step_that_ends_while_a_failure_is_noted_is_not_named(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failure named no step then."""
    is_noted, earlier_reasons = asyncio.Event(), FailureHandler._earlier_reasons
    ended = asyncio.Event()

    async def read_slowly(self: FailureHandler, claimed: Any) -> Any:
        is_noted.set()
        await ended.wait()
        return await earlier_reasons(self, claimed)

    async def handler(params: Any, ctx: TaskContext) -> None:
        async def fail() -> None:
            raise ValueError("by a")

        async def go_on() -> None:
            await ctx.step("c", is_noted.wait)
            ended.set()

        await asyncio.gather(go_on(), ctx.step("a", fail))

    monkeypatch.setattr(FailureHandler, "_earlier_reasons", read_slowly)
    history = await story(backend, handler)
    assert history.runs[-1].failure_reason["step"] == "a"  # type: ignore[index,call-overload]


@pytest.mark.parametrize("is_wrapped", [False, True])
async def test_a_failure_names_the_concurrent_step_that_failed(
    backend: Backend, is_wrapped: bool
) -> None:
    """It named the step that had begun last, or none after another one had ended."""

    async def handler(params: Any, ctx: TaskContext) -> Any:
        async def fail() -> None:
            await asyncio.sleep(0.01)
            raise ValueError("by a")

        async def end() -> str:
            return "done"

        async def wait() -> None:
            await asyncio.sleep(0.1)

        steps = (("a", fail), ("b", end), ("c", wait))
        try:
            await asyncio.gather(*(ctx.step(name, work) for name, work in steps))
        except ValueError as error:
            if is_wrapped:
                raise TypeError("of its steps") from error
            raise

    history = await story(backend, handler)
    assert history.task.state == "failed"
    assert history.runs[-1].failure_reason["step"] == "a"  # type: ignore[index,call-overload]


async def test_unchanged_steps_are_not_reported(backend: Backend) -> None:
    """Also where more steps follow in a later attempt."""
    history = await story(backend, changing(("a", "b", "a"), ("a", "b", "a", "c")))
    assert STEPS_CHANGED not in {checkpoint.checkpoint_name for checkpoint in history.checkpoints}
    assert history.task.completed_payload == ["a 0", "b 1", "a 2", "c 3"]
