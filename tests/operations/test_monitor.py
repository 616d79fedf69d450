"""The monitor: one screen of any size, lines without a terminal, and outages while it runs."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from rich.console import Console
from site_overviews import AT, DATA, DISK, QUEUE, TASK, WORKER, healthy, overviews

from absurd_contimg.operations.console import SafeConsole, cut
from absurd_contimg.operations.monitor import Screen, has_failures, summary_line
from absurd_contimg.operations.monitor.monitor import Memory
from absurd_contimg.operations.overview import GroupOverview, SiteOverview, WaitingTask

LONG = "a-name-that-somebody-has-chosen-who-has-a-screen-of-two-hundred-columns"
METRICS = (
    "Task Queue Depth",
    "Task Success Rate",
    "Worker Utilization",
    "Processing Latency",
    "Disk Usage",
)


def rendered(screen: Screen, width: int, height: int = 24) -> list[str]:
    """The lines of the screen without colours."""
    console = SafeConsole(width=width, height=height, highlight=False, emoji=False)
    with console.capture() as capture:
        console.print(screen)
    return capture.get().splitlines()


def busy(name: str) -> SiteOverview:
    """Everything at once, all with this name."""
    return healthy(
        queues=(replace(QUEUE, queue_name=name, failures_by_kind={"transient": 4}),),
        services=(
            replace(WORKER, name=name),
            replace(WORKER, name="w9", health="failure", problem="It is silent."),
        ),
        groups=tuple(
            GroupOverview(f"{name}{n}", "group", "collecting", n, 16, "waits for sb03", None)
            for n in range(9)
        ),
        waiting=tuple(
            WaitingTask(TASK, name, "pipeline", f"{name}{n}", AT, AT, "waits " * 40, "Wait.")
            for n in range(9)
        ),
        disks=(replace(DISK, folder=f"/{name}", health="warning", hours_to_full=5.2),),
    )


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("name", ["short", LONG])
def test_keys_are_never_cut(width: int, name: str) -> None:
    """They are folded, and what does not fit on the screen is counted."""
    for height in (24, 30, None):
        lines = rendered(Screen(busy(name), height=height), width)
        assert max(map(len, lines)) <= width
        for metric in METRICS:
            assert metric in "\n".join(lines)
        if height is None:
            assert not any("more)" in line for line in lines)
        elif width < 120 or name == LONG:
            assert any("more)" in line for line in lines)
        if height is not None and name != LONG:  # a line of each section is shown, however long
            assert len(lines) <= height
        column = width if width < 120 else (width - 2) // 2  # two columns of a wide screen
        sides = [lines] if width < 120 else [lines, [line[column + 2 :] for line in lines]]
        keys = "".join(line[: int(column * 0.4)].strip() for side in sides for line in side)
        assert name in keys
        assert f"/{name}" in keys


@pytest.mark.parametrize("width", [50, 64, 80, 119])
def test_a_line_is_cut_at_the_end_of_a_word(width: int) -> None:
    """A number or a path that is cut in its middle is another one."""
    problem = "1234567 tasks wait behind /stage/dsa110-contimg/state for 5432 s " * 4
    words = {*problem.split(), ""}
    site = healthy(problems=(problem,), queues=(QUEUE,) * 20)
    (line,) = [line for line in rendered(Screen(site, height=24), width) if line.startswith("!")]
    assert line.rstrip().endswith("…")
    assert {*line.rstrip("… ")[1:].split()} <= words


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("free 1234567 B", "free..."),
        ("below /stage/x, left", "below..."),
        ("short", "short"),
        ("x" * 40, f"{'x' * 9}..."),
    ],
)
def test_a_long_text_is_cut_at_the_end_of_a_word(text: str, shown: str) -> None:
    assert cut(text, 12) == shown


def test_a_small_terminal_shows_every_section_and_the_worst_first() -> None:
    lines = rendered(Screen(busy("short"), height=24), 80)
    assert len(lines) <= 24
    text = "\n".join(lines)
    for part in ("services", "queues", "groups", "waiting", "disks", "newest", "It is silent"):
        assert part in text
    assert "full in 5.2 h" in text


def test_a_failed_task_is_named_with_the_command_that_says_why() -> None:
    lines = rendered(Screen(healthy(queues=(replace(QUEUE, last_failed=TASK),))), 80)
    text = " ".join(" ".join(lines).split())
    command = f"contimg --queue {QUEUE.queue_name} history {TASK}"
    assert f"last failed task why, and what to do: {command}" in text


def test_zeros_are_dimmed_and_values_have_their_ages() -> None:
    console = Console(width=120, force_terminal=True, color_system="standard")
    with console.capture() as capture:
        console.print(Screen(healthy(), seconds_ago=7.0))
    text = capture.get()
    assert "\x1b[2m0\x1b[0m" in text
    assert "7 s ago" in text
    assert "newest" in text
    assert "file 100 s ago" in text
    assert "20 s ago" in text  # the disk


@settings(max_examples=30, deadline=None)
@given(overviews())
def test_whatever_is_known_or_not_is_shown(overview: SiteOverview) -> None:
    for width in (60, 130):
        lines = rendered(Screen(overview, height=24), width)
        assert "None" not in "\n".join(lines)
    assert "\n" not in summary_line(overview)


def test_what_cannot_be_read_again_stays_with_its_age() -> None:
    """First the database goes, then the registry, then both come back."""
    time_now = [0.0]
    memory = Memory(clock=lambda: time_now[0])
    memory.take(healthy())
    time_now[0] = 30.0
    away = memory.take(healthy(queues=(), problems=("The tasks cannot be seen.",)))
    assert away.queues == (QUEUE,)
    screen = memory.screen(None)
    assert screen is not None
    assert screen.notes == {"tasks": 30.0}
    assert "tasks cannot be read: shown as it was 30 s ago" in "\n".join(rendered(screen, 80))
    time_now[0] = 40.0
    both = memory.take(healthy(queues=(), data=None, services=(), problems=("a", "b")))
    assert both.data == DATA
    assert WORKER in both.services
    time_now[0] = 50.0
    memory.take(healthy())
    screen = memory.screen(None)
    assert screen is not None
    assert screen.notes == {}


def test_what_to_do_about_a_problem_is_not_cut() -> None:
    """It stands at the end of a long sentence of the database's driver."""
    overview = healthy(problems=(f"The tasks cannot be seen: {'x ' * 200}Run: contimg doctor.",))
    shown = " ".join("\n".join(rendered(Screen(overview), 80)).split())
    assert "Run: contimg doctor." in shown


@pytest.mark.parametrize("width", [80, 160])
def test_the_lines_of_a_log_are_lines(width: int) -> None:
    """Of a server that cannot start; a summary of one line has spaces in their place."""
    overview = healthy(problems=("pg_ctl ended with 1:\nFATAL:  no\x1b[2J folder\n\nMake it.",))
    lines = rendered(Screen(overview), width, 60)
    (first,) = [place for place, line in enumerate(lines) if "pg_ctl ended" in line]
    assert "FATAL:  no\\x1b[2J folder" in lines[first + 1]
    assert "Make it." in lines[first + 2]
    assert "ended with 1: FATAL: no" in summary_line(overview)


def test_a_stopped_worker_does_nothing() -> None:
    """It was shown as stopped, and as waiting for tasks."""
    stopped = replace(WORKER, state="stopped", activity="waits for tasks", running=())
    shown = "\n".join(rendered(Screen(healthy(services=(stopped,))), 120))
    assert "stopped" in shown
    assert "waits for tasks" not in shown


def test_the_exit_code_tells_failures_and_what_cannot_be_seen() -> None:
    assert not has_failures(healthy())
    assert not has_failures(healthy(disks=(replace(DISK, health="warning"),)))
    assert has_failures(healthy(disks=(replace(DISK, health="unknown"),)))
    assert has_failures(healthy(services=(replace(WORKER, health="failure"),)))
    assert has_failures(healthy(problems=("The tasks cannot be seen.",)))


@contextmanager
def monitor_in_terminal(
    tmp_path: Path, columns: int
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """``contimg monitor`` in a terminal of this width, of a site whose database is away."""
    leader, follower = pty.openpty()
    resize(follower, columns)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("ABSURD_", "PIPELINE_"))}
    clean.pop("COLUMNS", None)
    folders = [
        *("--input-dir", str(tmp_path), "--output-dir", str(tmp_path / "out")),
        *("--database-url", "postgresql://127.0.0.1:1/none"),
    ]
    code = "from absurd_contimg.operations.program import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *folders, "monitor", "--interval", "0.3"],
        stdin=follower, stdout=follower, stderr=follower,
        env={**clean, "TERM": "xterm"}, start_new_session=True,
    )  # fmt: skip
    os.close(follower)
    try:
        yield process, leader
    finally:
        process.kill()
        process.wait()
        os.close(leader)


def resize(terminal: int, columns: int) -> None:
    """Set the size of a terminal."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))


def read_until(leader: int, text: str, seconds: float = 60.0) -> str:
    """What the terminal shows until a text comes."""
    os.set_blocking(leader, False)
    shown, give_up = "", time.monotonic() + seconds
    while text not in shown and time.monotonic() < give_up:
        try:
            shown += os.read(leader, 65536).decode(errors="replace")
        except BlockingIOError:
            time.sleep(0.05)
    assert text in shown, shown[-2000:]
    return shown


def test_it_goes_on_without_a_database_and_ends_at_once(tmp_path: Path) -> None:
    """Its screen is of the terminal's size, also after that has changed; Ctrl-C ends it."""
    with monitor_in_terminal(tmp_path, 80) as (process, leader):
        read_until(leader, "Disk Usage")
        resize(leader, 60)
        os.kill(process.pid, signal.SIGWINCH)
        read_until(leader, "The tasks cannot be seen")
        read_until(leader, "cannot be reached")  # that is, why, at once
        read_until(leader, "Disk Usage")
        assert process.poll() is None
        began = time.monotonic()
        os.kill(process.pid, signal.SIGINT)
        read_until(leader, "\x1b[?1049l")  # the terminal is as it was
        assert process.wait(20) != 0
        assert time.monotonic() - began < 10.0
