"""One network with two hosts for all tests of this folder: what they disturb, they mend."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from small_disk import mounted

sys.path.append(str(Path(__file__).parent))
from network import Network
from network_server import NetworkServer
from site_of_hosts import Site

from absurd_contimg.operations.services import initialise


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("h")
    with ExitStack() as stack:
        network = stack.enter_context(Network())
        server = stack.enter_context(NetworkServer(root / "pg", network.hub))
        urls, others = server.create_database("site"), server.create_database("locked")
        asyncio.run(initialise(urls[0], "dsa110-pipeline"))
        for name in ("alpha", "beta"):  # before the hosts, which see the mounts of their start
            stack.enter_context(mounted(root / "site" / f"state-{name}", 16))
        for name in ("alpha", "beta"):
            network.add_host(name)
        site = Site(root / "site", network, urls, others)
        stack.callback(site.close)
        for host in network.hosts.values():
            site.start_worker(host)
        yield site
