"""Stopping and draining queues, with what can be reached: registry, output folder, database."""

# SQLAlchemy takes a second to import: it is imported where it is used.
# ruff: noqa: PLC0415

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

import typer

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.errors import BackendError
from absurd_contimg.errors import (
    AwayError,
    MissingInputError,
    RegistryUnconfirmedError,
    SettingError,
    UserError,
)
from absurd_contimg.operations.cli.app import state, with_backend
from absurd_contimg.operations.console import StreamError, console, message_line
from absurd_contimg.owned_folders import make_private
from absurd_contimg.products.site_file import read_site_file
from absurd_contimg.settings import Settings

if TYPE_CHECKING:
    from absurd_contimg.operations.maintenance import StoppedQueue

_T = TypeVar("_T")

_UNRECORDED_PAUSE_SECONDS = 600.0
"""After an emergency that the registry cannot hold, runs begin again so late."""
_UNRECORDED_LOOK_SECONDS = 1.0
_ANSWER_SECONDS = 5.0
"""How long the database may take beyond the time that an operator gives."""


def halt(
    reason: str, only: Sequence[str] | None, timeout: float, *, stop: bool
) -> list[StoppedQueue]:
    """Stop or pause queues with those of their stages and wait until nothing runs; the stops.

    Exit code 1 if something runs still, or if that is not known.
    """
    if not reason.strip():
        raise SettingError("Other operators need a reason.", "Say why: --reason TEXT")
    settings, reason = state.settings(), reason.strip()
    queues = _queues(settings, only or [settings.queue_name])
    try:
        stopped = _hold(settings, queues, reason, stop=stop)
    except (UserError, OSError) as error:
        if not stop:
            is_unknown = isinstance(error, RegistryUnconfirmedError)
            names = ", ".join(queues)
            pause = (
                f"It is not known whether {names} are paused."
                if is_unknown
                else f"Nothing is paused: workers go on to claim from {names}."
            )
            _show(
                f"{pause} To stop them also without the registry: "
                f"{state.command('emergency stop --reason TEXT')}"
            )
            raise
        stopped = []
        if not _note_stop(settings, queues, reason, error):
            _end_unrecorded(settings, queues, timeout)
            raise typer.Exit(1) from error
    else:
        note_action(settings, "stop" if stop else "drain", queues, reason)
    if not _is_idle(settings, queues, timeout, stop=stop):
        raise typer.Exit(1)
    _show(f"Nothing runs. To go on: {state.command('emergency resume')}")
    return stopped


def _is_idle(settings: Settings, queues: Sequence[str], timeout: float, *, stop: bool) -> bool:
    """Wait until nothing runs; whether that is so, and says why not."""
    from absurd_contimg.operations.maintenance import wait_until_idle

    running = _ask_database(
        settings, lambda b: wait_until_idle(b, queues, timeout), timeout + _ANSWER_SECONDS
    )
    if running is None:
        ends = "Workers that reach the registry or the output folder end their stages within 5 s."
        _show(
            "What runs is not known. Nothing more is claimed: it is recorded, and holds also when "
            f"the database is back. {ends if stop else 'What runs goes on.'} Still to do: mend the "
            f"database, then look at {state.command('status')}. To go on after that: "
            f"{state.command('emergency resume')}"
        )
        return False
    for queue, count in running.items():
        _show(f"{queue}: {count} still running after {timeout:g} s.")
    if running:
        _show("Look at their workers: contimg status. A dead worker's lease runs out.")
    return not running


def _queues(settings: Settings, named: Sequence[str]) -> list[str]:
    """The named queues with those of their stages and batches.

    All that there may be, if the database does not answer: a stop must not wait for that.
    """
    from absurd_contimg.ingest.batches import pipeline_queues, queue_names

    known = _ask_database(settings, lambda backend: backend.list_queues(), _ANSWER_SECONDS)
    if known is None:
        every = [queue for name in named for queue in queue_names(name)]
    else:
        _require_known(named, known)
        every = [queue for name in named for queue in pipeline_queues(name, known)]
    return list(dict.fromkeys(every))


def _ask_database(
    settings: Settings, work: Callable[[Backend], Awaitable[_T]], seconds: float
) -> _T | None:
    """What `work` returns within the time; None if the database cannot be used, and says why.

    An emergency must not end with that, whatever is wrong. Raises only where no worker has been: a
    folder that is misspelt, say.
    """

    async def ask(backend: Backend) -> _T | None:
        try:
            async with asyncio.timeout(seconds):
                return await work(backend)
        except (TimeoutError, BackendError) as error:
            await _show_silence(backend, error)
            return None

    try:
        return with_backend(settings, ask, create=False)
    except UserError as error:
        if read_site_file(settings.pipeline.paths.output_dir) is None:
            raise
        problem: Exception = error
    except (BackendError, OSError) as error:
        problem = error
    _show(str(problem))
    return None


async def _show_silence(backend: Backend, error: BaseException) -> None:
    """Say that the database does not answer, and who holds it up."""
    from absurd_contimg.backends.postgres import PostgresBackend

    holders = ""
    if isinstance(backend, PostgresBackend):
        holders = await backend.lock_holders()
    _show(f"The database does not answer. {holders or error}".strip())


def _hold(
    settings: Settings, queues: Sequence[str], reason: str, *, stop: bool
) -> list[StoppedQueue]:
    """Pause or stop the queues in the registry; the stops. Raises `AwayError`."""
    from absurd_contimg.operations.maintenance import pause_queues, stop_queues
    from absurd_contimg.operations.services import enter_stop_notes, open_tables, operator_name
    from absurd_contimg.registry.queue_pauses import QueuePauses

    with suppress(AwayError):  # an earlier stop is named below, and outlives this one
        enter_stop_notes(settings)
    now = datetime.now(UTC).isoformat(timespec="milliseconds")  # a stop is known by it
    with open_tables(settings) as database:
        pauses, by = QueuePauses(database), operator_name()
        stopped = stop_queues(pauses, queues, reason, now, by) if stop else []
        held = [each.stop for each in stopped]
        for pause in held or pause_queues(pauses, queues, reason, now, by):
            _show(f"{pause}.")
        for each in stopped:
            if each.earlier is not None:
                _show(f"Before that {each.earlier}.")
    return stopped


def _note_stop(settings: Settings, queues: Sequence[str], reason: str, error: Exception) -> bool:
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
        _show(
            f"No stop of {', '.join(queues)} is recorded, nor this action: {error} Nor can it "
            f"be written to {notes.folder}: {failure.strerror}."
        )
        return False
    for stop in stops:
        _show(f"{stop}.")
    _show(
        f"The stop stands in {notes.folder}, not in the registry; the first worker that reaches "
        f"both enters it. contimg actions does not have it. {error}"
    )
    return True


def _end_unrecorded(settings: Settings, queues: Sequence[str], timeout: float) -> None:
    """End what runs through the database alone, for as long as `timeout`; says what goes on."""
    _show(f"What runs is given back through the database for {timeout:g} s.")
    given = _ask_database(
        settings, lambda b: _give_back(b, queues, timeout), timeout + 2 * _ANSWER_SECONDS
    )
    if given is None:
        _show(
            "Nothing is stopped: workers go on. End them on their hosts by SIGTERM (sudo systemctl "
            "stop 'dsa110-absurd-worker@*'), or mend what is named above and repeat this command."
        )
        return
    _show(
        f"Given back: {given}, to begin again in {_UNRECORDED_PAUSE_SECONDS / 60:g} minutes. A "
        "worker that reaches the registry claims other tasks: end it on its host by SIGTERM, "
        "or mend the registry and repeat this command."
    )


async def _give_back(backend: Backend, queues: Sequence[str], timeout: float) -> int:
    from absurd_contimg.operations.maintenance import give_back_running

    clock = asyncio.get_running_loop().time
    give_up, given = clock() + timeout, 0
    while True:
        try:
            async with asyncio.timeout_at(give_up + _ANSWER_SECONDS):
                given += await give_back_running(backend, queues, _UNRECORDED_PAUSE_SECONDS)
        except (TimeoutError, BackendError) as error:
            await _show_silence(backend, error)
            return given
        if clock() >= give_up:
            return given
        await asyncio.sleep(min(_UNRECORDED_LOOK_SECONDS, give_up - clock()))


async def require_queues(backend: Backend, queues: Sequence[str]) -> None:
    """Raise `MissingInputError` for a queue that is not there."""
    _require_known(queues, await backend.list_queues())


def _require_known(queues: Sequence[str], known: Collection[str]) -> None:
    from absurd_contimg.operations.services import absent_queue

    for queue in queues:
        if queue not in known:
            raise MissingInputError(
                *absent_queue(queue, known, "Correct its name: contimg queue list.")
            )


def note_action(settings: Settings, action: str, queues: Sequence[str], reason: str) -> None:
    """Enter what was done into the registry, for other operators."""
    from absurd_contimg.operations.services import (
        open_registry,
        operator_name,
        unrecorded_action,
    )
    from absurd_contimg.registry.operator_actions import OperatorAction, store_action

    at = datetime.now(UTC).isoformat(timespec="seconds")
    make_private(settings.pipeline.paths.state_dir)
    try:
        with closing(open_registry(settings)) as registry:
            for queue in queues:
                entry = OperatorAction(at, operator_name(), "command line", action, queue, reason)
                store_action(registry.database, entry)
    except AwayError as error:
        state.unrecorded.append(unrecorded_action(action, ", ".join(queues), error))


def _show(text: str) -> None:
    """Print a line, if anything can be printed: an emergency does not end half-way for that.

    The exit code of the command says it at the end.
    """
    with suppress(StreamError, BrokenPipeError):
        console.print(message_line(text), soft_wrap=True)
