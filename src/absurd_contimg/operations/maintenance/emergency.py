"""Emergencies: end all work on all hosts, let it run out, empty a queue, and go on.

What has to reach workers of other hosts goes through the registry (`QueuePauses`) and the database:
their runs ask every few seconds whether they may go on. No process is signalled from here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import LiteralString

import psycopg

from absurd_contimg.backends.postgres.sessions import Session
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.errors import BackendError, QueueNotFound
from absurd_contimg.core.records import LIVE_STATES, Run
from absurd_contimg.core.refusals import Refusal, meaning_of
from absurd_contimg.errors import SettingError
from absurd_contimg.history.stage_tasks import COORDINATOR
from absurd_contimg.ingest.batches import pipeline_queues
from absurd_contimg.operations.maintenance.archive import write_dump
from absurd_contimg.operations.services import cancel
from absurd_contimg.products.filesystem import LOCAL
from absurd_contimg.registry.queue_pauses import QueuePause, QueuePauses

_LOCK: LiteralString = f"select pg_try_advisory_xact_lock({0x636F6E74}, {0x72736574})"
"""One reset at a time has it ("cont", "rset"), until its transaction ends: behind a pooler no lock
of a session would last."""
_LOOK_SECONDS = 0.5
_CANCELLED_AT_ONCE = 200
_ROUNDS_MAX = 10_000
"""Of `_CANCELLED_AT_ONCE` tasks each."""


@dataclass(frozen=True, slots=True)
class ClearedQueue:
    """What became of the tasks of a queue."""

    queue: str
    dumped: int
    """Tasks in the dump, of every state."""
    dump: Path
    cancelled: int


@dataclass(frozen=True, slots=True)
class StoppedQueue:
    """A stop, and the pause whose place it took."""

    stop: QueuePause
    earlier: QueuePause | None


async def site_queues(backend: Backend, names: Iterable[str]) -> list[str]:
    """The named queues with those of their stages and batches; no others of the database."""
    known = await backend.list_queues()
    return list(dict.fromkeys(queue for name in names for queue in pipeline_queues(name, known)))


async def give_back_running(backend: Backend, queues: Sequence[str], seconds: float) -> int:
    """Give the running runs back to their queues, to be claimed after some seconds; how many.

    For when the registry cannot tell workers to stop: they notice that a run is not theirs any
    more, and end its stage within 5 s. It costs the task no attempt.
    """
    given = 0
    wake_at = await backend.current_time() + timedelta(seconds=seconds)
    for queue in queues:
        for run in await _running(backend, queue):
            try:
                await backend.schedule_run(queue, run.run_id, wake_at)
            except BackendError as error:
                if meaning_of(error) is not Refusal.NOT_OURS:  # else it has just ended
                    raise
            else:
                given += 1
    return given


async def _running(backend: Backend, queue: str) -> list[Run]:
    """The running runs of a queue; none of one that is not there."""
    try:
        return await backend.list_runs(queue, states=["running"], limit=100_000)
    except QueueNotFound:
        return []


def pause_queues(
    pauses: QueuePauses, queues: Sequence[str], reason: str, since: str, by: str
) -> list[QueuePause]:
    """Let nothing be claimed; the pauses that hold now."""
    return pauses.pause(*(QueuePause(queue, reason, since, by) for queue in queues))


def stop_queues(
    pauses: QueuePauses, queues: Sequence[str], reason: str, since: str, by: str
) -> list[StoppedQueue]:
    """Let nothing be claimed and end what runs."""
    stops = [QueuePause(queue, reason, since, by, ends_running=True) for queue in queues]
    return list(map(StoppedQueue, stops, pauses.stop(*stops)))


def end_stops(pauses: QueuePauses, stopped: Iterable[StoppedQueue]) -> list[QueuePause]:
    """End these stops and no others; the pauses of other operators, which hold now."""
    holding = (pauses.end_stop(each.stop, each.earlier) for each in stopped)
    return [pause for pause in holding if pause is not None]


async def running_tasks(backend: Backend, queues: Sequence[str]) -> dict[str, int]:
    """The queues that have running tasks whose lease has not ended, and how many."""
    running = {}
    now = await backend.current_time()
    for queue in queues:
        runs = await _running(backend, queue)
        held = sum(run.claim_expires_at is None or run.claim_expires_at > now for run in runs)
        if held:
            running[queue] = held
    return running


async def wait_until_idle(
    backend: Backend, queues: Sequence[str], timeout_seconds: float
) -> dict[str, int]:
    """Wait until nothing runs on the queues; what runs still when the time is over."""
    clock = asyncio.get_running_loop().time
    give_up = clock() + timeout_seconds
    while running := await running_tasks(backend, queues):
        if clock() >= give_up:
            break
        await asyncio.sleep(min(_LOOK_SECONDS, max(give_up - clock(), 0.0)))
    return running


async def clear_queue(backend: Backend, queue: str, dump: Path) -> ClearedQueue:
    """Dump all histories of a queue to a file, then cancel every task that has not ended.

    Coordinators are cancelled first, so that they spawn no more stage tasks. What is spawned
    meanwhile is cancelled too, as long as it comes. The dump is on the disk before anything ends.
    """
    dumped = await write_dump(backend, [queue], dump)
    cancelled = 0
    for _ in range(_ROUNDS_MAX):
        tasks = await backend.list_tasks(queue, states=LIVE_STATES, limit=_CANCELLED_AT_ONCE)
        if not tasks:
            break
        tasks.sort(key=lambda task: task.task_name != COORDINATOR)
        for history in await backend.histories(queue, [task.task_id for task in tasks]):
            await cancel(backend, history)
            cancelled += 1
    return ClearedQueue(queue, dumped, dump, cancelled)


@contextmanager
def only_reset(state_dir: Path, url: str) -> Iterator[None]:
    """Keep a second reset, of this host or another one, away; raises `SettingError` in the second.

    Of two at once, each would put back the stop of the other, which has ended.
    """
    path = state_dir / "reset.lock"
    lock = LOCAL.try_lock(path)
    if lock is None:
        raise SettingError(
            f"Another contimg emergency reset runs on this host: it holds {path}.",
            f"Wait for its end, or look at it: fuser -v {path}",
        )
    try:
        with _only_reset_of_database(url):
            yield
    finally:
        LOCAL.unlock(lock)


@contextmanager
def _only_reset_of_database(url: str) -> Iterator[None]:
    """Nothing is locked in a database that cannot be reached: nothing can be cleared there."""
    try:
        session = Session.connect(url)
    except psycopg.OperationalError:
        yield
        return
    with session:
        if session.execute(_LOCK).fetchone() == (False,):
            raise SettingError(
                f"Another contimg emergency reset of the database {session.info.dbname!r} runs, "
                "on this host or another one.",
                "Wait for its end, then look before you repeat: contimg status",
            )
        yield
