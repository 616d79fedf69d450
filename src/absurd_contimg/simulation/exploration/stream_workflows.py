"""What ``contimg explore`` explores of the stream: daemon, whole night, batch, strategies 2 to 4.

The night is short, and has each fault of a stream once: see `night_script`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from math import inf
from typing import Any

from absurd_contimg.backends.memory import MemoryDatabase
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.records import Json
from absurd_contimg.core.step_names import TIMEOUT_PREFIX
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.errors import DataQualityError
from absurd_contimg.execution.stage import stage_queues
from absurd_contimg.history.stage_tasks import COORDINATOR
from absurd_contimg.ingest.batches import FeedRules, create_batch
from absurd_contimg.ingest.closing import ClosingRules
from absurd_contimg.ingest.windows import WindowRules
from absurd_contimg.registry import GroupStatus
from absurd_contimg.registry.grouping import TOLERANCE_SECONDS
from absurd_contimg.registry.ingestion_records import Closure, FileSighting
from absurd_contimg.registry.models import IngestState
from absurd_contimg.science.raw_pointing import Pointing
from absurd_contimg.simulation.exploration.exploration_spec import ExplorationSpec, Job
from absurd_contimg.simulation.exploration.mosaic_workflows import (
    mosaic_spec,
    publication_spec,
    with_published_folder,
)
from absurd_contimg.simulation.model.effect_gateway import EffectGateway, RegistryProxy
from absurd_contimg.simulation.model.simulated_config import SIMULATED_CONFIG
from absurd_contimg.simulation.model.simulated_daemon import (
    DaemonSettings,
    make_simulated_daemon,
)
from absurd_contimg.simulation.model.simulated_incoming import ArrivingFile, NightScript
from absurd_contimg.simulation.model.simulated_ingestion import SimulatedIngestion
from absurd_contimg.simulation.model.stage_model import StageModel
from absurd_contimg.simulation.model.worker_factory import (
    SETTINGS,
    PipelineWorkers,
    pipeline_params,
)
from absurd_contimg.simulation.model.world import EPOCH, State, World
from absurd_contimg.workflows import (
    group,
    hybrid,
    mosaic,
    photometry,
    stage_tasks,
    transit_mosaics,
)
from absurd_contimg.workflows.failure_rules import CLASSIFIER
from absurd_contimg.workflows.transit_mosaics import BATCH_TASK, BatchMosaicInputs

QUEUE = SETTINGS.queue_name
CADENCE_SECONDS = 309.0
_MJD_OF_EPOCH = EPOCH.timestamp() / 86_400.0 + 40_587.0
_SUBBANDS = 4
CLOSING = ClosingRules(expected_subbands=_SUBBANDS, subbands_min=3)
WINDOWS = WindowRules(size=3, stride=2, members_min=2, confirm=2, night_end_seconds=900.0)


def group_name(number: int, late_seconds: float = 0.0) -> str:
    """The name of the n-th group of the night, or of a sub-band of it that is named later."""
    time = EPOCH + timedelta(seconds=number * CADENCE_SECONDS + late_seconds)
    return time.strftime("%Y-%m-%dT%H:%M:%S")


def arriving_file(
    number: int,
    subband: int,
    declination_deg: float = 16.3,
    named_later_seconds: float = 0.0,
    delay_seconds: float = 0.0,
    **options: Any,
) -> ArrivingFile:
    """A sub-band of the n-th group, which comes when the observation is over."""
    arrives_at = (number + 1) * CADENCE_SECONDS + delay_seconds
    return ArrivingFile(
        f"{group_name(number, named_later_seconds)}_sb{subband:02d}.hdf5",
        arrives_at,
        Pointing(_MJD_OF_EPOCH + (number + 0.5) * CADENCE_SECONDS / 86_400.0, declination_deg),
        **{"whole_at": arrives_at + 5.0, **options},
    )


FAILING_GROUP = 1
"""Its data are bad."""


def night_script() -> NightScript:
    """Eleven groups, each kind of fault once, and an outage of the folder's disk.

    Group 1 fails; of 2 a sub-band is missing; of 3 one comes late; of 4 one is truncated and one
    comes twice, under a name a second later; 5 is named before and after a full minute; of 6 one
    is damaged; 7 has too few sub-bands, which makes a gap; from 8 on the declination
    is another, and 10 comes when the night seemed to be over.
    """
    files = [
        arriving_file(number, subband, 16.3 if number < 8 else 54.6)
        for number in (0, 1, 8, 9)
        for subband in range(_SUBBANDS)
    ]
    files += [arriving_file(2, subband) for subband in (0, 1, 3)]
    files += [arriving_file(3, subband) for subband in (0, 1, 2)]
    files += [arriving_file(3, 3, delay_seconds=900.0)]
    files += [arriving_file(4, subband) for subband in (0, 1, 2)]
    files += [arriving_file(4, 3, whole_at=inf), arriving_file(4, 1, named_later_seconds=1.0)]
    files += [arriving_file(5, band, named_later_seconds=16.0 * (band % 2)) for band in range(4)]
    files += [arriving_file(6, subband, damaged=subband == 3) for subband in range(_SUBBANDS)]
    files += [arriving_file(7, subband) for subband in (0, 1)]
    files += [arriving_file(10, band, 54.6, delay_seconds=1_500.0) for band in range(_SUBBANDS)]
    return NightScript(files, away=[(1_300.0, 1_500.0)])


DAEMON = DaemonSettings(QUEUE, night_script(), CLOSING, WINDOWS, poll_seconds=60.0)


@dataclass(frozen=True, slots=True)
class StreamWorkers:
    """A daemon and a worker in one process, as in ``contimg run --follow``."""

    daemon: DaemonSettings = DAEMON
    workers: PipelineWorkers = field(default_factory=PipelineWorkers)

    def __call__(self, world: World, gateway: EffectGateway, worker_id: str) -> Sequence[Worker]:
        """The worker of a new process, whose daemon works already."""
        world.start_service(gateway, make_simulated_daemon(world, gateway, self.daemon))
        return self.workers(world, gateway, worker_id)


_RARE_POLLS = replace(SETTINGS, poll_interval_seconds=60.0)


@dataclass(frozen=True, slots=True)
class ShortTaskWorkers:
    """A daemon and a worker whose tasks only say how a group ended: few crash points of its own."""

    daemon: DaemonSettings = DAEMON
    queues: tuple[str, ...] = (QUEUE,)
    failing: frozenset[str] = frozenset({group_name(FAILING_GROUP)})
    settings: WorkerSettings = _RARE_POLLS

    def __call__(self, world: World, gateway: EffectGateway, worker_id: str) -> Sequence[Worker]:
        """The workers of a new process, whose daemon works already."""
        world.start_service(gateway, make_simulated_daemon(world, gateway, self.daemon))
        registry: Any = RegistryProxy(gateway, world.state.registry)
        failing = self.failing

        async def end_group(params: Mapping[str, Any], _ctx: TaskContext) -> Json:
            group_id = str(params["group_id"])
            if group_id in failing:
                registry.set_group_status(group_id, GroupStatus.QUARANTINED, "all flagged")
                raise DataQualityError("all data are flagged")
            registry.set_group_status(group_id, GroupStatus.DONE)
            return {"group_id": group_id}

        async def end(params: Mapping[str, Any], _ctx: TaskContext) -> Json:
            return dict(params)

        tasks = TaskRegistry()
        tasks.add(group.TASK_NAME, end_group)
        tasks.add(mosaic.TASK_NAME, end)
        tasks.add(photometry.TASK_NAME, end)
        return [
            Worker(
                world.backend(gateway),
                tasks,
                replace(self.settings, queue_name=queue, worker_id=f"{worker_id}@{queue}"),
                CLASSIFIER,
            )
            for queue in self.queues
        ]


_NIGHT_SECONDS = 7_000.0
"""All files have come, the night's end is seen, and a fault has cost some time."""


_STARTS_MAX = 10
_FAILURES = {(group_name(FAILING_GROUP), "convert"): ("data-quality",) * _STARTS_MAX}
_WITH_A_BAD_GROUP = PipelineWorkers(model=StageModel(planned=_FAILURES))


def daemon_spec(**options: Any) -> ExplorationSpec:
    """The night with tasks that take no time: files, groups, windows, tasks."""
    return ExplorationSpec(
        ShortTaskWorkers(), [], (QUEUE,), ends_after_seconds=_NIGHT_SECONDS, **options
    )


def night_spec(**options: Any) -> ExplorationSpec:
    """The same night with production's worker: pipeline, mosaics, photometry, publication."""
    return ExplorationSpec(
        StreamWorkers(workers=_WITH_A_BAD_GROUP),
        [],
        (QUEUE,),
        prepare=with_published_folder,
        ends_after_seconds=_NIGHT_SECONDS,
        **options,
    )


_BATCH_QUEUE = f"{QUEUE}-reprocessing"


def batch_spec(**options: Any) -> ExplorationSpec:
    """A batch of seven groups of which one fails, two at a time."""

    def prepare() -> State:
        state = State(MemoryDatabase(0, clock=lambda: EPOCH))
        rules = FeedRules(task=group.TASK_NAME, ahead=2, cap=2)
        names = [group_name(number) for number in range(7)]
        items = [(name, pipeline_params(name)) for name in names]
        create_batch(state.registry.batches, "b1", "reprocess", _BATCH_QUEUE, rules, items, EPOCH)
        return state

    daemon = DaemonSettings(QUEUE, NightScript(()), poll_seconds=60.0)
    workers = ShortTaskWorkers(daemon, (_BATCH_QUEUE,))
    return ExplorationSpec(
        workers, [], (_BATCH_QUEUE,), prepare=prepare, ends_after_seconds=1_500.0, **options
    )


_LOOKS = ("$awaitEvent:", TIMEOUT_PREFIX)
"""A coordinator that is killed looks later, so it looks more or fewer times at a stage task."""


def stages_spec(**options: Any) -> ExplorationSpec:
    """Strategy 2: a coordinator and a task for each stage, on queues by resource."""
    queues = (QUEUE, *stage_queues(QUEUE).values())
    name = group_name(0)
    job = Job(QUEUE, COORDINATOR, pipeline_params(name), stage_tasks.spawn_options(name))
    workers = PipelineWorkers(queues=queues)
    return ExplorationSpec(workers, [job], queues, looks=_LOOKS, **options)


def hybrid_spec(**options: Any) -> ExplorationSpec:
    """Strategy 4: one step around the sequence of stages."""
    name = group_name(0)
    job = Job(QUEUE, hybrid.TASK_NAME, pipeline_params(name), hybrid.spawn_options(name))
    return ExplorationSpec(PipelineWorkers(), [job], (QUEUE,), **options)


def transits_spec(**options: Any) -> ExplorationSpec:
    """Strategy 3: a batch of one transit, whose three groups are processed first; one is bad."""

    def prepare() -> State:
        state = with_published_folder()
        for number in range(3):
            _observe(state.registry.ingestion, number)
        return state

    catalogue = SIMULATED_CONFIG.paths.input_dir / "sky.csv"
    inputs = BatchMosaicInputs(catalog_path=catalogue, groups_min=2, wait_for_published=True)
    key_options = transit_mosaics.spawn_options(BATCH_TASK, inputs)
    job = Job(QUEUE, BATCH_TASK, inputs.model_dump(mode="json"), key_options)
    return ExplorationSpec(
        _WITH_A_BAD_GROUP, [job], (QUEUE,), prepare=prepare, looks=("children",), **options
    )


def _observe(ingestion: SimulatedIngestion, number: int) -> None:
    """A group whose files are all there."""
    files = [arriving_file(number, subband) for subband in range(_SUBBANDS)]
    paths = tuple(SIMULATED_CONFIG.paths.input_dir / file.name for file in files)
    ingestion.enter_files([FileSighting(path, 1, 1) for path in paths], 0.0, TOLERANCE_SECONDS)
    pointing = files[0].pointing
    times = pointing.mid_mjd, pointing.declination_deg
    state, reason = IngestState.CLOSED, "all sub-bands"
    ingestion.close_group(Closure(group_name(number), state, reason, paths, (), *times, 0.0))


SPECS: Mapping[str, Callable[[], ExplorationSpec]] = {
    "daemon": daemon_spec,
    "night": night_spec,
    "mosaic": mosaic_spec,
    "publication": publication_spec,
    "batch": batch_spec,
    "stages": stages_spec,
    "transits": transits_spec,
    "hybrid": hybrid_spec,
}
"""By the name that ``contimg explore --workflow`` takes."""
