"""What durability costs, and what a second worker brings: ratios taken in one run.

    pytest benchmarks/test_durability.py -s

Demo-sized data, whose stages last from half a second to half a minute, on an embedded Postgres
that really waits for its disk. Nothing is asserted: figures are for people to read.
"""

from __future__ import annotations

import asyncio
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from absurd_contimg.backends.postgres import EmbeddedPostgres, PostgresBackend
from absurd_contimg.core.backend import CALLS
from absurd_contimg.execution.casa_environment import casa_environment
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.executor import IsolatedStageExecutor
from absurd_contimg.execution.runner import StageRunner, prepare_folders
from absurd_contimg.execution.scratch import ScratchOwner
from absurd_contimg.ingest.spawn import spawn_groups
from absurd_contimg.operations.services import worker_service as service
from absurd_contimg.operations.services.database import initialise
from absurd_contimg.registry import Registry
from absurd_contimg.settings import Settings, load_settings
from absurd_contimg.synthesis import SynthesisConfig, SynthesisResult, synthesize
from absurd_contimg.workflows.assembly import make_stage_server
from absurd_contimg.workflows.orchestrator import PipelineOrchestrator, standard_imaging_stages

PAIRS = 3


@pytest.fixture(scope="module")
def observation(tmp_path_factory: pytest.TempPathFactory) -> SynthesisResult:
    return synthesize(tmp_path_factory.mktemp("observation"), SynthesisConfig.demo())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with EmbeddedPostgres(tmp_path_factory.mktemp("pg"), durable=True) as running:
        yield running


def site(root: Path, observation: SynthesisResult, url: str) -> Settings:
    return load_settings(
        {
            "input_dir": observation.output_dir,
            "output_dir": root / "products",
            "scratch_dir": root / "scratch",
            "state_dir": root / "state",
            "database_url": url,
        },
        ["execution.threads=1"],
        environment={},
    )


async def plain(settings: Settings, observation: SynthesisResult) -> float:
    """One group through the orchestrator, without a database; seconds."""
    prepare_folders(settings.pipeline.paths)
    group = observation.groups[0]
    registry = Registry(settings.registry_url)
    with (
        ScratchOwner(settings.pipeline.paths.scratch_dir, "plain") as scratch,
        make_stage_server(settings.pipeline, registry, scratch) as server,
    ):
        executor = IsolatedStageExecutor(casa_environment, server=server)
        runner = StageRunner(settings.pipeline, executor, registry, scratch)
        context = PipelineContext(
            settings.pipeline,
            {
                "group_id": group.group_id,
                "input_files": [str(path) for path in group.files],
                "catalog_path": str(observation.catalog),
                "calibrator": "auto",
            },
        )
        began = time.perf_counter()
        await PipelineOrchestrator(standard_imaging_stages(registry), runner).run(context)
        seconds = time.perf_counter() - began
    registry.close()
    return seconds


def cpu_seconds() -> float:
    """Of this process and of its processes that have ended, without the server of Postgres."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def timed(backend: PostgresBackend) -> list[float]:
    """The seconds of each call of the backend from now on: all that a busy machine does not blur.

    Those of the heartbeat among them run beside a stage and delay nothing.
    """
    seconds: list[float] = []

    def measured(call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def measure(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return await call(*arguments, **options)
            finally:
                seconds.append(time.perf_counter() - began)

        return measure

    for name in CALLS:
        setattr(backend, name, measured(getattr(backend, name)))
    return seconds


async def durable(settings: Settings) -> float:
    """The same group as a task on Postgres, from spawning to the completed run; seconds."""
    prepare_folders(settings.pipeline.paths)
    assert settings.database_url is not None
    await initialise(settings.database_url, settings.queue_name)
    registry = Registry(settings.registry_url)
    async with PostgresBackend(settings.database_url) as backend:
        with (
            ScratchOwner(settings.pipeline.paths.scratch_dir, "durable") as scratch,
            make_stage_server(settings.pipeline, registry, scratch) as server,
            closing(service.make_guard(settings)) as guard,
        ):
            worker = service.make_worker(backend, settings, registry, scratch, [guard], server)
            began = time.perf_counter()
            spawned = await spawn_groups(backend, settings, registry)
            assert spawned[0].task is not None
            for other in spawned[1:]:  # only the calibrator's group, as in the plain run
                assert other.task is not None
                await backend.cancel_task(settings.queue_name, other.task.task_id)
            calls = timed(backend)
            await worker.run(until_idle=True)
            seconds = time.perf_counter() - began
            print(f"{len(calls)} calls of the database took {sum(calls):.2f} s")
        result = await backend.get_task_result(settings.queue_name, spawned[0].task.task_id)
        assert result is not None
        assert result.state == "completed", result.failure_reason
    registry.close()
    return seconds


@pytest.mark.timeout(1800)
def test_durable_over_plain(
    benchmark: Any, tmp_path: Path, observation: SynthesisResult, server: EmbeddedPostgres
) -> None:
    """Wall time of the durable run over that of the plain orchestrator, in pairs."""
    ratios = []

    def pair(number: int) -> None:
        root = tmp_path / str(number)
        url = server.create_database(f"durable_{number}")
        begun = cpu_seconds()
        without = asyncio.run(plain(site(root / "plain", observation, ""), observation))
        between = cpu_seconds()
        with_it = asyncio.run(durable(site(root / "durable", observation, url)))
        ratios.append(with_it / without)
        used = between - begun, cpu_seconds() - between
        print(f"plain {without:.2f} s, durable {with_it:.2f} s, ratio {ratios[-1]:.4f}")
        print(f"processor {used[0]:.2f} s and {used[1]:.2f} s, ratio {used[1] / used[0]:.4f}")
        shutil.rmtree(root)

    numbers = iter(range(PAIRS))
    benchmark.pedantic(lambda: pair(next(numbers)), rounds=PAIRS, iterations=1)
    benchmark.extra_info["ratio_median"] = statistics.median(ratios)
    print(f"durable over plain: median {statistics.median(ratios):.4f}")


def test_two_workers_over_one(
    benchmark: Any, tmp_path: Path, observation: SynthesisResult, server: EmbeddedPostgres
) -> None:
    """Wall time of two worker processes over one, on all groups of the demo."""
    seconds: dict[int, float] = {}

    def run(workers: int) -> None:
        root = tmp_path / f"{workers}"
        settings = site(root, observation, server.create_database(f"workers_{workers}"))
        prepare_folders(settings.pipeline.paths)
        asyncio.run(spawn_all(settings))
        began = time.perf_counter()
        processes = [start_worker(settings, f"worker-{n + 1}") for n in range(workers)]
        asyncio.run(wait_until_completed(settings))
        seconds[workers] = time.perf_counter() - began
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(60)

    def both() -> None:
        run(1)
        run(2)

    benchmark.pedantic(both, rounds=1, iterations=1)
    benchmark.extra_info["ratio"] = seconds[2] / seconds[1]
    print(f"one {seconds[1]:.1f} s, two {seconds[2]:.1f} s, ratio {seconds[2] / seconds[1]:.3f}")


async def spawn_all(settings: Settings) -> None:
    assert settings.database_url is not None
    await initialise(settings.database_url, settings.queue_name)
    registry = Registry(settings.registry_url)
    async with PostgresBackend(settings.database_url) as backend:
        await spawn_groups(backend, settings, registry)
    registry.close()


def start_worker(settings: Settings, name: str) -> subprocess.Popen[bytes]:
    paths = settings.pipeline.paths
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "absurd_contimg.operations"),
            *("--input-dir", paths.input_dir, "--output-dir", paths.output_dir),
            *("--scratch-dir", paths.scratch_dir, "--state-dir", paths.state_dir),
            *("--database-url", str(settings.database_url), "--set", "execution.threads=1"),
            *("worker", "--worker-id", name),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


async def wait_until_completed(settings: Settings) -> None:
    assert settings.database_url is not None
    async with PostgresBackend(settings.database_url) as backend:
        while True:
            stats = await backend.queue_stats(settings.queue_name)
            assert not stats.tasks_by_state.get("failed"), "a group failed"
            if set(stats.tasks_by_state) == {"completed"}:
                return
            await asyncio.sleep(0.1)
