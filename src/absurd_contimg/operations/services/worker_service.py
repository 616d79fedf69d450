"""The worker as an operating-system process: its lock, its signals, the ports of this machine."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.lease import RunControl
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.core.task_waits import Standstill
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.core.worker_group import run_workers
from absurd_contimg.errors import MissingInputError
from absurd_contimg.execution.casa_environment import casa_environment
from absurd_contimg.execution.disk_marks import Watermarks
from absurd_contimg.execution.executor import IsolatedStageExecutor
from absurd_contimg.execution.host_scratch import host_name, host_scratch
from absurd_contimg.execution.runner import StageRunner, prepare_folders
from absurd_contimg.execution.scratch import Janitor, ScratchOwner, safe_name
from absurd_contimg.execution.stage import stage_queues
from absurd_contimg.execution.stage_server import StageServer
from absurd_contimg.execution.stage_slots import StageSlots
from absurd_contimg.operations.services.database import SERVICE_PATIENCE_SECONDS, open_backend
from absurd_contimg.operations.services.disk_guard import DiskGuard
from absurd_contimg.operations.services.preconditions import check_worker
from absurd_contimg.operations.services.queue_absence import absent_queue, removed_queue
from absurd_contimg.operations.services.queue_gate import QueueGate
from absurd_contimg.operations.services.service_manager import ServiceManager
from absurd_contimg.operations.services.service_reporter import ServiceIdentity, ServiceReporter
from absurd_contimg.operations.services.service_state import WorkerState
from absurd_contimg.operations.services.service_watch import reported
from absurd_contimg.operations.services.site_gate import SiteGate
from absurd_contimg.operations.services.site_identity import require_own_site
from absurd_contimg.operations.services.worker_identity import unique_worker_id
from absurd_contimg.registry import Registry
from absurd_contimg.registry.queue_pauses import QueuePauses
from absurd_contimg.registry.resource_slots import ResourceSlots
from absurd_contimg.registry.service_records import ServiceKind
from absurd_contimg.registry.stop_notes import StopNotes
from absurd_contimg.settings import Settings
from absurd_contimg.workflows.assembly import (
    make_pipeline_worker,
    make_stage_server,
    pipeline_stages,
)

_log = logging.getLogger(__name__)

_CONTROL_SECONDS = 2.0
"""The process of a stage ends within 5 s after its task was cancelled or its queue stopped."""


class ClaimGate(Protocol):
    """Something that a worker asks before each claim."""

    async def ready_to_claim(self) -> bool:
        """Whether the worker may claim."""

    def problem(self) -> str:
        """Why not, as of the last time; empty if it may."""


def make_worker(
    backend: Backend,
    settings: Settings,
    registry: Registry,
    scratch: ScratchOwner,
    gates: Sequence[ClaimGate],
    server: StageServer | None = None,
) -> Worker:
    """A worker with these settings on this machine, which claims while all gates are open.

    Its stages are forked by the server, or else are processes that import CASA themselves.
    """
    executor = IsolatedStageExecutor(casa_environment, server=server)
    slots = StageSlots(ResourceSlots(registry.database), settings.pipeline.limits.by_resource)

    async def ready_to_claim() -> bool:
        for gate in gates:
            if not await gate.ready_to_claim():
                return False
        return True

    worker = make_pipeline_worker(
        backend,
        WorkerSettings(
            queue_name=settings.queue_name,
            worker_id=unique_worker_id(settings.worker_id, scratch.scratch_dir),
            concurrency=settings.concurrency,
            claim_timeout_seconds=settings.claim_timeout_seconds,
            poll_interval_seconds=settings.poll_interval_seconds,
            grace_seconds=settings.grace_seconds,
        ),
        make_policy(settings),
        pipeline_stages(registry),
        StageRunner(settings.pipeline, executor, registry, scratch, slots=slots),
        registry,
        ready_to_claim,
    )
    stops = StopNotes(settings.pipeline.paths.output_dir)
    stop_gate = QueueGate(QueuePauses(registry.database), settings.queue_name, stops)
    worker.control = RunControl(_CONTROL_SECONDS, stop_gate.may_run)
    return worker


def make_policy(settings: Settings) -> RetryPolicy:
    """The retry policy of the settings."""
    policy = RetryPolicy(transient_attempts=settings.transient_attempts)
    return policy if settings.on_shortage == "wait" else replace(policy, resource_waits_max=0)


def make_guard(settings: Settings, scratch: ScratchOwner) -> DiskGuard:
    """The disk guard of the worker with these settings and this scratch."""
    paths = settings.pipeline.paths
    marks = Watermarks(settings.disk_warn_gb, settings.disk_critical_gb)
    name = safe_name(settings.worker_id)

    def make_room() -> None:
        scratch.remove_left()
        sweep_scratch(host_scratch(paths.scratch_dir))

    return DiskGuard(
        name,
        (paths.output_dir, paths.scratch_dir, paths.state_dir),
        paths.state_dir,
        marks,
        make_room,
        scratch.remove_left,
        host=host_name(),
    )


def sweep_scratch(scratch_dir: Path) -> None:
    """Remove from this host's scratch the files of processes that no longer run."""
    for swept in Janitor(scratch_dir).sweep():
        _log.info("removed files of a dead process from scratch: %s", swept)


def stop_signals() -> list[signal.Signals]:
    """The signals that stop a worker; a closed terminal stops none that nohup has started."""
    hangup = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGTERM, signal.SIGINT, *hangup]


async def serve(
    settings: Settings, until_idle: bool = False, queues: Sequence[str] | None = None
) -> int:
    """Run a worker until a signal stops it (or, with `until_idle`, until nothing can be claimed).

    It serves `queues`, by default the queue of the settings and those of its stages, with the
    concurrency of the settings on each. Returns how many tasks wait. Makes nothing before the
    settings and the database are known to do. Raises `ScratchInUseError` if a running process has
    its name, by which it finds its runs, and `MissingInputError` for a queue that is not there.
    """
    check_worker(settings)
    manager = ServiceManager.from_environment()
    patience_seconds = SERVICE_PATIENCE_SECONDS if manager.address else 0.0
    async with open_backend(
        settings, leave_running=True, patience_seconds=patience_seconds
    ) as backend:
        served = await _served_queues(backend, settings.queue_name, queues)
        await require_own_site(backend, settings, served)
        prepare_folders(settings.pipeline.paths)
        scratch_dir = host_scratch(settings.pipeline.paths.scratch_dir)
        with (
            ScratchOwner(scratch_dir, settings.worker_id) as scratch,
            closing(open_registry(settings)) as registry,
            closing(make_guard(settings, scratch)) as guard,
            make_stage_server(settings.pipeline, registry, scratch) as server,
        ):
            sweep_scratch(scratch_dir)
            if registry.is_empty():  # a new site, or one whose loss was accepted
                enter_products(registry, settings.pipeline.paths.output_dir)
            folder_gate = SiteGate(settings.pipeline.paths.output_dir)
            stops = StopNotes(settings.pipeline.paths.output_dir)
            gates = [QueueGate(QueuePauses(registry.database), queue, stops) for queue in served]
            workers = [
                make_worker(
                    backend,
                    replace(settings, queue_name=gate.queue),
                    registry,
                    scratch,
                    (gate, guard, folder_gate),
                    server,
                )
                for gate in gates
            ]
            problems = [guard.problem, folder_gate.problem, *(gate.problem for gate in gates)]
            state = WorkerState(workers, problems)
            reporter = ServiceReporter(
                ServiceIdentity(
                    ServiceKind.WORKER, unique_worker_id(settings.worker_id, scratch_dir), served
                ),
                state,
                lambda: registry.database,
                backend.current_time,
                site_folders(settings),
            )
            loop = asyncio.get_running_loop()
            for number in stop_signals():
                loop.add_signal_handler(number, _stop, state)
            _log.info("worker %s on queue %s", settings.worker_id, ", ".join(served))
            async with reported(reporter, manager), backend.listening(*workers):
                try:
                    await run_workers(workers, until_idle)
                except Standstill as reason:
                    _log.error("%s", reason)
        if any(worker.left_behind for worker in workers):
            # Python would wait for it: a thread in a file system that is gone, say.
            _log.error("a stage's work does not end: this process ends without waiting for it")
            logging.shutdown()
            os._exit(1)
        if not until_idle:
            return 0
        stats = [await backend.queue_stats(queue) for queue in served]
    waiting = ("pending", "sleeping")
    return sum(each.tasks_by_state.get(state, 0) for each in stats for state in waiting)


def _stop(state: WorkerState) -> None:
    """Stop, and say so at once: what runs may take its grace period to end."""
    if not state.stopping:
        state.stop()
        seconds = max(worker.settings.grace_seconds for worker in state.workers)
        _log.info("%s; what runs has %g s, then it is released", state.activity(), seconds)


def site_folders(settings: Settings) -> list[Path]:
    """The folders whose file systems matter to a site."""
    paths = settings.pipeline.paths
    return [
        paths.input_dir,
        paths.output_dir,
        paths.scratch_dir,
        paths.state_dir,
        paths.published,
    ]


async def _served_queues(
    backend: Backend, queue_name: str, queues: Sequence[str] | None
) -> list[str]:
    """The queues to serve: those given, or the main one and those of its stages that exist."""
    known = await backend.list_queues()
    if queues:
        for queue in queues:
            if queue not in known:
                raise MissingInputError(
                    *absent_queue(queue, known, "Correct --queue, or create it: contimg db init")
                )
        return list(dict.fromkeys(queues))
    if removed := removed_queue(queue_name, known):
        raise MissingInputError(*removed)
    return [queue_name, *(queue for queue in stage_queues(queue_name).values() if queue in known)]


def open_registry(settings: Settings, *, may_be_new: bool = False) -> Registry:
    """The registry with the limits of the settings; for `may_be_new` see `Registry`."""
    calibration = settings.pipeline.calibration
    return Registry(
        settings.registry_url,
        output_dir=settings.pipeline.paths.output_dir,
        declination_tolerance_deg=calibration.declination_tolerance_deg,
        reach_hours=calibration.reach_hours,
        may_be_new=may_be_new,
    )


def enter_products(registry: Registry, output_dir: Path) -> None:
    """Enter what is on disk in one step; other workers may do the same meanwhile."""
    report = registry.rebuild(output_dir)
    for _, reason in report.broken:
        _log.error("not entered into the registry: %s", reason)
    if report.entered:
        _log.info("%d products entered into the empty registry", report.entered)
