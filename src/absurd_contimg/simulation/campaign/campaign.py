"""One simulated campaign: days of telescope, workers, timed faults; and its result."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from random import Random

from absurd_contimg.backends.memory import MemoryDatabase
from absurd_contimg.core.records import History
from absurd_contimg.history.invariants.check import Violation, check_world
from absurd_contimg.simulation.campaign.faults import DAY_SECONDS, check_faults, draw_faults
from absurd_contimg.simulation.campaign.operator import Operator
from absurd_contimg.simulation.campaign.scenario import Scenario
from absurd_contimg.simulation.campaign.stream import (
    QUIET_SECONDS,
    draw_night,
    number_of_group,
    start_daemon,
)
from absurd_contimg.simulation.campaign.telescope import SUB_BANDS_MIN, draw_observations
from absurd_contimg.simulation.model.disk import ROOT, Disk
from absurd_contimg.simulation.model.effect_gateway import EffectGateway
from absurd_contimg.simulation.model.executor import LostStage
from absurd_contimg.simulation.model.faults import FaultKind, TimedFault
from absurd_contimg.simulation.model.hosts import DiskChannel, Host, Queue
from absurd_contimg.simulation.model.simulated_config import SIMULATED_CONFIG
from absurd_contimg.simulation.model.simulated_registry import SimulatedRegistry
from absurd_contimg.simulation.model.stage_model import (
    DEFAULT_COSTS,
    ENDS_WORKER,
    StageCost,
    StageModel,
)
from absurd_contimg.simulation.model.trace import Trace
from absurd_contimg.simulation.model.worker_factory import (
    SETTINGS,
    PipelineWorkers,
    pipeline_params,
)
from absurd_contimg.simulation.model.world import EPOCH, State, World, without_logs_and_gc
from absurd_contimg.simulation.runtime.kernel import HostClock
from absurd_contimg.simulation.runtime.loop import SimLoop, instantly
from absurd_contimg.workflows.group import TASK_NAME, spawn_options

QUEUE = SETTINGS.queue_name
_CHECK_SECONDS = 600.0
_STARTS_PLANNED = 10
_CHECKS_OF_STREAM = 2
"""After all tasks have ended the daemon closes windows, and spawns more."""


@dataclass(frozen=True, slots=True)
class Run:
    """The result of one run of a scenario."""

    scenario: Scenario
    seed: int
    histories: Sequence[History]
    violations: Sequence[Violation]
    faults: Sequence[TimedFault]
    injected: Mapping[str, int]
    """Faults by kind."""
    effective: Mapping[str, int]
    """Of these, the ones that hit work under way."""
    trace: Sequence[str]
    stage_seconds: float
    lost_stages: Sequence[LostStage]
    ended_at_seconds: float
    groups_rejected: int
    callbacks: int
    digest: str
    """Of all histories: equal if and only if two runs are the same."""


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
        self._injected: Counter[str] = Counter()
        self._effective: Counter[str] = Counter()
        self.trace = Trace() if trace is None else trace
        every = scenario.telescope.calibrator_every
        self.observations = draw_observations(scenario, seed)
        interval = scenario.telescope.interval_seconds
        registry = SimulatedRegistry(lambda group: number_of_group(group, interval) % every == 0)
        database = MemoryDatabase(seed, clock=lambda: EPOCH)
        disk = Disk(scenario.disk.capacity_bytes)
        self.world = World(State(database, disk, registry), observer=trace)
        self.trace.database = database
        self.world.server.latency_seconds = scenario.faults.latency_seconds
        if scenario.faults.lost_reply_probability:
            self.world.server.lose_reply = self._loses_reply
            self._replies = Random(f"{seed}/replies")
        terms, env = scenario.workers, self.world.kernel.env
        bandwidth = scenario.disk.bandwidth_bytes_per_second
        channel = None if bandwidth is None else DiskChannel(env, bandwidth)
        cores, memory = terms.cores_per_host, terms.memory_bytes_per_host
        self._hosts = [
            Host(f"host-{n}", Queue(env, cores), memory, channel) for n in range(terms.hosts)
        ]
        self._model = self._stage_model(costs or DEFAULT_COSTS)
        self._processes: dict[int, SimLoop] = {}
        self._stopped_until = 0.0
        instantly(self.world.direct_backend.create_queue(QUEUE))
        self._script = None
        if scenario.stream is not None:
            self._script = draw_night(scenario, seed)
            disk.make_folder(str(SIMULATED_CONFIG.paths.published))

    # -- making the world -----------------------------------------------------------------

    def _loses_reply(self, _call: str) -> bool:
        return self._replies.random() < self.scenario.faults.lost_reply_probability

    def _stage_model(self, costs: Mapping[str, StageCost]) -> StageModel:
        scale, faults = self.scenario.service_scale, self.scenario.faults
        scaled = {
            stage: replace(cost, seconds=cost.seconds * scale) for stage, cost in costs.items()
        }
        planned: dict[tuple[str, str], tuple[str | None, ...]] = {}
        for each in self.observations:
            if not each.convertible:
                planned[each.group_id, "convert"] = ("bad-input",) * _STARTS_PLANNED
            if each.number in faults.poison_groups:
                planned[each.group_id, "image"] = (ENDS_WORKER,) * _STARTS_PLANNED
        spread = self.scenario.duration_spread
        return StageModel(self.seed, scaled, spread, faults.stage_failures, planned)

    def _start_worker(self, number: int) -> None:
        """Start a worker, or the daemon, whose number is the next one."""
        kernel = self.world.kernel
        if kernel.now < self._stopped_until:
            seconds = self._stopped_until - kernel.now
            self.world.call_later(seconds, partial(self._start_worker, number))
            return
        terms, home = self.scenario.workers, number % len(self._hosts)
        host = self._hosts[home]
        clock = HostClock(home * terms.clock_skew_seconds, 1.0 + home % 2 * terms.clock_drift)
        stream = self.scenario.stream
        is_daemon = number == terms.count
        name = "daemon" if is_daemon else f"worker-{number}"
        gateway = self.world.process(name, host=host.name, clock=clock)
        self._note(f"{name} starts on {host.name}")
        if is_daemon and stream is not None and self._script is not None:
            start_daemon(self.world, gateway, QUEUE, stream, self._script)
        else:
            self._start_tasks(gateway, name, host)
        self._processes[number] = gateway.process
        gateway.process.at_death("supervisor", partial(self._died, number))

    def _start_tasks(self, gateway: EffectGateway, name: str, host: Host) -> None:
        terms = self.scenario.workers
        settings = replace(
            SETTINGS,
            claim_timeout_seconds=terms.lease_seconds,
            poll_interval_seconds=terms.poll_seconds,
            grace_seconds=terms.grace_seconds,
        )
        workers = PipelineWorkers(settings, self._model, host, terms.free_bytes_min)
        self.world.start_workers(gateway, workers(self.world, gateway, name))

    def _died(self, number: int) -> None:
        process = self._processes.pop(number)
        self._note(f"{process.name} ends")
        self.world.processes.remove(process)
        self.world.workers.pop(process, None)
        delay = self.scenario.workers.restart_seconds
        self.world.call_later(delay, partial(self._start_worker, number))

    def _note(self, text: str) -> None:
        self.trace.note(self.world.kernel.now, text)

    # -- telescope ------------------------------------------------------------------------

    async def _observe(self) -> None:
        """Spawn the task of each group at its time, or as soon as the database is there."""
        clock = asyncio.get_running_loop().time
        for observation in self.observations:
            group = observation.group_id
            await asyncio.sleep(max(observation.spawned_at_seconds - clock(), 0.0))
            while self.world.server.down:  # noqa: ASYNC110 - nothing else announces it
                await asyncio.sleep(5.0)
            params, options = pipeline_params(group, observation.sub_bands), spawn_options(group)
            spawned = await self.world.direct_backend.spawn_task(QUEUE, TASK_NAME, params, options)
            self._note(f"group {group} is spawned as task {spawned.task_id}")

    # -- faults ---------------------------------------------------------------------------

    def _inject(self, fault: TimedFault) -> None:
        self._note(f"fault {fault}")
        workers = self._affected(fault)
        self._injected[fault.kind] += 1
        self._effective[fault.kind] += any(map(self._is_busy, workers))
        server, disk = self.world.server, self.world.state.disk
        later = partial(self.world.call_later, fault.seconds)
        match fault.kind:
            case FaultKind.KILL | FaultKind.REBOOT | FaultKind.STOP:
                if fault.kind is FaultKind.STOP:
                    self._stopped_until = self.world.kernel.now + fault.seconds
                for number in workers:
                    self._processes[number].kill()
            case FaultKind.PAUSE:
                for number in workers:
                    self._processes[number].pause()
                    later(self._processes[number].resume)
            case FaultKind.TERM:
                self._stop(fault.target)
            case FaultKind.PARTITION:
                host = self._hosts[fault.target].name
                server.cut_off.add(host)
                later(partial(server.cut_off.discard, host))
            case FaultKind.OUTAGE:
                server.down = True
                later(partial(setattr, server, "down", False))
            case FaultKind.FILL:
                path = f"{ROOT}/others at {fault.at_seconds}"
                disk.write(path, disk.free_bytes)
                later(partial(disk.remove, path))
            case kind:
                raise ValueError(f"a campaign has no fault {kind}")

    def _affected(self, fault: TimedFault) -> list[int]:
        """The running workers that a fault concerns."""
        workers = sorted(self._processes)
        match fault.kind:
            case FaultKind.KILL | FaultKind.PAUSE | FaultKind.TERM:
                return [number for number in workers if number == fault.target]
            case FaultKind.REBOOT | FaultKind.PARTITION:
                return [number for number in workers if number % len(self._hosts) == fault.target]
            case _:
                return workers

    def _is_busy(self, number: int) -> bool:
        workers = self.world.workers.get(self._processes[number], ())
        return any(worker._runs for worker in workers)

    def _stop(self, number: int) -> None:
        if number in self._processes:
            self.world.request_stop(self._processes[number])

    # -- running --------------------------------------------------------------------------

    def run(self) -> Run:
        """Run it to its end."""
        with without_logs_and_gc():
            try:
                return self._run()
            finally:
                self.world.close()

    def _run(self) -> Run:
        world, scenario = self.world, self.scenario
        outside = world.process("outside", observed=False)
        streams = self._script is not None
        if not streams:
            outside.process.create_task(self._observe(), name="telescope")
        operator = Operator(world, QUEUE, self._stop, lambda text: self._note(f"operator {text}"))
        for duty in operator.duties(scenario):
            outside.process.create_task(duty)
        for number in range(scenario.workers.count + streams):
            self._start_worker(number)
        for fault in self.faults:
            self.world.call_later(fault.at_seconds, partial(self._inject, fault))
        end = scenario.days * DAY_SECONDS
        world.kernel.run(end + (QUIET_SECONDS if streams else 0.0))
        last = end + scenario.drain_seconds
        checks = 1 + _CHECKS_OF_STREAM * streams
        while world.kernel.now < last and checks:
            checks = (
                checks - 1 if world.all_tasks_ended([QUEUE]) else 1 + _CHECKS_OF_STREAM * streams
            )
            if checks:
                world.kernel.run(world.kernel.now + _CHECK_SECONDS)
        observed = world.observation(must_have_ended=scenario.drain_seconds > 0)
        too_few = [each for each in self.observations if len(each.sub_bands) < SUB_BANDS_MIN]
        return Run(
            scenario,
            self.seed,
            observed.histories,
            check_world(observed),
            self.faults,
            self._injected,
            self._effective,
            self.trace.text(),
            world.watch.seconds_used,
            tuple(world.watch.lost),
            world.kernel.now,
            len(too_few),
            world.kernel.callbacks_run,
            digest_of(observed.histories),
        )


def digest_of(histories: Sequence[History]) -> str:
    """A digest of everything in the histories."""
    digest = hashlib.blake2b(digest_size=16)
    for history in histories:
        parts = (getattr(history, part.name) for part in fields(history))
        digest.update(repr(tuple(parts)).encode())
    return digest.hexdigest()
