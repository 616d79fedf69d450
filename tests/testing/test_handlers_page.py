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


def test_every_file_and_command_works(tmp_path: Path, database_url: str) -> None:
    assert set(FILES) == {
        *("orders.py", "try_it.py", "test_orders.py", "orders_worker.py", "spawn_order.py"),
    }
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("ABSURD_", "PIPELINE_"))}
    environment = {**clean, "ABSURD_DATABASE_URL": database_url, "COLUMNS": "200"}
    try_it, test, init, work, spawn, status, history, retry = COMMANDS
    assert "state='completed'" in run(tmp_path, try_it, environment)
    assert "3 passed" in run(tmp_path, test, environment)
    run(tmp_path, init, environment)
    assert work == "python orders_worker.py &"
    worker = subprocess.Popen(
        [sys.executable, *work.split()[1:2]],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
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


def test_the_unit_starts_the_file_of_the_page() -> None:
    (text,) = re.findall(r"```ini\n(.*?)```", PAGE, re.DOTALL)
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(text)
    assert unit["Service"]["ExecStart"].split()[-1] in FILES
    assert "WORKER_ID" in unit["Service"]["Environment"]
    assert "WORKER_ID" in FILES["orders_worker.py"]
