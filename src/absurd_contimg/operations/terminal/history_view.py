"""Tables for the terminal: what happened to tasks, from their histories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime

from rich.markup import escape
from rich.table import Table

from absurd_contimg.core.records import History, Json
from absurd_contimg.history.timeline import (
    StepStart,
    group_of,
    last_failure,
    step_starts,
)
from absurd_contimg.history.waiting import why_waiting

_TOLD = ("kind", "rule", "step", "message", "advice", "logs")
"""What a summary tells of a failure; the history has all of it."""
_COLOURS = {"completed": "green", "failed": "red", "running": "cyan", "cancelled": "magenta"}


def tasks_table(histories: Sequence[History], now: datetime) -> Table:
    """One line for each task; `now` is the database's time."""
    table = Table("task", "group", "state", "attempts", "activity", "worker", box=None)
    for history in histories:
        summary = task_summary(history, now)
        colour = _COLOURS.get(history.task.state, "yellow")
        table.add_row(
            str(history.task.task_id)[-12:],
            group_of(history),
            f"[{colour}]{history.task.state}[/]",
            str(history.task.attempts),
            escape(str(summary["activity"])),
            escape(_with_lease(summary)),
        )
    return table


def task_summary(history: History, now: datetime) -> dict[str, Json]:
    """One task as JSON: its activity, who has it and for how long, why it has failed."""
    starts = step_starts(history)
    last = starts[-1] if starts else None
    reason = last_failure(history) if history.task.state == "failed" else None
    if (waits := why_waiting(history)) is not None:
        activity = f"waits for {waits}"
    elif reason is not None:
        activity = _why(reason)
    else:
        activity = "" if last is None else f"{last.step} ({last.ending})"
    held = next((run for run in history.runs if run.state == "running"), None)
    ends = None if held is None else held.claim_expires_at
    return {
        "task_id": str(history.task.task_id),
        "group": group_of(history),
        "state": history.task.state,
        "attempts": history.task.attempts,
        "activity": activity + (f" ({remark})" if (remark := _remark(history)) else ""),
        "waiting": None if waits is None else asdict(waits),
        "worker": None if last is None else last.worker,
        "lease_seconds_left": None if ends is None else round((ends - now).total_seconds(), 1),
        "failure": None if reason is None else {key: reason.get(key) for key in _TOLD},
    }


def _remark(history: History) -> str:
    """A fact about a completed group that its verdict does not show: missing sub-bands."""
    payload = history.task.completed_payload
    outputs = payload.get("outputs") if isinstance(payload, Mapping) else None
    converted = outputs.get("measurement_set") if isinstance(outputs, Mapping) else None
    if not isinstance(converted, Mapping):
        return ""
    # Versions up to 0.1 write the second key.
    missing = converted.get("placeholder_subbands", converted.get("stand_ins"))
    return f"{len(missing)} sub-bands missing" if isinstance(missing, list) and missing else ""


def _why(reason: Mapping[str, Json]) -> str:
    """In few words. A failure of the SDK, or of the engine, knows no kind and no step."""
    if "kind" in reason:
        return f"{reason.get('step') or ''}: {reason['kind']}, {reason.get('rule')}"
    said = str(reason.get("message") or "").strip().partition("\n")[0]
    return ": ".join(filter(None, (str(reason.get("name") or ""), said))) or "no reason given"


def _with_lease(summary: Mapping[str, Json]) -> str:
    """The worker, and how long its lease still holds: it is extended every third of its length."""
    worker, left = summary["worker"] or "", summary["lease_seconds_left"]
    if not isinstance(left, float):
        return str(worker)
    return (
        f"{worker}, lease {left:.0f} s" if left > 0 else f"{worker}, lease over for {-left:.0f} s"
    )


def history_tables(histories: Sequence[History]) -> list[Table]:
    """For each task: every start of every stage, who ran it, how long, how it ended."""
    return [_history_table(history) for history in histories]


def _history_table(history: History) -> Table:
    verdict = history.task.completed_payload
    said = f", {verdict['verdict']}" if isinstance(verdict, dict) and "verdict" in verdict else ""
    said += f", {remark}" if (remark := _remark(history)) else ""
    colour = _COLOURS.get(history.task.state, "yellow")
    table = Table(
        title=f"{group_of(history)}: [{colour}]{history.task.state}[/]{said}",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    for heading in ("stage", "start", "attempt", "worker", "began", "seconds", "how it ended"):
        table.add_column(heading, justify="right" if heading == "seconds" else "left")
    for previous, start in _with_previous(step_starts(history)):
        seconds = "" if start.seconds is None else f"{start.seconds:.1f}"
        table.add_row(
            start.step,
            str(start.start),
            str(start.attempt),
            start.worker,
            f"{start.started_at:%H:%M:%S}",
            seconds,
            _ending(start, previous),
        )
    reason = last_failure(history)
    if (waits := why_waiting(history)) is not None:
        table.caption = f"[yellow]It waits for {escape(str(waits))}.[/]"
        table.caption_justify = "left"
    if reason is not None and history.task.state == "failed":
        table.caption = (
            f"[red]{escape(str(reason.get('kind', reason.get('name'))))}[/]: "
            f"{escape(str(reason.get('message')))}\n{escape(str(reason.get('advice', '')))}"
        )
        table.caption_justify = "left"
    return table


def _with_previous(starts: Sequence[StepStart]) -> list[tuple[StepStart | None, StepStart]]:
    return list(zip([None, *starts], starts, strict=False))


def _ending(start: StepStart, previous: StepStart | None) -> str:
    """How a start ended, and whether it took up what another had left."""
    resumed = previous is not None and previous.step == start.step and previous.outcome != "done"
    note = " [cyan](resumed here)[/]" if resumed else ""
    if start.adopted:
        note += " [dim](product was already there)[/]"
    if start.escalations:
        note += f" [cyan](with {', '.join(start.escalations)})[/]"
    if start.outcome in ("died", "poison"):
        return f"[red]its worker died[/]{note}"
    colour = "green" if start.outcome == "done" else "yellow"
    return f"[{colour}]{escape(start.ending)}[/]{note}"
