"""What a terminal shows of the attempts of a task without tracked steps, and of its result."""

from __future__ import annotations

import json
from collections.abc import Mapping

from absurd_contimg.core.records import History, Run
from absurd_contimg.core.step_journal import JOURNAL_PREFIXES
from absurd_contimg.core.task_queries import LEASE_EXPIRED
from absurd_contimg.core.worker_deaths import noted_deaths
from absurd_contimg.history.checkpoint_texts import checkpoint_text
from absurd_contimg.history.failures import reason_members
from absurd_contimg.operations.console import cell, counted, jsonable
from absurd_contimg.terminal_tables import KeyedTable

STATE_COLOURS = {"completed": "green", "failed": "red", "running": "cyan", "cancelled": "magenta"}


def result_line(history: History) -> str:
    """What the handler of a completed task has returned, short, as markup; empty without any.

    Empty for a group, whose verdict stands in the title of its table.
    """
    result = history.task.completed_payload
    if result is None or (isinstance(result, Mapping) and "verdict" in result):
        return ""
    return f"Result: {cell(json.dumps(jsonable(result), ensure_ascii=False))}"


def add_attempts(table: KeyedTable, history: History) -> None:
    """The runs of a task whose handler has no tracked steps."""
    for heading in ("attempt", "worker", "began", "ended", "outcome", "steps saved"):
        table.add_column(heading)
    for run in history.runs:
        saved = [
            checkpoint.checkpoint_name
            for checkpoint in history.checkpoints
            if checkpoint.owner_run_id == run.run_id
            and not checkpoint.checkpoint_name.startswith(JOURNAL_PREFIXES)
        ]
        ended = run.completed_at or run.failed_at
        ending = _ending(run) + _deaths(history, run)
        table.add_row(
            str(run.attempt),
            cell(run.claimed_by or ""),
            _began(history, run),
            "" if ended is None else f"{ended:%H:%M:%S}",
            f"[{STATE_COLOURS.get(run.state, 'yellow')}]{run.state}[/]{cell(ending)}",
            cell(", ".join(map(checkpoint_text, saved))),
        )


def _began(history: History, run: Run) -> str:
    """When an attempt began, as far as that is known, and when it was last resumed.

    Each claim after a sleep, a wait or a release replaces the time of the claim before.
    """
    claimed, first = run.started_at, history.task.first_started_at
    if claimed is None:
        return ""
    resumed = f"last resumed {claimed:%H:%M:%S}"
    if run is history.runs[0] and first is not None and first < claimed:
        return f"{first:%H:%M:%S}, {resumed}"
    own = (saved for saved in history.checkpoints if saved.owner_run_id == run.run_id)
    has_worked_before = any(saved.updated_at < claimed for saved in own)
    return resumed if has_worked_before else f"{claimed:%H:%M:%S}"


def _ending(run: Run) -> str:
    """Why a run has failed, in a few words: the death of its worker is no error of its handler."""
    if run.failure_reason is None:
        return ""
    name, kind, rule = reason_members(run.failure_reason)
    if name == LEASE_EXPIRED:
        return ": its worker died or was cut off, and its lease ended"
    if kind is not None:
        return f": {kind}" + ("" if rule is None else f" ({rule})")
    return f": {name}" if name else ""


def _deaths(history: History, run: Run) -> str:
    """That workers died in this run before it was claimed again by one of the same name."""
    deaths = noted_deaths(history, run)
    return f"; its worker had died {counted(deaths, 'time')} before" if deaths else ""
