"""The loop of the monitor: reads the site again and again, through outages, until it is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from time import monotonic

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live

from absurd_contimg.history.durations import duration_text
from absurd_contimg.operations.console import counted, message_line
from absurd_contimg.operations.monitor.figures import key_metrics
from absurd_contimg.operations.monitor.screen import Screen
from absurd_contimg.operations.overview import Site, SiteOverview, read_site

LINE_SECONDS = 10.0
"""Between two lines where there is no terminal."""
_DATABASE_SECONDS = 5.0


@dataclass(slots=True)
class Memory:
    """The last overview, and what of it could not be read again.

    While the database or the registry is away, its part stays as it was, with its age.
    """

    clock: Callable[[], float] = monotonic
    overview: SiteOverview | None = None
    read_at: float = 0.0
    tasks_at: float | None = None
    registry_at: float | None = None
    notes: dict[str, float] = field(default_factory=dict)

    def take(self, new: SiteOverview) -> SiteOverview:
        """The new overview, with the last known parts in place of those that are away."""
        now, last = self.clock(), self.overview
        self.read_at = now
        if new.queues:
            self.tasks_at = now
        elif last is not None and last.queues:
            new = replace(new, queues=last.queues, waiting=last.waiting)
        if new.data is not None:
            self.registry_at = now
        elif last is not None and last.data is not None:
            known = {(service.kind, service.name) for service in new.services}
            others = [each for each in last.services if (each.kind, each.name) not in known]
            new = replace(
                new,
                data=last.data,
                groups=last.groups,
                images=last.images,
                services=(*new.services, *others),
            )
        self.overview = new
        return new

    def screen(self, height: int | None) -> Screen | None:
        """What is shown now; None before the first overview."""
        if self.overview is None:
            return None
        now = self.clock()
        notes = {
            part: now - at
            for part, at in (("tasks", self.tasks_at), ("registry", self.registry_at))
            if at is not None and at < self.read_at
        }
        return Screen(self.overview, now - self.read_at, notes, height)


@dataclass(slots=True)
class _Display:
    """The screen as it is at each refresh: of the terminal's size then, with ages of then."""

    memory: Memory

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        screen = self.memory.screen(console.size.height)
        yield "Reading the site..." if screen is None else screen


async def run_monitor(site: Site, console: Console, interval_seconds: float | None) -> None:
    """Show the site until the process is interrupted; every 2 s, or a line every 10 s where there
    is no terminal."""
    memory = Memory()
    if not console.is_terminal:
        while True:
            console.print(summary_line(memory.take(await _read(site))), soft_wrap=True)
            await asyncio.sleep(interval_seconds or LINE_SECONDS)
    with Live(_Display(memory), console=console, screen=True, refresh_per_second=2):
        while True:
            memory.take(await _read(site))
            await asyncio.sleep(interval_seconds or 2.0)


async def _read(site: Site) -> SiteOverview:
    return await read_site(site, database_seconds=_DATABASE_SECONDS)


def summary_line(overview: SiteOverview) -> str:
    """The key metrics and the first problem on one line, as markup."""
    metrics = ", ".join(f"{name} {value.plain}" for name, value in key_metrics(overview))
    data = overview.data
    age = None if data is None else data.newest_file_seconds_ago
    newest = "" if age is None else f", newest file {duration_text(age)} ago"
    problems = all_problems(overview)
    text = (
        f"; {counted(len(problems), 'problem')}: {' '.join(problems[0].split())}"
        if problems
        else ""
    )
    return message_line(f"{overview.at:%Y-%m-%dT%H:%M:%SZ} {metrics}{newest}{text}")


def all_problems(overview: SiteOverview) -> list[str]:
    """Everything that is wrong, the site as a whole first."""
    return [
        *overview.problems,
        *(problem for queue in overview.queues for problem in queue.problems),
        *(service.problem for service in overview.services if service.problem),
        *(disk.problem for disk in overview.disks if disk.problem),
    ]


def has_failures(overview: SiteOverview) -> bool:
    """Whether somebody has to act: a failure, or something that cannot be seen."""
    healths = {service.health for service in overview.services}
    healths |= {disk.health for disk in overview.disks}
    return bool(
        overview.problems
        or any(queue.problems for queue in overview.queues)
        or healths & {"failure", "unknown"}
    )
