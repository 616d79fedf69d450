"""The stage server: a process that has imported what stages need, and forks one child a stage.

Imports of CASA and pyuvdata cost each stage more CPU than many stages' own work. The server runs
nothing itself (a fork of a process that has used CASA hangs) and ends with its worker. This module
is the worker's side; `stage_server_process` is the server.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from absurd_contimg.core.evidence import named_reason
from absurd_contimg.execution.process_state import lives
from absurd_contimg.secrets import without_secrets

_log = logging.getLogger(__name__)

_START_SECONDS = 60.0
"""Imports from a cold or busy disk take tens of seconds."""
_END_SECONDS = 10.0
_REPORT_SECONDS = 10.0
"""Of a server for the end of a stage: it first ends what others have left, and may wait for CPU."""
_RENEWAL_SECONDS = 86_400.0
"""CASA's leap-second table has the date of the server's start."""

Environment = Callable[[Path, Path], Mapping[str, str]]
"""From a folder and a CASA log: what to add to the environment of a process."""


class StageServerError(Exception):
    """The server cannot be started or does not answer."""


class ForkedStage:
    """A stage process that the server has forked; as `asyncio.subprocess.Process`, in part."""

    def __init__(
        self,
        pid: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        server: subprocess.Popen[bytes],
    ) -> None:
        self.pid = pid
        self._server = server
        self.returncode: int | None = None
        self._reader = reader
        self._writer = writer

    async def wait(self) -> int:
        """Wait for its end; the exit code, or the negative number of the signal.

        It counts as killed where the server was killed and cannot say.
        """
        if self.returncode is None:
            line = await self._reader.readline()
            if not line:
                await asyncio.to_thread(_await_end, self.pid)
            self.returncode = int(line) if line else -signal.SIGKILL
            self._writer.close()
        return self.returncode

    async def collect(self) -> int:
        """`wait` of a stage that is known to be dead.

        A server that does not say so soon stands still, and is killed: it would not reap it ever.
        Its other stages go on.
        """
        try:
            async with asyncio.timeout(_REPORT_SECONDS):
                return await self.wait()
        except TimeoutError:
            _log.warning("the stage server %d stands still and is killed", self._server.pid)
            self._server.kill()
            with suppress(subprocess.TimeoutExpired):  # blocked in the kernel: nobody waits for it
                await asyncio.to_thread(self._server.wait, _END_SECONDS)
            self.returncode = -signal.SIGKILL
            self._writer.close()
            return self.returncode


class StageServer:
    """The worker's side: starts the process at the first stage, and again if it has died."""

    def __init__(
        self, folder: Path, environment: Environment, modules: Sequence[str], threads: int
    ) -> None:
        """`folder` is made, and is the caller's to remove; `modules` are imported in order.

        One written as ``module:function`` is called as well: it may start no thread.
        """
        self._folder = folder
        self._environment = environment
        self._modules = tuple(modules)
        self.threads = threads
        """OMP_NUM_THREADS of all stages: it is read when the libraries are imported."""
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._started_at = 0.0
        self._launched = 0
        self._launching = asyncio.Lock()
        """Stages that begin together have one server."""
        self._retired: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    async def start(
        self, name: str, request: Path, environment: Mapping[str, str], pipe: int, output: int
    ) -> ForkedStage:
        """Fork a process for the stage and its request file; raises `StageServerError`.

        `pipe` and `output` are what `stage_process` gets as PIPE and as standard output and error.
        """
        try:
            launch = {"name": name, "request": str(request), "environment": dict(environment)}
            return await self._start(launch, pipe, output)
        except (OSError, ValueError, TimeoutError) as error:
            if self._process is not None:
                self._process.kill()
            self._retire()  # an earlier server, which may still have stages, is not waited for
            raise StageServerError(
                f"{named_reason(error)}; see {self._folder / 'output.log'}"
            ) from error

    async def _start(self, launch: Mapping[str, Any], pipe: int, output: int) -> ForkedStage:
        async with self._launching:
            old = time.monotonic() - self._started_at > _RENEWAL_SECONDS
            if self._process is None or old or self._process.poll() is not None:
                await asyncio.to_thread(self._launch)
        assert self._control is not None
        assert self._process is not None
        server = self._process
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._control, [b"s"], [theirs.fileno(), pipe, output])
        reader, writer = await asyncio.open_connection(sock=ours)
        try:
            writer.write(json.dumps(launch).encode() + b"\n")
            async with asyncio.timeout(_START_SECONDS):
                pid = int(await reader.readline())
        except BaseException:
            writer.close()
            raise
        return ForkedStage(pid, reader, writer, server)

    def _launch(self) -> None:
        self._retire()
        self._launched += 1
        # CASA's overlay of its data is made once in a folder, and an earlier server may still run.
        folder = self._folder / str(self._launched)
        folder.mkdir(parents=True, exist_ok=True)
        ours, theirs = socket.socketpair()
        threads = str(self.threads)
        with theirs, (self._folder / "output.log").open("ab") as output:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m"),
                    "absurd_contimg.execution.stage_server_process",
                    *(str(theirs.fileno()), json.dumps(module_path()), *self._modules),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=folder,
                env={
                    **without_secrets(os.environ),
                    "OMP_NUM_THREADS": threads,
                    "OPENBLAS_NUM_THREADS": threads,
                    **self._environment(folder, folder / "casa.log"),
                },
                start_new_session=True,
                pass_fds=(theirs.fileno(),),
            )
        self._control, self._started_at = ours, time.monotonic()

    def _retire(self) -> None:
        """Let the server end when its stages have."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            self._retired.append(self._process)
            self._process = None
        self._retired = [process for process in self._retired if process.poll() is None]

    def close(self) -> None:
        """End the server; the stages, if any still run, end with their pipes."""
        self._retire()
        for process in self._retired:
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:  # it is stopped, or imports from a dead disk
                process.kill()
                process.wait()
        self._retired.clear()


def module_path() -> list[str]:
    """Where the processes of stages find the modules that this process finds."""
    return [str(Path(path).absolute()) for path in sys.path]


def _await_end(pid: int) -> None:
    """Wait for the end of a process that is no child of this one."""
    while lives(pid):
        time.sleep(0.02)
