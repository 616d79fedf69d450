"""Runs services as their units say, where no service manager can be had.

Honours what counts here: environment file, command, ``Type=notify`` (a start returns when the
service is ready), ``KillMode=mixed``, ``TimeoutStopSec``. `python -m systemd_run` uses systemd.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from configparser import RawConfigParser
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from notify_socket import NotifySocket, notify_socket

from absurd_contimg.operations.deploy import read_environment_file


@dataclass
class RunningUnit:
    """A service that was started."""

    process: subprocess.Popen[bytes]
    manager: NotifySocket
    stop_seconds: float
    log: Path


@dataclass
class UnitRunner:
    """The units in the folders of a rendered installation."""

    root: Path
    log_folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    """Set for all services beside those of their units."""
    running: dict[str, RunningUnit] = field(default_factory=dict)
    _sockets: ExitStack = field(default_factory=ExitStack)

    def service(self, name: str) -> dict[str, str]:
        """The section of a unit; ``worker@3`` is an instance of ``worker@``."""
        prefix, at, instance = name.partition("@")
        parser = RawConfigParser(strict=False)
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        path = self.root / "etc/systemd/system" / f"{prefix}{at}.service"
        parser.read_string(path.read_text())
        return {key: value.replace("%i", instance) for key, value in parser["Service"].items()}

    def start(self, name: str) -> None:
        """Start a service and return when it is ready, as ``systemctl start`` does."""
        service = self.service(name)
        file = self.root / service["EnvironmentFile"].lstrip("/")
        assigned = dict(item.split("=", 1) for item in [service.get("Environment", "_=")])
        ours = ("ABSURD_", "PIPELINE_", "CONTIMG_")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
        environment = {**kept, **self.environment, **assigned, **read_environment_file(file)}
        command = shlex.split(service["ExecStart"])
        if service["Type"] == "oneshot":
            subprocess.run(command, env=environment, timeout=120, check=True, capture_output=True)
            return
        folder = Path(tempfile.mkdtemp(dir=self.log_folder))
        manager = self._sockets.enter_context(notify_socket(folder))
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                command,
                env={
                    **environment,
                    "NOTIFY_SOCKET": manager.address,
                    "WATCHDOG_USEC": str(int(service["WatchdogSec"]) * 1_000_000),
                },
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        seconds = float(service["TimeoutStopSec"])
        self.running[name] = RunningUnit(process, manager, seconds, folder / "log")
        manager.read_until(lambda message: message == "READY=1")

    def stop(self, name: str) -> int:
        """End a service as systemd does; its exit code. Nothing if it does not run."""
        if name not in self.running:
            return 0
        unit = self.running.pop(name)
        unit.process.send_signal(signal.SIGTERM)
        try:
            return unit.process.wait(unit.stop_seconds)
        finally:
            if unit.process.poll() is None:
                os.killpg(unit.process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Kill what runs."""
        for unit in self.running.values():
            if unit.process.poll() is None:
                os.killpg(unit.process.pid, signal.SIGKILL)
            unit.process.wait()
        self._sockets.close()
