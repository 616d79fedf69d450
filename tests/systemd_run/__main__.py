"""Installs the units and tries them under a real systemd: readiness, watchdog, restarts, stops."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from systemd_run.manager import Manager, systemd

WORKER, DAEMON = "dsa110-absurd-worker@1.service", "dsa110-mosaic-daemon.service"
API, DASHBOARD = "dsa110-contimg-api.service", "dsa110-contimg-dashboard.service"
DATABASE, TARGET = "dsa110-contimg-database.service", "dsa110-contimg.target"


def main() -> None:
    """Run all checks in order; the first one that fails ends the command."""
    with tempfile.TemporaryDirectory(prefix="sd") as name:
        folder = Path(name)
        (folder / "in").mkdir()
        (folder / "catalog.csv").write_text("name\n")
        install(folder)
        units = folder / "etc/systemd/system"
        (units / "service.d").mkdir()
        (units / "service.d/log.conf").write_text(
            f"[Service]\nStandardOutput=append:{folder}/services.log\nStandardError=inherit\n"
        )
        (units / f"{WORKER}.d").mkdir()
        (units / f"{WORKER}.d/watchdog.conf").write_text(
            "[Service]\nWatchdogSec=10\nRestartSec=1\n"
        )
        try:
            with systemd(units, folder / "etc/dsa110-contimg", folder / "log") as manager:
                check(manager, folder)
        except BaseException:
            for log in ("log", "services.log"):
                if (folder / log).exists():
                    print(f"--- {log}", (folder / log).read_text()[-4000:], sep="\n")
            raise


def install(folder: Path) -> None:
    """As an operator does, into a folder."""
    options = ["--input-dir", folder / "in", "--output-dir", folder / "out"]
    program = [sys.executable, "-m", "absurd_contimg.operations"]
    catalog = ["--catalog", folder / "catalog.csv"]
    subprocess.run(
        [*program, *options, *catalog, "deploy", "install", "--root", folder, "--workers", "1"],
        check=True,
        env={name: value for name, value in os.environ.items() if "_DIR" not in name},
    )


def check(manager: Manager, folder: Path) -> None:
    """All that the units promise."""
    manager.systemctl("start", WORKER, DAEMON)
    for unit in (WORKER, DAEMON, DATABASE):
        assert manager.show(unit, "ActiveState") == "active", unit
    manager.wait(WORKER, "StatusText", "waits for tasks")
    manager.wait(DAEMON, "StatusText", "waits for files")
    report("worker and daemon are ready, the private database runs in its own unit")

    manager.systemctl("start", API, DASHBOARD)
    for unit in (API, DASHBOARD):
        manager.wait(unit, "StatusText", "serves requests")
    report("API and dashboard are ready")

    first = manager.show(WORKER, "MainPID")
    manager.kill(WORKER, "SIGSTOP")
    manager.wait(WORKER, "NRestarts", "1")
    manager.wait(WORKER, "ActiveState", "active")
    assert manager.show(WORKER, "MainPID") != first
    report("a worker that hangs is killed by its watchdog and started again")

    manager.kill(WORKER, "SIGKILL")
    manager.wait(WORKER, "NRestarts", "2")
    manager.wait(WORKER, "ActiveState", "active")
    report("a worker that is killed is started again")

    manager.systemctl("stop", WORKER)
    assert manager.show(WORKER, "Result") == "success"
    assert (folder / "out/state/postgres/socket/.s.PGSQL.5432").exists()
    manager.systemctl("start", WORKER)
    report("a worker stops in order, and the private database outlives it")

    environment = folder / "etc/dsa110-contimg/contimg.env"
    text = environment.read_text()
    environment.write_text(f"{text}\nABSURD_QUEUE_NAM=x\n")
    manager.systemctl("restart", WORKER, check=False)
    manager.wait(WORKER, "ActiveState", "failed")
    assert manager.show(WORKER, "ExecMainStatus") == str(os.EX_CONFIG)
    assert manager.show(WORKER, "NRestarts") == "0"
    report("a misspelt variable ends a worker with 78, and it is not started again")

    environment.write_text(text)
    manager.systemctl("reset-failed", WORKER)
    manager.systemctl("start", TARGET, WORKER)
    manager.systemctl("stop", TARGET)
    for unit in (WORKER, DAEMON, API, DASHBOARD, DATABASE):
        manager.wait(unit, "ActiveState", "inactive")
    report("the target stops everything")


def report(text: str) -> None:
    """One line for each check that holds."""
    print(f"ok: {text}", flush=True)


if __name__ == "__main__":
    main()
