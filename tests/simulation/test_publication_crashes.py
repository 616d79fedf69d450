"""Publication explored: a fault at every crash point of production's own worker."""

from __future__ import annotations

from absurd_contimg.backends.memory import MemoryDatabase
from absurd_contimg.products.manifest import MANIFEST_NAME, Manifest, file_entries
from absurd_contimg.simulation.exploration.exploration_spec import ExplorationSpec, Job
from absurd_contimg.simulation.exploration.explorer import explore
from absurd_contimg.simulation.model.faults import GRACEFUL, FaultKind
from absurd_contimg.simulation.model.files import SimulatedFiles
from absurd_contimg.simulation.model.simulated_config import SIMULATED_CONFIG
from absurd_contimg.simulation.model.worker_factory import PipelineWorkers
from absurd_contimg.simulation.model.world import EPOCH, State, World
from absurd_contimg.workflows.publication import TASK_NAME, spawn_options

QUEUE = "dsa110-pipeline"
KEY = "0123456789" * 4
LOCATION = f"mosaics/window-{KEY[:10]}"


FAULTS = (*GRACEFUL, FaultKind.KILL, FaultKind.KILL_OTHER, FaultKind.PAUSE, FaultKind.OUTAGE)
"""Without those after which another process holds the lock for a day, which is waited for."""


def committed_mosaic() -> State:
    """A world with one accepted mosaic and the folder for publications."""
    state = State(MemoryDatabase(0, clock=lambda: EPOCH))
    output_dir = SIMULATED_CONFIG.paths.output_dir
    product = SIMULATED_CONFIG.paths.scratch_dir / "mosaic"
    committed = output_dir / "mosaics" / LOCATION.rpartition("/")[2]
    world = World(state)
    files = SimulatedFiles(world.process("setup", observed=False), state.disk)
    files.make_folder(product)
    files.make_folder(SIMULATED_CONFIG.paths.published)
    files.write(product / "image.fits", 100_000_000, "image")
    files.write(product / "weight.fits", 100_000_000, "weight")
    manifest = Manifest(
        stage="mosaic",
        stage_version=1,
        key=KEY,
        location=LOCATION,
        output_dir=str(output_dir),
        group_id="window",
        parameters={},
        inputs=(),
        outputs={"checks": {"verdict": "accepted"}},
        files=file_entries(product, files),
        software={},
        created_at=EPOCH.isoformat(),
        attempt="1",
        host="host",
    )
    files.write_json(product / MANIFEST_NAME, manifest.to_json())
    files.ensure_folder(committed.parent)
    files.rename(product, committed)
    state.registry.register(committed, manifest)
    world.close()
    return state


def spec() -> ExplorationSpec:
    job = Job(QUEUE, TASK_NAME, {"product_key": KEY}, spawn_options(KEY))
    return ExplorationSpec(PipelineWorkers(), [job], (QUEUE,), prepare=committed_mosaic)


def test_every_fault_at_every_crash_point() -> None:
    """Every future publishes once, whole, and keeps every invariant."""
    exploration = explore(spec(), faults=FAULTS)
    assert not exploration.findings, str(exploration.findings[0])
    assert exploration.futures > 100
