"""The daemon as an operating-system process: its lock, its signals, its polls."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial

from absurd_contimg.core.backend import Backend
from absurd_contimg.errors import SettingError
from absurd_contimg.execution.host_scratch import host_name
from absurd_contimg.execution.runner import prepare_folders
from absurd_contimg.ingest.arrivals import Arrivals
from absurd_contimg.ingest.closing import ArrivalRules, ClosingRules
from absurd_contimg.ingest.daemon import Daemon, Outage, PollReport
from absurd_contimg.ingest.incoming_folder import IncomingFolder
from absurd_contimg.ingest.poll_summary import PollSummary, StoredIngestion, summarize
from absurd_contimg.ingest.spawn import find_catalog
from absurd_contimg.ingest.windows import WindowRules
from absurd_contimg.operations.services.batch_service import batch_steps
from absurd_contimg.operations.services.database import SERVICE_PATIENCE_SECONDS, open_backend
from absurd_contimg.operations.services.preconditions import check_daemon
from absurd_contimg.operations.services.service_manager import ServiceManager
from absurd_contimg.operations.services.service_reporter import ServiceIdentity, ServiceReporter
from absurd_contimg.operations.services.service_state import LoopState
from absurd_contimg.operations.services.service_watch import reported
from absurd_contimg.operations.services.site_clock import SiteClock
from absurd_contimg.operations.services.site_identity import require_own_site
from absurd_contimg.operations.services.worker_service import (
    enter_products,
    open_registry,
    serve,
    site_folders,
    stop_signals,
)
from absurd_contimg.products.filesystem import LOCAL
from absurd_contimg.registry import Registry
from absurd_contimg.registry.ingestion import IngestionTables
from absurd_contimg.registry.service_records import ServiceKind
from absurd_contimg.settings import Settings

_log = logging.getLogger(__name__)

LOCK_NAME = "daemon.lock"
"""In the state folder; empty, and locked while a daemon of this host runs."""


def closing_rules(settings: Settings) -> ClosingRules:
    """When a group is closed, by the settings."""
    streaming, conversion = settings.pipeline.streaming, settings.pipeline.conversion
    return ClosingRules(
        expected_subbands=conversion.expected_subbands,
        subbands_min=conversion.subbands_min,
        group_wait_seconds=streaming.group_wait_seconds,
        arriving_wait_seconds=streaming.arriving_wait_seconds,
        arriving_wait_max_seconds=streaming.arriving_wait_max_seconds,
        next_group_grace_seconds=streaming.next_group_grace_seconds,
    )


def window_rules(settings: Settings) -> WindowRules:
    """Which groups make a window, by the settings."""
    streaming = settings.pipeline.streaming
    return WindowRules(
        size=streaming.window_size,
        stride=streaming.window_stride,
        members_min=streaming.window_min,
        gap_minutes=streaming.gap_minutes,
        declination_tolerance_deg=streaming.declination_tolerance_deg,
        confirm=streaming.confirm_groups,
        night_end_seconds=streaming.night_end_seconds,
    )


def make_daemon(
    backend: Backend,
    settings: Settings,
    registry: Registry,
    clock: SiteClock,
    calibrator: str = "auto",
    *,
    polls_once: bool = False,
) -> Daemon:
    """A daemon with these settings on this machine; its clock is read before each poll."""
    streaming = settings.pipeline.streaming
    store = IngestionTables(registry.database)
    arrivals = Arrivals(
        IncomingFolder(settings.pipeline.paths.input_dir),
        store,
        ArrivalRules(streaming.arrival, streaming.stable_seconds),
        closing_rules(settings),
        streaming.watch_seconds,
        polls_once=polls_once,
    )
    return Daemon(
        backend=backend,
        store=store,
        arrivals=arrivals,
        clock=clock,
        queue_name=settings.queue_name,
        rules=window_rules(settings),
        find_catalog=partial(find_catalog, settings),
        calibrator=calibrator,
        further_steps=batch_steps(backend, settings, registry, clock.today),
    )


@dataclass(slots=True)
class OutageLog:
    """Says once that something is away, and once that it is there again."""

    _away: set[str] = field(default_factory=set)

    def note(self, outages: Sequence[Outage]) -> None:
        """Log what has changed since the last poll."""
        for outage in outages:
            if outage.key not in self._away:
                _log.warning("the daemon waits (%s): %s", outage.key, outage.problem)
        now = {outage.key for outage in outages}
        for key in sorted(self._away - now):
            _log.info("the daemon goes on (%s)", key)
        self._away = now


@contextmanager
def _daemon_lock(settings: Settings) -> Iterator[None]:
    """Hold the lock of the site's daemon on this host; raises `SettingError` if another does.

    A daemon of another host does no harm: both do the same, and each task has one key.
    """
    path = settings.pipeline.paths.state_dir / LOCK_NAME
    lock = LOCAL.try_lock(path)
    if lock is None:
        if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
            raise SettingError(
                f"{path} is no lock file but a link or a special file.", "Remove it."
            )
        raise SettingError(
            f"A daemon of this site runs on this host already: it holds {path}.",
            "Stop it first, or give the other site a --state-dir of its own.",
        )
    try:
        yield
    finally:
        LOCAL.unlock(lock)


Background = Callable[
    [Backend, Settings, Registry], AbstractAsyncContextManager[Callable[[], Awaitable[None]]]
]
"""Work beside the polls: its step is called at the end of each, and it is stopped with them."""


async def run_daemon(
    settings: Settings,
    stop: asyncio.Event,
    calibrator: str = "auto",
    reports: Background | None = None,
) -> None:
    """Poll until `stop` is set. What is away is logged once and waited for.

    `reports` writes the reports of nights that have ended.
    """
    check_daemon(settings, calibrator)
    manager = ServiceManager.from_environment()
    patience_seconds = SERVICE_PATIENCE_SECONDS if manager.address else 0.0
    async with open_backend(
        settings, leave_running=True, patience_seconds=patience_seconds
    ) as backend:
        await require_own_site(backend, settings, [settings.queue_name])
        prepare_folders(settings.pipeline.paths)
        with _daemon_lock(settings), closing(open_registry(settings)) as registry:
            if registry.is_empty():
                enter_products(registry, settings.pipeline.paths.output_dir)
            state = LoopState()
            clock = SiteClock(backend.current_time)
            daemon = make_daemon(backend, settings, registry, clock, calibrator)
            daemon.begin_step = state.begin
            reporter = ServiceReporter(
                ServiceIdentity(ServiceKind.DAEMON, host_name(), [settings.queue_name]),
                state,
                lambda: registry.database,
                backend.current_time,
                site_folders(settings),
            )
            _log.info("daemon on queue %s", settings.queue_name)
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(reported(reporter, manager))
                if reports is not None:
                    step = await stack.enter_async_context(reports(backend, settings, registry))
                    daemon.further_steps = (*daemon.further_steps, ("night reports", step))
                poll_seconds = settings.pipeline.streaming.poll_seconds
                await _poll_until(stop, daemon, clock, state, poll_seconds)
            _log.info("the daemon has stopped")


async def _poll_until(
    stop: asyncio.Event, daemon: Daemon, clock: SiteClock, state: LoopState, poll_seconds: float
) -> None:
    outages = OutageLog()
    ended = asyncio.create_task(stop.wait())
    ended.add_done_callback(lambda _: state.stop())
    try:
        while not stop.is_set():
            await clock.read()
            report = await daemon.poll()
            outages.note(report.outages)
            state.wait("waits for files", "; ".join(outage.problem for outage in report.outages))
            if not report.more:
                await asyncio.wait({ended}, timeout=poll_seconds)
    finally:
        ended.cancel()


async def poll_once(settings: Settings, calibrator: str = "auto") -> tuple[PollReport, PollSummary]:
    """Poll until nothing is left that can be done at once; the last report, and what was done."""
    check_daemon(settings, calibrator)
    async with open_backend(settings, leave_running=True) as backend:
        await require_own_site(backend, settings, [settings.queue_name])
        prepare_folders(settings.pipeline.paths)
        with _daemon_lock(settings), closing(open_registry(settings)) as registry:
            clock = SiteClock(backend.current_time)
            await clock.read()
            daemon = make_daemon(backend, settings, registry, clock, calibrator, polls_once=True)
            store = IngestionTables(registry.database)
            before = StoredIngestion.read(store)
            while (report := await daemon.poll()).more:
                pass
            return report, summarize(before, store, closing_rules(settings), clock.now())


async def serve_daemon(
    settings: Settings, calibrator: str = "auto", reports: Background | None = None
) -> None:
    """Run the daemon until a signal stops it, after the poll that is under way."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in stop_signals():
        loop.add_signal_handler(number, stop.set)
    await run_daemon(settings, stop, calibrator, reports)


async def follow(
    settings: Settings, calibrator: str = "auto", reports: Background | None = None
) -> None:
    """Run the daemon and a worker in this process until a signal stops the worker."""
    stop = asyncio.Event()
    daemon = asyncio.create_task(run_daemon(settings, stop, calibrator, reports))
    serving = asyncio.create_task(serve(settings))
    try:
        await asyncio.wait({daemon, serving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stop.set()
        if not serving.done():
            serving.cancel()
        await asyncio.wait({daemon, serving})
    for task in (daemon, serving):
        if not task.cancelled():
            task.result()
