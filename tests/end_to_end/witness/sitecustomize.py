"""Read by every Python process of a campaign's site: a stage's process signs in here.

Each process of a stage writes a line into the site's diary and holds the stage's lock until the
kernel takes it away, so that two processes of one stage at one time are seen without fail.
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


def _sign_in(folder: Path, request: Path) -> None:
    # Its log is named after the stage and the attempt.
    stage = Path(json.loads(request.read_bytes())["casa_log"]).name.partition("-")[0]
    lock = (folder / f"{stage}.lock").open("a")
    _HELD.append(lock)
    what = "begin"
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        what = "overlap"
    with (folder / "diary").open("a") as diary:
        diary.write(f"{what} {stage} {os.getpid()} {time.time():.6f}\n")


if "absurd_contimg.execution.stage_process" in sys.orig_argv and "WITNESS_FOLDER" in os.environ:
    _sign_in(Path(os.environ["WITNESS_FOLDER"]), Path(sys.orig_argv[-2]))
