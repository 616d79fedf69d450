"""A simulated world: durable state, a virtual clock, and processes that work in it.

`State` survives the death of every process and can be forked, so that many futures can be run
from one past. Everything else belongs to a process and ends with it.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import MAXYEAR, UTC, datetime, timedelta
from functools import partial
from heapq import heappop, heappush
from math import ceil, inf
from typing import NamedTuple, Protocol, cast

import absurd_sdk

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.jsonb_sanitizer import shortened
from absurd_contimg.core.records import TERMINAL_STATES, History, Json
from absurd_contimg.core.worker import Worker
from absurd_contimg.history.invariants.world import WorldObservation
from absurd_contimg.history.summary import read_histories
from absurd_contimg.ingest.stream_observation import observe_stream
from absurd_contimg.simulation.model.disk import Disk
from absurd_contimg.simulation.model.effect_gateway import (
    BackendProxy,
    DatabaseServer,
    Effect,
    EffectGateway,
    Observer,
)
from absurd_contimg.simulation.model.executor import StageWatch
from absurd_contimg.simulation.model.simulated_registry import SimulatedRegistry
from absurd_contimg.simulation.runtime.kernel import RIGHT_CLOCK, HostClock, Kernel
from absurd_contimg.simulation.runtime.loop import SimLoop, instantly, new_process

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
"""The time of the virtual clock at 0 s."""


class ExternalEffect(NamedTuple):
    """An effect outside of database and disk: an e-mail sent, a card charged."""

    name: str
    value: Json
    in_step: bool


Ledger = list[ExternalEffect]
"""All external effects, in order."""


@dataclass(slots=True)
class State:
    """Everything that outlives a process."""

    database: MemoryDatabase
    disk: Disk = field(default_factory=Disk)
    registry: SimulatedRegistry = field(default_factory=SimulatedRegistry)
    ledger: Ledger = field(default_factory=list)

    def fork(self) -> State:
        """An independent copy, for another future."""
        return State(
            self.database.fork(), self.disk.fork(), self.registry.fork(), self.ledger.copy()
        )

    def contents(self) -> tuple[object, ...]:
        """What decides the future while no process runs: equal contents, equal futures."""
        return (
            self.database.contents(),
            self.disk.contents(),
            self.registry.contents(),
            repr(self.ledger),
        )


_ROUNDING = 1e-6
"""Of a poll: the database counts microseconds, the clock does not."""
_REQUEST_SECONDS = 0.001
"""Of an effect outside, where it matters that it takes time."""
_SHOWN_MAX = 80
"""Characters of the value of an effect outside, in traces."""
_POLLS_MAX = 10**7
"""With any interval longer than the horizon of an exploration."""


def _seconds(moment: datetime) -> float:
    """Virtual time; infinity for Postgres' own, which stands for a wait without a timeout."""
    if moment.year == MAXYEAR:
        return inf
    return (moment - EPOCH).total_seconds()


class Service(Protocol):
    """What works in a process beside workers, as the daemon."""

    async def run(self) -> None:
        """Work until it is stopped."""

    def stop(self) -> None:
        """Stop after what is under way."""


class World:
    """State, clock and processes."""

    def __init__(
        self,
        state: State,
        *,
        start: float = 0.0,
        shuffle_seed: int | None = None,
        observer: Observer | None = None,
        may_skip_polls: Callable[[], bool] | None = None,
    ) -> None:
        """Workers leave out the claims that cannot find anything while `may_skip_polls`."""
        self.state = state
        self.kernel = Kernel(start, shuffle_seed)
        self.server = DatabaseServer()
        self.watch = StageWatch()
        self.observer = observer
        self.processes: list[SimLoop] = []
        self.workers: dict[SimLoop, Sequence[Worker]] = {}
        self._worker_tasks: dict[SimLoop, list[asyncio.Task[None]]] = {}
        self._services: dict[SimLoop, Service] = {}
        self._may_skip_polls = may_skip_polls
        self._appointments: list[float] = []
        """When something will happen that no worker does; a heap, which may hold past times."""
        self._now = (-1.0, EPOCH)
        self.direct_backend = MemoryBackend(state.database)
        """The database behind no gateway."""
        state.database.clock = self.clock

    def clock(self) -> datetime:
        """The time of the virtual clock."""
        now = self.kernel.env._now
        if now != self._now[0]:
            self._now = (now, EPOCH + timedelta(seconds=now))
        return self._now[1]

    def process(
        self,
        name: str,
        *,
        host: str = "host",
        observed: bool = True,
        clock: HostClock = RIGHT_CLOCK,
    ) -> EffectGateway:
        """Start a process without workers; its gateway. `clock` is its host's."""
        loop = new_process(self.kernel, name, clock)
        gateway = EffectGateway(loop, self.server, self.observer if observed else None, host)
        _GATEWAYS[loop] = gateway, self.state.ledger
        loop.at_death("gateway", lambda: _GATEWAYS.pop(loop, None) and None)
        self.processes.append(loop)
        return gateway

    def backend(self, gateway: EffectGateway) -> Backend:
        """The database behind the gateway of a process."""
        return cast(Backend, BackendProxy(gateway, self.direct_backend))

    def start_workers(self, gateway: EffectGateway, workers: Sequence[Worker]) -> None:
        """Let workers work in a process."""
        process = gateway.process
        self.workers[process] = workers
        if self._may_skip_polls is not None:
            for worker in workers:
                worker.polls_ahead = partial(self._polls_ahead, self._may_skip_polls)
        self._worker_tasks.setdefault(process, []).extend(
            process.create_task(worker.run(), name=worker.settings.worker_id) for worker in workers
        )

    def start_service(self, gateway: EffectGateway, service: Service) -> None:
        """Let a service work in a process, beside its workers; it announces when it will work."""
        process = gateway.process
        self._services[process] = service
        task = process.create_task(service.run(), name="service")
        self._worker_tasks.setdefault(process, []).append(task)

    def has_service(self, process: SimLoop) -> bool:
        """Whether a service works in a process, beside its workers."""
        return process in self._services

    def request_stop(self, process: SimLoop, grace_seconds: float | None = None) -> None:
        """SIGTERM: its workers stop as they do in the service, and then the process ends.

        Their grace period is that of their settings, if none is given.
        """
        process.stopping = True
        for worker in self.workers.get(process, ()):
            if grace_seconds is not None:
                worker.settings = replace(worker.settings, grace_seconds=grace_seconds)
            worker.stop()
        if process in self._services:
            self._services[process].stop()

        async def leave() -> None:
            await asyncio.wait(self._worker_tasks[process])
            process.kill()

        process.create_task(leave(), name="SIGTERM")

    def call_later(self, seconds: float, act: Callable[[], object]) -> None:
        """Call a function of no process after so many seconds."""

        def happen(_event: object) -> None:
            act()

        self.expect(self.kernel.now + seconds)
        self.kernel.env.timeout(seconds).callbacks.append(happen)

    def expect(self, at_seconds: float) -> None:
        """Say that something will happen then which workers have to see."""
        heappush(self._appointments, at_seconds)

    def _polls_ahead(self, may_skip: Callable[[], bool], poll_seconds: float) -> int:
        """After how many polls a worker can see something new, when nobody works."""
        if not may_skip() or not self.server.quiet or not all(map(self._is_idle, self.processes)):
            return 1
        changes_at = self._next_change()
        now = self.kernel.now
        if changes_at is None:
            return _POLLS_MAX
        polls = (changes_at - now) / poll_seconds - _ROUNDING
        return max(1, min(_POLLS_MAX, ceil(polls)))

    def _is_idle(self, process: SimLoop) -> bool:
        """Whether a process is dead or paused, or its workers wait, each with its own two tasks."""
        if process.dead or process.held is not None:
            return True
        services = len(self.workers.get(process, ())) + (process in self._services)
        return len(process.tasks()) == 2 * services

    def _next_change(self) -> float | None:
        """When a claim may next find something, in seconds; None: never."""
        now = self.kernel.now
        while self._appointments and self._appointments[0] < now:
            heappop(self._appointments)
        times = self._appointments[:1]
        backend = self.direct_backend
        for queue in instantly(backend.list_queues()):
            for task in instantly(backend.list_tasks(queue, limit=10**9)):
                if task.state not in TERMINAL_STATES and task.cancellation is not None:
                    return now
            for run in instantly(backend.list_runs(queue, states=["pending", "sleeping"])):
                times.append(_seconds(run.available_at))
            for run in instantly(backend.list_runs(queue, states=["running"])):
                times.append(
                    now if run.claim_expires_at is None else _seconds(run.claim_expires_at)
                )
        return min((each for each in times if each != inf), default=None)

    def holds_lease(self, process: SimLoop) -> bool:
        """Whether one of the process's workers has a claim that has not expired."""
        database = self.state.database
        now_us = database.now()
        return any(
            run.state == "running"
            and run.claimed_by == worker.settings.worker_id
            and run.claim_expires_at is not None
            and run.claim_expires_at > now_us
            for worker in self.workers.get(process, ())
            for run in database.kept_rows("r", worker.settings.queue_name)
        )

    def all_tasks_ended(self, queues: Iterable[str]) -> bool:
        """Whether no task of these queues is left."""
        rows = self.state.database.kept_rows
        return all(
            task.state in TERMINAL_STATES
            for queue in queues
            for task in reversed(rows("t", queue))  # the youngest is the one most likely left
        )

    def histories(self) -> list[History]:
        """The histories of all tasks of all queues, oldest first."""
        backend = self.direct_backend
        queues = instantly(backend.list_queues())
        newest_first = (instantly(read_histories(backend, each, limit=10**9)) for each in queues)
        return [history for histories in newest_first for history in reversed(histories)]

    def observation(self, *, must_have_ended: bool = True) -> WorldObservation:
        """What the invariants are checked on, now."""
        errors = [
            f"{process.name}: {type(error).__name__}: {error}"
            for process in self.processes
            for error in process.errors
        ]
        histories, registry = self.histories(), self.state.registry
        return WorldObservation(
            histories,
            self.state.disk,
            registry.registered(),
            must_have_ended,
            overlaps=tuple(self.watch.overlaps),
            errors=tuple(errors),
            stream=observe_stream(
                histories,
                registry.ingestion,
                registry.publications,
                registry.batches,
                lambda place: self.state.disk.commits.get(str(place), 0),
                must_have_ended=must_have_ended,
            ),
        )

    def close(self) -> None:
        """End all processes and break reference cycles, so that memory is free at once."""
        self.kernel.close()
        self.workers.clear()
        self._services.clear()
        self._worker_tasks.clear()
        self.observer = self._may_skip_polls = None
        now = self.clock()
        self.state.database.clock = lambda: now

    def discard(self) -> None:
        """Free what it has kept: nobody will read the world again."""
        self.close()
        end_session(self.direct_backend)


def end_session(backend: MemoryBackend) -> None:
    """Break the reference cycle of the emulator's session, which keeps the database in memory."""
    vars(backend._session).clear()


_GATEWAYS: dict[SimLoop, tuple[EffectGateway, Ledger]] = {}
"""Of all living processes, for handlers that know only their event loop."""


def _of_this_process() -> tuple[EffectGateway, Ledger] | None:
    loop = asyncio.get_running_loop()
    return _GATEWAYS.get(loop) if isinstance(loop, SimLoop) else None


async def outside(name: str, value: Json = None) -> None:
    """An effect on the world outside, for handlers under test: noted in the ledger.

    A numbered effect like any other: the process may die before it, or after it and before the
    handler goes on. Outside a simulated process it does nothing.
    """
    current = _of_this_process()
    if current is None:
        return
    gateway, ledger = current

    in_step = getattr(absurd_sdk.get_current_context(), "in_step", False)

    async def note() -> None:
        if gateway.process.stopping:  # a cancellation comes while the request is under way
            await asyncio.sleep(_REQUEST_SECONDS)
        ledger.append(ExternalEffect(name, value, in_step))

    subject = "" if value is None else shortened(repr(value), _SHOWN_MAX)
    await gateway.perform(Effect("own", name, True, subject), note)


def happened(name: str, value: Json = None) -> int:
    """How often this effect has happened in this world.

    For replacements of an outside that recognises repeated requests. 0 outside a simulated process.
    """
    current = _of_this_process()
    if current is None:
        return 0
    return sum((each.name, each.value) == (name, value) for each in current[1])


@contextmanager
def without_logs_and_gc() -> Iterator[None]:
    """For code that runs many worlds: a thousand deaths in the log would fill the screen.

    A world that has ended has no reference cycles, so Python's cycle collector would find nothing.
    """
    logger, was_on = logging.getLogger("absurd_contimg"), gc.isenabled()
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    gc.disable()
    try:
        yield
    finally:
        logger.setLevel(level)
        if was_on:
            gc.enable()


WorkerFactory = Callable[[World, EffectGateway, str], Sequence[Worker]]
"""Makes the workers of one process under a worker's name."""
