"""A worker that is killed at any time of its work with CASA: that costs time and nothing else."""

from __future__ import annotations

import random
import subprocess
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from committed_products import committed_products
from real_site import Pixels, Site

from absurd_contimg.core.records import History
from absurd_contimg.execution.host_scratch import host_scratch
from absurd_contimg.execution.scratch import Janitor
from absurd_contimg.history.timeline import step_starts
from absurd_contimg.products.store import verify

pytestmark = pytest.mark.timeout(600)

START_SECONDS = 1.5
"""A worker does nothing before it."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``--kills`` random times; the campaign of issue 2 is ``--kills 20``."""
    if "kill_number" in metafunc.fixturenames:
        metafunc.parametrize("kill_number", range(metafunc.config.getoption("--kills")))


@pytest.fixture(scope="module")
def baseline(new_site: Callable[..., Site]) -> Site:
    """A site whose worker has processed both groups."""
    site = new_site()
    site.spawn()
    assert site.start_worker("--until-idle").wait(500) == 0, site.root / "worker.log"
    return site


def test_worker_killed_at_a_random_time(
    kill_number: int,
    new_site: Callable[..., Site],
    baseline: Site,
    record_property: Callable[[str, object], None],
) -> None:
    """The restarted worker resumes, and the images are the same."""
    seconds = START_SECONDS + seconds_of(baseline.root / "products")
    site = new_site()
    site.spawn()
    kill_after = random.Random(f"kill {kill_number}").uniform(START_SECONDS, seconds)
    worker = site.start_worker("--until-idle", "--worker-id", "worker-1")
    try:
        worker.wait(kill_after)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()
        before = {h.task.task_id: committed_steps(h) for h in site.histories()}
        again = site.start_worker("--until-idle", "--worker-id", "worker-1")
        assert again.wait(500) == 0, (site.root / "worker.log").read_text()
    else:
        before = {}
    histories = site.histories()
    assert [history.task.state for history in histories] == ["completed"] * 2
    died = [
        start.step
        for history in histories
        for start in step_starts(history)
        if start.outcome == "died"
    ]
    record_property("kill", f"{kill_after:.2f} s: {died or 'between stages'}")
    print(f"killed after {kill_after:.2f} s of {seconds:.2f} s, in {died or 'no stage'}")

    assert_same_pixels(site.pixels(), baseline.pixels())
    for history in histories:
        # Steps that were committed before the kill are not started again.
        assert committed_steps(history).items() >= before.get(history.task.task_id, {}).items()
        starts = Counter(start.step for start in step_starts(history))
        assert sum(starts.values()) - len(starts) == sum(
            start.outcome == "died" for start in step_starts(history)
        )
    for folder, manifest in committed_products(site.root / "products"):
        verify(folder, manifest, deep=True)
    Janitor(host_scratch(site.root / "scratch")).sweep()
    assert not [
        p for p in (site.root / "scratch").rglob("*") if p.is_file() and p.parent.name != ".owners"
    ]


def seconds_of(output_dir: Path) -> float:
    """From the first product to the last."""
    made = [datetime.fromisoformat(m.created_at) for _, m in committed_products(output_dir)]
    return (max(made) - min(made)).total_seconds()


def committed_steps(history: History) -> dict[str, object]:
    """The run and the time of each step's commit."""
    return {
        c.checkpoint_name: (c.owner_run_id, c.updated_at)
        for c in history.checkpoints
        if not c.checkpoint_name.startswith("$")
    }


def assert_same_pixels(result: Pixels, expected: Pixels) -> None:
    assert result.keys() == expected.keys()
    for name, pixels in expected.items():
        assert np.array_equal(result[name], pixels, equal_nan=True), name
