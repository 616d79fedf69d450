"""Which process the private server is, and the lock that all its processes hold.

The file with the number of the process may outlive it and then name a stranger. So the process
itself is looked at; and because another host, or a container, does not see it, the processes of a
server hold one lock.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from absurd_contimg.backends.postgres.server_programs import EmbeddedPostgresError
from absurd_contimg.file_locks import advice_without_locks, has_no_locks
from absurd_contimg.file_owners import explain_refusal

CHANGE_SECONDS = 60.0
"""How long a server may take to start or stop."""
_LAST_PROCESS_SECONDS = 15.0
"""How long the processes of a killed server may take to end."""
_POLL_SECONDS = 0.05
_WANTED = "started"
"""There from the start of the server until somebody stops it, also while it does not run."""
_MOUNT = (
    "Mount its file system for writing; one with errors is made read-only by the kernel (dmesg)."
)
_NOBODY = "0"
"""The number of no process."""


class ServerProcess:
    """The postmaster of the cluster in `data`, whose processes hold the lock on a file."""

    def __init__(self, data: Path, lock: Path) -> None:
        self._data = data
        self._file = data / "postmaster.pid"
        self._lock = lock
        self._wanted = lock.with_name(_WANTED)

    def lives(self) -> bool:
        """Whether this machine runs the server, be it starting or stopping."""
        try:
            process = Path("/proc") / self._lines()[0]
            program = os.readlink(process / "exe").removesuffix(" (deleted)")
            is_ours = os.path.samefile(process / "cwd", self._data)
        except OSError:  # it is not there, or belongs to somebody else
            return False
        return is_ours and Path(program).name == "postgres"

    def note_start(self) -> None:
        """From now on the server is to run, until `note_stop`."""
        if not self._wanted.exists():
            self._wanted.touch(mode=0o600)

    def note_stop(self) -> None:
        """From now on nobody is to start the server again without being asked."""
        self._wanted.unlink(missing_ok=True)

    def has_ended(self) -> bool:
        """Whether the server does not run although nobody has stopped it.

        The file with its number does not tell that: a server that ends by itself, for its disk is
        full, removes it, and so does one that cannot start.
        """
        return not self.lives() and self.is_wanted()

    def is_wanted(self) -> bool:
        """Whether the server is to run: nobody has stopped it since its start."""
        return self._wanted.exists()

    def is_ready(self) -> bool:
        """Whether the server runs, after it has started or stopped if it is about to."""
        give_up = time.monotonic() + CHANGE_SECONDS
        while self.lives():
            if "ready" in self._lines()[1:]:
                return True
            if time.monotonic() > give_up:
                raise EmbeddedPostgresError(
                    f"The server in {self._data} neither starts nor stops. See its server.log."
                )
            time.sleep(_POLL_SECONDS)
        return False

    @contextmanager
    def locked(self) -> Iterator[int]:
        """The descriptor of the lock that a new server is to hold; no other server runs then."""
        lock = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            self._wait_for(lock, fcntl.LOCK_EX)
            yield lock
        finally:
            os.close(lock)

    def require_not_elsewhere(self) -> None:
        """Raise `EmbeddedPostgresError` if a server runs that this machine does not see.

        Makes and starts nothing. One that is about to start here may take its time.
        """
        try:
            lock = os.open(self._lock, os.O_RDONLY)
        except FileNotFoundError:
            return
        try:
            self._wait_for(lock, fcntl.LOCK_SH)
        finally:
            os.close(lock)

    def _wait_for(self, lock: int, kind: int) -> None:
        """Wait for the lock of the server; a shared one not while a server of ours lives."""
        give_up = time.monotonic() + _LAST_PROCESS_SECONDS
        while not try_lock(lock, kind, self._lock):
            if kind == fcntl.LOCK_SH and self.lives():
                return
            self._require_readable()
            if time.monotonic() > give_up:
                raise EmbeddedPostgresError(
                    f"The server of {self._data} runs on another host or in another "
                    "container, or processes of a killed one go on. Use it there, or end "
                    f"them (fuser {self._lock}), or set ABSURD_DATABASE_URL to a server that "
                    "all hosts reach."
                )
            time.sleep(_POLL_SECONDS)

    def _require_readable(self) -> None:
        """Raise `EmbeddedPostgresError` where our process cannot be seen for lack of a right."""
        try:
            self._file.read_bytes()
        except PermissionError as error:
            raise EmbeddedPostgresError(
                f"A server of {self._data} runs, and its {self._file.name} cannot be read. "
                f"{explain_refusal(self._file)}"
            ) from error
        except OSError:
            return  # there is none, or its disk is away

    def forget_stranger(self) -> None:
        """Remove the file of a killed server if it names another process, or is unreadable.

        Postgres would refuse to start. Any other it compares with processes and memory itself.
        """
        number = self._lines()[0]
        if number == _NOBODY or Path("/proc", number).exists():
            self._file.unlink(missing_ok=True)

    def _lines(self) -> list[str]:
        """What the postmaster wrote: its number, ..., its state."""
        try:
            text = self._file.read_text(errors="replace")
        except FileNotFoundError:
            text = ""
        lines = [line.strip() for line in text.splitlines()]
        return lines if lines and lines[0].isdecimal() else [_NOBODY]


def try_lock(descriptor: int, kind: int, path: Path) -> bool:
    """Whether the lock of an open file could be had at once.

    Raises `EmbeddedPostgresError` where its mount has no locks.
    """
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise unusable(path, error) from error
    return True


def unusable(path: Path, error: OSError) -> EmbeddedPostgresError:
    """The error of a server that cannot use one of its files."""
    text = f"The embedded server cannot use {path}: {error.strerror}."
    if error.errno == errno.EROFS:
        text = f"{text} {_MOUNT}"
    if has_no_locks(error):
        text = f"{text} {advice_without_locks(path.parent)}"
    return EmbeddedPostgresError(text)
