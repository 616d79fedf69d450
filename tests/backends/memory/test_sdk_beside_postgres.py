"""The SDK's public API on both kinds of connection: the same calls come to the same outcome."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import absurd_sdk
import psycopg
import pytest
from absurd_sdk import Absurd, AsyncAbsurd

from absurd_contimg.backends.memory import MemoryDatabase

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
NOW = "2030-01-01 00:00:00+00"
LATER = "2030-01-01 02:00:00+00"
AT = "select set_config('absurd.fake_now', %s, false)"
STATES = "select task_name, state, attempts from absurd.t_default order by task_id"
CONTEXT_METHODS = {
    "await_event",
    "await_task_result",
    "begin_step",
    "complete_step",
    "emit_event",
    "headers",
    "heartbeat",
    "run_step",
    "sleep_for",
    "sleep_until",
    "step",
}


class Log:
    """What happened, with ids numbered in order of their first appearance."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._ids: list[str] = []

    def note(self, what: str, value: object = None) -> None:
        self.lines.append(f"{what}: {_UUID.sub(self._number, repr(value))}")

    def error(self, what: str, error: BaseException) -> None:
        text = re.split(r"\n(?:CONTEXT|LINE|QUERY)", str(error), maxsplit=1)[0]
        self.note(what, (type(error).__name__, getattr(error, "sqlstate", None), text))

    def _number(self, match: re.Match[str]) -> str:
        if match[0] not in self._ids:
            self._ids.append(match[0])
        return f"#{self._ids.index(match[0])}"


def test_every_method_of_a_context_is_tried() -> None:
    """A new one fails here until the scenarios below try it."""
    for kind in (absurd_sdk.TaskContext, absurd_sdk.AsyncTaskContext):
        public = {name for name, _ in inspect.getmembers(kind) if name[0] != "_"}
        assert public <= CONTEXT_METHODS


def register(app: Absurd, log: Log) -> None:
    """Tasks that use every method of the context."""

    @app.register_task("steps", default_max_attempts=2)
    def steps(params: Any, ctx: absurd_sdk.TaskContext) -> Any:
        log.note("headers", dict(ctx.headers))
        first = ctx.step("add", lambda: params["n"] + 1)
        again = ctx.step("add", lambda: first + 1)

        @ctx.run_step
        def named_by_itself() -> list[Any]:
            return [first, None, "é"]

        @ctx.run_step("by-name")
        def other() -> dict[str, Any]:
            return {"x": 1.5}

        handle = ctx.begin_step("split")
        log.note("split", (handle.done, getattr(handle, "checkpoint_name", None)))
        value = handle.state if handle.done else ctx.complete_step(handle, {"done": True})
        ctx.heartbeat()
        ctx.heartbeat(30)
        ctx.emit_event("half", {"n": first})
        payload = ctx.await_event("go", step_name="wait-go")
        ctx.sleep_for("short", 60)
        ctx.sleep_until("long", 1893459600)
        return [first, again, named_by_itself, other, value, payload]

    @app.register_task("timeout")
    def timeout(params: Any, ctx: absurd_sdk.TaskContext) -> Any:
        try:
            return ctx.await_event("never", timeout=5)
        except absurd_sdk.TimeoutError as error:
            return str(error)

    @app.register_task("fails", default_max_attempts=1)
    def fails(params: Any, ctx: absurd_sdk.TaskContext) -> Any:
        raise ValueError(params["why"])

    @app.register_task("failing_child", default_cancellation={"max_delay": 60})
    def failing_child(params: Any, ctx: absurd_sdk.TaskContext) -> Any:
        return "ran"

    @app.register_task("parent")
    def parent(params: Any, ctx: absurd_sdk.TaskContext) -> Any:
        child = ctx.step("spawn", lambda: str(app.spawn("child", {}, queue="other")["task_id"]))
        try:
            return ctx.await_task_result(child, queue_name="other", timeout=0.01)
        except absurd_sdk.TimeoutError:
            return "still waiting"


def attempt(log: Log, what: str, call: Callable[[], Any]) -> Any:
    """Note what a call gives or raises."""
    try:
        value = call()
    except Exception as error:  # noqa: BLE001 - which error it is counts
        log.error(what, error)
        return None
    log.note(what, value)
    return value


def scenario(connection: Any) -> list[str]:
    """Everything in the API of `Absurd` but its endless worker, which `test_sdk` tries."""
    log = Log()
    connection.execute(AT, (NOW,))
    app = Absurd(connection, queue_name="default")
    other = Absurd(connection, queue_name="other")
    record = lambda what, call: attempt(log, what, call)  # noqa: E731
    record("no queue", lambda: app.spawn("steps", {}))
    record("create", app.create_queue)
    record("again", app.create_queue)
    record("bad name", lambda: app.create_queue(""))
    record(
        "partitioned",
        lambda: other.create_queue(
            storage_mode="partitioned", partition_lookahead="14 days", cleanup_ttl="3 days",
            cleanup_limit=5, detach_mode="empty", detach_min_age="2 days",
        ),
    )  # fmt: skip
    record("policy", lambda: app.set_queue_policy(cleanup_limit=9))
    record("bad policy", lambda: app.set_queue_policy(cleanup_limit=0))
    record("policies", lambda: [app.get_queue_policy(name) for name in ("default", "other", "no")])
    record("queues", lambda: sorted(app.list_queues()))
    register(app, log)
    spawned = record("spawn", lambda: app.spawn("steps", {"n": 1}, headers={"h": [1, None]}))
    once = lambda: app.spawn("fails", {"why": "é"}, idempotency_key="k")  # noqa: E731
    failing = record("spawn once", once)
    record("spawn once more", once)
    record("unregistered", lambda: app.spawn("nobody", {}))
    record("unregistered there", lambda: app.spawn("nobody", {}, queue="default", max_attempts=3))
    record("bad strategy", lambda: app.spawn("fails", {}, retry_strategy={"kind": "odd"}))  # type: ignore[arg-type,typeddict-item]
    record("spawn failing_child", lambda: app.spawn("failing_child", {}))
    record("spawn timeout", lambda: app.spawn("timeout", {}))
    record("spawn parent", lambda: app.spawn("parent", {}))
    record("emit", lambda: app.emit_event("go", {"v": 1}))
    record("emit twice", lambda: app.emit_event("go", {"v": 2}))
    record("emit elsewhere", lambda: app.emit_event("go", None, queue_name="other"))
    record("emit nowhere", lambda: app.emit_event("go", queue_name="no"))
    for moment in (NOW, "2030-01-01 00:00:30+00", "2030-01-01 00:01:30+00", LATER, LATER):
        connection.execute(AT, (moment,))
        for _ in range(3):
            record("work", lambda: app.work_batch("w", batch_size=4))
        record("states", lambda: connection.execute(STATES).fetchall())
    for task in (spawned, failing):
        record("result", lambda task=task: app.fetch_task_result(task["task_id"]))  # type: ignore[misc]
    record("await", lambda: app.await_task_result(spawned["task_id"], timeout=1))
    record("no such task", lambda: app.fetch_task_result("00000000-0000-0000-0000-000000000000"))
    record("bad id", lambda: app.fetch_task_result("x"))
    record("retry", lambda: app.retry_task(failing["task_id"], max_attempts=2))
    record("retry done", lambda: app.retry_task(spawned["task_id"]))
    record("claim", lambda: [sorted(task) for task in app.claim_tasks(2, 30, "me")])
    record("cancel", lambda: app.cancel_task(failing["task_id"]))
    record("cancel again", lambda: app.cancel_task(failing["task_id"]))
    record("spawn new", lambda: app.retry_task(failing["task_id"], spawn_new=True))
    record("drop", other.drop_queue)
    record("drop none", lambda: app.drop_queue("no"))
    record("states", lambda: connection.execute(STATES).fetchall())
    record("close", app.close)
    return log.lines


async def scenario_async(connection: Any) -> list[str]:
    """The shorter one of `AsyncAbsurd`, with every method of its context."""
    log = Log()
    await connection.execute(AT, (NOW,))
    app = AsyncAbsurd(connection, queue_name="default")

    async def record(what: str, waits: Any) -> Any:
        try:
            value = await waits
        except Exception as error:  # noqa: BLE001 - which error it is counts
            log.error(what, error)
            return None
        log.note(what, value)
        return value

    await record("no queue", app.list_queues())
    await record("create", app.create_queue(cleanup_ttl="1 day"))
    await record("policy", app.set_queue_policy(detach_mode="empty"))
    await record("read policy", app.get_queue_policy())

    @app.register_task("steps", default_max_attempts=2)
    async def steps(params: Any, ctx: absurd_sdk.AsyncTaskContext) -> Any:
        async def add() -> int:
            return int(params["n"]) + 1

        first = await ctx.step("add", add)
        handle = await ctx.begin_step("split")
        value = handle.state if handle.done else await ctx.complete_step(handle, [None])
        await ctx.heartbeat()
        await ctx.emit_event("half", {"n": first})
        half = await ctx.await_event("half")
        payload = await ctx.await_event("go", step_name="g", timeout=600)
        await ctx.sleep_for("short", 60)
        await ctx.sleep_until("long", 1893459600)
        if params["n"] == 2:
            raise RuntimeError("two")
        return [first, value, half, payload, dict(ctx.headers)]

    @app.register_task("parent")
    async def parent(params: Any, ctx: absurd_sdk.AsyncTaskContext) -> Any:
        try:
            return await ctx.await_task_result(params["of"], queue_name="other", timeout=0.01)
        except Exception as error:  # noqa: BLE001 - which error it is counts
            return type(error).__name__

    tasks = [
        await record("spawn", app.spawn("steps", {"n": n}, headers={"n": n}, max_attempts=1))
        for n in (1, 2)
    ]
    await record("emit", app.emit_event("go", [1]))
    await record("parent", app.spawn("parent", {"of": tasks[0]["task_id"]}, max_attempts=1))
    for moment in (NOW, "2030-01-01 00:01:30+00", LATER, LATER):
        await connection.execute(AT, (moment,))
        await record("work", app.work_batch("w", batch_size=5))
        rows = await connection.execute(STATES)
        log.note("states", await rows.fetchall())
    for task in tasks:
        await record("result", app.fetch_task_result(task["task_id"]))
        await record("await", app.await_task_result(task["task_id"], timeout=1))
    await record("retry", app.retry_task(tasks[1]["task_id"], max_attempts=3))
    await record("cancel", app.cancel_task(tasks[1]["task_id"]))
    await record("claim", app.claim_tasks(1, 30, "me"))
    await record("drop", app.drop_queue())
    await record("close", app.close())
    return log.lines


@pytest.mark.parametrize("rows", ["tuple_row", "dict_row"])
def test_sync_client(database_url: str, rows: str) -> None:
    """Whatever the row factory of the connection."""
    factory = getattr(psycopg.rows, rows)
    with (
        psycopg.connect(database_url, autocommit=True, row_factory=factory) as real,
        MemoryDatabase().connect(autocommit=True, row_factory=factory) as emulated,
    ):
        expected = scenario(real)
        assert scenario(emulated) == expected
    assert len(expected) > 60


async def test_async_client(database_url: str) -> None:
    """The same calls, the same outcome."""
    real = await psycopg.AsyncConnection.connect(database_url, autocommit=True)
    expected = await scenario_async(real)
    assert await scenario_async(await MemoryDatabase().connect_async(autocommit=True)) == expected
    assert len(expected) > 20
