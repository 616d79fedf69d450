"""Programs in forks of the test's process: ``contimg``, pytest, scripts, without a start of Python.

A start and its imports cost one to two seconds of processor time, a fork a tenth. What belongs to
the interpreter itself (closed streams, a removed folder, Ctrl-C during imports) needs a process of
its own: `operations/test_streams.py`.
"""

from __future__ import annotations

import importlib
import logging
import os
import pkgutil
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import pytest
import typer.main

import absurd_contimg.operations
from absurd_contimg.operations.cli.app import state
from absurd_contimg.operations.cli.main import app
from absurd_contimg.operations.console import console, error_console
from absurd_contimg.operations.program import main

Ended = subprocess.CompletedProcess[str]
_LOOKS_SECONDS = 0.01
_REPLACED: list[Any] = []
"""Streams of the test's process: one that nobody holds closes its number, the next file's then."""


@cache
def import_commands() -> None:
    """Import all that the commands import when they run: else each fork would do it again."""
    package = absurd_contimg.operations
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in ("simulation.exploration.stream_workflows", "synthesis"):
        importlib.import_module(f"absurd_contimg.{name}")


@cache
def built_commands() -> Any:
    """The parser's commands, which Typer builds again in each process: half of a short command."""
    import_commands()
    return typer.main.get_command(app)


def run_commands() -> None:
    """Run the program in this process, a fork, with `sys.argv`."""
    commands = built_commands()
    typer.main.get_command = lambda _app: commands
    state.is_service = False  # an earlier command of the test's process may have been one
    main()


def run_program(
    arguments: Sequence[str], environment: Mapping[str, str], folder: Path | None = None
) -> Ended:
    """Run ``contimg`` with these arguments."""
    built_commands()

    def run() -> None:
        sys.argv = ["contimg", *arguments]
        run_commands()

    return run_forked(run, environment, folder)


def run_pytest(
    arguments: Sequence[str], environment: Mapping[str, str], folder: Path | None = None
) -> Ended:
    """Run pytest with these arguments, as in a project of its own.

    Without the plugin of zarr: its markers would be refused, as this session has none of that name.
    """

    def run() -> None:
        sys.exit(pytest.main([*arguments, "-p", "no:cacheprovider", "-p", "no:zarr"]))

    return run_forked(run, environment, folder)


def run_script(
    arguments: Sequence[str], environment: Mapping[str, str], folder: Path | None = None
) -> Ended:
    """Run a file with Python, and with the arguments after its name."""

    def run() -> None:
        sys.argv = [*arguments]
        sys.path[:0] = [os.getcwd()]
        runpy.run_path(arguments[0], run_name="__main__")

    return run_forked(run, environment, folder)


def run_forked(
    run: Callable[[], object],
    environment: Mapping[str, str],
    folder: Path | None = None,
    timeout: float = 200.0,
) -> Ended:
    """What a fork prints, and its exit code, as `subprocess.run` says it.

    It has this environment and no other. After `timeout` seconds it is killed, and
    `subprocess.TimeoutExpired` is raised.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        child = os.fork()
        if child == 0:
            _run(run, environment, folder, output.fileno(), errors.fileno())
        status = _wait(child, timeout)
        output.seek(0)
        errors.seek(0)
        texts = output.read(), errors.read()
    if status is None:
        raise subprocess.TimeoutExpired("a fork", timeout, *texts)
    return subprocess.CompletedProcess("a fork", os.waitstatus_to_exitcode(status), *texts)


class ForkedProcess:
    """A function in a fork that goes on beside the test, with the methods of `subprocess.Popen`."""

    def __init__(
        self, run: Callable[[], object], environment: Mapping[str, str], output: Path
    ) -> None:
        """Start it; what it prints is added to the file `output`."""
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.pid = os.fork()
        if self.pid == 0:
            _run(run, environment, None, file, file)
        os.close(file)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code, negative after a signal; None while it runs."""
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if ended else None
        return self.returncode

    def wait(self, timeout: float = 200.0) -> int:
        """Its exit code; raises `subprocess.TimeoutExpired`."""
        give_up = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > give_up:
                raise subprocess.TimeoutExpired("a fork", timeout)
            time.sleep(_LOOKS_SECONDS)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _wait(child: int, timeout: float) -> int | None:
    """The wait status of a child; None if it had to be killed."""
    give_up = time.monotonic() + timeout
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > give_up:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(_LOOKS_SECONDS)
    return ended[1]


def _run(
    run: Callable[[], object],
    environment: Mapping[str, str],
    folder: Path | None,
    output: int,
    errors: int,
) -> NoReturn:
    """Run in this process, and end it as the interpreter would."""
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(errors, 2)
        _REPLACED.extend((sys.stdout, sys.stderr))
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
        console._file = error_console._file = None  # a test may have set others
        logging.root.handlers.clear()  # pytest's
        os.environ.clear()
        os.environ.update(environment)
        if columns := environment.get("COLUMNS"):
            console.width = error_console.width = int(columns)
        if folder is not None:
            os.chdir(folder)
        run()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter would
        sys.excepthook(*sys.exc_info())
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
