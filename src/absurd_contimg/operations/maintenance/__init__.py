"""What is done to a site from time to time, and in an emergency: retention, clean-up, backup, stop.

Everything can be killed at any point and repeated, and two at once do no harm. Nothing here shows
anything: that is for the commands.
"""

from absurd_contimg.operations.maintenance.archive import (
    CleanedQueue,
    archive,
    clean_queue,
    histories_in_pages,
    old_histories,
    write_dump,
)
from absurd_contimg.operations.maintenance.emergency import (
    ClearedQueue,
    clear_queue,
    pause_queues,
    resume_queues,
    running_tasks,
    site_queues,
    wait_until_idle,
)

__all__ = [
    "CleanedQueue",
    "ClearedQueue",
    "archive",
    "clean_queue",
    "clear_queue",
    "histories_in_pages",
    "old_histories",
    "pause_queues",
    "resume_queues",
    "running_tasks",
    "site_queues",
    "wait_until_idle",
    "write_dump",
]
