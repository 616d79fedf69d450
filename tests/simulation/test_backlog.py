"""A night with a backlog beside it: the feeder's bound, and live groups that never wait behind it.

``benchmarks/test_feeder.py`` asks the same of a real database, with 10,000 groups.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from absurd_contimg.backends.memory import MemoryDatabase
from absurd_contimg.core.records import History
from absurd_contimg.ingest.batches import FeedRules, create_batch, reprocessing_queue
from absurd_contimg.registry.batches import BatchState
from absurd_contimg.simulation.exploration.stream_workflows import (
    CADENCE_SECONDS,
    CLOSING,
    QUEUE,
    arriving_file,
    group_name,
)
from absurd_contimg.simulation.model.simulated_daemon import DaemonSettings, make_simulated_daemon
from absurd_contimg.simulation.model.simulated_incoming import NightScript
from absurd_contimg.simulation.model.stage_model import DEFAULT_COSTS, StageModel
from absurd_contimg.simulation.model.worker_factory import (
    SETTINGS,
    PipelineWorkers,
    pipeline_params,
)
from absurd_contimg.simulation.model.world import EPOCH, State, World, without_logs_and_gc
from absurd_contimg.simulation.runtime.loop import instantly
from absurd_contimg.workflows.group import TASK_NAME

BACKLOG = reprocessing_queue(QUEUE)
AHEAD = 5
SUBBANDS = 4
BACKLOG_SPEED = 20.0
"""How much faster a group of the backlog is processed, so that a short night sees many."""
_NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Night:
    """What became of it."""

    live: list[History]
    backlog: list[History]
    batch: BatchState | None

    @property
    def live_seconds(self) -> list[float]:
        """From the observation of each live group to the end of its task, in order."""
        groups = [history for history in self.live if history.task.task_name == TASK_NAME]
        ends = {str(h.task.idempotency_key): h.runs[-1].completed_at or _NEVER for h in groups}
        return [(end - EPOCH).total_seconds() for _, end in sorted(ends.items())]

    @property
    def most_waiting(self) -> int:
        """The most tasks of the backlog that waited for a worker at one moment."""
        changes: list[tuple[datetime, int]] = []
        for history in self.backlog:
            begun = history.task.first_started_at or _NEVER
            changes += [(history.task.enqueue_at, 1), (begun, -1)]
        waiting = most = 0
        for _, change in sorted(changes):
            waiting += change
            most = max(most, waiting)
        return most


def simulate(live: int, backlog: int, hours: float) -> Night:
    """The daemon, two workers of the live queue and one of the backlog's, on the virtual clock."""
    state = State(MemoryDatabase(0, clock=lambda: EPOCH))
    world = World(state)
    if backlog:
        rules = FeedRules(task=TASK_NAME, ahead=AHEAD, cap=200)
        names = [group_name(-1 - number) for number in range(backlog)]
        items = [(name, pipeline_params(name)) for name in names]
        create_batch(state.registry.batches, "old", "reprocess", BACKLOG, rules, items, EPOCH)
    for queue in (QUEUE, BACKLOG):
        instantly(world.direct_backend.create_queue(queue))
    files = [arriving_file(number, band) for number in range(live) for band in range(SUBBANDS)]
    daemon = DaemonSettings(QUEUE, NightScript(files), CLOSING)
    gateway = world.process("daemon")
    world.start_service(gateway, make_simulated_daemon(world, gateway, daemon))
    fast = {
        name: replace(cost, seconds=cost.seconds / BACKLOG_SPEED)
        for name, cost in DEFAULT_COSTS.items()
    }
    for name, queue, model in (
        ("live-1", QUEUE, StageModel()),
        ("live-2", QUEUE, StageModel()),
        ("old", BACKLOG, StageModel(0, fast)),
    ):
        gateway = world.process(name)
        workers = PipelineWorkers(replace(SETTINGS, queue_name=queue), model)
        world.start_workers(gateway, workers(world, gateway, name))
    with without_logs_and_gc():
        world.kernel.run(hours * 3600.0)
    histories = world.histories()
    batches = state.registry.batches.batches()
    world.close()
    return Night(
        [history for history in histories if history.queue_name == QUEUE],
        [history for history in histories if history.queue_name == BACKLOG],
        batches[0].state if batches else None,
    )


def test_a_backlog_delays_no_live_group_and_never_fills_its_queue() -> None:
    """200 old groups beside 12 live ones, which end when they would have ended alone."""
    alone, beside = simulate(12, 0, 3.0), simulate(12, 200, 3.0)
    assert len(alone.live_seconds) == 12
    assert max(alone.live_seconds) < 12 * CADENCE_SECONDS + timedelta(minutes=30).total_seconds()
    assert beside.live_seconds == alone.live_seconds
    assert beside.most_waiting == AHEAD
    assert beside.batch is BatchState.COMPLETED
    assert {history.task.state for history in beside.backlog} == {"completed"}
    assert len(beside.backlog) == 200
