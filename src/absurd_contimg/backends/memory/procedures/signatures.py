"""Every function of the schema ``absurd`` with its parameters, defaults and columns.

The SQL layer resolves calls by this table, and the drift test holds it against the schema of the
installed ``absurdctl``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from absurd_contimg.backends.memory.procedures import (
    cancellation,
    checkpoints,
    cleanup,
    cron,
    events,
    partitions,
    queues,
    registry,
    runs,
    tasks,
)
from absurd_contimg.backends.memory.transaction import Transaction

SCHEMA_VERSION = "0.5.1"
NO_DEFAULT = "(none)"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter; `default` is the schema's text, `value` what it stands for."""

    name: str
    type_name: str
    default: str = NO_DEFAULT
    value: Any = None

    @property
    def has_default(self) -> bool:
        """Whether a call may leave it out."""
        return self.default != NO_DEFAULT


@dataclass(frozen=True, slots=True)
class Procedure:
    """A function: one value of type `returns`, or rows of `columns` (name, type)."""

    name: str
    parameters: tuple[Parameter, ...]
    returns: str
    columns: tuple[tuple[str, str], ...]
    run: Callable[..., Any]
    many: bool
    strict: bool


def _parameters(text: str) -> tuple[Parameter, ...]:
    """``name type`` or ``name type = default``, separated by semicolons."""
    found: list[Parameter] = []
    for part in filter(None, (part.strip() for part in text.split(";"))):
        declared, _, default = part.partition(" = ")
        name, type_name = declared.split()
        if not default:
            found.append(Parameter(f"p_{name}", type_name))
            continue
        value: Any = default.strip("'")
        if default == "null":
            value = None
        elif default in ("true", "false"):
            value = default == "true"
        elif default.isdigit():
            value = int(default)
        found.append(Parameter(f"p_{name}", type_name, default, value))
    return tuple(found)


def _columns(text: str) -> tuple[tuple[str, str], ...]:
    pairs = [part.split() for part in text.split(";")]
    return tuple((name, type_name) for name, type_name in pairs)


PROCEDURES: dict[str, list[Procedure]] = {}


def _define(
    name: str,
    parameters: str,
    returns: str,
    run: Callable[..., Any],
    *,
    many: bool = False,
    strict: bool = False,
) -> None:
    """Add a function; `returns` with a space in it lists columns."""
    columns = _columns(returns) if " " in returns else ()
    procedure = Procedure(
        name, _parameters(parameters), "record" if columns else returns, columns, run, many, strict
    )
    PROCEDURES.setdefault(name, []).append(procedure)


_SPAWNED = "task_id uuid; run_id uuid; attempt int4; created bool"
_CHECKPOINT = (
    "checkpoint_name text; state jsonb; status text; owner_run_id uuid; updated_at timestamptz"
)


def _portable_uuidv7(tx: Transaction) -> int:
    return tx.session.next_uuid()


def _current_time(tx: Transaction) -> int:
    return tx.session.current_time()


def _schema_version(_: Transaction) -> str:
    return SCHEMA_VERSION


def _retry_delay_seconds(_: Transaction, strategy: str | None, attempt: int | None) -> float | None:
    return tasks.retry_delay_seconds(strategy, attempt)


def _validate_queue_name(_: Transaction, queue: str | None) -> str:
    return registry.validate_queue_name(queue)


def _uuidv7_timestamp(_: Transaction, value: int | None) -> int | None:
    return partitions.uuidv7_timestamp(value)


def _week_bucket_utc(_: Transaction, time: int | None) -> int | None:
    return partitions.week_bucket_utc(time)


def _partition_week_tag(_: Transaction, time: int | None) -> str | None:
    return partitions.partition_week_tag(time)


def _list_queues(tx: Transaction) -> list[tuple[str]]:
    return [(name,) for name in queues.list_queues(tx)]


_define("current_time", "", "timestamptz", _current_time)
_define("retry_delay_seconds", "strategy jsonb; attempt int4", "float8", _retry_delay_seconds)
_define("get_schema_version", "", "text", _schema_version)
_define("validate_queue_name", "queue_name text", "text", _validate_queue_name)
_define("ensure_queue_tables", "queue_name text", "void", queues.ensure_queue_tables)
_define("create_queue", "queue_name text; storage_mode text", "void", queues.create_queue)
_define("create_queue", "queue_name text", "void", queues.create_queue)
_define("drop_queue", "queue_name text", "void", queues.drop_queue)
_define("list_queues", "", "queue_name text", _list_queues, many=True)
_define(
    "get_queue_policy",
    "queue_name text",
    "queue_name text; storage_mode text; default_partition text; partition_lookahead interval; "
    "partition_lookback interval; cleanup_ttl interval; cleanup_limit int4; detach_mode text; "
    "detach_min_age interval",
    queues.get_queue_policy,
    many=True,
)
_define("set_queue_policy", "queue_name text; policy jsonb", "void", queues.set_queue_policy)
_define(
    "get_task_result",
    "queue_name text; task_id uuid",
    "task_id uuid; state text; result jsonb; failure_reason jsonb",
    cleanup.get_task_result,
    many=True,
)
_define(
    "spawn_task",
    "queue_name text; task_name text; params jsonb; options jsonb = '{}'",
    _SPAWNED,
    tasks.spawn_task,
)
_define(
    "claim_task",
    "queue_name text; worker_id text; claim_timeout int4 = 30; qty int4 = 1",
    "run_id uuid; task_id uuid; attempt int4; task_name text; params jsonb; "
    "retry_strategy jsonb; max_attempts int4; headers jsonb; wake_event text; event_payload jsonb",
    runs.claim_task,
    many=True,
)
_define(
    "complete_run",
    "queue_name text; run_id uuid; state jsonb = null",
    "void",
    runs.complete_run,
)
_define(
    "schedule_run",
    "queue_name text; run_id uuid; wake_at timestamptz",
    "void",
    runs.schedule_run,
)
_define(
    "fail_run",
    "queue_name text; run_id uuid; reason jsonb; retry_at timestamptz = null",
    "void",
    runs.fail_run,
)
_define(
    "retry_task",
    "queue_name text; task_id uuid; options jsonb = '{}'",
    _SPAWNED,
    tasks.retry_task,
)
_define(
    "set_task_checkpoint_state",
    "queue_name text; task_id uuid; step_name text; state jsonb; owner_run uuid; "
    "extend_claim_by int4 = null",
    "void",
    checkpoints.set_task_checkpoint_state,
)
_define(
    "extend_claim",
    "queue_name text; run_id uuid; extend_by int4",
    "void",
    runs.extend_claim,
)
_define(
    "get_task_checkpoint_state",
    "queue_name text; task_id uuid; step_name text; include_pending bool = false",
    _CHECKPOINT,
    checkpoints.get_task_checkpoint_state,
    many=True,
)
_define(
    "get_task_checkpoint_states",
    "queue_name text; task_id uuid; run_id uuid",
    _CHECKPOINT,
    checkpoints.get_task_checkpoint_states,
    many=True,
)
_define(
    "await_event",
    "queue_name text; task_id uuid; run_id uuid; step_name text; event_name text; "
    "timeout int4 = null",
    "should_suspend bool; payload jsonb",
    events.await_event,
)
_define(
    "emit_event",
    "queue_name text; event_name text; payload jsonb = null",
    "void",
    events.emit_event,
)
_define("cancel_task", "queue_name text; task_id uuid", "void", cancellation.cancel_task)
_define(
    "cleanup_all_queues",
    "queue_name text = null",
    "queue_name text; tasks_deleted int4; events_deleted int4",
    cleanup.cleanup_all_queues,
    many=True,
)
_define(
    "cleanup_tasks",
    "queue_name text; ttl_seconds int4; limit int4 = 1000",
    "int4",
    cleanup.cleanup_tasks,
)
_define(
    "cleanup_events",
    "queue_name text; ttl_seconds int4; limit int4 = 1000",
    "int4",
    cleanup.cleanup_events,
)
_define("portable_uuidv7", "", "uuid", _portable_uuidv7)
_define("uuidv7_timestamp", "id uuid", "timestamptz", _uuidv7_timestamp, strict=True)
_define("uuidv7_floor", "ts timestamptz", "uuid", partitions.uuidv7_floor, strict=True)
_define("week_bucket_utc", "ts timestamptz", "timestamptz", _week_bucket_utc, strict=True)
_define("partition_week_tag", "ts timestamptz", "text", _partition_week_tag, strict=True)
_define("ensure_partitions", "queue_name text = null", "void", partitions.ensure_partitions)
_define(
    "list_detach_candidates",
    "queue_name text = null",
    "queue_name text; parent_table text; partition_table text",
    partitions.list_detach_candidates,
    many=True,
)
_define(
    "drop_detached_partition",
    "partition_table text; unschedule_job_name text = null",
    "bool",
    partitions.drop_detached_partition,
)
_define(
    "schedule_detach_jobs",
    "queue_name text = null",
    "job_name text; job_id int8; queue_name text; partition_table text; job_kind text",
    cron.schedule_detach_jobs,
    many=True,
)
_define(
    "enable_cron",
    "queue_name text = null; partition_schedule text = '5 * * * *'; "
    "cleanup_schedule text = '17 * * * *'; detach_schedule text = '29 * * * *'",
    "job_name text; job_id int8",
    cron.enable_cron,
    many=True,
)
_define(
    "disable_cron",
    "queue_name text = null",
    "job_name text; job_id int8",
    cron.disable_cron,
    many=True,
)
