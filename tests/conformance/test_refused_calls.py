# ruff: noqa: E501 - a call is one line
"""What a procedure looks at before it refuses: arguments before writes, and what a name belongs to."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from conformance.test_parsing import Sides, check

ID = "'019432e1-5c00-7000-8000-000000000000'"
LONG = "x" * 57


@pytest.fixture(scope="module")
def queues(sides: Sides) -> Sides:
    """A queue of each storage mode, a task, detached partitions, and names that are cut."""
    for connection in sides:
        for text in (
            "select absurd.create_queue('q'), absurd.create_queue('pq', 'partitioned')",
            f"select absurd.create_queue('{LONG}')",
            "select absurd.spawn_task('q', 'task', '{}')",
            "select absurd.create_queue('parts', 'partitioned')",
            "select absurd.spawn_task('parts', 'task', '{}')",
            "alter table absurd.t_pq detach partition absurd.t_pq_d",
            "alter table absurd.w_pq detach partition absurd.w_pq_d",
        ):
            connection.execute(text)
    return sides


@pytest.fixture
def read_only(queues: Sides) -> Iterator[Sides]:
    """The same, where nothing may be written."""
    for connection in queues:
        connection.execute("set default_transaction_read_only = on")
    yield queues
    for connection in queues:
        connection.execute("reset default_transaction_read_only")


CALLS = (
    "spawn_task('q', '', '{}')", "spawn_task('q', 'a', '{}', '{\"max_attempts\": 0}')",
    "spawn_task('none', 'a', '{}')", "spawn_task('q', 'a', '{}')",
    "spawn_task('q', 'a', '{}', '{\"idempotency_key\": \"k\"}')",
    "spawn_task('pq', 'a', '{}', '{\"idempotency_key\": \"k\"}')",
    "claim_task('q', 'w')", "claim_task('none', 'w')", "claim_task(null, 'w')",
    f"complete_run('q', {ID})", f"complete_run('none', {ID})", f"schedule_run('q', {ID}, now())",
    f"fail_run('q', {ID}, '{{}}')", f"extend_claim('q', {ID}, 0)", f"extend_claim('q', {ID}, 1)",
    f"retry_task('q', {ID}, '{{\"max_attempts\": 0}}')", f"retry_task('q', {ID})",
    f"cancel_task('q', {ID})", f"cancel_task(null, {ID})",
    f"set_task_checkpoint_state('q', {ID}, ' ', '{{}}', {ID})",
    f"set_task_checkpoint_state('q', {ID}, 's', '{{}}', {ID})",
    "set_task_checkpoint_state('q', task_id, 's', '{}', run_id) from absurd.r_q",
    "set_task_checkpoint_state('q', task_id, 's', '{}', run_id, 5) from absurd.r_q",
    f"await_event('q', {ID}, {ID}, 's', '')", f"await_event('q', {ID}, {ID}, 's', 'e', -1)",
    f"await_event('q', {ID}, {ID}, 's', 'e')", "emit_event('q', ' ')", "emit_event('q', 'e')",
    "emit_event('none', 'e')", "create_queue('')", "create_queue('x', 'y')", "create_queue('x')",
    "create_queue('q')", "ensure_queue_tables('')", "ensure_queue_tables('q')", "ensure_partitions('')",
    "ensure_partitions('q')", "ensure_partitions('none')", "ensure_partitions('pq')", "drop_queue('none')",
    "drop_queue('q')", "drop_detached_partition('')", "drop_detached_partition('none')",
    "drop_detached_partition('t_pq_d')", "drop_detached_partition('c_pq_d')",
    "drop_detached_partition('queues_pkey')", "cleanup_tasks('q', -1)", "cleanup_tasks('q', 1)",
    "cleanup_tasks('none', 1)", "cleanup_events('q', -1)", "cleanup_events('q', 1)",
    "cleanup_all_queues('none')", "cleanup_all_queues('q')", "set_queue_policy('q', '{\"x\": 1}')",
    "set_queue_policy('q', '{\"cleanup_limit\": 0}')", "set_queue_policy('none', '{}')",
    "list_queues()", "get_queue_policy('q')", f"get_task_result('q', {ID})", "enable_cron()",
)  # fmt: skip
"""Every procedure that writes, with good arguments and with bad ones."""


@pytest.mark.parametrize("call", CALLS)
def test_arguments_are_checked_before_a_write_is_refused(read_only: Sides, call: str) -> None:
    """The first command that would write is named, and what is checked before it comes first."""
    check(read_only, f"select absurd.{call}")


@pytest.mark.parametrize("strength", ["update", "no key update", "share", "key share"])
def test_locking_rows_is_a_write_by_its_name(read_only: Sides, strength: str) -> None:
    """The lock that a query asks for is named where nothing may be written."""
    check(read_only, f"select state from absurd.t_q for {strength}")


def test_the_partition_of_a_locked_row_is_named(queues: Sides) -> None:
    """``nowait`` tells which relation holds the row that it could not lock."""
    real, mine = queues
    with psycopg.connect(real.info.dsn) as first, mine.db.connect() as second:
        for connection in (first, second):
            connection.execute("select state from absurd.r_parts for update")
        check(queues, "select state from absurd.r_parts for update nowait")


CHAINS = (
    ("commit and chain",), ("abort and chain",), ("commit and no chain",),
    ("begin read only", "commit and chain"), ("begin read only", "select 1 / 0", "end and chain"),
    ("begin", "savepoint a", "set transaction read only", "rollback and chain"),
    ("begin", "savepoint a", "set transaction read only", "commit and chain"),
    ("begin read only", "savepoint a", "select 1 / 0", "rollback and chain"),
    ("begin read only", "commit and chain", "select 1 / 0", "rollback and chain"),
)  # fmt: skip


@pytest.mark.parametrize("texts", CHAINS)
def test_chains(sides: Sides, texts: tuple[str, ...]) -> None:
    """``and chain`` wants a transaction, and hands on whether it may only read."""
    for text in (*texts, "show transaction_read_only", "rollback"):
        check(sides, text)


INDEXES = (
    "queues_pkey", "t_q_pkey", "r_q_sai", "t_q_idempotency_key_key", "w_q_eni", "t_q_none", "i_q_pkey",
    "i_pq_pkey", "i_pq_ti", "t_pq_pkey", "t_pq_ci", "r_pq_d_pkey", "r_pq_d_task_id_idx", "t_pq_d_pkey",
    "t_pq_d_task_id_idx", "t_pq_d_ci", "w_pq_d_event_name_idx", f"t_{LONG[:56]}_pkey", f"t_{LONG}_ci",
    f"t_{LONG[:41]}_idempotency_key_key", f"t_{LONG[:42]}_idempotency_key_key",
)  # fmt: skip


@pytest.mark.parametrize("name", INDEXES)
def test_an_index_is_no_partition_to_drop(queues: Sides, name: str) -> None:
    """42809 for an index, false for one that belongs to an index of the parent table."""
    check(queues, f"select absurd.drop_detached_partition('{name}')")
