"""The feeder: bounded queues, nothing twice and nothing lost wherever it dies, whole cancels."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from mortal_ports import Kill, Killed, Mortal

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.records import LIVE_STATES, SpawnOptions, Task
from absurd_contimg.errors import SettingError
from absurd_contimg.ingest.batches import feed, item_key, note_ended_items, reprocessing_queue
from absurd_contimg.registry.batches import Batch, Batches, BatchState, ItemState
from absurd_contimg.registry.database import Database
from absurd_contimg.workflows.task_versions import headers_of

QUEUE = reprocessing_queue("dsa110-pipeline")


def new_batch(batch_id: str, ahead: int = 3, cap: int = 5) -> Batch:
    parameters = {"task": "pipeline", "ahead": ahead, "cap": cap}
    return Batch(batch_id, "reprocess", BatchState.ACTIVE, QUEUE, parameters, "2026-01-01")


def groups(count: int) -> list[tuple[str, dict[str, Any]]]:
    return [(f"G{number}", {"group_id": f"G{number}"}) for number in range(count)]


async def tasks_of(backend: Backend) -> list[Task]:
    if QUEUE not in await backend.list_queues():
        return []
    return await backend.list_tasks(QUEUE, limit=10_000)


async def work(backend: Backend, count: int = 1, outcome: str = "completed") -> int:
    """Claim tasks and end them; how many were there."""
    if QUEUE not in await backend.list_queues():
        return 0
    claimed = await backend.claim_task(QUEUE, "worker", 60, count)
    for task in claimed:
        if outcome == "completed":
            await backend.complete_run(QUEUE, task.run_id, {})
        else:
            await backend.fail_run_permanently(QUEUE, task.run_id, {"name": "broken"})
    return len(claimed)


@pytest.fixture
def batches(request: pytest.FixtureRequest, backend: Backend, tmp_path: Path) -> Batches:
    """The batches of an empty registry: SQLite beside the emulator, Postgres beside Postgres."""
    if isinstance(backend, MemoryBackend):
        return Batches(Database(tmp_path / "registry.sqlite3"))
    return Batches(Database(request.getfixturevalue("database_url")))


async def test_batch_is_spawned_in_chunks_in_order_and_completes(
    backend: Backend, batches: Batches
) -> None:
    """Never more waits in the queue than its bound; all items have one task each."""
    assert batches.create(new_batch("b"), groups(8))
    assert not batches.create(new_batch("b"), groups(1))
    order: list[str] = []
    for _ in range(20):
        await feed(batches, backend)
        stats = await backend.queue_stats(QUEUE)
        assert stats.tasks_by_state.get("pending", 0) <= 3
        order += [item.name for item in batches.items("b", ItemState.SPAWNED)][:1]
        await work(backend)
    assert batches.batch("b").state is BatchState.COMPLETED
    assert batches.counts("b")[ItemState.COMPLETED] == 8
    tasks = await tasks_of(backend)
    assert len(tasks) == 8
    assert {str(task.headers) for task in tasks} == {str(headers_of("pipeline"))}
    assert order[:8] == [f"G{number}" for number in range(8)]
    assert batches.unfinished() == []


async def test_tasks_that_sleep_count_for_the_cap_and_failed_ones_are_counted(
    tmp_path: Path,
) -> None:
    """Groups that wait for a calibration do not let the whole batch into the queue."""
    backend = MemoryBackend(MemoryDatabase())
    batches = Batches(Database(tmp_path / "registry.sqlite3"))
    batches.create(new_batch("b", ahead=3, cap=5), groups(20))
    for _ in range(10):
        await feed(batches, backend)
        for task in await backend.claim_task(QUEUE, "worker", 60, 10):
            await backend.await_event(QUEUE, task.task_id, task.run_id, "wait", "never", None)
    assert len(await tasks_of(backend)) == 5
    assert batches.counts("b")[ItemState.SPAWNED] == 5
    await backend.emit_event(QUEUE, "never", {})
    for _ in range(30):
        await work(backend, 10, "failed")
        await feed(batches, backend)
    assert batches.counts("b")[ItemState.FAILED] == 20
    assert batches.batch("b").state is BatchState.COMPLETED


async def test_ends_are_noted_before_retention_removes_the_tasks(
    backend: Backend, batches: Batches
) -> None:
    """What had completed while no daemon ran counted as failed at its next poll.

    So did what was retried after it had failed; and what a daemon had spawned that died before it
    could note it ran again.
    """
    batches.create(new_batch("b", ahead=4), groups(4))
    (begun,) = batches.begin_items("b", 1)
    options = SpawnOptions(idempotency_key=item_key("b", begun.position))
    await backend.create_queue(QUEUE)
    await backend.spawn_task(QUEUE, "pipeline", begun.params, options)
    await work(backend)  # nobody has noted that there is a task
    dead = batches.items("b", ItemState.SPAWNED)
    assert [item.task_id for item in dead] == [None]
    tasks = await tasks_of(backend)
    note_ended_items(batches, QUEUE, tasks)
    await feed(batches, backend)
    assert len(await tasks_of(backend)) == 4
    await work(backend, 1, "failed")
    await feed(batches, backend)
    assert batches.counts("b")[ItemState.FAILED] == 1
    (failed,) = await backend.list_tasks(QUEUE, states=["failed"])
    await backend.retry_task(QUEUE, failed.task_id)
    await work(backend, 3)
    await backend.spawn_task(QUEUE, "pipeline", {}, SpawnOptions(idempotency_key="batch:other:0"))
    stale = batches.items("b", ItemState.SPAWNED)  # as a daemon has read them that polls now
    for _ in range(2):
        note_ended_items(batches, QUEUE, await tasks_of(backend))
        assert batches.counts("b")[ItemState.COMPLETED] == 4
    batches.end_items("b", {item.position: ItemState.FAILED for item in stale})
    assert batches.counts("b")[ItemState.COMPLETED] == 4
    assert batches.batch("b").state is BatchState.COMPLETED


async def test_cancelled_batch_cancels_waiting_and_running_tasks_alike(
    backend: Backend, batches: Batches
) -> None:
    batches.create(new_batch("b"), groups(8))
    batches.create(new_batch("other"), groups(1))
    await feed(batches, backend)
    (running,) = await backend.claim_task(QUEUE, "worker", 60, 1)
    batches.change("b", BatchState.CANCELLED, "wrong settings")
    await feed(batches, backend)
    states = Counter(task.state for task in await tasks_of(backend))
    assert states == {"cancelled": 3, "pending": 1}
    result = await backend.get_task_result(QUEUE, running.task_id)
    assert result is not None
    assert result.state == "cancelled"
    assert batches.counts("b")[ItemState.CANCELLED] == 8
    assert [batch.batch_id for batch in batches.unfinished()] == ["other"]
    with pytest.raises(SettingError, match="cancelled: wrong settings"):
        batches.change("b", BatchState.ACTIVE)


async def test_paused_batch_spawns_nothing_until_it_is_resumed(
    backend: Backend, batches: Batches
) -> None:
    batches.create(new_batch("b"), groups(8))
    await feed(batches, backend)
    batches.change("b", BatchState.PAUSED, "disk")
    for _ in range(5):
        await work(backend)
        await feed(batches, backend)
    assert batches.counts("b")[ItemState.WAITING] == 5
    assert batches.counts("b")[ItemState.COMPLETED] == 3
    batches.change("b", BatchState.ACTIVE)
    await feed(batches, backend)
    assert batches.counts("b")[ItemState.WAITING] == 2


async def test_values_that_the_database_refuses_fail_their_item_alone(
    backend: Backend, batches: Batches
) -> None:
    batches.create(new_batch("b"), [("bad", {"text": "\0"}), *groups(1)])
    await feed(batches, backend)
    assert [item.state for item in batches.items("b")] == [ItemState.FAILED, ItemState.SPAWNED]


@pytest.mark.parametrize("cancel", [False, True], ids=["complete", "cancel"])
async def test_feeder_killed_at_any_call_loses_nothing_and_spawns_nothing_twice(
    tmp_path: Path, cancel: bool
) -> None:
    """Every call of every port of a feeder, before and after it takes effect."""
    database = Database(tmp_path / "registry.sqlite3")
    batches = Batches(database)
    for at in range(200):
        backend = MemoryBackend(MemoryDatabase())
        name = f"b{at}"
        batches.create(new_batch(name), groups(2))
        kill = Kill(at)
        try:
            await feed(Mortal(batches, kill), Mortal(backend, kill))
            await work(backend, 2)
            if cancel:
                batches.change(name, BatchState.CANCELLED)
            await feed(Mortal(batches, kill), Mortal(backend, kill))
        except Killed:
            if cancel and batches.batch(name).state is BatchState.ACTIVE:
                batches.change(name, BatchState.CANCELLED)
        for _ in range(2):
            await feed(batches, backend)
            await work(backend, 2)
        await feed(batches, backend)
        tasks = await tasks_of(backend)
        keys = [task.idempotency_key for task in tasks]
        assert len(keys) == len(set(keys)), at
        assert not [task for task in tasks if task.state in LIVE_STATES], at
        counts = batches.counts(name)
        assert counts[ItemState.WAITING] == counts[ItemState.SPAWNED] == 0, at
        if not cancel:
            assert set(keys) == {item_key(name, place) for place in range(2)}, at
            assert counts[ItemState.COMPLETED] == 2, at
        if not kill.killed:
            return
    raise AssertionError("the feeder makes more calls than were tried")


class FeederMachine(RuleBasedStateMachine):
    """Feeders, dying feeders, workers and operators in any order."""

    registries: list[Path] = []  # noqa: RUF012 - one for all examples

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.backend = MemoryBackend(MemoryDatabase())
        self.batches = Batches(Database(self.registries[0]))
        self.names: list[str] = []

    def teardown(self) -> None:
        """Whatever happened, all items end once the feeder and the workers are left alone."""
        for name in self.names:
            if self.batches.batch(name).state is BatchState.PAUSED:
                self.batches.change(name, BatchState.ACTIVE)
        while self.batches.unfinished():
            self.feed_all()
            self.end_tasks("completed", 10)
        states = {self.batches.batch(name).state for name in self.names}
        assert states <= {BatchState.COMPLETED, BatchState.CANCELLED}
        tasks = self.run(tasks_of(self.backend))
        assert not [task for task in tasks if task.state in LIVE_STATES]
        self.runner.close()

    def run(self, work: Any) -> Any:
        return self.runner.run(work)

    @initialize(sizes=st.lists(st.integers(0, 6), min_size=1, max_size=2))
    def create(self, sizes: list[int]) -> None:
        existing = len(self.batches.batches())
        for number, size in enumerate(sizes, existing):
            self.names.append(f"b{number}")
            assert self.batches.create(new_batch(self.names[-1]), groups(size))

    @rule()
    def feed_all(self) -> None:
        self.run(feed(self.batches, self.backend))

    @rule(at=st.integers(0, 30))
    def feed_and_die(self, at: int) -> None:
        async def die() -> None:
            kill = Kill(at)
            try:
                await feed(Mortal(self.batches, kill), Mortal(self.backend, kill))
            except Killed:
                return

        self.run(die())

    @rule(outcome=st.sampled_from(["completed", "failed"]), count=st.integers(1, 3))
    def end_tasks(self, outcome: str, count: int) -> None:
        self.run(work(self.backend, count, outcome))

    @rule(
        which=st.integers(0, 1),
        state=st.sampled_from([BatchState.ACTIVE, BatchState.PAUSED, BatchState.CANCELLED]),
    )
    def operate(self, which: int, state: BatchState) -> None:
        try:
            self.batches.change(self.names[which % len(self.names)], state)
        except SettingError:
            return

    @invariant()
    @precondition(lambda self: self.names)
    def queue_is_bounded_and_no_item_has_two_tasks(self) -> None:
        tasks = self.run(tasks_of(self.backend))
        keys = [task.idempotency_key for task in tasks]
        assert len(keys) == len(set(keys))
        assert sum(task.state == "pending" for task in tasks) <= 3
        live = Counter(
            str(task.idempotency_key).split(":")[1] for task in tasks if task.state in LIVE_STATES
        )
        assert all(count <= 5 for count in live.values())


def test_feeder_in_any_order_of_events(tmp_path: Path) -> None:
    FeederMachine.registries[:] = [tmp_path / "registry.sqlite3"]
    machine = FeederMachine.TestCase
    machine.settings = settings(max_examples=5, stateful_step_count=15, deadline=None)
    machine().runTest()


async def test_live_group_overtakes_a_backlog(backend: Backend, batches: Batches) -> None:
    """They are in a queue of their own, and the backlog is not in any."""
    live_queue = "dsa110-pipeline"
    batches.create(new_batch("backlog", ahead=3, cap=5), groups(300))
    for poll in range(3):
        await feed(batches, backend)
        live = await backend.spawn_task(live_queue, "pipeline", {"group_id": f"live {poll}"})
        (claimed,) = await backend.claim_task(live_queue, "live worker", 60, 5)
        assert claimed.task_id == live.task_id
        await backend.complete_run(live_queue, claimed.run_id, {})
        await work(backend, 2)
        stats = await backend.queue_stats(QUEUE)
        assert stats.tasks_by_state.get("pending", 0) <= 3
    assert batches.counts("backlog")[ItemState.WAITING] > 290


async def test_batch_with_unreadable_parameters_hinders_no_other_one(
    backend: Backend, batches: Batches
) -> None:
    batches.create(replace(new_batch("a"), parameters={"ahead": "many"}), groups(1))
    batches.create(new_batch("b"), groups(1))
    await feed(batches, backend)
    assert batches.counts("a")[ItemState.WAITING] == 1
    assert batches.counts("b")[ItemState.SPAWNED] == 1
