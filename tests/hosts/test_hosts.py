"""Workers on two hosts, one database, one shared folder: nothing is lost and nothing done twice.

Both workers have the same id, and locks of the shared folder are not what keeps them apart.
"""

from __future__ import annotations

import sys
import time

from site_of_hosts import LEASE_SECONDS, Site

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
    (site.incoming / f"hold-image-{OTHER[name]}").unlink()
    site.until_completed("CUT")
    host.reconnect()
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
