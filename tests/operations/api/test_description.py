"""The API does what its description says, for every request, and loses nothing under load."""

from __future__ import annotations

import asyncio
from pathlib import Path

from api_load import check_load, run_load
from api_search import search, served_site
from search_extent import examples


def test_every_answer_is_as_described_on_the_emulator(tmp_path: Path) -> None:
    """No 5xx, no status and no content that the description does not have."""
    with served_site(tmp_path) as url:
        assert search(url, examples(6), 1) > 50


def test_every_answer_is_as_described_on_postgres(tmp_path: Path, database_url: str) -> None:
    """The same, with other values."""
    with served_site(tmp_path, database_url) as url:
        assert search(url, examples(3), 2) > 25


def test_spawns_of_many_clients_are_neither_lost_nor_done_twice(
    tmp_path: Path, database_url: str
) -> None:
    """Twenty clients with keys of their own and with shared ones."""
    with served_site(tmp_path, database_url) as url:
        load = asyncio.run(run_load(url, 20, 2))
    asyncio.run(check_load(load, database_url))
    assert not load.refused
