"""Names and texts from outside are shown harmlessly: tables, progress, logs, report, JSON."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.records import History
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.errors import InputError
from absurd_contimg.history.summary import summarize
from absurd_contimg.operations.console import SafeConsole, SafeFormatter, cell, jsonable
from absurd_contimg.operations.report import write_report
from absurd_contimg.operations.terminal import (
    history_table,
    progress_table,
    task_summary,
    tasks_table,
)
from absurd_contimg.workflows.failure_rules import CLASSIFIER

HOSTILE = {
    "closing tag": "a[/]b",
    "tag": "[bold]a[/bold][link=file:///etc/passwd]b[/link]",
    "backslash": "a\\[/]\\",
    "escape": "a\x1b[2Jb\x1b]0;title\x07",
    "link": "a\x1b]8;;http://evil/\x1b\\b\x1b]8;;\x1b\\",
    "C1": "a\x9b2Jb\x90c\x9c",
    "line ends": "a\nb\r\nc\x0bd\x85e\u2028f",
    "bidi": "a\u202eb\u2066c",
    "backspace": "ab\x08\x08\x08\x7f",
    "page": "<script>alert(1)</script><b>&amp;",
    "math": "$\\frac{1$ a_b^c",
    "long": "x" * 10_000,
    "percent": "a%sb%(x)d{0}{x}",
    "emoji": ":smile: :warning:",
}
NOW = datetime(2026, 1, 1, tzinfo=UTC)
_OURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
"""What rich itself writes: colours and movements of the cursor."""


def render(*parts: Any, **options: Any) -> str:
    """What a terminal gets, without rich's own sequences; raises if anything else could act."""
    text = io.StringIO()
    console = SafeConsole(file=text, force_terminal=True, width=200, highlight=False, emoji=False)
    console.print(*parts, **options)
    shown = _OURS.sub("", text.getvalue())
    dangerous = [char for char in shown if not char.isprintable() and char != "\n"]
    assert dangerous == []
    return shown


def history_of(name: str) -> History:
    """A task that a worker of a hostile name fails in a hostile step with a hostile message."""

    async def fail() -> History:
        backend = MemoryBackend(MemoryDatabase())
        await backend.create_queue("q")
        task = await backend.spawn_task("q", "pipeline", {"group_id": name})

        async def pipeline(_params: Any, ctx: TaskContext) -> None:
            async def step(_start: int) -> None:
                raise InputError(f"bad {name}", f"do {name}")

            await ctx.tracked_step(name[:100].replace("\x00", ""), step)

        tasks = TaskRegistry()
        tasks.add("pipeline", pipeline)
        worker = WorkerSettings("q", f"worker {name}"[:800], poll_interval_seconds=0.001)
        await Worker(backend, tasks, worker, CLASSIFIER).run(until_idle=True)
        history = await backend.history("q", task.task_id)
        assert history is not None
        return history

    return asyncio.run(fail())


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_every_view_shows_hostile_names_harmlessly(name: str, tmp_path: Path) -> None:
    """Tables in a terminal, JSON for programs, the page."""
    history = history_of(name)
    summary = summarize(history)
    shown = render(tasks_table([summary], NOW), history_table(history))
    shown += render(progress_table([history], NOW))
    if len(name) < 30 and name.isprintable():
        assert name in shown
    assert len(shown) < 60_000
    text = json.dumps(jsonable({"task": task_summary(summary, NOW), "history": history}), indent=1)
    assert json.loads(text.encode())["task"]["group"] == name
    (page,) = write_report(tmp_path / "report.html", [history])
    content = page.read_text(encoding="utf-8")
    assert "<script>alert" not in content
    assert [char for char in content if not char.isprintable() and char not in "\n\t"] == []


@pytest.mark.parametrize("end", ["\n", "\r\n", "\x0b", "\x85", "\u2028"], ids=ascii)
def test_line_ends_forge_no_line_of_a_table(end: str) -> None:
    """In names, failure messages and advice."""
    history = history_of(f"a{end}FORGED")
    summary = summarize(history)
    for view in (tasks_table([summary], NOW), history_table(history)):
        lines = render(view, width=2000).splitlines()
        assert any("FORGED" in line for line in lines)
        assert not [line for line in lines if line.strip().startswith("FORGED")]


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(), max_size=60))
def test_any_text_is_harmless(text: str) -> None:
    """In a cell, as a sentence, with and without markup, surrogates of file names included.

    A `Text` was printed as it was: what contimg actions says of an unknown target.
    """
    table = Table("name", title=cell(text))
    table.add_row(cell(text))
    render(table)
    render(text)
    render(text, markup=False)
    render(Text(text))
    json.dumps(jsonable({text: [text]}), ensure_ascii=False).encode()


def test_a_file_name_that_is_no_utf_8_is_shown(tmp_path: Path) -> None:
    """As the escape of its byte."""
    path = Path("/data/in/\udcff.hdf5")
    assert "\\udcff.hdf5" in render(cell(path))
    assert json.loads(json.dumps(jsonable({"path": path})))["path"] == "/data/in/\\udcff.hdf5"


def test_each_event_of_a_log_is_one_line() -> None:
    """A message cannot forge another event; a traceback keeps its lines."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(SafeFormatter("%(levelname)s %(message)s"))
    logger = logging.Logger("test")
    logger.addHandler(handler)
    for name in HOSTILE.values():
        logger.warning("group %s", name)
    lines = stream.getvalue().splitlines()
    assert len(lines) == len(HOSTILE)
    assert all(line.isprintable() and line.startswith("WARNING group ") for line in lines)
