"""The command line as processes: error messages, exit codes, signals."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from forked_programs import run_program

from absurd_contimg.backends.postgres import EmbeddedPostgres, server_process
from absurd_contimg.operations.cli.main import _refusal_of_the_system, given_path


def contimg(root: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command with all its folders inside `root`."""
    folders = [
        *("--input-dir", str(root / "incoming"), "--output-dir", str(root / "products")),
        *("--scratch-dir", str(root / "scratch"), "--state-dir", str(root / "state")),
    ]
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("ABSURD_", "PIPELINE_"))}
    return run_program([*folders, *arguments], {**clean, "COLUMNS": "200", **environment})


def test_one_option_names_the_folders_that_the_demo_has_left(tmp_path: Path) -> None:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("ABSURD_", "PIPELINE_"))}
    options = ["--folder", str(tmp_path), "--input-dir", "/elsewhere"]
    shown = run_program([*options, "settings", "--json"], {**clean, "PIPELINE_STATE_DIR": "/not"})
    values = {each["variable"]: each["value"] for each in json.loads(shown.stdout)["variables"]}
    assert values["PIPELINE_INPUT_DIR"] == "/elsewhere"
    folders = [values[f"PIPELINE_{name}_DIR"] for name in ("OUTPUT", "SCRATCH", "STATE")]
    assert folders == [str(tmp_path / name) for name in ("products", "scratch", "state")]


@pytest.mark.parametrize("option", ["--folder", "--state-dir", "--database-url", "--set"])
def test_an_empty_option_before_the_command_is_refused(option: str) -> None:
    """A shell's variable that was not set: a site in the current folder, another database."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("ABSURD_", "PIPELINE_"))}
    shown = run_program([option, "", "settings"], clean)
    assert shown.returncode == 2
    assert f"{option} is empty" in shown.stderr
    assert "Traceback" not in shown.stderr


def test_commands_that_read_make_no_state_folder(database_url: str, tmp_path: Path) -> None:
    """A misspelt one was made, with the registry in Postgres."""
    environment = {"ABSURD_DATABASE_URL": database_url, "PIPELINE_PRODUCTS_DB": database_url}
    site = ["--folder", str(tmp_path / "site")]
    assert run_program([*site, "db", "init"], {**os.environ, **environment}).returncode == 0
    misspelt = [*site, "--state-dir", str(tmp_path / "misspelt"), "status"]
    assert run_program(misspelt, {**os.environ, **environment}).returncode == 0
    assert not (tmp_path / "misspelt").exists()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://nobody@127.0.0.1:1/none", ["BackendUnavailable", "ABSURD_DATABASE_URL"]),
        ("not a url", ["ABSURD_DATABASE_URL is no URL of Postgres", "postgresql://"]),
        ("127.0.0.1:5432/secret?x=1", ["ABSURD_DATABASE_URL is no URL of Postgres"]),
        ("postgresql+psycopg://secret@h/d", ["ABSURD_DATABASE_URL is no URL of Postgres"]),
    ],
)
def test_wrong_database_url_gives_one_message(
    tmp_path: Path, url: str, expected: list[str]
) -> None:
    shown = contimg(tmp_path, "status", ABSURD_DATABASE_URL=url)
    assert shown.returncode == 1
    for text in expected:
        assert text in shown.stderr
    assert "Traceback" not in shown.stderr
    assert "secret" not in shown.stderr
    option = contimg(tmp_path, "--database-url", url, "status").stderr
    assert ("--database-url is no URL of Postgres" in option) == ("no URL" in expected[0])


def test_stopping_says_what_was_stopped(database_url: str) -> None:
    """A user's own server, and a folder that never was, were said to be stopped."""
    with TemporaryDirectory() as name:  # short, for the path of a socket
        root = Path(name)
        folder = root / "state" / "postgres"
        own = contimg(root, "db", "stop", ABSURD_DATABASE_URL=database_url).stdout
        assert "Nothing was stopped: the database is a server of your own" in own
        never = contimg(root, "db", "stop").stdout
        assert f"Nothing was stopped: there is no private Postgres in {folder}" in never
        assert not folder.exists()
        contimg(root, "db", "init")
        stopped = contimg(root, "db", "stop").stdout
        assert f"The private Postgres in {folder} is stopped." in stopped
        again = contimg(root, "db", "stop").stdout
        assert f"Nothing was stopped: the private Postgres in {folder} does not run" in again


def test_a_server_of_another_container_is_not_said_to_be_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It holds its lock, and has no process here."""
    monkeypatch.setattr(server_process, "_LAST_PROCESS_SECONDS", 0.2)
    with TemporaryDirectory() as name:  # short, for the path of a socket
        root = Path(name)
        contimg(root, "db", "init")
        contimg(root, "db", "stop")
        with (root / "state" / "postgres" / "server.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            shown = contimg(root, "db", "stop")
    assert shown.returncode == 1
    assert "runs on another host or in another container" in shown.stderr
    assert "Nothing was stopped" not in shown.stdout


def test_database_without_the_schema_says_what_to_run(
    tmp_path: Path, postgres_server: EmbeddedPostgres
) -> None:
    url = postgres_server.create_database("without_schema")
    for command in ("status", "worker"):
        shown = contimg(tmp_path, command, ABSURD_DATABASE_URL=url)
        assert shown.returncode == 1
        assert "contimg db init" in shown.stderr
        assert "Traceback" not in shown.stderr
    assert "Installed" in contimg(tmp_path, "db", "init", ABSURD_DATABASE_URL=url).stdout
    assert "no tasks" in contimg(tmp_path, "status", ABSURD_DATABASE_URL=url).stdout


def test_schema_without_the_queue_says_what_to_run(tmp_path: Path, database_url: str) -> None:
    shown = contimg(tmp_path, "status", ABSURD_DATABASE_URL=database_url)
    assert shown.returncode == 1
    assert "contimg --queue dsa110-pipeline db init" in " ".join(shown.stderr.split())


def test_misspelt_variable_is_refused(tmp_path: Path) -> None:
    shown = contimg(tmp_path, "status", ABSURD_QUEUENAME="x")
    assert shown.returncode == 1
    assert "Did you mean ABSURD_QUEUE_NAME?" in shown.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--faults", "kill@99999"], "kill@99999 was not injected: that process has "),
        (["--faults", "kill"], "'kill' is no fault"),
        (["--first", "killl"], "'killl' is no kind of fault; there are kill, "),
        (["--after", "8"], "There are 8 parts, so --after 8 leaves none to run."),
    ],
)
def test_wrong_faults_of_an_exploration_are_refused(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    shown = contimg(tmp_path, "explore", "--workflow", "handler", *arguments)
    assert shown.returncode == 1
    assert message in shown.stderr
    assert "Traceback" not in shown.stderr
    assert not shown.stdout


def test_spawn_without_files_says_where_it_looked(tmp_path: Path, database_url: str) -> None:
    (tmp_path / "incoming").mkdir()
    (tmp_path / "incoming" / "catalog.csv").write_text("name\n")
    contimg(tmp_path, "db", "init", ABSURD_DATABASE_URL=database_url)
    shown = contimg(tmp_path, "spawn", ABSURD_DATABASE_URL=database_url)
    assert shown.returncode == 1
    assert str(tmp_path / "incoming") in shown.stderr


def test_output_folder_that_cannot_be_made_is_named(tmp_path: Path, database_url: str) -> None:
    (tmp_path / "full").write_text("a file where a folder should be")
    below_a_file = str(tmp_path / "full" / "products")
    contimg(tmp_path, "db", "init", ABSURD_DATABASE_URL=database_url)
    shown = contimg(
        *(tmp_path, "--output-dir", below_a_file, "worker", "--until-idle"),
        ABSURD_DATABASE_URL=database_url,
    )
    assert shown.returncode == 78  # a wrong setting of a service
    assert below_a_file in shown.stderr
    assert "Make it writable" in shown.stderr
    assert "Traceback" not in shown.stderr


def test_path_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    shown = contimg(tmp_path, "demo", "/proc/x")
    assert (shown.returncode, shown.stdout) == (1, "")
    assert "FileNotFoundError: /proc/x cannot be used: No such file or directory" in shown.stderr
    assert "Traceback" not in shown.stderr


def test_what_a_file_system_does_not_offer_is_one_sentence() -> None:
    """EINVAL of a file in the folder of the site; without a file it may be a wrong argument."""
    error = OSError(errno.EINVAL, "Invalid argument", "/mnt/site/report.html")
    text = _refusal_of_the_system(error)
    assert text is not None
    assert text.startswith("Invalid argument (/mnt/site/report.html). Its file system")
    assert _refusal_of_the_system(OSError(errno.EINVAL, "Invalid argument")) is None
    lock = _refusal_of_the_system(OSError(errno.ENOLCK, "No locks available", "/mnt/s/.lock"))
    assert "The mount of /mnt/s has no file locks" in str(lock)


@pytest.mark.parametrize(
    ("names", "given"),
    [
        (["/nope/.x.24738.partial"], "/nope/x"),
        (["/.tmp.24418.partial", "/tmp"], "/tmp"),
        (["/nope/x/below"], "/nope/x"),
        (["/nope/other"], None),
        ([], None),
    ],
)
def test_only_paths_that_were_given_are_the_users(names: list[str], given: str | None) -> None:
    """The traceback of any other error is for us."""
    error = OSError(2, "No such file or directory", *names[:1], None, *names[1:])
    assert given_path(error, ["archive", "/nope/x", "--write=/tmp", "/", "."]) == given


def test_worker_ends_cleanly_on_sigterm(tmp_path: Path, database_url: str) -> None:
    contimg(tmp_path, "db", "init", ABSURD_DATABASE_URL=database_url)
    log = tmp_path / "worker.log"
    with log.open("wb") as output:
        worker = subprocess.Popen(
            [
                *(sys.executable, "-m", "absurd_contimg.operations"),
                *("--input-dir", str(tmp_path), "--output-dir", str(tmp_path / "products")),
                *("--database-url", database_url, "worker"),
            ],
            stderr=output,
        )
    wait_for(lambda: "on queue" in log.read_text(), log)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(20) == 0
    assert "stops; what runs has 10 s, then it is released" in log.read_text()


def test_second_worker_of_the_same_name_is_refused(tmp_path: Path, database_url: str) -> None:
    contimg(tmp_path, "db", "init", ABSURD_DATABASE_URL=database_url)
    log = tmp_path / "worker.log"
    options = [
        *("--input-dir", str(tmp_path), "--output-dir", str(tmp_path / "products")),
        *("--scratch-dir", str(tmp_path / "scratch"), "--state-dir", str(tmp_path / "state")),
        *("--database-url", database_url, "worker", "--worker-id", "worker-1"),
    ]
    with log.open("wb") as output:
        first = subprocess.Popen(
            [sys.executable, "-m", "absurd_contimg.operations", *options], stderr=output
        )
    try:
        wait_for(lambda: "on queue" in log.read_text(), log)
        second = contimg(
            tmp_path, "worker", "--worker-id", "worker-1", ABSURD_DATABASE_URL=database_url
        )
        assert second.returncode == 1
        assert "still running" in second.stderr
    finally:
        first.kill()
        first.wait()


def wait_for(condition: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
