"""Every option and argument of every command with a hostile value, on a real site.

The command ends in time and in sentences, and the value never reaches the terminal raw.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from all_commands import ELSEWHERE, LAST, breaks, run_lines
from command_arguments import arguments
from program_commands import COMMANDS
from troubled_site import TroubledSite, site_on_server

TEXTS = ("\x1b[31mred\x07\n\u202e", "\udcff", "%s{}[/][bold]")
NUMBERS = ("nan", "1" + "0" * 30, "x\x1b[31m")
LONG_RUNNING = ("api", "dashboard", "worker", "daemon", *ELSEWHERE)
"""They serve, or compute: a value that they take costs seconds, and shows nothing more."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TroubledSite]:
    """With queue and registry in Postgres."""
    with site_on_server(tmp_path_factory.mktemp("hostile"), shares_registry=True) as site:
        yield site


def hostile_values(parameter: Any, folder: Path) -> Sequence[str]:
    """What its type makes worth trying."""
    kind = str(parameter.type_descriptor.annotation)
    if "Path" in kind:
        return (str(folder / "fifo"), str(folder / "file" / "below"), str(folder / TEXTS[0]))
    return NUMBERS if kind in ("<class 'int'>", "<class 'float'>") else TEXTS


def split(command: Any, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Options with their values, and arguments, of what a command is usually given."""
    is_flag = {
        name: getattr(each, "is_flag", False) for each in command.params for name in each.opts
    }
    options: list[str] = []
    given: list[str] = []
    rest = iter(words)
    for word in rest:
        if word.startswith("--"):
            options += [word] if is_flag[word] else [word, next(rest)]
        else:
            given.append(word)
    return options, given


def hostile_lines(site: TroubledSite, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Each parameter of each command once with each of its values."""
    usual = arguments(site)
    for name, command in COMMANDS.items():
        if name in LONG_RUNNING:
            continue
        options, given = split(command, usual.get(name, []))
        position = 0
        for each in command.params:
            is_option = each.param_type_name == "option"
            if is_option and each.is_flag:
                continue
            for value in hostile_values(each, folder):
                if is_option:
                    words = [*options, f"{each.opts[0]}={value}", *given]
                else:
                    before = [*given[:position], *["x"] * (position - len(given))]
                    words = [*options, *before, value, *given[position + 1 :]]
                yield f"{name} {each.name} {value!a}", [*name.split(), *words]
            position += not is_option


def test_every_parameter_with_hostile_values(site: TroubledSite, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_text("x")
    lines = dict(hostile_lines(site, tmp_path))
    assert len(lines) > 400
    last = [name for name in lines if name.startswith(LAST)]
    ordered = {name: lines[name] for name in [*(name for name in lines if name not in last), *last]}
    wrong = [
        f"{line}: {problem}: {outcome.text[-600:]}"
        for line, outcome in run_lines(site, ordered).items()
        for problem in [
            *breaks(outcome),
            *(["fails without a word"] if outcome.code and not outcome.text.strip() else []),
        ]
    ]
    assert wrong == []
