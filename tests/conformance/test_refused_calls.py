# ruff: noqa: E501 - a call is one line
"""What a procedure looks at before it refuses: arguments before writes, and what a name belongs to."""

from __future__ import annotations

import psycopg
import pytest

from conformance.test_parsing import Sides, check

ID = "'019432e1-5c00-7000-8000-000000000000'"


@pytest.fixture(scope="module")
def queues(sides: Sides) -> Sides:
    """A queue of each storage mode, a task, detached partitions, and names that are cut."""
    for connection in sides:
        for text in (
            "select absurd.create_queue('q'), absurd.create_queue('pq', 'partitioned')",
            "select absurd.spawn_task('q', 'task', '{}')",
            "select absurd.create_queue('parts', 'partitioned')",
            "select absurd.spawn_task('parts', 'task', '{}')",
            "alter table absurd.t_pq detach partition absurd.t_pq_d",
            "alter table absurd.w_pq detach partition absurd.w_pq_d",
        ):
            connection.execute(text)
    return sides


def test_the_partition_of_a_locked_row_is_named(queues: Sides) -> None:
    """``nowait`` tells which relation holds the row that it could not lock."""
    real, ours = queues
    with psycopg.connect(real.info.dsn) as first, ours.session.db.connect() as second:
        for connection in (first, second):
            connection.execute("select state from absurd.r_parts for update")
        check(queues, "select state from absurd.r_parts for update nowait")


INDEXES = (
    "queues_pkey", "t_q_pkey", "r_q_sai", "t_q_idempotency_key_key", "w_q_eni", "i_q_pkey",
    "i_pq_pkey", "i_pq_ti", "t_pq_pkey", "t_pq_ci", "r_pq_d_pkey",
)  # fmt: skip


@pytest.mark.parametrize("name", INDEXES)
def test_an_index_is_no_partition_to_drop(queues: Sides, name: str) -> None:
    """The emulator has no indexes, so it does not tell one from a partition."""
    _, emulated = queues
    with pytest.raises(psycopg.NotSupportedError, match="indexes"):
        emulated.execute(f"select absurd.drop_detached_partition('{name}')")
