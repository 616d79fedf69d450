"""A command whose standard streams are closed or full, or whose current folder is gone."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

CONTIMG = f"{shlex.quote(sys.executable)} -m absurd_contimg.operations"


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run it with bash in a folder, without variables of the pipeline."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ABSURD_", "PIPEL"))}
    return subprocess.run(
        ["bash", "-c", command],
        check=False,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    "closed", ["<&-", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"], ids=lambda text: text
)
@pytest.mark.parametrize(("command", "code"), [("settings", 0), ("logs nothing", 1)])
def test_closed_streams_change_no_exit_code(
    closed: str, command: str, code: int, tmp_path: Path
) -> None:
    result = shell(f"{CONTIMG} --output-dir out {command} {closed}", tmp_path)
    assert (result.returncode, "Traceback" in result.stderr) == (code, False), result.stderr


@pytest.mark.parametrize("command", ["settings", "failures --json", "--help", "failures"])
def test_full_disk_under_standard_output_is_one_sentence(command: str, tmp_path: Path) -> None:
    result = shell(f"{CONTIMG} --output-dir out {command} > /dev/full", tmp_path)
    assert result.returncode == 1
    assert "Standard output cannot be written: No space left on device." in result.stderr
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr


def test_standard_error_on_a_full_disk_changes_no_exit_code(tmp_path: Path) -> None:
    assert shell(f"{CONTIMG} --output-dir out settings 2> /dev/full", tmp_path).returncode == 0
    assert shell(f"{CONTIMG} --output-dir out logs no 2> /dev/full", tmp_path).returncode == 1


@pytest.mark.parametrize("command", ["settings", "failures --json"])
def test_pipe_that_nobody_reads_is_no_message(command: str, tmp_path: Path) -> None:
    result = shell(f"{CONTIMG} --output-dir out {command} | true", tmp_path)
    assert result.stderr == ""


@pytest.mark.parametrize("command", ["--state-dir state settings", "synth x", "demo x"])
def test_current_folder_that_was_removed_is_one_sentence(command: str, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    result = shell(f"cd gone && rmdir ../gone && {CONTIMG} {command}", tmp_path)
    assert result.returncode == 1
    assert "the current folder was removed" in result.stderr
    assert "Traceback" not in result.stderr


def test_absolute_paths_need_no_current_folder(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    command = f"cd gone && rmdir ../gone && {CONTIMG} --output-dir {tmp_path} settings"
    result = shell(command, tmp_path)
    assert result.returncode == 0, result.stderr
