"""What is known of a site at one moment, for everything that shows or judges it."""

from absurd_contimg.operations.overview.local_processes import workers_of_earlier_names
from absurd_contimg.operations.overview.read import (
    RECENT_SECONDS,
    problem_of_changes,
    read_context,
    read_context_and_groups,
    read_local_disks,
    read_site,
    read_site_and_context,
)
from absurd_contimg.operations.overview.records import (
    DataOverview,
    DiskOverview,
    GroupOverview,
    Health,
    ImageQuality,
    QueueOverview,
    RunningStep,
    ServiceOverview,
    Shortage,
    SiteOverview,
    WaitingTask,
)
from absurd_contimg.operations.overview.services import FORGOTTEN_HOURS
from absurd_contimg.operations.overview.shortages import read_shortage_problem
from absurd_contimg.operations.overview.site import Site, open_site, production_site
from absurd_contimg.operations.overview.threads import in_thread

__all__ = [
    "FORGOTTEN_HOURS",
    "RECENT_SECONDS",
    "DataOverview",
    "DiskOverview",
    "GroupOverview",
    "Health",
    "ImageQuality",
    "QueueOverview",
    "RunningStep",
    "ServiceOverview",
    "Shortage",
    "Site",
    "SiteOverview",
    "WaitingTask",
    "in_thread",
    "open_site",
    "problem_of_changes",
    "production_site",
    "read_context",
    "read_context_and_groups",
    "read_local_disks",
    "read_shortage_problem",
    "read_site",
    "read_site_and_context",
    "workers_of_earlier_names",
]
