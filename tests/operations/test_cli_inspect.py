"""Inspection and retry: workers, logs, `contimg retry`."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.core.records import History, Run, Task
from absurd_contimg.errors import SettingError
from absurd_contimg.execution.host_scratch import host_name, host_scratch
from absurd_contimg.execution.logs import log_folder, log_paths
from absurd_contimg.execution.scratch import Janitor, ScratchOwner, living_owners
from absurd_contimg.history.invariants.check import Violation
from absurd_contimg.history.timeline import SECONDARY_TASKS
from absurd_contimg.operations.cli import inspect
from absurd_contimg.operations.cli.main import app
from absurd_contimg.operations.services.quarantine import to_be_retried
from absurd_contimg.operations.services.worker_identity import unique_worker_id
from absurd_contimg.registry import GroupStatus, Registry
from absurd_contimg.registry.database import Database
from absurd_contimg.registry.ingestion import IngestionTables
from absurd_contimg.registry.service_records import ServiceKind, ServiceRecord, store_service
from absurd_contimg.workflows import photometry, publication

QUEUE = "dsa110-pipeline"
NOW = datetime(2026, 11, 25, tzinfo=UTC)

Contimg = Callable[..., Any]


@pytest.fixture
def contimg(tmp_path: Path, database_url: str) -> Contimg:
    """Run a command in temporary folders, on a database with the queue."""

    def run(*arguments: str, **variables: str) -> Any:
        folders = [
            *(
                "--input-dir",
                str(tmp_path / "incoming"),
                "--scratch-dir",
                str(tmp_path / "scratch"),
            ),
            *("--output-dir", str(tmp_path / "products"), "--state-dir", str(tmp_path / "state")),
        ]
        clean = {key: None for key in os.environ if key.startswith(("ABSURD_", "PIPELINE_"))}
        return CliRunner().invoke(
            app,
            [*folders, "--database-url", database_url, *arguments],
            env={**clean, "COLUMNS": "200", **variables},
        )

    assert run("db", "init").exit_code == 0
    return run


TRACEBACK = 'Traceback:\n  File "/opt/handler.py", line 3, in [convert]\nValueError: G is cut'


def on_queue(url: str, work: Callable[[PostgresBackend], Any]) -> Any:
    async def call() -> Any:
        async with PostgresBackend(url) as backend:
            return await work(backend)

    return asyncio.run(call())


async def spawn_failed(
    backend: PostgresBackend, group: str, rule: str, task_name: str = "pipeline"
) -> None:
    """Spawn a task of this group and fail it by this rule."""
    await backend.spawn_task(QUEUE, task_name, {"group_id": group})
    (claimed,) = await backend.claim_task(QUEUE, "worker-1", 60)
    reason = {
        "kind": "permanent",
        "rule": rule,
        "step": "convert",
        "message": f"{group} is cut",
        "traceback": TRACEBACK,
        "action": "failed",
    }
    await backend.fail_run_permanently(QUEUE, claimed.run_id, reason)


def test_status_as_json_has_leases_workers_and_failures(
    contimg: Contimg, tmp_path: Path, database_url: str
) -> None:
    async def prepare(backend: PostgresBackend) -> None:
        await spawn_failed(backend, "G1", "bad-input")
        await backend.spawn_task(QUEUE, "pipeline", {"group_id": "G2"})
        await backend.claim_task(QUEUE, "worker-1", 60)

    on_queue(database_url, prepare)
    (tmp_path / "state" / "workers").mkdir(parents=True)
    note = {"worker": "worker-1", "claims": False, "reason": "disk full", "since": "2026"}
    (tmp_path / "state" / "workers" / "worker-1.json").write_text(json.dumps(note))
    with ScratchOwner(host_scratch(tmp_path / "scratch"), "worker-1"):
        assert "worker worker-1, since 2026: disk full" in contimg("status").stdout
        shown = json.loads(contimg("status", "--json").stdout)
        assert shown["workers_here"] == ["worker-1"]
        assert "worker-1" in contimg("status").stdout
    held, failed = shown["tasks"]
    assert (held["group"], failed["group"]) == ("G2", "G1")
    assert 50 < held["lease_seconds_left"] <= 60
    assert (failed["lease_seconds_left"], held["failure"]) == (None, None)
    assert (failed["failure"]["rule"], failed["failure"]["message"]) == ("bad-input", "G1 is cut")
    assert shown["queue"]["tasks_by_state"]["failed"] == 1
    text = contimg("status").stdout
    assert "Workers of the pipeline alive on this host: none" in text
    assert "Leases are held by: worker-1 (1 run)" in text
    assert "worker worker-1, not alive on this host, since 2026: disk full" in text
    assert "lease 5" in text or "lease 60" in text
    history = json.loads(contimg("history", "G1", "--json").stdout)
    assert history["runs"][0]["failure_reason"]["rule"] == "bad-input"
    assert TRACEBACK not in contimg("history", "G1").stdout
    assert TRACEBACK in contimg("history", "G1", "--traceback").stdout


def test_failures_that_have_a_later_task_need_nobody(contimg: Contimg, database_url: str) -> None:
    """The newest failure of a group counts, and its advice is shown."""

    async def prepare(backend: PostgresBackend) -> None:
        for group in ("G1", "G2"):
            await spawn_failed(backend, group, "bad-input")
        await backend.spawn_task(QUEUE, "pipeline", {"group_id": "G1"})

    on_queue(database_url, prepare)
    text = " ".join(contimg("status").stdout.split())
    assert "2 failed" in text
    assert "1 of the failed ones have a later task of their group" in text
    assert text.count("failed, a later task is there") == 1
    assert json.loads(contimg("status", "--json").stdout)["failed_superseded"] == 1


def test_status_shows_a_failure_by_the_sdk(contimg: Contimg, database_url: str) -> None:
    """It has no kind, no rule and no step."""

    async def prepare(backend: PostgresBackend) -> None:
        await backend.spawn_task(QUEUE, "other", {"group_id": "G1"})
        (claimed,) = await backend.claim_task(QUEUE, "worker-1", 60)
        reason = {"name": "ValueError", "message": "no such antenna\nat all", "traceback": "..."}
        await backend.fail_run_permanently(QUEUE, claimed.run_id, reason)

    on_queue(database_url, prepare)
    text = contimg("status").stdout
    assert "no such antenna" in text
    assert "None" not in text
    (shown,) = json.loads(contimg("status", "--json").stdout)["tasks"]
    assert shown["activity"] == "ValueError: no such antenna"


@pytest.mark.parametrize("key", ["placeholder_subbands", "stand_ins"])
def test_status_and_history_count_the_missing_subbands(
    contimg: Contimg, database_url: str, key: str
) -> None:
    """The earlier key is in results of version 0.1."""

    async def prepare(backend: PostgresBackend) -> None:
        await backend.spawn_task(QUEUE, "pipeline", {"group_id": "G1"})
        (claimed,) = await backend.claim_task(QUEUE, "worker-1", 60)
        result: Any = {"verdict": "clean", "outputs": {"measurement_set": {key: [3, 7]}}}
        await backend.complete_run(QUEUE, claimed.run_id, result)

    on_queue(database_url, prepare)
    assert "2 sub-bands missing" in contimg("status").stdout
    assert "completed, clean, 2 sub-bands missing" in contimg("history", "G1").stdout


def test_task_that_was_due_since_ever_is_shown(contimg: Contimg, database_url: str) -> None:
    async def prepare(backend: PostgresBackend) -> None:
        await backend.spawn_task(QUEUE, "pipeline", {"group_id": "G1"})

    on_queue(database_url, prepare)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f"update absurd.\"r_{QUEUE}\" set available_at = '-infinity'")
    assert "the first since ever" in contimg("status").stdout
    shown = contimg("status", "--json").stdout
    assert json.loads(shown)["queue"]["oldest_claimable_seconds"] == "inf"


def test_violation_is_one_line(contimg: Contimg, monkeypatch: pytest.MonkeyPatch) -> None:
    violation = Violation("monotonic", "step 'a\n0 tasks audited, 0 violations.' [/] twice")
    monkeypatch.setattr(inspect, "check_histories", lambda *_: [violation])
    lines = contimg("audit").stdout.splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("0 violations.' [/] twice")


def test_misspelt_queue_is_refused_with_the_existing_ones(contimg: Contimg) -> None:
    refused = contimg("--queue", "dsa110-pipelin", "status")
    assert refused.exit_code == 1
    message = str(refused.exception)
    assert "'dsa110-pipelin'" in message
    assert f"there are: {QUEUE}" in message


def test_a_queue_without_one_of_its_tables_is_not_called_absent(
    contimg: Contimg, database_url: str
) -> None:
    """It said: there is no queue X; there are: X."""
    contimg("db", "init")
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f'drop table absurd."w_{QUEUE}-io"'.encode())
    message = str(contimg("audit").exception)
    assert f"contimg --queue {QUEUE}-io db init" in message
    assert "There is no queue" not in message


def test_worker_without_its_lock_is_not_alive(tmp_path: Path) -> None:
    """Nor is one that the janitor removed; the query changes no lock."""
    owner = ScratchOwner(tmp_path, "worker-1").acquire()
    assert living_owners(tmp_path) == ["worker-1"]
    assert living_owners(tmp_path) == ["worker-1"]
    assert owner._lock is not None
    os.close(owner._lock)  # as the kernel does when the process dies
    assert living_owners(tmp_path) == []
    assert [swept.owner for swept in Janitor(tmp_path).sweep()] == ["worker-1"]
    assert living_owners(tmp_path) == []


def test_a_worker_that_started_before_its_host_was_renamed_is_alive_on_this_host(
    contimg: Contimg, tmp_path: Path, database_url: str
) -> None:
    """It keeps its part of scratch; of a part without a lock of this machine nothing is said."""
    on_queue(database_url, lambda backend: backend.create_queue(QUEUE))
    scratch = tmp_path / "scratch"
    (scratch / "other-0123ab" / ".owners").mkdir(parents=True)
    (scratch / "other-0123ab" / ".owners" / "worker-2.lock").touch()
    with ScratchOwner(scratch / "dsa-a-b75efa", "worker-1"):
        text = " ".join(contimg("status").stdout.split())
        assert "on this host: worker-1 (started as dsa-a-b75efa: the host was renamed)" in text
        assert json.loads(contimg("status", "--json").stdout)["workers_here"] == ["worker-1"]
    assert "alive on this host: none" in contimg("status").stdout


def test_a_worker_that_hangs_is_not_simply_alive(
    contimg: Contimg, tmp_path: Path, database_url: str
) -> None:
    """Its process and its lock are there, and nothing is heard of it."""

    async def now(backend: PostgresBackend) -> float:
        await backend.create_queue(QUEUE)
        return (await backend.current_time()).timestamp()

    seconds = on_queue(database_url, now)
    scratch = host_scratch(tmp_path / "scratch")
    with ScratchOwner(scratch, "worker-1"):
        (tmp_path / "state").mkdir(exist_ok=True)
        with closing(Database(tmp_path / "state" / "registry.sqlite3")) as registry:
            name = unique_worker_id("worker-1", scratch)
            record = ServiceRecord(
                *(ServiceKind.WORKER, name, host_name(), 1, "1", QUEUE, seconds - 900),
                seen_at=seconds - 300,
            )
            store_service(registry, record)
        text = " ".join(contimg("status").stdout.split())
    assert (
        "Workers of the pipeline alive on this host: worker-1 (silent for 5 min: it hangs)" in text
    )


def test_a_worker_whose_lock_is_away_is_known_by_its_process(
    contimg: Contimg, tmp_path: Path, database_url: str
) -> None:
    """The disk of scratch was away, and its worker, which waits for it, was called not alive."""

    async def now(backend: PostgresBackend) -> float:
        return (await backend.current_time()).timestamp()

    seconds = on_queue(database_url, now)
    (tmp_path / "state" / "workers").mkdir(parents=True)
    note = {"worker": "worker-1", "claims": False, "reason": "no disk", "since": "2026"}
    (tmp_path / "state" / "workers" / "worker-1.json").write_text(json.dumps(note))
    registry = tmp_path / "state" / "registry.sqlite3"
    for pid, age, expected in (
        (os.getpid(), 0, "worker worker-1, since 2026: no disk"),
        (os.getpid(), 300, "host: worker-1 (silent for 5 min: it hangs) (known by their records)"),
        (2**22 + 1, 0, "worker worker-1, since 2026: no disk"),
        (2**22 + 1, 30, "worker worker-1, not alive on this host, since 2026: no disk"),
    ):
        with closing(Database(registry)) as database:
            record = ServiceRecord(
                *(ServiceKind.WORKER, "worker-1@0", host_name(), pid, "1", QUEUE, seconds - 900),
                seen_at=seconds - age,
            )
            store_service(database, record)
        assert expected in " ".join(contimg("status").stdout.split()), (pid, age)
    registry.write_bytes(b"not a database" * 500)
    text = contimg("status").stdout
    assert "alive on this host: not known" in text
    assert f"The locks of workers in {tmp_path / 'scratch'} cannot be looked at." in text
    assert "worker worker-1, perhaps alive on this host, since 2026: no disk" in text
    assert json.loads(contimg("status", "--json").stdout)["workers_here"] is None


def test_a_refused_look_at_the_registry_says_nothing_of_workers(
    contimg: Contimg, database_url: str
) -> None:
    """Only this command had no connection left: it said that workers claim nothing."""

    async def prepare(backend: PostgresBackend) -> None:
        await backend.spawn_task(QUEUE, "pipeline", {"group_id": "G1"})

    on_queue(database_url, prepare)
    role = f"refused_{os.getpid()}"
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f"create role {role} login password 'x' connection limit 0".encode())
    url = database_url.replace("postgres@", f"{role}:x@", 1)
    text = " ".join(contimg("status", PIPELINE_PRODUCTS_DB=url).stdout.split())
    assert "The registry could not be asked: " in text
    assert f'too many connections for role "{role}"' in text
    assert "or raise the limit: max_connections of the server" in text
    assert "workers claim nothing" not in text
    assert "Nothing is claimed" not in text


def test_workers_of_other_programs_are_named(contimg: Contimg, database_url: str) -> None:
    """Said: no workers, while one of absurd-sdk did a task after the other, and held an old one."""

    async def claim(backend: PostgresBackend) -> None:
        for number in range(3):
            await backend.spawn_task(QUEUE, "other", {"number": number})
        await backend.claim_task(QUEUE, "sdk-1", 60)
        (done,) = await backend.claim_task(QUEUE, "sdk-2", 60)
        await backend.complete_run(QUEUE, done.run_id, {})

    on_queue(database_url, claim)
    text = contimg("status", "--limit", "2").stdout
    assert "Leases are held by: sdk-1 (1 run)" in text
    assert re.search(r"other programs at these tasks: sdk-2 \(last known claim \d+ s ago\)", text)
    assert "name no worker" not in text


def test_tasks_that_sleep_tell_when_they_were_claimed(
    contimg: Contimg, tmp_path: Path, database_url: str
) -> None:
    """They name no worker: a living one had claimed 6 s before, and its claim was 52 s old."""

    async def claim(backend: PostgresBackend, last: str) -> None:
        await backend.spawn_task(QUEUE, "other", {})
        (claimed,) = await backend.claim_task(QUEUE, "sdk-1", 60)
        if last == "sleeps":
            wake_at = await backend.current_time() + timedelta(seconds=3600)
            await backend.schedule_run(QUEUE, claimed.run_id, wake_at)
        elif last == "waits":
            run = (QUEUE, claimed.task_id, claimed.run_id)
            await backend.await_event(*run, "paid", "paid", 3600)
        else:
            await backend.complete_run(QUEUE, claimed.run_id, {})

    def age_claims(seconds: int) -> None:
        with psycopg.connect(database_url, autocommit=True) as connection:
            table = f'absurd."r_{QUEUE}"'
            change = f"set started_at = started_at - interval '{seconds} s'"
            connection.execute(f"update {table} {change}".encode())

    for last in ("completed", "sleeps"):
        on_queue(database_url, lambda backend, last=last: claim(backend, last))
        age_claims(40)
    known = r"sdk-1 \(last known claim (\d+) s ago\)"
    nameless = "Tasks that sleep, wait or were released name no worker: "
    text = " ".join(contimg("status").stdout.split())
    for pattern, seconds in ((known, 80), (rf"{nameless}1 of these, claimed (\d+) s ago", 40)):
        (shown,) = re.findall(pattern, text)
        assert seconds <= int(shown) < seconds + 40
    on_queue(database_url, lambda backend: claim(backend, "waits"))
    text = " ".join(contimg("status").stdout.split())
    (shown,) = re.findall(rf"{nameless}2 of these, the last claimed (\d+) s ago", text)
    assert int(shown) < 40
    now = datetime.now(UTC).timestamp()
    (tmp_path / "state").mkdir(exist_ok=True)
    with closing(Database(tmp_path / "state" / "registry.sqlite3")) as registry:
        record = ServiceRecord(
            *(ServiceKind.WORKER, "worker-1@0", host_name(), os.getpid(), "1", QUEUE, now),
            seen_at=now,
        )
        store_service(registry, record)
    assert "name no worker" not in " ".join(contimg("status").stdout.split())


def test_a_retried_group_has_not_failed_any_more(
    contimg: Contimg, tmp_path: Path, database_url: str
) -> None:
    """`groups` called it failed while its task ran. An earlier task of it is named."""

    async def prepare(backend: PostgresBackend) -> str:
        await spawn_failed(backend, "2026-01-25T22:26:40", "bad-input")
        await spawn_failed(backend, "2026-01-25T22:26:40", "bad-input")
        newest, earlier = await backend.list_tasks(QUEUE)
        return f"{newest.task_id} {earlier.task_id}"

    newest, earlier = on_queue(database_url, prepare).split()
    (tmp_path / "state").mkdir(exist_ok=True)
    with closing(Registry(tmp_path / "state" / "registry.sqlite3")) as registry:
        group = "2026-01-25T22:26:40"
        registry.register_files([Path(f"/in/{group}_sb00.hdf5")])
        registry.set_group_status(group, GroupStatus.FAILED, "sb00 is cut")
        IngestionTables(registry.database).note_task(group, 1, newest)
    history = " ".join(contimg("history", group).stdout.split())
    assert "Earlier task of it, failed: contimg" in history
    assert f"history {earlier}" in history
    assert "Later task of it, failed" in contimg("history", earlier).stdout
    (shown,) = json.loads(contimg("groups", "--json").stdout)
    assert "failed: sb00 is cut" in shown["why"]
    assert contimg("retry", group).exit_code == 0
    (shown,) = json.loads(contimg("groups", "--json").stdout)
    assert (shown["status"], shown["reason"]) == ("discovered", "")


def test_retry_of_a_group_is_that_of_all_its_tasks_that_have_failed(
    contimg: Contimg, database_url: str
) -> None:
    """Only the one that images was taken: it had completed, and the others stayed as they were."""

    async def prepare(backend: PostgresBackend) -> None:
        await backend.spawn_task(QUEUE, "pipeline", {"group_id": "G1"})
        (claimed,) = await backend.claim_task(QUEUE, "worker-1", 60)
        await backend.complete_run(QUEUE, claimed.run_id, {})
        await spawn_failed(backend, "G1", "bad-input", "photometry")
        await spawn_failed(backend, "G1", "bad-input", "publication")

    on_queue(database_url, prepare)
    text = " ".join(contimg("status").stdout.split())
    assert "G1 photometry" in text
    assert "G1 publication" in text
    assert contimg("retry", "G1").stdout.count("will run again") == 2
    again = contimg("retry", "G1")
    assert "is completed, not failed" in str(again.exception)
    on_queue(database_url, fail_both)
    assert contimg("retry", "--all-failed").stdout.count("will run again") == 2


def test_a_task_is_changed_only_by_six_characters_of_its_id(
    contimg: Contimg, database_url: str
) -> None:
    """One character cancelled a task; the answer names the group, or the task's name."""

    async def prepare(backend: PostgresBackend) -> tuple[str, str]:
        await spawn_failed(backend, "G1", "bad-input")
        group = await backend.spawn_task(QUEUE, "pipeline", {"group_id": "G2"})
        other = await backend.spawn_task(QUEUE, "order", {})
        return str(group.task_id), str(other.task_id)

    group, other = on_queue(database_url, prepare)
    for command in (["cancel"], ["retry"], ["fork"], ["quarantine", "release"]):
        step = ["image"] if command == ["fork"] else []
        refused = str(contimg(*command, group[-5:], *step).exception)
        assert f"{group[-5:]!r} is too short for the end of a task's id" in refused, refused
        assert "at least 6 characters" in refused
        assert "contimg status shows the last 12" in refused
    assert "no task of 'x'" in str(contimg("cancel", "x").exception)
    assert contimg("history", group[-5:]).exit_code == 0
    assert contimg("cancel", group[-6:]).stdout == f"Task {group} (G2) is cancelled.\n"
    assert contimg("cancel", other).stdout == f"Task {other} (order) is cancelled.\n"
    again = contimg("cancel", other[-12:]).stdout
    assert again == f"Task {other} (order) has already ended: it is cancelled.\n"
    assert "(G1) will run again, attempt 2" in contimg("retry", "G1").stdout


def test_a_group_of_one_character_is_changed_by_its_name(
    contimg: Contimg, database_url: str
) -> None:
    async def spawn(backend: PostgresBackend) -> str:
        await backend.spawn_task(QUEUE, "pipeline", {"group_id": "other"})
        task = await backend.spawn_task(QUEUE, "pipeline", {"group_id": "0"})
        return str(task.task_id)

    task = on_queue(database_url, spawn)
    assert f"Task {task} (0) is cancelled" in contimg("cancel", "0").stdout


async def fail_both(backend: PostgresBackend) -> None:
    """Fail the two tasks that wait."""
    for _ in range(2):
        (claimed,) = await backend.claim_task(QUEUE, "worker-1", 60)
        reason = {"kind": "permanent", "rule": "bad-input", "step": "x", "action": "failed"}
        await backend.fail_run_permanently(QUEUE, claimed.run_id, reason)


def test_retry_of_all_failed_leaves_out_the_quarantine(contimg: Contimg, database_url: str) -> None:
    async def prepare(backend: PostgresBackend) -> None:
        for group, rule in (("G1", "bad-input"), ("G2", "data-quality"), ("G3", "bad-setting")):
            await spawn_failed(backend, group, rule)

    on_queue(database_url, prepare)
    by_rule = contimg("retry", "--all-failed", "--rule", "bad-setting")
    assert by_rule.stdout.count("will run again") == 1, by_rule.output
    assert contimg("retry", "--all-failed").stdout.count("will run again") == 1
    assert "quarantine list" in contimg("retry", "--all-failed").stdout
    states = {
        task["group"]: task["state"]
        for task in json.loads(contimg("status", "--json").stdout)["tasks"]
    }
    assert states == {"G1": "pending", "G2": "failed", "G3": "pending"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "takes a task, or --all-failed"),
        (("G1", "--all-failed"), "takes a task, or --all-failed"),
        (("G1", "--rule", "killed"), "takes a task, or --all-failed"),
        (("--all-failed", "--rule", "bad-inputs"), "Did you mean bad-input?"),
    ],
)
def test_wrong_use_of_retry_is_explained(arguments: tuple[str, ...], message: str) -> None:
    refused = CliRunner().invoke(app, ["retry", *arguments])
    assert isinstance(refused.exception, SettingError)
    assert message in str(refused.exception)


@pytest.mark.parametrize(("attempts", "retried"), [(2**31 - 2, 2), (2**31 - 1, 1)])
def test_one_task_out_of_attempts_keeps_no_other_from_its_retry(
    contimg: Contimg, database_url: str, attempts: int, retried: int
) -> None:
    async def prepare(backend: PostgresBackend) -> None:
        await spawn_failed(backend, "G1", "bad-input")
        await spawn_failed(backend, "G2", "bad-input")

    on_queue(database_url, prepare)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            f'update absurd."t_{QUEUE}" set attempts = {attempts}, max_attempts = {attempts}'
            " where params ->> 'group_id' = 'G1'"
        )
    result = contimg("retry", "--all-failed")
    assert result.output.count("will run again") == retried
    assert result.exit_code == 2 - retried
    assert result.output.count("the most that can be counted") == 2 - retried
    if retried == 1:
        assert "the most that can be counted" in str(contimg("retry", "G1").exception)


def test_group_whose_newest_task_completed_is_not_retried() -> None:
    """Its first task failed; the respawned one has not."""
    histories = [
        *(history_of("G1", "completed"), history_of("G1", "failed"), history_of("G2", "failed"))
    ]
    assert to_be_retried(histories) == [histories[2]]


def history_of(group: str, state: Any) -> History:
    """A history with only state, group and failure."""
    reason: Mapping[str, Any] | None = {"rule": "bad-input"} if state == "failed" else None
    columns: dict[str, Any] = dict.fromkeys(Task.__slots__)
    columns |= {"task_id": f"{group} {state}", "state": state, "params": {"group_id": group}}
    run: dict[str, Any] = {**dict.fromkeys(Run.__slots__), "failure_reason": reason}
    return History(QUEUE, Task(**columns), (Run(**run),))


def test_logs_of_a_group_are_shown_without_the_database(tmp_path: Path) -> None:
    """Those of the start that wrote last, without empty files."""
    folder = log_folder(tmp_path, "G1")
    folder.mkdir(parents=True)
    for number, (stage, start) in enumerate((("flag", "t-1"), ("image", "t-1"), ("image", "t-2"))):
        casa, output = log_paths(folder, stage, start)
        casa.write_text(f"2026 SEVERE {stage} {start}\n" * 50)
        output.touch()
        os.utime(casa, (number, number))

    def logs(*arguments: str) -> Any:
        options = ["--state-dir", str(tmp_path), "--database-url", "postgresql://127.0.0.1:1/none"]
        return CliRunner().invoke(app, [*options, "logs", *arguments])

    assert logs("G1", "--lines", "3").stdout.count("SEVERE image t-2") == 3
    assert logs("G1", "--stage", "flag", "--lines", "2").stdout.count("SEVERE flag t-1") == 2
    assert str(folder) in str(logs("G1", "--stage", "convert").exception)


def test_logs_names_the_starts_that_it_does_not_show(tmp_path: Path) -> None:
    """Also a newer one that wrote nothing: the log of the first one looked like the last."""
    folder = log_folder(tmp_path, "G1")
    folder.mkdir(parents=True)
    for number, (start, text) in enumerate((("t-1", "one"), ("t-2", "two"), ("t-3", ""))):
        for path in log_paths(folder, "image", start):
            path.write_text(text)
            os.utime(path, (number, number))
    arguments = ["--state-dir", str(tmp_path), "logs", "G1"]
    shown = CliRunner().invoke(app, arguments).stdout
    assert "two" in shown
    assert "one" not in shown
    listed = [line.split() for line in shown.splitlines() if line.startswith("  1970-01-01")]
    assert [(words[3], words[4]) for words in listed] == [
        ("image-t-3", "empty"),
        ("image-t-1", "6"),
    ]
    starts = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)["starts"]
    assert [start["name"] for start in starts] == ["image-t-3", "image-t-2", "image-t-1"]


def test_earlier_name_of_respawn_is_refused_with_the_new_one() -> None:
    refused = CliRunner().invoke(app, ["spawn", "--anew"])
    assert refused.exit_code == 2
    assert "No such option: --anew" in refused.output
    assert "--respawn" in refused.output
    assert "--anew" not in CliRunner().invoke(app, ["spawn", "--help"]).output


def test_old_task_is_found_among_many(contimg: Contimg, database_url: str) -> None:
    """By its group and by the end of its id, wherever it stands in the list."""

    async def spawn(backend: PostgresBackend) -> str:
        first = await backend.spawn_task(QUEUE, "pipeline", {"group_id": "old"})
        return str(first.task_id)

    task_id = on_queue(database_url, spawn)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "select count(*) from generate_series(1, 10050) as n, lateral absurd.spawn_task("
            f"'{QUEUE}', 'pipeline', jsonb_build_object('group_id', 'g' || n))"
        )
    for name in ("old", task_id[-12:], task_id):
        assert contimg("history", name).exit_code == 0
    assert contimg("cancel", "old").exit_code == 0
    assert contimg("history", "\udc80%_").exit_code == 1
    assert "There is no task of 'ol_'" in str(contimg("history", "ol_").exception)


def test_all_failed_tasks_are_retried_in_one_statement(contimg: Contimg, database_url: str) -> None:
    async def spawn(backend: PostgresBackend) -> None:
        for number in range(5):
            await spawn_failed(backend, f"g{number}", "bad-input")

    on_queue(database_url, spawn)
    result = contimg("retry", "--all-failed")
    assert result.output.count("will run again, attempt 2") == 5

    async def states(backend: PostgresBackend) -> list[str]:
        return [task.state for task in await backend.list_tasks(QUEUE)]

    assert on_queue(database_url, states) == ["pending"] * 5


def test_a_group_means_the_task_that_made_it(contimg: Contimg, database_url: str) -> None:
    """Not the newer one that measures in its image, which its id names."""

    async def spawn(backend: PostgresBackend) -> str:
        await backend.spawn_task(QUEUE, "pipeline", {"group_id": "G7"})
        params: Any = {"group_id": "G7", "catalog_path": "/in/catalog.csv"}
        return str((await backend.spawn_task(QUEUE, photometry.TASK_NAME, params)).task_id)

    newer = on_queue(database_url, spawn)
    assert json.loads(contimg("history", "G7", "--json").stdout)["task"]["task_name"] == "pipeline"
    shown = json.loads(contimg("history", newer, "--json").stdout)
    assert shown["task"]["task_name"] == photometry.TASK_NAME
    names = {task["task_name"] for task in json.loads(contimg("status", "--json").stdout)["tasks"]}
    assert names == {"pipeline", photometry.TASK_NAME}
    assert {photometry.TASK_NAME, publication.TASK_NAME} == SECONDARY_TASKS
