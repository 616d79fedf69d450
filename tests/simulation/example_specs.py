"""Small worlds for several tests of the explorer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from absurd_contimg.backends.memory import MemoryDatabase
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.records import History
from absurd_contimg.core.retries import retry_options
from absurd_contimg.history.timeline import step_starts
from absurd_contimg.simulation.exploration.crash_run import CrashRun
from absurd_contimg.simulation.exploration.example_workflows import pipeline_spec
from absurd_contimg.simulation.exploration.exploration_spec import (
    ExplorationSpec,
    ExternalInput,
    Job,
)
from absurd_contimg.simulation.model.disk import Disk
from absurd_contimg.simulation.model.stage_model import StageModel
from absurd_contimg.simulation.model.worker_factory import (
    PipelineWorkers,
    pipeline_params,
)
from absurd_contimg.simulation.model.world import EPOCH, State
from absurd_contimg.workflows.group import TASK_NAME

PIPELINE_QUEUE = "dsa110-pipeline"


def two_groups_spec(workers: PipelineWorkers, **options: Any) -> ExplorationSpec:
    """Two groups for one worker."""
    groups = ("2026-01-01T00:00:00", "2026-01-01T00:05:09")
    jobs = [Job(PIPELINE_QUEUE, TASK_NAME, pipeline_params(group)) for group in groups]
    return ExplorationSpec(workers, jobs, (PIPELINE_QUEUE,), **options)


def tight_disk_spec(workers: PipelineWorkers, **options: Any) -> ExplorationSpec:
    """Two groups at a time on a disk that has room for one product, until there is more."""
    disk = Disk(capacity_bytes=3_500_000_000)

    async def enlarge(_backend: Backend) -> None:
        disk.capacity_bytes = 10**12

    def prepare() -> State:
        return State(MemoryDatabase(0, clock=lambda: EPOCH), disk)

    larger = [ExternalInput(2_000.0, enlarge)]
    return two_groups_spec(workers, prepare=prepare, external_inputs=larger, **options)


FAILING: dict[str, dict[str, tuple[str | None, ...]]] = {
    "passes": {"flag": ("busy",), "image": ("casa-table-lock", "crashed")},
    "spent": {"convert": ("crashed", "crashed", "crashed")},
    "corrupt": {"convert": ("bad-input",)},
    "waiting": {"calibrate_apply": ("abort-disk-full", "disk-full")},
    "odd": {"image": ("unrecognised", "unrecognised")},
    "too big": {"image": ("abort-memory",) * 4},
    "again": {"convert": ("crashed",) * 4},
}
"""Groups and the failures of their stages, by rule of the failure table."""

FAILING_ENDS = {
    "passes": ("completed", ["transient", "transient", "transient"]),
    "spent": ("failed", ["transient", "transient", "transient"]),
    "corrupt": ("failed", ["permanent"]),
    "waiting": ("completed", []),
    "odd": ("failed", ["unknown", "unknown"]),
    "too big": ("failed", ["permanent"]),
    "again": ("completed", ["transient"] * 4),
}
"""How each of them has to end, and the kinds of its failures."""

FAILING_WAITS = {"passes": [5, 5, 10], "spent": [5, 10], "odd": [5], "again": [5, 10, 1670, 5]}
"""Seconds after which what failed was due again; the operator comes after 1670."""

FAILING_FALLBACKS = {"too big": [("one-thread",)] * 3}
"""What later starts had to do differently."""


def failing_spec(
    group: str, workers: PipelineWorkers | None = None, **options: Any
) -> ExplorationSpec:
    """One group whose stages fail as planned."""
    planned = {(group, stage): fails for stage, fails in FAILING[group].items()}
    made = dataclasses.replace(workers or PipelineWorkers(), model=StageModel(planned=planned))
    job = Job(PIPELINE_QUEUE, TASK_NAME, pipeline_params(group))
    if group == "again":
        options |= {
            "external_inputs": [ExternalInput(2_000.0, _retry_failed)],
            "linger_seconds": 4_000.0,
        }
    return ExplorationSpec(made, [job], (PIPELINE_QUEUE,), **options)


async def _retry_failed(backend: Backend) -> None:
    """What an operator does in the morning."""
    for task in await backend.list_tasks(PIPELINE_QUEUE, states=["failed"]):
        await backend.retry_task(PIPELINE_QUEUE, task.task_id, retry_options(task))


def harmed_spec(workers: PipelineWorkers | None = None, **options: Any) -> ExplorationSpec:
    """The pipeline once more, where all products are there and one has lost a file."""
    done = pipeline_spec(workers, **options)

    def prepare() -> State:
        run = CrashRun(done)
        run.run()
        state = run.world.state
        *_, last = state.disk.commits  # no later stage would look at it
        state.disk.remove(f"{last}/data")
        state.disk.violations.clear()
        fresh = MemoryDatabase(done.seed, clock=lambda: EPOCH)
        return State(fresh, state.disk, state.registry, state.ledger)

    return dataclasses.replace(done, prepare=prepare)


def ends(histories: Sequence[History]) -> tuple[str, list[str]]:
    """The state of the only task, and the kinds of its failed runs."""
    (history,) = histories
    reasons = [run.failure_reason for run in history.runs if isinstance(run.failure_reason, dict)]
    return history.task.state, [str(reason["kind"]) for reason in reasons if "kind" in reason]


def waits(histories: Sequence[History]) -> list[int]:
    """How many seconds after each failed run the next one was due."""
    return [
        round((after.available_at - run.failed_at).total_seconds())
        for history in histories
        for run, after in pairwise(history.runs)
        if run.failed_at is not None
    ]


def fallbacks(histories: Sequence[History]) -> list[tuple[str, ...]]:
    """What each start of each step had to do differently, where there was something."""
    starts = [start for history in histories for start in step_starts(history)]
    return [start.fallbacks for start in starts if start.fallbacks]


def errors_of(histories: Sequence[History]) -> list[str]:
    """The names of the errors that runs have failed with."""
    reasons = [run.failure_reason for history in histories for run in history.runs]
    return [str(reason["name"]) for reason in reasons if isinstance(reason, dict)]
