"""What is shown beside production: files of histories and finished simulations."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from dashboard_sites import DIED, HOSTILE, NIGHT, QUEUE, LivelySite, lively_site

from absurd_contimg.errors import MissingInputError
from absurd_contimg.history.history_file import write_histories
from absurd_contimg.operations.api import AccessRules
from absurd_contimg.operations.dashboard import (
    Source,
    history_source,
    make_app,
    simulation_source,
)
from absurd_contimg.operations.dashboard.frame import MENU
from absurd_contimg.simulation.campaign.stored_runs import StoredRun
from absurd_contimg.simulation.model.world import EPOCH


@pytest.fixture(scope="module")
def lively(tmp_path_factory: pytest.TempPathFactory) -> LivelySite:
    """What was recorded."""
    return asyncio.run(lively_site(tmp_path_factory.mktemp("site"), with_products=False))


@pytest.fixture
async def recorded(lively: LivelySite, tmp_path: Path) -> Path:
    """A file of all its histories."""
    backend, path = lively.backend, tmp_path / "run-1.histories.gz"
    ids = [task.task_id for task in await backend.list_tasks(QUEUE)]
    histories = await backend.histories(QUEUE, ids)
    write_histories(path, histories, read_at=await backend.current_time())
    return path


async def pages_of(source: Source, *more: str) -> dict[str, str]:
    """All pages by their addresses, and some more; each answers."""
    transport = httpx.ASGITransport(make_app(source, AccessRules()), raise_app_exceptions=True)
    pages = {}
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for address in ("/waiting", *(address for _, address, _ in MENU), *more):
            response = await client.get(address)
            assert response.status_code == 200, address
            pages[address] = response.text
        assert (await client.get("/live")).status_code == 404
        form = {"Sec-Fetch-Site": "same-origin"}
        assert (await client.post(f"/queues/{QUEUE}/pause", headers=form)).status_code == 403
    return pages


async def test_file_of_histories(lively: LivelySite, recorded: Path) -> None:
    task = f"/tasks/{QUEUE}/{lively.tasks[DIED]}"
    pages = await pages_of(history_source(recorded), task, f"/nights/{NIGHT}")
    assert "its worker died" in pages[task]
    assert DIED in pages[f"/nights/{NIGHT}"]
    assert "a recorded state: nothing changes" in pages["/"]
    assert f"history file {recorded.name}" in pages["/"]
    assert all("<img src=x" not in text for text in pages.values())
    assert HOSTILE.partition(" ")[0].replace("<", "&lt;") in pages["/tasks"]


async def test_finished_simulation(lively: LivelySite, recorded: Path) -> None:
    """With its faults beside the steps of the workers; its second run is not there."""
    at = await lively.backend.current_time() - timedelta(minutes=1)
    fault = f"kill-1@{(at - EPOCH).total_seconds()}/30"
    run = StoredRun(1, "bad_night", "bad night", 7, recorded.name, fault, ("late",))
    (recorded.parent / "runs.json").write_text(json.dumps([asdict(run)]))
    pages = await pages_of(simulation_source(recorded.parent))
    assert "simulation bad night, seed 7, 1 violations" in pages["/"]
    assert "kill of 1" in pages["/workers"]
    with pytest.raises(MissingInputError, match="no run 2"):
        simulation_source(recorded.parent, 2)
    with pytest.raises(MissingInputError, match="no finished simulation"):
        simulation_source(recorded.parent / "nothing")
