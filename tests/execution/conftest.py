"""The two ways in which a stage's process starts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from search_extent import is_search
from stage_executors import server_in, servers


@pytest.fixture(params=["server", "process"][: 2 if is_search() else 1], scope="module")
def start(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Makes `stage_executors.isolated` start them so.

    By themselves they start in `make test` where the server cannot: `test_stage_server.py`.
    """
    if request.param == "server":
        with server_in(tmp_path_factory.mktemp("server")) as server:
            servers.append(server)
            yield "server"
            servers.clear()
    else:
        yield "process"
