"""The lock of a process that starts or stops the private server."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path
from typing import TextIO

from absurd_contimg.backends.postgres.server_programs import EmbeddedPostgresError

LOCK_SECONDS = 180.0
"""As long as one that recovers a large cluster may take to start it."""


def open_for_lock(path: Path) -> int:
    """A descriptor of a file that its owner alone may lock; it is made, if its disk allows that."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        return os.open(path, os.O_RDONLY)  # a server that runs there can be used
    os.fchmod(descriptor, 0o600)  # who may read it may lock it
    return descriptor


def take_lock(file: TextIO, path: Path) -> None:
    """Lock a file; `EmbeddedPostgresError` while another process has it for `LOCK_SECONDS`."""
    give_up = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up:
                raise EmbeddedPostgresError(
                    f"Another process has held {path} for {LOCK_SECONDS:g} s, as one does "
                    f"that starts or stops the server. Name it: fuser -v {path}"
                ) from None
        time.sleep(0.05)
