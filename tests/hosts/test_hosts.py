"""Workers on two hosts, one database, one shared folder: nothing is lost and nothing done twice.

Both workers have the same id, and locks of the shared folder are not what keeps them apart.
"""

from __future__ import annotations

import re
import sys
import time
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from site_of_hosts import LEASE_SECONDS, Site

from absurd_contimg.errors import RegistryAwayError
from absurd_contimg.history.timeline import step_starts
from absurd_contimg.operations.overview import ServiceOverview
from absurd_contimg.operations.services import worker_notes
from absurd_contimg.registry.database import Database

HOLD_LOCK = """
import sys, time
from pathlib import Path
from absurd_contimg.registry.database import Database
with Database(sys.argv[1]).writing():
    Path(sys.argv[2]).touch()
    time.sleep(600)
"""
OTHER = {"alpha": "beta", "beta": "alpha"}


def test_a_host_that_is_cut_off(site: Site) -> None:
    """Its stage ends before its lease does; the other host goes on, and it works again later."""
    site.hold("image", "alpha", "beta")
    site.spawn("CUT")
    name = site.at_work("image", *OTHER)
    host = site.network.hosts[name]
    assert site.stage_processes(name)
    cut_at = time.monotonic()
    host.cut_off()
    site.until(lambda: not site.stage_processes(name), LEASE_SECONDS + 5)
    assert time.monotonic() - cut_at < LEASE_SECONDS + 2
    worker = site.until_service("worker", name, lambda each: each.state == "silent")
    assert f"on {name}-" in worker.problem
    assert "was not heard of" in worker.problem
    assert worker.health != "ok"
    # Not at once where the cut left a write to the registry half-done, with its lock.
    site.until_service("worker", OTHER[name], lambda each: each.health == "ok")
    (site.incoming / f"hold-image-{OTHER[name]}").unlink()
    site.until_completed("CUT")
    host.reconnect()
    site.until_service("worker", name, lambda each: each.health == "ok")
    site.let_go()
    site.forget_work()
    site.hold("convert", OTHER[name])  # so that it is the other one's turn
    site.spawn("CUT-2", "CUT-3")
    site.at_work("convert", name)
    site.let_go()
    site.until_completed("CUT-2", "CUT-3")
    site.forget_work()
    site.check()


def check_commands_of_a_full_disk(site: Site, full: ServiceOverview) -> None:
    """What an operator is shown meanwhile: monitor and status tell it, and no other trouble."""
    site.hold("convert", "alpha")
    site.spawn("DISK-5", "DISK-6", "DISK-7")
    site.at_work("convert", "alpha")
    monitor = site.contimg("beta", "monitor", "--once", "--json", code=1)
    status = site.contimg("beta", "status", "--json")
    folder, alpha = str(site.state_dir("beta")), site.service("worker", "alpha")
    failing = {
        (disk["folder"], disk["host"]) for disk in monitor["disks"] if disk["health"] != "ok"
    }
    assert (folder, full.host) in failing
    assert {place for place, _ in failing} == {folder}
    services = {each["host"]: each for each in monitor["services"]}
    assert [services[host]["health"] for host in (alpha.host, full.host)] == ["ok", "warning"]
    assert f"{folder} is nearly full: workers claim nothing" in services[full.host]["problem"]
    assert services[full.host]["running"] == []
    (running,) = services[alpha.host]["running"]
    counts = monitor["queues"][0]["tasks_by_state"]
    assert (counts["running"], counts["pending"]) == (1, 2)
    assert counts == status["queue"]["tasks_by_state"]
    states = {task["task_id"]: task for task in status["tasks"]}
    assert states[running["task_id"]]["state"] == "running"
    assert len(monitor["waiting"]) == 2
    for waiting in monitor["waiting"]:
        assert f"waits for a worker: {alpha.name} on {alpha.host} runs 1" in waiting["why"]
        assert states[waiting["task_id"]]["state"] == "pending"
    (note,) = status["disk_notes"]
    assert (note["host"], note["claims"]) == (full.host, False)
    site.let_go()
    site.until_completed("DISK-5", "DISK-6", "DISK-7")
    site.forget_work()


def test_a_host_that_is_cut_off_with_a_lock(site: Site) -> None:
    """The server finds out within half a minute, and frees the registry for the others."""
    host = site.network.add_host("gamma")
    held = site.root / "held"
    with Database(site.here_locked).writing():
        pass  # its tables are there
    command = [sys.executable, "-c", HOLD_LOCK, site.there_locked, str(held)]
    process = host.popen(command, site.log_path("gamma"), {})
    site.until(held.exists)
    host.cut_off()
    began = time.monotonic()
    with (
        pytest.raises(RegistryAwayError, match="lock timeout"),
        Database(site.here_locked).writing(),
    ):
        pass  # callers try again, as beside a locked file

    def is_free() -> bool:
        with suppress(RegistryAwayError), Database(site.here_locked).writing():
            return True
        return False

    site.until(is_free)
    assert time.monotonic() - began < 60
    host.power_off()
    process.wait()


def test_a_full_disk_of_one_host(site: Site) -> None:
    """It claims nothing and says why; the other one does everything."""
    state_dir = site.state_dir("beta")
    filler = state_dir / "filler"
    filler.write_bytes(bytes(13_500_000))

    def claims() -> bool | None:
        return next((bool(note["claims"]) for note in worker_notes(state_dir)), None)

    site.until(lambda: claims() is False)
    (note,) = worker_notes(state_dir)
    assert str(note["host"]).startswith("beta-")
    assert "is nearly full: workers claim nothing" in str(note["reason"])
    assert str(state_dir) in str(note["reason"])
    worker = site.until_service("worker", "beta", lambda each: bool(each.problem))
    assert "is nearly full: workers claim nothing" in worker.problem
    (disk,) = (disk for disk in site.overview().disks if disk.folder == str(state_dir))
    assert (disk.host, disk.health) == (worker.host, "failure")
    assert re.search(rf"{state_dir} on {disk.host} has [\d.]+ [kM]?B left", disk.problem)
    before = len(site.stage_log())
    site.spawn("DISK-1", "DISK-2")
    site.until_completed("DISK-1", "DISK-2")
    assert all(line.endswith("alpha") for line in site.stage_log()[before:])
    check_commands_of_a_full_disk(site, worker)
    filler.unlink()
    site.until(claims)
    site.until_service("worker", "beta", lambda each: each.health == "ok")
    site.hold("convert", "alpha")
    site.spawn("DISK-3", "DISK-4")
    site.at_work("convert", "beta")
    site.let_go()
    site.until_completed("DISK-3", "DISK-4")
    site.forget_work()
    site.check()


@pytest.mark.parametrize("offset_seconds", [300, -300])
def test_a_worker_whose_hosts_clock_is_wrong(site: Site, offset_seconds: int) -> None:
    """Its lease, its wait after a failure and its records are by the database's clock."""
    host, groups = site.network.hosts["beta"], (f"CLK{offset_seconds}", f"CLK{offset_seconds}B")
    site.until_service("worker", "beta", lambda each: each.state == "running")
    site.stop_worker(host)
    began = site.now()
    site.start_worker(host, clock_offset_seconds=offset_seconds)
    side = "300 s ahead of" if offset_seconds > 0 else "300 s behind"
    worker = site.until_service("worker", "beta", lambda each: side in each.problem)
    assert worker.state == "running"
    assert 0 <= (worker.seen_seconds_ago or 0.0) < 30
    (site.incoming / "fail-convert-beta").touch()
    site.hold("convert", "alpha")  # so that the other group is its
    site.hold("image", "beta")
    site.spawn(*groups)
    site.at_work("image", "beta")  # it has waited and begun again

    def lease_end() -> datetime:
        (run,) = [
            run
            for group in groups
            for run in site.histories()[group].runs
            if run.state == "running" and str(run.claimed_by).startswith(worker.name)
        ]
        assert run.claim_expires_at is not None
        return run.claim_expires_at

    first = lease_end()
    assert timedelta() < first - site.now() <= timedelta(seconds=LEASE_SECONDS)
    site.until(lambda: lease_end() > first + timedelta(seconds=LEASE_SECONDS), every=0.3)
    site.let_go()
    site.until_completed(*groups)
    ended = site.now()
    for history in (site.histories()[group] for group in groups):
        for start in step_starts(history):
            assert began < start.started_at < (start.ended_at or ended) <= ended
    site.stop_worker(host)
    site.start_worker(host)
    site.until_service("worker", "beta", lambda each: each.health == "ok")
    site.forget_work()
    site.check()


def test_a_host_that_is_rebooted(site: Site) -> None:
    """Its worker takes up what it left; the other host's scratch and runs are not touched."""
    site.hold("image", "alpha", "beta")
    site.spawn("BOOT-1", "BOOT-2")
    for name in OTHER:
        site.at_work("image", name)
    host = site.network.hosts["beta"]
    host.power_off()
    assert site.stage_processes("beta") == []
    assert len(site.stage_processes("alpha")) >= 1
    site.workers.pop("beta").wait()
    worker = site.until_service("worker", "beta", lambda each: each.state == "silent")
    assert "on beta-" in worker.problem
    host.start()
    log = len(site.log_of("beta"))
    site.start_worker(host)
    site.until(lambda: "released orphan" in site.log_of("beta")[log:])
    assert len(site.stage_processes("alpha")) >= 1, "it is another host's"
    site.until_service("worker", "beta", lambda each: each.health == "ok")
    site.let_go()
    site.until_completed("BOOT-1", "BOOT-2")
    site.forget_work()
    site.check()


def test_scratch_of_a_host_is_removed_by_that_host_alone(site: Site) -> None:
    """At the end, two folders of hosts, and nothing in them but the workers' own."""
    scratch = site.root / "out" / "scratch"
    hosts = sorted(path.name for path in scratch.iterdir() if not path.name.startswith("."))
    assert [name.rpartition("-")[0] for name in hosts] == ["alpha", "beta"]
    left = [path for path in scratch.glob("*/worker-1/*") if not path.name.startswith(".")]
    assert left == [], left
    owners = [Path(path) for path in scratch.glob("*/.owners/worker-1.lock")]
    assert len(owners) == 2
    assert site.registry_problems() == []
