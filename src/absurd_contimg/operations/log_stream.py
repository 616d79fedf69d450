"""A stream for log messages that never waits for the reader of standard error.

A terminal that is paused or a log collector that stopped would otherwise stop a worker in the
middle of a write, together with its event loop.
"""

from __future__ import annotations

import io
import logging
import os
import queue
import threading
import time

from typing_extensions import override

from absurd_contimg.secrets import mask

_MESSAGES_MAX = 1000
_END_SECONDS = 1.0
"""So long the process waits at its end for messages to be read."""


class QueuedStream(io.TextIOBase):
    """Text goes through a bounded queue to a thread, which writes it to a descriptor.

    What finds the queue full is dropped, and counted in a line of its own later. What is left is
    written when logging ends, as far as somebody reads it.
    """

    def __init__(self, descriptor: int) -> None:
        # Not through sys.stderr: its lock would be held at the end of the process.
        self._descriptor = descriptor
        self._texts: queue.Queue[str] = queue.Queue(_MESSAGES_MAX)
        self._dropped = 0
        self._counting = threading.Lock()
        self._at_end = _AtEnd(self)
        threading.Thread(target=self._write_all, name="log", daemon=True).start()

    @override
    def write(self, text: str) -> int:
        try:
            self._texts.put_nowait(mask(text))
        except queue.Full:
            with self._counting:
                self._dropped += 1
        return len(text)

    @override
    def fileno(self) -> int:
        return self._descriptor

    @override
    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def drain(self) -> None:
        """Wait for a moment until all is written."""
        give_up = time.monotonic() + _END_SECONDS
        while self._texts.unfinished_tasks and time.monotonic() < give_up:
            time.sleep(0.005)

    def _write_all(self) -> None:
        while True:
            text = self._texts.get()
            with self._counting:
                dropped, self._dropped = self._dropped, 0
            if dropped:
                text += f"{dropped} messages were dropped: nobody read the standard error.\n"
            try:
                self._write(text.encode(errors="backslashreplace"))
            except OSError:  # closed at the other end: there is nobody left to tell
                with self._counting:
                    self._dropped += 1
            self._texts.task_done()

    def _write(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # a descriptor that is set not to wait
                time.sleep(0.05)


class _AtEnd(logging.NullHandler):
    """`logging.shutdown` closes every handler."""

    def __init__(self, stream: QueuedStream) -> None:
        super().__init__()
        self._stream = stream

    @override
    def close(self) -> None:
        self._stream.drain()
        super().close()
