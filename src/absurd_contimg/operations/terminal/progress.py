"""The live display: one line for each group, a mark for each stage, who works on it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from uuid import UUID

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.errors import BackendUnavailable
from absurd_contimg.core.records import History
from absurd_contimg.history.timeline import (
    group_of,
    is_ended,
    last_failure,
    step_starts,
)
from absurd_contimg.history.waiting import why_waiting
from absurd_contimg.workflows.orchestrator import IMAGING_STAGES

_REFRESH_SECONDS = 0.5


async def watch(
    backend: Backend,
    queue_name: str,
    task_ids: Sequence[UUID],
    console: Console,
    while_waiting: Callable[[list[History]], Awaitable[None]] | None = None,
) -> list[History]:
    """Show the tasks until all have ended; their final histories, in the order given.

    `while_waiting` is called with each new state of affairs; what it raises ends the display.
    While the database is away, the last state stays, with a line that says so.
    """
    shown: RenderableType = ""
    with Live(console=console, refresh_per_second=4, transient=False) as live:
        while True:
            try:
                histories = await backend.histories(queue_name, task_ids)
                now = await backend.current_time()
            except BackendUnavailable as error:
                live.update(Group(shown, f"[yellow]{escape(str(error))} Asking again.[/]"))
                await asyncio.sleep(_REFRESH_SECONDS)
                continue
            shown = progress_table(histories, now)
            live.update(shown)
            if all(is_ended(history) for history in histories):
                break
            if while_waiting is not None:
                await while_waiting(histories)
            await asyncio.sleep(_REFRESH_SECONDS)
    console.print()  # without a terminal, the table's last line would go on
    return histories


def progress_table(histories: Sequence[History], now: datetime) -> RenderableType:
    """The groups as they stand at a moment."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("group", "state", "stages", "now"):
        table.add_column(heading, no_wrap=heading != "now")
    for history in histories:
        colour = _COLOURS.get(history.task.state, "white")
        state = f"[{colour}]{history.task.state}[/]"
        table.add_row(group_of(history), state, _marks(history), _now(history, now))
    return table


_COLOURS = {"completed": "green", "failed": "red", "running": "cyan", "cancelled": "magenta"}


def _marks(history: History) -> str:
    """One mark a stage: done, adopted, running, died and waiting to be taken up, not begun."""
    latest = {start.step: start for start in step_starts(history)}
    marks = []
    for stage in IMAGING_STAGES:
        start = latest.get(stage.name)
        if start is None:
            marks.append("[dim]·[/]")
        elif start.outcome == "done":
            marks.append("[green]■[/]")
        elif start.outcome == "running":
            marks.append("[cyan]▶[/]")
        else:
            marks.append("[red]✗[/]")
    return "".join(marks)


def _now(history: History, now: datetime) -> str:
    if history.task.state == "failed":
        reason = last_failure(history) or {}
        return f"[red]{reason.get('kind', '')}[/] {str(reason.get('message', ''))[:90]}"
    starts = step_starts(history)
    if is_ended(history) or not starts:
        return "" if is_ended(history) else "[dim]waiting for a worker[/]"
    if (waits := why_waiting(history)) is not None:
        return f"[yellow]waits for {escape(str(waits))}[/]"
    last = starts[-1]
    if last.outcome != "running":
        return "[dim]between stages[/]" if last.outcome == "done" else f"{last.step}: {last.ending}"
    seconds = (now - last.started_at).total_seconds()
    again = f", start {last.start}" if last.start > 1 else ""
    return f"{last.step} on {last.worker} for {seconds:.0f} s{again}"
