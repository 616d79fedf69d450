"""The user's page of the emulator: every block of Python in it runs as it stands."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import absurd_sdk
import pytest

from absurd_contimg.backends.memory import MemoryDatabase

PAGE = Path(__file__).parents[3] / "docs" / "emulator.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_every_block_runs() -> None:
    """One after the other; each is valid as a file too: no ``await`` at the top."""
    names: dict[str, Any] = {"db": MemoryDatabase()}
    for number, block in enumerate(BLOCKS):
        if "@pytest.fixture" in block:
            continue
        exec(compile(block, f"block {number}", "exec"), names)
        if "async def main" in block and "asyncio.run" not in block:
            asyncio.run(names["main"]())
    assert len(BLOCKS) > 5


def test_the_fixtures_work() -> None:
    """The block for pytest: its test passes on what its fixtures give."""
    (block,) = [block for block in BLOCKS if "@pytest.fixture" in block]
    names: dict[str, Any] = {}
    exec(block.replace("@pytest.fixture\n", ""), names)
    names["test_a_task"](names["app"](names["db"]()))


def test_a_sleep_of_the_sdk_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The block that moves the clock of both."""
    (block,) = [block for block in BLOCKS if "def test_a_sleep" in block]
    names: dict[str, Any] = {"absurd_sdk": absurd_sdk, "MemoryDatabase": MemoryDatabase}
    exec(block, names)
    names["test_a_sleep"](monkeypatch)
