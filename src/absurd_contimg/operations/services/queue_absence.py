"""What is said of a queue that is not there: misspelt, or removed from a site that had it."""

from __future__ import annotations

import shlex
from collections.abc import Collection

from absurd_contimg.execution.stage import stage_queues
from absurd_contimg.similar_names import did_you_mean


def absent_queue(queue: str, known: Collection[str], otherwise: str) -> tuple[str, str]:
    """Problem and remedy; `otherwise` where no known queue has a similar name."""
    return removed_queue(queue, known) or (
        f"There is no queue {queue!r}; there are: {', '.join(known) or 'none'}.",
        did_you_mean(queue, known, otherwise),
    )


def removed_queue(queue: str, known: Collection[str]) -> tuple[str, str] | None:
    """Problem and remedy for a queue that is gone, while queues of its stages are there."""
    stages = [each for each in stage_queues(queue).values() if each in known]
    if queue in known or not stages:
        return None
    return (
        f"The queue {queue!r} was removed; those of its stages are there: {', '.join(stages)}.",
        f"To make it, without its former tasks: contimg --queue {shlex.quote(queue)} db init",
    )
