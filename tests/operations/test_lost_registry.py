"""A registry in SQLite that is gone: no command makes an empty one in its place unasked."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from prepared_site import prepare_site
from program_commands import COMMANDS
from typer.testing import CliRunner

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.core.records import SpawnOptions
from absurd_contimg.errors import RegistryDamagedError
from absurd_contimg.file_owners import SITE_NAME
from absurd_contimg.operations.cli.main import app
from absurd_contimg.operations.doctor import doctor
from absurd_contimg.products.site_file import read_site_file
from absurd_contimg.registry import database, engines
from absurd_contimg.registry.database import Database

GONE = "The registry of this site is gone"
NEEDS_IT = [
    *(["quarantine", "list"], ["quarantine", "release", "G"], ["groups"], ["windows"]),
    *(["registry", "check"], ["registry", "files", "2025-01-15"], ["batch", "status"]),
    *(["schedule", "list"], ["schedule", "remove", "s"], ["publish", "list"], ["actions"]),
    *(["queue", "pause", "--reason=x"], ["queue", "resume"], ["emergency", "resume"]),
    *(["alerts"], ["mosaic", "show", "W"], ["lightcurve", "source"], ["spawn", "--now"]),
    *(["run"], ["daemon", "--once"], ["worker", "--until-idle"], ["maintenance", "run"]),
    *(["retry", "--all-failed"], ["backup"], ["calibration", "plan"], ["reopen", "G"]),
]
"""They look at the registry, change it, or work for the site."""


@pytest.fixture
def folder(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site with its registry in SQLite."""
    prepare_site(tmp_path, monkeypatch)
    monkeypatch.setenv("ABSURD_DATABASE_URL", database_url)
    assert contimg("quarantine", "list").exit_code == 1  # a site that never had one
    assert contimg("db", "init").exit_code == 0
    assert contimg("worker", "--until-idle").exit_code == 0
    mark = read_site_file(tmp_path / "output")
    assert mark is not None
    assert mark.registry is not None
    with closing(Database(registry(tmp_path))):
        return tmp_path


def contimg(*arguments: str) -> Any:
    """Run a command with the settings in the environment."""
    return CliRunner().invoke(app, arguments)


def registry(folder: Path) -> Path:
    """Where the site has it."""
    return folder / "state" / "registry.sqlite3"


def empty_state(folder: Path) -> None:
    """As a disk that was replaced; another file is there."""
    shutil.rmtree(folder / "state")
    (folder / "state").mkdir()
    (folder / "state" / "lost+found").touch()


def truncate(folder: Path) -> None:
    """As after a crash of the host on some file systems."""
    for path in registry(folder).parent.glob("registry.sqlite3-*"):
        path.unlink()
    registry(folder).write_bytes(b"")


def test_what_is_done_and_in_no_record_is_said_last_and_by_the_exit_code(
    folder: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a registry that is locked or can only be read; the code was 0, with a line before."""
    monkeypatch.setattr(engines, "BUSY_SECONDS", 0.05)
    for name in ("_PATIENCE_SECONDS", "_PAUSE_SECONDS"):
        monkeypatch.setattr(database, name, 0.05)

    async def fail_one() -> tuple[str, ...]:
        async with PostgresBackend(database_url) as backend:
            tasks = [
                await backend.spawn_task("dsa110-pipeline", "odd", {}, SpawnOptions(max_attempts=1))
                for _ in range(2)
            ]
            (run,) = await backend.claim_task("dsa110-pipeline", "w", 60)
            await backend.fail_run("dsa110-pipeline", run.run_id, {"name": "OSError"})
            return tuple(str(task.task_id) for task in tasks)

    failed, waiting = asyncio.run(fail_one())
    with closing(sqlite3.connect(registry(folder))) as holder:
        holder.execute("begin immediate")
        retried = [contimg("retry", failed), contimg("cancel", waiting, "--reason=x")]
    for result, action, task in zip(retried, ("retry", "cancel"), (failed, waiting), strict=True):
        assert result.exit_code == 3, (result.output, result.exception)
        *lines, last = result.output.strip().splitlines()
        assert f"Task {task}" in lines[-1], result.output  # what was done
        assert last.startswith(f"contimg: The action {action!r} of {task} is done"), last
        assert "is in no record" in last
        assert "locked" in last
    assert contimg("retry", failed).exit_code == 1  # it is pending
    assert contimg("cancel", failed).exit_code == 0
    assert waiting not in contimg("actions").output


LOSSES = pytest.mark.parametrize("lose", [empty_state, truncate])


def is_made(folder: Path) -> bool:
    return registry(folder).exists() and registry(folder).stat().st_size > 0


@LOSSES
def test_a_command_that_needs_the_registry_is_refused(
    folder: Path, lose: Callable[[Path], None]
) -> None:
    """They made an empty one and ended with exit code 0: no group is in quarantine."""
    lose(folder)
    accepted = []
    for command in NEEDS_IT:
        result = contimg(*command)
        text = f"{result.exception} {result.output}"
        if result.exit_code == 0 or GONE not in text or is_made(folder):
            accepted.append((command, result.exit_code, text[:300]))
    assert accepted == []


def test_the_sentence_names_the_file_and_what_to_do(folder: Path) -> None:
    empty_state(folder)
    result = contimg("quarantine", "list")
    assert isinstance(result.exception, RegistryDamagedError)
    texts = ("mount", "contimg restore DIR", "contimg registry rebuild", "PIPELINE_STATE_DIR")
    for text in (str(registry(folder)), str(folder / "output" / SITE_NAME), *texts):
        assert text in str(result.exception)


def test_no_command_that_shows_something_makes_a_registry(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They say what they can, or are refused."""
    monkeypatch.setattr(doctor, "stage_software", lambda _folders: [])
    empty_state(folder)
    made = []
    for name, command in COMMANDS.items():
        if not any("--json" in option.opts for option in command.params):
            continue
        if name in ("registry rebuild", "synth", "night"):
            continue
        contimg(*name.split(), "--json")
        if is_made(folder):
            made.append(name)
            empty_state(folder)
    assert made == []


def test_what_shows_a_site_shows_that_it_is_gone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "stage_software", lambda _folders: [])
    empty_state(folder)
    for command in (["doctor"], ["monitor", "--once"], ["status"]):
        assert GONE in contimg(*command).output, command
    assert not is_made(folder)


@LOSSES
def test_a_registry_is_made_by_the_commands_that_accept_the_loss(
    folder: Path, tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    """After each of them the site works."""
    backup = tmp_path / "backup"
    assert contimg("backup", str(backup)).exit_code == 0
    for command in (
        ["registry", "rebuild"],
        ["db", "init", "--this-site"],
        ["restore", str(backup), "--force"],
    ):
        lose(folder)
        accepted = contimg(*command)
        assert accepted.exit_code == 0, (command, accepted.output, accepted.exception)
        assert is_made(folder), command
        assert contimg("quarantine", "list").exit_code == 0, command
        assert contimg("worker", "--until-idle").exit_code == 0, command


def test_a_site_that_has_moved_has_lost_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file names the earlier place; the registry is where the settings say."""
    (folder / "state").rename(folder / "elsewhere")
    assert GONE in str(contimg("quarantine", "list").exception)
    monkeypatch.setenv("PIPELINE_STATE_DIR", str(folder / "elsewhere"))
    assert contimg("quarantine", "list").exit_code == 0
    assert contimg("worker", "--until-idle").exit_code == 0


def test_a_registry_of_a_killed_rebuild_is_rebuilt(folder: Path) -> None:
    """SQLite wrote the file's head, and no table."""
    registry(folder).unlink()
    with closing(sqlite3.connect(registry(folder))) as database:
        database.execute("pragma journal_mode = wal").fetchall()
    assert contimg("registry", "rebuild").exit_code == 0
    assert contimg("quarantine", "list").exit_code == 0
