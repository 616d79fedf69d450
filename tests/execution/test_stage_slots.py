"""Limits by resource: never more slots than the limit, and none for a dead holder."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_stages import Make

from absurd_contimg.config import PathsConfig, PipelineConfig
from absurd_contimg.core.records import Json
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.executor import StageReport, StageRequest
from absurd_contimg.execution.processes import uninterrupted
from absurd_contimg.execution.runner import StageRunner
from absurd_contimg.execution.scratch import ScratchOwner
from absurd_contimg.execution.stage_slots import StageSlots
from absurd_contimg.registry.database import Database
from absurd_contimg.registry.resource_slots import ResourceSlots

FORK = multiprocessing.get_context("fork")
"""Without the second that a new interpreter needs to import the registry."""


class Fence:
    """Stands for a lease of this length."""

    def __init__(self, seconds: float = 60.0) -> None:
        self.seconds = seconds

    async def __call__(self) -> None:
        """Extend nothing."""


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty registry."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'registry.sqlite3'}"
    return str(request.getfixturevalue("database_url"))


def stage_slots(url: str, limit: int = 1) -> StageSlots:
    return StageSlots(ResourceSlots(Database(url)), {"imaging": limit}, poll_seconds=0.1)


async def hold_for_ever(url: str, holder: str, seconds: float) -> None:
    async with stage_slots(url).held("imaging", holder, Fence(seconds), uninterrupted):
        await asyncio.Event().wait()


def hold_in_process(url: str, holder: str, seconds: float) -> None:
    asyncio.run(hold_for_ever(url, holder, seconds))


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_slot_of_a_killed_holder_and_place_of_a_killed_waiter_end_with_the_lease(
    url: str,
) -> None:
    """SIGKILL for both; the slot is held until then, and no earlier is it given away."""
    store = ResourceSlots(Database(url))
    holder = FORK.Process(target=hold_in_process, args=(url, "killed", 1.5))
    waiter = FORK.Process(target=hold_in_process, args=(url, "killed waiter", 1.5))
    holder.start()
    wait_for(lambda: [slot.taken for slot in store.slots()] == [True])
    waiter.start()
    wait_for(lambda: [slot.taken for slot in store.slots()] == [True, False])
    time.sleep(2.0)  # longer than the slot: it is renewed
    assert [slot.holder for slot in store.slots()] == ["killed", "killed waiter"]
    holder.kill()
    waiter.kill()
    killed_at = time.monotonic()
    holder.join()
    waiter.join()
    assert store.take("imaging", "next", 1, 60.0) == ["killed"]
    wait_for(lambda: not store.take("imaging", "next", 1, 60.0))
    assert time.monotonic() - killed_at > 0.5
    assert [slot.holder for slot in store.slots()] == ["next"]


async def test_no_more_stages_run_than_the_limit_and_they_run_in_order_of_arrival(
    url: str,
) -> None:
    slots, store = stage_slots(url, 2), ResourceSlots(Database(url))
    started: list[int] = []
    ends = [asyncio.Event() for _ in range(5)]

    async def work(number: int) -> None:
        async with slots.held("imaging", f"stage {number}", Fence(), uninterrupted):
            started.append(number)
            await ends[number].wait()

    tasks = []
    for number in range(5):  # each arrives when the one before it has its place
        tasks.append(asyncio.create_task(work(number)))
        while len(store.slots()) <= number:
            await asyncio.sleep(0.01)
    for number, end in enumerate(ends):
        while len(started) < min(number + 2, 5):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)  # two polls of those that wait
        assert started == list(range(min(number + 2, 5)))
        end.set()
    await asyncio.gather(*tasks)
    assert store.slots() == []


async def test_cancelled_and_failed_stages_release_their_slots(url: str) -> None:
    store = ResourceSlots(Database(url))
    holding = asyncio.create_task(hold_for_ever(url, "holder", 60.0))
    while not store.slots():
        await asyncio.sleep(0.01)
    waiting = asyncio.create_task(hold_for_ever(url, "waiter", 60.0))
    while len(store.slots()) < 2:
        await asyncio.sleep(0.01)
    for task in (waiting, holding):
        task.cancel()
        await asyncio.wait({task})
    assert store.slots() == []
    with pytest.raises(ValueError, match="bad data"):
        async with stage_slots(url).held("imaging", "failing", Fence(), uninterrupted):
            raise ValueError("bad data")
    assert store.slots() == []


async def test_resource_without_a_limit_asks_nobody() -> None:
    class Store:
        def take(self, *_: object) -> Sequence[str]:
            raise AssertionError("asked")

        def release(self, *_: object) -> None:
            raise AssertionError("asked")

    async with StageSlots(Store(), {}).held("imaging", "stage", None, uninterrupted):
        pass


def test_slots_follow_a_model_of_a_line(tmp_path: Path) -> None:
    """Any order of calls: at most `limit` hold, and the first of the line gets a free slot."""
    database = Database(tmp_path / "registry.sqlite3")

    @settings(max_examples=10, deadline=None)
    @given(
        st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=12),
        st.integers(1, 2),
        st.uuids().map(str),
    )
    def check(calls: list[tuple[bool, int]], limit: int, resource: str) -> None:
        store = ResourceSlots(database)
        taken: list[str] = []
        line: list[str] = []
        for takes, number in calls:
            holder = f"holder {number}"
            if not takes:
                store.release(resource, holder)
                taken, line = ([h for h in names if h != holder] for names in (taken, line))
                continue
            if holder not in (*taken, *line):
                line.append(holder)
            if holder in line and len(taken) + line.index(holder) < limit:
                line.remove(holder)
                taken.append(holder)
            answer = store.take(resource, holder, limit, 60.0)
            assert bool(answer) == (holder in line)
            assert len(taken) <= limit
            shown = [slot for slot in store.slots() if slot.resource == resource]
            assert {slot.holder for slot in shown if slot.taken} == set(taken)
            assert [slot.holder for slot in shown if not slot.taken] == line

    check()


async def test_runner_holds_a_slot_of_the_stage_s_resource_while_it_runs(tmp_path: Path) -> None:
    """Of an isolated stage; the holder's name says who works on what."""
    store = ResourceSlots(Database(tmp_path / "registry.sqlite3"))
    config = PipelineConfig(paths=PathsConfig.below(tmp_path))
    seen: list[list[str]] = []

    class Executor:
        async def execute(self, _request: StageRequest) -> StageReport:
            seen.append([f"{slot.resource}: {slot.holder}" for slot in store.slots()])
            raise ValueError("enough")

    slots = StageSlots(store, {"io": 1})
    (tmp_path / "source").write_text("data")
    inputs: dict[str, Json] = {"group_id": "G1", "source": str(tmp_path / "source")}
    with ScratchOwner(config.paths.scratch_dir, "host:1") as scratch:
        runner = StageRunner(config, Executor(), None, scratch, slots=slots)
        with pytest.raises(ValueError, match="enough"):
            await runner.run(Make(), PipelineContext(config, inputs), attempt="t-1")
    assert seen == [["io: make of G1 on host:1 (t-1)"]]
    assert store.slots() == []
