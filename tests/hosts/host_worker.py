"""``contimg`` whose workers have small stages; everything else is production's.

It replaces the list of stages, and shortens the waits: for a disk, and between two records of a
process.
"""

from __future__ import annotations

from functools import partial

from host_stages import STAGES

from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.operations.program import main
from absurd_contimg.operations.services import daemon_service, worker_service
from absurd_contimg.operations.services.service_reporter import ServiceReporter

RENEWAL_SECONDS = 0.5

if __name__ == "__main__":
    worker_service.pipeline_stages = lambda _registry: STAGES
    worker_service.RetryPolicy = partial(  # type: ignore[misc,assignment]
        RetryPolicy, resource_wait_seconds=0.5, resource_wait_limit_seconds=0.5
    )
    for service in (worker_service, daemon_service):
        service.ServiceReporter = partial(  # type: ignore[misc,assignment,attr-defined]
            ServiceReporter, renewal_seconds=RENEWAL_SECONDS, sample_seconds=RENEWAL_SECONDS
        )
    main()
