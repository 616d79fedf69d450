"""One simulated campaign: days of telescope, N workers, a plan of faults; and what came of it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from random import Random

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.core.records import TERMINAL_STATES, History, SpawnOptions
from absurd_contimg.simulation.crews import PipelineCrew, WorkerTerms, pipeline_params
from absurd_contimg.simulation.disk import Disk
from absurd_contimg.simulation.faults import DAY_SECONDS, Fault, draw_faults
from absurd_contimg.simulation.hosts import Host
from absurd_contimg.simulation.invariants import Violation, judge
from absurd_contimg.simulation.loop import SimLoop, instantly
from absurd_contimg.simulation.scenario import Scenario
from absurd_contimg.simulation.sky import SimRegistry
from absurd_contimg.simulation.stage_model import (
    DEFAULT_COSTS,
    ENDS_WORKER,
    StageCost,
    StageModel,
)
from absurd_contimg.simulation.world import EPOCH, State, World, quiet_logs

QUEUE = "dsa110-pipeline"
TASK = "pipeline"
SUB_BANDS, SUB_BANDS_MIN = 16, 12
_CHECK_SECONDS = 600.0
_POISON_STARTS = 10


@dataclass(slots=True)
class Landed:
    """How often each kind of fault was tried, and how often it hit work that was under way."""

    tried: dict[str, int] = field(default_factory=dict)
    landed: dict[str, int] = field(default_factory=dict)

    def note(self, kind: str, hit: bool) -> None:
        """Count one fault."""
        self.tried[kind] = self.tried.get(kind, 0) + 1
        self.landed[kind] = self.landed.get(kind, 0) + hit


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of a scenario has left."""

    scenario: Scenario
    seed: int
    histories: Sequence[History]
    violations: Sequence[Violation]
    faults: Sequence[Fault]
    landed: Landed
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
        faults: Sequence[Fault] | None = None,
        costs: Mapping[str, StageCost] | None = None,
    ) -> None:
        self.scenario, self.seed = scenario, seed
        self.faults = draw_faults(scenario, seed) if faults is None else list(faults)
        self.landed = Landed()
        self.trace: list[str] = []
        self.rejected = 0
        every = scenario.telescope.calibrator_every
        self._numbers: dict[str, int] = {}
        registry = SimRegistry(lambda group: self._numbers[group] % every == 0)
        database = MemoryDatabase(seed, clock=lambda: EPOCH)
        disk = Disk(scenario.disk.capacity_bytes)
        self.world = World(State(database, disk, registry))
        self.world.server.latency_seconds = scenario.faults.latency_seconds
        if scenario.faults.lost_reply_probability:
            self.world.server.lose_reply = self._loser(scenario.faults.lost_reply_probability)
        terms = scenario.workers
        self._hosts = [
            Host(
                self.world.kernel.env,
                f"host-{n}",
                terms.cores_per_host,
                terms.memory_bytes_per_host,
            )
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
        random = Random(f"{self.seed}/corrupt")
        end = self.scenario.days * DAY_SECONDS
        for number in range(int(end / self.scenario.telescope.interval_seconds) + 1):
            group = self._group_id(number)
            self._numbers[group] = number
            if random.random() < self.scenario.telescope.corrupt_probability:
                planned[group, "convert"] = ("bad-input",)
            if number in self.scenario.faults.poison_groups:
                planned[group, "image"] = (ENDS_WORKER,) * _POISON_STARTS
        return StageModel(
            self.seed,
            scaled,
            self.scenario.duration_spread,
            self.scenario.faults.stage_failures,
            planned,
        )

    def _group_id(self, number: int) -> str:
        moment = EPOCH + timedelta(seconds=number * self.scenario.telescope.interval_seconds)
        return moment.strftime("%Y-%m-%dT%H:%M:%S")

    def _start_worker(self, number: int) -> None:
        kernel = self.world.kernel
        if kernel.now < self._stopped_until:
            self._later(self._stopped_until - kernel.now, partial(self._start_worker, number))
            return
        host = self._hosts[number % len(self._hosts)]
        doors = self.world.process(f"worker-{number}", host=host.name)
        terms = self.scenario.workers
        crew = PipelineCrew(
            QUEUE,
            self._model,
            WorkerTerms(terms.lease_seconds, terms.poll_seconds),
            host,
            free_bytes_min=terms.free_bytes_min,
        )
        self.world.employ(doors, crew(self.world, doors, f"worker-{number}"))
        self._processes[number] = doors.process
        doors.process.at_death("supervisor", partial(self._died, number))

    def _died(self, number: int) -> None:
        process = self._processes.pop(number)
        self.world.processes.remove(process)
        self.world.workers.pop(process)
        delay = self.scenario.workers.restart_seconds
        self._later(delay, partial(self._start_worker, number))

    def _later(self, seconds: float, act: Callable[[], object]) -> None:
        def happen(_event: object) -> None:
            act()

        self.world.kernel.env.timeout(seconds).callbacks.append(happen)

    # -- telescope ------------------------------------------------------------------------

    async def _observe(self) -> None:
        """Spawn each group when its last sub-band has come."""
        telescope = self.scenario.telescope
        random = Random(f"{self.seed}/telescope")
        loop = asyncio.get_running_loop()
        late: list[tuple[float, str]] = []
        for number in range(int(self.scenario.days * DAY_SECONDS / telescope.interval_seconds)):
            due = number * telescope.interval_seconds
            for at, group in [one for one in late if one[0] <= due]:
                late.remove((at, group))
                await self._spawn(group, at)
            await asyncio.sleep(max(due - loop.time(), 0.0))
            present = sum(
                random.random() >= telescope.missing_probability for _ in range(SUB_BANDS)
            )
            is_late = random.random() < telescope.late_probability
            if present < SUB_BANDS_MIN:
                self.rejected += 1
            elif is_late:
                late.append((due + telescope.late_seconds, self._group_id(number)))
            else:
                await self._spawn(self._group_id(number), due)
        for at, group in late:
            await self._spawn(group, at)

    async def _spawn(self, group: str, at: float) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(at - loop.time(), 0.0))
        options = SpawnOptions(idempotency_key=f"{TASK}:{group}")
        while self.world.server.down:  # noqa: ASYNC110 - whoever spawns has no other news of it
            await asyncio.sleep(5.0)
        await self._backend.spawn_task(QUEUE, TASK, pipeline_params(group), options)

    # -- faults ---------------------------------------------------------------------------

    def _strike(self, fault: Fault) -> None:
        self.trace.append(str(fault))
        match fault.kind:
            case "kill":
                self._kill([fault.target], "kill")
            case "pause":
                self._pause(fault)
            case "reboot":
                hosts = len(self._hosts)
                numbers = [one for one in sorted(self._processes) if one % hosts == fault.target]
                self._kill(numbers, "reboot")
            case "stop":
                self._stopped_until = self.world.kernel.now + fault.seconds
                self._kill(sorted(self._processes), "stop")
            case "partition":
                self._partition(fault)
            case "outage":
                self.landed.note("outage", any(map(self._busy, list(self._processes))))
                self.world.server.down = True
                self._later(fault.seconds, partial(setattr, self.world.server, "down", False))
            case kind:
                raise ValueError(f"no such fault: {kind}")

    def _busy(self, number: int) -> bool:
        process = self._processes.get(number)
        return process is not None and any(one._runs for one in self.world.workers[process])

    def _kill(self, numbers: Sequence[int], kind: str) -> None:
        self.landed.note(kind, any(map(self._busy, numbers)))
        for number in numbers:
            if number in self._processes:
                self._processes[number].kill()

    def _pause(self, fault: Fault) -> None:
        process = self._processes.get(fault.target)
        self.landed.note("pause", self._busy(fault.target))
        if process is not None:
            process.pause()
            self._later(fault.seconds, process.resume)

    def _partition(self, fault: Fault) -> None:
        host = self._hosts[fault.target].name
        hosts = len(self._hosts)
        hit = [one for one in self._processes if one % hosts == fault.target and self._busy(one)]
        self.landed.note("partition", bool(hit))
        self.world.server.cut_off.add(host)
        self._later(fault.seconds, partial(self.world.server.cut_off.discard, host))

    # -- operator -------------------------------------------------------------------------

    async def _operate(self, after_seconds: float) -> None:
        """Free half of the disk some time after it has become short."""
        disk = self.world.state.disk
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            if disk.free_bytes < 0.1 * disk.capacity_bytes:
                await asyncio.sleep(after_seconds)
                self._free(0.5 * disk.capacity_bytes)

    def _free(self, wanted_bytes: float) -> None:
        disk = self.world.state.disk
        self.trace.append(f"{self.world.kernel.now:.3f} s operator frees space")
        done = {self._done_group(one) for one in self.world.histories()}
        for path in list(disk.products()):
            if disk.free_bytes >= wanted_bytes:
                return
            if any(group and group in path for group in done):
                disk.archive(path)

    @staticmethod
    def _done_group(history: History) -> str:
        params = history.task.params
        ended = history.task.state in TERMINAL_STATES
        return str(params["group_id"]) if ended and isinstance(params, Mapping) else ""

    # -- running --------------------------------------------------------------------------

    def run(self) -> Run:
        """Run it to its end."""
        with quiet_logs():
            return self._run()

    def _run(self) -> Run:
        world, scenario = self.world, self.scenario
        outside = world.process("outside", observed=False)
        outside.process.create_task(self._observe(), name="telescope")
        if scenario.disk.operator_frees_after_seconds is not None:
            outside.process.create_task(
                self._operate(scenario.disk.operator_frees_after_seconds), name="operator"
            )
        for number in range(scenario.workers.count):
            self._start_worker(number)
        for fault in self.faults:
            self._later(fault.at_seconds, partial(self._strike, fault))
        end = scenario.days * DAY_SECONDS
        world.kernel.run(end)
        while world.kernel.now < end + scenario.drain_seconds and not self._all_ended():
            world.kernel.run(world.kernel.now + _CHECK_SECONDS)
        evidence = world.evidence(must_have_ended=scenario.drain_seconds > 0)
        ended_at = world.kernel.now
        world.close()
        histories = evidence.histories
        return Run(
            scenario,
            self.seed,
            histories,
            judge(evidence),
            self.faults,
            self.landed,
            self.trace,
            world.watch.seconds_used,
            world.watch.seconds_lost,
            ended_at,
            self.rejected,
            world.kernel.callbacks_run,
            digest_of(histories),
        )

    def _all_ended(self) -> bool:
        stats = instantly(self._backend.queue_stats(QUEUE))
        return all(
            count == 0 or state in TERMINAL_STATES for state, count in stats.tasks_by_state.items()
        )


def digest_of(histories: Sequence[History]) -> str:
    """A digest of everything in the histories."""
    found = hashlib.blake2b(digest_size=16)
    for history in histories:
        found.update(repr(history).encode())
    return found.hexdigest()
