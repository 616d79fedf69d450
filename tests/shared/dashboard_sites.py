"""A site with everything that the dashboard shows, on the emulator, with a registry and files."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI
from image_products import commit_tiles
from sky_products import commit_photometry
from synthetic_tiles import strip

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.config import PathsConfig
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.records import Json, SpawnOptions
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.execution.logs import log_folder, log_paths
from absurd_contimg.operations import dashboard
from absurd_contimg.operations.api import AccessRules, address, open_socket
from absurd_contimg.operations.dashboard import LOGIN_PATHS, Source, make_app
from absurd_contimg.operations.overview import Site
from absurd_contimg.operations.services import Actions, GivenTables
from absurd_contimg.products.photometry_table import SourceFlux
from absurd_contimg.registry import Registry
from absurd_contimg.registry.schedules import CatchUp, Schedule, ScheduleKind, Schedules
from absurd_contimg.registry.service_records import ServiceKind, ServiceRecord, store_service
from absurd_contimg.science.catalogue import SkySource, write_catalogue
from absurd_contimg.settings import load_settings

_T = TypeVar("_T")
QUEUE = "dsa110-pipeline"
TOKEN = "a-token-of-the-tests-0123456789"
HOSTILE = "<img src=x onerror=alert(1)>&\x1b[31m'\""
STEPS = ("convert", "flag", "calibrate_solve", "image", "validate")
NIGHT = "2025-01-15"


@dataclass(frozen=True)
class LivelySite:
    """What the tests look at and change."""

    site: Site
    backend: MemoryBackend
    registry: Registry
    app: FastAPI
    tasks: dict[str, str]
    """By group, the id of its task."""


async def handle(params: Any, ctx: TaskContext) -> Json:
    """Runs all steps; the parameters say what goes wrong."""
    for step in STEPS:

        async def run(_start: int, step: str = step) -> Json:
            match params.get(step):
                case "fail":
                    raise ConnectionError(f"reset {HOSTILE} by peer")
                case "full":
                    raise OSError(errno.ENOSPC, "No space left on device", "/scratch/g.ms")
                case _:
                    return {"outputs": {}, "product": f"/p/{step}-abc", "adopted": step == "flag"}

        await ctx.tracked_step(step, run)
        if params.get(step) == "wait":
            await ctx.await_event("calibration.available:+16.1", timeout=86_400)
    return {"verdict": "clean"}


async def work(backend: MemoryBackend) -> None:
    """Let a worker do what is due."""
    tasks = TaskRegistry()
    tasks.add("pipeline", handle)
    settings = WorkerSettings(QUEUE, "worker-1", poll_interval_seconds=0.01)
    policy = RetryPolicy(backoff_first_seconds=0.0, resource_wait_seconds=86_400.0)
    await Worker(backend, tasks, settings, policy=policy).run(until_idle=True)


async def die_in(backend: MemoryBackend, step: str) -> None:
    """A worker claims the next task, starts a step and is never heard of again."""
    (claimed,) = await backend.claim_task(QUEUE, "worker-2", 1)
    now = await backend.current_time()
    start: dict[str, Json] = {
        "start": 1,
        "attempt": claimed.attempt,
        "run_id": str(claimed.run_id),
        "worker": "worker-2",
        "started_at": now.isoformat(),
        "outcome": None,
    }
    state: Json = {"starts": [start], "waits": {}}
    await backend.set_task_checkpoint_state(
        QUEUE, claimed.task_id, f"$start:{step}", state, claimed.run_id
    )


GROUPS: dict[str, dict[str, Json]] = {
    f"{NIGHT}T10:00:00": {},
    f"{NIGHT}T10:05:00": {},
    f"{NIGHT}T10:10:00": {"image": "fail"},
    f"{NIGHT}T10:15:00": {"flag": "full"},
    f"{NIGHT}T10:20:00": {"flag": "wait"},
    HOSTILE: {"convert": "fail"},
}
DIED, PENDING = f"{NIGHT}T09:55:00", "2025-01-16T10:00:00"


class MovableClock:
    """The time of this machine and what it was moved ahead."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


async def lively_site(
    folder: Path,
    token: str | None = TOKEN,
    *,
    with_products: bool = True,
    registry_url: str | None = None,
) -> LivelySite:
    """The site, with tasks in every state; its folders are below the given one.

    Its registry is a file below the folder if no URL is given.
    """
    clock = MovableClock()
    environment = {} if registry_url is None else {"PIPELINE_PRODUCTS_DB": registry_url}
    settings = load_settings(PathsConfig.below(folder).model_dump(), environment=environment)
    paths = settings.pipeline.paths
    for path in (paths.input_dir, paths.output_dir, paths.scratch_dir, paths.state_dir):
        path.mkdir(parents=True, exist_ok=True)
    backend = MemoryBackend(MemoryDatabase(clock=clock))
    await backend.create_queue(QUEUE)
    tasks = {}

    async def spawn(group: str, values: dict[str, Json]) -> None:
        params = {"group_id": group, **values}
        tasks[group] = str((await backend.spawn_task(QUEUE, "pipeline", params)).task_id)

    await spawn(DIED, {})
    await die_in(backend, "convert")
    for group, values in GROUPS.items():
        await spawn(group, values)
    clock.ahead += timedelta(seconds=2)  # the lease of the dead worker is over
    await work(backend)
    cancelled = await backend.spawn_task(QUEUE, "pipeline", {"group_id": "2025-01-14T10:00:00"})
    await backend.cancel_task(QUEUE, cancelled.task_id)
    await spawn(PENDING, {})
    await backend.spawn_task(QUEUE, "other", [1, 2], SpawnOptions(headers={"a": HOSTILE}))
    _write_log(paths, tasks[f"{NIGHT}T10:10:00"], f"{NIGHT}T10:10:00")
    registry = await asyncio.to_thread(_fill_registry, settings.registry_url, paths, backend)
    if with_products:
        await asyncio.to_thread(_commit_products, registry, paths)
    site = Site("emulator", backend, registry.database, settings)
    actions = Actions(backend, GivenTables(registry.database), "tester@here", "api")
    rules = AccessRules(token, open_posts=LOGIN_PATHS)
    app = make_app(Source(site, actions), rules)
    return LivelySite(site, backend, registry, app, tasks)


def _write_log(paths: PathsConfig, task_id: str, group: str) -> None:
    casa, output = log_paths(log_folder(paths.state_dir, group), "image", f"{task_id[-12:]}-1")
    casa.parent.mkdir(parents=True)
    casa.write_text(f"2026-01-01\tSEVERE\ttclean {HOSTILE}\n")
    output.write_text("the end of the process\n")


def _fill_registry(url: str, paths: PathsConfig, backend: MemoryBackend) -> Registry:
    registry = Registry(url, output_dir=paths.output_dir)
    sky = [SkySource("S1", 150.0, 16.1, 1.0), SkySource("CAL0", 170.0, 16.2, 10.0, 0.0, True)]
    write_catalogue(paths.input_dir / "catalog.csv", sky)
    now = asyncio.run(backend.current_time()).timestamp()
    store_service(
        registry.database,
        ServiceRecord(
            *(ServiceKind.WORKER, "worker-1", "host-a", 1, "0.1.0", QUEUE, now - 60, now),
            activity=f"looks at {HOSTILE}",
            memory_bytes=2e9,
        ),
    )
    for name, kind, spec in (
        ("nightly", ScheduleKind.CIVIL, "14:30"),
        ("calibrator", ScheduleKind.SIDEREAL, "10:00:00 CAL0"),
        (HOSTILE, ScheduleKind.CIVIL, "never"),
    ):
        action = {"kind": "task", "task": "pipeline", "params": {"group_id": "by hand"}}
        Schedules(registry.database).add(Schedule(name, kind, spec, action, CatchUp.LATEST))
    reports = paths.output_dir / "reports"
    reports.mkdir()
    (reports / f"{NIGHT}.html").write_text("<!doctype html><title>n</title><p>The report.")
    (reports / f"{NIGHT}.json").write_text('{"verdict": "DEGRADED", "reasons": ["noise"]}')
    return registry


def _commit_products(registry: Registry, paths: PathsConfig) -> None:
    """Two images, and the fluxes of two sources in three others."""
    sky = [SkySource("S1", 150.0, 16.1, 1.0)]
    commit_tiles(paths.output_dir, registry, strip(150.0, 16.1, 2, size_px=64), sky)
    for number in range(3):
        mjd = 60690.0 + number
        rows = [
            SourceFlux(name, 150.0, 16.0, mjd, flux * (1 + 0.5 * number), 0.01, 1.1, 0.01, 0.9, 0)
            for name, flux in (("S1", 1.0), (f"S {HOSTILE}", 0.5))
        ]
        product = commit_photometry(paths.output_dir, f"2025-01-{13 + number}T09:00:00", rows)
        registry.register(product.folder, product.manifest)


@dataclass(frozen=True)
class Server:
    """A server in a thread of its own."""

    url: str
    loop: asyncio.AbstractEventLoop

    def call(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run something where the server runs, so that one thread alone uses the emulator."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(120)


@contextmanager
def served(app: FastAPI) -> Iterator[Server]:
    """The application on a free port of this machine."""
    listener = open_socket("127.0.0.1", 0)
    loops: list[asyncio.AbstractEventLoop] = []
    ready, end = threading.Event(), asyncio.Event()

    async def run() -> None:
        loops.append(asyncio.get_running_loop())
        serving = asyncio.create_task(dashboard.serve(app, listener, ready.set, signals=()))
        await end.wait()
        serving.cancel()
        await asyncio.wait({serving})

    thread = threading.Thread(target=lambda: asyncio.run(run()), name="dashboard")
    thread.start()
    try:
        assert ready.wait(120)
        yield Server(address(listener), loops[0])
    finally:
        loops[0].call_soon_threadsafe(end.set)
        thread.join(60)
        listener.close()
