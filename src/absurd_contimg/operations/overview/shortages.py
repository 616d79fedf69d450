"""Stages that a full disk has ended lately: what they wrote is removed, so no disk shows it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from absurd_contimg.core.backend import Inspection
from absurd_contimg.core.records import History
from absurd_contimg.history.timeline import group_in, step_starts
from absurd_contimg.operations.console import cut
from absurd_contimg.operations.overview.queue_facts import QueueFacts, read_queue
from absurd_contimg.operations.overview.records import Shortage
from absurd_contimg.workflows.failure_rules import NO_SPACE_RULES

_RECENT = timedelta(hours=1)
_MESSAGE_LENGTH = 200
_WAITING_MAX = 50
"""Of each queue, so many tasks that wait are looked at where nothing else is read."""


async def read_shortage_problem(inspection: Inspection) -> str:
    """`shortage_problem` of all queues, without the rest of the site."""
    now, names = await inspection.current_time(), await inspection.list_queues()
    queues = [await read_queue(inspection, name, None, _WAITING_MAX) for name in names]
    return shortage_problem(read_shortages(queues, now))


def read_shortages(queues: Sequence[QueueFacts], now: datetime) -> list[Shortage]:
    """Of the last hour and of stages that are not done, the last of each, the newest first."""
    histories = [
        history
        for facts in queues
        for history in (*facts.waiting, *(task.history for task in facts.running))
    ]
    newest: dict[tuple[object, str], Shortage] = {}
    for history in histories:
        for shortage in _of_task(history, now):
            newest[shortage.task_id, shortage.step] = shortage
    return sorted(newest.values(), key=lambda shortage: shortage.at, reverse=True)


def _of_task(history: History, now: datetime) -> Iterator[Shortage]:
    starts = step_starts(history)
    done = {start.step for start in starts if start.outcome == "done"}
    for start in starts:
        noted = None if start.step in done else start.noted
        if noted is None or noted.action != "waiting" or noted.rule not in NO_SPACE_RULES:
            continue
        # Earlier versions noted no end of earlier starts, but until when they were to wait.
        at = min(start.ended_at or noted.until or start.started_at, now)
        if at >= now - _RECENT:
            yield Shortage(
                task_id=history.task.task_id,
                queue_name=history.queue_name,
                group=group_in(history.task.params),
                step=start.step,
                worker=start.worker,
                at=at,
                message=_facts(noted.message or ""),
            )


def _facts(message: str) -> str:
    """What the message says of space: the names of stage and attempt stand before, logs behind."""
    text = message[max(message.find("No space"), 0) :].partition(" The stage said")[0]
    return cut(text, _MESSAGE_LENGTH)


def shortage_problem(shortages: Sequence[Shortage]) -> str:
    """One sentence about them, with what to do; empty without any."""
    if not shortages:
        return ""
    last = shortages[0]
    is_cut = last.message.endswith("...")
    message = last.message if is_cut else f"{last.message.removesuffix('.')}."
    count = "A stage was" if len(shortages) == 1 else f"{len(shortages)} stages were"
    return (
        f"{count} ended for lack of space in the last hour, last {last.step} of "
        f"{last.group or last.task_id} on {last.worker} at {last.at:%H:%M:%S} UTC: "
        f"{message} They are tried again: make room, contimg maintenance plan."
    )
