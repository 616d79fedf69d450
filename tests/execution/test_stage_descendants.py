"""Nothing that a stage has started outlives it, in any session, with any environment."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stage_executors import isolated
from toy_stages import TOYS_FOLDER, request_for

from absurd_contimg.execution.executor import (
    StageFailed,
    StageReport,
    StageRequest,
)
from absurd_contimg.execution.lease_watchdog import LeaseWatchdog
from absurd_contimg.products.store import load_committed, publish, verify

pytestmark = pytest.mark.usefixtures("start")


def execute(request: StageRequest) -> StageReport:
    return asyncio.run(isolated().execute(request))


def daemon_of(request: StageRequest) -> int:
    return int(request.casa_log.with_suffix(".pids").read_text())


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("how", ["leave a daemon", "bare daemon"])
def test_daemon_ends_before_the_product_is_complete(tmp_path: Path, how: str) -> None:
    """It writes into the product all the time; what is committed is what the manifest says."""
    request = request_for(tmp_path, how)
    report = execute(request)
    assert not lives(daemon_of(request))
    assert report.product is not None
    assert report.committed is not None
    publish(report.product, report.committed)
    time.sleep(0.1)
    verify(report.committed, load_committed(report.committed), deep=True)


@pytest.mark.parametrize("how", ["hang with a daemon", "bare hang daemon", "crash with a daemon"])
def test_daemon_ends_with_a_stage_that_fails(tmp_path: Path, how: str) -> None:
    """At the deadline, and when the stage's process dies by itself (then by its environment)."""
    request = request_for(tmp_path, how, deadline=8.0)
    with pytest.raises(StageFailed):
        execute(request)
    assert not lives(daemon_of(request))


_WORKER = """
import asyncio, sys, time
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from stage_executors import isolated_by
from toy_stages import request_for
until = time.monotonic() + float(sys.argv[3])
request = request_for(Path(sys.argv[1]), "hang with a daemon")
request = replace(request, may_live_until=lambda: until)
asyncio.run(isolated_by(sys.argv[-1], Path(sys.argv[1])).execute(request))
"""


@pytest.mark.parametrize(("number", "lease"), [(signal.SIGSTOP, "6"), (signal.SIGKILL, "60")])
def test_daemon_ends_with_the_lease_or_the_worker(
    tmp_path: Path, number: signal.Signals, lease: str, start: str
) -> None:
    """The worker is stopped until its lease is over, or killed: the watchdog ends all."""
    command = [sys.executable, "-c", _WORKER, str(tmp_path), TOYS_FOLDER, lease, start]
    worker = subprocess.Popen(command)
    pids = tmp_path / "logs" / "0.casa.pids"
    try:
        give_up = time.monotonic() + 40
        while not pids.exists():
            assert time.monotonic() < give_up
            time.sleep(0.02)
        daemon = int(pids.read_text())
        assert lives(daemon)
        worker.send_signal(number)
        while lives(daemon):
            assert time.monotonic() < give_up, "the daemon outlives its stage"
            time.sleep(0.02)
    finally:
        worker.kill()
        worker.wait()


def test_stopped_watchdog_blocks_nobody(tmp_path: Path) -> None:
    """Its pipe fills; then it is replaced by one that does its work."""
    watchdog = LeaseWatchdog()
    sleeper = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        watchdog.watch(sleeper.pid, time.monotonic() + 60)
        assert watchdog._process is not None
        os.kill(watchdog._process.pid, signal.SIGSTOP)
        began = time.monotonic()
        for _ in range(6000):
            watchdog.watch(sleeper.pid, time.monotonic() + 60)
        assert time.monotonic() - began < 10
        watchdog.watch(sleeper.pid, time.monotonic() + 0.2)
        assert sleeper.wait(10) == -9
    finally:
        sleeper.kill()
        watchdog.close()


def test_flood_of_output_is_bounded_all_the_time(tmp_path: Path) -> None:
    """Beginning and end are kept, with the number of bytes in between; the loop is not blocked."""
    request = request_for(tmp_path, "flood")
    bytes_max, sizes, gaps = 200_000, [0], [0.0]

    async def watch() -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.02)
            now = time.monotonic()
            gaps.append(now - last)
            last = now
            sizes.append(request.output_log.stat().st_size if request.output_log.exists() else 0)

    async def run() -> None:
        watching = asyncio.create_task(watch())
        await isolated(log_bytes_max=bytes_max).execute(request)
        watching.cancel()

    asyncio.run(run())
    text = request.output_log.read_text()
    assert text.startswith("first line\n")
    assert text.endswith("last line\n")
    assert "bytes cut out" in text
    assert max(*sizes, len(text)) < bytes_max + 100
    assert max(gaps) < 2.0
