"""A site of two hosts: one database, a registry in it, a shared folder, workers of one id."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from committed_products import committed_products
from network import Host, Network, wait_until

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.core.records import History
from absurd_contimg.history.invariants.check import audit
from absurd_contimg.history.timeline import step_starts
from absurd_contimg.operations.overview import ServiceOverview, SiteOverview, open_site, read_site
from absurd_contimg.products.store import verify
from absurd_contimg.settings import load_settings
from absurd_contimg.workflows.group import TASK_NAME, spawn_options

QUEUE = "dsa110-pipeline"
LEASE_SECONDS = 3
PATIENCE_SECONDS = 200.0
DISK_MARKS = {"CONTIMG_DISK_CRITICAL_GB": "0.004", "CONTIMG_DISK_WARN_GB": "0.005"}


class Site:
    """Starts and ends the workers of a site, and checks what they have done."""

    def __init__(
        self, root: Path, network: Network, urls: tuple[str, str], others: tuple[str, str]
    ) -> None:
        """The URLs of the database and of a second one: for this process, and for the hosts."""
        self.root, self.network = root, network
        self.here, self.there = urls
        self.here_locked, self.there_locked = others
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self.incoming = root / "incoming"
        self.incoming.mkdir(parents=True)

    def state_dir(self, host: str) -> Path:
        """Each host has a state folder of its own, on a disk of its own."""
        return self.root / f"state-{host}"

    def options(self, host: str, url: str) -> list[str]:
        return [
            *("--input-dir", str(self.incoming), "--output-dir", str(self.root / "out")),
            *("--scratch-dir", str(self.root / "out" / "scratch")),
            *("--state-dir", str(self.state_dir(host)), "--database-url", url),
        ]

    def start_worker(self, host: Host, *, clock_offset_seconds: int = 0) -> None:
        """Every host's worker has the same id, as the first unit of each would."""
        command = ["worker", "--worker-id", "worker-1"]
        self.workers[host.name] = self._start(host, command, clock_offset_seconds)

    def start_daemon(self, host: Host, *, clock_offset_seconds: int = 0) -> subprocess.Popen[bytes]:
        """A daemon that closes a group soon; `stop_daemon` ends it."""
        waits = ("group_wait_seconds=2", "poll_seconds=0.2", "stable_seconds=0")
        settings = [part for wait in waits for part in ("--set", f"streaming.{wait}")]
        return self._start(host, [*settings, "daemon"], clock_offset_seconds)

    def _start(
        self, host: Host, command: Sequence[str], clock_offset_seconds: int
    ) -> subprocess.Popen[bytes]:
        script = Path(__file__).with_name("host_worker.py")
        environment = {
            "PYTHONPATH": f"{script.parent}:{Path(__file__).parents[1] / 'shared'}",
            "PIPELINE_PRODUCTS_DB": self.there,
            "ABSURD_WORKER_CLAIM_TIMEOUT": str(LEASE_SECONDS),
            "ABSURD_WORKER_POLL_INTERVAL": "0.1",
            "ABSURD_WORKER_GRACE": "0.1",
            **DISK_MARKS,
            **(wrong_clock(clock_offset_seconds) if clock_offset_seconds else {}),
        }
        program = [sys.executable, str(script), *self.options(host.name, self.there)]
        return host.popen([*program, *command], self.log_path(host.name), environment)

    def log_path(self, host: str) -> Path:
        return self.root / f"{host}.log"

    def log_of(self, host: str) -> str:
        path = self.log_path(host)
        return path.read_text(errors="replace") if path.exists() else ""

    def stop_worker(self, host: Host) -> None:
        """As a service manager does: SIGTERM to the worker's process, in the host."""
        self._stop(host, self.workers.pop(host.name), "--worker-id")

    def stop_daemon(self, host: Host, daemon: subprocess.Popen[bytes]) -> None:
        """The same for a daemon."""
        self._stop(host, daemon, "daemon")

    def _stop(self, host: Host, process: subprocess.Popen[bytes], mark: str) -> None:
        host.machine.run("pkill", "-TERM", "-f", f"host_worker.py .* {mark}")
        assert process.wait(30) == 0, self.log_of(host.name)

    def contimg(self, host: str, *arguments: str, code: int = 0) -> Any:
        """What a command that ends with this code shows as JSON, carried out by the database."""
        command = [sys.executable, "-m", "absurd_contimg.operations"]
        done = subprocess.run(
            [*command, *self.options(host, self.here), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
            env={**os.environ, "PIPELINE_PRODUCTS_DB": self.here, **DISK_MARKS},
        )
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)

    def overview(self) -> SiteOverview:
        """What the monitor, the alerts and the pages show of the site."""
        folders = {"input_dir": self.incoming, "output_dir": self.root / "out"}
        settings = load_settings(
            {**folders, "state_dir": self.root / "state-alpha", "database_url": self.here},
            environment={"PIPELINE_PRODUCTS_DB": self.here, **DISK_MARKS},
        )

        async def look() -> SiteOverview:
            async with open_site(settings) as site:
                return await read_site(site)

        return asyncio.run(look())

    def services(self, kind: str, host: str) -> list[ServiceOverview]:
        """What the monitor says of the processes of a host."""
        return [
            each
            for each in self.overview().services
            if each.kind == kind and (each.host or "").startswith(f"{host}-")
        ]

    def service(self, kind: str, host: str) -> ServiceOverview:
        """The only one of them."""
        (service,) = self.services(kind, host)
        return service

    def until_service(
        self, kind: str, host: str, holds: Callable[[ServiceOverview], bool]
    ) -> ServiceOverview:
        """What the monitor says of a process of a host, as soon as it says something."""
        services: list[ServiceOverview] = []

        def look() -> bool:
            services.extend(self.services(kind, host))
            return bool(services) and holds(services[-1])

        self.until(look, every=0.3)
        return services[-1]

    def call(self, work: Any) -> Any:
        async def ask() -> Any:
            async with PostgresBackend(self.here, pool_max_size=1) as backend:
                return await work(backend)

        return asyncio.run(ask())

    def now(self) -> datetime:
        """The database's clock."""
        moment: datetime = self.call(PostgresBackend.current_time)
        return moment

    def spawn(self, *groups: str) -> None:
        """A task for each group, with one file."""

        async def spawn(backend: PostgresBackend) -> None:
            for group in groups:
                source = self.incoming / f"{group}_sb00.hdf5"
                source.write_text(group)
                params = {
                    "group_id": group,
                    "input_files": [str(source)],
                    "catalog_path": str(source),
                }
                await backend.spawn_task(QUEUE, TASK_NAME, params, spawn_options(group))

        self.call(spawn)

    def histories(self) -> dict[str, History]:
        async def read(backend: PostgresBackend) -> list[History]:
            tasks = await backend.list_tasks(QUEUE)
            return await backend.histories(QUEUE, [task.task_id for task in tasks])

        by_group = {}
        for history in self.call(read):
            params: Any = history.task.params
            by_group[params["group_id"]] = history
        return by_group

    def until(
        self,
        holds: Callable[[], object],
        patience_seconds: float = PATIENCE_SECONDS,
        *,
        every: float = 0.03,
    ) -> None:
        try:
            wait_until(holds, patience_seconds, every=every)
        except AssertionError as error:
            logs = "\n".join(self.log_of(host)[-3000:] for host in self.network.hosts)
            raise AssertionError(f"{error}\n{logs}") from None

    def until_completed(self, *groups: str) -> None:
        def completed() -> bool:
            histories = self.histories()
            return all(histories[group].task.state == "completed" for group in groups)

        self.until(completed)

    def hold(self, stage: str, *hosts: str) -> None:
        """Keep a stage waiting on hosts until `let_go`."""
        for host in hosts:
            (self.incoming / f"hold-{stage}-{host}").touch()

    def let_go(self) -> None:
        for path in self.incoming.glob("hold-*"):
            path.unlink()

    def at_work(self, stage: str, *hosts: str) -> str:
        """Wait until a stage is in the middle of its work on one of the hosts; which."""
        paths = {host: self.incoming / f"at-{stage}-{host}" for host in hosts}
        self.until(lambda: any(path.exists() for path in paths.values()))
        return next(host for host, path in paths.items() if path.exists())

    def forget_work(self) -> None:
        for path in self.incoming.glob("at-*"):
            path.unlink()

    def stage_processes(self, host: str) -> list[int]:
        """The processes of stages that live on a host, by the scratch in which they work."""
        own, scratch = f"{self.root}/", f"/scratch/{host}-"
        processes = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                folder = os.readlink(f"/proc/{name}/cwd")
                state = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if ".stage-server" in folder or state == "Z":
                continue
            if folder.startswith(own) and scratch in folder:
                processes.append(int(name))
        return processes

    def stage_log(self) -> list[str]:
        path = self.incoming / "stage_log"
        return path.read_text().splitlines() if path.exists() else []

    def check(self) -> None:
        """Nothing lost, nothing twice: histories, journal, products, processes."""
        histories = self.histories()
        states = {group: history.task.state for group, history in histories.items()}
        assert set(states.values()) == {"completed"}, states
        assert audit(list(histories.values())) == []
        keys: Counter[tuple[str, str]] = Counter()
        for folder, manifest in committed_products(self.root / "out"):
            verify(folder, manifest, deep=True)
            keys[manifest.stage, manifest.group_id] += 1
        expected = {(stage, group) for group in states for stage in ("convert", "image")}
        assert keys == Counter(expected)
        log = self.stage_log()
        assert [line for line in log if " overlap " in line] == []
        for history in histories.values():
            by_step: dict[str, list[str | None]] = {}
            for start in step_starts(history):
                by_step.setdefault(start.step, []).append(start.outcome)
            for step, outcomes in by_step.items():
                assert outcomes.count("done") == 1, (step, outcomes)
                assert outcomes[-1] == "done"

    def registry_problems(self) -> list[str]:
        """What `contimg registry check` says; nothing if all is right."""
        command = [sys.executable, "-m", "absurd_contimg.operations"]
        done = subprocess.run(
            [*command, *self.options("alpha", self.here), "registry", "check"],
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
            env={**os.environ, "PIPELINE_PRODUCTS_DB": self.here},
        )
        return [] if done.returncode == 0 else [done.stdout + done.stderr]

    def close(self) -> None:
        for worker in self.workers.values():
            worker.send_signal(signal.SIGKILL)
            worker.wait()


def wrong_clock(offset_seconds: int) -> Mapping[str, str]:
    """The environment of a process whose clock of the day is off; its other clocks are right."""
    package = importlib.util.find_spec("libfaketime")
    assert package is not None
    assert package.origin is not None
    library = Path(package.origin).parent / "vendor" / "libfaketime" / "src" / "libfaketime.so.1"
    assert library.exists(), f"{library} is not there: pip install --force-reinstall libfaketime"
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME": f"{offset_seconds:+d}s",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
        # Else CASA's timer thread never sleeps, with a lock that a fork of its process waits for.
        "FAKETIME_FORCE_MONOTONIC_FIX": "0",
    }
