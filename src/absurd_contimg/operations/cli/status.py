"""``contimg status``: the queue, what keeps it from work, groups that wait, the newest tasks."""

# The stages, SQLAlchemy and CASA's helpers take a second to import: imported where they are used.
# ruff: noqa: PLC0415

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from absurd_contimg.core.backend import Inspection
from absurd_contimg.core.records import LIVE_STATES, History, QueueStats, Run
from absurd_contimg.execution.host_scratch import host_name, host_scratch
from absurd_contimg.execution.scratch import safe_name, visible_owners
from absurd_contimg.history.durations import duration_text
from absurd_contimg.history.stage_tasks import with_stage_tasks
from absurd_contimg.history.summary import read_histories, summarize, superseded_failures
from absurd_contimg.history.timeline import group_in
from absurd_contimg.history.wait_explanation import WITHOUT_REGISTRY, WaitContext, explain_wait
from absurd_contimg.operations.cli import app as shared
from absurd_contimg.operations.cli.app import AsJson, FromFile, app, state
from absurd_contimg.operations.console import cell, console, counted, message_line
from absurd_contimg.settings import Settings
from absurd_contimg.terminal_tables import KeyedTable

if TYPE_CHECKING:
    from absurd_contimg.operations.overview import GroupOverview
    from absurd_contimg.operations.services import Hindrances


_RUNNING_MAX = 200
_RECENT_CLAIM_SECONDS = 600.0
"""A worker of another program writes no record: one that claimed within this time may live."""


@dataclass(frozen=True, slots=True)
class _Queue:
    """What is read of the queue and the site."""

    stats: QueueStats
    histories: Sequence[History]
    running: Sequence[Run]
    superseded: frozenset[UUID]
    """Failed tasks whose group has a later one."""
    context: WaitContext
    groups: Sequence[GroupOverview]
    """Those without a task."""
    batches: QueueStats | None
    """The queue of batches, if there is one."""
    problem: str | None
    """Why the database takes no changes."""


@app.command()
def status(
    limit: Annotated[int, typer.Option(min=1, help="Number of tasks, the newest first.")] = 20,
    as_json: AsJson = False,
    from_file: FromFile = None,
) -> None:
    """Show the queue, the workers of this host, groups that wait for files, the newest tasks."""
    from absurd_contimg.ingest.batches import reprocessing_queue
    from absurd_contimg.operations.overview import problem_of_changes, workers_of_earlier_names
    from absurd_contimg.operations.services import read_hindrances, worker_notes
    from absurd_contimg.operations.terminal import task_summary, tasks_table

    settings = state.settings()

    async def read(backend: Inspection) -> _Queue:
        stats = await backend.queue_stats(settings.queue_name)
        histories = await read_histories(backend, settings.queue_name, limit=limit)
        superseded: frozenset[UUID] = frozenset()
        if stats.tasks_by_state.get("failed"):
            superseded = await superseded_failures(backend, settings.queue_name)
        context, groups = await shared.read_waits(settings, backend, from_file)
        histories = await with_stage_tasks(backend, histories)
        batches = None
        if (beside := reprocessing_queue(settings.queue_name)) in await backend.list_queues():
            batches = await backend.queue_stats(beside)
        running = await backend.list_runs(
            settings.queue_name, states=["running"], limit=_RUNNING_MAX
        )
        problem = await problem_of_changes(backend)
        return _Queue(stats, histories, running, superseded, context, groups, batches, problem)

    queue = shared.with_inspection(settings, from_file, read)
    summaries, now = list(map(summarize, queue.histories)), queue.context.now
    explanations = {
        history.task.task_id: explanation
        for history in queue.histories
        if (explanation := explain_wait(history, queue.context)) is not None
    }
    paths = settings.pipeline.paths
    host, locked = host_name(), visible_owners(host_scratch(paths.scratch_dir))
    if earlier := workers_of_earlier_names(paths.scratch_dir):
        locked = sorted({*(locked or ()), *earlier})
    alive = _recorded_workers(host, queue.context) if locked is None else locked
    notes = [
        {**note, "alive_here": _is_alive_here(note, {host, *earlier.values()}, alive)}
        for note in worker_notes(paths.state_dir)
    ]
    hindrances = read_hindrances(settings)
    if as_json:
        tasks = [
            task_summary(summary, now, explanations.get(summary.task_id)) for summary in summaries
        ]
        shared.print_json(
            {
                "queue": queue.stats,
                "batches": queue.batches,
                "failed_superseded": len(queue.superseded),
                "workers_here": alive,
                "disk_notes": notes,
                "pauses": hindrances.pauses,
                "slots": hindrances.slots,
                "database_problem": queue.problem,
                "registry_problem": hindrances.problem,
                "maintenance": hindrances.maintenance,
                "groups_waiting": queue.groups,
                "tasks": tasks,
            }
        )
        return
    _show_queue(queue)
    _show_batches(queue.batches)
    _show_hindrances(hindrances)
    names = [
        f"{name}{_silence(name, earlier.get(name, host), queue.context)}"
        + (f" (started as {earlier[name]}: the host was renamed)" if name in earlier else "")
        for name in alive or ()
    ]
    unseen = alive is None or (names and locked is None)
    alive_text = "not known" if alive is None else ", ".join(map(cell, names)) or "none"
    alive_text += " (known by their records)" if unseen and names else ""
    console.print(f"Workers of the pipeline alive on this host: {alive_text}")
    if unseen:
        text = f"The locks of workers in {cell(paths.scratch_dir)} cannot be looked at."
        console.print(text, soft_wrap=True)
    _show_leases(queue)
    _show_slots(settings, hindrances)
    _show_notes(notes, host)
    if queue.groups:
        console.print(_groups_table(queue.groups))
    if summaries:
        console.print(tasks_table(summaries, now, explanations, queue.superseded))


def _recorded_workers(host: str, context: WaitContext) -> list[str] | None:
    """The workers of this host that are not gone by their records; None if those are not known."""
    from absurd_contimg.operations.services import given_worker_id

    if context.registry_problem:
        return None
    workers = [each for each in context.workers or () if each.host == host and not each.is_dead]
    return sorted(filter(None, (given_worker_id(each.name) for each in workers)))


def _is_alive_here(
    note: Mapping[str, object], hosts: Collection[str], alive: Sequence[str] | None
) -> bool | None:
    """Whether the worker of a note lives on this host; None if that is not known."""
    if "host" in note and note["host"] not in hosts:
        return False
    return None if alive is None else note["worker"] in alive


def _silence(name: str, host: str, context: WaitContext) -> str:
    """Of a worker whose process is there, since when it has said nothing; empty if it has."""
    from absurd_contimg.operations.services import given_worker_id

    for worker in context.workers or ():
        if worker.host == host and safe_name(given_worker_id(worker.name)) == name:
            seconds = worker.silent_seconds
            return "" if seconds is None else f" (silent for {duration_text(seconds)}: it hangs)"
    return ""


def _show_queue(queue: _Queue) -> None:
    stats = queue.stats
    counts = ", ".join(f"{number} {state}" for state, number in stats.tasks_by_state.items())
    if queue.superseded:
        counts += f" ({len(queue.superseded)} of the failed ones have a later task of their group)"
    console.print(f"[bold]{cell(stats.queue_name)}[/]: {counts or 'no tasks'}")
    if queue.problem is not None:
        text = message_line(queue.problem)
        console.print(f"[yellow]Nothing can be changed:[/] {text}", soft_wrap=True)
    if stats.oldest_claimable_seconds is not None:
        seconds = stats.oldest_claimable_seconds
        duration = f"for {duration_text(seconds)}" if math.isfinite(seconds) else "since ever"
        console.print(f"{stats.claimable} waiting for a worker, the first {duration}")
    if stats.expired_leases:
        console.print(f"[yellow]{counted(stats.expired_leases, 'run')} with expired leases[/]")


def _show_leases(queue: _Queue) -> None:
    """Who works: also on tasks that are not shown, and workers that are not the pipeline's own."""
    now = queue.context.now
    held = Counter(
        str(run.claimed_by)
        for run in queue.running
        if run.claim_expires_at is not None and run.claim_expires_at > now
    )
    if held:
        names = ", ".join(f"{cell(name)} ({counted(n, 'run')})" for name, n in held.items())
        console.print(f"Leases are held by: {names}")
    others = _other_programs(queue)
    if others:
        names = ", ".join(
            f"{cell(name)} (last known claim {duration_text((now - at).total_seconds())} ago)"
            for name, at in others.items()
        )
        console.print(f"Workers of other programs at these tasks: {names}")
    if nameless := _nameless_claims(queue):
        ago = f"claimed {duration_text((now - max(nameless)).total_seconds())} ago"
        console.print(
            f"Tasks that sleep, wait or were released name no worker: {len(nameless)} of these, "
            + (ago if len(nameless) == 1 else f"the last {ago}")
        )


def _nameless_claims(queue: _Queue) -> list[datetime]:
    """When tasks of other programs were claimed that name no worker now: it may live.

    Absurd clears the name where a run goes to sleep. Empty where a worker of the pipeline's serves
    the queue, which may have claimed them.
    """
    name = queue.stats.queue_name
    if any(
        worker.host is not None and worker.silent_seconds is None and worker.serves(name)
        for worker in queue.context.workers or ()
    ):
        return []
    return [
        run.started_at
        for history in queue.histories
        if group_in(history.task.params) is None
        for run in history.runs
        if run.state in LIVE_STATES and run.claimed_by is None and run.started_at is not None
    ]


def _other_programs(queue: _Queue) -> Mapping[str, datetime]:
    """Workers without a name of the pipeline's, and the last claim that is known, if recent."""
    from absurd_contimg.operations.services import given_worker_id

    last: dict[str, datetime] = {}
    for history in queue.histories:
        for run in history.runs:
            name = run.claimed_by
            if name is None or run.started_at is None or given_worker_id(name):
                continue
            last[name] = max(last.get(name, run.started_at), run.started_at)
    since = queue.context.now - timedelta(seconds=_RECENT_CLAIM_SECONDS)
    own = {each.name for each in queue.context.workers or () if each.host is not None}
    return {name: at for name, at in last.items() if at >= since and name not in own}


def _show_batches(stats: QueueStats | None) -> None:
    """The tasks of batches that have not ended, if there are any."""
    live = {name: stats.tasks_by_state.get(name, 0) for name in LIVE_STATES} if stats else {}
    if stats is not None and any(live.values()):
        counts = ", ".join(f"{number} {name}" for name, number in live.items() if number)
        console.print(
            f"[bold]{cell(stats.queue_name)}[/]: {counts} (contimg batch status; tasks: contimg "
            f"--queue {cell(stats.queue_name)} status)"
        )


def _show_hindrances(hindrances: Hindrances) -> None:
    for pause in hindrances.pauses:
        resume = state.command(f"queue resume {pause.queue}")
        how = "" if pause.ends_running else f" To go on: {resume}"
        text = message_line(f"{pause}.{how}")
        console.print(f"[yellow]Nothing is claimed:[/] {text}", soft_wrap=True)
    if any(pause.ends_running for pause in hindrances.pauses):
        text = message_line(f"To go on after the stop: {state.command('emergency resume')}")
        console.print(text, soft_wrap=True)
    if hindrances.problem is not None:
        text = message_line(f"{hindrances.problem} {WITHOUT_REGISTRY}.")
        console.print(f"[yellow]The registry could not be asked:[/] {text}", soft_wrap=True)
    if hindrances.maintenance:
        text = message_line(hindrances.maintenance)
        console.print(f"[yellow]Old files stay:[/] {text}", soft_wrap=True)


def _show_slots(settings: Settings, hindrances: Hindrances) -> None:
    limits = settings.pipeline.limits.by_resource
    for slot in hindrances.slots:
        shown = f"limit {limits[slot.resource]}" if slot.resource in limits else "no limit here"
        console.print(message_line(f"{slot.resource}, {shown}: {slot}"))


def _show_notes(notes: Sequence[Mapping[str, Any]], host: str) -> None:
    """What workers have written about their disks."""
    for note in notes:
        if not note["reason"]:
            continue
        place = {True: "", False: ", not alive on this host", None: ", perhaps alive on this host"}[
            note["alive_here"]
        ]
        if note.get("host", host) != host:
            place = f" of host {note['host']}"
        heading = f"worker {note['worker']}{place}, since {note['since']}"
        console.print(f"[yellow]{cell(heading)}:[/] ", end="")
        console.print(message_line(note["reason"]), soft_wrap=True)


def _groups_table(groups: Sequence[GroupOverview]) -> KeyedTable:
    table = KeyedTable("group without a task", "sub-bands", "why")
    for group in groups:
        present = f"{group.present} of {group.expected}"
        table.add_row(cell(group.name), present, cell(group.waits_for))
    return table
