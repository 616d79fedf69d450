"""Sites for the campaign: a baseline run, and copies of its site before each stage.

Each worker of the baseline run gets SIGTERM in a stage: it finishes the stage, commits it and
releases the run. Then folders and database are copied. A run with a fault starts from the copy
before its stage, so that earlier stages are not computed again; only the paths are rewritten.
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
PROCESS_OBSERVER = Path(__file__).parent / "process_observer"


@dataclass(frozen=True)
class Incoming:
    """A folder with sub-band files."""

    output_dir: Path


@dataclass(frozen=True)
class ProcessStart:
    """A process of a stage, as the observer recorded it."""

    stage: str
    pid: int
    time: float
    overlaps: bool


def read_process_starts(folder: Path) -> list[ProcessStart]:
    """The processes of stages, in order of time."""
    path = folder / "process_starts"
    words = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [ProcessStart(w[1], int(w[2]), float(w[3]), w[0] == "overlap") for w in words]


def observe_processes(site: Site, folder: Path, source: Path, **variables: str) -> Site:
    """The site with an observer that records stage processes in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = f"{PROCESS_OBSERVER}:{source}"
    return replace(
        site, variables={"OBSERVER_FOLDER": str(folder), "PYTHONPATH": path, **variables}
    )


@dataclass
class Prepared:
    """The baseline, its copies and two servers, shared by all runs of a campaign."""

    root: Path
    source: Path
    """The folder with the package, for the workers' PYTHONPATH."""
    fast_server: EmbeddedPostgres = field(init=False)
    durable_server: EmbeddedPostgres = field(init=False)
    """For runs that crash the server: it flushes to disk, so that a crash loses nothing."""
    seconds: dict[str, float] = field(default_factory=dict)
    """The duration of each stage in the baseline."""

    def __post_init__(self) -> None:
        self.fast_server = EmbeddedPostgres(self.root / "fast_server", durable=False)
        self.durable_server = EmbeddedPostgres(self.root / "durable_server", durable=True)
        self.incoming = Incoming(self.root / "incoming")

    @property
    def reference(self) -> Path:
        """The folder of the baseline site."""
        return self.root / "site"

    def make(self) -> None:
        """Synthesize, run the baseline and copy it; reuse the work of an earlier call."""
        done = self.root / "prepared.json"
        if not done.exists():
            shutil.rmtree(self.root, ignore_errors=True)
            synthesize(self.incoming.output_dir, SynthesisConfig.tiny(science_groups=0))
            with self.fast_server:
                self._run_baseline()
            shutil.copytree(self.fast_server.folder / "data", self.durable_server.folder / "data")
            done.write_text(json.dumps(self.seconds))
        self.seconds = json.loads(done.read_text())
        self.fast_server.start()
        self.durable_server.start()

    def _run_baseline(self) -> None:
        url = self.fast_server.create_database("reference")
        install_schema(url)
        root = self.reference
        root.mkdir()
        write_toml(root / "contimg.toml", PipelineConfig.tiny(PathsConfig.below(root)))
        site = Site(root, self.incoming, url)
        site.spawn()
        observed = self.root / "observed"
        site = observe_processes(site, observed, self.source, ABSURD_WORKER_GRACE="120")
        for stage, following in zip(("catalog_setup", *STAGES), (*STAGES, None), strict=True):
            worker = site.start_worker()

            def is_running(stage: str = stage) -> bool:
                return any(start.stage == stage for start in read_process_starts(observed))

            wait_until(is_running, 120)
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(150) == 0, (root / "worker.log").read_text()
            if following is not None:
                shutil.copytree(root, self.root / "before" / following)
                self.fast_server.create_database(f"before_{following}", "reference")
        (history,) = site.histories()
        assert history.task.state == "completed", (root / "worker.log").read_text()
        for name, seconds in re.findall(r": (\w+) done in ([\d.]+) s", log_of(root)):
            self.seconds[name] = float(seconds)

    def copy(self, root: Path, before: str, *, durable: bool = False) -> Site:
        """A copy of the baseline site before a stage; the folder may exist."""
        self.drop(root, durable=durable)
        name = database_of(root)
        server = self.durable_server if durable else self.fast_server
        url = server.create_database(name, f"before_{before}")
        shutil.copytree(self.root / "before" / before, root, dirs_exist_ok=True)
        relocate(root, url, str(self.reference), str(root))
        (root / "worker.log").unlink()
        return Site(root, self.incoming, url)

    def private_input(self, site: Site, folder: Path) -> Site:
        """The site with sub-band files of its own, which may be damaged."""
        shutil.copytree(self.incoming.output_dir, folder)
        relocate(site.root, site.database_url, str(self.incoming.output_dir), str(folder))
        return replace(site, observation=Incoming(folder))

    def drop(self, root: Path, *, durable: bool) -> None:
        """Remove a run's database."""
        server = self.durable_server if durable else self.fast_server
        with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
            statement = sql.SQL("drop database if exists {} with (force)")
            connection.execute(statement.format(sql.Identifier(database_of(root))))


def database_of(root: Path) -> str:
    """The name of a run's database, from its folder."""
    return f"run_{hashlib.blake2b(str(root).encode(), digest_size=8).hexdigest()}"


def relocate(root: Path, url: str, old: str, new: str) -> None:
    """Replace a folder's name in checkpoints, parameters and registry."""
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
    """The log of a site's workers."""
    path = root / "worker.log"
    return path.read_text(errors="replace") if path.exists() else ""


def wait_until(holds: Callable[[], bool], patience: float) -> None:
    """Wait until a condition holds, or raise `TimeoutError`."""
    give_up = time.monotonic() + patience
    while not holds():
        if time.monotonic() > give_up:
            raise TimeoutError(f"timed out after {patience:g} s")
        time.sleep(0.02)


def end(worker: subprocess.Popen[bytes]) -> None:
    """End a worker, stopped or not."""
    if worker.poll() is None:
        worker.send_signal(signal.SIGCONT)
        worker.kill()
    worker.wait()
