"""A worker that is killed at any time of the real pipeline costs time and nothing else."""

from __future__ import annotations

import random
import subprocess
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from committed_products import committed_products

from absurd_contimg.execution.host_scratch import host_scratch
from absurd_contimg.execution.scratch import Janitor
from absurd_contimg.history.timeline import step_starts
from absurd_contimg.products.store import verify


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``--kills`` random times; the campaign of issue 2 is ``--kills 20``."""
    if "kill_number" in metafunc.fixturenames:
        metafunc.parametrize("kill_number", range(metafunc.config.getoption("--kills")))


def test_worker_killed_at_a_random_time(
    kill_number: int, new_site: Callable, baseline: tuple, record_property: Callable
) -> None:
    """The restarted worker resumes, and the images are those of the baseline."""
    reference, seconds = baseline
    site = new_site()
    site.spawn()
    kill_after = random.Random(f"kill {kill_number}").uniform(1.5, seconds)
    worker = site.start_worker("--until-idle", "--worker-id", "worker-1")
    try:
        worker.wait(kill_after)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()
        before = {h.task.task_id: committed_steps(h) for h in site.histories()}
        again = site.start_worker("--until-idle", "--worker-id", "worker-1")
        assert again.wait(240) == 0, (site.root / "worker.log").read_text()
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

    assert_same_pixels(site.pixels(), reference.pixels())
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


def committed_steps(history) -> dict[str, object]:
    """The run and the time of each step's commit."""
    return {
        c.checkpoint_name: (c.owner_run_id, c.updated_at)
        for c in history.checkpoints
        if not c.checkpoint_name.startswith("$")
    }


def assert_same_pixels(result: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert result.keys() == expected.keys()
    for name, pixels in expected.items():
        assert np.array_equal(result[name], pixels, equal_nan=True), name
