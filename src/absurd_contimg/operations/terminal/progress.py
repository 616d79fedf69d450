"""The live display: one line for each group, a mark for each stage, the worker at work."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from uuid import UUID

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from absurd_contimg.core.backend import Inspection
from absurd_contimg.core.errors import BackendUnavailable
from absurd_contimg.core.records import History
from absurd_contimg.history.summary import TaskSummary, summarize
from absurd_contimg.history.timeline import is_ended, step_order
from absurd_contimg.operations.terminal.history_view import STATE_COLOURS
from absurd_contimg.workflows.orchestrator import IMAGING_STAGES

_REFRESH_SECONDS = 0.5


async def watch(
    inspection: Inspection,
    queue_name: str,
    task_ids: Sequence[UUID],
    console: Console,
    while_waiting: Callable[[list[History]], Awaitable[None]] | None = None,
) -> list[History]:
    """Show the tasks until all have ended; returns their final histories, in the order given.

    `while_waiting` is called after each refresh; an exception from it ends the display. While the
    database is away, the last state stays on the screen.
    """
    display: RenderableType = ""
    with Live(console=console, refresh_per_second=4, transient=False) as live:
        while True:
            try:
                histories = await inspection.histories(queue_name, task_ids)
                now = await inspection.current_time()
            except BackendUnavailable as error:
                live.update(Group(display, f"[yellow]{escape(str(error))} Trying again.[/]"))
                await asyncio.sleep(_REFRESH_SECONDS)
                continue
            display = progress_table(histories, now)
            live.update(display)
            if all(is_ended(history) for history in histories):
                break
            if while_waiting is not None:
                await while_waiting(histories)
            await asyncio.sleep(_REFRESH_SECONDS)
    console.print()  # without a terminal, the table has no final newline
    return histories


def progress_table(histories: Sequence[History], now: datetime) -> RenderableType:
    """The state of the groups at a time of the database's clock."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("group", "state", "stages", "now"):
        table.add_column(heading, no_wrap=heading != "now")
    planned = (stage.name for stage in IMAGING_STAGES)
    order = tuple(dict.fromkeys((*planned, *step_order(histories))))
    for summary in map(summarize, histories):
        colour = STATE_COLOURS.get(summary.state, "white")
        state = f"[{colour}]{summary.state}[/]"
        table.add_row(summary.group or "?", state, _marks(summary, order), _now(summary, now))
    return table


def _marks(summary: TaskSummary, order: Sequence[str]) -> str:
    """One mark for each step: done, running, waiting, interrupted, not started."""
    last_starts = summary.steps
    marks = {"done": "[green]■[/]", "running": "[cyan]▶[/]", "waiting": "[yellow]‖[/]"}
    return "".join(
        marks.get(last_starts[step].outcome, "[red]✗[/]") if step in last_starts else "[dim]·[/]"
        for step in order
    )


def _now(summary: TaskSummary, now: datetime) -> str:
    if summary.state == "failed":
        failure = summary.last_failure
        return "" if failure is None else f"[red]{failure.kind or ''}[/] {failure.message[:90]}"
    if summary.waiting is not None:
        return f"[yellow]waits for {escape(str(summary.waiting))}[/]"
    if summary.state != "running" or not summary.starts:
        return ""
    last = summary.starts[-1]
    if last.outcome != "running":
        return "[dim]between stages[/]" if last.outcome == "done" else f"{last.step}: {last.ending}"
    seconds = (now - last.started_at).total_seconds()
    again = f", start {last.start}" if last.start > 1 else ""
    return f"{last.step} on {last.worker} for {seconds:.0f} s{again}"
