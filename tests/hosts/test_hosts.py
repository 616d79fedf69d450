"""Workers on two hosts, one database, one shared folder: nothing is lost and nothing done twice.

Both workers have the same id, and locks of the shared folder are not what keeps them apart.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from site_of_hosts import LEASE_SECONDS, Site

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
    assert site.service("worker", OTHER[name]).health == "ok"
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
    with Database(site.here_locked).writing():
        waited = time.monotonic() - began
    assert 1 < waited < 60
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
    assert f"{state_dir} on {disk.host} has 0.0 GB left" in disk.problem
    before = len(site.stage_log())
    site.spawn("DISK-1", "DISK-2")
    site.until_completed("DISK-1", "DISK-2")
    assert all(line.endswith("alpha") for line in site.stage_log()[before:])
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
