"""``contimg`` whose workers have small stages; everything else is production's.

It replaces the list of stages, and shortens the waits for a disk.
"""

from __future__ import annotations

from functools import partial

from host_stages import STAGES

from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.operations.program import main
from absurd_contimg.operations.services import worker_service

if __name__ == "__main__":
    worker_service.pipeline_stages = lambda _registry: STAGES
    worker_service.RetryPolicy = partial(RetryPolicy, resource_wait_seconds=0.5)  # type: ignore[misc,assignment]
    main()
