"""What an installation runs: its database, its workers, their disk guard, quarantine.

What is asked for is imported then: all of it takes most of a second, and few commands need it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from absurd_contimg.imports_on_use import imports_on_use

if TYPE_CHECKING:
    from absurd_contimg.operations.services.action_records import (
        ActionRecords,
        Source,
        operator_name,
        reopen_group,
        unrecorded_action,
    )
    from absurd_contimg.operations.services.actions import Actions
    from absurd_contimg.operations.services.batch_actions import BatchActions
    from absurd_contimg.operations.services.batch_service import (
        BatchSummary,
        batch_steps,
        cancel_batch,
        named_items,
        plan_selection,
        read_batch,
        read_open_names,
        recent_histories,
    )
    from absurd_contimg.operations.services.cancellation import cancel
    from absurd_contimg.operations.services.daemon_service import (
        closing_rules,
        follow,
        poll_once,
        serve_daemon,
    )
    from absurd_contimg.operations.services.database import database_url, initialise, open_backend
    from absurd_contimg.operations.services.disk_guard import worker_notes
    from absurd_contimg.operations.services.image_comparison import (
        ImageComparison,
        ImageVersion,
        compare_images,
    )
    from absurd_contimg.operations.services.mosaic_plans import MosaicPlan, plan_of, spawn_mosaic
    from absurd_contimg.operations.services.new_sources import find_new_sources
    from absurd_contimg.operations.services.preconditions import (
        check_mosaic,
        check_spawn,
        check_worker,
    )
    from absurd_contimg.operations.services.publications import (
        RetriedPublication,
        is_gone,
        refusal,
        retry_publication,
        select_publications,
    )
    from absurd_contimg.operations.services.quarantine import (
        release,
        retry_all_failed,
        retry_failed,
        to_be_retried,
    )
    from absurd_contimg.operations.services.queue_absence import absent_queue, removed_queue
    from absurd_contimg.operations.services.registry_tables import (
        GivenTables,
        Hindrances,
        SiteTables,
        Tables,
        enter_stop_notes,
        has_registry,
        open_tables,
        read_hindrances,
    )
    from absurd_contimg.operations.services.service_manager import ServiceManager
    from absurd_contimg.operations.services.service_reporter import ServiceIdentity, ServiceReporter
    from absurd_contimg.operations.services.service_state import LoopState
    from absurd_contimg.operations.services.service_watch import reported
    from absurd_contimg.operations.services.site_clock import read_site_time
    from absurd_contimg.operations.services.site_identity import (
        note_restored,
        require_only_registry,
        require_own_site,
        require_registry_of_site,
        take_queue,
    )
    from absurd_contimg.operations.services.source_light_curves import (
        find_source,
        light_curve,
        light_curves,
        sources_around,
        under_one_name,
    )
    from absurd_contimg.operations.services.state_check import exposed_state, require_own_state
    from absurd_contimg.operations.services.stream_audit import audit_stream
    from absurd_contimg.operations.services.worker_identity import given_worker_id
    from absurd_contimg.operations.services.worker_service import (
        make_policy,
        open_registry,
        serve,
        stop_signals,
    )

__all__ = [
    "ActionRecords",
    "Actions",
    "BatchActions",
    "BatchSummary",
    "GivenTables",
    "Hindrances",
    "ImageComparison",
    "ImageVersion",
    "LoopState",
    "MosaicPlan",
    "RetriedPublication",
    "ServiceIdentity",
    "ServiceManager",
    "ServiceReporter",
    "SiteTables",
    "Source",
    "Tables",
    "absent_queue",
    "audit_stream",
    "batch_steps",
    "cancel",
    "cancel_batch",
    "check_mosaic",
    "check_spawn",
    "check_worker",
    "closing_rules",
    "compare_images",
    "database_url",
    "enter_stop_notes",
    "exposed_state",
    "find_new_sources",
    "find_source",
    "follow",
    "given_worker_id",
    "has_registry",
    "initialise",
    "is_gone",
    "light_curve",
    "light_curves",
    "make_policy",
    "named_items",
    "note_restored",
    "open_backend",
    "open_registry",
    "open_tables",
    "operator_name",
    "plan_of",
    "plan_selection",
    "poll_once",
    "read_batch",
    "read_hindrances",
    "read_open_names",
    "read_site_time",
    "recent_histories",
    "refusal",
    "release",
    "removed_queue",
    "reopen_group",
    "reported",
    "require_only_registry",
    "require_own_site",
    "require_own_state",
    "require_registry_of_site",
    "retry_all_failed",
    "retry_failed",
    "retry_publication",
    "select_publications",
    "serve",
    "serve_daemon",
    "sources_around",
    "spawn_mosaic",
    "stop_signals",
    "take_queue",
    "to_be_retried",
    "under_one_name",
    "unrecorded_action",
    "worker_notes",
]

__getattr__ = imports_on_use(__name__)
