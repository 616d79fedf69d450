"""Hosts that share scratch: none touches what another one's workers have there."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typing_extensions import override

from absurd_contimg.execution.disk_reservation import reserve
from absurd_contimg.execution.host_scratch import host_name, host_scratch
from absurd_contimg.execution.scratch import Janitor, ScratchOwner
from absurd_contimg.operations.services.worker_identity import unique_worker_id
from absurd_contimg.products.filesystem import LOCAL

MB = 1_000_000


class MountWithOwnLocks(type(LOCAL)):  # type: ignore[misc]
    """A shared folder whose locks only this host sees, as NFS with ``nolock``."""

    def __init__(self, locks: Path) -> None:
        self._locks = locks

    @override
    def try_lock(self, path: Path, *, create: bool = True) -> int | None:
        if create:
            path.touch()
        elif not path.exists():
            return None
        seen = self._locks / path.relative_to("/")
        seen.parent.mkdir(parents=True, exist_ok=True)
        return LOCAL.try_lock(seen)


NAME = """
import socket, sys
from absurd_contimg.execution.host_scratch import host_name
for name in sys.argv[1:]:
    socket.sethostname(name)
    print(host_name())
"""


def names_on(*hosts: str) -> list[str]:
    """What hosts with these host names are called; they are a namespace of this machine."""
    separate = ["unshare", "--user", "--map-root-user", "--uts"]
    command = [*separate, sys.executable, "-c", NAME, *hosts]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()


def test_hosts_have_parts_of_their_own() -> None:
    """Named so that an operator sees whose they are; a worker finds its own again."""
    odd = "a'$(b)[c"
    full, short, other, again, from_odd = names_on(
        "lxd110h03.pro.pvt", "lxd110h03", "lxd110h04", "lxd110h04", odd
    )
    assert len({full, short, other, host_name()}) == 4
    assert {full.rpartition("-")[0], short.rpartition("-")[0]} == {"lxd110h03"}
    assert other == again
    assert from_odd.startswith("a---b--c-"), "CASA can have it in a path"


def test_a_living_worker_of_another_host_is_left_alone(tmp_path: Path) -> None:
    """Although its lock is not seen here: its files stay, and nobody else uses its folder."""
    scratch = tmp_path / "scratch"
    here = MountWithOwnLocks(tmp_path / "locks-here")
    there = MountWithOwnLocks(tmp_path / "locks-there")
    own, other = host_scratch(scratch), scratch / names_on("other")[0]
    with ScratchOwner(other, "worker-1", there) as living:
        path = living.new_path("G", "image", "1")
        path.mkdir()
        (path / "image.ms").write_bytes(b"half")
        with ScratchOwner(own, "worker-1", here) as same_id:
            assert Janitor(own, here).sweep() == []
            assert same_id.folder != living.folder
            assert same_id.new_path("G", "image", "1") != path
        assert (path / "image.ms").read_bytes() == b"half"
        assert unique_worker_id("worker-1", own) != unique_worker_id("worker-1", other)
        (removed,) = Janitor(other, here).sweep()  # what would have happened in one scratch
        assert removed.owner == "worker-1"


def test_space_that_another_host_has_promised_counts(small_disk: Path) -> None:
    first, second = small_disk / "host-1" / "w" / "attempt", small_disk / "host-2" / "w" / "attempt"
    first.mkdir(parents=True)
    second.mkdir(parents=True)
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    reserve(small_disk, first, free - 2 * MB, own_scratch=first.parents[1])
    with pytest.raises(OSError, match="promised to other stages") as refused:
        reserve(small_disk, second, 3 * MB, own_scratch=second.parents[1])
    assert refused.value.errno == errno.ENOSPC
