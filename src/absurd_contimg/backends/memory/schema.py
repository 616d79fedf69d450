"""The columns, types, defaults and checks of Absurd's tables, as the schema declares them."""

from __future__ import annotations

from typing import NamedTuple

STATES = ("pending", "running", "sleeping", "completed", "failed", "cancelled")
NOW = "absurd.current_time()"
IDENTIFIER_BYTES_MAX = 63


class Column(NamedTuple):
    """A column; `default` is the schema's text, None without one."""

    name: str
    type_name: str
    nullable: bool = True
    default: str | None = None
    check: tuple[str, ...] | None = None
    check_text: str | None = None


def _columns(text: str) -> tuple[Column, ...]:
    """``name type``, with ``!`` for not null and ``= default``; one a line."""
    found: list[Column] = []
    for line in filter(None, (line.strip() for line in text.splitlines())):
        declared, _, default = line.partition(" = ")
        name, type_name = declared.rstrip("!").split()
        check = STATES if name == "state" and type_name == "text" else None
        found.append(Column(name, type_name, "!" not in declared, default or None, check))
    return tuple(found)


TASKS = _columns(
    f"""
    task_id uuid!
    task_name text!
    params jsonb!
    headers jsonb
    retry_strategy jsonb
    max_attempts int4
    cancellation jsonb
    enqueue_at timestamptz! = {NOW}
    first_started_at timestamptz
    state text!
    attempts int4! = 0
    last_attempt_run uuid
    completed_payload jsonb
    cancelled_at timestamptz
    idempotency_key text
    """
)
RUNS = _columns(
    f"""
    run_id uuid!
    task_id uuid!
    attempt int4!
    state text!
    claimed_by text
    claim_expires_at timestamptz
    available_at timestamptz!
    wake_event text
    event_payload jsonb
    started_at timestamptz
    completed_at timestamptz
    failed_at timestamptz
    result jsonb
    failure_reason jsonb
    created_at timestamptz! = {NOW}
    """
)
CHECKPOINTS = _columns(
    f"""
    task_id uuid!
    checkpoint_name text!
    state jsonb
    status text! = 'committed'
    owner_run_id uuid
    updated_at timestamptz! = {NOW}
    """
)
EVENTS = _columns(
    f"""
    event_name text!
    payload jsonb
    emitted_at timestamptz! = {NOW}
    """
)
WAITS = _columns(
    f"""
    task_id uuid!
    run_id uuid!
    step_name text!
    event_name text!
    timeout_at timestamptz
    created_at timestamptz! = {NOW}
    """
)
KEYS = _columns(
    """
    idempotency_key text!
    task_id uuid!
    """
)
QUEUES = (
    Column("queue_name", "text", nullable=False),
    Column("created_at", "timestamptz", False, NOW),
    Column("storage_mode", "text", False, "'unpartitioned'", ("unpartitioned", "partitioned")),
    Column("default_partition", "text", False, "'enabled'", ("enabled", "disabled")),
    Column("partition_lookahead", "interval", False, "interval '28 days'", None, ">= 0"),
    Column("partition_lookback", "interval", False, "interval '1 day'", None, ">= 0"),
    Column("cleanup_ttl", "interval", False, "interval '30 days'", None, ">= 0"),
    Column("cleanup_limit", "int4", False, "1000", None, ">= 1"),
    Column("detach_mode", "text", False, "'none'", ("none", "empty")),
    Column("detach_min_age", "interval", False, "interval '30 days'", None, ">= 0"),
)

TABLES: dict[str, tuple[Column, ...]] = {
    "t": TASKS,
    "r": RUNS,
    "c": CHECKPOINTS,
    "e": EVENTS,
    "w": WAITS,
    "i": KEYS,
    "queues": QUEUES,
}
"""By the letter before the queue's name; ``queues`` for the table of queues."""

PRIMARY_KEYS: dict[str, tuple[str, ...]] = {
    "t": ("task_id",),
    "r": ("run_id",),
    "c": ("task_id", "checkpoint_name"),
    "e": ("event_name",),
    "w": ("run_id", "step_name"),
    "i": ("idempotency_key",),
    "queues": ("queue_name",),
}

INDEXES: dict[str, dict[str, str]] = {
    "r": {
        "_sai": "(state, available_at)",
        "_ti": "(task_id)",
        "_cei": "(claim_expires_at) where state = 'running' and claim_expires_at is not null",
    },
    "t": {
        "_ci": "(task_id) where cancellation is not null",
    },
    "w": {
        "_eni": "(event_name)",
        "_ti": "(task_id)",
    },
    "e": {
        "_eai": "(emitted_at)",
    },
    "i": {
        "_ti": "(task_id)",
    },
}
"""Indexes beside the primary keys, by the end of their names; the emulator keeps its own."""


def index_names(letter: str, table: str, *, unique_key: bool, detached: bool) -> set[str]:
    """The names of a table's indexes; a detached partition has the ones that Postgres made up."""
    names = {_object_name(table, "", "pkey")}
    if unique_key:
        names.add(_object_name(table, "idempotency_key", "key"))
    for suffix, definition in INDEXES.get(letter, {}).items():
        columns = definition[1 : definition.index(")")].replace(", ", "_")
        names.add(_object_name(table, columns, "idx") if detached else f"{table}{suffix}")
    return names


def _object_name(table: str, columns: str, label: str) -> str:
    """``table_columns_label``, the longer part cut until the name fits, as Postgres does."""
    parts = [table.encode(), columns.encode()]
    room = IDENTIFIER_BYTES_MAX - len(label) - 1 - bool(columns)
    while len(parts[0]) + len(parts[1]) > room:
        longer = 0 if len(parts[0]) > len(parts[1]) else 1
        parts[longer] = parts[longer][:-1]
    shown = [part.decode(errors="ignore") for part in parts if part]
    return "_".join([*shown, label])
