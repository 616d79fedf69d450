"""What the hosts of these tests leave on the machine when pytest is ended: nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from network import wait_until


def test_sigterm_ends_hosts_and_removes_mounts(tmp_path_factory: pytest.TempPathFactory) -> None:
    """It comes when server, hosts and mounts are there and a worker has started."""
    tmp_path = tmp_path_factory.mktemp("h")  # a socket's path is short
    folder = Path(__file__).parent
    options = ["-q", "-x", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 't'}"]
    test = f"{folder / 'test_hosts.py'}::test_a_host_that_is_cut_off"
    log = tmp_path / "log"
    with log.open("wb") as output:
        tests = subprocess.Popen(
            [sys.executable, "-m", "pytest", *options, test],
            cwd=folder.parents[1],
            env={**os.environ, "HOSTS_OF": str(tmp_path)},
            stdout=output,
            stderr=output,
        )
    mark = f"HOSTS_OF={tmp_path}".encode()
    try:
        wait_until(lambda: has_worker(marked(mark)) or tests.poll() is not None, 200)
        assert tests.poll() is None, log.read_text()
        assert str(tmp_path) in Path("/proc/mounts").read_text()
        tests.terminate()
        assert tests.wait(60) == 143, log.read_text()
    finally:
        tests.kill()
        tests.wait()
    wait_until(lambda: not marked(mark), 10, "for the last process")
    assert str(tmp_path) not in Path("/proc/mounts").read_text()


def marked(mark: bytes) -> list[Path]:
    """The processes that have this variable of the environment; the dead ones do not count."""
    processes = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes().split(b"\0"):
                processes.append(process)
        except OSError:
            continue
    return processes


def has_worker(processes: list[Path]) -> bool:
    try:
        return any(b"host_worker.py" in (each / "cmdline").read_bytes() for each in processes)
    except OSError:
        return False
