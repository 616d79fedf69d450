"""The typed client of the HTTP API, and the records that API and client exchange."""

from absurd_contimg.operations.client.records import (
    ForkEntry,
    HealthEntry,
    Message,
    Page,
    PauseEntry,
    Problem,
    QueueEntry,
    SpawnedEntry,
    StepEntry,
    TaskDetail,
    TaskEntry,
)

__all__ = [
    "ForkEntry",
    "HealthEntry",
    "Message",
    "Page",
    "PauseEntry",
    "Problem",
    "QueueEntry",
    "SpawnedEntry",
    "StepEntry",
    "TaskDetail",
    "TaskEntry",
]
