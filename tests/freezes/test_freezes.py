"""A few random freezes; the campaign has more: ``cd tests; python -m freezes``."""

from __future__ import annotations

from pathlib import Path

from .campaign import LEASE_SECONDS, POLL_SECONDS, STOP_SECONDS, run_campaign

LOADED_SECONDS = 5.0
"""How much later everything may be on a loaded machine."""


async def test_nothing_runs_past_its_lease_and_nobody_stays_deaf(
    database_url: str, tmp_path: Path
) -> None:
    result = await run_campaign(database_url, tmp_path, 8, seed=1, lanes=4)
    print(result)
    assert (result.freezes, result.not_completed, result.overlaps) == (8, 0, 0)
    assert result.past_lease_seconds <= 1.0
    assert max(result.deaf_seconds, default=0.0) <= POLL_SECONDS + LOADED_SECONDS
    silent = LEASE_SECONDS / 3 + POLL_SECONDS
    assert max(result.silent_seconds, default=0.0) <= silent + LOADED_SECONDS
    assert max(result.stop_seconds) <= STOP_SECONDS + LOADED_SECONDS
