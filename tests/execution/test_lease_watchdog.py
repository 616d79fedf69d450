"""The watchdog kills process groups whose time is over, and no others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from toy_stages import TOYS_FOLDER

from absurd_contimg.execution.lease_watchdog import LeaseWatchdog


@pytest.fixture
def watchdog() -> Iterator[LeaseWatchdog]:
    made = LeaseWatchdog()
    yield made
    made.close()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process with a helper, in a group of its own."""
    process = subprocess.Popen(["sh", "-c", "sleep 600 & wait"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def test_group_is_killed_when_its_time_is_over(
    watchdog: LeaseWatchdog, sleeper: subprocess.Popen[bytes]
) -> None:
    began = time.monotonic()
    watchdog.watch(sleeper.pid, began + 0.5)
    assert sleeper.wait(10) == -9
    assert time.monotonic() - began >= 0.5


def test_extended_group_lives_and_a_forgotten_one_too(
    watchdog: LeaseWatchdog, sleeper: subprocess.Popen[bytes]
) -> None:
    """The last message counts."""
    watchdog.watch(sleeper.pid, time.monotonic() + 60)  # its process takes a moment to start
    watchdog.watch(sleeper.pid, time.monotonic() + 0.8)
    watchdog.watch(sleeper.pid, time.monotonic() + 60)
    with pytest.raises(subprocess.TimeoutExpired):
        sleeper.wait(1.0)
    watchdog.watch(sleeper.pid, time.monotonic() + 0.8)
    watchdog.forget(sleeper.pid)
    with pytest.raises(subprocess.TimeoutExpired):
        sleeper.wait(1.0)


def test_killed_watchdog_is_replaced(
    watchdog: LeaseWatchdog, sleeper: subprocess.Popen[bytes]
) -> None:
    watchdog.watch(sleeper.pid, time.monotonic() + 60)
    assert watchdog._process is not None
    watchdog._process.kill()
    watchdog._process.wait()
    watchdog.watch(sleeper.pid, time.monotonic() + 0.2)
    assert sleeper.wait(10) == -9


_STOPPED_WORKER = """
import asyncio, os, signal, sys, time
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from absurd_contimg.execution import executor
from absurd_contimg.execution.executor import IsolatedStageExecutor, no_environment
from toy_stages import request_for

root = Path(sys.argv[1])
lease_ends_at = time.monotonic() + 3.0
watch = executor._WATCHDOG.watch
executor._WATCHDOG.watch = lambda group, until: None
watch(os.getpid() + (1 << 22), lease_ends_at)  # the watchdog runs before we are stopped
stopped = []

def stop_before_the_first_message(group, until):
    if not stopped:
        stopped.append(group)
        (root / "stage").write_text(str(group))
        os.kill(os.getpid(), signal.SIGSTOP)
    watch(group, until)

executor._WATCHDOG.watch = stop_before_the_first_message
request = replace(request_for(root, "hang"), may_live_until=lambda: lease_ends_at)
try:
    asyncio.run(IsolatedStageExecutor(no_environment).execute(request))
except executor.LeaseLost as lost:
    print(lost, flush=True)
"""


def test_stage_of_a_worker_stopped_before_the_watchdog_knew_it_does_not_begin(
    tmp_path: Path,
) -> None:
    """SIGSTOP right after the stage process has started, SIGCONT when the lease is over.

    The stage process waits and has read nothing; then the watchdog gets a time that is over.
    """
    worker = subprocess.Popen(
        [sys.executable, "-c", _STOPPED_WORKER, str(tmp_path), TOYS_FOLDER],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        _, status = os.waitpid(worker.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        stage = int((tmp_path / "stage").read_text())
        deadline = time.monotonic() + 3.5  # beyond the lease
        while time.monotonic() < deadline:
            assert not (tmp_path / "logs" / "0.casa.pids").exists(), "the stage has begun"
            time.sleep(0.05)
        assert Path(f"/proc/{stage}").exists()
        worker.send_signal(signal.SIGCONT)
        output, _ = worker.communicate(timeout=30)
    finally:
        worker.kill()
        worker.wait()
    assert "was ended when its lease ran out" in output  # which is no failure of the stage
    assert not (tmp_path / "logs" / "0.casa.pids").exists()
