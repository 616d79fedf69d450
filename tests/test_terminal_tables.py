"""Every table of every command: at any width its keys are whole and no line is too long."""

from __future__ import annotations

import ast
import io
from functools import cache
from pathlib import Path

import pytest
from rich.console import Console

import absurd_contimg
from absurd_contimg.terminal_tables import KeyedTable

SOURCE = Path(absurd_contimg.__file__).parent
GRIDS = ("operations/monitor/screen.py",)
"""Lays out a screen by itself: tests/operations/test_monitor.py."""
LONG = "2025-01-15T00:16:17-a-long-name-of-a-window-00"
SENTENCE = "waits 43 s more (until 03:12:10 UTC), then tries again: no-space, /a/long/path"


@cache
def constructed_tables() -> list[tuple[str, list[str], list[str]]]:
    """Where a table is made, its headings as far as they are literals, and its keys."""
    tables = []
    for path in sorted(SOURCE.rglob("*.py")):
        text = path.read_text()
        if "KeyedTable(" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "KeyedTable":
                texts = [item.value for arg in node.args for item in ast.walk(arg)
                         if isinstance(item, ast.Constant)]  # fmt: skip
                keys = [item.value for keyword in node.keywords if keyword.arg == "keys"
                        for item in ast.walk(keyword.value)
                        if isinstance(item, ast.Constant)]  # fmt: skip
                headings = list(map(str, texts)) or ["stage", "worker"]
                if len(headings) < 3:  # the others are added one by one
                    headings += ["began", "seconds", "outcome", "flags"]
                place = f"{path.relative_to(SOURCE)}:{node.lineno}"
                tables.append((place, headings, [key for key in keys if key in headings]))
    return tables


def test_every_table_is_of_the_kind_that_cuts_nothing() -> None:
    others = [
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*.py")
        if "rich.table" in path.read_text()
    ]
    assert sorted(others) == sorted([*GRIDS, "terminal_tables.py"])
    assert len(constructed_tables()) > 30


def test_rows_by_themselves_and_no_rows() -> None:
    """A sentence stands by itself; an empty table says so."""
    table = KeyedTable("task", "state", "attempts", "why", "worker")
    output = io.StringIO()
    console = Console(file=output, width=60)
    console.print(table)
    table.add_row("0190f0a1", "failed", "2", "a sentence that is longer than that", "w1")
    console.print(table)
    lines = [line.rstrip() for line in output.getvalue().splitlines()]
    assert lines == [
        "task: none",
        "0190f0a1",
        "    state failed, attempts 2, worker w1",
        "    a sentence that is longer than that",
    ]


def test_what_an_empty_table_means_can_be_said() -> None:
    """An operator does not read ``when: none`` as: no action is recorded."""
    output = io.StringIO()
    Console(file=output).print(KeyedTable("when", "who", empty="No action is recorded."))
    assert output.getvalue() == "No action is recorded.\n"


def test_columns_that_fit_closer_together_stay_a_table() -> None:
    table = KeyedTable("stage", "worker", "outcome")
    table.add_row("x" * 18, "y" * 8, "z" * 10)
    output = io.StringIO()
    for columns in (42, 40):
        Console(file=output, width=columns).print(table)
    lines = [line.strip() for line in output.getvalue().splitlines()]
    assert lines[1] == f"{'x' * 18}  {'y' * 8}  {'z' * 10}"
    assert lines[3] == f"{'x' * 18} {'y' * 8} {'z' * 10}"


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_keys_are_whole_and_lines_fit(columns: int) -> None:
    """With long names: each key stands in one line, and all words of a sentence are there."""
    for place, headings, keys in constructed_tables():
        table = KeyedTable(*headings, keys=keys)
        named = [number for number, heading in enumerate(headings) if heading in keys] or [0]
        rows = [
            [
                f"{LONG}{row}{number}"
                if number in named
                else (SENTENCE, "17.3", "done")[number % 3]
                for number in range(len(headings))
            ]
            for row in range(3)
        ]
        for row in rows:
            table.add_row(*row)
        output = io.StringIO()
        Console(file=output, width=columns).print(table)
        lines = [line.rstrip() for line in output.getvalue().splitlines()]
        assert max(map(len, lines)) <= columns, (place, lines)
        for row in rows:
            for number in named:
                assert any(row[number] in line for line in lines), (place, row[number], lines)
        shown = "".join("".join(lines).split())
        assert "…" not in shown, place
        if len(headings) > len(named):
            assert "17.3" in shown or "done" in shown or "43smore" in shown, (place, lines)
