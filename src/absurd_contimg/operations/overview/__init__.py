"""What is known of a site at one moment, for everything that shows or judges it."""

from absurd_contimg.operations.overview.records import (
    DataOverview,
    DiskOverview,
    GroupOverview,
    Health,
    ImageQuality,
    QueueOverview,
    RunningStep,
    ServiceOverview,
    SiteOverview,
    WaitingTask,
)

__all__ = [
    "DataOverview",
    "DiskOverview",
    "GroupOverview",
    "Health",
    "ImageQuality",
    "QueueOverview",
    "RunningStep",
    "ServiceOverview",
    "SiteOverview",
    "WaitingTask",
]
