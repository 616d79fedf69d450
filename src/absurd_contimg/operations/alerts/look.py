"""One look at a site: its overview, the durations of its stages, and what does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.core.errors import BackendError
from absurd_contimg.errors import AwayError
from absurd_contimg.history.stage_figures import StageFigures, read_stage_figures
from absurd_contimg.operations.alerts.records import Dependency, Look
from absurd_contimg.operations.overview import Site, SiteOverview, read_local_disks, read_site
from absurd_contimg.registry.alerts import list_alerts

ANSWER_SECONDS = 30.0
"""The database or the registry is away if it has not answered after so long."""


def make_look(site: Site, recent_seconds: float) -> Callable[[], Awaitable[Look]]:
    """A function that looks at the site; it is bounded and never raises for what is away."""

    async def look() -> Look:
        away = await _find_away(site)
        overview: SiteOverview | None = None
        figures = StageFigures()
        if "database" not in away:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    overview = await read_site(site, recent_seconds)
                    figures = await read_stage_figures(site.inspection, await site.queues())
            except (BackendError, AwayError, TimeoutError) as error:
                away = {**away, "database": _text(error)}
        if overview is not None:
            return Look(overview, figures, away)
        # A full disk often is what keeps the database from answering.
        disks = await read_local_disks(site)
        return Look(None, figures, away, disks)

    return look


async def _find_away(site: Site) -> Mapping[Dependency, str]:
    """What does not answer a small question, or takes no changes, and its error."""
    away: dict[Dependency, str] = {}
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            await site.inspection.current_time()
            if isinstance(site.inspection, PostgresBackend):
                await site.inspection.require_writable()
    except (BackendError, TimeoutError) as error:
        away["database"] = _text(error)
    try:
        await asyncio.to_thread(_ask_registry, site)
    except AwayError as error:
        away["registry"] = _text(error)
    return away


def _ask_registry(site: Site) -> None:
    if (database := site.registry()) is not None:
        list_alerts(database)


def _text(error: BaseException) -> str:
    return str(error) or f"It did not answer within {ANSWER_SECONDS:g} s."
