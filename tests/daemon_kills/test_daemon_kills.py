"""The daemon killed by SIGKILL while files arrive; `python -m daemon_kills` does it 20 times."""

from __future__ import annotations

from pathlib import Path

from .campaign import NightRun, expected_state


async def test_a_killed_daemon_loses_nothing_and_does_nothing_twice(
    tmp_path: Path, database_url: str
) -> None:
    night = NightRun(tmp_path / "site", database_url, kills=1, seed=3)
    assert await night.run() == expected_state()
    assert night.killed_at_work == 1
