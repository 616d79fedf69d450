"""The stage server's process: ``python -P -m ....stage_server_process CONTROL PATH MODULES...``.

CONTROL is a socket of the worker, PATH its module path as JSON, each of MODULES a module or
``module:function``, to import and call first. For each byte with three descriptors (socket of the
stage, pipe, output) it reads a line of JSON from the stage's socket, forks, answers the process id
and, at the end, the exit code, each as a line. It ends when the worker has closed CONTROL and all
stages have ended; those of a dead worker end with its pipes.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

from absurd_contimg.execution import stage_process

_PR_SET_NAME = 15
_DESCRIPTORS = 3
_END_SECONDS = 10.0


class _Server:
    """Forks stages and tells how they end."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._poller = select.poll()
        self._poller.register(control, select.POLLIN)
        self._stages: dict[int, tuple[int, socket.socket]] = {}
        """By the descriptor of its process: its id and its socket."""

    def serve(self) -> None:
        """Until the worker has closed the control socket and all stages have ended."""
        is_open = True
        while is_open or self._stages:
            for descriptor, _ in self._poller.poll():
                if descriptor != self._control.fileno():
                    self._finish(descriptor)
                    continue
                message, descriptors, _, _ = socket.recv_fds(self._control, 1, _DESCRIPTORS)
                if message:
                    self._begin(*descriptors)
                else:
                    self._poller.unregister(self._control)
                    is_open = False

    def _begin(self, channel: int, pipe: int, output: int) -> None:
        """Fork; nothing where the worker has given up meanwhile."""
        stage = socket.socket(fileno=channel)
        with stage.makefile("rb") as lines:
            line = lines.readline()
        if line:
            launch = json.loads(line)
            pid = os.fork()
            if pid == 0:
                stage.close()
                self._become_stage(launch, pipe, output)
            with contextlib.suppress(OSError):  # it gave up: the closed pipe ends the stage
                stage.sendall(f"{pid}\n".encode())
            descriptor = os.pidfd_open(pid)
            self._stages[descriptor] = (pid, stage)
            self._poller.register(descriptor, select.POLLIN)
        else:
            stage.close()
        os.close(pipe)
        os.close(output)

    def _finish(self, descriptor: int) -> None:
        """Tell the end of a stage when nothing of what it has started lives any more."""
        self._poller.unregister(descriptor)
        pid, stage = self._stages.pop(descriptor)
        os.close(descriptor)
        _, status = os.waitpid(pid, 0)
        self._kill_orphans()
        with stage, contextlib.suppress(OSError):
            stage.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())

    def _kill_orphans(self) -> None:
        """Kill the processes that ended stages have left: this process has adopted them."""
        give_up = time.monotonic() + _END_SECONDS
        while time.monotonic() < give_up:
            stages = {pid for pid, _ in self._stages.values()}
            orphans = _children() - stages
            for pid in orphans:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            if not orphans:
                return
            time.sleep(0.005)

    def _become_stage(self, launch: dict[str, Any], pipe: int, output: int) -> NoReturn:
        """In the child: a session, descriptors and an environment as a process of its own has."""
        code = 1
        try:
            os.setsid()
            self._control.close()
            for descriptor, (_, stage) in self._stages.items():
                os.close(descriptor)
                stage.close()
            for standard in (1, 2):
                os.dup2(output, standard)
            os.close(output)
            request = Path(launch["request"])
            os.chdir(request.parent)
            os.environ.clear()
            os.environ.update(launch["environment"])
            # What `top` shows; `ps` would show the arguments of the server.
            ctypes.CDLL(None).prctl(_PR_SET_NAME, launch["name"].encode(), 0, 0, 0)
            _use_casa_log()
            stage_process.main([str(request), str(pipe)])
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
            traceback.print_exc()
        except BaseException:  # noqa: BLE001 - nothing may return into the server's loop
            traceback.print_exc()
        os._exit(code)


def _children() -> set[int]:
    """The processes whose parent is this one, zombies included."""
    own, children = os.getpid(), set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
            if int(file.read().rpartition(b")")[2].split()[1]) == own:
                children.add(int(name))
    return children


def _use_casa_log() -> None:
    """CASA chose its log when it was imported."""
    casatasks = sys.modules.get("casatasks")
    if casatasks is not None and "CASALOGFILE" in os.environ:
        casatasks.casalog.setlogfile(os.environ["CASALOGFILE"])


def main(arguments: list[str]) -> None:
    """Import the modules, then serve; what cannot be imported here fails in the stage, by name.

    `os._exit` at the end, also of an error: CASA's destructors write, abort, or wait without end
    for threads of gRPC. A worker that ends while this imports removes the folder under it.
    """
    code = 1
    try:
        _import_and_serve(*arguments)
        code = 0
    except BaseException:  # noqa: BLE001 - as the docstring says
        with contextlib.suppress(OSError):  # the worker's pipe is closed
            traceback.print_exc()
            sys.stderr.flush()
    finally:
        os._exit(code)


def _import_and_serve(control: str, module_path: str, *modules: str) -> None:
    sys.path.extend(path for path in json.loads(module_path) if path not in sys.path)
    stage_process.adopt_orphans()
    for entry in modules:
        name, _, function = entry.partition(":")
        with contextlib.suppress(ImportError):
            module = importlib.import_module(name)
            if function:
                getattr(module, function)()
    _Server(socket.socket(fileno=int(control))).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
