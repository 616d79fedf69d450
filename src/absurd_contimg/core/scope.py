"""What the context of a run needs to know of the worker that runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.lease import Lease


@dataclass(frozen=True, slots=True)
class RunScope:
    """One worker's side of one run."""

    backend: Backend
    queue_name: str
    worker_id: str
    claim_timeout_seconds: int
    lease: Lease
    stopping: Callable[[], bool]
    """Whether the worker is about to stop: nothing long is to be begun then."""
    poison_limit: int
    strict_steps: bool = False
