"""Hosts as namespaces of this machine: network, host name, processes and mounts of their own.

A hub holds a bridge and the database server; each host has a cable to it that can be pulled.
Nothing of it reaches the machine's own network, and all of it ends with the processes that hold the
namespaces, which end with this one, even when it is killed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

HUB_ADDRESS = "10.77.0.1"
PROGRAMS = ("ip", "unshare", "nsenter", "setpriv", "mount")
ADVICE = "Run these tests as root, with the packages iproute2 and util-linux installed."
KINDS = ("--net", "--uts", "--mount", "--pid")
_INIT = 'hostname "$0" && echo ready && trap "" TERM && while :; do sleep 3600 & wait; done'
"""The first process of a host: it takes the orphans of the others."""


@dataclass(slots=True)
class Host:
    """A host that can be cut off, killed and started again."""

    name: str
    number: int
    hub: Namespaces
    machine: Namespaces = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    @property
    def address(self) -> str:
        return f"10.77.0.{self.number}"

    def start(self) -> None:
        """Start the machine, with a cable to the hub."""
        self.machine = Namespaces(self.name)
        cable, plug = f"hub{self.number}", "eth0"
        process = str(self.machine.process)
        self.hub.ip("link", "add", cable, "type", "veth", "peer", plug, "netns", process)
        self.hub.ip("link", "set", cable, "master", "bridge", "up")
        for command in (
            ("link", "set", "lo", "up"),
            ("address", "add", f"{self.address}/24", "dev", plug),
            ("link", "set", plug, "up"),
        ):
            self.machine.ip(*command)

    def cut_off(self) -> None:
        """Pull the cable: packets are lost, and nobody is told."""
        self.hub.ip("link", "set", f"hub{self.number}", "down")

    def reconnect(self) -> None:
        """Put the cable back."""
        self.hub.ip("link", "set", f"hub{self.number}", "up")

    def power_off(self) -> None:
        """Every process ends at once, and the host's connections with it."""
        self.machine.close()

    def popen(
        self, command: Sequence[str], log: Path, environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        """Start a program on the host; SIGTERM to what is returned reaches it."""
        with log.open("ab") as output:
            return subprocess.Popen(
                self.machine.command(*command),
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **environment},
            )


class Namespaces:
    """A process that holds namespaces, and the way into them."""

    def __init__(self, name: str) -> None:
        """Raises `AssertionError` with advice if there can be none."""
        unshare = ["unshare", *KINDS, "--mount-proc", "--fork", "--kill-child=KILL"]
        program = ["setpriv", "--pdeathsig", "KILL", *unshare, "sh", "-c", _INIT, name]
        self._holder = subprocess.Popen(
            program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"ready\n":
            assert self._holder.stderr is not None
            problem = self._holder.stderr.read().decode().strip()
            raise AssertionError(f"No namespaces here ({problem}). {ADVICE}")
        holder = self._holder.pid
        children = Path(f"/proc/{holder}/task/{holder}/children").read_text()
        self.process = int(children.split()[0])

    def command(self, *command: str) -> list[str]:
        """A command, to be carried out inside."""
        return ["nsenter", "--target", str(self.process), *KINDS, "--", *command]

    def ip(self, *arguments: str) -> None:
        """Set up the network; other processes are called by their numbers outside."""
        _run(["nsenter", "--target", str(self.process), "--net", "--", "ip", *arguments])

    def run(self, *command: str) -> str:
        """Carry a command out inside; its output."""
        return _run(self.command(*command))

    def close(self) -> None:
        """Kill the first process in them, and with it every other one."""
        if self._holder.returncode is not None:
            return
        os.kill(self.process, signal.SIGKILL)
        self._holder.wait()
        for stream in (self._holder.stdout, self._holder.stderr):
            assert stream is not None
            stream.close()


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, f"{command}: {done.stderr.strip()}. {ADVICE}"
    return done.stdout


def missing_part() -> str:
    """What these hosts need and this machine does not have, in one line; empty if nothing."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if os.geteuid() != 0:
        return f"Only root can make hosts of namespaces. {ADVICE}"
    return f"There is no program {missing[0]} here. {ADVICE}" if missing else ""


class Network:
    """The hub and its hosts."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.hosts: dict[str, Host] = {}

    def __enter__(self) -> Self:
        self.hub = Namespaces("hub")
        self._stack.callback(self.hub.close)
        for command in (
            ("link", "set", "lo", "up"),
            ("link", "add", "bridge", "type", "bridge"),
            ("address", "add", f"{HUB_ADDRESS}/24", "dev", "bridge"),
            ("link", "set", "bridge", "up"),
        ):
            self.hub.ip(*command)
        return self

    def add_host(self, name: str) -> Host:
        """Start a further host."""
        host = Host(name, len(self.hosts) + 11, self.hub)
        self.hosts[name] = host
        self._stack.callback(host.power_off)
        return host

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()


def wait_until(
    holds: Callable[[], object], patience_seconds: float, what: str = "", *, every: float = 0.03
) -> None:
    """Until a function answers true, asked `every` so many seconds; `AssertionError` after a while.

    `what` is said then.
    """
    give_up = time.monotonic() + patience_seconds
    while not holds():
        assert time.monotonic() < give_up, f"timed out after {patience_seconds:g} s {what}"
        time.sleep(every)
