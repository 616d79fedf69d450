"""A file system of a few megabytes, for tests in which a disk must really be full.

As root it is mounted where we are; otherwise in a user and mount namespace of its own, seen
through ``/proc/<pid>/root`` of a process that holds it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def mounted(folder: Path, megabytes: int = 8, inodes: int | None = None) -> Iterator[Path]:
    """An empty tmpfs of that size at `folder`; gone afterwards with all that is in it."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={megabytes}m" + ("" if inodes is None else f",nr_inodes={inodes}")
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, check=False)
    if done.returncode == 0:
        try:
            yield folder
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        return
    script = f"{' '.join(mount)} && echo ready && exec sleep infinity"
    holder = subprocess.Popen(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script],
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n", "no user namespaces and no root here"
        seen = Path(f"/proc/{holder.pid}/root{folder}")
        assert os.statvfs(seen).f_blocks * os.statvfs(seen).f_frsize <= megabytes << 20
        yield seen
    finally:
        holder.kill()
        holder.wait()


@contextmanager
def read_only_view(folder: Path) -> Iterator[None]:
    """The folder can only be read by its path, while who has opened files in it goes on to write.

    For root alone: others may not mount where a server of this host sees it.
    """
    subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def make_read_only(disk: Path) -> None:
    """Remount what `mounted` gave; no file in it may be open for writing."""
    command = ["mount", "-o", "remount,ro"]
    if disk.parts[1] == "proc":
        _, _, holder, _, *inside = disk.parts
        command = ["nsenter", "-t", holder, "-U", "-m", "--preserve-credentials", *command]
        disk = Path("/", *inside)
    subprocess.run([*command, str(disk)], check=True)
