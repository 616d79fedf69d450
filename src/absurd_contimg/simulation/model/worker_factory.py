"""Makes the workers of a simulated process, for any handler or for the real pipeline.

The pipeline's worker is assembled by production's code (`workflows.assembly`). The simulation
passes its own ports: backend, executor, files and registry behind the gateway of the process.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, TypeVar, TypeVarTuple, Unpack, cast

from absurd_contimg.core.records import Json
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.execution.runner import StageRunner
from absurd_contimg.execution.scratch import Janitor, ScratchOwner
from absurd_contimg.registry import Registry
from absurd_contimg.simulation.model.disk import Disk
from absurd_contimg.simulation.model.effect_gateway import EffectGateway, RegistryProxy
from absurd_contimg.simulation.model.executor import SimulatedExecutor, SimulatedStage, simulated
from absurd_contimg.simulation.model.files import SimulatedFiles
from absurd_contimg.simulation.model.hosts import Host
from absurd_contimg.simulation.model.process_variables import ProcessVariables
from absurd_contimg.simulation.model.simulated_config import SIMULATED_CONFIG
from absurd_contimg.simulation.model.simulated_transits import SimulatedTransitFinder
from absurd_contimg.simulation.model.stage_model import StageModel
from absurd_contimg.simulation.model.world import World
from absurd_contimg.workflows import assembly
from absurd_contimg.workflows.failure_rules import CLASSIFIER
from absurd_contimg.workflows.mosaic import mosaic_stages

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

AnyHandler = Callable[[Any, Any], Awaitable[Any]]
"""``async def handler(params, ctx)``, ours or one written for absurd-sdk."""


SETTINGS = WorkerSettings("dsa110-pipeline", "worker", poll_interval_seconds=20.0)
"""Settings of simulated workers, with few polls; queue and name are set for each worker."""


@dataclass(frozen=True, slots=True)
class HandlerWorkers:
    """One worker for each queue, in one process; `handlers` by queue and task name."""

    handlers: Mapping[str, Mapping[str, AnyHandler]]
    settings: WorkerSettings = SETTINGS
    _variables: ProcessVariables = field(init=False)

    def __post_init__(self) -> None:
        handlers = [each for of_queue in self.handlers.values() for each in of_queue.values()]
        object.__setattr__(self, "_variables", ProcessVariables(handlers))

    def __call__(self, world: World, gateway: EffectGateway, worker_id: str) -> Sequence[Worker]:
        """The workers of a new process."""
        self._variables.begin(gateway.process)
        world.kernel.switch = self._variables.switch
        backend = world.backend(gateway)
        workers = []
        for queue, handlers in self.handlers.items():
            tasks = TaskRegistry()
            for name, handler in handlers.items():
                tasks.add(name, handler)
            settings = replace(self.settings, queue_name=queue, worker_id=f"{worker_id}@{queue}")
            workers.append(Worker(backend, tasks, settings, CLASSIFIER))
        return workers


@dataclass(frozen=True, slots=True)
class PipelineWorkers:
    """A worker for pipeline tasks on each queue, with simulated stages."""

    settings: WorkerSettings = SETTINGS
    model: StageModel = field(default_factory=StageModel)
    host: Host | None = None
    """None: stages wait for no core, memory or disk."""
    free_bytes_min: int = 0
    """With less free space than this the worker claims nothing."""
    queues: Sequence[str] = ()
    """None: only that of the settings."""

    def __call__(self, world: World, gateway: EffectGateway, worker_id: str) -> Sequence[Worker]:
        """The workers of a new process."""
        state = world.state
        stages = [stage(state.registry.solves) for stage in pipeline_stages()]
        later = [stage(state.registry.solves) for stage in _mosaic_stages()]
        by_name = {stage.name: stage for stage in (*stages, *later)}
        files = SimulatedFiles(gateway, state.disk)
        executor = SimulatedExecutor(gateway, files, by_name, self.model, self.host, world.watch)
        registry: Any = RegistryProxy(gateway, state.registry)
        scratch = acquire_scratch(gateway, state.disk, worker_id)

        async def enough_space() -> bool:
            return state.disk.free_bytes >= self.free_bytes_min

        runner = StageRunner(SIMULATED_CONFIG, executor, registry, scratch, files, call_inline)
        workers = []
        for queue in self.queues or (self.settings.queue_name,):
            name = f"{worker_id}@{queue}" if self.queues else worker_id
            worker = assembly.make_pipeline_worker(
                world.backend(gateway),
                replace(self.settings, queue_name=queue, worker_id=name),
                RetryPolicy(),
                stages,
                runner,
                registry,
                enough_space if self.free_bytes_min else None,
                SimulatedTransitFinder(SIMULATED_CONFIG, registry),
            )
            workers.append(worker)
        return workers


def acquire_scratch(gateway: EffectGateway, disk: Disk, worker_id: str) -> ScratchOwner:
    """Scratch of a new process; sweeps that of dead processes, as the service does.

    None of it is a crash point: no worker has started.
    """
    scratch_dir = SIMULATED_CONFIG.paths.scratch_dir
    files = SimulatedFiles(EffectGateway(gateway.process, gateway.server), disk)
    owner = ScratchOwner(scratch_dir, worker_id, files).acquire()
    Janitor(scratch_dir, files).sweep()
    return owner


async def call_inline(function: Callable[[Unpack[_Ts]], _T], /, *arguments: *_Ts) -> _T:
    """Call a function that production calls in a thread: files take no time here."""
    return function(*arguments)


@cache
def pipeline_stages() -> tuple[type[SimulatedStage], ...]:
    """The simulated classes of the real stages, in their real order."""
    unused = cast(Registry, None)  # asked only when a real stage runs
    return tuple(map(simulated, assembly.pipeline_stages(unused)))


@cache
def _mosaic_stages() -> tuple[type[SimulatedStage], ...]:
    return tuple(map(simulated, mosaic_stages()))


def pipeline_params(group_id: str, sub_bands: Sequence[int] = range(16)) -> dict[str, Json]:
    """The parameters of a pipeline task for a simulated group."""
    files = [f"/simulated/input/{group_id}_sb{band:02d}.hdf5" for band in sub_bands]
    return {"group_id": group_id, "input_files": files, "catalog_path": "/simulated/input/sky.csv"}
