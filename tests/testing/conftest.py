"""What the tests of the simulation share."""

from __future__ import annotations

import asyncio

import pytest

from absurd_contimg.core.lease import Lease


@pytest.fixture(autouse=True)
def keeper_counts_from_the_claim(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease keeper as it has to be, until core has it; `test_found` shows why.

    Core's keeper sleeps a third of the lease from its own first step, whenever that is, instead
    of from the claim. With the mark `as_core_is` nothing is put in its place.
    """
    if request.node.get_closest_marker("as_core_is") is None:
        monkeypatch.setattr(Lease, "keep", _keep)


async def _keep(self: Lease) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due = self._ends_at - self._seconds * 2 / 3
        await asyncio.sleep(max(due - loop.time(), 0.0))
        await self.extend()


def pytest_configure(config: pytest.Config) -> None:
    """The mark of tests that run core as it is, faults included."""
    config.addinivalue_line("markers", "as_core_is: do not put the corrected lease keeper in")
