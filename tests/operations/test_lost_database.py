"""A private database that was deleted: nobody makes an empty one in its place unasked."""

from __future__ import annotations

import os
import shlex
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from absurd_contimg.backends.postgres import EmbeddedPostgres
from absurd_contimg.errors import MissingInputError
from absurd_contimg.operations.cli.main import app
from absurd_contimg.operations.doctor import doctor
from absurd_contimg.registry.database import Database
from absurd_contimg.registry.lost_database import require_own_database
from absurd_contimg.settings import load_settings


def options(folder: Path) -> dict[str, Path]:
    """A site in a folder."""
    for name in ("in", "out", "state"):
        (folder / name).mkdir(exist_ok=True)
    return {
        "input_dir": folder / "in",
        "output_dir": folder / "out",
        "state_dir": folder / "state",
    }


def contimg(folder: Path, *arguments: str) -> Any:
    """Run a command on the site."""
    given = [
        text
        for name, path in options(folder).items()
        for text in (f"--{name.replace('_', '-')}", str(path))
    ]
    clean = {key: None for key in os.environ if key.startswith(("ABSURD_", "PIPELINE_"))}
    return CliRunner().invoke(app, [*given, *arguments], env={**clean, "COLUMNS": "400"})


def test_lost_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told, and restored: the next worker made an empty one, and doctor found nothing wrong.

    The name is short: a socket lies in the folder that has it.
    """
    monkeypatch.setattr(doctor, "stage_software", lambda _folders: [])
    assert contimg(tmp_path, "db", "init").exit_code == 0
    Database(load_settings(options(tmp_path), environment={}).registry_url).close()
    assert contimg(tmp_path, "--queue", "another", "db", "init").exit_code == 0
    backup = tmp_path / "state" / "backups" / "1"
    assert contimg(tmp_path, "backup", str(backup)).exit_code == 0
    server = EmbeddedPostgres(tmp_path / "state" / "postgres")
    try:
        server.stop()
        shutil.rmtree(server.folder / "data")
        for command in (("status",), ("worker",), ("db", "init"), ("db", "url")):
            refused = contimg(tmp_path, *command)
            assert isinstance(refused.exception, MissingInputError), (command, refused.output)
            assert "The database of this site is gone" in str(refused.exception)
            assert f"(the newest here: {backup}): contimg restore DIR" in str(refused.exception)
        assert not server.exists()
        looked = contimg(tmp_path, "monitor", "--once")
        assert looked.exit_code == 1
        assert "The database of this site is gone" in looked.output
        assert "disks" in looked.output  # the rest of the site is shown
        findings = contimg(tmp_path, "doctor")
        assert findings.exit_code == 1
        assert "The database of this site is gone" in findings.output
        restored = contimg(tmp_path, "restore", str(backup), "--force")
        assert restored.exit_code == 0
        advice = restored.output.partition("Then: contimg ")[2]
        followed = CliRunner().invoke(app, shlex.split(advice))  # as it is printed
        assert followed.exit_code == 0, (advice, followed.output)
        assert "another" in contimg(tmp_path, "queue", "list").output
    finally:
        server.stop()


def test_a_registry_with_tasks_tells_that_there_was_a_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the whole folder of the server is gone; a registry without tasks is a new site."""
    settings = load_settings(options(tmp_path), environment={})
    path = tmp_path / "state" / "registry.sqlite3"
    require_own_database(settings)
    Database(settings.registry_url).close()
    require_own_database(settings)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(
            "insert into observation_groups (group_id, status, task_id) values ('G', 'done', 'T')"
        )
    with pytest.raises(MissingInputError, match="knows tasks"):
        require_own_database(settings)
    started: list[Path] = []
    monkeypatch.setattr(EmbeddedPostgres, "start", lambda server: started.append(server.folder))
    assert isinstance(contimg(tmp_path, "db", "init").exception, MissingInputError)
    assert not started
    contimg(tmp_path, "db", "init", "--empty")
    assert started == [tmp_path / "state" / "postgres"]
