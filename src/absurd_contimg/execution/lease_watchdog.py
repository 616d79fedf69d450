"""The watchdog: a small process that ends stages whose worker no longer holds its lease.

A worker that is stopped (SIGSTOP, a paused machine, a debugger) cannot stop its stages, and the
stages would go on while another worker, after the lease has run out, starts them again. So each
worker process has a watchdog beside it. It is told, again and again, until when each process
group may live, and kills those whose time is over. It knows nothing of databases: the times come
from the lease keeper, on the clock that all processes of a machine share (CLOCK_MONOTONIC).

When the worker ends, the watchdog's input ends, and so does the watchdog; the stages are then
ended by their own lifeline (``child.py``). It is run as a plain script, and imports nothing big.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress

_LOOK_SECONDS = 0.5


class LeaseWatchdog:
    """The worker's side: starts the process when it is first needed, and anew if it died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def watch(self, group: int, until: float) -> None:
        """Let the process group live until this time of `time.monotonic`; repeat to extend."""
        self._tell(f"{group} {until:.6f}\n")

    def forget(self, group: int) -> None:
        """The process group has ended."""
        if self._process is not None:
            self._tell(f"{group} -\n")

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            assert self._process.stdin is not None
            with suppress(BrokenPipeError):
                self._process.stdin.close()
            self._process.wait()
            self._process = None

    def _tell(self, line: str) -> None:
        try:
            self._write(line)
        except BrokenPipeError:  # somebody killed it: what it watched is told again soon
            self.close()
            self._write(line)

    def _write(self, line: str) -> None:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__],
                stdin=subprocess.PIPE,
                bufsize=0,
                cwd="/",
                start_new_session=True,
            )
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode())


def main() -> None:
    """Read lines of ``group until`` (``-`` to forget it) until they end; kill what is due."""
    watched: dict[int, float] = {}
    rest = b""
    while True:
        soonest = min(watched.values(), default=time.monotonic() + _LOOK_SECONDS)
        wait = min(max(soonest - time.monotonic(), 0.0), _LOOK_SECONDS)
        if select.select([0], [], [], wait)[0]:
            data = os.read(0, 1 << 16)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                group, until = line.split()
                if until == b"-":
                    watched.pop(int(group), None)
                else:
                    watched[int(group)] = float(until)
        now = time.monotonic()
        for number in [one for one, until in watched.items() if until <= now]:
            del watched[number]
            with suppress(ProcessLookupError):
                os.killpg(number, signal.SIGKILL)


if __name__ == "__main__":
    main()
