"""The mosaic task explored: a fault at every crash point of production's own worker."""

from __future__ import annotations

from typing import Any

from absurd_contimg.simulation.exploration.explorer import baseline, explore
from absurd_contimg.simulation.exploration.mosaic_workflows import GROUPS, mosaic_spec
from absurd_contimg.simulation.model.faults import FaultKind

FAULTS = (FaultKind.KILL, FaultKind.PAUSE)
"""The publication is explored with more of them in `test_publication_crashes.py`."""


def test_two_images_become_one_published_mosaic() -> None:
    """Without a fault; the group without an image and the one left out are named."""
    outcome, (history,) = baseline(mosaic_spec())
    assert outcome.violations == ()
    result: Any = history.task.completed_payload
    assert (result["verdict"], result["publication"]["published"]) == ("accepted", True)
    names = [checkpoint.checkpoint_name for checkpoint in history.checkpoints]
    assert [name for name in names if not name.startswith("$")] == [
        "members", "mosaic", "photometry", "publication",
    ]  # fmt: skip
    members: Any = history.checkpoints[names.index("members")].state
    assert [tile["group_id"] for tile in members["tiles"]] == list(GROUPS)
    assert {each["group_id"]: each["reason"] for each in members["missing"]} == {
        "2025-01-15T10:10:18": "it has no image yet",
        "2025-01-15T10:15:27": "it failed",
    }


def test_every_fault_at_every_crash_point() -> None:
    """Every future keeps every invariant and ends as without the fault: one product, one copy."""
    exploration = explore(mosaic_spec(), faults=FAULTS)
    assert not exploration.findings, str(exploration.findings[0])
    assert exploration.futures > 60
