"""Tables and JSON about tasks, from their summaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from absurd_contimg.core.records import History
from absurd_contimg.history.failures import FailedRun
from absurd_contimg.history.summary import TaskSummary, summarize
from absurd_contimg.history.timeline import StepStart

_FAILURE_KEYS = ("kind", "rule", "step", "message", "path", "advice", "logs")
"""What the JSON of a task has of its failure."""

STATE_COLOURS = {"completed": "green", "failed": "red", "running": "cyan", "cancelled": "magenta"}


def tasks_table(summaries: Sequence[TaskSummary], now: datetime) -> RenderableType:
    """One line for each task, then what to do; `now` is the database's time."""
    table = Table(box=None)
    for heading in ("task", "group", "state", "attempts", "activity", "worker"):
        # A long path is folded, so that it can be copied.
        table.add_column(heading, no_wrap=heading in ("task", "group"), overflow="fold")
    for summary in summaries:
        colour = STATE_COLOURS.get(summary.state, "yellow")
        table.add_row(
            str(summary.task_id)[-12:],
            summary.group or "?",
            f"[{colour}]{summary.state}[/]",
            str(summary.attempts),
            escape(_activity(summary)),
            escape(_worker_and_lease(summary, now)),
        )
    reasons = (summary.waiting or _final_failure(summary) for summary in summaries)
    advice = {reason.rule: reason.advice for reason in reasons if reason and reason.advice}
    lines = [f"[bold]{rule}[/]: {escape(text)}" for rule, text in advice.items()]
    return Group(table, *lines)


def task_summary(summary: TaskSummary, now: datetime) -> dict[str, object]:
    """The task as JSON for programs; `now` is the database's time."""
    failure, left = _final_failure(summary), _lease_seconds_left(summary, now)
    keys = () if failure is None else _FAILURE_KEYS
    return {
        "task_id": str(summary.task_id),
        "group": summary.group or "?",
        "state": summary.state,
        "attempts": summary.attempts,
        "activity": _activity(summary),
        "waiting": None if summary.waiting is None else asdict(summary.waiting),
        "worker": _worker(summary),
        "lease_seconds_left": None if left is None else round(left, 1),
        "failure": {key: getattr(failure, key) for key in keys} or None,
    }


def _final_failure(summary: TaskSummary) -> FailedRun | None:
    return summary.last_failure if summary.state == "failed" else None


def _activity(summary: TaskSummary) -> str:
    waiting, failure = summary.waiting, _final_failure(summary)
    if waiting is not None:
        text = f"waits for {waiting}"
        return text if waiting.step is None else f"{waiting.step}: {text}"
    if failure is not None:
        return _failure_in_brief(failure)
    last = summary.starts[-1] if summary.starts else None
    text = "" if last is None else f"{last.step} ({last.ending})"
    remark = _remark(summary)
    return f"{text} ({remark})" if remark else text


def _failure_in_brief(failure: FailedRun) -> str:
    """One line. A failure by the SDK or by Absurd has no kind and no step."""
    if failure.kind is None:
        first_line = failure.message.strip().partition("\n")[0]
        return ": ".join(filter(None, (failure.name, first_line))) or "no reason given"
    place = "" if failure.path is None else f" ({failure.path})"
    return f"{failure.step or ''}: {failure.kind}, {failure.rule}{place}"


def _remark(summary: TaskSummary) -> str:
    """A fact about a completed group that its verdict does not show: missing sub-bands."""
    outputs = summary.result.get("outputs") if isinstance(summary.result, Mapping) else None
    converted = outputs.get("measurement_set") if isinstance(outputs, Mapping) else None
    if not isinstance(converted, Mapping):
        return ""
    # Versions up to 0.1 write the second key.
    missing = converted.get("placeholder_subbands", converted.get("stand_ins"))
    return f"{len(missing)} sub-bands missing" if isinstance(missing, list) and missing else ""


def _worker(summary: TaskSummary) -> str | None:
    """The worker that holds the lease, or else the one that started the last step."""
    return summary.worker or (summary.starts[-1].worker if summary.starts else None)


def _lease_seconds_left(summary: TaskSummary, now: datetime) -> float | None:
    return None if summary.lease_ends_at is None else (summary.lease_ends_at - now).total_seconds()


def _worker_and_lease(summary: TaskSummary, now: datetime) -> str:
    worker, left = _worker(summary) or "", _lease_seconds_left(summary, now)
    if left is None:
        return worker
    return (
        f"{worker}, lease {left:.0f} s" if left > 0 else f"{worker}, lease over for {-left:.0f} s"
    )


def history_tables(histories: Sequence[History]) -> list[Table]:
    """For each task: every start of every stage, its worker, its duration, its outcome."""
    return [_history_table(summarize(history)) for history in histories]


def _history_table(summary: TaskSummary) -> Table:
    result = summary.result
    verdict = str(result.get("verdict", "")) if isinstance(result, Mapping) else ""
    notes = "".join(f", {note}" for note in (verdict, _remark(summary)) if note)
    colour = STATE_COLOURS.get(summary.state, "yellow")
    table = Table(
        title=f"{summary.group or '?'}: [{colour}]{summary.state}[/]{notes}",
        title_justify="left",
        caption=_caption(summary),
        caption_justify="left",
        box=None,
        pad_edge=False,
    )
    for heading in ("stage", "start", "attempt", "worker", "began", "seconds", "outcome"):
        table.add_column(heading, justify="right" if heading == "seconds" else "left")
    for previous, start in zip((None, *summary.starts), summary.starts, strict=False):
        table.add_row(
            start.step,
            str(start.start),
            str(start.attempt),
            start.worker,
            f"{start.started_at:%H:%M:%S}",
            "" if start.seconds is None else f"{start.seconds:.1f}",
            _outcome(start, previous),
        )
    return table


def _caption(summary: TaskSummary) -> str | None:
    """Why the task waits or has failed, and what to do."""
    waiting, failure = summary.waiting, _final_failure(summary)
    if waiting is not None:
        lines = [f"[yellow]Waits for {escape(str(waiting))}.[/]"]
        lines += [escape(text) for text in (waiting.message, waiting.advice) if text]
        return "\n".join(lines)
    if failure is None:
        return None
    heading = ", ".join(filter(None, (failure.kind or failure.name, failure.rule, failure.path)))
    return f"[red]{escape(heading)}[/]: {escape(failure.message)}\n{escape(failure.advice or '')}"


def _outcome(start: StepStart, previous: StepStart | None) -> str:
    """The outcome of a start, and whether it continued what another one had left."""
    resumed = previous is not None and previous.step == start.step and previous.outcome != "done"
    note = " [cyan](resumed here)[/]" if resumed else ""
    if start.adopted:
        note += " [dim](product existed)[/]"
    if start.fallbacks:
        note += f" [cyan](with {', '.join(start.fallbacks)})[/]"
    if start.outcome in ("died", "poison"):
        return f"[red]its worker died[/]{note}"
    colour = "green" if start.outcome == "done" else "yellow"
    return f"[{colour}]{escape(start.ending)}[/]{note}"
