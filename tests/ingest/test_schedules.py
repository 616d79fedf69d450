"""Schedules start each slot once, whatever dies, and none while the last run goes on."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mortal_ports import Kill, Killed, Mortal

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.config import PathsConfig, PipelineConfig
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.errors import BackendError, ValueRefused
from absurd_contimg.errors import MissingInputError, SettingError
from absurd_contimg.ingest.schedule_actions import ActionStarter, parse_action
from absurd_contimg.ingest.schedule_times import Slot, parse_times
from absurd_contimg.ingest.schedules import run_due_schedules
from absurd_contimg.registry import GroupStatus, Registry
from absurd_contimg.registry.batches import Batches, BatchState
from absurd_contimg.registry.models import ObservationGroup
from absurd_contimg.registry.schedules import CatchUp, Schedule, ScheduleKind, Schedules
from absurd_contimg.workflows.assembly import pipeline_stages

QUEUE = "dsa110-pipeline"
LONGITUDE_DEG = -118.2817
START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ACTION = {"kind": "task", "task": "report"}


def new_schedule(
    catch_up: CatchUp = CatchUp.LATEST, name: str = "nightly", action: Any = None
) -> Schedule:
    latest = parse_times("civil", "03:00", LONGITUDE_DEG).latest(START)
    assert latest is not None
    kind = ScheduleKind.CIVIL
    return Schedule(name, kind, "03:00", dict(action or ACTION), catch_up, latest.number)


@dataclass
class FakeStarter:
    """Starts nothing, and remembers each key."""

    started: dict[str, str] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)

    async def start(self, _action: Mapping[str, Any], key: str, slot: Slot) -> str:
        return self.started.setdefault(key, slot.name)

    async def is_running(self, run: str) -> bool:
        return run in self.running


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    opened = Registry(tmp_path / "registry.sqlite3")
    yield opened
    opened.close()


def starter(backend: Backend, registry: Registry, root: Path) -> ActionStarter:
    config = PipelineConfig(paths=PathsConfig.below(root))
    stages = pipeline_stages(registry)
    return ActionStarter(backend, registry, config, stages, QUEUE, lambda: root / "catalog.csv")


async def look(store: Any, started: Any, days: float) -> None:
    await run_due_schedules(store, started, START + timedelta(days=days), LONGITUDE_DEG)


async def test_slots_that_wait_for_the_last_run_follow_the_policy(registry: Registry) -> None:
    """Three slots pass while the first run goes on."""
    expected = {
        CatchUp.ALL: ["2026-03-02", "2026-03-03", "2026-03-04", "2026-03-05"],
        CatchUp.LATEST: ["2026-03-02", "2026-03-05"],
        CatchUp.SKIP: ["2026-03-02"],
    }
    store = Schedules(registry.database)
    for catch_up, days in expected.items():
        store.add(new_schedule(catch_up))
        fake = FakeStarter()
        punctual = 15 / 24 + 1e-4  # 03:00 the next day
        await look(store, fake, punctual)
        fake.running = set(fake.started.values())
        for day in (1, 2, 3):
            await look(store, fake, punctual + day)
        assert len(fake.started) == 1
        fake.running.clear()
        for minutes in (10, 11, 12, 13, 14):
            await look(store, fake, punctual + 3 + minutes / 1440)
        assert [run[:10] for run in fake.started.values()] == days, catch_up
        store.remove("nightly")


async def test_daemon_killed_at_any_call_starts_each_slot_once(tmp_path: Path) -> None:
    for at in range(40):
        registry = Registry(tmp_path / f"registry{at}.sqlite3")
        backend = MemoryBackend(MemoryDatabase())
        await backend.create_queue(QUEUE)
        store, kill = Schedules(registry.database), Kill(at)
        store.add(new_schedule())
        try:
            await look(Mortal(store, kill), starter(Mortal(backend, kill), registry, tmp_path), 1)
        except Killed:
            await look(store, starter(backend, registry, tmp_path), 1.001)
        tasks = await backend.list_tasks(QUEUE)
        assert [task.idempotency_key for task in tasks] == ["schedule:nightly:2026-03-02T03:00Z"]
        (schedule,) = store.schedules()
        assert schedule.outcome == "started"
        if not kill.killed:
            return
    raise AssertionError("more calls than were tried")


def test_clock_that_jumps_starts_no_slot_twice_and_silences_no_schedule(
    registry: Registry,
) -> None:
    store = Schedules(registry.database)

    @settings(max_examples=10, deadline=None)
    @given(
        jumps=st.lists(st.floats(-40, 40), min_size=1, max_size=6),
        catch_up=st.sampled_from([CatchUp.LATEST, CatchUp.SKIP]),
    )
    def check(jumps: list[float], catch_up: CatchUp) -> None:
        fake = FakeStarter()
        store.remove("nightly")
        store.add(new_schedule(catch_up))
        asyncio.run(jump(fake, jumps))
        assert len(set(fake.started.values())) == len(fake.started)

    async def jump(fake: FakeStarter, jumps: list[float]) -> None:
        for days in (*jumps, jumps[-1]):
            await look(store, fake, days)
        before, next_day = len(fake.started), START + timedelta(days=jumps[-1] + 1)
        following = parse_times("civil", "03:00", LONGITUDE_DEG).latest(next_day)
        assert following is not None
        was_started = f"schedule:nightly:{following.name}" in fake.started
        await run_due_schedules(store, fake, following.at, LONGITUDE_DEG)
        assert len(fake.started) == before + (not was_started)

    check()


async def test_action_that_has_nothing_to_do_is_noted_and_the_next_slot_comes(
    registry: Registry, tmp_path: Path
) -> None:
    backend = MemoryBackend(MemoryDatabase())
    await backend.create_queue(QUEUE)
    store = Schedules(registry.database)
    store.add(new_schedule(action={"kind": "mosaic"}))
    store.add(new_schedule(name="other", action={"kind": "reprocess"}))
    await look(store, starter(backend, registry, tmp_path), 1)
    outcomes = [schedule.outcome or "" for schedule in store.schedules()]
    assert "No group of the 24 h before 2026-03-02T03:00Z has an image" in outcomes[0]
    assert "No group of the selection" in outcomes[1]
    assert [schedule.last_slot for schedule in store.schedules()] == [29_540_340] * 2


async def test_schedule_that_the_database_refuses_hinders_no_other(
    registry: Registry, tmp_path: Path
) -> None:
    """A value that jsonb does not take is noted; a refusal that may pass is raised at the end."""
    refusals: dict[str, BackendError] = {
        "a": ValueRefused("invalid input syntax for type json", "22P02"),
        "b": BackendError("permission denied", "42501"),
    }

    class RefusingStarter(FakeStarter):
        async def start(self, action: Mapping[str, Any], key: str, slot: Slot) -> str:
            if error := refusals.get(str(action["task"])):
                raise error
            return await super().start(action, key, slot)

    store, fake = Schedules(registry.database), RefusingStarter()
    for name in "abc":
        store.add(new_schedule(name=name, action={"kind": "task", "task": name}))
    with pytest.raises(BackendError, match="schedule b: permission denied"):
        await look(store, fake, 1)
    assert list(fake.started) == ["schedule:c:2026-03-02T03:00Z"]
    outcomes = [schedule.outcome for schedule in store.schedules()]
    assert outcomes == ["nothing started: invalid input syntax for type json", None, "started"]


async def test_nightly_mosaics_are_one_for_each_strip(registry: Registry, tmp_path: Path) -> None:
    """Groups without an image, and those of other nights, are no members."""
    rows = [
        ("a", GroupStatus.DONE, 61100.9, 16.02), ("b", GroupStatus.DEGRADED, 61101.0, 16.0),
        ("c", GroupStatus.DONE, 61101.1, 54.0), ("d", GroupStatus.FAILED, 61101.1, 54.0),
        ("e", GroupStatus.DONE, 61099.0, 16.0),
    ]  # fmt: skip
    with registry.database.writing() as session:
        for group_id, status, mid_mjd, declination in rows:
            row = ObservationGroup(group_id=group_id, status=status.value, reason=None)
            row.mid_mjd, row.declination_deg = mid_mjd, declination
            session.add(row)
    backend = MemoryBackend(MemoryDatabase())
    await backend.create_queue(QUEUE)
    store = Schedules(registry.database)
    store.add(new_schedule(action={"kind": "mosaic"}))
    (run,) = await run_due_schedules(
        store, starter(backend, registry, tmp_path), START + timedelta(days=1), LONGITUDE_DEG
    )
    tasks = await backend.list_tasks(QUEUE)
    members = {tuple(task.params["members"]) for task in tasks}  # type: ignore[call-overload,index,arg-type,union-attr]
    assert members == {("a", "b"), ("c",)}
    assert {task.idempotency_key for task in tasks} == {
        "mosaic:nightly:2026-03-02T03:00+16.02",
        "mosaic:nightly:2026-03-02T03:00+54.00",
    }
    assert run.run is not None
    assert await starter(backend, registry, tmp_path).is_running(run.run)


async def test_batch_of_a_schedule_goes_on_until_it_is_completed(
    registry: Registry, tmp_path: Path
) -> None:
    """Made once for a slot, also when the daemon dies before it notes it."""
    files = [tmp_path / f"2026-03-02T00:00:00_sb{band:02d}.hdf5" for band in range(2)]
    for path in files:
        path.touch()
    registry.register_files(files)
    backend, store = MemoryBackend(MemoryDatabase()), Schedules(registry.database)
    store.add(new_schedule(action={"kind": "reprocess", "hours": 24.0}))
    own = starter(backend, registry, tmp_path)
    with pytest.raises(Killed):
        await look(Mortal(store, Kill(0)), own, 1)
    await look(store, own, 1)
    batches = Batches(registry.database)
    (batch,) = batches.batches()
    (item,) = batches.items(batch.batch_id)
    assert item.name == "2026-03-02T00:00:00"
    assert len(item.params["input_files"]) == 2
    (schedule,) = store.schedules()
    assert schedule.last_run == f"batch {batch.batch_id}"
    assert await own.is_running(f"batch {batch.batch_id}")
    batches.change(batch.batch_id, BatchState.CANCELLED)
    assert not await own.is_running(f"batch {batch.batch_id}")


def test_unknown_actions_are_refused_by_name() -> None:
    with pytest.raises(SettingError, match="kind"):
        parse_action({"kind": "dance"})
    with pytest.raises(SettingError, match="colour"):
        parse_action({"kind": "mosaic", "colour": "red"})


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, "\0", {"\\\0": 1}, "\ud800", nested(100_000)],
    ids=["nan", "infinity", "nul", "nul in a key", "surrogate", "depth"],
)
def test_parameters_that_no_database_takes_are_refused(value: Any) -> None:
    with pytest.raises(SettingError, match=r"params: .*no database takes"):
        parse_action({"kind": "task", "task": "x", "params": {"a": value}})


@pytest.mark.parametrize(
    "action",
    [
        {"kind": "mosaic", "hours": math.inf},
        {"kind": "reprocess", "hours": math.inf},
        {"kind": "reprocess", "selection": {"since_mjd": -math.inf}},
    ],
)
def test_numbers_that_the_registry_cannot_hold_are_refused(action: dict[str, Any]) -> None:
    """JSON has no infinity: the schedule was stored with null and never started anything."""
    with pytest.raises(SettingError, match=r"(hours|since_mjd): .*finite"):
        parse_action(action)


def test_parameters_with_backslashes_are_taken() -> None:
    parse_action({"kind": "task", "task": "x", "params": {"a": "\\u0000 \\\\u0000"}})


async def test_task_for_a_queue_that_is_not_there_is_refused(
    registry: Registry, tmp_path: Path
) -> None:
    backend = MemoryBackend(MemoryDatabase())
    slot = Slot(1, START, "slot")
    with pytest.raises(MissingInputError, match="no queue"):
        await starter(backend, registry, tmp_path).start(ACTION, "key", slot)
