"""The commands that pages, messages and advice name: each is there, with its options."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from absurd_contimg.operations.cli.main import app

ROOT = Path(__file__).parents[2]
PROGRAM: Any = typer.main.get_command(app)
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
END = re.compile(r"[|;&)]|\s#")
"""Of a command in a line of a shell."""


def mistake(words: list[str]) -> str:
    """The first option or command that does not exist; empty if there is none."""
    command, path, place = PROGRAM, "contimg", 0
    while place < len(words):
        word = words[place]
        place += 1
        if re.match(r"--?[a-zA-Z]", word):
            option = word.partition("=")[0]
            known = {
                name: each for each in command.params for name in (*each.opts, *each.secondary_opts)
            }
            if option not in known:
                return f"{path} has no option {option}"
            if known[option].is_eager:  # --help, --version
                return ""
            if not known[option].is_flag and "=" not in word:
                place += 1
        elif hasattr(command, "commands"):
            if word not in command.commands:
                return f"{path} has no command {word}"
            command, path = command.commands[word], f"{path} {word}"
    is_whole = not hasattr(command, "commands") or command.invoke_without_command
    return "" if is_whole else f"{path} needs one of its commands"


def of_page(path: Path) -> Iterator[str]:
    """What stands after ``contimg`` in code of a page."""
    text = path.read_text()
    yield from re.findall(r"`contimg ([^`\n]+)`", text)
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            for command in line.split("contimg ")[1:]:
                yield END.split(command)[0]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_commands_of_a_page_exist(path: Path) -> None:
    if path.name == "CHANGELOG.md":
        return  # it names what was renamed
    wrong = [
        f"contimg {text}: {problem}"
        for text in of_page(path)
        if re.match(r"[-a-z]", text) and (problem := mistake(shlex.split(text)))
    ]
    assert not wrong, "\n".join(wrong)


def messages(path: Path) -> Iterator[str]:
    """The texts of a module without its docstrings."""
    tree = ast.parse(path.read_text())
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in docstrings:
            yield str(node.value)


def test_commands_of_messages_exist() -> None:
    """As far as the words are plain: what follows may be a sentence."""
    wrong = []
    for path in (ROOT / "src").rglob("*.py"):
        for text in messages(path):
            for first, second in re.findall(r"\bcontimg ([a-z-]+)(?: ([a-z-]+))?", text):
                command = PROGRAM.commands.get(first)
                if command is None or not hasattr(command, "commands"):
                    continue
                if not command.invoke_without_command and second not in command.commands:
                    wrong.append(f"{path.name}: contimg {first} {second}")
    assert not wrong, "\n".join(wrong)


def test_a_wrong_name_is_a_mistake() -> None:
    assert mistake(["--folder", "demo", "status", "--limit", "3"]) == ""
    assert mistake(["status", "--colour"]) == "contimg status has no option --colour"
    assert mistake(["queue", "stop"]) == "contimg queue has no command stop"
    assert mistake(["registry"]) == "contimg registry needs one of its commands"
