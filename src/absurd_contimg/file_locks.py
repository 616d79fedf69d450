"""Whether a folder's file system has locks of files, and what to do where its mount has none."""

from __future__ import annotations

import errno
import fcntl
import tempfile
from pathlib import Path

_LOCAL_STATE = "put the state folder on a local disk (--state-dir or PIPELINE_STATE_DIR)"


def has_no_locks(error: BaseException | None) -> bool:
    """Whether a lock was refused because there are none: nobody holds it."""
    numbers = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
    return isinstance(error, OSError) and error.errno in numbers


def missing_locks(folder: Path) -> list[str]:
    """The calls, of ``flock`` and ``fcntl``, that lock no file in a folder; leaves nothing there.

    The first locks for the pipeline and its private Postgres, the second for SQLite.
    A file of its own: closing any other would free SQLite's locks on it. Raises `OSError` where no
    file can be made.
    """
    missing = []
    for name, lock in (("flock", fcntl.flock), ("fcntl", fcntl.lockf)):
        with tempfile.TemporaryFile(dir=folder) as file:
            try:
                lock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                missing.append(name)
    return missing


def advice_without_locks(folder: Path, other: str = _LOCAL_STATE) -> str:
    """Sentences for a folder whose mount has no locks; `other` is the way without them."""
    return (
        f"The mount of {folder} has no file locks. Mount it with them (NFS: lockd and rpc.statd "
        "run, or, where one host alone uses it, the option nolock or local_lock=all; Lustre: "
        f"flock), or {other}."
    )
