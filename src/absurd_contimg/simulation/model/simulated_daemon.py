"""The daemon as a service of a simulated process: production's poll over simulated ports."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from absurd_contimg.ingest.arrivals import Arrivals
from absurd_contimg.ingest.batches import feed
from absurd_contimg.ingest.closing import ArrivalRules, ClosingRules
from absurd_contimg.ingest.daemon import Daemon, Outage, Step
from absurd_contimg.ingest.windows import WindowRules
from absurd_contimg.simulation.model.effect_gateway import EffectGateway, RegistryProxy
from absurd_contimg.simulation.model.files import SimulatedFiles
from absurd_contimg.simulation.model.simulated_config import SIMULATED_CONFIG
from absurd_contimg.simulation.model.simulated_incoming import (
    EPOCH_SECONDS,
    NightScript,
    SimulatedIncoming,
)
from absurd_contimg.simulation.model.worker_factory import call_inline
from absurd_contimg.simulation.model.world import World
from absurd_contimg.simulation.runtime.loop import SimLoop
from absurd_contimg.workflows.publication import Publisher
from absurd_contimg.workflows.unfinished_publications import reconcile_publications

_WATCH_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class DaemonSettings:
    """How a simulated daemon works."""

    queue_name: str
    script: NightScript = field(default_factory=lambda: NightScript(()))
    closing: ClosingRules = field(default_factory=ClosingRules)
    windows: WindowRules = field(default_factory=WindowRules)
    poll_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class _HostClock:
    """The clocks of a process's host, which may be set (`steps`: when, and by how much)."""

    process: SimLoop
    steps: Sequence[tuple[float, float]] = ()

    def now(self) -> float:
        time = self.process.time()
        return EPOCH_SECONDS + time + sum(by for at, by in self.steps if time >= at)

    def monotonic(self) -> float:
        return self.process.time()


@dataclass(slots=True)
class SimulatedDaemon:
    """A `Service`: one poll after another."""

    world: World
    daemon: Daemon
    poll_seconds: float
    outages: list[Outage] = field(default_factory=list)
    """Everything that was away in its polls."""
    _stopped: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Poll until it is stopped."""
        self.world.expect(self.world.kernel.now)
        while not self._stopped.is_set():
            report = await self.daemon.poll()
            self.outages += report.outages
            if not report.more:
                self.world.expect(self.world.kernel.now + self.poll_seconds)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopped.wait(), self.poll_seconds)

    def stop(self) -> None:
        """End after the poll that is under way."""
        self._stopped.set()


def make_simulated_daemon(
    world: World,
    gateway: EffectGateway,
    settings: DaemonSettings,
    clock_steps: Sequence[tuple[float, float]] = (),
) -> SimulatedDaemon:
    """The daemon of a new process; its feeder is a step of each poll, as in production."""
    registry, backend = world.state.registry, world.backend(gateway)
    registry_proxy: Any = RegistryProxy(gateway, registry)
    store: Any = RegistryProxy(gateway, registry.ingestion)
    batches: Any = RegistryProxy(gateway, registry.batches)

    async def feed_batches() -> None:
        await feed(batches, backend)

    files = SimulatedFiles(gateway, world.state.disk)
    publisher = Publisher(SIMULATED_CONFIG, registry_proxy.publications, files, call_inline)

    async def reconcile() -> None:
        await reconcile_publications(publisher, backend, [settings.queue_name])

    steps: list[tuple[str, Step]] = [("batches", feed_batches), ("publications", reconcile)]
    daemon = Daemon(
        backend=backend,
        store=store,
        arrivals=Arrivals(
            SimulatedIncoming(settings.script, partial(getattr, world.kernel, "now")),
            store,
            ArrivalRules(),
            settings.closing,
            _WATCH_SECONDS,
        ),
        clock=_HostClock(gateway.process, clock_steps),
        queue_name=settings.queue_name,
        rules=settings.windows,
        find_catalog=lambda: SIMULATED_CONFIG.paths.input_dir / "sky.csv",
        further_steps=steps,
    )
    return SimulatedDaemon(world, daemon, settings.poll_seconds)
