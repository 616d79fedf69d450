"""SIGKILL before any effect of code that runs in a fork of the test's process.

The effects (files opened for writing, folders made, renames, removals, connections to SQLite) are
counted by Python's audit hook; at the chosen one the fork sends itself a real SIGKILL.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "sqlite3.connect")


def fork(root: Path, act: Callable[[], None], kill_at: int | None = None) -> tuple[int, list[str]]:
    """Run in a fork, kill it before its n-th effect; the wait status and the effects seen."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        count = 0

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal count
            writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_CREAT
            if event not in _CHANGES and not writes:
                return
            if not str(arguments[0]).startswith(str(root)):
                return
            if event == "os.mkdir" and os.path.isdir(arguments[0]):  # no effect
                return
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            os.write(write_end, f"{event} {arguments[0]}\n".encode())

        code = 1
        try:
            sys.addaudithook(hook)
            act()
            code = 0
        finally:
            os._exit(code)
    os.close(write_end)
    with os.fdopen(read_end) as effects:
        seen = effects.read().splitlines()
    return os.waitpid(pid, 0)[1], seen
