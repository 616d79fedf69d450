"""All commands of the program, by the words that call them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer.main

from absurd_contimg.operations.cli.main import app


def commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """All commands by the words that call them."""
    command = command or typer.main.get_command(app)
    below = getattr(command, "commands", None)
    if below is None or (path and command.invoke_without_command):
        yield " ".join(path), command
    for name, each in (below or {}).items():
        yield from commands(each, (*path, name))


COMMANDS = dict(commands())
