"""Sites for the campaign: one undisturbed run, and copies of it as it stood before each stage.

The undisturbed run is made by workers that are told to stop in each stage: they end the stage,
commit it and hand the run back. At that moment folders and database are copied. A disturbed run
starts from the copy before the stage that its fault is meant for, so that it need not compute
what comes before; only the paths are rewritten.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import psycopg
from psycopg import sql
from real_site import QUEUE, Site, write_toml

from absurd_contimg.backends.postgres import EmbeddedPostgres
from absurd_contimg.backends.postgres.schema import install_schema
from absurd_contimg.config import PathsConfig, PipelineConfig
from absurd_contimg.synthesis import SynthesisConfig, synthesize

STAGES = ("convert", "flag", "calibrate_solve", "calibrate_apply", "image", "validate")
WITNESS = Path(__file__).parent / "witness"


@dataclass(frozen=True)
class Incoming:
    """A folder with sub-band files."""

    output_dir: Path


@dataclass(frozen=True)
class Begun:
    """A stage's process that has signed in."""

    stage: str
    pid: int
    time: float
    overlaps: bool


def read_diary(folder: Path) -> list[Begun]:
    """The stage processes that have signed in, in order of time."""
    path = folder / "diary"
    words = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [Begun(one[1], int(one[2]), float(one[3]), one[0] == "overlap") for one in words]


def witnessed(site: Site, folder: Path, source: Path, **variables: str) -> Site:
    """The site with stage processes that sign in to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = f"{WITNESS}:{source}"
    return replace(site, variables={"WITNESS_FOLDER": str(folder), "PYTHONPATH": path, **variables})


@dataclass
class Prepared:
    """What all runs of a campaign share."""

    root: Path
    source: Path
    """The folder with the package, for the workers' PYTHONPATH."""
    calm: EmbeddedPostgres = field(init=False)
    crashing: EmbeddedPostgres = field(init=False)
    """A server for the runs that crash it; it waits for the disk, so that a crash loses nothing."""
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each stage took when nothing disturbed it."""

    def __post_init__(self) -> None:
        self.calm = EmbeddedPostgres(self.root / "calm", durable=False)
        self.crashing = EmbeddedPostgres(self.root / "crashing", durable=True)
        self.incoming = Incoming(self.root / "incoming")

    @property
    def reference(self) -> Path:
        """The folder of the undisturbed site."""
        return self.root / "site"

    def make(self) -> None:
        """Observe, run undisturbed and copy; an earlier call's work is used again."""
        done = self.root / "prepared.json"
        if not done.exists():
            shutil.rmtree(self.root, ignore_errors=True)
            synthesize(self.incoming.output_dir, SynthesisConfig.tiny(science_groups=0))
            with self.calm:
                self._run_undisturbed()
            shutil.copytree(self.calm.folder / "data", self.crashing.folder / "data")
            done.write_text(json.dumps(self.seconds))
        self.seconds = json.loads(done.read_text())
        self.calm.start()
        self.crashing.start()

    def _run_undisturbed(self) -> None:
        url = self.calm.create_database("reference")
        install_schema(url)
        root = self.reference
        root.mkdir()
        write_toml(root / "contimg.toml", PipelineConfig.tiny(PathsConfig.below(root)))
        site = Site(root, self.incoming, url)
        site.spawn()
        diary = self.root / "witness"
        site = witnessed(site, diary, self.source, ABSURD_WORKER_GRACE="120")
        for stage, following in zip(("catalog_setup", *STAGES), (*STAGES, None), strict=True):
            worker = site.start_worker()
            wait_until(
                lambda stage=stage: any(one.stage == stage for one in read_diary(diary)), 120
            )
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(150) == 0, (root / "worker.log").read_text()
            if following is not None:
                shutil.copytree(root, self.root / "before" / following)
                self.calm.create_database(f"before_{following}", "reference")
        (history,) = site.histories()
        assert history.task.state == "completed", (root / "worker.log").read_text()
        for name, seconds in re.findall(r": (\w+) done in ([\d.]+) s", log_of(root)):
            self.seconds[name] = float(seconds)

    def copy(self, root: Path, before: str, *, crashing: bool = False) -> Site:
        """A site as the undisturbed one stood before a stage; the folder may exist."""
        self.drop(root, crashing=crashing)
        name = database_of(root)
        server = self.crashing if crashing else self.calm
        url = server.create_database(name, f"before_{before}")
        shutil.copytree(self.root / "before" / before, root, dirs_exist_ok=True)
        relocate(root, url, str(self.reference), str(root))
        (root / "worker.log").unlink()
        return Site(root, self.incoming, url)

    def private_input(self, site: Site, folder: Path) -> Site:
        """The site with sub-band files of its own, which may be harmed."""
        shutil.copytree(self.incoming.output_dir, folder)
        relocate(site.root, site.database_url, str(self.incoming.output_dir), str(folder))
        return replace(site, observation=Incoming(folder))

    def drop(self, root: Path, *, crashing: bool) -> None:
        """Remove a run's database."""
        server = self.crashing if crashing else self.calm
        with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
            statement = sql.SQL("drop database if exists {} with (force)")
            connection.execute(statement.format(sql.Identifier(database_of(root))))


def database_of(root: Path) -> str:
    """The name of a run's database, from its folder."""
    return f"run_{hashlib.blake2b(str(root).encode(), digest_size=8).hexdigest()}"


def relocate(root: Path, url: str, old: str, new: str) -> None:
    """Put another folder's name into checkpoints, parameters and registry."""
    with psycopg.connect(url) as connection:
        for table, column in (("c", "state"), ("t", "params")):
            statement = sql.SQL("update absurd.{} set {} = replace({}::text, %s, %s)::jsonb")
            names = map(sql.Identifier, (f"{table}_{QUEUE}", column, column))
            connection.execute(statement.format(*names), (old, new))
    registry = sqlite3.connect(root / "state" / "registry.sqlite3")
    with registry:
        tables = registry.execute("select name from sqlite_master where type = 'table'").fetchall()
        for (table,) in tables:
            for row in registry.execute(f"pragma table_info({table})").fetchall():
                column = f'"{row[1]}"'
                registry.execute(
                    f"update {table} set {column} = replace({column}, ?, ?)"
                    f" where typeof({column}) = 'text'",
                    (old, new),
                )
    registry.close()


def log_of(root: Path) -> str:
    """What a site's workers have logged."""
    path = root / "worker.log"
    return path.read_text(errors="replace") if path.exists() else ""


def wait_until(holds: Callable[[], bool], patience: float) -> None:
    """Wait until something holds, or raise `TimeoutError`."""
    give_up = time.monotonic() + patience
    while not holds():
        if time.monotonic() > give_up:
            raise TimeoutError(f"nothing came in {patience:g} s")
        time.sleep(0.02)


def end(worker: subprocess.Popen[bytes]) -> None:
    """End a worker, stopped or not."""
    if worker.poll() is None:
        worker.send_signal(signal.SIGCONT)
        worker.kill()
    worker.wait()
