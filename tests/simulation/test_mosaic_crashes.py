"""The mosaic task explored: a fault at every crash point of production's own worker."""

from __future__ import annotations

from typing import Any

from absurd_contimg.backends.memory import MemoryDatabase
from absurd_contimg.execution.context import MosaicInputs
from absurd_contimg.products.manifest import MANIFEST_NAME, Manifest, file_entries
from absurd_contimg.simulation.exploration.exploration_spec import ExplorationSpec, Job
from absurd_contimg.simulation.exploration.explorer import baseline, explore
from absurd_contimg.simulation.model.faults import FaultKind
from absurd_contimg.simulation.model.files import SimulatedFiles
from absurd_contimg.simulation.model.simulated_config import SIMULATED_CONFIG
from absurd_contimg.simulation.model.worker_factory import PipelineWorkers
from absurd_contimg.simulation.model.world import EPOCH, State, World
from absurd_contimg.workflows.mosaic import TASK_NAME, spawn_options

QUEUE = "dsa110-pipeline"
GROUPS = ("2025-01-15T10:00:00", "2025-01-15T10:05:09")
INPUTS = MosaicInputs(
    window_id="window",
    members=(*GROUPS, "2025-01-15T10:10:18"),
    left_out={"2025-01-15T10:15:27": "it failed"},
    catalog_path=SIMULATED_CONFIG.paths.input_dir / "sky.csv",
)


def imaged_groups() -> State:
    """A world with the images of two groups and the folder for publications."""
    state = State(MemoryDatabase(0, clock=lambda: EPOCH))
    world = World(state)
    files = SimulatedFiles(world.process("setup", observed=False), state.disk)
    files.make_folder(SIMULATED_CONFIG.paths.published)
    for number, group in enumerate(GROUPS):
        commit_image(state, files, group, f"{number:040d}")
    world.close()
    return state


def commit_image(state: State, files: SimulatedFiles, group: str, key: str) -> None:
    output_dir = SIMULATED_CONFIG.paths.output_dir
    product = SIMULATED_CONFIG.paths.scratch_dir / f"image-{group}"
    location = f"images/{group}-{key[:10]}"
    committed = output_dir / "images" / f"{group}-{key[:10]}"
    files.make_folder(product)
    files.write(product / "image.fits", 10_000_000, group)
    manifest = Manifest(
        *("image", 1, key, location, str(output_dir), group, {}, ()),
        {"image": {"path": str(committed)}},
        file_entries(product, files),
        *({}, EPOCH.isoformat(), "1", "host"),
    )
    files.write_json(product / MANIFEST_NAME, manifest.to_json())
    files.ensure_folder(committed.parent)
    files.rename(product, committed)
    state.registry.register(committed, manifest)


def spec() -> ExplorationSpec:
    params = INPUTS.model_dump(mode="json")
    job = Job(QUEUE, TASK_NAME, params, spawn_options(INPUTS))
    return ExplorationSpec(PipelineWorkers(), [job], (QUEUE,), prepare=imaged_groups)


FAULTS = (FaultKind.KILL, FaultKind.PAUSE)
"""The publication is explored with more of them in `test_publication_crashes.py`."""


def test_two_images_become_one_published_mosaic() -> None:
    """Without a fault; the group without an image and the one left out are named."""
    outcome, (history,) = baseline(spec())
    assert outcome.violations == ()
    result: Any = history.task.completed_payload
    assert (result["verdict"], result["publication"]["published"]) == ("accepted", True)
    names = [checkpoint.checkpoint_name for checkpoint in history.checkpoints]
    assert [name for name in names if not name.startswith("$")] == [
        "members", "mosaic", "photometry", "publication",
    ]  # fmt: skip
    members: Any = history.checkpoints[names.index("members")].state
    assert [tile["group_id"] for tile in members["tiles"]] == list(GROUPS)
    assert {each["group_id"]: each["reason"] for each in members["missing"]} == {
        "2025-01-15T10:10:18": "it has no image yet",
        "2025-01-15T10:15:27": "it failed",
    }


def test_every_fault_at_every_crash_point() -> None:
    """Every future keeps every invariant and ends as without the fault: one product, one copy."""
    exploration = explore(spec(), faults=FAULTS)
    assert not exploration.findings, str(exploration.findings[0])
    assert exploration.futures > 60
