"""Whatever a handler raises is recorded, and its task ends."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from types import MappingProxyType
from typing import Any, Never
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase, jsonb
from absurd_contimg.core import failures
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.jsonb_sanitizer import sanitized
from absurd_contimg.core.records import History
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings

QUEUE = "dsa110-pipeline"


class Speechless(Exception):
    """An error whose ``str()`` fails."""

    def __str__(self) -> str:
        raise ZeroDivisionError("a bug in the error")


class Loose(Exception):
    """An error of a user that brings details of its own, none of them JSON."""

    @property
    def failure_details(self) -> dict[str, Any]:
        return {"where": object(), "how much": float("nan")}


def chain(length: int) -> Exception:
    """A long chain of causes, as from a retry loop that keeps the last error."""
    error = OSError(errno.ENOENT, "gone")
    for number in range(length):
        outer = RuntimeError(f"try {number}")
        outer.__cause__ = error
        error = outer  # type: ignore[assignment]
    return error


def circle() -> Exception:
    first, other = RuntimeError("one"), RuntimeError("other")
    first.__cause__, other.__cause__ = other, first
    return first


def nested_groups(depth: int) -> Exception:
    error: Exception = ValueError("c")
    for _ in range(depth):
        error = ExceptionGroup("a", [error])
    return error


class Hostile(Exception):
    """An error all of whose own methods and attributes fail."""

    def __str__(self) -> str:
        raise SystemExit(7)

    __repr__ = __str__

    @property
    def evidence(self) -> Any:
        raise KeyError("a bug")

    failure_details = evidence


class HostileMapping(dict[Any, Any]):
    """A result that is no mapping once it is read."""

    def items(self) -> Any:
        raise ValueError("a bug")

    __iter__ = keys = values = items


class BadDetails(Exception):
    """Its details have a name that no database takes, and a number that nothing prints."""

    failure_details = MappingProxyType({"a\0b": 1, 5: 10**5000, "m": HostileMapping(a=1)})


class Own(BaseException):
    """A user's exception that no ``except Exception`` catches."""


PLACES = ("result", "step", "tracked step", "event", "child")
ENDS = (Own, SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError)
METHODS = (
    "__str__", "__repr__", "evidence", "failure_details", "failed_path", "items", "errno",
    "filename", "__cause__", "__context__", "exceptions", "__class__", "details' __repr__",
)  # fmt: skip


def hostile(method: str, end: type[BaseException]) -> BaseException:
    """An error one of whose methods or attributes raises what would end the process."""

    def fail(*_: object) -> Never:
        raise end

    base: type[BaseException] = RuntimeError
    if method in ("errno", "filename"):
        base = OSError
    elif method in ("__str__", "__repr__"):
        base = Own
    if method == "exceptions":
        kind: Any = type("Group", (ExceptionGroup,), {"exceptions": property(fail)})
        return kind("g", [ValueError()])  # type: ignore[no-any-return]
    members: dict[str, Any] = {method: property(fail)}
    if method in ("__str__", "__repr__"):
        members = {"__str__": fail, "__repr__": fail}
    elif method == "items":
        members = {"failure_details": type("Details", (dict,), {"items": fail})(a=1)}
    elif method == "details' __repr__":
        members = {"failure_details": {"a": type("Detail", (), {"__repr__": fail})()}}
    return type("Error", (base,), members)()


def with_note(text: str) -> Exception:
    error = ValueError("x")
    error.add_note(text)
    return error


def raises(make: Callable[[], BaseException]) -> Callable[[Any, TaskContext], Any]:
    async def handler(params: Any, ctx: TaskContext) -> None:
        raise make()

    return handler


def system_exit() -> Never:
    """CASA and old scripts end their process where they should raise."""
    raise SystemExit(3)


ODD: dict[str, tuple[Callable[[], BaseException], str]] = {
    "NUL in the text": (lambda: ValueError("no magic value found in \0\0\1"), "wrong-value"),
    "file name that is no UTF-8": (
        lambda: FileNotFoundError(errno.ENOENT, "gone", os.fsdecode(b"/d/\xff\xfe.ms")),
        "path-missing",
    ),
    "text that cannot be had": (Speechless, "unrecognised"),
    "errno that is no number": (lambda: OSError("x", "y"), "unrecognised"),
    "errno of 5001 digits": (lambda: OSError(10**5000, "x"), "unrecognised"),
    "errno true": (lambda: OSError(True, "x"), "unrecognised"),
    "file name that is a hostile object": (
        lambda: FileNotFoundError(errno.ENOENT, "gone", Hostile()),
        "path-missing",
    ),
    "nothing but errors": (Hostile, "unrecognised"),
    "details that are refused": (BadDetails, "unrecognised"),
    "1500 groups in groups": (lambda: nested_groups(1500), "wrong-value"),
    "class name with NUL": (lambda: type("A\0\udc80", (ValueError,), {})("x"), "wrong-value"),
    "note of 2 MB": (lambda: with_note("x" * 2_000_000), "wrong-value"),
    "errno that is a list": (lambda: OSError(["x"], "y"), "unrecognised"),
    "details that are no JSON": (Loose, "unrecognised"),
    "text of 3 MB": (lambda: ValueError("x" * 3_000_000), "wrong-value"),
    "5000 causes": (lambda: chain(5000), "path-missing"),
    "causes in a circle": (circle, "unrecognised"),
    "group of groups": (
        lambda: ExceptionGroup("a", [ExceptionGroup("b", [ValueError("c")])]),
        "wrong-value",
    ),
    "end of the process": (system_exit, "unrecognised"),
    "group with an end of the process": (
        lambda: BaseExceptionGroup("a", [SystemExit(3)]),
        "unrecognised",
    ),
}


async def test_unusual_exception_is_recorded_like_any_other(backend: Backend) -> None:
    """Otherwise the lease would expire, and the same would happen for ever."""
    for name, (make, rule) in ODD.items():
        history = await story(backend, raises(make))
        assert history.task.state == "failed", name
        reasons: list[Any] = [run.failure_reason for run in history.runs]
        assert {reason["rule"] for reason in reasons} == {rule}, name
        assert all(len(str(reason)) < 200_000 for reason in reasons), name


async def test_error_whose_methods_would_end_the_process(backend: Backend) -> None:
    for method, end in itertools.product(METHODS, (Own, SystemExit, asyncio.CancelledError)):
        history = await story(backend, raises(partial(hostile, method, end)))
        assert history.task.state == "failed", (method, end)
        assert all(run.failure_reason for run in history.runs)


async def test_value_whose_methods_would_end_the_process(backend: Backend) -> None:
    for where, end in itertools.product(PLACES, (Own, SystemExit, asyncio.CancelledError)):

        def fail(*_: object, end: type[BaseException] = end) -> Never:
            raise end

        kind = type("Result", (dict,), {"items": fail, "__iter__": fail, "values": fail})
        history = await story(backend, giving(where, lambda kind=kind: kind(a=1)))  # type: ignore[misc]
        assert history.task.state == "failed", (where, end)
        (run,) = history.runs
        assert isinstance(run.failure_reason, dict)
        assert run.failure_reason["rule"] == "wrong-value"


async def test_handler_that_raises_what_would_end_the_process(backend: Backend) -> None:
    """In plain code and in a tracked step."""
    for end in ENDS[:-1]:

        async def fail(_start: int, end: type[BaseException] = end) -> Never:
            raise end

        async def tracked(params: Any, ctx: TaskContext, step: Any = fail) -> None:
            await ctx.tracked_step("image", step)

        for handler in (raises(end), tracked):
            history = await story(backend, handler)
            assert history.task.state == "failed", end
            assert all(run.failure_reason for run in history.runs)


CYCLE: list[Any] = []
CYCLE.append(CYCLE)
DEEP: Any = []
for _ in range(900):
    DEEP = [DEEP]
RESULTS: dict[str, Callable[[], Any]] = {
    "no JSON": object,
    "bytes": lambda: b"x",
    "NaN": lambda: {"a": float("nan")},
    "infinity": lambda: [float("-inf")],
    "cyclic": lambda: CYCLE,
    "900 levels": lambda: DEEP,
    "5001 digits": lambda: 10**5000,
    "1000 digits": lambda: 10**999,
    "NUL": lambda: "a\0b",
    "surrogate": lambda: {"\ud800": 1},
    "key that is a tuple": lambda: {(1, 2): 3},
    "keys that coincide": lambda: {"a": [{1: "a", "1": "b"}]},
    "mapping that fails": lambda: HostileMapping(a=1),
    "set": lambda: {1},
    "17 MB": lambda: "x" * 17 * 2**20,
}


async def test_value_that_is_no_json_fails_its_task_at_once(backend: Backend) -> None:
    """By a rule, in one attempt; the next task finds the worker well."""
    for place, (where, name) in enumerate(itertools.product(PLACES, RESULTS)):
        if where != "step" and ("MB" in name or place % 3):  # each value in two or three places
            continue
        make = RESULTS[name]
        history = await story(backend, giving(where, make))
        assert history.task.state == "failed", (where, name)
        (run,) = history.runs
        assert isinstance(run.failure_reason, dict)
        assert run.failure_reason["rule"] == "wrong-value", (where, name, run.failure_reason)


def giving(where: str, make: Callable[[], Any]) -> Any:
    """A handler that gives a value to the database in this way."""

    async def value(_start: int = 0) -> Any:
        return make()

    async def handler(params: Any, ctx: TaskContext) -> Any:
        match where:
            case "step":
                await ctx.step("image", value)
            case "tracked step":
                await ctx.tracked_step("image", value)
            case "event":
                await ctx.emit_event("e", make())
            case "child":
                await ctx.spawn("child", make())
        return make()

    return handler


async def test_failure_whose_record_is_refused_is_recorded_in_a_reduced_form(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the sanitizer lets pass: the kind stays, the task ends."""
    monkeypatch.setattr(failures, "sanitized", lambda value, _depth=0: value)

    class Refused(ValueError):
        failure_details = MappingProxyType({"a": 1})

        def __str__(self) -> str:
            return "a\0b"

    history = await story(backend, raises(Refused))
    (run,) = history.runs
    assert isinstance(run.failure_reason, dict)
    assert run.failure_reason["rule"] == "wrong-value"
    assert "Refused, whose record was refused" in run.failure_reason["message"]


class Text(str):
    """A text with a bug."""

    def __len__(self) -> int:
        raise ValueError("a bug")


anything = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(st.characters()) | st.binary()
    | st.builds(Hostile) | st.builds(Text, st.text())
    | st.sampled_from([name for name in RESULTS if "MB" not in name]).map(lambda n: RESULTS[n]()),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner)
    | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)  # fmt: skip
exceptions = st.builds(
    lambda kind, arguments: kind(*arguments),
    st.sampled_from([ValueError, OSError, RuntimeError, ConnectionResetError, BadDetails]),
    st.lists(anything, max_size=3),
)


@settings(max_examples=40, deadline=None)
@given(exceptions | st.builds(lambda e: ExceptionGroup("g", [e]), exceptions), st.booleans())
def test_every_failure_is_recorded_and_every_task_ends(error: Exception, caused: bool) -> None:
    async def run() -> History:
        backend = MemoryBackend(MemoryDatabase())
        await backend.create_queue(QUEUE)

        async def handler(params: Any, ctx: TaskContext) -> None:
            if caused:
                raise RuntimeError from error
            raise error

        return await story(backend, handler)

    history = asyncio.run(run())
    assert history.task.state == "failed"
    assert all(run.failure_reason for run in history.runs)


@pytest.mark.parametrize(
    ("errors", "text"),
    [
        ([ValueError("b is wrong")], "work (1 sub-exception): ValueError: b is wrong"),
        ([ExceptionGroup("inner", [KeyError("c")])], "work (1 sub-exception): KeyError: 'c'"),
        (
            [ValueError(str(number)) for number in range(5)],
            "work (5 sub-exceptions): ValueError: 0; ValueError: 1; ValueError: 2; 2 more",
        ),
    ],
)
async def test_members_of_a_group_are_in_its_message(
    backend: Backend, errors: list[Exception], text: str
) -> None:
    """A `TaskGroup` around steps said only that it has a sub-exception."""

    async def handler(_params: Any, _ctx: TaskContext) -> None:
        raise ExceptionGroup("work", errors)

    task = await backend.spawn_task(QUEUE, "task", None)
    history = await work(backend, handler, task.task_id)
    reason: Any = history.runs[0].failure_reason
    assert reason["message"] == text


async def test_suspend_in_a_task_group_is_no_failure(backend: Backend) -> None:
    """A `TaskGroup` wraps it in a group, which is no `ControlFlow`."""

    async def handler(params: Any, ctx: TaskContext) -> str:
        async with asyncio.TaskGroup() as group:
            group.create_task(ctx.sleep_for("nap", 0.05))
            group.create_task(asyncio.sleep(0))
        return "awake"

    task = await backend.spawn_task(QUEUE, "task", None)
    for _ in range(100):
        history = await work(backend, handler, task.task_id)
        if history.task.state == "completed":
            break
        await asyncio.sleep(0.01)
    assert (history.task.completed_payload, len(history.runs)) == ("awake", 1)


async def test_stop_in_a_task_group_releases_the_run(backend: Backend) -> None:
    """At the start of a tracked step, where the worker is about to stop."""
    workers: list[Worker] = []

    async def begin(start: int) -> None:
        raise AssertionError("it must not begin")

    async def handler(params: Any, ctx: TaskContext) -> None:
        workers[0].stop()
        async with asyncio.TaskGroup() as group:
            group.create_task(ctx.tracked_step("image", begin))

    task = await backend.spawn_task(QUEUE, "task", None)
    history = await work(backend, handler, task.task_id, workers)
    assert [run.state for run in history.runs] == ["sleeping"]
    assert history.runs[0].available_at < datetime.now(UTC) + timedelta(seconds=1)


json_and_worse = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters())
    | st.text(st.sampled_from("\0\ud800\udfffa")) | st.binary() | st.builds(object),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner)
    | st.tuples(inner),
    max_leaves=10,
)  # fmt: skip


@given(json_and_worse)
def test_jsonb_takes_every_sanitized_value(value: object) -> None:
    """With the emulator's jsonb, which is compared with Postgres'."""
    jsonb.dumps(sanitized(value))


plain_json = st.recursive(
    st.integers() | st.text(st.characters(codec="utf-8", min_codepoint=1)),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("abc"), inner),
    max_leaves=10,
)


@given(plain_json)
def test_sanitizing_keeps_what_jsonb_takes(value: object) -> None:
    assert sanitized(value) == value


async def story(backend: Backend, handler: Any) -> History:
    task = await backend.spawn_task(QUEUE, "task", None)
    return await work(backend, handler, task.task_id)


async def work(
    backend: Backend, handler: Any, task_id: UUID, workers: list[Worker] | None = None
) -> History:
    tasks = TaskRegistry()
    tasks.add("task", handler)
    settings = WorkerSettings(QUEUE, "worker-1", poll_interval_seconds=0.001)
    worker = Worker(backend, tasks, settings, policy=RetryPolicy(backoff_first_seconds=0.0))
    if workers is not None:
        workers.append(worker)
    await worker.run(until_idle=True)
    history = await backend.history(QUEUE, task_id)
    assert history is not None
    return history
