"""Mosaics around transits (strategy 3): real workers on both backends, and a fault at each point.

The tasks of groups and mosaics are small ones; the real ones have tests of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from transit_sources import source_on_meridian

from absurd_contimg.config import PathsConfig, PipelineConfig
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.records import History
from absurd_contimg.core.retries import RetryPolicy, retry_options
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.registry import Group, GroupStatus
from absurd_contimg.registry.transits import GroupObservation
from absurd_contimg.simulation.exploration.exploration_spec import ExplorationSpec, Job
from absurd_contimg.simulation.exploration.explorer import explore
from absurd_contimg.simulation.model.effect_gateway import EffectGateway
from absurd_contimg.simulation.model.faults import FaultKind
from absurd_contimg.simulation.model.world import World, outside
from absurd_contimg.workflows import group, mosaic
from absurd_contimg.workflows.failure_rules import CLASSIFIER
from absurd_contimg.workflows.publication import published_event
from absurd_contimg.workflows.transit_mosaics import (
    BATCH_TASK,
    CREATE_TASK,
    BatchMosaicInputs,
    BatchMosaicWorkflow,
    CreateMosaicWorkflow,
    TransitMosaicInputs,
    spawn_options,
)
from absurd_contimg.workflows.transits import TransitFinder, select_transit

QUEUE = "dsa110-pipeline"
ROOT = Path("/site")
CATALOGUE = ROOT / "incoming" / "catalog.csv"
MJD = 60_700.25
STEP = 309.12 / 86400.0


@dataclass
class Night:
    """Twenty groups, two calibrators, and what their tasks do."""

    failing: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)
    unpublished: set[str] = field(default_factory=set)
    processed: list[str] = field(default_factory=list)
    mosaics: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.groups = [
            GroupObservation(f"g{number:02d}", MJD + number * STEP, 16.0, 16, True, "discovered")
            for number in range(20)
        ]
        self.sources = [
            source_on_meridian(self.groups[4].mid_mjd, "early"),
            replace(source_on_meridian(self.groups[14].mid_mjd, "late"), dec_deg=16.5),
        ]
        config = PipelineConfig(paths=PathsConfig.below(ROOT))
        self.finder = TransitFinder(config, self, lambda: MJD + 1.0, lambda _path: self.sources)

    def observed_groups(self, start_mjd: float) -> Sequence[GroupObservation]:
        return [each for each in self.groups if each.mid_mjd >= start_mjd]

    def group(self, group_id: str) -> Group:
        status = GroupStatus.DONE if group_id in self.done else GroupStatus.DISCOVERED
        files = (ROOT / "incoming" / f"{group_id}.hdf5",)
        return Group(group_id, status, None, files)

    async def process(self, params: Any, ctx: Any) -> Any:
        await outside("process", params["group_id"])
        self.processed.append(params["group_id"])
        if params["group_id"] in self.failing:
            raise ValueError("no calibrator")
        return {"group_id": params["group_id"]}

    async def make_mosaic(self, params: Any, ctx: Any) -> Any:
        await ctx.step("mosaic", lambda: outside("mosaic", params["window_id"]))
        self.mosaics.append(params)
        if params["window_id"].split("-")[1] in self.failing:
            raise ValueError("no tiles")
        if params["window_id"].split("-")[1] not in self.unpublished:
            await ctx.emit_event(published_event(params["window_id"]), {"destination": "/there"})
        return {"window_id": params["window_id"]}

    def tasks(self, looks: tuple[float, float] = (0.02, 0.02)) -> TaskRegistry:
        tasks = TaskRegistry()
        tasks.add(group.TASK_NAME, self.process)
        tasks.add(mosaic.TASK_NAME, self.make_mosaic)
        tasks.add(CREATE_TASK, CreateMosaicWorkflow(self.finder, looks[0]))
        tasks.add(BATCH_TASK, BatchMosaicWorkflow(self.finder, looks[1]))
        return tasks


@asynccontextmanager
async def working(backend: Backend, night: Night) -> Any:
    """One slot: none of the waits may hold it."""
    policy = RetryPolicy(backoff_first_seconds=0.0)
    settings = WorkerSettings(QUEUE, "worker", 1, poll_interval_seconds=0.02, grace_seconds=0.0)
    worker = Worker(backend, night.tasks(), settings, CLASSIFIER, policy)
    running = asyncio.create_task(worker.run())
    try:
        async with asyncio.timeout(60):
            yield
    finally:
        worker.stop()
        await running


async def create(backend: Backend, **params: Any) -> Any:
    inputs = TransitMosaicInputs(catalog_path=CATALOGUE, **params)
    return await backend.spawn_task(
        QUEUE, CREATE_TASK, inputs.model_dump(mode="json"), spawn_options(CREATE_TASK, inputs)
    )


async def ended(backend: Backend, task_id: Any) -> History:
    while True:
        history = await backend.history(QUEUE, task_id)
        assert history is not None
        if history.task.state in ("completed", "failed", "cancelled"):
            return history
        await asyncio.sleep(0.01)


def message(history: History) -> str:
    reason: Any = history.runs[-1].failure_reason
    return f"{reason['rule']}: {reason['message']}"


async def test_the_latest_transit_becomes_a_mosaic(backend: Backend) -> None:
    """All groups within 25 minutes are processed, and the waiter has what the event says."""
    night = Night(done={"g13"})
    async with working(backend, night):
        task = await create(backend, wait_for_published=True)
        result: Any = (await ended(backend, task.task_id)).task.completed_payload
    around = [f"g{number:02d}" for number in range(10, 19)]
    assert result["transit"]["calibrator"] == "late"
    assert result["members"] == around
    assert sorted(night.processed) == [name for name in around if name != "g13"]
    assert result["published"] == {"destination": "/there"}
    (made,) = night.mosaics
    assert (made["window_id"], made["members"]) == (result["window_id"], around)


@pytest.mark.parametrize(
    ("params", "calibrator"),
    [
        ({"choice": "latest"}, "late"),
        ({"choice": "earliest"}, "early"),
        ({"choice": "best"}, "early"),
        ({"calibrator": "early"}, "early"),
        ({"group_id": "g04"}, "early"),
    ],
)
def test_the_choice_is_explicit(params: dict[str, Any], calibrator: str) -> None:
    """The existing pipeline takes the earliest without saying so."""
    inputs = TransitMosaicInputs(catalog_path=CATALOGUE, **params)
    transits = [
        each for each in Night().finder.matching(inputs) if inputs.group_id in (None, each.group_id)
    ]
    assert select_transit(transits, inputs.choice).calibrator == calibrator


async def test_a_failed_group_is_left_out_by_name(backend: Backend) -> None:
    """As long as enough others have an image."""
    night = Night(failing={"g03"})
    async with working(backend, night):
        task = await create(backend, calibrator="early")
        result: Any = (await ended(backend, task.task_id)).task.completed_payload
    assert "g03" not in result["members"]
    assert "no calibrator" in result["left_out"]["g03"]
    assert night.mosaics[0]["left_out"] == result["left_out"]


async def test_a_retry_looks_again(backend: Backend) -> None:
    """With too few images the task fails; once the groups went well, its retry goes on."""
    night = Night(failing={f"g{number:02d}" for number in range(6)})
    async with working(backend, night):
        task = await create(backend, calibrator="early")
        history = await ended(backend, task.task_id)
        assert "mosaic-not-made: Only 3 groups" in message(history)
        night.failing.clear()
        for failed in await backend.list_tasks(QUEUE, states=["failed"]):
            await backend.retry_task(QUEUE, failed.task_id, retry_options(failed))
        history = await ended(backend, task.task_id)
    assert history.task.state == "completed"
    assert len(night.mosaics) == 1


async def test_a_mosaic_that_fails_or_is_not_published_ends_the_wait(backend: Backend) -> None:
    """Nobody waits for ever: for days at most, until the deadline of the parameters."""
    night = Night(failing={"late"}, unpublished={"early"})
    async with working(backend, night):
        failing = await create(backend, calibrator="late", wait_for_published=True)
        assert "no tiles" in message(await ended(backend, failing.task_id))
        late = await create(
            backend, calibrator="early", wait_for_published=True, deadline_seconds=1
        )
        assert "was not published in 1 s" in message(await ended(backend, late.task_id))


async def test_a_mosaic_that_is_published_later_is_found(backend: Backend) -> None:
    """An operator publishes it, and the task that waits goes on."""
    night = Night(unpublished={"early"})
    async with working(backend, night):
        task = await create(backend, calibrator="early", wait_for_published=True)
        while not night.mosaics:
            await asyncio.sleep(0.01)
        event = published_event(night.mosaics[0]["window_id"])
        await backend.emit_event(QUEUE, event, {"destination": "/later"})
        result: Any = (await ended(backend, task.task_id)).task.completed_payload
    assert result["published"] == {"destination": "/later"}


async def test_no_transit_is_said(backend: Backend) -> None:
    """Nothing was observed, or the name is no calibrator's."""
    night = Night()
    async with working(backend, night):
        none = await create(backend, groups_min=30)
        assert "No transit of all" in message(await ended(backend, none.task_id))
        unknown = await create(backend, calibrator="nobody")
        assert "(early, late)" in message(await ended(backend, unknown.task_id))
    assert night.processed == []


async def test_a_batch_goes_on_without_its_failures(backend: Backend) -> None:
    """Each transit has a task of its own; the same batch again spawns nothing."""
    night = Night(failing={"early"})
    inputs = BatchMosaicInputs(catalog_path=CATALOGUE)
    params, options = inputs.model_dump(mode="json"), spawn_options(BATCH_TASK, inputs)
    async with working(backend, night):
        batch = await backend.spawn_task(QUEUE, BATCH_TASK, params, options)
        result: Any = (await ended(backend, batch.task_id)).task.completed_payload
        again = await backend.spawn_task(QUEUE, BATCH_TASK, params)
        assert (await ended(backend, again.task_id)).task.completed_payload == result
    assert (result["count"], result["completed"]) == (2, 1)
    states = {each["calibrator"]: each["state"] for each in result["results"]}
    assert states == {"late": "completed", "early": "failed"}
    assert "no tiles" in next(e["reason"] for e in result["results"] if e["state"] == "failed")
    assert len(night.mosaics) == 2
    assert sorted(night.processed) == sorted(set(night.processed)), "a group was processed twice"


def test_a_fault_at_every_crash_point() -> None:
    """Every future ends with the same mosaics, and no group is processed again.

    Looks are rare here: a fault that delays a child must not change the number of looks at it.
    """
    looks = (3600.0, 10_000.0)

    def factory(world: World, gateway: EffectGateway, worker_id: str) -> Sequence[Worker]:
        settings = WorkerSettings(QUEUE, worker_id, 4, poll_interval_seconds=20.0)
        small = Night(done={f"g{number:02d}" for number in range(20)} - {"g14"})
        return [Worker(world.backend(gateway), small.tasks(looks), settings, CLASSIFIER)]

    inputs = BatchMosaicInputs(catalog_path=CATALOGUE, wait_for_published=True, calibrator="late")
    job = Job(QUEUE, BATCH_TASK, inputs.model_dump(mode="json"), spawn_options(BATCH_TASK, inputs))
    spec = ExplorationSpec(factory, [job], (QUEUE,), repeats=["process"])
    exploration = explore(spec, faults=(FaultKind.KILL,))
    assert not exploration.findings, str(exploration.findings[0])
    assert exploration.futures > 30
