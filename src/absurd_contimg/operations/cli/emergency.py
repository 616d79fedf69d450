"""``contimg emergency``: stop all work, let it run out, empty a queue, begin again, go on."""

# SQLAlchemy takes a second to import: it is imported where it is used.
# ruff: noqa: PLC0415

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from absurd_contimg.core.backend import Backend
from absurd_contimg.errors import MissingInputError, SettingError
from absurd_contimg.operations.cli.app import Reason, app, state, with_backend
from absurd_contimg.operations.cli.queue_stops import halt, note_action, require_queues
from absurd_contimg.operations.console import console, message_line
from absurd_contimg.owned_folders import make_private
from absurd_contimg.settings import Settings
from absurd_contimg.similar_names import did_you_mean

if TYPE_CHECKING:
    from absurd_contimg.operations.maintenance import ClearedQueue

emergency_app = typer.Typer(
    no_args_is_help=True, help="Stop all work on all hosts, empty a queue, and go on."
)
app.add_typer(emergency_app, name="emergency")

_Queues = Annotated[
    list[str] | None,
    typer.Option("--queue", help="Only this queue and those of its stages; repeatable."),
]
_Confirm = Annotated[
    str | None, typer.Option(help="The queue's name: does what is asked without a question.")
]


@emergency_app.command()
def stop(
    reason: Reason = "",
    only: _Queues = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the end of stages.")] = 30.0,
) -> None:
    """End all work now, on all hosts, and let nothing be claimed until contimg emergency resume.

    The process of a running stage ends within 5 s; its run goes back to the queue and costs no
    attempt. Committed products stay. Exit code 1 if something still runs after the time.

    While the registry is away the stop is a file in the output folder, which all workers obey, and
    the record of actions lacks it. If that cannot be written either, what runs is ended through
    the database, again and again for the time, and the exit code is 1. It is 1 also while the
    database cannot be reached, for then nobody knows what runs: workers obey the stop all the same.
    """
    halt(reason, only, timeout, stop=True)


@emergency_app.command()
def drain(
    reason: Reason = "",
    only: _Queues = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for running work.")] = 3600.0,
) -> None:
    """Let nothing more be claimed, wait until what runs has ended, and say so.

    Exit code 1 if something still runs after the time; the queues stay paused.
    """
    halt(reason, only, timeout, stop=False)


@emergency_app.command()
def resume(only: _Queues = None) -> None:
    """Let workers claim again from all queues that are stopped or paused."""
    from absurd_contimg.operations.services import enter_stop_notes, has_registry, open_tables
    from absurd_contimg.registry.queue_pauses import QueuePauses

    settings = state.settings()
    enter_stop_notes(settings)
    if not has_registry(settings):
        console.print("No queue is paused.")
        return
    with open_tables(settings) as database:
        pauses = QueuePauses(database)
        paused = [pause.queue for pause in pauses.pauses()]
        chosen = [name for each in only or () for name in _paused_of(each, paused)]
        chosen = paused if not only else chosen
        ended = pauses.resume(*chosen)
    for pause in ended:
        console.print(message_line(f"Resumed: {pause.sentence('was')}."), soft_wrap=True)
    if not ended:
        console.print("No queue is paused.")
    note_action(settings, "resume", chosen, "")


@emergency_app.command("clear-queue")
def clear(
    queue: Annotated[str, typer.Argument(help="The queue.")],
    confirm: _Confirm = None,
    dump: Annotated[
        Path | None,
        typer.Option(help="File for the histories. Default: in dumps in the state folder."),
    ] = None,
    reason: Reason = "",
) -> None:
    """Cancel every task of a queue that has not ended, after its histories are in a file.

    Committed products stay, and ended tasks too. contimg history TASK --from FILE shows the dump.
    """
    settings = state.settings()
    with_backend(settings, lambda b: require_queues(b, [queue]), create=False)
    _require_confirmation(queue, confirm)
    cleared = with_backend(settings, lambda b: _clear(settings, b, [queue], dump), create=False)
    _show_cleared(cleared)
    note_action(settings, "clear queue", [queue], reason)


@emergency_app.command()
def reset(
    confirm: _Confirm = None,
    reason: Reason = "",
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the end of stages.")] = 30.0,
    stay_stopped: Annotated[
        bool, typer.Option("--stay-stopped", help="Do not resume the queues at the end.")
    ] = False,
) -> None:
    """Begin again with empty queues: stop, dump and clear the queues of the settings, resume.

    They are the main queue and those of its stages and of batches; others in the database stay.

    No product, no raw file and no row of the registry is removed. Type the name of the queue of
    the settings. Exit code 1 if something still runs; then the queues stay stopped. A queue that
    somebody else has stopped or paused, before or meanwhile, stays so.
    """
    from absurd_contimg.operations.maintenance import only_reset
    from absurd_contimg.operations.services import database_url, require_own_state

    settings = state.settings()
    _require_confirmation(settings.queue_name, confirm)
    require_own_state(settings)
    make_private(settings.pipeline.paths.state_dir)
    url = database_url(settings, create=False)
    with only_reset(settings.pipeline.paths.state_dir, url):
        _reset(settings, reason, timeout, stay_stopped)


def _reset(settings: Settings, reason: str, timeout: float, stay_stopped: bool) -> None:
    from absurd_contimg.operations.maintenance import end_stops, site_queues
    from absurd_contimg.operations.services import open_tables
    from absurd_contimg.registry.queue_pauses import QueuePauses

    try:
        stopped = halt(reason or "reset", None, timeout, stop=True)
    except typer.Exit:
        console.print("Nothing is cleared.")
        raise
    if not stopped:
        console.print("Nothing is cleared: the queues could not be resumed after it.")
        raise typer.Exit(1)

    async def clear_all(backend: Backend) -> list[ClearedQueue]:
        queues = await site_queues(backend, [settings.queue_name])
        return await _clear(settings, backend, queues, None)

    _show_cleared(with_backend(settings, clear_all, create=False))
    if not stay_stopped:
        with open_tables(settings) as database:
            holding = end_stops(QueuePauses(database), stopped)
        for pause in holding:
            console.print(message_line(f"Not resumed: {pause}."), soft_wrap=True)
        console.print("All other queues are resumed." if holding else "All queues are resumed.")
        if holding:
            go_on = state.command("emergency resume")
            console.print(message_line(f"To resume these too: {go_on}"), soft_wrap=True)
    note_action(settings, "reset", [settings.queue_name], reason)


def _paused_of(queue: str, paused: Sequence[str]) -> Sequence[str]:
    """A paused queue with those of its stages; `MissingInputError` if none of them is paused."""
    from absurd_contimg.ingest.batches import pipeline_queues

    chosen = pipeline_queues(queue, paused)
    if not chosen:
        raise MissingInputError(
            f"Queue {queue!r} is not paused; these are: {', '.join(paused) or 'none'}.",
            did_you_mean(queue, paused, "contimg queue list shows the queues."),
        )
    return chosen


async def _clear(
    settings: Settings, backend: Backend, queues: Sequence[str], dump: Path | None
) -> list[ClearedQueue]:
    from absurd_contimg.operations.maintenance import clear_queue

    await require_queues(backend, queues)
    now = await backend.current_time()
    folder = settings.pipeline.paths.state_dir / "dumps"
    make_private(folder)
    return [
        await clear_queue(
            backend, queue, dump or folder / f"{queue}-{now:%Y%m%dT%H%M%S%fZ}.jsonl.gz"
        )
        for queue in queues
    ]


def _require_confirmation(queue: str, confirm: str | None) -> None:
    """Raise `SettingError` unless the queue's name was typed."""
    typed = confirm
    if typed is None:
        typed = typer.prompt(f"All tasks are cancelled. Type the queue's name ({queue})")
    if typed != queue:
        raise SettingError(
            f"{typed!r} is not the queue's name: nothing was done.",
            f"Type the name, or give --confirm {queue}",
        )


def _show_cleared(queues: Sequence[ClearedQueue]) -> None:
    for each in queues:
        text = f"{each.queue}: {each.cancelled} tasks cancelled, {each.dumped} in {each.dump}"
        console.print(message_line(text), soft_wrap=True)
