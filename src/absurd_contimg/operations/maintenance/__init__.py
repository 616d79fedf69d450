"""What is done to a site from time to time, and in an emergency: retention, clean-up, backup, stop.

Everything can be killed at any point and repeated, and two at once do no harm. Nothing here shows
anything: that is for the commands.
"""

from absurd_contimg.operations.maintenance.archive import (
    CleanedQueue,
    archive_histories,
    clean_queue,
    histories_in_pages,
    old_histories,
    write_dump,
)
from absurd_contimg.operations.maintenance.backup import make_backup, restore_backup
from absurd_contimg.operations.maintenance.backup_folder import Backup, read_backup
from absurd_contimg.operations.maintenance.emergency import (
    ClearedQueue,
    StoppedQueue,
    clear_queue,
    end_stops,
    give_back_running,
    only_reset,
    pause_queues,
    running_tasks,
    site_queues,
    stop_queues,
    wait_until_idle,
)
from absurd_contimg.operations.maintenance.files import OldFile
from absurd_contimg.operations.maintenance.needs import Needs, needs_of, read_needs
from absurd_contimg.operations.maintenance.restoration_guard import (
    require_no_other_queues,
    require_stopped,
)
from absurd_contimg.operations.maintenance.retention import (
    OldProduct,
    RetentionPlan,
    RetentionReport,
    plan_retention,
    run_retention,
)
from absurd_contimg.operations.maintenance.schema_replacement import what_would_go
from absurd_contimg.operations.maintenance.site import (
    ARCHIVE,
    SitePlan,
    SiteReport,
    clean_queues,
    plan_site,
    require_recent_work,
    run_site,
)
from absurd_contimg.operations.maintenance.vacuum import vacuum

__all__ = [
    "ARCHIVE",
    "Backup",
    "CleanedQueue",
    "ClearedQueue",
    "Needs",
    "OldFile",
    "OldProduct",
    "RetentionPlan",
    "RetentionReport",
    "SitePlan",
    "SiteReport",
    "StoppedQueue",
    "archive_histories",
    "clean_queue",
    "clean_queues",
    "clear_queue",
    "end_stops",
    "give_back_running",
    "histories_in_pages",
    "make_backup",
    "needs_of",
    "old_histories",
    "only_reset",
    "pause_queues",
    "plan_retention",
    "plan_site",
    "read_backup",
    "read_needs",
    "require_no_other_queues",
    "require_recent_work",
    "require_stopped",
    "restore_backup",
    "run_retention",
    "run_site",
    "running_tasks",
    "site_queues",
    "stop_queues",
    "vacuum",
    "wait_until_idle",
    "what_would_go",
    "write_dump",
]
