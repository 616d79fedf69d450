"""The official SDK runs on the emulator: everything in its public API, and its own examples."""

from __future__ import annotations

import ast
import asyncio
import importlib.metadata
import inspect
import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import absurd_sdk
import pytest
from absurd_sdk import Absurd, AsyncAbsurd

from absurd_contimg.backends.memory import MemoryDatabase

POLL_SECONDS = 0.005


@pytest.fixture
def db() -> MemoryDatabase:
    return MemoryDatabase(seed=3)


@pytest.fixture
def app(db: MemoryDatabase) -> Iterator[Absurd]:
    app = Absurd(db.connect(autocommit=True))
    app.create_queue()
    yield app
    app.close()


def examples() -> list[str]:
    """The Python blocks of the SDK's own documentation."""
    text = importlib.metadata.metadata("absurd-sdk").get_payload() or importlib.metadata.metadata(
        "absurd-sdk"
    ).get("Description")
    return re.findall(r"```python\n(.*?)```", str(text), re.DOTALL)


ORDER = {"order_id": "42", "amount": 9.5, "items": ["a"], "email": "x@example.org"}


def finish_order(app: Absurd) -> Any:
    """Spawn the example's task, emit what it waits for, and return its result."""
    spawned = app.spawn("order-fulfillment", ORDER, queue="default")
    app.emit_event("shipment.packed:42", {"tracking_number": "T1"})
    final = app.await_task_result(spawned["task_id"], timeout=20)
    assert final.state == "completed"
    return final.result


def assert_order(result: Any) -> None:
    assert result["payment"] == {"payment_id": "pay-42", "amount": 9.5}
    assert result["inventory"] == {"reserved_items": ["a"]}
    assert result["notification"]["tracking_number"] == "T1"


def test_sync_quick_start_runs_as_it_stands(db: MemoryDatabase) -> None:
    """The first example, word for word, with its URL."""
    namespace: dict[str, Any] = {}
    with db.patch_connect():
        client = Absurd("postgresql://localhost/absurd")
        client.create_queue("default")
        worker = threading.Thread(target=exec, args=(examples()[0], namespace))
        worker.start()
        try:
            assert_order(finish_order(client))
        finally:
            namespace["app"].stop_worker()
            worker.join(10)
    assert not worker.is_alive()


def test_async_quick_start_runs_as_it_stands(db: MemoryDatabase) -> None:
    """The second example, word for word, with its URL and its ``await`` at the top."""
    namespace: dict[str, Any] = {}
    code = compile(examples()[1], "<example>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)

    async def run() -> Any:
        task = asyncio.ensure_future(eval(code, namespace))
        result = await asyncio.to_thread(finish_order, client)
        namespace["app"].stop_worker()
        await task
        return result

    with db.patch_connect():
        client = Absurd("postgresql://localhost/absurd")
        client.create_queue("default")
        assert_order(asyncio.run(run()))


@pytest.mark.parametrize("number", [2, 3])
def test_shorter_examples_run(app: Absurd, number: int) -> None:
    """The examples of ``@step`` and of split steps."""
    exec(examples()[number], {"app": app})
    name = {2: "my-task", 3: "agent-turn"}[number]
    spawned = app.spawn(name, {"turn": 3})
    app.work_batch()
    snapshot = app.fetch_task_result(spawned["task_id"])
    assert snapshot is not None
    assert snapshot.state == "completed"
    assert snapshot.result == ({"value": 84} if number == 2 else {"persisted": {"turn": 3}})


def test_public_api_has_no_method_that_is_not_tried() -> None:
    """A new method of the SDK fails here until it is tried below."""
    tried = {
        "register_task",
        "create_queue",
        "set_queue_policy",
        "get_queue_policy",
        "drop_queue",
        "list_queues",
        "spawn",
        "fetch_task_result",
        "await_task_result",
        "emit_event",
        "retry_task",
        "cancel_task",
        "claim_tasks",
        "work_batch",
        "start_worker",
        "stop_worker",
        "close",
        "make_async",
        "make_sync",
    }
    for kind in (Absurd, AsyncAbsurd):
        public = {name for name, _ in inspect.getmembers(kind, callable) if name[0] != "_"}
        assert public <= tried


def test_queues_and_policies(app: Absurd) -> None:
    """Making, listing, setting and dropping queues."""
    app.create_queue(
        "parted", storage_mode="partitioned", cleanup_ttl="2 days", detach_mode="empty"
    )
    assert sorted(app.list_queues()) == ["default", "parted"]
    app.set_queue_policy("parted", cleanup_limit=7, partition_lookahead="14 days")
    policy = app.get_queue_policy("parted")
    assert policy is not None
    assert policy["cleanup_limit"] == 7
    assert policy["storage_mode"] == "partitioned"
    app.drop_queue("parted")
    assert app.get_queue_policy("parted") is None


def test_sleep_retry_cancel_and_results(app: Absurd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sleeping until, failing with backoff, retrying by hand, cancelling."""
    start = datetime(2030, 1, 1, tzinfo=UTC)
    clock = [start]
    monkeypatch.setattr(absurd_sdk, "_get_current_time", lambda: clock[0])
    attempts: list[int] = []

    def work_after(delay: timedelta) -> None:
        clock[0] += delay
        app._conn.execute("select set_config('absurd.fake_now', %s, false)", (str(clock[0]),))
        app.work_batch()

    @app.register_task("flaky")
    def flaky(params: Any, ctx: absurd_sdk.TaskContext) -> str:
        attempts.append(len(attempts))
        ctx.sleep_until("nap", start + timedelta(hours=1))
        if len(attempts) < 4:
            raise ValueError("no")
        return "done"

    work_after(timedelta())
    strategy = absurd_sdk.RetryStrategy(kind="fixed", base_seconds=60)
    spawned = app.spawn("flaky", {}, max_attempts=2, retry_strategy=strategy)
    work_after(timedelta())
    work_after(timedelta(minutes=59))
    assert len(attempts) == 1, "asleep"
    work_after(timedelta(minutes=1))
    work_after(timedelta(seconds=59))
    assert len(attempts) == 2, "the second attempt is not due before a minute has passed"
    work_after(timedelta(seconds=1))
    snapshot = app.fetch_task_result(spawned["task_id"])
    assert snapshot is not None
    assert snapshot.state == "failed"
    assert snapshot.failure["message"] == "no"  # type: ignore[index,call-overload]
    assert app.retry_task(spawned["task_id"], max_attempts=3)["attempt"] == 3
    work_after(timedelta())
    final = app.await_task_result(spawned["task_id"], timeout=1)
    assert (final.state, final.result) == ("completed", "done")
    other = app.spawn("flaky", {})
    app.cancel_task(other["task_id"])
    cancelled = app.fetch_task_result(other["task_id"])
    assert cancelled is not None
    assert cancelled.state == "cancelled"


def test_events_timeouts_headers_hooks_and_children(db: MemoryDatabase) -> None:
    """Hooks see every spawn and every execution; parents wait for children on other queues."""
    seen: list[str] = []

    def before_spawn(name: str, params: Any, options: Any) -> Any:
        seen.append(f"spawn {name}")
        return {**options, "headers": {**(options.get("headers") or {}), "trace": "t1"}}

    def wrap(ctx: absurd_sdk.TaskContext, execute: Callable[[], Any]) -> Any:
        seen.append(f"run {ctx.headers['trace']}")
        return execute()

    app = Absurd(
        db.connect(autocommit=True),
        hooks={"before_spawn": before_spawn, "wrap_task_execution": wrap},
    )
    helpers = Absurd(db.connect(autocommit=True), queue_name="helpers")
    app.create_queue()
    helpers.create_queue()

    @helpers.register_task("child")
    def child(params: Any, ctx: absurd_sdk.TaskContext) -> Any:
        return params["n"] + 1

    @app.register_task("parent", default_max_attempts=1)
    def parent(params: Any, ctx: absurd_sdk.TaskContext) -> Any:
        assert absurd_sdk.get_current_context() is ctx
        spawned = ctx.step("spawn", lambda: str(helpers.spawn("child", {"n": 1})["task_id"]))
        helpers.work_batch()
        answer = ctx.await_task_result(spawned, queue_name="helpers", timeout=5)
        ctx.heartbeat(60)
        ctx.emit_event("parent.ready", {"child": answer.result})
        first = ctx.await_event("parent.ready")
        try:
            ctx.await_event("never", timeout=0)
        except absurd_sdk.TimeoutError:
            return [answer.result, first, "timed out"]
        return "not reached"

    spawned = app.spawn("parent", {}, idempotency_key="once")
    assert app.spawn("parent", {}, idempotency_key="once")["task_id"] == spawned["task_id"]
    app.work_batch()
    app.work_batch()
    final = app.await_task_result(spawned["task_id"], timeout=1)
    assert final.result == [2, {"child": 2}, "timed out"]
    assert seen == ["spawn parent", "spawn parent", "run t1", "run t1"]


@pytest.mark.parametrize("concurrency", [1, 4])
def test_sync_worker_with_threads(app: Absurd, concurrency: int) -> None:
    """A worker with a pool of threads on one connection."""
    threads: set[str] = set()

    @app.register_task("square")
    def square(params: Any, ctx: absurd_sdk.TaskContext) -> int:
        threads.add(threading.current_thread().name)
        return int(ctx.step("multiply", lambda: params["n"] ** 2))

    spawned = [app.spawn("square", {"n": n})["task_id"] for n in range(12)]
    worker = threading.Thread(
        target=app.start_worker, kwargs={"concurrency": concurrency, "poll_interval": POLL_SECONDS}
    )
    worker.start()
    try:
        results = [app.await_task_result(task_id, timeout=20).result for task_id in spawned]
    finally:
        app.stop_worker()
        worker.join(10)
    assert results == [n**2 for n in range(12)]
    assert concurrency == 1 or len(threads) > 1


async def test_async_client_does_the_same(db: MemoryDatabase) -> None:
    """The asynchronous client: worker with concurrency, events, results, retry, cancel."""
    app = AsyncAbsurd(await db.connect_async(autocommit=True))
    await app.create_queue()
    await app.set_queue_policy(cleanup_ttl="1 day")
    assert (await app.get_queue_policy())["cleanup_ttl"] == timedelta(days=1)  # type: ignore[index]
    running = 0
    most = 0

    @app.register_task("wait")
    async def wait(params: Any, ctx: absurd_sdk.AsyncTaskContext) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)

        async def double() -> int:
            return int(params["n"]) * 2

        doubled = await ctx.step("double", double)
        await ctx.heartbeat(60)
        running -= 1
        handle = await ctx.begin_step("note")
        if not handle.done:
            await ctx.complete_step(handle, "noted")
        payload = await ctx.await_event(f"go:{params['n']}")
        await ctx.sleep_for("pause", 0.0)
        if payload == "fail":
            raise RuntimeError("on request")
        return [doubled, payload]

    spawned = [(await app.spawn("wait", {"n": n}, max_attempts=1))["task_id"] for n in range(6)]
    worker = asyncio.ensure_future(app.start_worker(concurrency=6, poll_interval=POLL_SECONDS))
    for n in range(6):
        await app.emit_event(f"go:{n}", "fail" if n == 5 else n)
    results = [await app.await_task_result(task_id, timeout=20) for task_id in spawned]
    app.stop_worker()
    await worker
    assert [result.result for result in results[:5]] == [[2 * n, n] for n in range(5)]
    assert results[5].state == "failed"
    assert most > 1
    assert (await app.retry_task(spawned[5]))["attempt"] == 2
    await app.cancel_task(spawned[5])
    final = await app.fetch_task_result(spawned[5])
    assert final is not None
    assert final.state == "cancelled"
    assert await app.list_queues() == ["default"]
    assert await app.claim_tasks() == []
    await app.work_batch()
    await app.drop_queue()
    await app.close()


async def test_clients_of_the_other_kind(db: MemoryDatabase) -> None:
    """``make_async`` and ``make_sync`` connect by URL, which the patched connect answers."""
    with db.patch_connect():
        sync = Absurd()
        sync.create_queue()
        other = sync.make_async()
        assert await other.list_queues() == ["default"]
        assert other.make_sync().list_queues() == ["default"]


def test_unknown_tasks_are_deferred_and_bad_queues_refused(app: Absurd, db: MemoryDatabase) -> None:
    """What a worker does with a task that it does not know."""
    spawned = app.spawn("unknown", {}, queue="default")
    app.work_batch()
    snapshot = app.fetch_task_result(spawned["task_id"])
    assert snapshot is not None
    assert snapshot.state == "sleeping"
    app.cancel_task(spawned["task_id"])
    run = db.connect(autocommit=True).execute("select run_id from absurd.r_default").fetchone()
    assert run is not None
    with pytest.raises(absurd_sdk.CancelledTask):
        absurd_sdk._complete_task_run(app._conn, "default", run[0], None)  # type: ignore[arg-type]
