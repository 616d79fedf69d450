"""``contimg queue``: pause, resume and list the queues."""

# SQLAlchemy takes a second to import: it is imported where it is used.
# ruff: noqa: PLC0415

from __future__ import annotations

from typing import Annotated

import typer

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.errors import BackendError
from absurd_contimg.core.records import QueueStats
from absurd_contimg.errors import AwayError, RegistryUnconfirmedError, SettingError
from absurd_contimg.operations.cli.app import (
    AsJson,
    Reason,
    app,
    print_json,
    state,
    with_actions,
    with_backend,
)
from absurd_contimg.operations.console import cell, console, message_line
from absurd_contimg.terminal_tables import KeyedTable

queue_app = typer.Typer(no_args_is_help=True, help="Pause, resume and list queues.")
app.add_typer(queue_app, name="queue")

_QueueName = Annotated[
    str | None, typer.Argument(help="The queue. Default: the queue of the settings.")
]


@queue_app.command()
def pause(
    queue: _QueueName = None,
    reason: Reason = "",
) -> None:
    """Let workers claim nothing more from a queue; what is running goes on.

    It stays paused, also over restarts, until contimg queue resume.
    """
    if not reason.strip():
        raise SettingError("A pause needs a reason.", "Say why: --reason TEXT")
    settings = state.settings()
    name = queue or settings.queue_name
    try:
        with_actions(settings, lambda actions: actions.pause_queue(name, reason))
    except (BackendError, AwayError) as error:
        stop = state.command(f"emergency stop --queue {name} --reason TEXT")
        is_unknown = isinstance(error, RegistryUnconfirmedError)
        pause = (
            f"It is not known whether queue {name} is paused."
            if is_unknown
            else f"Queue {name} is not paused: workers go on."
        )
        text = f"{pause} To stop them without what is away: {stop}"
        console.print(message_line(text), soft_wrap=True)
        raise
    resume_it = state.command(f"queue resume {name}")
    console.print(message_line(f"Queue {name} is paused: {resume_it}"), soft_wrap=True)


@queue_app.command()
def resume(queue: _QueueName = None) -> None:
    """Let workers claim from a queue again; names the queues that are still paused."""
    from absurd_contimg.operations.services import enter_stop_notes, read_hindrances

    settings = state.settings()
    name = queue or settings.queue_name
    enter_stop_notes(settings)
    ended = with_actions(settings, lambda actions: actions.resume_queue(name))
    console.print(message_line(f"Resumed: {ended.sentence('was')}."))
    others = read_hindrances(settings).pauses
    for pause in others:
        console.print(message_line(f"Not resumed: {pause}."))
    if others:
        text = f"To resume all of them: {state.command('emergency resume')}"
        console.print(message_line(text), soft_wrap=True)


@queue_app.command("list")
def list_queues(as_json: AsJson = False) -> None:
    """List the queues: their tasks by state, and by whom and why they are paused."""
    from absurd_contimg.operations.services import read_hindrances

    settings = state.settings()
    stats = with_backend(settings, _read_stats, create=False)
    hindrances = read_hindrances(settings)
    if hindrances.problem is not None:
        console.print(message_line(hindrances.problem))
    pauses = {pause.queue: pause for pause in hindrances.pauses}
    if as_json:
        print_json([{"queue": each, "pause": pauses.get(each.queue_name)} for each in stats])
        return
    table = KeyedTable("queue", "pending", "running", "sleeping", "paused")
    for each in stats:
        pause = pauses.get(each.queue_name)
        counts = (each.tasks_by_state.get(name, 0) for name in ("pending", "running", "sleeping"))
        note = "" if pause is None else f"{pause.reason} ({pause.by}, since {pause.since})"
        table.add_row(cell(each.queue_name), *map(str, counts), cell(note))
    console.print(table)


async def _read_stats(backend: Backend) -> list[QueueStats]:
    return [await backend.queue_stats(queue) for queue in await backend.list_queues()]
