"""docs/handlers.md: its files and commands, from the first line to a worker on Postgres."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
from pathlib import Path

from forked_programs import run_program, run_pytest, run_script

PAGE = (Path(__file__).parents[2] / "docs" / "handlers.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"`(\w+\.py)`[^`]*?(?:[^`]|`[^`]+`)*?```python\n(.*?)```", PAGE, re.DOTALL))
COMMANDS = "".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)).splitlines()


RUN = {"python": run_script, "pytest": run_pytest, "contimg": run_program}


def run(folder: Path, command: str, environment: dict[str, str]) -> str:
    """What a command of the page prints, in the folder with its files."""
    program, *arguments = command.split()
    shown = RUN[program](arguments, environment, folder)
    assert shown.returncode == 0, f"{command}\n{shown.stdout}\n{shown.stderr}"
    return shown.stdout


def started(folder: Path, command: str, environment: dict[str, str]) -> subprocess.Popen[str]:
    """A worker that the page starts in the background."""
    return subprocess.Popen(
        [sys.executable, *command.split()[1:2]],
        cwd=folder,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_every_file_and_command_works(tmp_path: Path, database_url: str) -> None:
    assert set(FILES) == {
        *("orders.py", "try_it.py", "test_orders.py", "orders_worker.py", "spawn_order.py"),
        *("two_workers.py", "pick_up.py"),
    }
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("ABSURD_", "PIPELINE_"))}
    environment = {**clean, "ABSURD_DATABASE_URL": database_url, "COLUMNS": "200"}
    try_it, test, init, work, spawn, init_parcels, work_two, pick_up, *others = COMMANDS
    status, history, retry = others
    assert "state='completed'" in run(tmp_path, try_it, environment)
    assert "3 passed" in run(tmp_path, test, environment)
    run(tmp_path, init, environment)
    assert work == "python orders_worker.py &"
    worker = started(tmp_path, work, environment)
    try:
        task, outcome = run(tmp_path, spawn, environment).split()
        assert outcome == "spawned"
        assert run(tmp_path, spawn, environment).split() == [task, "existed"]
        while "completed" not in run(tmp_path, status, environment):
            assert worker.poll() is None
    finally:
        worker.terminate()
        assert worker.wait(20) == 0
    shown = run(tmp_path, history.replace("TASK", task[-12:]), environment)
    assert re.search(rf"order {task}: completed", shown)
    assert re.search(r"completed +charge, \S*cooling off, mail", shown)
    assert 'Result: {"charged": 950}' in shown
    assert retry.split()[-2:] == ["retry", "TASK"]
    run(tmp_path, init_parcels, environment)
    assert work_two == "python two_workers.py &"
    workers = started(tmp_path, work_two, environment)
    try:
        (task,) = run(tmp_path, pick_up, environment).split()
        while "ship " + task + ": completed" not in (
            shown := run(tmp_path, history.replace("TASK", task), environment)
        ):
            assert workers.poll() is None
            assert "failed" not in shown
        assert 'Result: {"by": "anna"}' in shown
    finally:
        workers.terminate()
        assert workers.wait(20) == 0


def test_the_unit_starts_the_file_of_the_page() -> None:
    (text,) = re.findall(r"```ini\n(.*?)```", PAGE, re.DOTALL)
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(text)
    assert unit["Service"]["ExecStart"].split()[-1] in FILES
    assert "WORKER_ID" in unit["Service"]["Environment"]
    assert "WORKER_ID" in FILES["orders_worker.py"]
