"""A site in real Postgres with tasks, a batch, publications, a pause and a quarantined group.

Its role is no superuser and has a password; database and folders are set back between outages.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

import h5py
import psycopg
from forked_programs import Ended, run_program
from psycopg import sql
from toy_products import toy_product

from absurd_contimg.backends.postgres import EmbeddedPostgres, PostgresBackend
from absurd_contimg.core.records import Json
from absurd_contimg.products.store import load_committed
from absurd_contimg.registry import GroupStatus, Registry
from absurd_contimg.registry.publications import Publications
from absurd_contimg.registry.windows import Window, WindowMember, WindowState, store_windows

QUEUE = "dsa110-pipeline"
PASSWORD = "k9-secret-of-the-role"
COMPLETED, FAILED, PENDING, BAD = (f"2025-01-15T10:{minute:02d}:00" for minute in (0, 5, 10, 15))
WINDOW = "w1"
DATABASE, TEMPLATE, ROLE = "troubled", "troubled_template", "site_role"
_FOLDERS = ("input", "output", "scratch", "state", "published")


class TroubledSite:
    """What the commands of the tests act on."""

    def __init__(self, root: Path, server: EmbeddedPostgres, *, shares_registry: bool) -> None:
        self.root, self.server = root / "site", server
        self.snapshot, self.registry_in_postgres = root / "snapshot", shares_registry
        host = quote(str(server.folder / "socket"), safe="")
        self.url = f"postgresql://{ROLE}:{PASSWORD}@/{DATABASE}?host={host}&port=5432"
        for name in _FOLDERS:
            (self.root / name).mkdir(parents=True)
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("ABSURD", "PIPEL", "PG"))},
            **{f"PIPELINE_{n.upper()}_DIR": str(self.root / n) for n in _FOLDERS[:4]},
            "PIPELINE_PUBLISH_DIR": str(self.root / "published"),
            "ABSURD_DATABASE_URL": self.url,
            "COLUMNS": "400",
        }
        if shares_registry:
            self.environment["PIPELINE_PRODUCTS_DB"] = self.url
        self.registry_url = (
            self.url if shares_registry else f"sqlite:///{self.root}/state/registry.sqlite3"
        )
        self._make()

    def admin(self, database: str = "postgres") -> psycopg.Connection[tuple[object, ...]]:
        """A session of the superuser."""
        return psycopg.connect(self.server.url(database), autocommit=True)

    def contimg(self, *arguments: str) -> Ended:
        """The outcome of a command."""
        return run_program(arguments, self.environment, self.root)

    def require(self, *arguments: str) -> str:
        """What a command prints that has to succeed."""
        ended = self.contimg(*arguments)
        assert ended.returncode == 0, (arguments, ended.stdout, ended.stderr)
        return ended.stdout

    def set_back(self) -> None:
        """Database and folders as they were made."""
        self._copy_database(TEMPLATE, DATABASE)
        shutil.rmtree(self.root)
        shutil.copytree(self.snapshot, self.root, symlinks=True)

    def _copy_database(self, source: str, name: str) -> None:
        with self.admin() as session:
            session.execute(f"drop database if exists {name} with (force)".encode())
            session.execute(f"create database {name} template {source} owner {ROLE}".encode())

    def _make(self) -> None:
        with self.admin() as session:
            session.execute(f"drop database if exists {DATABASE} with (force)".encode())
            session.execute(f"drop database if exists {TEMPLATE} with (force)".encode())
            session.execute(f"drop role if exists {ROLE}".encode())
            session.execute(
                sql.SQL("create role {} login password {}").format(
                    sql.Identifier(ROLE), sql.Literal(PASSWORD)
                )
            )
            session.execute(f"create database {DATABASE} owner {ROLE}".encode())
        for number in range(4):
            for band in range(16):
                name = f"2025-01-15T10:{5 * number:02d}:00_sb{band:02d}.hdf5"
                with h5py.File(self.root / "input" / name, "w"):
                    pass
        (self.root / "input" / "catalog.csv").write_text(
            "name,ra_deg,dec_deg,flux_jy,spectral_index,calibrator\n3C286,202.7845,30.5092,15,0,1\n"
        )
        self.require("db", "init")
        self.require("spawn", "--calibrator", "3C286")
        asyncio.run(self._end_tasks())
        self._fill_registry()
        created = json.loads(self.require("batch", "create", "pipeline", COMPLETED, "--json"))
        self.batch = str((created.get("batch") or created)["batch_id"])
        self.require("batch", "pause", self.batch, "--reason", "a test")
        self.require("queue", "pause", f"{QUEUE}-io", "--reason", "a test")
        self.require("alerts", "run", "--once")
        self.require("schedule", "add", "weekly", "reprocess", "--at", "12:00")
        self.require("backup", str(self.root / "backup"))
        self._copy_database(DATABASE, TEMPLATE)
        shutil.copytree(self.root, self.snapshot, symlinks=True)

    async def _end_tasks(self) -> None:
        """Of the four spawned tasks two fail, one is completed and one waits."""
        async with PostgresBackend(self.url) as backend:
            for _ in range(4):
                (claim,) = await backend.claim_task(QUEUE, "worker-1", 60)
                group = claim.params["group_id"] if isinstance(claim.params, dict) else ""
                if group == COMPLETED:
                    await backend.complete_run(QUEUE, claim.run_id, {"verdict": "clean"})
                elif group == PENDING:
                    due = await backend.current_time()
                    await backend.schedule_run(QUEUE, claim.run_id, due)
                else:
                    reason: Json = {"name": "OSError", "message": "No space left on device"}
                    await backend.fail_run_permanently(QUEUE, claim.run_id, reason)

    def _fill_registry(self) -> None:
        output = self.root / "output"
        with closing(Registry(self.registry_url, output_dir=output)) as registry:
            registry.register_files(sorted((self.root / "input").glob("*.hdf5")))
            registry.set_group_status(BAD, GroupStatus.QUARANTINED, "a test")
            publications = Publications(registry.database)
            for number in (1, 2):
                folder = toy_product(output, number=number)
                manifest = load_committed(folder)
                registry.register(folder, manifest)
                target = self.root / "published" / folder.name
                publications.begin(manifest.key, "mosaic", folder, target)
                if number == 2:
                    publications.fail(manifest.key, "its checks found it degraded")
            members = (WindowMember(COMPLETED, 60690.4),)
            store_windows(
                registry.database,
                [
                    Window(
                        WINDOW,
                        WindowState.CLOSED,
                        60690.0,
                        60691.0,
                        16.0,
                        members,
                        {"members_min": 3},
                    )
                ],
            )


@contextmanager
def site_on_server(folder: Path, *, shares_registry: bool) -> Iterator[TroubledSite]:
    """A site on a server of its own, which allows prepared transactions."""
    server = EmbeddedPostgres(folder / "pg", durable=False)
    with server:
        with psycopg.connect(server.url("postgres"), autocommit=True) as session:
            session.execute("alter system set max_prepared_transactions = 2")
        server.stop()
        server.start()
        yield TroubledSite(folder, server, shares_registry=shares_registry)
