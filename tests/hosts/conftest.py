"""One network with two hosts for all tests of this folder: what they disturb, they mend."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from small_disk import mounted

sys.path.append(str(Path(__file__).parent))
from network import Network, missing_part
from network_server import NetworkServer
from site_of_hosts import Site

from absurd_contimg.operations.services import initialise
from absurd_contimg.registry import service_records

SILENT_AFTER_SECONDS = 4.0
"""Instead of a minute: the processes of these hosts renew their records each half second."""


@contextmanager
def sigterm_as_exit() -> Iterator[None]:
    """SIGTERM ends pytest as Ctrl-C does: hosts and mounts are removed."""

    def end(number: int, frame: object) -> None:
        pytest.exit(f"ended by {signal.Signals(number).name}", returncode=128 + number)

    previous = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if problem := missing_part():
        pytest.fail(problem, pytrace=False)
    root = tmp_path_factory.mktemp("h")
    with ExitStack() as stack:
        stack.enter_context(sigterm_as_exit())
        network = stack.enter_context(Network())
        server = stack.enter_context(NetworkServer(root / "pg", network.hub))
        urls, others = server.create_database("site"), server.create_database("locked")
        asyncio.run(initialise(urls[0], "dsa110-pipeline"))
        for name in ("alpha", "beta"):  # before the hosts, which see the mounts of their start
            stack.enter_context(mounted(root / "site" / f"state-{name}", 16))
        for name in ("alpha", "beta"):
            network.add_host(name)
        patched = stack.enter_context(pytest.MonkeyPatch.context())
        patched.setattr(service_records, "SILENT_AFTER_SECONDS", SILENT_AFTER_SECONDS)
        site = Site(root / "site", network, urls, others)
        stack.callback(site.close)
        for host in network.hosts.values():
            site.start_worker(host)
        yield site
