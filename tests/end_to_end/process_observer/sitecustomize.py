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


if "absurd_contimg.execution.stage_process" in sys.orig_argv and "OBSERVER_FOLDER" in os.environ:
    _record_start(Path(os.environ["OBSERVER_FOLDER"]), Path(sys.orig_argv[-2]))
