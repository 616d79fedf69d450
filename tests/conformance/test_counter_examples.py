"""What an examination from outside found: each is a statement that the two sides told apart."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from conformance.test_parsing import Sides, check

ID = "'019432e1-5c00-7000-8000-000000000000'"


@pytest.fixture(autouse=True)
def _own_settings(sides: Sides) -> None:
    """No test meets the fake time of another."""
    for connection in sides:
        connection.execute("reset all")


def refusal(connection: Any, text: str) -> tuple[str | None, ...]:
    """The names that an error carries beside its words."""
    try:
        connection.execute(text)
    except psycopg.Error as error:
        diag = error.diag
        return diag.sqlstate, diag.schema_name, diag.table_name, diag.constraint_name
    return ()


def test_a_row_without_a_partition_names_its_table(sides: Sides) -> None:
    """The error of a partitioned queue without a default partition has schema and table."""
    for connection in sides:
        connection.execute("set absurd.fake_now = '2020-01-01'")
        connection.execute("select absurd.create_queue('routed', 'partitioned')")
        connection.execute(
            "select absurd.set_queue_policy('routed', '{\"default_partition\": \"disabled\"}')"
        )
    real, ours = (
        refusal(connection, "select absurd.spawn_task('routed', 'a', '{}')") for connection in sides
    )
    assert real == ours
    assert real[1:3] == ("absurd", "t_routed")


def test_a_queue_without_partitions_has_none_to_detach(sides: Sides) -> None:
    """That the table has no partitions is noticed before the partition is looked for."""
    for connection in sides:
        connection.execute("select absurd.create_queue('whole')")
    for child in ("t_whole_d", "t_whole", "r_whole"):
        message = check(sides, f"alter table absurd.t_whole detach partition absurd.{child}")
        assert message[0] == "42809"


def test_creating_a_queue_again_evaluates_the_default_of_created_at(sides: Sides) -> None:
    """``on conflict do nothing`` comes after the defaults: a bad fake time is an error."""
    for connection in sides:
        connection.execute("select absurd.create_queue('again')")
        connection.execute("select set_config('absurd.fake_now', 'garbage', false)")
    assert check(sides, "select absurd.create_queue('again')")[0] == "22007"


def test_named_arguments_are_read_as_written(sides: Sides) -> None:
    """Of two bad literals the first in the text is refused, not the first of the parameters."""
    bad = "p_extend_claim_by => 'five', p_owner_run => 'one'"
    message = check(
        sides, f"select absurd.set_task_checkpoint_state('q', {ID}, 's', p_state => '1', {bad})"
    )
    assert message[1] == 'invalid input syntax for type integer: "five"'


@pytest.mark.parametrize(
    "text",
    [
        "set lock_timeout = '1.5s'", "set lock_timeout = '1e3'", "set statement_timeout = '0.4ms'",
        "set a.b.c = 1",
    ],
)  # fmt: skip
def test_settings_are_kept(sides: Sides, text: str) -> None:
    """Units and names, in the form in which ``show`` prints them."""
    check(sides, text)
    check(sides, "show lock_timeout")
    check(sides, "reset all")


def test_partitions_are_locked_with_their_table(sides: Sides) -> None:
    """Detaching locks the partition and the default one."""
    held = "alter table absurd.t_locked detach partition absurd.t_locked_001"
    for connection in sides:
        connection.execute("set absurd.fake_now = '2020-01-01'")
        connection.execute("select absurd.create_queue('locked', 'partitioned')")
    check(sides, "begin")
    check(sides, held)
    real, ours = sides
    watchers = (
        psycopg.connect(real.info.dsn, autocommit=True),
        ours.session.db.connect(autocommit=True),
    )
    try:
        for watcher in watchers:
            watcher.execute("set lock_timeout = '20ms'")
        for name in ("t_locked", "t_locked_001", "t_locked_002", "t_locked_d"):
            check(watchers, f"select count(*) from absurd.{name}")
    finally:
        for watcher in watchers:
            watcher.close()
        check(sides, "rollback")


def test_a_refused_lock_on_a_queue_names_the_table(sides: Sides) -> None:
    """``nowait`` on ``absurd.queues`` says so, as on the tables of a queue."""
    real, ours = sides
    for connection in sides:
        connection.execute("select absurd.create_queue('named')")
    rows = "select queue_name from absurd.queues where queue_name = 'named' for update"
    with (
        psycopg.connect(real.info.dsn, autocommit=True) as other_real,
        ours.session.db.connect(autocommit=True) as other_mine,
    ):
        others = (other_real, other_mine)
        check(others, "begin")
        check(others, rows)
        message = check(sides, f"{rows} nowait")
        assert message[1] == 'could not obtain lock on row in relation "queues"'
