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
_KILL_SECONDS = 1.0
MARK = "STAGE_SCRATCH_OF_CONTIMG"
"""The variable of a stage's environment that names its scratch: all that it starts inherits it."""


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
            try:
                self._process.wait(_POLL_SECONDS)
            except subprocess.TimeoutExpired:  # it is stopped
                self._process.kill()
                self._process.wait()
            self._process = None

    def _send(self, line: str) -> None:
        try:
            self._write(line)
        except (BrokenPipeError, BlockingIOError):
            # It was killed, or is stopped and reads nothing; the executor soon repeats every group.
            if self._process is not None:
                self._process.kill()
            self.close()
            self._write(line)

    def _write(self, line: str) -> None:
        if self._process is None:
            # The script itself imports nothing of this package.
            from absurd_contimg.secrets import without_secrets  # noqa: PLC0415

            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__],
                stdin=subprocess.PIPE,
                bufsize=0,
                cwd="/",
                env=without_secrets(os.environ),
                start_new_session=True,
            )
            assert self._process.stdin is not None
            os.set_blocking(self._process.stdin.fileno(), False)
        assert self._process.stdin is not None
        os.write(self._process.stdin.fileno(), line.encode())  # a line is written whole, or not


def mark_of(process: int) -> bytes:
    """The mark in a process's environment; empty if it has none."""
    try:
        with open(f"/proc/{process}/environ", "rb") as file:
            variables = file.read().split(b"\0")
    except OSError:
        return b""
    return next((each for each in variables if each.startswith(MARK.encode() + b"=")), b"")


def living_members(group: int, mark: bytes = b"") -> list[int]:
    """What belongs to the stage whose process leads a group, without zombies.

    Its group and session, all that descends from it (it adopts orphans as long as it lives), and
    what has the mark in its environment.
    """
    parents: dict[int, int] = {}
    members = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                state, parent, *groups = file.read().rpartition(b")")[2].split()[:4]
        except OSError:
            continue  # it has ended since it was listed
        if state in b"ZX" or int(name) == os.getpid():
            continue
        parents[int(name)] = int(parent)
        if group in map(int, groups) or int(name) == group or (mark and mark_of(int(name)) == mark):
            members.add(int(name))
    children = members | {group}
    while children:
        children = {pid for pid, parent in parents.items() if parent in children} - members
        members |= children
    return sorted(members)


def kill_members(group: int, mark: bytes = b"") -> list[int]:
    """Kill them, the leader last: until then its orphans stay known. Returns who was alive."""
    living = living_members(group, mark)
    for process in [pid for pid in living if pid != group] or living:
        with suppress(ProcessLookupError, PermissionError):
            # A stopped leader starts nothing more.
            if group in living and process != group:
                os.kill(group, signal.SIGSTOP)
            os.kill(process, signal.SIGKILL)
    return living


def _kill_stage(group: int, mark: bytes) -> None:
    give_up = time.monotonic() + _KILL_SECONDS
    while kill_members(group, mark) and time.monotonic() < give_up:
        time.sleep(0.01)


def main() -> None:
    """Read lines ``group until`` (``-``: forget it) to their end; kill the groups that are due."""
    deadlines: dict[int, float] = {}
    marks: dict[int, bytes] = {}
    rest = b""
    while True:
        next_poll = time.monotonic() + _POLL_SECONDS
        wait = max(min([next_poll, *deadlines.values()]) - time.monotonic(), 0.0)
        if select.select([0], [], [], wait)[0]:
            data = os.read(0, 1 << 16)
            if not data:
                for leader in deadlines:
                    _kill_stage(leader, marks[leader])
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                group, until = line.split()
                if until == b"-":
                    deadlines.pop(int(group), None)
                    marks.pop(int(group), None)
                else:
                    marks[int(group)] = marks.get(int(group)) or mark_of(int(group))
                    deadlines[int(group)] = float(until)
        now = time.monotonic()
        for due in [group for group, until in deadlines.items() if until <= now]:
            del deadlines[due]
            _kill_stage(due, marks.pop(due))


if __name__ == "__main__":
    main()
