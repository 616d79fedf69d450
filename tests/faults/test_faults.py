"""Real faults on real parts: signals, limits, a full disk, a crashing database, lost replies.

Each runs once in the test command and ``--fault-runs`` times in a campaign, at a stage and a
point drawn from its number; the table at the end says how many were effective and what they cost.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fault_stages import SECONDS, STAGES
from fault_worker import LEASE_SECONDS, QUEUE
from proxy import LossyProxy
from search_extent import is_search
from small_disk import mounted

from absurd_contimg.backends.postgres import EmbeddedPostgres
from absurd_contimg.backends.postgres.schema import install_schema
from absurd_contimg.history.timeline import step_starts


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "number" in metafunc.fixturenames:
        metafunc.parametrize("number", range(metafunc.config.getoption("--fault-runs")))


class FaultPoint:
    """A stage, and how far into its work, drawn from the fault and the number of the run."""

    def __init__(self, fault: str, number: int) -> None:
        draw = random.Random(f"{fault} {number}")
        self.stage = draw.choice(STAGES).name
        self.delay = draw.uniform(0.0, SECONDS * 0.7)

    def wait(self, site) -> int:
        """Until the point has come; the stage's process."""
        pid = site.pid_at(self.stage)
        time.sleep(self.delay)
        return pid


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_worker_sigkill(number: int, new_site: Callable, check_recovery: Callable) -> None:
    """The restarted worker takes up what it left within seconds; its stage died with it."""
    site, point = new_site(), FaultPoint("worker kill", number)
    site.spawn()
    began = time.monotonic()
    worker = site.worker()
    pid = point.wait(site)
    effective = is_running(pid)
    worker.kill()
    worker.wait()
    site.until(lambda: not is_running(pid), 5)
    killed_at = time.monotonic()
    site.worker()
    site.until(lambda: "released orphan" in site.log, 10)
    restarted = time.monotonic() - killed_at
    check_recovery(site, "worker SIGKILL, restarted", began, effective=effective)
    assert restarted < LEASE_SECONDS + 7, "it did not wait for the lease alone"


def test_worker_sigkill_and_another_takes_over(
    number: int, new_site: Callable, check_recovery: Callable
) -> None:
    """An idle worker elsewhere sweeps the dead one's lease without a new task arriving."""
    site, point = new_site(), FaultPoint("worker kill, other", number)
    site.spawn()
    began = time.monotonic()
    worker = site.worker()
    pid = point.wait(site)
    site.worker("worker-2")
    effective = is_running(pid)
    worker.kill()
    killed_at = time.monotonic()
    starts = len(step_starts(site.history()))
    site.until(lambda: len(step_starts(site.history())) > starts or ended(site), 20)
    waited = time.monotonic() - killed_at
    check_recovery(
        site, "worker SIGKILL, another takes over", began, effective=effective, runs=None
    )
    if effective:
        assert waited < LEASE_SECONDS + 0.1 + 1 + 5, "lease, poll, 1 s, and a loaded machine"


def ended(site) -> bool:
    return site.history().task.state == "completed"


def test_stage_child_sigkill(number: int, new_site: Callable, check_recovery: Callable) -> None:
    """As the out-of-memory killer does it: one retry of that stage."""
    site, point = new_site(), FaultPoint("child kill", number)
    site.spawn()
    began = time.monotonic()
    site.worker()
    pid = point.wait(site)
    effective = is_running(pid)
    os.kill(pid, signal.SIGKILL)
    check_recovery(site, "stage SIGKILL", began, effective=effective, runs=2 if effective else None)


def test_stage_segfault(number: int, new_site: Callable, check_recovery: Callable) -> None:
    site, point = new_site(), FaultPoint("segfault", number)
    site.plan(point.stage, "segfault")
    site.spawn()
    began = time.monotonic()
    site.worker()
    site.until_ended()
    effective = f"{point.stage} fault" in site.stage_log
    check_recovery(site, "stage segfault", began, effective=effective, runs=2)


def test_stage_hangs_until_its_deadline(
    number: int, new_site: Callable, check_recovery: Callable
) -> None:
    """Heartbeats of the worker do not keep a hung stage alive."""
    site, point = new_site(deadline_seconds=4.0), FaultPoint("hang", number)
    site.spawn()
    began = time.monotonic()
    site.worker()
    pid = point.wait(site)
    effective = is_running(pid)
    os.kill(pid, signal.SIGSTOP)
    check_recovery(
        site,
        "stage SIGSTOP to its deadline",
        began,
        effective=effective,
        runs=2 if effective else None,
    )


def test_worker_paused_past_its_lease_resumes(
    number: int, new_site: Callable, check_recovery: Callable
) -> None:
    """Its stage is dead before another worker runs it; the resumed worker changes nothing."""
    site, point = new_site(), FaultPoint("paused", number)
    site.spawn(seconds=1.0)
    began = time.monotonic()
    paused = site.worker()
    pid = point.wait(site)
    effective = is_running(pid)
    paused.send_signal(signal.SIGSTOP)
    stopped_at = time.monotonic()
    site.until(lambda: not is_running(pid))
    seen = time.monotonic() - stopped_at  # a loaded machine looks later
    assert seen < LEASE_SECONDS + 1, "the stage outlived the lease"
    site.worker("worker-2")
    site.until_ended()
    history, products = site.history(), site.products()
    paused.send_signal(signal.SIGCONT)
    site.until(lambda: "LeaseLost" in site.log or "could not be recorded" in site.log, 10)
    paused.terminate()
    assert paused.wait(10) == 0, site.log
    assert site.history() == history
    assert site.products() == products
    check_recovery(
        site, "worker SIGSTOP past its lease, SIGCONT", began, effective=effective, runs=2
    )


@pytest.mark.parametrize("dies", [False, True], ids=["three pauses", "three deaths"])
def test_pauses_are_no_deaths(new_site: Callable, dies: bool) -> None:
    """A worker that is stopped past its lease in the same stage, and one that is killed there."""
    site = new_site()
    site.plan("solve", "hang")
    site.spawn()
    worker = site.worker()
    for start in range(3):
        site.until(lambda starts=start + 1: site.stage_log.count("solve fault") == starts)
        pid = site.pid_at("solve")
        worker.send_signal(signal.SIGKILL if dies else signal.SIGSTOP)
        site.until(lambda pid=pid: not is_running(pid))
        if start < 2:  # before anybody can begin the stage again
            site.plan("solve", "hang")
        if dies:
            worker.wait()
            worker = site.worker()
        else:
            worker.send_signal(signal.SIGCONT)
    history = site.until_ended()
    outcomes = [start.outcome for start in step_starts(history) if start.step == "solve"]
    if dies:
        assert (history.task.state, outcomes) == ("failed", ["poison"] * 3)
    else:
        assert (history.task.state, outcomes[-1]) == ("completed", "done")
        assert set(outcomes[:-1]) == {"lost"}
        assert len(outcomes) >= 4, "a loaded machine may lose one lease more"


def test_sigterm(number: int, new_site: Callable, check_recovery: Callable) -> None:
    """The run is released at once, and costs no attempt."""
    site, point = new_site(), FaultPoint("sigterm", number)
    site.spawn()
    began = time.monotonic()
    worker = site.worker()
    pid = point.wait(site)
    effective = is_running(pid)
    worker.terminate()
    assert worker.wait(10) == 0
    assert not is_running(pid)
    assert site.scratch_files() == []
    site.worker("worker-2")
    check_recovery(site, "SIGTERM", began, effective=effective, runs=1)


def test_postgres_crashes_and_restarts(
    number: int, new_site: Callable, check_recovery: Callable, own_server: EmbeddedPostgres
) -> None:
    """What was finished meanwhile is committed under the lease; nothing runs twice."""
    point = FaultPoint("postgres", number)
    url = own_server.create_database(f"crash_{number}")
    install_schema(url)
    site = new_site(url)
    site.spawn(seconds=0.5)
    began = time.monotonic()
    site.worker()
    pid = point.wait(site)
    effective = is_running(pid)
    own_server.stop("immediate")
    own_server.start()
    check_recovery(
        site, "Postgres stop -m immediate, restart", began, effective=effective, runs=None
    )


def test_replies_are_lost_after_the_commit(
    number: int, new_site: Callable, check_recovery: Callable
) -> None:
    """One of each procedure that a run needs: recognised, not repeated; one attempt."""
    point = FaultPoint("lost reply", number)
    site = new_site()
    proxy = LossyProxy(site.root / "proxy", site.url)
    try:
        proxy.lose_reply_to("claim_task", "get_task_checkpoint_states", "complete_run")
        site.spawn()
        began = time.monotonic()
        site.worker(url=proxy.url)
        point.wait(site)
        proxy.lose_reply_to("extend_claim", "set_task_checkpoint_state")
        site.until_ended()
        effective = proxy.lost == 5
        check_recovery(site, "replies lost after the commit", began, effective=effective, runs=1)
    finally:
        proxy.close()
    done = [line for line in site.stage_log if line.endswith("end")]
    assert done == [f"{stage.name} end" for stage in STAGES]


def test_disk_full(number: int, new_site: Callable, check_recovery: Callable) -> None:
    """In each stage: the run waits, costs no attempt, and goes on when there is space."""
    site = new_site()
    with mounted(site.root / "disk", 4) as disk:
        site.spawn(seconds=0.3)
        began = time.monotonic()
        site.worker()
        for waits, stage in enumerate(STAGES, 1):
            site.pid_at(stage.name)
            fill(disk / "filler")
            site.until(lambda stage=stage: f"step {stage.name}: waiting (resource" in site.log)
            (disk / "filler").unlink()
            assert site.log.count("disk-full") >= waits
        check_recovery(site, "disk full in each stage", began, effective=True, runs=1)
        site.close()


def fill(path: Path) -> None:
    """Write until nothing more fits."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert shutil.disk_usage(path.parent).free == 0


@pytest.mark.parametrize(
    ("what", "rule"),
    [("memory", "no-memory"), ("import", "import-memory"), ("files", "descriptors")],
)
def test_limit_is_hit(
    what: str, rule: str, number: int, new_site: Callable, check_recovery: Callable
) -> None:
    """Memory and open files: the run waits, then is tried again in a fresh process."""
    site, point = new_site(), FaultPoint(what, number)
    site.plan(point.stage, what)
    site.spawn()
    began = time.monotonic()
    site.worker()
    site.until_ended()
    effective = f"waiting (resource, {rule})" in site.log
    check_recovery(site, f"limit of {what}", began, effective=effective, runs=1)
    assert effective, site.log


HARMS = ("deleted", "shortened", "truncated", "unreadable")


@pytest.mark.parametrize("how", HARMS if is_search() else HARMS[:1])
def test_input_is_harmed_between_two_steps(
    how: str, number: int, new_site: Callable, check_failure: Callable, baseline: Any
) -> None:
    """It cannot succeed: it fails at once, with the path and what to do."""
    site = new_site()
    stage = random.Random(f"{how} {number}").choice(STAGES[1:])
    site.spawn(seconds=0.5)
    worker = site.worker()
    site.pid_at(stage.name)
    worker.terminate()
    assert worker.wait(10) == 0
    (product,) = (site.root / "disk" / "products").glob(f"*/*/{stage.before}.data")
    if how == "deleted":
        product.unlink()
    elif how == "truncated":
        product.write_bytes(b"")
    elif how == "shortened":  # the stage itself would not notice: it reads the beginning
        product.write_bytes(product.read_bytes()[:-1])
    else:
        product.unlink()
        product.mkdir()
    site.worker()
    check_failure(site, f"input {how} between steps", product.name)
    # What the advice tells an operator to do: it makes the one product again, and no other.
    advice = site.history().runs[0].failure_reason["advice"]
    assert "contimg spawn --group GROUP --respawn" in advice
    begun = len(site.stage_log)
    product.parent.rename(site.root / "moved away")
    site.spawn(seconds=0.5)
    site.until(lambda: site.history().task.state == "completed")
    assert site.products() == baseline.products
    before = next(item for item in STAGES if item.name == stage.before)
    first = [line for line in site.stage_log[begun:] if line.endswith("begin")]
    assert first[0].startswith(before.name)


def test_two_workers_run_the_same_task(
    number: int, new_site: Callable, check_recovery: Callable
) -> None:
    """The database is made to believe that a lease is over while its worker is in a stage."""
    site, point = new_site(), FaultPoint("two workers", number)
    site.call(lambda backend: backend.create_queue(QUEUE))
    for name in ("worker-1", "worker-2"):
        site.worker(name)
        site.until((site.root / f"disk/scratch/.owners/{name}.lock").exists)
    site.spawn(seconds=1.0)
    began = time.monotonic()
    point.wait(site)

    def taken_over() -> bool:
        site.execute(
            f"update absurd.\"r_{QUEUE}\" set claim_expires_at = now() - interval '1 s'"
            " where state = 'running' and attempt = 1"
        )
        history = site.history()
        return len(history.runs) > 1 or history.task.state == "completed"

    site.until(taken_over)
    history = site.until_ended()
    effective = len(history.runs) > 1
    overlaps = [line for line in site.stage_log if line.endswith("overlap")]
    (site.root / "control" / "stage_log").write_text(
        ""
    )  # the lie makes two run, and only one counts
    check_recovery(site, "two workers on one task", began, effective=effective, runs=None)
    assert len(overlaps) <= 1
