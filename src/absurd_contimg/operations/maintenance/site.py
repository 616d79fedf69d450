"""All maintenance of a site: what would be done, and doing it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from absurd_contimg.core.backend import Backend
from absurd_contimg.errors import SettingError
from absurd_contimg.execution.host_scratch import host_scratch
from absurd_contimg.execution.scratch import Janitor, RemovedFolder
from absurd_contimg.ingest.batches import note_ended_items, pipeline_queues
from absurd_contimg.operations.maintenance.archive import (
    CleanedQueue,
    clean_queue,
    plan_cleaning,
)
from absurd_contimg.operations.maintenance.files import (
    OldFile,
    old_logs,
    old_raw_files,
    remove_logs,
    remove_raw_files,
)
from absurd_contimg.operations.maintenance.needs import Needs, read_needs
from absurd_contimg.operations.maintenance.retention import (
    RetentionPlan,
    RetentionReport,
    plan_retention,
    run_retention,
)
from absurd_contimg.products.removal import unfinished_removals
from absurd_contimg.registry import Registry
from absurd_contimg.registry.batches import Batches
from absurd_contimg.registry.models import Product
from absurd_contimg.registry.service_records import forget_services, list_services
from absurd_contimg.settings import Settings

ARCHIVE = "archive"
"""The folder for the histories of removed tasks, in the state folder."""

IDLE_DAYS_MAX = 30.0
"""A clock that says that nothing happened for so long may be wrong."""


@dataclass(frozen=True, slots=True)
class SitePlan:
    """What maintenance would do now."""

    products: RetentionPlan
    unfinished: int
    """Removals of products that an interrupted run has left."""
    raw_files: tuple[OldFile, ...]
    """None unless they were asked for."""
    logs: tuple[OldFile, ...]
    tasks: dict[str, int]
    """By queue, the tasks that would go."""
    kept_tasks: dict[str, str]
    """By queue, why others that are as old would stay."""


@dataclass(frozen=True, slots=True)
class SiteReport:
    """What maintenance has done."""

    products: RetentionReport
    raw_files: int
    logs: int
    queues: tuple[CleanedQueue, ...]
    scratch: tuple[RemovedFolder, ...]
    refused: tuple[str, ...] = ()
    """Sentences on what could not be removed, why, and what to do."""


async def plan_site(
    settings: Settings, backend: Backend, registry: Registry, *, raw_files: bool = False
) -> SitePlan:
    """What would be done; changes nothing."""
    config, paths = settings.pipeline.retention, settings.pipeline.paths
    now = await backend.current_time()
    queues = await backend.list_queues()
    needs = await read_needs(backend, queues, registry, now)
    ended_before = now - timedelta(days=config.tasks_days)
    cleaning = {
        queue: await plan_cleaning(backend, queue, ended_before, needs.tasks)
        for queue in pipeline_queues(settings.queue_name, queues)
    }
    return SitePlan(
        products=await asyncio.to_thread(plan_retention, registry, config, needs, now),
        unfinished=len(await asyncio.to_thread(unfinished_removals, paths.output_dir)),
        raw_files=await asyncio.to_thread(_raw_files, settings, registry, needs, now)
        if raw_files
        else (),
        logs=tuple(
            await asyncio.to_thread(old_logs, paths.state_dir, config.logs_days, needs, now)
        ),
        tasks={queue: each.count for queue, each in cleaning.items()},
        kept_tasks={
            queue: f"{each.kept} old tasks stay: {each.kept_for}"
            for queue, each in cleaning.items()
            if each.kept
        },
    )


async def run_site(
    settings: Settings, backend: Backend, registry: Registry, *, raw_files: bool = False
) -> SiteReport:
    """Do all of it. Repeated, interrupted or run twice at once, it does no harm."""
    config, paths = settings.pipeline.retention, settings.pipeline.paths
    loop = asyncio.get_running_loop()
    queues = await backend.list_queues()
    now = await backend.current_time()
    needs = await read_needs(backend, queues, registry, now)

    def read_again() -> Needs:
        reading = read_needs(backend, queues, registry, now)
        return asyncio.run_coroutine_threadsafe(reading, loop).result()

    plan = await asyncio.to_thread(plan_retention, registry, config, needs, now)
    products = await asyncio.to_thread(
        run_retention, registry, paths.output_dir, plan, read_again, now
    )
    raw = await asyncio.to_thread(_raw_files, settings, registry, needs, now) if raw_files else ()
    logs = await asyncio.to_thread(old_logs, paths.state_dir, config.logs_days, needs, now)
    seen_before = (now - timedelta(days=IDLE_DAYS_MAX)).timestamp()
    await asyncio.to_thread(forget_services, registry.database, seen_before)
    files: list[str] = []
    return SiteReport(
        products=products,
        raw_files=await asyncio.to_thread(remove_raw_files, registry, raw, now, files),
        logs=await asyncio.to_thread(remove_logs, logs, files),
        queues=tuple(await clean_queues(settings, backend, registry)),
        scratch=tuple(await asyncio.to_thread(_sweep, paths.scratch_dir)),
        refused=(*products.refused, *files),
    )


def require_recent_work(registry: Registry, now: datetime) -> None:
    """Raise `SettingError` if, by the clock, the site was idle for more than `IDLE_DAYS_MAX`.

    With a clock that is years ahead all products are old. A site without products has no last day.
    """
    made = [datetime.fromisoformat(row["created_at"]) for row in registry.rows(Product)]
    if not made:
        return
    last = max(
        *(each if each.tzinfo else each.replace(tzinfo=UTC) for each in made),
        *(datetime.fromtimestamp(each.seen_at, UTC) for each in list_services(registry.database)),
    )
    if now - last > timedelta(days=IDLE_DAYS_MAX):
        raise SettingError(
            f"By the clock of the database it is {now:%Y-%m-%d}, and the last product or service "
            f"of this site is of {last:%Y-%m-%d}. Nothing is removed, as the clock may be wrong.",
            "Compare it with: date. If it is right and the site was idle: contimg maintenance run "
            "--after-idle",
        )


async def clean_queues(
    settings: Settings, backend: Backend, registry: Registry
) -> list[CleanedQueue]:
    """Archive and remove old tasks and events; of items of batches their ends are noted before."""
    config, batches = settings.pipeline.retention, Batches(registry.database)
    queues = await backend.list_queues()
    needs = await read_needs(backend, queues, registry, await backend.current_time())

    async def clean(queue: str) -> CleanedQueue:
        return await clean_queue(
            backend,
            queue,
            settings.pipeline.paths.state_dir / ARCHIVE,
            tasks_days=config.tasks_days,
            events_days=config.events_days,
            needed=needs.tasks,
            note=lambda old: note_ended_items(batches, queue, (each.task for each in old)),
        )

    return [await clean(queue) for queue in pipeline_queues(settings.queue_name, queues)]


def _raw_files(
    settings: Settings, registry: Registry, needs: Needs, now: datetime
) -> tuple[OldFile, ...]:
    days = settings.pipeline.retention.raw_files_days
    return tuple(old_raw_files(registry, settings.pipeline.paths.input_dir, days, needs, now))


def _sweep(scratch_dir: Path) -> list[RemovedFolder]:
    return Janitor(host_scratch(scratch_dir)).sweep()
