"""A systemd that is process 1 of new namespaces and sees only the units that it is given.

Their folder is its whole unit path, so nothing of this host is started, mounted or cleaned. Its
cgroups are below one of ours, its ``/run`` is a file system of its own. Needs root, systemd and
``unshare``; nothing is left behind when it ends.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_SYSTEMD = Path("/lib/systemd/systemd")
_CGROUPS = Path("/sys/fs/cgroup")
_STUBS = ("sysinit", "basic", "shutdown", "network-online", "multi-user")
_START = r"""
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mount --bind "$1" /etc/dsa110-contimg
if [ -d /sys/fs/cgroup/systemd ]; then
    umount -R /sys/fs/cgroup
    mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
    mkdir /sys/fs/cgroup/systemd /sys/fs/cgroup/unified
    mount -t cgroup -o none,name=systemd,xattr systemd /sys/fs/cgroup/systemd
    mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
    for name in memory pids; do
        mkdir /sys/fs/cgroup/$name
        mount -t cgroup -o $name $name /sys/fs/cgroup/$name
    done
else
    umount /sys/fs/cgroup
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
fi
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin "SYSTEMD_UNIT_PATH=$2" \
    /lib/systemd/systemd --system --unit=multi-user.target --log-target=console --show-status=no
"""


@dataclass(frozen=True, slots=True)
class Manager:
    """A systemd that runs."""

    pid: int

    def systemctl(self, *words: str, check: bool = True) -> str:
        """A command of systemctl to it; what it prints."""
        namespaces = ["nsenter", "-t", str(self.pid), "-m", "-p", "-u", "-i", "-C", "--"]
        done = subprocess.run(
            [*namespaces, "systemctl", "--no-pager", *words],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"systemctl {' '.join(words)}: {done.stdout}{done.stderr}")
        return done.stdout

    def show(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.systemctl("show", unit, "-p", name, "--value").strip()

    def kill(self, unit: str, signal: str) -> None:
        """Send a signal to the main process of a unit."""
        self.systemctl("kill", "--kill-who=main", f"--signal={signal}", unit)

    def wait(self, unit: str, name: str, value: str, seconds: float = 120.0) -> None:
        """Until a property has a value."""
        give_up = time.monotonic() + seconds
        while (current := self.show(unit, name)) != value:
            if time.monotonic() > give_up:
                status = self.systemctl("status", unit, check=False)
                raise AssertionError(f"{unit}: {name} is {current!r}, not {value!r}\n{status}")
            time.sleep(0.5)


@contextmanager
def systemd(units: Path, etc: Path, log: Path) -> Iterator[Manager]:
    """A systemd with the units of a folder; `etc` is its ``/etc/dsa110-contimg``."""
    if os.geteuid() != 0 or not _SYSTEMD.exists() or shutil.which("unshare") is None:
        raise SystemExit("systemd_run needs root, systemd and unshare: run it in a container.")
    for name in _STUBS:
        (units / f"{name}.target").write_text("[Unit]\nDefaultDependencies=no\nAllowIsolate=yes\n")
    place = Path("/etc/dsa110-contimg")
    made = not place.exists()
    place.mkdir(exist_ok=True)
    groups = _own_cgroups()
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc"]
    command += ["--uts", "--ipc", "--cgroup"]
    enter = "".join(f"echo $$ > {group}/cgroup.procs && " for group in groups) + 'exec "$@"'
    try:
        with log.open("wb") as stream:
            starter = subprocess.Popen(
                ["sh", "-c", enter, "sh", *command, "sh", "-c", _START, "sh", etc, units],
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        try:
            manager = Manager(_child(starter))
            manager.wait("multi-user.target", "ActiveState", "active")
            yield manager
        finally:
            starter.kill()
            starter.wait()
    finally:
        time.sleep(1.0)  # the kernel empties the cgroups
        for group in groups:
            for folder in sorted(group.rglob("*/"), reverse=True):
                folder.rmdir()
            group.rmdir()
        if made:
            place.rmdir()


def _own_cgroups() -> list[Path]:
    """A group for this run in each hierarchy."""
    names = ("systemd", "unified", "memory", "pids")
    roots = [_CGROUPS / name for name in names if (_CGROUPS / name).is_dir()] or [_CGROUPS]
    groups = [root / f"systemd-run-{os.getpid()}" for root in roots]
    for group in groups:
        group.mkdir()
    return groups


def _child(starter: subprocess.Popen[bytes]) -> int:
    """The process that is number 1 in its namespace, once it is systemd."""
    children = Path(f"/proc/{starter.pid}/task/{starter.pid}/children")
    for _ in range(200):
        for pid in children.read_text().split():
            try:
                if Path(f"/proc/{pid}/comm").read_text() == "systemd\n":
                    time.sleep(1.0)
                    return int(pid)
            except FileNotFoundError:
                pass
        time.sleep(0.1)
    raise AssertionError("systemd did not start: see its log")
