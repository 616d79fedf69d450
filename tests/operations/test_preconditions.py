"""Commands check settings, options and inputs before they make anything, and name what is wrong."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.core.errors import BackendError
from absurd_contimg.errors import UserError
from absurd_contimg.operations.cli import main
from absurd_contimg.operations.cli.app import app

READING = (
    "status",
    "history x",
    "report",
    "audit",
    "logs x",
    "settings",
    "quarantine list",
    "registry check",
    "registry files 2026-01-25T22:00:00",
)
ACTING = ("retry x", "cancel x", "quarantine release x", "retry --all-failed")
MAKING = ("worker", "run", "spawn")

BAD_VALUES = (
    ({"ABSURD_QUEUE_NAME": "q" * 58}, "ABSURD_QUEUE_NAME"),
    ({"ABSURD_QUEUE_NAME": " "}, "ABSURD_QUEUE_NAME"),
    ({"ABSURD_QUEUE_NAME": "a\nb"}, "ABSURD_QUEUE_NAME"),
    ({"ABSURD_WORKER_CLAIM_TIMEOUT": "0"}, "claim_timeout_seconds"),
    ({"ABSURD_WORKER_CONCURRENCY": "-1"}, "concurrency"),
    ({"ABSURD_WORKER_POLL_INTERVAL": "nan"}, "poll_interval_seconds"),
    ({"ABSURD_WORKER_GRACE": "inf"}, "grace_seconds"),
    ({"ABSURD_MAX_RETRIES": "0"}, "transient_attempts"),
    ({"ABSURD_WORKER_ID": "../other"}, "'../other'"),
    ({"PIPELINE_PRODUCTS_DB": "nosuch://x"}, "PIPELINE_PRODUCTS_DB"),
    ({"ABSURD_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}, "ABSURD_DATABASE_URL"),
    ({"ABSURD_DATABASE_URL": "no url"}, "ABSURD_DATABASE_URL"),
    ({"PIPELINE_SCRATCH_DIR": "/dev/shm/contimg-scratch"}, "different file systems"),
    ({"PIPELINE_STATE_DIR": "incoming/catalog.csv/state"}, "state_dir"),
    ({"PIPELINE_OUTPUT_DIR": "incoming/catalog.csv"}, "output_dir"),
    ({"PIPELINE_PUBLISH_DIR": "out/scratch/published"}, "publish_dir"),
    ({"PIPELINE_PUBLISH_DIR": "incoming"}, "publish_dir"),
)


@pytest.fixture
def contimg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a command with all folders in `tmp_path` and returns its error."""
    for name in [*os.environ]:
        if name.startswith(("ABSURD_", "PIPELINE_", "CONTIMG_", "PG")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def call(command: str, **environment: str) -> str:
        arguments = [
            "--input-dir",
            "incoming",
            *([] if "PIPELINE_OUTPUT_DIR" in environment else ["--output-dir", "out"]),
        ]
        result = CliRunner().invoke(app, [*arguments, *command.split()], env=environment)
        assert result.exit_code != 0 or command == "settings", result.output
        error = result.exception
        assert isinstance(error, UserError | BackendError | SystemExit | None), repr(error)
        return f"{result.output}{error}"

    return call


@pytest.mark.parametrize("command", [*READING, *ACTING, "run", "spawn", "spawn --calibrator x"])
def test_nothing_is_made_where_nothing_is(
    contimg: Callable[..., str], tmp_path: Path, command: str
) -> None:
    """Without inputs or tasks, as with a wrong folder, no command leaves anything behind."""
    contimg(command)
    assert not list(tmp_path.iterdir())


CASES = [
    (command, *case)
    for command in MAKING
    for case in BAD_VALUES
    if (command, case[1]) not in {("spawn", "'../other'"), ("run", "concurrency")}
]
"""Spawning needs no worker's name, and ``run`` has its own number of groups at a time."""


@pytest.mark.parametrize(("command", "environment", "named"), CASES)
def test_wrong_settings_are_named_before_anything_is_made(
    contimg: Callable[..., str],
    tmp_path: Path,
    command: str,
    environment: dict[str, str],
    named: str,
) -> None:
    folder = tmp_path / "incoming"
    folder.mkdir()
    (folder / "catalog.csv").touch()
    (folder / "2025-01-02T03:04:05_sb00.hdf5").touch()
    assert named in contimg(command, **environment)
    assert [path.name for path in tmp_path.iterdir()] == ["incoming"]


@pytest.mark.parametrize("command", [*MAKING, "daemon", "db init"])
@pytest.mark.parametrize("name", ["it's", "a[0]"])
def test_folders_that_cannot_work_are_refused_before_anything_is_made(
    contimg: Callable[..., str], tmp_path: Path, command: str, name: str
) -> None:
    """With an option that helps: beside ``--folder``, a variable changes nothing."""
    (tmp_path / "incoming").mkdir()
    (tmp_path / "incoming" / "catalog.csv").write_text("name,ra_deg,dec_deg,flux_jy\n")
    (tmp_path / "incoming" / "2025-01-02T03:04:05_sb00.hdf5").touch()
    shown = contimg(command, PIPELINE_OUTPUT_DIR=name)
    assert "output_dir" in shown
    assert "--output-dir, which counts beside --folder" in shown
    assert [path.name for path in tmp_path.iterdir()] == ["incoming"]


def test_file_of_another_user_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wherever root has left it."""
    path = tmp_path / "note.json"
    path.touch()

    def fail() -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path / "below"))

    monkeypatch.setattr(main, "app", fail)
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 1
    shown = "".join(capsys.readouterr().err.split())
    assert f"{path}belongstotheuser" in shown


def test_worker_until_idle_tells_that_tasks_wait(
    contimg: Callable[..., str], database_url: str
) -> None:
    """Here for a worker that knows the task."""

    async def spawn() -> None:
        async with PostgresBackend(database_url) as backend:
            await backend.create_queue("q")
            await backend.spawn_task("q", "no-such-task", {})

    asyncio.run(spawn())
    shown = contimg(f"--queue q --database-url {database_url} worker --until-idle")
    assert "1 task left" in shown
