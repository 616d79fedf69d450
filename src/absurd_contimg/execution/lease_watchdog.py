"""The lease watchdog: a small process that ends stages whose worker no longer holds its lease.

A worker that is stopped (SIGSTOP, a paused machine) cannot stop its stages, which another worker
starts again. It sends its watchdog the time until which each process group may live
(CLOCK_MONOTONIC); after it the watchdog kills the group. The watchdog ends with its input. This
file runs as a plain script, and imports nothing large.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress

_POLL_SECONDS = 0.5


class LeaseWatchdog:
    """The worker's side: starts the process at the first use, and again if it has died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def watch(self, group: int, until: float) -> None:
        """Let the process group live until this time of `time.monotonic`; repeat to extend."""
        self._send(f"{group} {until:.6f}\n")

    def forget(self, group: int) -> None:
        """Watch the process group no more: it has ended."""
        if self._process is not None:
            self._send(f"{group} -\n")

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            assert self._process.stdin is not None
            with suppress(BrokenPipeError):
                self._process.stdin.close()
            self._process.wait()
            self._process = None

    def _send(self, line: str) -> None:
        try:
            self._write(line)
        except BrokenPipeError:  # it was killed; the executor soon repeats every group
            self.close()
            self._write(line)

    def _write(self, line: str) -> None:
        if self._process is None:
            # The script itself imports nothing of this package.
            from absurd_contimg.core.secrets import without_secrets  # noqa: PLC0415

            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__],
                stdin=subprocess.PIPE,
                bufsize=0,
                cwd="/",
                env=without_secrets(os.environ),
                start_new_session=True,
            )
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode())


def main() -> None:
    """Read lines ``group until`` (``-``: forget it) to their end; kill the groups that are due."""
    deadlines: dict[int, float] = {}
    rest = b""
    while True:
        next_poll = time.monotonic() + _POLL_SECONDS
        wait = max(min([next_poll, *deadlines.values()]) - time.monotonic(), 0.0)
        if select.select([0], [], [], wait)[0]:
            data = os.read(0, 1 << 16)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                group, until = line.split()
                if until == b"-":
                    deadlines.pop(int(group), None)
                else:
                    deadlines[int(group)] = float(until)
        now = time.monotonic()
        for due in [group for group, until in deadlines.items() if until <= now]:
            del deadlines[due]
            with suppress(ProcessLookupError):
                os.killpg(due, signal.SIGKILL)


if __name__ == "__main__":
    main()
