"""Histories in a file, and such a file as a database that nobody changes.

A file is JSON lines, compressed or not: a first line about the file, then one for each task with
its runs, checkpoints and waits. What reads an `Inspection` can show it, without any database.
"""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import BinaryIO, cast
from uuid import UUID

from typing_extensions import override

from absurd_contimg.core.backend import Inspection
from absurd_contimg.core.errors import BackendError, QueueNotFound
from absurd_contimg.core.records import (
    INFINITY,
    LIVE_STATES,
    Checkpoint,
    History,
    Json,
    QueuePolicy,
    QueueStats,
    Run,
    State,
    Task,
    TaskResult,
)
from absurd_contimg.core.row_values import JSON_BYTES_MAX
from absurd_contimg.core.task_queries import contains
from absurd_contimg.errors import CorruptInputError, MissingInputError
from absurd_contimg.history.history_lines import (
    history_of,
    history_values,
    json_line,
    parse_line,
    parse_time,
)
from absurd_contimg.regular_files import UnsuitableFileError, open_regular
from absurd_contimg.whole_files import replaced_file

FORMAT = "contimg histories 1"
"""In the first line; an incompatible format has another number."""
FILE_BYTES_MAX = 4 * 2**30
"""Of a file as it is on the disk."""
_LINE_BYTES_MAX = 8 * JSON_BYTES_MAX

_TEXT_BYTES_MAX = 2**30
"""Of the text of a file. Histories take five times as much memory, and a few compressed megabytes
may hold any amount of text (measured: 6.6 MB took 2.6 GB)."""
_COMPRESSED = b"\x1f\x8b"


@contextmanager
def history_writer(
    path: Path, *, read_at: datetime | None = None
) -> Iterator[Callable[[History], None]]:
    """A function that adds a history to a compressed file, which is there whole or not at all.

    Of files that are there, only one of histories is replaced; else it raises `SettingError`.
    `read_at` is the time of their database when they were read; by default the last time in them.
    """
    header = {"format": FORMAT, "read_at": None if read_at is None else read_at.isoformat()}
    with (
        replaced_file(path, "file of histories", _is_history_file) as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file,
    ):
        file.write(json_line(header))
        yield lambda history: _add(file, history)


def write_histories(
    path: Path, histories: Iterable[History], *, read_at: datetime | None = None
) -> int:
    """Write histories as `history_writer` does; the number of tasks."""
    count = 0
    with history_writer(path, read_at=read_at) as add:
        for history in histories:
            add(history)
            count += 1
    return count


def _add(file: gzip.GzipFile, history: History) -> None:
    file.write(json_line(history_values(history)))


def _is_history_file(head: bytes) -> bool:
    """Whether a file that begins so is a file of histories, of this format or another."""
    if head.startswith(_COMPRESSED):
        try:
            head = zlib.decompressobj(wbits=31).decompress(head, len(head))
        except zlib.error:
            return False
    return b'"contimg histories ' in head


def read_histories_file(path: Path) -> list[History]:
    """The histories in a file, in its order.

    Raises `MissingInputError` if it cannot be opened and `CorruptInputError`, with the number of
    the line, for what `write_histories` does not write.
    """
    return _read(path)[1]


class HistoryFile(Inspection):
    """The histories in a file, as the database would have shown them when they were read.

    Knows no policies of queues. Raises what `read_histories_file` raises.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        read_at, histories = _read(path)
        self._read_at = read_at or max(chain.from_iterable(map(_times, histories)), default=None)
        self._queues: dict[str, dict[UUID, History]] = {}
        for history in histories:
            self._queues.setdefault(history.queue_name, {})[history.task.task_id] = history

    @override
    async def current_time(self) -> datetime:
        return self._read_at or datetime.min.replace(tzinfo=INFINITY.tzinfo)

    @override
    async def schema_version(self) -> str:
        return FORMAT

    @override
    async def list_queues(self) -> list[str]:
        return sorted(self._queues)

    @override
    async def get_queue_policy(self, queue_name: str) -> QueuePolicy | None:
        return None

    @override
    async def queue_created_at(self, queue_name: str) -> datetime | None:
        return None

    @override
    async def queue_stats(self, queue_name: str) -> QueueStats:
        now = await self.current_time()
        histories = self._of_queue(queue_name).values()
        runs = [(history.task, run) for history in histories for run in history.runs]
        due = [
            run.available_at
            for task, run in runs
            if run.state in ("pending", "sleeping")
            and task.state in LIVE_STATES
            and run.available_at <= now
        ]
        return QueueStats(
            queue_name=queue_name,
            tasks_by_state=dict(Counter(history.task.state for history in histories)),
            claimable=len(due),
            oldest_claimable_seconds=(now - min(due)).total_seconds() if due else None,
            expired_leases=sum(
                run.state == "running"
                and run.claim_expires_at is not None
                and run.claim_expires_at <= now
                for _, run in runs
            ),
        )

    @override
    async def list_tasks(
        self,
        queue_name: str,
        *,
        states: Sequence[State] | None = None,
        task_name: str | None = None,
        id_suffix: str | None = None,
        params: Mapping[str, Json] | None = None,
        limit: int = 100,
    ) -> list[Task]:
        tasks = [
            history.task
            for history in self._of_queue(queue_name).values()
            if (states is None or history.task.state in states)
            and task_name in (None, history.task.task_name)
            and str(history.task.task_id).endswith(id_suffix or "")
            and (params is None or contains(history.task.params, params))
        ]
        return sorted(tasks, key=lambda task: task.task_id, reverse=True)[:limit]

    @override
    async def list_runs(
        self,
        queue_name: str,
        *,
        states: Sequence[State] | None = None,
        claimed_by: str | None = None,
        limit: int = 1000,
    ) -> list[Run]:
        runs = [
            run
            for history in self._of_queue(queue_name).values()
            for run in history.runs
            if (states is None or run.state in states) and claimed_by in (None, run.claimed_by)
        ]
        return sorted(runs, key=lambda run: run.run_id)[:limit]

    @override
    async def histories(self, queue_name: str, task_ids: Sequence[UUID]) -> list[History]:
        known = self._of_queue(queue_name)
        return [known[task_id] for task_id in task_ids if task_id in known]

    @override
    async def get_task_result(self, queue_name: str, task_id: UUID) -> TaskResult | None:
        history = self._of_queue(queue_name).get(task_id)
        if history is None:
            return None
        task = history.task
        reasons: dict[UUID | None, Json] = {run.run_id: run.failure_reason for run in history.runs}
        reason = reasons.get(task.last_attempt_run) if task.state == "failed" else None
        result = task.completed_payload if task.state == "completed" else None
        return TaskResult(task.task_id, task.state, result, reason)

    @override
    async def get_task_checkpoint_state(
        self, queue_name: str, task_id: UUID, step_name: str, include_pending: bool = False
    ) -> Checkpoint | None:
        history = self._of_queue(queue_name).get(task_id)
        for saved in () if history is None else history.checkpoints:
            if saved.checkpoint_name == step_name:
                return saved if include_pending or saved.status == "committed" else None
        return None

    @override
    async def get_task_checkpoint_states(
        self, queue_name: str, task_id: UUID, run_id: UUID
    ) -> list[Checkpoint]:
        history = self._of_queue(queue_name).get(task_id)
        runs = () if history is None else history.runs
        attempts: dict[UUID | None, int] = {run.run_id: run.attempt for run in runs}
        if history is None or run_id not in attempts:
            raise BackendError(f"There is no run {run_id} of task {task_id} in {self.path}.")
        return [
            saved
            for saved in history.checkpoints
            if saved.status == "committed"
            and attempts.get(saved.owner_run_id, 0) <= attempts[run_id]
        ]

    def _of_queue(self, queue_name: str) -> dict[UUID, History]:
        known = self._queues.get(queue_name)
        if known is None:
            raise QueueNotFound(f"{self.path} has no task of a queue {queue_name!r}.")
        return known


def _times(history: History) -> Iterator[datetime]:
    """The times at which something happened to a task."""
    for run in history.runs:
        for at in (run.created_at, run.started_at, run.completed_at, run.failed_at):
            if at is not None:
                yield at
    yield history.task.enqueue_at
    yield from (saved.updated_at for saved in history.checkpoints)


def _read(path: Path) -> tuple[datetime | None, list[History]]:
    """When the histories were read, and the histories."""
    number = text_bytes = 0
    histories: list[History] = []
    read_at: datetime | None = None
    try:
        with open_regular(path, FILE_BYTES_MAX) as raw, _decompressed(raw) as file:
            while line := file.readline(_LINE_BYTES_MAX):
                number += 1
                text_bytes += len(line)
                if text_bytes > _TEXT_BYTES_MAX:
                    raise ValueError(f"it holds more than {_TEXT_BYTES_MAX:,} bytes of text")
                value = parse_line(line)
                if number == 1:
                    if value["format"] != FORMAT:
                        raise ValueError(f"its format is {value['format']!r}, not {FORMAT!r}")
                    at = value["read_at"]
                    read_at = None if at is None else parse_time(at)
                else:
                    histories.append(history_of(value))
        if not number:
            raise ValueError("it is empty")
    except (UnsuitableFileError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise _damaged(path, number, error) from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _damaged(path, number, error) from error
    except OSError as error:
        raise MissingInputError(
            f"{path} cannot be read: {error.strerror}.", "Correct its name, or its permissions."
        ) from error
    return read_at, histories


def _damaged(path: Path, number: int, error: Exception) -> CorruptInputError:
    reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
    return CorruptInputError(
        f"{path} is no file of histories: line {number}: {reason[:200]}.",
        "Give a file that contimg archive has written.",
    )


def _decompressed(file: BinaryIO) -> BinaryIO:
    """The same file, or its content if it is compressed."""
    is_compressed = file.read(2) == _COMPRESSED
    file.seek(0)
    return cast(BinaryIO, gzip.GzipFile(fileobj=file, mode="rb")) if is_compressed else file
