"""The commands of a page, in order, run as an operator would: what a page says is true.

``contimg`` is called in this process, for speed; ``systemctl`` acts on the installed units through
`UnitRunner`; ``journalctl`` must name such units; everything else is run by a shell.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner
from unit_runner import UnitRunner

from absurd_contimg.operations.cli.main import app

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_VERBS = {
    *("start", "stop", "restart", "enable", "disable", "status", "list-units", "daemon-reload"),
    *("edit", "reset-failed", "kill"),
}


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block under its heading of the second level."""

    heading: str
    language: str
    text: str

    def commands(self) -> list[str]:
        """Its lines, those that end in a backslash joined."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for line in lines if line.strip() and not line.startswith("#")]


def blocks(page: Path) -> Iterator[Block]:
    """All blocks of a page, in order."""
    heading = ""
    for part in re.split(r"^## ", page.read_text(), flags=re.MULTILINE):
        heading = part.partition("\n")[0]
        for match in _FENCE.finditer(part):
            yield Block(heading, match[1], match[2])


def expand(text: str) -> list[str]:
    """``a@{1..3}`` as a shell expands it."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", text)
    if match is None:
        return [text]
    numbers = range(int(match[1]), int(match[2]) + 1)
    return [f"{text[: match.start()]}{number}{text[match.end() :]}" for number in numbers]


@dataclass
class Operator:
    """Runs commands on a site whose folders stand for those of the page."""

    folders: Mapping[str, Path]
    """What each folder of the page is here."""
    database_url: str
    units: UnitRunner
    environment: dict[str, str] = field(default_factory=dict)
    may_fail: Callable[[str], bool] = lambda _: False
    """Commands that end with another code than 0 here, for a reason that the test knows."""
    starts_services: bool = True
    """False: systemctl is checked for its names and verbs alone."""
    outputs: list[tuple[str, str]] = field(default_factory=list)

    def run(self, command: str) -> str:
        """One command of a page; what it prints."""
        words = shlex.split(command)
        if words[0] == "sudo":
            words = [word for word in words[1:] if word != "-E"]
            command = re.sub(r"sudo (-E )?", "", command)
        here = self._here(command)
        known: dict[str, Callable[[list[str], str], str]] = {
            "contimg": self._contimg,
            "systemctl": self._systemctl,
            "journalctl": self._journalctl,
            "export": self._export,
            "watch": self._watch,
            "sudoedit": self._edit,
            "install": self._install,
        }
        if "venv" in words or "pip" in words[0]:
            output = self._set_up(words)
        elif command.startswith("set -a"):
            output = self._read_environment(here)
        else:
            output = known.get(words[0], self._shell)(shlex.split(here), here)
        self.outputs.append((command, output))
        return output

    def query(self, statement: str) -> list[tuple[object, ...]]:
        """One statement of SQL on the tasks' database."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def _here(self, text: str) -> str:
        for name, folder in self.folders.items():
            text = text.replace(name, str(folder))
        return text

    def _contimg(self, words: list[str], _text: str) -> str:
        arguments = [os.path.expandvars(word) for word in words[1:]]
        if arguments[:2] == ["deploy", "install"]:
            arguments += ["--root", str(self.units.root)]
            arguments = [word if word != "dsa110" else _user() for word in arguments]
        answer = CliRunner().invoke(
            app, arguments, env={**self.environment, "COLUMNS": "120"}, catch_exceptions=False
        )
        text = " ".join(words)
        assert answer.exit_code == 0 or self.may_fail(text), f"{text}:\n{answer.output}"
        return answer.output

    def _systemctl(self, words: list[str], text: str) -> str:
        verb, *names = [word for word in words[1:] if not word.startswith("--")]
        assert verb in _VERBS, f"{text}: systemd has no such command here"
        units = [unit for name in names for unit in self._units(name, text)]
        for unit in units if self.starts_services else ():
            if verb in ("stop", "restart", "disable"):
                assert self.units.stop(unit) == 0, f"{text}: {unit}"
            if unit.endswith(".timer"):
                continue
            is_start = verb in ("start", "restart") or (verb == "enable" and "--now" in words)
            if is_start and "target" not in unit and unit not in self.units.running:
                self.units.start(unit)
        return ""

    def _units(self, name: str, text: str) -> list[str]:
        """The units that a word of a command names; each is installed."""
        installed = [path.name for path in (self.units.root / "etc/systemd/system").iterdir()]
        if "*" in name:
            files = [file for file in installed if fnmatch(file, f"{name}*")]
            assert files, f"{text}: no unit is called {name}"
            return [unit for unit in self.units.running if fnmatch(unit, name)]
        if name.endswith(".target"):
            assert name in installed, f"{text}: there is no {name}"
            return list(self.units.running)
        for unit in expand(name.removesuffix(".service")):
            prefix, at, _ = unit.partition("@")
            assert {f"{prefix}{at}.service", f"{unit}.timer", unit} & set(installed), (
                f"{text}: there is no {unit}"
            )
        return expand(name.removesuffix(".service"))

    def _journalctl(self, words: list[str], text: str) -> str:
        for flag, name in itertools.pairwise(words):
            if flag == "-u":
                self._units(name, text)
        return ""

    def _export(self, words: list[str], _text: str) -> str:
        for word in words[1:]:
            name, _, value = word.partition("=")
            if name != "PATH":
                self.environment[name] = value
        return ""

    def _read_environment(self, text: str) -> str:
        names = " ".join(f"{name}" for name in self.environment)
        unset = f"unset {names}; " if names else ""
        done = self._shell([], f"{unset}{text}; env -0")
        variables = dict(line.split("=", 1) for line in done.rstrip("\0").split("\0"))
        self.environment |= {
            name: value
            for name, value in variables.items()
            if name.startswith(("ABSURD_", "PIPELINE_", "CONTIMG_"))
        }
        return ""

    def _watch(self, words: list[str], text: str) -> str:
        """Once."""
        return self.run(" ".join(words[words.index("-n") + 2 :]))

    def _edit(self, words: list[str], _text: str) -> str:
        assert Path(words[1]).is_file()
        return ""

    def _install(self, words: list[str], _text: str) -> str:
        """The folders, without the change of owner: the test is one user."""
        for word in words[4:]:
            Path(word).mkdir(parents=True, exist_ok=True)
        return ""

    def _set_up(self, words: list[str]) -> str:
        """Nothing is fetched here: the extras that the page names are in the project."""
        extras = re.findall(r"\[([\w,]+)\]", " ".join(words))
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        for extra in ",".join(extras).split(","):
            assert not extra or extra in project["optional-dependencies"]
        return ""

    def _shell(self, _words: list[str], text: str) -> str:
        program = Path(self.units.service("dsa110-mosaic-daemon")["ExecStart"].split()[0])
        path = f"{program.parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", text],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, **self.environment, "PATH": path},
        )
        assert done.returncode == 0 or self.may_fail(text), f"{text}:\n{done.stdout}{done.stderr}"
        return done.stdout


def _user() -> str:
    import pwd  # noqa: PLC0415

    return pwd.getpwuid(os.geteuid()).pw_name


def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the variables of this product, as on a fresh machine."""
    for name in list(os.environ):
        if name.startswith(("ABSURD_", "PIPELINE_", "CONTIMG_")):
            monkeypatch.delenv(name)
