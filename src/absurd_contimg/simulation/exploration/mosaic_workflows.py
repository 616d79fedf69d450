"""What ``contimg explore`` explores of mosaics: the mosaic of a window, and a publication."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absurd_contimg.backends.memory import MemoryDatabase
from absurd_contimg.core.records import Json
from absurd_contimg.execution.context import MosaicInputs
from absurd_contimg.products.manifest import MANIFEST_NAME, Manifest, file_entries
from absurd_contimg.simulation.exploration.exploration_spec import ExplorationSpec, Job
from absurd_contimg.simulation.model.files import SimulatedFiles
from absurd_contimg.simulation.model.simulated_config import SIMULATED_CONFIG
from absurd_contimg.simulation.model.worker_factory import SETTINGS, PipelineWorkers
from absurd_contimg.simulation.model.world import EPOCH, State, World
from absurd_contimg.workflows import mosaic, publication

QUEUE = SETTINGS.queue_name
GROUPS = ("2025-01-15T10:00:00", "2025-01-15T10:05:09")
INPUTS = MosaicInputs(
    window_id="window",
    members=(*GROUPS, "2025-01-15T10:10:18"),
    left_out={"2025-01-15T10:15:27": "it failed"},
    catalog_path=SIMULATED_CONFIG.paths.input_dir / "sky.csv",
)
PUBLISHED_KEY = "0123456789" * 4


def mosaic_spec(**options: Any) -> ExplorationSpec:
    """The mosaic of two images; a third group has none, and a fourth is left out."""
    job = Job(QUEUE, mosaic.TASK_NAME, INPUTS.model_dump(mode="json"), mosaic.spawn_options(INPUTS))
    return ExplorationSpec(PipelineWorkers(), [job], (QUEUE,), prepare=_with_images, **options)


def publication_spec(**options: Any) -> ExplorationSpec:
    """The publication of an accepted mosaic."""
    params, key_options = {"product_key": PUBLISHED_KEY}, publication.spawn_options(PUBLISHED_KEY)
    job = Job(QUEUE, publication.TASK_NAME, params, key_options)
    return ExplorationSpec(PipelineWorkers(), [job], (QUEUE,), prepare=_with_mosaic, **options)


def with_published_folder() -> State:
    """A world with the folder for publications, and nothing else."""
    state = State(MemoryDatabase(0, clock=lambda: EPOCH))
    world = World(state)
    _files(world).make_folder(SIMULATED_CONFIG.paths.published)
    world.close()
    return state


def _files(world: World) -> SimulatedFiles:
    return SimulatedFiles(world.process("setup", observed=False), world.state.disk)


def _with_images() -> State:
    state = with_published_folder()
    world = World(state)
    output_dir = SIMULATED_CONFIG.paths.output_dir
    for number, group in enumerate(GROUPS):
        key = f"{number:040d}"
        image = str(output_dir / "images" / f"{group}-{key[:10]}")
        _commit(world, "image", group, key, {"image": {"path": image}}, ["image.fits"])
    world.close()
    return state


def _with_mosaic() -> State:
    state = with_published_folder()
    world = World(state)
    outputs = {"checks": {"verdict": "accepted"}}
    _commit(world, "mosaic", "window", PUBLISHED_KEY, outputs, ["image.fits", "weight.fits"])
    world.close()
    return state


def _commit(
    world: World,
    stage: str,
    group_id: str,
    key: str,
    outputs: Mapping[str, Json],
    names: list[str],
) -> None:
    """Put a product into its place, as a stage's runner does, and register it."""
    files, output_dir = _files(world), SIMULATED_CONFIG.paths.output_dir
    place = f"{stage}s"
    product: Path = SIMULATED_CONFIG.paths.scratch_dir / f"{stage}-{group_id}"
    committed = output_dir / place / f"{group_id}-{key[:10]}"
    files.make_folder(product)
    for name in names:
        files.write(product / name, 100_000_000, f"{name} of {group_id}")
    manifest = Manifest(
        stage=stage,
        stage_version=1,
        key=key,
        location=f"{place}/{group_id}-{key[:10]}",
        output_dir=str(output_dir),
        group_id=group_id,
        parameters={},
        inputs=(),
        outputs=outputs,
        files=file_entries(product, files),
        software={},
        created_at=EPOCH.isoformat(),
        attempt="1",
        host="host",
    )
    files.write_json(product / MANIFEST_NAME, manifest.to_json())
    files.ensure_folder(committed.parent)
    files.rename(product, committed)
    world.state.registry.register(committed, manifest)
