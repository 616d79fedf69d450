"""``contimg emergency``: stop all work, let it run out, empty a queue, begin again, go on."""

# SQLAlchemy takes a second to import: it is imported where it is used.
# ruff: noqa: PLC0415

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.errors import BackendUnavailable
from absurd_contimg.errors import AwayError, MissingInputError, SettingError
from absurd_contimg.operations.cli.app import Reason, app, state, with_backend
from absurd_contimg.operations.console import console, message_line
from absurd_contimg.owned_folders import make_private
from absurd_contimg.settings import Settings
from absurd_contimg.similar_names import did_you_mean

if TYPE_CHECKING:
    from absurd_contimg.operations.maintenance import ClearedQueue, StoppedQueue

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


_UNRECORDED_PAUSE_SECONDS = 600.0
"""After an emergency that the registry cannot hold, runs begin again so late."""
_UNRECORDED_LOOK_SECONDS = 1.0
_ANSWER_SECONDS = 5.0
"""How long the database may take beyond the time that an operator gives."""


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
    the database, again and again for the time, and the exit code is 1.
    """
    _halt(reason, only, timeout, stop=True)


@emergency_app.command()
def drain(
    reason: Reason = "",
    only: _Queues = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for running work.")] = 3600.0,
) -> None:
    """Let nothing more be claimed, wait until what runs has ended, and say so.

    Exit code 1 if something still runs after the time; the queues stay paused.
    """
    _halt(reason, only, timeout, stop=False)


@emergency_app.command()
def resume(only: _Queues = None) -> None:
    """Let workers claim again from all queues that are stopped or paused."""
    from absurd_contimg.operations.maintenance import resume_queues
    from absurd_contimg.operations.services import enter_stop_notes, open_tables
    from absurd_contimg.registry.database import exists
    from absurd_contimg.registry.queue_pauses import QueuePauses

    settings = state.settings()
    enter_stop_notes(settings)
    if not exists(settings.registry_url):
        console.print("No queue is paused.")
        return
    with open_tables(settings) as database:
        pauses = QueuePauses(database)
        paused = [pause.queue for pause in pauses.pauses()]
        chosen = [name for each in only or () for name in _paused_of(each, paused)]
        chosen = paused if not only else chosen
        ended = resume_queues(pauses, chosen)
    for pause in ended:
        console.print(message_line(f"Resumed: {pause.sentence('was')}."), soft_wrap=True)
    if not ended:
        console.print("No queue is paused.")
    _note(settings, "resume", chosen, "")


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
    with_backend(settings, lambda b: _require_queues(b, [queue]), create=False)
    _require_confirmation(queue, confirm)
    cleared = with_backend(settings, lambda b: _clear(settings, b, [queue], dump), create=False)
    _show_cleared(cleared)
    _note(settings, "clear queue", [queue], reason)


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

    settings = state.settings()
    _require_confirmation(settings.queue_name, confirm)
    make_private(settings.pipeline.paths.state_dir)
    with only_reset(settings.pipeline.paths.state_dir):
        _reset(settings, reason, timeout, stay_stopped)


def _reset(settings: Settings, reason: str, timeout: float, stay_stopped: bool) -> None:
    from absurd_contimg.operations.maintenance import end_stops, site_queues
    from absurd_contimg.operations.services import open_tables
    from absurd_contimg.registry.queue_pauses import QueuePauses

    stopped = _halt(reason or "reset", None, timeout, stop=True)
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
    _note(settings, "reset", [settings.queue_name], reason)


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


def _halt(
    reason: str, only: Sequence[str] | None, timeout: float, *, stop: bool
) -> list[StoppedQueue]:
    if not reason.strip():
        raise SettingError("Other operators need a reason.", "Say why: --reason TEXT")
    settings = state.settings()
    queues = _queues(settings, only or [settings.queue_name])
    try:
        stopped = _hold(settings, queues, reason.strip(), stop=stop)
    except AwayError as error:
        if not stop:
            raise
        stopped = []
        if not _note_stop(settings, queues, reason.strip(), error):
            with_backend(settings, lambda b: _stop_unrecorded(b, queues, timeout), create=False)
            raise typer.Exit(1) from error
    else:
        _note(settings, "stop" if stop else "drain", queues, reason)
    running = with_backend(settings, lambda b: _wait_until_idle(b, queues, timeout), create=False)
    if running is None:
        raise typer.Exit(1)
    for queue, count in running.items():
        console.print(message_line(f"{queue}: {count} still running after {timeout:g} s."))
    if running:
        console.print("Look at their workers: contimg status. A dead worker's lease runs out.")
        raise typer.Exit(1)
    go_on = state.command("emergency resume")
    console.print(message_line(f"Nothing runs. To go on: {go_on}"), soft_wrap=True)
    return stopped


def _queues(settings: Settings, named: Sequence[str]) -> list[str]:
    """The named queues with those of their stages and batches.

    All that there may be, if the database does not answer: a stop must not wait for that.
    """
    from absurd_contimg.ingest.batches import queue_names
    from absurd_contimg.operations.maintenance import site_queues

    async def ask(backend: Backend) -> list[str]:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await _require_queues(backend, named)
                return await site_queues(backend, named)
        except (TimeoutError, BackendUnavailable) as error:
            await _show_silence(backend, error)
            return [queue for name in named for queue in queue_names(name)]

    return with_backend(settings, ask, create=False)


async def _wait_until_idle(
    backend: Backend, queues: Sequence[str], timeout: float
) -> dict[str, int] | None:
    """What runs still when the time is over; None if the database does not tell."""
    from absurd_contimg.operations.maintenance import wait_until_idle

    try:
        async with asyncio.timeout(timeout + _ANSWER_SECONDS):
            return await wait_until_idle(backend, queues, timeout)
    except (TimeoutError, BackendUnavailable) as error:
        await _show_silence(backend, error)
        console.print(
            "What runs is not known. Nothing more is claimed: it is recorded. After contimg "
            "emergency stop, workers that reach the registry end their stages within 5 s."
        )
        return None


async def _show_silence(backend: Backend, error: BaseException) -> None:
    """Say that the database does not answer, and who holds it up."""
    from absurd_contimg.backends.postgres import PostgresBackend

    holders = ""
    if isinstance(backend, PostgresBackend):
        holders = await backend.lock_holders()
    text = f"The database does not answer. {holders or error}".strip()
    console.print(message_line(text), soft_wrap=True)


def _hold(
    settings: Settings, queues: Sequence[str], reason: str, *, stop: bool
) -> list[StoppedQueue]:
    """Pause or stop the queues in the registry; the stops. Raises `AwayError`."""
    from absurd_contimg.operations.maintenance import pause_queues, stop_queues
    from absurd_contimg.operations.services import open_tables, operator_name
    from absurd_contimg.registry.queue_pauses import QueuePauses

    now = datetime.now(UTC).isoformat(timespec="milliseconds")  # a stop is known by it
    with open_tables(settings) as database:
        pauses, by = QueuePauses(database), operator_name()
        stopped = stop_queues(pauses, queues, reason, now, by) if stop else []
        held = [each.stop for each in stopped]
        for pause in held or pause_queues(pauses, queues, reason, now, by):
            console.print(message_line(f"{pause}."), soft_wrap=True)
        for each in stopped:
            if each.earlier is not None:
                console.print(message_line(f"Before that {each.earlier}."), soft_wrap=True)
    return stopped


def _note_stop(settings: Settings, queues: Sequence[str], reason: str, error: AwayError) -> bool:
    """Stop the queues by files in the output folder; whether they could be written."""
    from absurd_contimg.operations.services import operator_name
    from absurd_contimg.registry.queue_pauses import QueuePause
    from absurd_contimg.registry.stop_notes import StopNotes

    notes = StopNotes(settings.pipeline.paths.output_dir)
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    stops = [QueuePause(queue, reason, now, operator_name(), True) for queue in queues]
    try:
        notes.add(stops)
    except OSError as failure:
        text = (
            f"No stop of {', '.join(queues)} is recorded, nor this action: {error} Nor can it "
            f"be written to {notes.folder}: {failure.strerror}."
        )
        console.print(message_line(text), soft_wrap=True)
        return False
    for stop in stops:
        console.print(message_line(f"{stop}."), soft_wrap=True)
    text = (
        f"The stop stands in {notes.folder}, not in the registry; the first worker that reaches "
        f"both enters it. contimg actions does not have it. {error}"
    )
    console.print(message_line(text), soft_wrap=True)
    return True


async def _stop_unrecorded(backend: Backend, queues: Sequence[str], timeout: float) -> None:
    """End what runs without the registry, for as long as `timeout`."""
    from absurd_contimg.operations.maintenance import give_back_running

    console.print(f"What runs is given back through the database for {timeout:g} s.")
    clock = asyncio.get_running_loop().time
    give_up, given = clock() + timeout, 0
    while True:
        try:
            async with asyncio.timeout_at(give_up + _ANSWER_SECONDS):
                given += await give_back_running(backend, queues, _UNRECORDED_PAUSE_SECONDS)
        except (TimeoutError, BackendUnavailable) as error:
            await _show_silence(backend, error)
            break
        if clock() >= give_up:
            break
        await asyncio.sleep(min(_UNRECORDED_LOOK_SECONDS, give_up - clock()))
    console.print(
        message_line(
            f"Given back: {given}, to begin again in {_UNRECORDED_PAUSE_SECONDS / 60:g} minutes. A "
            "worker that reaches the registry claims other tasks: end it on its host by SIGTERM, "
            "or mend the registry and repeat this command."
        ),
        soft_wrap=True,
    )


async def _clear(
    settings: Settings, backend: Backend, queues: Sequence[str], dump: Path | None
) -> list[ClearedQueue]:
    from absurd_contimg.operations.maintenance import clear_queue

    await _require_queues(backend, queues)
    now = await backend.current_time()
    folder = settings.pipeline.paths.state_dir / "dumps"
    make_private(folder)
    return [
        await clear_queue(
            backend, queue, dump or folder / f"{queue}-{now:%Y%m%dT%H%M%S%fZ}.jsonl.gz"
        )
        for queue in queues
    ]


async def _require_queues(backend: Backend, queues: Sequence[str]) -> None:
    known = await backend.list_queues()
    for queue in queues:
        if queue not in known:
            raise MissingInputError(
                f"There is no queue {queue!r}; there are: {', '.join(known) or 'none'}.",
                did_you_mean(queue, known, "Correct its name: contimg queue list."),
            )


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


def _note(settings: Settings, action: str, queues: Sequence[str], reason: str) -> None:
    """Enter what was done into the registry, for other operators."""
    from absurd_contimg.operations.services import open_registry, operator_name
    from absurd_contimg.registry.operator_actions import OperatorAction, store_action

    at = datetime.now(UTC).isoformat(timespec="seconds")
    make_private(settings.pipeline.paths.state_dir)
    try:
        with closing(open_registry(settings)) as registry:
            for queue in queues:
                entry = OperatorAction(at, operator_name(), "command line", action, queue, reason)
                store_action(registry.database, entry)
    except AwayError as error:
        text = f"It is done, but not recorded for other operators: {error}"
        console.print(message_line(text), soft_wrap=True)
