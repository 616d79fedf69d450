"""The processes of a night: telescope, daemon and workers, which are killed and started again."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from absurd_contimg.errors import UserError
from absurd_contimg.execution.logs import tail

_STOP_SECONDS = 30.0
_VARIABLES = ("ABSURD_", "PIPELINE_", "CONTIMG_")
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_prctl = ctypes.CDLL(None).prctl


class ProcessEndedError(UserError):
    """A process of the night has ended that should run."""


@dataclass(slots=True)
class Processes:
    """Child processes by name; each logs into a file of its name.

    They are stopped with this process, also when it is killed: a telescope would go on for hours.
    """

    log_folder: Path
    options: Sequence[str]
    """Of ``contimg``, before the command."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added; variables of this package from outside are left out."""
    running: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)

    async def start_command(self, name: str, *command: str) -> None:
        """Start a command of ``contimg``."""
        arguments = ("-m", "absurd_contimg.operations", *self.options, *command)
        await self.start(name, *arguments)

    async def start(self, name: str, *arguments: str) -> None:
        """Start Python with these arguments."""
        with self.log(name).open("ab") as output:
            self.running[name] = await asyncio.create_subprocess_exec(
                *(sys.executable, *arguments),
                stdout=output,
                stderr=output,
                stdin=asyncio.subprocess.DEVNULL,
                env=self._variables(),
                preexec_fn=_stop_with_parent,
            )

    async def run_command(self, *command: str) -> tuple[int, str]:
        """Run a command of ``contimg`` to its end: exit code and output."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "absurd_contimg.operations", *self.options, *command),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            stdin=asyncio.subprocess.DEVNULL,
            env=self._variables() | {"COLUMNS": "200"},
        )
        output, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode(errors="replace").strip()

    def _variables(self) -> dict[str, str]:
        own = {k: v for k, v in os.environ.items() if not k.startswith(_VARIABLES)}
        return own | dict(self.environment)

    def log(self, name: str) -> Path:
        """The log of a process."""
        return self.log_folder / f"{name}.log"

    async def kill(self, name: str) -> None:
        """End a process with SIGKILL."""
        process = self.running.pop(name)
        process.kill()
        await process.wait()

    def check(self, finite: str) -> None:
        """Raise `ProcessEndedError` if a process has ended, but for the one that does so well."""
        for name, process in self.running.items():
            if process.returncode is None or (name == finite and process.returncode == 0):
                continue
            lines = "\n".join(tail(self.log(name), 20))
            raise ProcessEndedError(
                f"{name} ended with exit code {process.returncode}; its log ends:\n{lines}",
                f"See {self.log(name)}.",
            )

    async def stop(self) -> None:
        """Stop all as systemd does, and wait for them."""
        for process in self.running.values():
            if process.returncode is None:
                process.terminate()
        for process in self.running.values():
            try:
                await asyncio.wait_for(process.wait(), _STOP_SECONDS)
            except TimeoutError:
                process.kill()
                await process.wait()


def _stop_with_parent() -> None:
    """In a child, before its program begins."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
