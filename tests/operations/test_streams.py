"""A command whose standard streams are closed or full, whose folder is gone, or that is stopped."""

from __future__ import annotations

import fcntl
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from forked_programs import ForkedProcess, built_commands, run_commands, run_forked

from absurd_contimg.operations.cli import main, queue_stops

CONTIMG = f"{shlex.quote(sys.executable)} -m absurd_contimg.operations"
ENTRY = "import sys; from absurd_contimg.operations.program import main; sys.exit(main())"


def environment() -> dict[str, str]:
    """Without variables of the pipeline."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("ABSURD_", "PIPEL"))}


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run it with bash in a folder."""
    return subprocess.run(
        ["bash", "-c", command],
        check=False,
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("closed", "command", "code"),
    [
        ("<&- >&- 2>&-", "settings", 0),
        (">&-", "logs nothing", 1),
        ("2>&-", "logs nothing", 1),
    ],
)
def test_closed_streams_change_no_exit_code(
    closed: str, command: str, code: int, tmp_path: Path
) -> None:
    result = shell(f"{CONTIMG} --output-dir out {command} {closed}", tmp_path)
    assert (result.returncode, "Traceback" in result.stderr) == (code, False), result.stderr


def test_output_of_a_fork_is_read_where_nothing_else_holds_its_stream() -> None:
    """The old stream closed its number, /dev/null took it: a command had printed nothing."""

    def inner() -> None:
        os.open(os.devnull, os.O_RDWR)
        print("shown")

    def outer() -> None:
        print(run_forked(inner, os.environ).stdout)

    assert run_forked(outer, os.environ).stdout.strip() == "shown"


@pytest.mark.parametrize("command", ["--help", "failures --json", "settings"])
def test_full_disk_under_standard_output_is_one_sentence(command: str, tmp_path: Path) -> None:
    """Typer's help, JSON, a table."""
    result = shell(f"{CONTIMG} --output-dir out {command} > /dev/full", tmp_path)
    assert result.returncode == 1
    assert "Standard output cannot be written: No space left on device." in result.stderr
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr


@pytest.mark.parametrize(
    ("target", "message"), [("/dev/full", "Standard output cannot be written"), (None, "")]
)
def test_output_that_a_command_goes_on_without_is_no_success(
    target: str | None, message: str
) -> None:
    """A full disk, or a pipe that nobody reads: an emergency stop ended half-way, with code 0."""

    def work() -> None:
        queue_stops._show("first")
        queue_stops._show("second")
        os.write(2, b"done\n")
        sys.exit(0)

    def run() -> None:
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer if target is None else os.open(target, os.O_WRONLY), 1)
        earlier, sys.stdout = sys.stdout, os.fdopen(1, "w", buffering=1, closefd=False)
        main.app = work  # type: ignore[assignment]
        main.main()
        del earlier  # it would have closed the descriptor

    ended = run_forked(run, environment())
    assert (ended.returncode, ended.stderr.startswith("done\n")) == (1, True)
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


def test_standard_error_on_a_full_disk_changes_no_exit_code(tmp_path: Path) -> None:
    assert shell(f"{CONTIMG} --output-dir out logs no 2> /dev/full", tmp_path).returncode == 1


def test_pipe_that_nobody_reads_is_no_message(tmp_path: Path) -> None:
    result = shell(f"{CONTIMG} --output-dir out failures --json | true", tmp_path)
    assert result.stderr == ""


def a_long_name(folder: Path) -> None:
    (folder / ("a" * 300)).mkdir()


def a_circle_of_links(folder: Path) -> None:
    (folder / "circle").symlink_to(folder / "circle")
    (folder / "circle" / "x").resolve(strict=True)


def below_a_file(folder: Path) -> None:
    (folder / "file").touch()
    (folder / "file" / "x").mkdir()


def a_full_disk(_: Path) -> None:
    with open("/dev/full", "w") as file:
        file.write("x")


def no_memory(_: Path) -> None:
    bytearray(2**62)


def no_memory_for_a_library(_: Path) -> None:
    raise ImportError("libscipy_openblas.so: failed to map segment from shared object")


def too_many_open_files_for_a_library(_: Path) -> None:
    raise ImportError("libz.so.1: cannot open shared object file: Too many open files")


@pytest.mark.parametrize(
    "refused",
    [
        *(a_long_name, a_circle_of_links, below_a_file, a_full_disk, no_memory),
        *(no_memory_for_a_library, too_many_open_files_for_a_library),
    ],
)
def test_what_the_machine_refuses_is_one_sentence(
    refused: Callable[[Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whatever command meets it; what may be a defect of ours keeps its traceback."""
    monkeypatch.setattr(main, "_run", lambda: refused(tmp_path))
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("contimg: ")
    assert line.endswith(".")
    monkeypatch.setattr(main, "_run", [].pop)
    with pytest.raises(IndexError):
        main.main()


@pytest.mark.parametrize("command", ["--state-dir state settings", "demo x"])
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


@pytest.mark.parametrize("entry", [["-m", "absurd_contimg.operations"], ["-c", ENTRY]])
def test_interrupt_while_commands_are_imported_is_one_line(
    entry: list[str], tmp_path: Path
) -> None:
    """As a module, and as the installed script begins; Python reports what it has imported."""
    with subprocess.Popen(
        [sys.executable, "-X", "importtime", *entry, "settings"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        # It cannot run ahead of what is read here by more than a page of names.
        fcntl.fcntl(process.stderr, fcntl.F_SETPIPE_SZ, 4096)
        for line in process.stderr:
            if "pydantic" in line:
                process.send_signal(signal.SIGINT)
                break
        rest = [line for line in process.stderr if "import time:" not in line]
        assert process.stdout.read() == ""
    assert (process.returncode, rest) == (130, ["contimg: interrupted\n"])


@pytest.mark.parametrize("command", [["status"], ["backup", "copy"]])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_command_is_one_line(
    number: signal.Signals, command: list[str], tmp_path: Path
) -> None:
    """It waits for a database that does not answer, in asyncio or not."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://user@127.0.0.1:{silent.getsockname()[1]}/db"

        def run() -> None:
            os.chdir(tmp_path)
            sys.argv = ["contimg", *command]
            run_commands()

        built_commands()
        process = ForkedProcess(
            run, {**environment(), "ABSURD_DATABASE_URL": url}, tmp_path / "out"
        )
        silent.settimeout(20)
        with silent.accept()[0]:
            process.send_signal(number)
            code = process.wait(2.0)
    assert code == (130 if number == signal.SIGINT else -number)
    name = "" if number == signal.SIGINT else f" by {number.name}"
    assert (tmp_path / "out").read_text() == f"contimg: interrupted{name}\n"
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("mask", ["0", "0777"])
def test_what_is_made_is_never_writable_for_everybody_and_always_usable(
    mask: str, tmp_path: Path
) -> None:
    """Whatever the umask: who may rename our folders can put others in their place."""
    command = "--output-dir out schedule add nightly mosaic --at 03:00"
    result = shell(f"umask {mask}; {CONTIMG} {command}", tmp_path)
    assert result.returncode == 0, result.stderr
    modes = {path: path.stat().st_mode for path in (tmp_path / "out").rglob("*")}
    assert {path.name for path in modes} >= {"state", "registry.sqlite3"}
    assert not any(mode & 0o002 for mode in modes.values())
    assert all(mode & 0o600 == 0o600 for mode in modes.values())
