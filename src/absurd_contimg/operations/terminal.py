"""What a terminal shows of tasks: tables, and a live display while they run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from time import monotonic
from types import MappingProxyType
from uuid import UUID

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape

from absurd_contimg.core.backend import Inspection
from absurd_contimg.core.errors import BackendUnavailable
from absurd_contimg.core.records import TERMINAL_STATES, History
from absurd_contimg.history.failures import FailedRun
from absurd_contimg.history.stage_tasks import with_stage_tasks
from absurd_contimg.history.summary import TaskSummary, summarize
from absurd_contimg.history.timeline import StepStart, group_of, kind_of, step_order
from absurd_contimg.history.wait_explanation import WaitContext, WaitExplanation, explain_wait
from absurd_contimg.operations.attempts import STATE_COLOURS, add_attempts
from absurd_contimg.operations.console import cell, error_console, message_line, one_line
from absurd_contimg.products.output_warnings import output_warnings
from absurd_contimg.terminal_tables import KeyedTable
from absurd_contimg.workflows.orchestrator import IMAGING_STAGES

_REFRESH_SECONDS = 0.5
LINE_SECONDS = 10.0
"""Between two looks that are printed where there is no terminal."""
_LINE_END_SECONDS = 1.0
_FAILURE_KEYS = ("kind", "rule", "step", "name", "message", "where", "path", "advice", "logs")
"""What the JSON of a task has of its failure."""


@contextmanager
def lines_of_progress(text: Callable[[], str]) -> Iterator[None]:
    """While this lasts, print a line on standard error every `LINE_SECONDS`."""
    ended = threading.Event()

    def show() -> None:
        while not ended.wait(LINE_SECONDS):
            error_console.print(message_line(text()), soft_wrap=True)

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(_LINE_END_SECONDS)  # so that no line comes after the result


def _coloured_state(summary: TaskSummary, *, is_silent: bool = False) -> str:
    """The state of a task as markup; of a running one whether its worker is silent."""
    if is_silent:
        return "[bold red]running, worker silent[/]"
    return f"[{STATE_COLOURS.get(summary.state, 'yellow')}]{summary.state}[/]"


def tasks_table(
    summaries: Sequence[TaskSummary],
    now: datetime,
    explanations: Mapping[UUID, WaitExplanation] = MappingProxyType({}),
    superseded: Collection[UUID] = (),
) -> RenderableType:
    """One line for each task, then what to do; `now` is the database's time.

    `explanations` tell, by task, why those wait that have not ended; `superseded` are failed ones
    whose group has a later task: nothing has to be done about them.
    """
    headings = ("task", "group", "state", "attempts", "activity", "worker")
    table = KeyedTable(*headings, keys=["task", "group"])
    for summary in summaries:
        table.add_row(
            str(summary.task_id)[-12:],
            cell(" ".join(filter(None, (summary.group, _kind_shown(summary))))),
            _state(summary, explanations.get(summary.task_id), superseded),
            str(summary.attempts),
            cell(_activity(summary, explanations.get(summary.task_id))),
            cell(_worker_and_lease(summary, now)),
        )
    reasons = (
        summary.waiting or _final_failure(summary)
        for summary in summaries
        if summary.task_id not in superseded
    )
    advice = {reason.rule: reason.advice for reason in reasons if reason and reason.advice}
    lines = [f"[bold]{cell(rule)}[/]: {message_line(text)}" for rule, text in advice.items()]
    return Group(table, *lines)


def _kind_shown(summary: TaskSummary) -> str:
    """What a task is, beside its group: nothing if it is what processes it."""
    return kind_of(summary.task_name) if summary.group else summary.task_name


def _state(
    summary: TaskSummary, explanation: WaitExplanation | None, superseded: Collection[UUID]
) -> str:
    if summary.task_id in superseded:
        return "[dim]failed, a later task is there[/]"
    is_silent = explanation is not None and explanation.fact == "silent-worker"
    return _coloured_state(summary, is_silent=is_silent)


def task_summary(
    summary: TaskSummary, now: datetime, explanation: WaitExplanation | None = None
) -> dict[str, object]:
    """The task as JSON for programs; `now` is the database's time."""
    failure, left = _final_failure(summary), _lease_seconds_left(summary, now)
    return {
        "task_id": str(summary.task_id),
        "task_name": summary.task_name,
        "group": summary.group or "?",
        "state": summary.state,
        "attempts": summary.attempts,
        "activity": _activity(summary, explanation),
        "why": None if explanation is None else explanation.sentence,
        "waiting": None if summary.waiting is None else asdict(summary.waiting),
        "worker": _worker(summary),
        "lease_seconds_left": None if left is None else round(left, 1),
        "failure": failure and {key: getattr(failure, key) for key in _FAILURE_KEYS},
    }


def _final_failure(summary: TaskSummary) -> FailedRun | None:
    return summary.last_failure if summary.state == "failed" else None


def _activity(summary: TaskSummary, explanation: WaitExplanation | None) -> str:
    waiting, failure = summary.waiting, _final_failure(summary)
    if explanation is not None and (waiting is not None or explanation.fact != "running"):
        return explanation.sentence
    if waiting is not None:
        text = f"waits for {waiting}"
        return text if waiting.step is None else f"{waiting.step}: {text}"
    if failure is None:
        parts = [f"{start.step} ({start.ending})" for start in summary.starts[-1:]]
        remark = _remark(summary)
        return " ".join([*parts, f"({remark})"] if remark else parts)
    if failure.where is not None:
        step = None if failure.step is None else f"step {failure.step}"
        return ": ".join(filter(None, (step, one_line(failure.text))))
    if failure.kind is None:  # by the SDK or by Absurd: without a step
        first_line = failure.message.strip().partition("\n")[0]
        return ": ".join(filter(None, (failure.name, first_line))) or "no reason given"
    place = "" if failure.path is None else f" ({failure.path})"
    return ": ".join(filter(None, (failure.step, f"{failure.kind}, {failure.rule}{place}")))


def _remark(summary: TaskSummary) -> str:
    """What the verdict of a completed group does not show."""
    outputs = summary.result.get("outputs") if isinstance(summary.result, Mapping) else None
    return "; ".join(output_warnings(outputs)) if isinstance(outputs, Mapping) else ""


def _worker(summary: TaskSummary) -> str | None:
    """The worker that holds the lease, or else the one that started the last step."""
    return summary.worker or (summary.starts[-1].worker if summary.starts else None)


def _lease_seconds_left(summary: TaskSummary, now: datetime) -> float | None:
    return None if summary.lease_ends_at is None else (summary.lease_ends_at - now).total_seconds()


def _worker_and_lease(summary: TaskSummary, now: datetime) -> str:
    worker, left = _worker(summary) or "", _lease_seconds_left(summary, now)
    if left is None:
        return worker
    return f"{worker}, lease " + (f"{left:.0f} s" if left > 0 else f"over for {-left:.0f} s")


def history_table(history: History, explanation: WaitExplanation | None = None) -> KeyedTable:
    """Every start of every stage of one task, its worker, its duration, its outcome.

    Of a task without tracked steps its attempts, with the steps that each has saved. `explanation`
    tells why it waits.
    """
    summary = summarize(history)
    result = summary.result
    verdict = str(result.get("verdict", "")) if isinstance(result, Mapping) else ""
    fork = "" if summary.forked_from is None else str(summary.forked_from)
    notes = "".join(f", {note}" for note in (verdict, fork, _remark(summary)) if note)
    name = summary.group or f"{summary.task_name} {summary.task_id}"
    table = KeyedTable(
        title=f"{cell(name)}: {_coloured_state(summary)}{cell(notes)}",
        title_justify="left",
        caption=_caption(summary, explanation),
        caption_justify="left",
        pad_edge=False,
    )
    if not summary.starts:
        add_attempts(table, history)
        return table
    for heading in ("stage", "start", "attempt", "worker", "began", "seconds", "outcome"):
        table.add_column(heading, justify="right" if heading == "seconds" else "left")
    workers = short_names(start.worker for start in summary.starts)
    for previous, start in zip((None, *summary.starts), summary.starts, strict=False):
        table.add_row(
            cell(start.step),
            str(start.start),
            str(start.attempt),
            cell(workers[start.worker]),
            f"{start.started_at:%H:%M:%S}",
            "" if start.seconds is None else f"{start.seconds:.1f}",
            _outcome(start, previous),
        )
    return table


def short_names(workers: Iterable[str]) -> dict[str, str]:
    """The names that workers were given, without the id of their host's scratch folder.

    All as they are where two of them would have one name.
    """
    names = {worker: worker.rpartition("@")[0] or worker for worker in workers}
    return names if len(set(names.values())) == len(names) else {name: name for name in names}


def _caption(summary: TaskSummary, explanation: WaitExplanation | None) -> str | None:
    """Why the task waits or has failed, and what to do."""
    waiting, failure = summary.waiting, _final_failure(summary)
    if explanation is not None:
        lines = [f"[yellow]It {message_line(explanation.sentence)}.[/]"]
        message = None if waiting is None else waiting.message
        lines += [message_line(text) for text in (message, explanation.advice) if text]
        return "\n".join(lines)
    if waiting is not None:
        lines = [f"[yellow]Waits for {cell(waiting)}.[/]"]
        lines += [message_line(text) for text in (waiting.message, waiting.advice) if text]
        return "\n".join(lines)
    if failure is None:
        return None
    heading = ", ".join(filter(None, (failure.kind or failure.name, failure.rule, failure.path)))
    advice = message_line(failure.advice or "")
    return f"[red]{cell(heading)}[/]: {message_line(failure.text)}\n{advice}"


def _outcome(start: StepStart, previous: StepStart | None) -> str:
    """The outcome of a start, and whether it continued what another one had left."""
    resumed = previous is not None and previous.step == start.step and previous.outcome != "done"
    note = " [cyan](resumed here)[/]" if resumed else ""
    if start.adopted:
        note += " [dim](product existed)[/]"
    if start.fallbacks:
        note += f" [cyan](with {cell(', '.join(start.fallbacks))})[/]"
    if start.outcome in ("died", "poison"):
        return f"[red]its worker died[/]{note}"
    colours = {"done": "green", "failed": "bold red", "cancelled": "bold red"}
    colour = colours.get(start.outcome, "yellow")
    return f"[{colour}]{cell(start.ending)}[/]{note}"


class _Lines:
    """What is printed of tasks under way where there is no terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._due = monotonic() + LINE_SECONDS

    def show(self, histories: Sequence[History], now: datetime) -> None:
        """A line for each task that has not ended, if it is time."""
        if monotonic() < self._due:
            return
        self._due = monotonic() + LINE_SECONDS
        for history in histories:
            if history.task.state not in TERMINAL_STATES:
                explanation = explain_wait(history, WaitContext(now))
                sentence = "" if explanation is None else explanation.sentence
                text = f"{now:%H:%M:%S} {group_of(history)} {sentence}"
                self._console.out(one_line(text))


async def watch(
    inspection: Inspection,
    queue_name: str,
    task_ids: Sequence[UUID],
    console: Console,
    while_waiting: Callable[[list[History]], Awaitable[None]] | None = None,
    is_over: Callable[[Sequence[History], datetime], bool] | None = None,
) -> list[History]:
    """Show the tasks until all have ended, also through failures of the database.

    With `is_over` also until it says so, of what is shown and the database's time. Without a
    terminal a line for each task every `LINE_SECONDS`. An exception from `while_waiting`, called
    after each refresh, ends the display.
    """
    display: RenderableType = ""
    lines = None if console.is_terminal else _Lines(console)
    with Live(console=console, refresh_per_second=4, transient=False) as live:
        while True:
            try:
                histories = await inspection.histories(queue_name, task_ids)
                histories = await with_stage_tasks(inspection, histories)
                now = await inspection.current_time()
            except BackendUnavailable as error:
                live.update(Group(display, f"[yellow]{message_line(error)} Trying again.[/]"))
                await asyncio.sleep(_REFRESH_SECONDS)
                continue
            display = progress_table(histories, now)
            live.update(display)
            if lines is not None:
                lines.show(histories, now)
            if all(history.task.state in TERMINAL_STATES for history in histories):
                break
            if is_over is not None and is_over(histories, now):
                break
            if while_waiting is not None:
                await while_waiting(histories)
            try:
                await asyncio.sleep(_REFRESH_SECONDS)
            except asyncio.CancelledError:
                live.update("")  # it shows as running what is released now
                raise
    console.print()  # without a terminal, the table has no final newline
    return histories


def progress_table(histories: Sequence[History], now: datetime) -> RenderableType:
    """The state of the groups at a time of the database's clock."""
    table = KeyedTable("group", "state", "stages", "now", pad_edge=False, header_style="bold")
    planned = (stage.name for stage in IMAGING_STAGES)
    order = tuple(dict.fromkeys((*planned, *step_order(histories))))
    for history in histories:
        summary = summarize(history)
        explanation = explain_wait(history, WaitContext(now))
        why = "" if explanation is None else explanation.sentence
        is_silent = explanation is not None and explanation.fact == "silent-worker"
        marks = _marks(summary, order, is_silent=is_silent)
        doing = f"[red]{cell(why)}[/]" if is_silent else _now(summary, now, why)
        cells = (_coloured_state(summary, is_silent=is_silent), marks, doing)
        table.add_row(cell(summary.group or summary.task_name), *cells)
    return table


def _marks(summary: TaskSummary, order: Sequence[str], *, is_silent: bool = False) -> str:
    """One mark for each step: done, running, waiting, interrupted, not started."""
    last_starts = summary.steps
    running = "[red]?[/]" if is_silent else "[cyan]▶[/]"
    marks = {"done": "[green]■[/]", "running": running, "waiting": "[yellow]‖[/]"}
    return "".join(
        marks.get(last_starts[step].outcome, "[red]✗[/]") if step in last_starts else "[dim]·[/]"
        for step in order
    )


def _now(summary: TaskSummary, now: datetime, why: str) -> str:
    if summary.state == "failed":
        failure = summary.last_failure
        if failure is None:
            return ""
        return f"[red]{cell(failure.kind or '')}[/] {escape(one_line(failure.text, 90))}"
    if summary.waiting is not None:
        return f"[yellow]{cell(why)}[/]"
    if summary.state != "running" or not summary.starts:
        return ""
    last = summary.starts[-1]
    if last.outcome != "running":
        between = last.outcome == "done"
        return "[dim]between stages[/]" if between else cell(f"{last.step}: {last.ending}")
    seconds = (now - last.started_at).total_seconds()
    again = f", start {last.start}" if last.start > 1 else ""
    return cell(f"{last.step} on {last.worker} for {seconds:.0f} s{again}")
