"""A photometry task measures the newest image of its group, in a process, and enters its rows."""

from __future__ import annotations

from pathlib import Path

import pytest
from sky_products import SkyField, product_key

from absurd_contimg.backends.memory.backend import MemoryBackend
from absurd_contimg.backends.memory.database import MemoryDatabase
from absurd_contimg.core.records import History, Json
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.core.worker import WorkerSettings
from absurd_contimg.execution.casa_environment import casa_environment
from absurd_contimg.execution.executor import IsolatedStageExecutor
from absurd_contimg.execution.runner import StageRunner
from absurd_contimg.execution.scratch import ScratchOwner
from absurd_contimg.products.manifest import read_manifest
from absurd_contimg.registry import Registry
from absurd_contimg.registry.models import Product
from absurd_contimg.registry.photometry import list_measurements
from absurd_contimg.workflows.assembly import make_pipeline_worker, pipeline_stages
from absurd_contimg.workflows.photometry import TASK_NAME, spawn_options

QUEUE = "photometry"
GROUP = "2025-01-02T03:04:05"


async def _run(sky: SkyField, registry: Registry, params: dict[str, Json]) -> History:
    backend = MemoryBackend(MemoryDatabase())
    await backend.create_queue(QUEUE)
    paths = sky.config.paths
    for folder in (paths.scratch_dir, paths.state_dir):
        folder.mkdir(exist_ok=True)
    with ScratchOwner(paths.scratch_dir, "worker-1") as scratch:
        runner = StageRunner(sky.config, IsolatedStageExecutor(casa_environment), registry, scratch)
        worker = make_pipeline_worker(
            backend,
            WorkerSettings(QUEUE, "worker-1", poll_interval_seconds=0.01),
            RetryPolicy(backoff_first_seconds=0.0),
            pipeline_stages(registry),
            runner,
            registry,
        )
        task = await backend.spawn_task(QUEUE, TASK_NAME, params, spawn_options(GROUP))
        again = await backend.spawn_task(QUEUE, TASK_NAME, params, spawn_options(GROUP))
        assert again.task_id == task.task_id
        await worker.run(until_idle=True)
        history = await backend.history(QUEUE, task.task_id)
    assert history is not None
    return history


@pytest.fixture
def sky(tmp_path: Path) -> SkyField:
    return SkyField(tmp_path)


async def test_rows_of_the_newest_image_are_in_the_registry(sky: SkyField, tmp_path: Path) -> None:
    """The task's result has the figures, and a rebuild enters the same rows."""
    registry = Registry(tmp_path / "registry.sqlite3", output_dir=sky.config.paths.output_dir)
    for number in (2, 1):
        product = sky.commit_image(GROUP, number)
        registry.register(product.folder, product.manifest)
    params: dict[str, Json] = {
        "group_id": GROUP,
        "catalog_path": str(tmp_path / "incoming/catalog.csv"),
    }
    history = await _run(sky, registry, params)
    assert history.task.state == "completed"
    result = history.task.completed_payload
    assert isinstance(result, dict)
    assert result["group_id"] == GROUP
    rows = list_measurements(registry.database, group_id=GROUP)
    assert len(rows) == result["outputs"]["photometry"]["n_measured"] > 15
    fluxes = {source.name: source.flux_jy for source in sky.sources}
    for row in rows:
        assert row.flux_jy == pytest.approx(fluxes[row.source], rel=0.01, abs=5 * row.error_jy)
        assert row.catalogue_jy == fluxes[row.source]
    folder = next(row["folder"] for row in registry.rows(Product) if row["stage"] == TASK_NAME)
    assert product_key(GROUP, 2)[:10] in read_manifest(Path(folder)).inputs[0].path  # of two images
    registry.rebuild(sky.config.paths.output_dir)
    assert list_measurements(registry.database, group_id=GROUP) == rows
    registry.close()


async def test_a_group_without_an_image_fails_by_name(sky: SkyField, tmp_path: Path) -> None:
    """Once: a retry would find none either."""
    registry = Registry(tmp_path / "registry.sqlite3")
    catalog = tmp_path / "incoming/catalog.csv"
    params: dict[str, Json] = {"group_id": GROUP, "catalog_path": str(catalog)}
    history = await _run(sky, registry, params)
    assert history.task.state == "failed"
    assert len(history.runs) == 1
    assert f"no image of a group {GROUP}" in str(history.runs[0].failure_reason)
    registry.close()


async def test_catalogue_elsewhere_is_left_to_other_workers(sky: SkyField, tmp_path: Path) -> None:
    """It is not read, and the setting that decides is named."""
    registry = Registry(tmp_path / "registry.sqlite3")
    history = await _run(sky, registry, {"group_id": GROUP, "catalog_path": "/etc/shadow"})
    assert history.task.state == "sleeping"
    assert "PIPELINE_CATALOG" in str(history.checkpoint_states)
    registry.close()


async def test_parameters_of_another_kind_are_named(sky: SkyField, tmp_path: Path) -> None:
    """With the field that does not fit."""
    registry = Registry(tmp_path / "registry.sqlite3")
    history = await _run(sky, registry, {"group_id": GROUP, "catalogue": "/in/catalog.csv"})
    assert history.task.state == "failed"
    assert "catalog_path" in str(history.runs[0].failure_reason)
    registry.close()
