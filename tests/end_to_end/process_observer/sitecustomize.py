"""Imported by every Python process of a campaign's site: records the processes of stages.

Each process of a stage writes a line and holds the stage's lock until it ends, so that two
processes of one stage at one time are always detected.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from pathlib import Path

_HELD = []
"""Open files hold their locks until the process ends, however it ends."""


def _record_start(folder: Path, request: Path) -> None:
    # The log is named after the stage and the attempt.
    stage = Path(json.loads(request.read_bytes())["casa_log"]).name.partition("-")[0]
    lock = (folder / f"{stage}.lock").open("a")
    _HELD.append(lock)
    event = "begin"
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        event = "overlap"
    with (folder / "process_starts").open("a") as starts:
        starts.write(f"{event} {stage} {os.getpid()} {time.time():.6f}\n")


def _watch_opened_files(folder: Path, started_as: int) -> None:
    """Record the stage when its process, started or forked by a server, opens its request."""
    is_server = "absurd_contimg.execution.stage_server_process" in sys.orig_argv
    recorded = False

    def on_event(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal recorded
        if recorded or event != "open" or not str(arguments[0]).endswith("/request.json"):
            return
        if not (is_server and os.getpid() == started_as):
            recorded = True  # before the request is opened here
            _record_start(folder, Path(str(arguments[0])))

    sys.addaudithook(on_event)


_MODULES = {
    f"absurd_contimg.execution.{name}" for name in ("stage_process", "stage_server_process")
}
if "OBSERVER_FOLDER" in os.environ and _MODULES.intersection(sys.orig_argv):
    _watch_opened_files(Path(os.environ["OBSERVER_FOLDER"]), os.getpid())
