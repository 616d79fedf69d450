"""The log of what a stage's processes print: bounded, however much and however fast they print."""

from __future__ import annotations

import os
import select
import threading
import time
from contextlib import suppress
from pathlib import Path

_CHUNK_BYTES = 1 << 16
_POLL_SECONDS = 0.2
_DRAIN_SECONDS = 2.0


class OutputLog:
    """A pipe whose content a thread copies into a file.

    The first quarter of `bytes_max` is written as it comes. Of the rest as much is kept of the end,
    and written with the number of bytes in between when the processes have ended.
    """

    def __init__(self, path: Path, bytes_max: int) -> None:
        self._path, self._part_bytes = path, bytes_max // 4
        self._read_end, self.write_end = os.pipe()
        self._poller = select.poll()
        self._poller.register(self._read_end, select.POLLIN)
        self._ended, self._give_up = threading.Event(), 0.0
        self._thread = threading.Thread(target=self._copy, daemon=True)
        path.touch()
        self._thread.start()

    def close(self) -> None:
        """Write what is left in the pipe; does not wait for processes that still hold it."""
        os.close(self.write_end)
        self._give_up = time.monotonic() + _DRAIN_SECONDS
        self._ended.set()
        self._thread.join()
        os.close(self._read_end)

    def _copy(self) -> None:
        tail, dropped = bytearray(), 0
        # Unbuffered: a worker that is killed has written all but the tail.
        with self._path.open("ab", buffering=0) as file:
            room = max(0, self._part_bytes - file.tell())
            for chunk in iter(self._read, b""):
                head, rest = chunk[:room], chunk[room:]
                room -= len(head)
                with suppress(OSError):  # a full disk: the stage must not wait for its log
                    file.write(head)
                tail += rest
                if len(tail) > 2 * self._part_bytes:
                    dropped += len(tail) - self._part_bytes
                    del tail[: -self._part_bytes]
            if len(tail) > self._part_bytes:
                dropped += len(tail) - self._part_bytes
                del tail[: -self._part_bytes]
            note = f"\n[... {dropped} bytes cut out ...]\n".encode() if dropped else b""
            with suppress(OSError):
                file.write(note + tail)

    def _read(self) -> bytes:
        """The next bytes; none when no process holds the pipe, or all have ended and it is empty.

        One that was not found and still prints is not listened to for long.
        """
        while not self._poller.poll(_POLL_SECONDS * 1000):
            if self._ended.is_set():
                return b""
        if self._ended.is_set() and time.monotonic() > self._give_up:
            return b""
        return os.read(self._read_end, _CHUNK_BYTES)
