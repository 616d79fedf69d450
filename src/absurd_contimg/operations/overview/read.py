"""Reads a site: everything that is shown or judged of it, with a bounded number of queries.

What cannot be reached leaves its part empty and a sentence among the problems: the rest is shown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.backends.postgres.database_errors import TAKES_NO_CHANGES
from absurd_contimg.config.alerts import AlertsConfig
from absurd_contimg.core.backend import Inspection
from absurd_contimg.core.errors import BackendError
from absurd_contimg.core.records import History
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.history.timeline import group_of
from absurd_contimg.history.wait_explanation import (
    WaitContext,
    awaited_calibration,
    explain_wait,
)
from absurd_contimg.operations.console import counted
from absurd_contimg.operations.overview.calibration_prospects import calibration_prospects
from absurd_contimg.operations.overview.disks import read_disks
from absurd_contimg.operations.overview.local_processes import gone_services
from absurd_contimg.operations.overview.queue_facts import (
    QueueFacts,
    forgotten_pauses,
    queue_overview,
    read_queue,
    stage_task_states,
    waiting_tasks,
)
from absurd_contimg.operations.overview.records import (
    DiskOverview,
    GroupOverview,
    ServiceOverview,
    SiteOverview,
)
from absurd_contimg.operations.overview.registry_facts import (
    RegistryFacts,
    data_overview,
    group_overviews,
    image_qualities,
    read_registry,
    rules_of,
)
from absurd_contimg.operations.overview.services import read_services, worker_facts
from absurd_contimg.operations.overview.shortages import read_shortages, shortage_problem
from absurd_contimg.operations.overview.site import Site
from absurd_contimg.operations.overview.threads import in_thread
from absurd_contimg.operations.services import make_policy

RECENT_SECONDS = 86_400.0
"""What ended in so long a time counts as recent: a night."""
WAITING_MAX = 100
"""Waiting tasks that are named."""
DATABASE_SECONDS = 15.0
"""The database may take so long; what shows the site shows the rest then."""


async def read_site(
    site: Site,
    recent_seconds: float = RECENT_SECONDS,
    database_seconds: float = DATABASE_SECONDS,
    answer_seconds: float = DATABASE_SECONDS,
) -> SiteOverview:
    """The site now. Never raises for a database, a registry or a disk that is away.

    A database that does not tell its time within `answer_seconds` is away.
    """
    reading = read_site_and_context(site, recent_seconds, database_seconds, answer_seconds)
    return (await reading)[0]


async def read_site_and_context(
    site: Site,
    recent_seconds: float = RECENT_SECONDS,
    database_seconds: float = DATABASE_SECONDS,
    answer_seconds: float = DATABASE_SECONDS,
) -> tuple[SiteOverview, WaitContext]:
    """The site now, and what `explain_wait` needs for tasks that it does not name."""
    problems: list[str] = []
    seconds_max = database_seconds, answer_seconds
    now, queues = await _read_queues(site, recent_seconds, seconds_max, problems)
    seconds = now.timestamp()
    registry = await in_thread(read_registry, site, seconds)
    if registry.problem:
        problems.append(registry.problem)
    disks = await in_thread(read_disks, registry.samples, site.settings, seconds)
    running = [task for facts in queues for task in facts.running]
    gone = await in_thread(gone_services, registry.services, site.settings, seconds)
    services = read_services(registry.services, running, now, gone)
    context = wait_context(site, now, queues, registry, services)
    waiting = waiting_tasks(queues, context)
    sentences = {task.task_id: task.why for task in waiting}
    for task in running:
        if (explanation := explain_wait(task.history, context)) is not None:
            sentences[task.run.task_id] = explanation.sentence
    rules = rules_of(site)
    shown = tuple(
        queue_overview(facts, (registry.pauses or {}).get(facts.queue_name), recent_seconds)
        for facts in queues
    )
    limits = AlertsConfig() if site.settings is None else site.settings.pipeline.alerts
    problems += _site_problems(queues, services)
    problems += forgotten_pauses(shown, now, 60.0 * limits.paused_minutes)
    shortages = read_shortages(queues, now)
    problems += filter(None, [shortage_problem(shortages), registry.maintenance_problem])
    overview = SiteOverview(
        at=now,
        source=site.source,
        queues=shown,
        services=tuple(services),
        groups=tuple(group_overviews(registry, rules, sentences, seconds)),
        waiting=tuple(waiting[:WAITING_MAX]),
        disks=tuple(disks),
        data=data_overview(registry, rules, seconds),
        images=tuple(image_qualities(registry)),
        problems=tuple(problems),
        shortages=tuple(shortages),
        maintenance_problem=registry.maintenance_problem,
    )
    return overview, context


async def read_local_disks(site: Site) -> list[DiskOverview]:
    """The disks of this host now, without what its database and its registry know."""
    return await in_thread(read_disks, [], site.settings, datetime.now(UTC).timestamp())


async def read_context(site: Site) -> WaitContext:
    """What `explain_wait` needs to know of a site, for the history of a single task."""
    return (await read_context_and_groups(site))[0]


async def read_context_and_groups(site: Site) -> tuple[WaitContext, list[GroupOverview]]:
    """`read_context`, and the groups that have no task yet: what each waits for."""
    now, queues = await _read_queues(site, None, (DATABASE_SECONDS, DATABASE_SECONDS), [])
    seconds = now.timestamp()
    registry = await in_thread(read_registry, site, seconds)
    running = [task for facts in queues for task in facts.running]
    gone = await in_thread(gone_services, registry.services, site.settings, seconds)
    services = read_services(registry.services, running, now, gone)
    groups = group_overviews(registry, rules_of(site), {}, seconds)
    waiting = [group for group in groups if group.kind == "group" and group.task_id is None]
    return wait_context(site, now, queues, registry, services), waiting


async def _read_queues(
    site: Site,
    recent_seconds: float | None,
    seconds_max: tuple[float, float],
    problems: list[str],
) -> tuple[datetime, list[QueueFacts]]:
    """The database's time and the facts of all queues; a problem instead of them.

    `seconds_max` are those for all of it and those for the time alone.
    None for `recent_seconds` asks for nothing that has ended.
    """
    database_seconds, answer_seconds = seconds_max
    waited_seconds = min(seconds_max)
    try:
        async with asyncio.timeout(database_seconds):
            inspection = site.inspection
            async with asyncio.timeout(answer_seconds):
                now = await inspection.current_time()
            waited_seconds = database_seconds
            names = await site.queues()
            since = None if recent_seconds is None else now - timedelta(seconds=recent_seconds)
            waiting_max = max(WAITING_MAX // 2 // max(len(names), 1), 10)
            problems += filter(None, [await problem_of_changes(inspection)])
            reads = (read_queue(inspection, name, since, waiting_max) for name in names)
            return now, list(await asyncio.gather(*reads))
    except (BackendError, TimeoutError) as error:
        reason = str(error) or f"it does not answer within {waited_seconds:g} s."
        problems.append(
            f"The tasks cannot be seen: {reason} Workers wait until it is back: contimg doctor."
        )
        return datetime.now(UTC), []


async def problem_of_changes(inspection: Inspection) -> str | None:
    """Why a database that answers takes no changes, as of a standby or without a transaction ID."""
    if not isinstance(inspection, PostgresBackend):
        return None
    try:
        await inspection.require_writable()
    except BackendError as error:
        if error.sqlstate != TAKES_NO_CHANGES:
            raise
        return str(error)
    return None


def wait_context(
    site: Site,
    now: datetime,
    queues: Sequence[QueueFacts],
    registry: RegistryFacts,
    services: Sequence[ServiceOverview],
) -> WaitContext:
    """What `explain_wait` needs to know, with what the stage tasks do that others wait for."""
    # A worker writes its record into the registry: without one, only leases tell of workers.
    knows_workers = registry.summary is not None
    settings = site.settings
    context = WaitContext(
        now=now,
        workers=worker_facts(registry.services, services) if knows_workers else None,
        pauses={name: str(pause) for name, pause in (registry.pauses or {}).items()},
        blocked={facts.queue_name: facts.blocked for facts in queues if facts.blocked is not None},
        registry_problem=registry.problem,
        slot_waits=registry.slot_waits,
        calibrations=calibration_prospects(
            registry.calibration_sources, set(filter(None, map(group_of, _live(queues))))
        ),
        calibration_reach_hours=None
        if settings is None
        else settings.pipeline.calibration.reach_hours,
        policy=RetryPolicy() if settings is None else make_policy(settings),
    )
    return replace(context, stage_tasks=stage_task_states(queues, context))


def _live(queues: Sequence[QueueFacts]) -> list[History]:
    """The tasks that go on by themselves: not those that wait for somebody else's calibration."""
    running = [task.history for facts in queues for task in facts.running]
    waiting = [history for facts in queues for history in facts.waiting]
    return running + [each for each in waiting if awaited_calibration(each) is None]


def _site_problems(queues: Sequence[QueueFacts], services: Sequence[ServiceOverview]) -> list[str]:
    """What is wrong with the site as a whole."""
    problems = []
    claimable = sum(facts.stats.claimable for facts in queues)
    workers = [service for service in services if service.kind == "worker"]
    if claimable and not any(worker.state == "running" for worker in workers):
        problems.append(
            f"{counted(claimable, 'task')} waiting and no worker lives. Start one: "
            "contimg worker (as a service: systemctl start dsa110-absurd-worker@1)"
        )
    daemons = [service for service in services if service.kind == "daemon"]
    if daemons and not any(daemon.state == "running" for daemon in daemons):
        problems.append(
            "No daemon runs: new files are not processed. Start it: "
            "contimg daemon (as a service: systemctl start dsa110-mosaic-daemon)"
        )
    return problems
