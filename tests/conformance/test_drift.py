# ruff: noqa: E501 - a change is one line
"""The drift report names everything in which a schema differs from the emulator."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from conformance import drift

SCHEMA = drift.installed_schema()


def test_the_installed_schema_is_the_one_emulated() -> None:
    """Every function, parameter, default, return column, table column, check and body."""
    assert drift.differences(SCHEMA) == []
    facts = drift.schema_facts(SCHEMA)
    assert sum(name.endswith(" body") for name in facts) == 39
    assert {name.split()[1] for name in facts if name.startswith("table")} == set("trcewi") | {
        "queues"
    }


CHANGES = [
    ("p_claim_timeout integer default 30", "p_claim_timeout integer default 60", "claim_task(text, text, integer, integer) parameter 3"),
    ("p_claim_timeout integer default 30", "p_lease integer default 30", "claim_task(text, text, integer, integer) parameter 3"),
    ("p_claim_timeout integer default 30", "p_claim_timeout bigint default 30", "claim_task(text, text, bigint, integer)"),
    ("    event_payload jsonb\n  )", "    event_payload text\n  )", "claim_task(text, text, integer, integer) return column 10"),
    ("create function absurd.emit_event", "create function absurd.send_event", "emit_event(text, text, jsonb)"),
    ("task_name text not null,", "task_name text,", "table t column task_name"),
    ("wake_event text,\n        event_payload jsonb,", "event_payload jsonb,\n        wake_event text,", "table r column wake_event"),
    ("emitted_at timestamptz not null default absurd.current_time()", "emitted_at timestamptz not null default now()", "table e column emitted_at"),
    ("default 'committed'", "default 'pending'".replace("'", "''"), "table c column status"),
    ("''failed'', ''cancelled'')),\n        attempts", "''failed'')),\n        attempts", "table t column state"),
    ("check (cleanup_limit >= 1)", "check (cleanup_limit >= 0)", "table queues column cleanup_limit"),
    ("interval '28 days'", "interval '7 days'", "table queues column partition_lookahead"),
    ("primary key (run_id, step_name)", "primary key (run_id)", "table w key"),
    ("returns double precision", "returns numeric", "retry_delay_seconds(jsonb, integer) return column 1"),
    ("v_limit constant double precision := 86400", "v_limit constant double precision := 3600", "retry_delay_seconds(jsonb, integer) body"),
    ("on absurd.%I (state, available_at)", "on absurd.%I (available_at, state)", "table r index _sai"),
    ("create index if not exists %I on absurd.%I (event_name)", "create unique index if not exists %I on absurd.%I (event_name)", "table w index _eni"),
    ("where cancellation is not null", "where cancellation is null", "table t index _ci"),
    ("owner_run_id uuid,", "owner_run_id uuid,\n        note text,", "table c column note: new"),
    ("timeout_at timestamptz,", "", "table w column timeout_at: gone"),
    ("        claimed_by text,", "        claimed_by uuid,", "table r column claimed_by"),
    ("failed_at timestamptz,", "failed_at timestamptz not null,", "table r column failed_at"),
    ("detach_min_age interval", "lease interval default '1 day',\n    detach_min_age interval", "table queues column lease"),
    ("    wake_event text,\n    event_payload jsonb\n  )", "    woken_by text,\n    event_payload jsonb\n  )", "claim_task(text, text, integer, integer) return column 9"),
    ("create or replace function absurd.get_schema_version", "create function absurd.added (p integer) returns void language sql as $$ select 1 $$;\ncreate or replace function absurd.get_schema_version", "function added(integer): new in the schema"),
    ("create or replace function absurd.get_schema_version", "create view absurd.live as select 1;\ncreate or replace function absurd.get_schema_version", "statement create view absurd.live"),
    ("if p_extend_by is null or p_extend_by <= 0 then", "if p_extend_by is null then", "extend_claim(text, uuid, integer) body"),
]  # fmt: skip


def test_every_change_is_named() -> None:
    """Changes to the schema, as many at once as do not touch each other: each is named."""
    left = list(CHANGES)
    while left:
        text, made = SCHEMA, list[tuple[str, str, str]]()
        for change in left:
            right, changed, _ = change
            if right not in SCHEMA:
                right = right.replace("'", "''")
            assert right in SCHEMA, right
            if text.count(right) == SCHEMA.count(right):
                text = text.replace(right, changed, 1)
                made.append(change)
        assert made
        report = drift.differences(text)
        for change in made:
            assert any(change[2] in line for line in report), (change, report)
        left = [change for change in left if change not in made]


def test_attributes_of_functions_are_compared() -> None:
    """What Postgres may assume of a function: here, that null gives null."""
    strict = re.search(r"create function absurd\.uuidv7_timestamp.*?as \$\$", SCHEMA, re.DOTALL)
    assert strict is not None
    text = SCHEMA.replace(strict[0], strict[0].replace("strict", ""))
    label = "function uuidv7_timestamp(uuid) attributes: immutable in the schema"
    assert [line for line in drift.differences(text) if label in line]


@pytest.mark.parametrize("text", ["select 1;", "it's no SQL"])
def test_a_file_that_is_no_schema(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is not reported as a schema in which everything is gone."""
    file = tmp_path / "other.sql"
    file.write_text(text)
    with pytest.raises(SystemExit) as ended:
        drift.main([str(file)])
    assert ended.value.code == 2
    assert str(file) in capsys.readouterr().err
    with pytest.raises(SystemExit):
        drift.main([str(tmp_path / "nothing.sql")])
    assert "no schema to compare with" in capsys.readouterr().err


def test_comments_and_spacing_are_no_change() -> None:
    """A release that only rewrites comments is reported as equal."""
    text = re.sub(r"--[^\n]*", "-- another comment", SCHEMA).replace("\nbegin\n", "\n\n  begin\n")
    assert drift.differences(text) == []


def test_one_command_reports_a_new_release(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``python -m conformance.drift file.sql``."""
    new = tmp_path / "absurd-0.6.sql"
    new.write_text(
        SCHEMA.replace("p_qty integer default 1", "p_qty integer default 5").replace(
            "'0.5.1'::text", "'0.6.0'::text"
        )
    )
    assert drift.main([str(new)]) == 1
    report = capsys.readouterr().out
    assert "schema 0.6.0, emulator of 0.5.1" in report
    assert (
        "p_qty integer default 5 in the schema, p_qty integer default 1 in the emulator" in report
    )
    assert drift.main([]) == 0
