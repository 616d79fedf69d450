"""Names of checkpoints in words."""

from __future__ import annotations

from absurd_contimg.core.step_names import (
    EVENT_PREFIX,
    RESULT_PREFIX,
    SPAWN_PREFIX,
    TIMEOUT_PREFIX,
)


def checkpoint_text(checkpoint_name: str) -> str:
    """A checkpoint as a person knows it: ``child part``, ``event go``, ``result of task 816c``."""
    name = checkpoint_name
    late = " (timed out)" if name.startswith(TIMEOUT_PREFIX) else ""
    name = name.removeprefix(TIMEOUT_PREFIX)
    if name.startswith(RESULT_PREFIX):
        return f"result of task {name[-12:]}{late}"
    for prefix, word in ((SPAWN_PREFIX, "child"), (EVENT_PREFIX, "event")):
        if name.startswith(prefix):
            return f"{word} {name.removeprefix(prefix)}{late}"
    return name + late
