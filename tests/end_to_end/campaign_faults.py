"""Faults of the real pipeline, with real CASA: a campaign, no part of the test command.

    pytest tests/end_to_end/campaign_faults.py --real-faults 20 -rP

The same faults run on small stages in ``tests/faults`` in every test command; each of these takes
minutes.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_disk import mounted

from absurd_contimg.core.records import TERMINAL_STATES

FAULTS = ("child SIGKILL", "disk full", "SIGTERM", "worker SIGSTOP past its lease")
LEASE_SECONDS = 6


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "number" in metafunc.fixturenames:
        metafunc.parametrize("number", range(metafunc.config.getoption("--real-faults")))


def stages_of(worker: subprocess.Popen[bytes]) -> Iterator[tuple[int, str]]:
    """The living stage processes of a worker, each with the folder name of its attempt."""
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if not entry.name.isdigit():
                continue
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            words = (entry / "cmdline").read_text().split("\0")
            if parent == worker.pid and "absurd_contimg.stages.child" in words:
                yield int(entry.name), Path(words[-3]).parent.name


def wait_for_stage(worker: subprocess.Popen[bytes], wanted: str) -> tuple[int, str]:
    """The first process of the wanted stage."""
    give_up = time.monotonic() + 200
    while time.monotonic() < give_up:
        for pid, name in stages_of(worker):
            if name.startswith(wanted):
                return pid, name
        time.sleep(0.02)
    raise AssertionError(f"no stage {wanted} was seen")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", FAULTS)
def test_real_pipeline_survives(
    fault: str, number: int, new_site: Callable, undisturbed: tuple, tmp_path: Path
) -> None:
    """The images are those of the undisturbed run, and no committed stage ran again."""
    draw = random.Random(f"{fault} {number}")
    stage = draw.choice(("convert", "calibrate_solve", "calibrate_apply", "image"))
    reference, _ = undisturbed
    site = new_site()
    with mounted(tmp_path / "disk", 400) as disk:
        shutil.copy(site.root / "contimg.toml", disk)
        site = replace(site, root=disk)
        site.spawn()
        began = time.monotonic()
        worker = site.start_worker("--claim-timeout", str(LEASE_SECONDS), "--worker-id", "one")
        workers = [worker]
        try:
            pid, name = wait_for_stage(worker, stage)
            time.sleep(draw.uniform(0.0, 3.0))
            landed = Path(f"/proc/{pid}").exists()
            if fault == "child SIGKILL":
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            elif fault == "disk full":
                fill(disk / "filler")
                wait_until_gone(pid)
                time.sleep(1.0)
                (disk / "filler").unlink()
            elif fault == "SIGTERM":
                worker.terminate()
                assert worker.wait(40) == 0
                workers.append(site.start_worker("--worker-id", "one"))
            else:
                worker.send_signal(signal.SIGSTOP)
                wait_until_gone(pid)
                workers.append(site.start_worker("--worker-id", "two"))
                time.sleep(LEASE_SECONDS)
                worker.send_signal(signal.SIGCONT)
            while any(h.task.state not in TERMINAL_STATES for h in site.histories()):
                time.sleep(0.5)
        finally:
            for one in workers:
                one.send_signal(signal.SIGCONT)
                one.terminate()
                one.wait(40)
        histories = site.histories()
        runs = [len(history.runs) for history in histories]
        print(f"{fault} in {name}: landed {landed}, {time.monotonic() - began:.0f} s, runs {runs}")
        log = (site.root / "worker.log").read_text()
        assert [h.task.state for h in histories] == ["completed"] * 2, log
        if fault in ("disk full", "SIGTERM"):
            assert runs == [1, 1], log
        found, expected = site.pixels(), reference.pixels()
        assert found.keys() == expected.keys()
        for image, pixels in expected.items():
            assert np.array_equal(found[image], pixels, equal_nan=True), image


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    assert shutil.disk_usage(path.parent).free < 1 << 16


def wait_until_gone(pid: int) -> None:
    give_up = time.monotonic() + 100
    while Path(f"/proc/{pid}").exists() and time.monotonic() < give_up:
        with suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
        time.sleep(0.05)
