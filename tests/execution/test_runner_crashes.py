"""kill -9 at every effect of a stage: no product or the whole product, and the next run completes.

The effects (files opened for writing, folders made, renames, removals, connections to the
registry) are counted by Python's audit hook, in a fork of this process that runs worker and stage
process in one; at the chosen effect the fork sends itself a real SIGKILL. Another test kills real
workers with real stage processes at random moments.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from multiprocessing import get_context
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import pytest
from committed_products import committed_products
from forked_crashes import fork
from search_extent import is_search
from toy_stages import Make, Refine

from absurd_contimg.config import PathsConfig, PipelineConfig
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.executor import (
    EndOfProcess,
    IsolatedStageExecutor,
    StageExecutor,
    StageReport,
    StageRequest,
    no_environment,
    uninterrupted,
)
from absurd_contimg.execution.folder_identity import FolderIdentity
from absurd_contimg.execution.runner import StageRunner
from absurd_contimg.execution.scratch import Janitor, ScratchOwner
from absurd_contimg.execution.stage_process import RESULT_NAME, run_request
from absurd_contimg.products.filesystem import LOCAL
from absurd_contimg.products.store import verify
from absurd_contimg.registry import Registry
from absurd_contimg.registry.derived import DERIVED_TABLES
from absurd_contimg.registry.models import ObservationGroup
from absurd_contimg.workflows.orchestrator import PipelineOrchestrator

State = dict[str, Any]


class InOneProcess:
    """Runs the code of the stage process here, so that all effects are in one sequence."""

    async def execute(self, request: StageRequest) -> StageReport:
        isolated = IsolatedStageExecutor(no_environment)
        return await uninterrupted(self._execute, isolated, request)

    def _execute(self, isolated: IsolatedStageExecutor, request: StageRequest) -> StageReport:
        isolated._prepare(request)
        scratch = FolderIdentity.of(request.scratch)
        result = run_request(json.loads((request.scratch / "request.json").read_text()))
        LOCAL.write_json(request.scratch / RESULT_NAME, {"succeeded": True, **result})
        return isolated._conclude(request, scratch, EndOfProcess(0, True, False), 0.0)


def work(root: Path, executor: StageExecutor, seconds: float = 0.0) -> None:
    """What a worker does with one group, from its start to its end."""
    config = PipelineConfig(paths=PathsConfig.below(root))
    context = PipelineContext(
        config, {"group_id": "G", "source": str(root / "source"), "seconds": seconds}
    )
    config.paths.output_dir.mkdir(exist_ok=True)
    registry = Registry(root / "registry.sqlite3")
    with ScratchOwner(config.paths.scratch_dir, "worker") as owner:
        runner = StageRunner(config, executor, registry, owner)
        asyncio.run(PipelineOrchestrator([Make(), Refine()], runner).run(context))


def state(root: Path) -> State:
    """Everything that must be the same however often it was killed; checks each product."""
    products = {}
    for folder, manifest in committed_products(root / "products"):
        verify(folder, manifest, deep=True)
        products[manifest.location] = (manifest.files, manifest.key)
    registry = Registry(root / "registry.sqlite3")
    tables = (ObservationGroup, *DERIVED_TABLES)
    rows = {table.__tablename__: registry.rows(table) for table in tables}
    for row in rows["products"]:
        row["folder"] = str(Path(row["folder"]).relative_to(root))
        del row["created_at"], row["outputs"]
    return {"products": products, **rows}


def prepare(root: Path) -> Path:
    root.mkdir(exist_ok=True)
    (root / "source").write_bytes(b"data")
    return root


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> tuple[State, int]:
    """The state after a run that nothing disturbs, and the number of its effects."""
    # Once without a fork: what is imported and compiled now, the forks need not do again.
    work(prepare(tmp_path_factory.mktemp("warm")), InOneProcess())
    root = prepare(tmp_path_factory.mktemp("baseline"))
    status, effects = fork(root, lambda: work(root, InOneProcess()))
    assert status == 0
    return state(root), len(effects)


def check_after_crash(root: Path) -> None:
    """No half product is in place, and the janitor leaves nothing of the dead worker."""
    for folder, manifest in committed_products(root / "products"):
        verify(folder, manifest, deep=True)
    Janitor(root / "scratch").sweep()
    left = [path for path in (root / "scratch").glob("*") if path.name != ".owners"]
    assert left == []


def test_killed_before_each_effect(tmp_path: Path, baseline: tuple[State, int]) -> None:
    """After each the next run ends like the baseline. `make test` takes every sixth effect."""
    expected, effects = baseline
    assert effects > 40
    for number in range(0, effects, 1 if is_search() else 6):
        root = prepare(tmp_path / str(number))
        status, _ = fork(root, lambda root=root: work(root, InOneProcess()), number)
        assert os.WTERMSIG(status) == signal.SIGKILL
        check_after_crash(root)
        assert fork(root, lambda root=root: work(root, InOneProcess()))[0] == 0
        assert state(root) == expected, f"killed before effect {number}"


def test_killed_again_and_again(tmp_path: Path, baseline: tuple[State, int]) -> None:
    """Crashes of the run that recovers from a crash, without a janitor between them."""
    expected, effects = baseline
    chance = random.Random(1)
    for number in range(10 if is_search() else 5):
        root = prepare(tmp_path / str(number))
        for _ in range(4):
            fork(root, lambda root=root: work(root, InOneProcess()), chance.randrange(effects))
        assert fork(root, lambda root=root: work(root, InOneProcess()))[0] == 0
        check_after_crash(root)
        assert state(root) == expected, f"seed 1, round {number}"


def start_worker(root: Path) -> ForkProcess:
    """A worker process, which has imported what it needs already."""
    worker = get_context("fork").Process(
        target=work, args=(root, IsolatedStageExecutor(no_environment), 0.1)
    )
    worker.start()
    return worker


def test_real_workers_killed_at_random_moments(tmp_path: Path, baseline: tuple[State, int]) -> None:
    """Real stage processes, real SIGKILL of the worker: the next worker continues."""
    seed = random.randrange(10_000)
    chance = random.Random(seed)
    for number in range(3):
        root = prepare(tmp_path / str(number))
        for _ in range(2):
            worker = start_worker(root)
            time.sleep(chance.uniform(0.0, 0.9))
            worker.kill()
            worker.join()
            check_after_crash(root)
        worker = start_worker(root)
        worker.join()
        assert worker.exitcode == 0
        assert state(root) == baseline[0], f"seed {seed}"
