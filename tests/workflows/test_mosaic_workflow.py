"""The mosaic task: its images are chosen once, and its product is registered for its window."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from group_stages import InProcessExecutor
from image_products import FIRST_MJD, commit_image, commit_tiles
from synthetic_tiles import TilePlan, make_tile, strip
from toy_products import toy_product
from typer.testing import CliRunner

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.config import PathsConfig, PipelineConfig, ValidationConfig
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.records import History
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.core.worker import WorkerSettings
from absurd_contimg.errors import OutputError, SettingError
from absurd_contimg.execution.context import MosaicInputs, PipelineContext
from absurd_contimg.execution.executor import IsolatedStageExecutor, no_environment
from absurd_contimg.execution.processes import InThread, uninterrupted
from absurd_contimg.execution.runner import StageResult, StageRunner, prepare_folders
from absurd_contimg.execution.scratch import ScratchOwner
from absurd_contimg.execution.stage import PipelineStage
from absurd_contimg.operations.cli.main import app
from absurd_contimg.operations.services.mosaic_plans import plan_window, spawn_mosaic
from absurd_contimg.products.filesystem import LOCAL, FileSystem
from absurd_contimg.registry import Registry
from absurd_contimg.registry.models import GroupStatus, ObservationGroup
from absurd_contimg.registry.mosaics import list_mosaics
from absurd_contimg.registry.photometry import PhotometryRow
from absurd_contimg.registry.windows import Window, WindowMember, WindowState, store_windows
from absurd_contimg.science.catalogue import SkySource, write_catalogue
from absurd_contimg.science.restoring_beams import RestoringBeam
from absurd_contimg.settings import load_settings
from absurd_contimg.workflows.assembly import make_pipeline_worker
from absurd_contimg.workflows.mosaic import TASK_NAME, mosaic_stages, parse_params, spawn_options

QUEUE = "dsa110-pipeline"
BEAM = RestoringBeam(180.0, 150.0, 20.0)
PLANS = strip(0.0, 16.0, 2, size_px=128, cell_arcsec=45.0, beam=BEAM)
SOURCES = [SkySource("A", 0.05, 16.1, 1.0), SkySource("B", 359.8, 15.8, 2.0)]


@dataclass
class Site:
    """Two groups with images, and the parameters of their mosaic."""

    root: Path
    plans: Sequence[TilePlan] = tuple(PLANS)
    sources: Sequence[SkySource] = tuple(SOURCES)
    offsets_deg: Sequence[float] | None = None
    config: PipelineConfig = field(init=False)
    registry: Registry = field(init=False)
    inputs: MosaicInputs = field(init=False)

    def __post_init__(self) -> None:
        # Of these coarse pixels, so that the sources are compared with the catalogue.
        validation = ValidationConfig(match_radius_arcsec=90.0)
        self.config = PipelineConfig(paths=PathsConfig.below(self.root), validation=validation)
        paths = self.config.paths
        paths.input_dir.mkdir(parents=True)
        prepare_folders(paths)
        write_catalogue(paths.input_dir / "catalog.csv", self.sources)
        self.registry = Registry(paths.state_dir / "registry.sqlite3", output_dir=paths.output_dir)
        groups = commit_tiles(
            paths.output_dir, self.registry, self.plans, self.sources, offsets_deg=self.offsets_deg
        )
        self.inputs = MosaicInputs(
            window_id="window-1",
            members=tuple(groups),
            left_out={"2025-01-15T10:55:00": "it failed"},
            catalog_path=paths.input_dir / "catalog.csv",
        )

    def command(self, *arguments: str) -> str:
        """What a command of contimg prints on 80 columns."""
        paths = self.config.paths
        folders = {
            "--input-dir": paths.input_dir,
            "--output-dir": paths.output_dir,
            "--scratch-dir": paths.scratch_dir,
            "--state-dir": paths.state_dir,
        }
        options = [part for option, path in folders.items() for part in (option, str(path))]
        clean = {key: None for key in os.environ if key.startswith(("ABSURD_", "PIPELINE_"))}
        result = CliRunner().invoke(app, [*options, *arguments], env={**clean, "COLUMNS": "80"})
        assert result.exit_code == 0, result.output + repr(result.exception)
        return result.stdout

    async def work(self, backend: Backend, runner: Any, task_id: UUID | None = None) -> History:
        """Spawn the task, or find it, and let a worker do what can be done."""
        if task_id is None:
            params = self.inputs.model_dump(mode="json")
            task = await backend.spawn_task(QUEUE, TASK_NAME, params, spawn_options(self.inputs))
            task_id = task.task_id
        settings = WorkerSettings(QUEUE, "worker-1", poll_interval_seconds=0.001)
        policy = RetryPolicy(backoff_first_seconds=0.0)
        worker = make_pipeline_worker(backend, settings, policy, [], runner, self.registry)
        await worker.run(until_idle=True)
        history = await backend.history(QUEUE, task_id)
        assert history is not None
        return history


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    with closing(made.registry):
        yield made


async def test_a_window_becomes_a_registered_product_on_postgres(
    site: Site, database_url: str
) -> None:
    """Through a worker and a stage process; the same window again is the same task."""
    with ScratchOwner(site.config.paths.scratch_dir, "mosaic") as owner:
        runner = StageRunner(
            site.config, IsolatedStageExecutor(no_environment), site.registry, owner
        )
        async with PostgresBackend(database_url) as backend:
            await backend.create_queue(QUEUE)
            history = await site.work(backend, runner)
            again = await site.work(backend, runner)
    assert history.task.state == "completed", history.runs[-1].failure_reason
    assert again.task.task_id == history.task.task_id
    assert len(again.runs) == 1
    (mosaic,) = list_mosaics(site.registry.database, window_id="window-1")
    assert history.task.completed_payload["verdict"] == mosaic.details["mosaic"]["verdict"]  # type: ignore[index,call-overload]
    assert site.config.paths.output_dir in Path(mosaic.details["mosaic"]["path"]).parents
    assert mosaic.tier == "quicklook"
    copies = [path.name for path in site.config.paths.published.glob("mosaics/*/*")]
    assert {"manifest.json", "tiles.json", "window-1-mosaic.fits"} <= set(copies)
    fluxes = site.registry.rows(PhotometryRow)
    assert {row["source"] for row in fluxes} == {"A", "B"}
    assert fluxes[0]["flux_jy"] == pytest.approx(1.0, rel=0.05)
    picture = site.root / "mosaic.png"
    text = site.command("mosaic", "show", "window-1", "--png", str(picture))
    for part in ("accepted", "2025-01-15T10:55:00", "it failed", "catalogue "):
        assert part in text
    assert all(len(line) <= 80 for line in text.splitlines() if "/" not in line)
    assert picture.stat().st_size > 5_000
    figures = json.loads(site.command("mosaic", "show", "window-1", "--json"))
    assert figures["product_key"] == mosaic.product_key
    assert [tile["group_id"] for tile in figures["tiles"]["used"]] == list(site.inputs.members)
    assert "window-1" in site.command("mosaic", "show")
    groups = {row["group_id"] for row in site.registry.rows(ObservationGroup)}
    assert groups == set(site.inputs.members)  # a window is no group


async def test_a_group_repaired_after_its_window_was_closed_gets_into_another_mosaic(
    tmp_path: Path,
) -> None:
    """It had failed when the window was closed; the product of now has another key."""
    site = Site(tmp_path, strip(0.0, 16.0, 3, size_px=128, cell_arcsec=45.0, beam=BEAM))
    with (
        closing(site.registry),
        ScratchOwner(site.config.paths.scratch_dir, "mosaic") as owner,
    ):
        executor = IsolatedStageExecutor(no_environment)
        runner = StageRunner(site.config, executor, site.registry, owner)
        backend = MemoryBackend(MemoryDatabase())
        await backend.create_queue(QUEUE)
        groups, name = list(site.inputs.members), "window-1"
        repaired = groups[0]  # the first: with it the middle of the mosaic is earlier
        members = [WindowMember(group, FIRST_MJD) for group in groups]
        members[0] = replace(members[0], used=False, reason="failed: BrokenProductError")
        window = Window(
            name, WindowState.CLOSED, FIRST_MJD, FIRST_MJD, 16.0, tuple(members),
            {"members_min": 2}, "complete",
        )  # fmt: skip
        store_windows(site.registry.database, [window])
        settings = load_settings(PathsConfig.below(tmp_path).model_dump(), environment={})

        def first_member() -> tuple[bool, str]:
            member = json.loads(site.command("windows", name, "--json"))[0]["members"][0]
            return member["used"], member["reason"]

        async def make_again() -> None:
            planned = plan_window(site.registry, settings, name)
            task = await spawn_mosaic(backend, settings, planned, again=True)
            assert task.created
            assert (await site.work(backend, runner, task.task_id)).task.state == "completed"

        site.registry.set_group_status(repaired, GroupStatus.FAILED, "BrokenProductError")
        await make_again()
        assert first_member() == (False, "failed: BrokenProductError")
        site.registry.set_group_status(repaired, GroupStatus.DONE)
        command = f"contimg mosaic make {name} --again"
        assert first_member() == (
            False, f"imaged after the window was closed; {command} takes it",
        )  # fmt: skip
        await make_again()
        assert first_member() == (True, "imaged after the window was closed")
        assert "3/3" in site.command("windows")
        first, second = list_mosaics(site.registry.database, window_id=name)
        assert first.product_key != second.product_key
        shown = json.loads(site.command("mosaic", "show", name, "--json"))
        assert [tile["group_id"] for tile in shown["tiles"]["used"]] == groups


async def test_a_mosaic_with_a_displaced_tile_is_not_published(tmp_path: Path) -> None:
    """No validation refused the tile; all sources that are recognised are in the other."""
    positions = [(358.9, 16.3), (359.2, 15.8), (359.4, 16.1), (0.6, 16.3), (0.9, 15.8), (1.1, 16.2)]
    sources = [SkySource(f"S{k}", *position, 1.0) for k, position in enumerate(positions)]
    site = Site(tmp_path, sources=sources, offsets_deg=(0.0, 0.25))
    with (
        closing(site.registry),
        ScratchOwner(site.config.paths.scratch_dir, "mosaic") as owner,
    ):
        executor = InProcessExecutor({stage.name: stage for stage in mosaic_stages()})
        runner = StageRunner(site.config, executor, site.registry, owner)
        backend = MemoryBackend(MemoryDatabase())
        await backend.create_queue(QUEUE)
        history = await site.work(backend, runner)
        (mosaic,) = list_mosaics(site.registry.database, window_id="window-1")
        shown = site.command("mosaic", "show", "window-1")
    assert history.task.state == "completed"
    assert mosaic.details["mosaic"]["verdict"] == "degraded"
    assert mosaic.details["mosaic"]["failed_gates"] == ["completeness"]
    assert mosaic.details["mosaic"]["n_compared"] > 0
    assert "one tile the worst shows 0 % of its catalogue sources" in " ".join(shown.split())
    assert not list(site.config.paths.published.glob("mosaics/*"))


@dataclass
class RecordingRunner:
    """Notes the members that a stage gets, and fails as often as asked."""

    config: PipelineConfig
    failures: int
    change: Any
    product: Path
    seen: list[Any] = field(default_factory=list)
    files: FileSystem = LOCAL
    in_thread: InThread = uninterrupted

    async def run(self, stage: PipelineStage, context: PipelineContext, **_: Any) -> StageResult:
        self.seen.append((context.outputs["tiles"], context.outputs["missing"]))
        if len(self.seen) <= self.failures:
            self.change()
            raise OutputError("the disk was away.")
        log = Path("none")
        outputs = {name: {"verdict": "accepted"} for name in stage.provides}
        return StageResult(stage.name, outputs, False, 0.0, self.product, log, log)


async def test_a_later_attempt_makes_the_mosaic_of_the_same_images(site: Site) -> None:
    """A group is imaged again between two attempts."""

    def image_again() -> None:
        plan, group = PLANS[0], site.inputs.members[0]
        tile = make_tile(plan, SOURCES, 0.004, np.random.default_rng(9))
        output_dir, later = site.config.paths.output_dir, "2026-01-02T00:00:00+00:00"
        commit_image(output_dir, site.registry, group, plan, tile, FIRST_MJD, later)

    checked = {"mosaic": {"verdict": "accepted"}}
    product = toy_product(site.config.paths.output_dir, group_id="window-1", outputs=checked)
    runner = RecordingRunner(site.config, 1, image_again, product)
    backend = MemoryBackend(MemoryDatabase())
    await backend.create_queue(QUEUE)
    history = await site.work(backend, runner)
    assert history.task.state == "completed"
    assert runner.seen == 3 * runner.seen[:1]  # the mosaic twice, then the photometry
    tiles, missing = runner.seen[0]
    assert [tile["group_id"] for tile in tiles] == list(site.inputs.members)
    assert missing == [{"group_id": "2025-01-15T10:55:00", "reason": "it failed"}]
    newest = site.registry.mosaic_members(site.inputs.members).tiles[0]
    assert str(newest.image.path) != tiles[0]["image"]["path"]


def test_other_tiers_have_tasks_of_their_own(site: Site) -> None:
    deep = site.inputs.model_copy(update={"tier": "deep"})
    assert spawn_options(site.inputs).idempotency_key == "mosaic:window-1"
    assert spawn_options(deep).idempotency_key == "mosaic:deep:window-1"


@pytest.mark.parametrize(
    "change", [{"members": []}, {"tier": "best"}, {"window": "x"}, {"catalog_path": "/etc/passwd"}]
)
def test_parameters_that_are_no_mosaic_are_named(site: Site, change: dict[str, Any]) -> None:
    params = {**site.inputs.model_dump(mode="json"), **change}
    with pytest.raises(SettingError, match=next(iter(change))):
        parse_params(params, site.config.paths)
