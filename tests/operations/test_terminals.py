"""What every command prints in a real terminal: within its width, and harmless there."""

from __future__ import annotations

import asyncio
import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table
from search_extent import is_search

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.records import SpawnOptions
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.errors import InputError
from absurd_contimg.operations.console import SafeConsole

QUEUE = "q"
HOSTILE = (
    "a[/]b[bold]c\x1b[2Jd\x1b]0;title\x07e",
    "\x9b2J\x90c\x9c\x08\x7f\u202e\u2066 c\r\nforged   done",
    "x" * 3000,
    "\u96fb\u6ce2\u5929\u6587 " * 60,
)
SCRIPT = """
import json, sys
from absurd_contimg.operations.cli.main import main
for command in json.loads(sys.argv.pop(1)):
    sys.argv[1:] = command
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
    else:
        code = 0
    print(f"END {code} {ascii(command[9:])[:24]}", flush=True)
"""
UNWRAPPED = ("audit", "logs", "settings")
"""Sentences of any length, which a terminal wraps by itself and a program can read by lines."""
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture
def url(database_url: str) -> str:
    """A database with tasks of hostile names: failed, completed, waiting."""

    async def pipeline(params: Any, ctx: TaskContext) -> Any:
        name = params["group_id"]

        async def step(_start: int) -> None:
            raise InputError(f"bad {name}", f"do {name}")

        if params["wait"]:
            await ctx.await_event(f"event {name}"[:200])
        await ctx.tracked_step(name[:100], step)

    async def fill() -> None:
        registry = TaskRegistry()
        registry.add("pipeline", pipeline)
        async with PostgresBackend(database_url) as backend:
            await backend.create_queue(QUEUE)
            for name in HOSTILE:
                for wait in (False, True):
                    params = {"group_id": name, "wait": wait}
                    options = SpawnOptions(headers={"x": name})
                    await backend.spawn_task(QUEUE, "pipeline", params, options)
            settings = WorkerSettings(QUEUE, HOSTILE[0], poll_interval_seconds=0.01)
            policy = RetryPolicy(backoff_first_seconds=0.0)
            await Worker(backend, registry, settings, policy=policy).run(until_idle=True)

    asyncio.run(fill())
    return database_url


def in_terminal(commands: list[list[str]], columns: int, environment: dict[str, str]) -> str:
    """What a terminal of this width gets from the commands, all in one process."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "TERM")}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, json.dumps(commands)],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**kept, "TERM": "xterm-256color", **environment},
    )
    os.close(slave)
    chunks = []
    while True:
        try:
            chunk = os.read(master, 65536)
        except OSError:  # EIO: the other side is closed
            break
        chunks.append(chunk)
    os.close(master)
    assert process.wait(timeout=60) == 0
    return b"".join(chunks).decode()


def width(line: str) -> int:
    """The columns that a line takes."""
    return sum(
        0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF")
        for char in line
    )


@pytest.mark.parametrize(
    ("columns", "environment"),
    [(40, {"NO_COLOR": "1"}), (80, {"TERM": "dumb"})][: 2 if is_search() else 1],
    ids=["narrow without colours", "dumb"][: 2 if is_search() else 1],
)
def test_every_view_fits_a_terminal_and_acts_on_none(
    url: str, tmp_path: Path, columns: int, environment: dict[str, str]
) -> None:
    (tmp_path / "in").mkdir()
    folders = ["--input-dir", str(tmp_path / "in"), "--output-dir", str(tmp_path / "out")]
    site = [*folders, "--database-url", url, "--queue", QUEUE]
    views = (
        *(["status"], ["history", HOSTILE[0]], ["history", HOSTILE[3]], ["audit"], ["settings"]),
        *(["failures"], ["logs", HOSTILE[0]], ["quarantine", "list"], ["registry", "check"]),
        *(["queue", "list"], ["batch", "list"], ["schedule", "list"], ["mosaic", "list"]),
        *(["lightcurve", HOSTILE[1]], ["photometry", HOSTILE[1]], ["retry", HOSTILE[1]]),
        *(["cancel", "no such"], ["no such command", HOSTILE[0]], ["--help"]),
    )
    text = in_terminal([[*site, *view] for view in views], columns, environment)
    assert text.count("END ") == len(views), text[-2000:]
    assert "Traceback" not in text
    assert not re.search(r"\x1b\[[0-9;]*[34]\d", text), "a colour"
    assert columns == 40 or "\x1b" not in text
    shown = _COLOURS.sub("", text).replace("\r\n", "\n")
    dangerous = {char for char in shown if not char.isprintable() and char != "\n"}
    assert dangerous == set()
    assert "\nforged" not in shown
    wide = [
        (view, line)
        for view, part in zip(views, re.split(r"END .*\n", shown), strict=False)
        for line in part.splitlines()
        if view[0] not in UNWRAPPED and width(line.rstrip()) > columns
    ]
    assert wide == []


@pytest.mark.parametrize(("columns", "width"), [("0", 80), ("1", 80), ("19", 80), ("100000", 2000)])
def test_terminal_of_an_unusable_width_has_another(
    columns: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some containers and editors set COLUMNS=0; at 100,000 settings took half a minute."""
    monkeypatch.setenv("COLUMNS", columns)
    table = Table("name")
    table.add_row("of a task")
    text = io.StringIO()
    console = SafeConsole(file=text)
    console.print(table)
    assert console.width == width
    assert "of a task" in text.getvalue()
