"""One simulated campaign: days of telescope, N workers, a plan of faults; and what came of it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.core.records import History, SpawnOptions
from absurd_contimg.history.invariants.check import Violation, check_world
from absurd_contimg.simulation.campaign.faults import DAY_SECONDS, check_faults, draw_faults
from absurd_contimg.simulation.campaign.operator import Operator
from absurd_contimg.simulation.campaign.scenario import Scenario
from absurd_contimg.simulation.campaign.telescope import (
    SUB_BANDS_MIN,
    Observation,
    draw_observations,
    observe,
)
from absurd_contimg.simulation.model.disk import ROOT, Disk
from absurd_contimg.simulation.model.faults import FaultKind, TimedFault
from absurd_contimg.simulation.model.hosts import DiskChannel, Host
from absurd_contimg.simulation.model.simulated_registry import SimulatedRegistry
from absurd_contimg.simulation.model.stage_model import (
    DEFAULT_COSTS,
    ENDS_WORKER,
    StageCost,
    StageModel,
)
from absurd_contimg.simulation.model.trace import Trace
from absurd_contimg.simulation.model.worker_factory import (
    PipelineWorkers,
    WorkerTerms,
    pipeline_params,
)
from absurd_contimg.simulation.model.world import EPOCH, State, World, quiet_logs
from absurd_contimg.simulation.runtime.clocks import HostClock
from absurd_contimg.simulation.runtime.loop import SimLoop, instantly

QUEUE = "dsa110-pipeline"
TASK = "pipeline"
_CHECK_SECONDS = 600.0
_STARTS_PLANNED = 10


@dataclass(slots=True)
class FaultCounts:
    """How often each kind of fault was injected, and how often it hit work under way."""

    injected: dict[str, int] = field(default_factory=dict)
    effective: dict[str, int] = field(default_factory=dict)

    def note(self, kind: FaultKind, hit: bool) -> None:
        """Count one fault."""
        self.injected[kind] = self.injected.get(kind, 0) + 1
        self.effective[kind] = self.effective.get(kind, 0) + hit


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of a scenario has left."""

    scenario: Scenario
    seed: int
    histories: Sequence[History]
    violations: Sequence[Violation]
    faults: Sequence[TimedFault]
    fault_counts: FaultCounts
    trace: Sequence[str]
    stage_seconds: float
    stage_seconds_lost: float
    ended_at_seconds: float
    groups_rejected: int
    callbacks: int
    digest: str
    """Of all histories: two runs are the same if and only if this is the same."""


class Campaign:
    """One run under way."""

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        faults: Sequence[TimedFault] | None = None,
        costs: Mapping[str, StageCost] | None = None,
        trace: Trace | None = None,
    ) -> None:
        self.scenario, self.seed = scenario, seed
        self.faults = draw_faults(scenario, seed) if faults is None else list(faults)
        check_faults(scenario, self.faults)
        self.fault_counts = FaultCounts()
        self.trace = Trace() if trace is None else trace
        every = scenario.telescope.calibrator_every
        self.observations = draw_observations(scenario, seed)
        numbers = {one.group_id: one.number for one in self.observations}
        registry = SimulatedRegistry(lambda group: numbers[group] % every == 0)
        database = MemoryDatabase(seed, clock=lambda: EPOCH)
        disk = Disk(scenario.disk.capacity_bytes)
        self.world = World(State(database, disk, registry), observer=trace)
        self.trace.watch(database)
        self.world.server.latency_seconds = scenario.faults.latency_seconds
        if scenario.faults.lost_reply_probability:
            self.world.server.lose_reply = self._loser(scenario.faults.lost_reply_probability)
        terms, bandwidth = scenario.workers, scenario.disk.bandwidth_bytes_per_second
        env = self.world.kernel.env
        channel = None if bandwidth is None else DiskChannel(env, bandwidth)
        self._hosts = [
            Host(env, f"host-{n}", terms.cores_per_host, terms.memory_bytes_per_host, channel)
            for n in range(terms.hosts)
        ]
        self._model = self._stage_model(costs or DEFAULT_COSTS)
        self._processes: dict[int, SimLoop] = {}
        self._stopped_until = 0.0
        self._backend = MemoryBackend(database)
        instantly(self._backend.create_queue(QUEUE))

    # -- making the world -----------------------------------------------------------------

    def _loser(self, probability: float) -> Callable[[str], bool]:
        random = Random(f"{self.seed}/replies")
        return lambda _name: random.random() < probability

    def _stage_model(self, costs: Mapping[str, StageCost]) -> StageModel:
        scale = self.scenario.service_scale
        scaled = {name: replace(one, seconds=one.seconds * scale) for name, one in costs.items()}
        planned: dict[tuple[str, str], tuple[str | None, ...]] = {}
        for one in self.observations:
            if not one.convertible:
                planned[one.group_id, "convert"] = ("bad-input",) * _STARTS_PLANNED
            if one.number in self.scenario.faults.poison_groups:
                planned[one.group_id, "image"] = (ENDS_WORKER,) * _STARTS_PLANNED
        return StageModel(
            self.seed,
            scaled,
            self.scenario.duration_spread,
            self.scenario.faults.stage_failures,
            planned,
        )

    def _start_worker(self, number: int) -> None:
        kernel = self.world.kernel
        if kernel.now < self._stopped_until:
            self.world.call_later(
                self._stopped_until - kernel.now, partial(self._start_worker, number)
            )
            return
        terms, home = self.scenario.workers, number % len(self._hosts)
        host, clock = self._hosts[home], None
        if terms.clock_skew_seconds or terms.clock_drift:
            clock = HostClock(home * terms.clock_skew_seconds, 1.0 + home % 2 * terms.clock_drift)
        gateway = self.world.process(f"worker-{number}", host=host.name, clock=clock)
        self._note(f"worker-{number} starts on {host.name}")
        workers = PipelineWorkers(
            QUEUE,
            self._model,
            WorkerTerms(terms.lease_seconds, terms.poll_seconds, grace_seconds=terms.grace_seconds),
            host,
            free_bytes_min=terms.free_bytes_min,
        )
        self.world.start_workers(gateway, workers(self.world, gateway, f"worker-{number}"))
        self._processes[number] = gateway.process
        gateway.process.at_death("supervisor", partial(self._died, number))

    def _died(self, number: int) -> None:
        self._note(f"worker-{number} ends")
        process = self._processes.pop(number)
        self.world.processes.remove(process)
        self.world.workers.pop(process)
        delay = self.scenario.workers.restart_seconds
        self.world.call_later(delay, partial(self._start_worker, number))

    def _note(self, text: str) -> None:
        self.trace.note(self.world.kernel.now, text)

    # -- telescope ------------------------------------------------------------------------

    async def _spawn(self, one: Observation) -> None:
        """Give a group its task, as soon as the database is there."""
        options = SpawnOptions(idempotency_key=f"{TASK}:{one.group_id}")
        while self.world.server.down:  # noqa: ASYNC110 - whoever spawns has no other news of it
            await asyncio.sleep(5.0)
        params = pipeline_params(one.group_id, one.sub_bands)
        spawned = await self._backend.spawn_task(QUEUE, TASK, params, options)
        self._note(f"group {one.group_id} is spawned as task {spawned.task_id}")

    # -- faults ---------------------------------------------------------------------------

    def _inject(self, fault: TimedFault) -> None:
        self._note(f"fault {fault}")
        match fault.kind:
            case FaultKind.KILL:
                self._kill([fault.target], FaultKind.KILL)
            case FaultKind.PAUSE:
                self._pause(fault)
            case FaultKind.TERM:
                self.fault_counts.note(FaultKind.TERM, self._busy(fault.target))
                self._terminate(fault.target)
            case FaultKind.REBOOT:
                hosts = len(self._hosts)
                numbers = [one for one in sorted(self._processes) if one % hosts == fault.target]
                self._kill(numbers, FaultKind.REBOOT)
            case FaultKind.STOP:
                self._stopped_until = self.world.kernel.now + fault.seconds
                self._kill(sorted(self._processes), FaultKind.STOP)
            case FaultKind.PARTITION:
                self._partition(fault)
            case FaultKind.OUTAGE:
                self.fault_counts.note(
                    FaultKind.OUTAGE, any(map(self._busy, list(self._processes)))
                )
                self.world.server.down = True
                self.world.call_later(
                    fault.seconds, partial(setattr, self.world.server, "down", False)
                )
            case FaultKind.FILL:
                self._fill(fault)
            case kind:
                raise ValueError(f"a campaign has no fault {kind}")

    def _busy(self, number: int) -> bool:
        process = self._processes.get(number)
        return process is not None and any(one._runs for one in self.world.workers[process])

    def _kill(self, numbers: Sequence[int], kind: FaultKind) -> None:
        self.fault_counts.note(kind, any(map(self._busy, numbers)))
        for number in numbers:
            if number in self._processes:
                self._processes[number].kill()

    def _pause(self, fault: TimedFault) -> None:
        process = self._processes.get(fault.target)
        self.fault_counts.note(FaultKind.PAUSE, self._busy(fault.target))
        if process is not None:
            process.pause()
            self.world.call_later(fault.seconds, process.resume)

    def _terminate(self, number: int) -> None:
        process = self._processes.get(number)
        if process is not None:
            self.world.request_stop(process)

    def _fill(self, fault: TimedFault) -> None:
        """Somebody else's files take what is left of the disk, and are removed again."""
        disk = self.world.state.disk
        self.fault_counts.note(FaultKind.FILL, any(map(self._busy, list(self._processes))))
        path = f"{ROOT}/others at {fault.at_seconds}"
        disk.write(path, disk.free_bytes)
        self.world.call_later(fault.seconds, partial(disk.remove, path))

    def _partition(self, fault: TimedFault) -> None:
        host = self._hosts[fault.target].name
        hosts = len(self._hosts)
        hit = [one for one in self._processes if one % hosts == fault.target and self._busy(one)]
        self.fault_counts.note(FaultKind.PARTITION, bool(hit))
        self.world.server.cut_off.add(host)
        self.world.call_later(fault.seconds, partial(self.world.server.cut_off.discard, host))

    # -- running --------------------------------------------------------------------------

    def run(self) -> Run:
        """Run it to its end."""
        with quiet_logs():
            try:
                return self._run()
            finally:
                self.world.close()

    def _run(self) -> Run:
        world, scenario = self.world, self.scenario
        outside = world.process("outside", observed=False)
        outside.process.create_task(observe(self.observations, self._spawn), name="telescope")
        operator = Operator(
            world, QUEUE, self._terminate, lambda text: self._note(f"operator {text}")
        )
        for name, duty in operator.duties(scenario):
            outside.process.create_task(duty, name=f"operator {name}")
        for number in range(scenario.workers.count):
            self._start_worker(number)
        for fault in self.faults:
            self.world.call_later(fault.at_seconds, partial(self._inject, fault))
        end = scenario.days * DAY_SECONDS
        world.kernel.run(end)
        while world.kernel.now < end + scenario.drain_seconds and not world.all_tasks_ended(
            [QUEUE]
        ):
            world.kernel.run(world.kernel.now + _CHECK_SECONDS)
        observed = world.observation(must_have_ended=scenario.drain_seconds > 0)
        ended_at = world.kernel.now
        histories = observed.histories
        return Run(
            scenario,
            self.seed,
            histories,
            check_world(observed),
            self.faults,
            self.fault_counts,
            self.trace.text(),
            world.watch.seconds_used,
            world.watch.seconds_lost,
            ended_at,
            sum(len(one.sub_bands) < SUB_BANDS_MIN for one in self.observations),
            world.kernel.callbacks_run,
            digest_of(histories),
        )


def digest_of(histories: Sequence[History]) -> str:
    """A digest of everything in the histories."""
    found = hashlib.blake2b(digest_size=16)
    for history in histories:
        found.update(repr(history).encode())
    return found.hexdigest()
