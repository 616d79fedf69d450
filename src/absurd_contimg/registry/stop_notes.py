"""Stops that the registry could not hold, as files in the output folder, which all hosts mount.

The first worker that reads one and reaches the registry enters it there and removes the file.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, unquote

from absurd_contimg.products.filesystem import LOCAL
from absurd_contimg.registry.queue_pauses import QueuePause, QueuePauses
from absurd_contimg.regular_files import read_json

STOPS_NAME = ".contimg-stops"
_NO_NOTE = (errno.ENOENT, errno.ENOTDIR)


class StopNotes:
    """The notes in an output folder."""

    def __init__(self, output_dir: Path) -> None:
        self.folder = output_dir / STOPS_NAME

    def add(self, stops: Sequence[QueuePause]) -> None:
        """Let queues be stopped, whatever the registry does; raises `OSError`.

        A queue that is stopped by a note keeps that one.
        """
        self.folder.mkdir(exist_ok=True)
        for stop in stops:
            if self.of_queue(stop.queue) is None:
                LOCAL.write_json(self._path(stop.queue), asdict(stop))
        LOCAL.flush(self.folder)

    def of_queue(self, queue: str) -> QueuePause | None:
        """The stop of a queue, None if there is no note of one. One that is damaged is one."""
        path = self._path(queue)
        try:
            values = read_json(path)
            reason, since, by = (str(values[name]) for name in ("reason", "since", "by"))
            return QueuePause(queue, reason, since, by, ends_running=True)
        except (ValueError, KeyError, TypeError, RecursionError):
            problem = f"what {path} says cannot be read"
        except OSError as error:
            if error.errno in _NO_NOTE:
                return None
            problem = f"{path} cannot be read ({error.strerror})"
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return QueuePause(queue, problem, now, "an operator", True)

    def remove(self, queue: str) -> None:
        """Remove the note of a queue; it may be absent."""
        self._path(queue).unlink(missing_ok=True)

    def enter(self, pauses: QueuePauses, stop: QueuePause) -> None:
        """Enter a stop into the registry and remove its note; raises `AwayError` and `OSError`.

        If the note is gone by the time the registry can be written, the stop has ended meanwhile.
        """
        pauses.enter(stop, lambda: self.of_queue(stop.queue) is not None)
        self.remove(stop.queue)

    def stops(self) -> list[QueuePause]:
        """All that is noted."""
        try:
            names = sorted(path.name for path in self.folder.iterdir())
        except OSError:
            return []
        queues = [unquote(each.removesuffix(".json")) for each in names if each.endswith(".json")]
        return [stop for queue in queues if (stop := self.of_queue(queue)) is not None]

    def _path(self, queue: str) -> Path:
        return self.folder / f"{quote(queue, safe='')}.json"
