"""Every command of the program: its help, its JSON, and its exit code without and with a site."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import pytest
import typer.main
from command_arguments import arguments
from program_commands import COMMANDS
from search_extent import some_of
from typer.testing import CliRunner

from absurd_contimg.core.errors import BackendError
from absurd_contimg.errors import UserError
from absurd_contimg.operations.cli import main
from absurd_contimg.operations.cli.main import app
from absurd_contimg.operations.doctor import doctor
from absurd_contimg.operations.night_report.nights import parse_day

NO_JSON = {
    **dict.fromkeys(
        ("api", "dashboard", "daemon", "worker", "alerts run"), "a service: it logs until SIGTERM"
    ),
    **dict.fromkeys(("run", "demo", "night"), "shows progress, and its exit code is the result"),
    **dict.fromkeys(("simulate", "explore"), "shows progress; --output has report.json"),
    **dict.fromkeys(
        (
            *("cancel", "reopen", "quarantine release", "queue pause", "queue resume"),
            *("batch pause", "batch resume", "schedule add", "schedule remove"),
            *("emergency stop", "emergency drain", "emergency resume", "emergency clear-queue"),
            *("emergency reset", "maintenance vacuum", "db init", "db stop", "restore"),
            "publish accept-folder",
        ),
        "changes something and says so in one sentence: contimg actions --json has it",
    ),
    **dict.fromkeys(("archive", "backup", "report"), "writes files, the night's report JSON too"),
    "metrics": "has the text format of Prometheus",
    "db url": "prints one URL",
}
ARGUMENTS = {
    "inspect": ["/dev/null"],
    "synth": ["no-such-folder", "--preset", "no-such"],
    "history": ["no-such-group"],
    "compare": ["no-such-group"],
    "logs": ["no-such-group"],
    "fork": ["no-such-group", "image"],
    "retry": ["no-such-group"],
    "photometry": ["no-such-group"],
    "lightcurve": ["no-such-source"],
    "registry files": ["2025-01-15T00:00:00"],
    "batch create": ["pipeline", "no-such-group"],
    "batch cancel": ["no-such-batch"],
    "publish retry": ["no-such-product"],
    "deploy install": ["--dry-run"],
    "reprocess start": ["--since", "2025-01-15"],
    "mosaic make": ["--night", "2025-01-15"],
    "mosaic plan": ["--night", "2025-01-15"],
}
"""What a command cannot do without."""
REFUSED = (
    *("inspect", "history", "logs", "fork", "retry", "photometry", "lightcurve", "batch create"),
    *("compare", "batch cancel", "publish retry", "mosaic plan", "mosaic make"),
    *("alerts test", "synth"),
)
"""What is named is not there, or there is nothing to do."""
BAD_NEWS = ("monitor",)
"""Of the site of the test: a task waits and no worker lives."""
WITHOUT_A_SITE = ("settings", "failures", "doctor", "alerts rules", "synth", "deploy install")
"""They need no database and no registry."""
NEEDS_NO_STATE = (
    *("inspect", "logs", "db stop", "alerts test", "demo", "night", "simulate", "explore"),
    "restore",
)
"""They open neither registry nor database, stop what runs, make a site of their own, or need a
backup first."""
UNITS = re.compile(
    r"\b(seconds?|minutes?|degrees|days|times|tasks?|number|how many|processes|groups|port|part|"
    r"0 to 1|seed)\b"
)
"""A number in a help has a unit, or says what it counts."""


SHOWING = [
    name
    for name, command in COMMANDS.items()
    if any("--json" in option.opts for option in command.params)
]


def test_every_command_that_shows_something_has_json() -> None:
    assert {name for name in COMMANDS if name not in SHOWING} == set(NO_JSON)


def test_the_terminal_breaks_the_lines_of_every_help() -> None:
    """Those of the code stood in the middle of a terminal's."""
    paragraphs = [
        each for command in COMMANDS.values() for each in (command.help or "").split("\n\n")
    ]
    assert [each for each in paragraphs if "\n" in each.strip()] == []


def test_every_option_says_what_it_means_with_default_and_unit() -> None:
    """A default that is no constant is in the words; a number says what it counts."""
    lacking = []
    for name, command in COMMANDS.items():
        for option in command.params:
            text = (option.help or "").lower()
            if option.hidden or option.name == "help":
                continue
            is_number = option.type_descriptor.annotation in (int, float)
            if not text:
                lacking.append(f"{name} {option.name}: no help")
            elif is_number and UNITS.search(text) is None:
                lacking.append(f"{name} {option.name}: no unit in {text!r}")
            elif (
                is_number and option.default is None and not re.search("default|only|instead", text)
            ):
                lacking.append(f"{name} {option.name}: no default in {text!r}")
    assert lacking == []


def test_no_help_is_cut_at_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of an option was: --pipeline-versi…"""
    monkeypatch.setenv("COLUMNS", "80")
    cut = [
        line
        for name in COMMANDS
        for line in CliRunner().invoke(app, [*name.split(), "--help"]).output.splitlines()
        if "…" in line
    ]
    assert cut == []


def test_a_flag_has_one_name_and_an_idea_one_option() -> None:
    """A flag needs no --no-. A time, a queue or a picture has the same option everywhere."""
    options = {
        (name, each)
        for name, command in COMMANDS.items()
        for option in command.params
        for each in (*option.opts, *option.secondary_opts)
    }
    others = ("--no-", "--only", "--start", "--end", "--in-state")
    assert [each for each in sorted(options) if each[1].startswith(others)] == []
    before = {each for option in typer.main.get_command(app).params for each in option.opts}
    assert {each for _, each in options} & before == {"--queue"}


@pytest.mark.parametrize("words", [["status", "--folder", "x"], ["queue", "list", "--set=a.b=1"]])
def test_an_option_of_the_site_after_the_command_is_told_its_place(words: list[str]) -> None:
    """They were told that there is no such option."""
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    name = words[-1].partition("=")[0] if "=" in words[-1] else words[1]
    assert f"{name} stands before the command: contimg {name}" in result.output


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.startswith(("ABSURD_", "PIPELINE_", "CONTIMG_")):
            monkeypatch.delenv(name)
    for name in ("INPUT", "OUTPUT", "SCRATCH", "STATE"):
        monkeypatch.setenv(f"PIPELINE_{name}_DIR", str(tmp_path / name.lower()))
    monkeypatch.setenv("COLUMNS", "60")
    return tmp_path


def invoke(name: str, *arguments: str) -> Any:
    given = [*name.split(), *ARGUMENTS.get(name, ()), *arguments]
    return CliRunner().invoke(app, given)


def failure(result: Any) -> str:
    return f"{type(result.exception).__name__}: {result.exception}"


def test_without_a_site_each_command_ends_with_one_sentence(environment: Path) -> None:
    """The exit code tells, what to do is said, and nothing is made by looking."""
    for name in SHOWING:
        if name in WITHOUT_A_SITE:
            continue
        result = invoke(name, "--json")
        assert result.exit_code == 1, (name, result.output)
        assert isinstance(result.exception, UserError | BackendError) or json.loads(
            result.stdout
        ), name
    assert not (environment / "state").exists()


def test_on_a_site_each_command_shows_json(
    environment: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JSON and nothing else on standard output; 1 for names that nobody knows, with a sentence."""
    monkeypatch.setenv("ABSURD_DATABASE_URL", database_url)
    monkeypatch.setattr(doctor, "stage_software", lambda _folders: [])  # it starts CASA
    incoming = environment / "input"
    for folder in ("input", "output", "scratch"):
        (environment / folder).mkdir()
    (incoming / "catalog.csv").write_text("name,ra_deg,dec_deg,flux_jy,spectral_index,calibrator\n")
    for subband in range(16):
        with h5py.File(incoming / f"2025-01-15T10:00:00_sb{subband:02d}.hdf5", "w"):
            pass
    assert CliRunner().invoke(app, ["db", "init"]).exit_code == 0
    wrong = []
    for name in ("spawn", *SHOWING):
        result = invoke(name, "--json")
        is_refused = name in REFUSED and isinstance(result.exception, UserError)
        shown = None if is_refused else json.loads(result.stdout or '"nothing"')
        is_bad = name in (*REFUSED, *BAD_NEWS) or (name == "doctor" and shown["problems"] > 0)
        if shown == "nothing" or result.exit_code != (1 if is_bad else 0):
            wrong.append((name, result.exit_code, failure(result), result.stdout[:200]))
    assert wrong == []


def test_the_commands_are_listed_by_their_names() -> None:
    """They stood in the order in which modules are imported: nobody found one of 43."""
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    groups = [name for name, command in commands.items() if hasattr(command, "commands")]
    plain = [name for name in commands if name not in groups]
    assert list(commands) == [*sorted(plain), *sorted(groups)]


def refusal(name: str, words: list[str]) -> str:
    """What the parser says of these words; nothing if it takes them."""
    try:
        COMMANDS[name].make_context(name, words)
    except Exception as error:  # noqa: BLE001 - the parser's class is none of Typer's names
        return str(error)
    return ""


@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_value_is_refused_by_its_name(empty: str) -> None:
    """As of a variable that is not set: contimg backup "$DIR" made it in the current folder."""
    accepted = []
    for name, command in COMMANDS.items():
        for each in command.params:
            is_option = each.param_type_name == "option"
            if each.default == "" or (is_option and each.is_flag):
                continue
            shown = each.opts[0] if is_option else ""
            words = [f"{shown}={empty}"] if is_option else [empty] * len(command.params)
            if f"{shown} is empty" not in refusal(name, words):
                accepted.append((name, each.name))
    assert accepted == []


def test_a_dash_is_no_path() -> None:
    """contimg report - made a file of that name: standard output was meant."""
    accepted = []
    for name, command in COMMANDS.items():
        for each in command.params:
            if "Path" not in str(each.type_descriptor.annotation):
                continue
            is_option = each.param_type_name == "option"
            words = [f"{each.opts[0]}=-"] if is_option else ["-"] * len(command.params)
            if "takes no standard stream" not in refusal(name, words):
                accepted.append((name, each.name))
    assert accepted == []


def test_options_of_a_simulation_without_a_scenario_are_refused() -> None:
    """The scenarios were listed, with code 0."""
    result = CliRunner().invoke(app, ["simulate", "--seed", "1"])
    assert "none is given" in str(result.exception)


def test_a_number_that_no_database_takes_is_refused() -> None:
    """It was a traceback of SQLAlchemy."""
    for number in ("9223372036854775808", "1" + "0" * 5000):
        assert "--limit is too large" in refusal("actions", [f"--limit={number}"])
    assert refusal("actions", ["--limit=9223372036854775807"]) == ""


@pytest.mark.parametrize("night", ["9999-12-31", "0001-01-01"])
def test_a_night_at_an_end_of_the_calendar_is_no_night(night: str) -> None:
    """The day after it was an OverflowError."""
    with pytest.raises(ValueError, match="no day before or after"):
        parse_day(night)


@pytest.mark.parametrize("path", ["file/below", "missing/x"])
def test_a_path_that_cannot_be_written_is_named(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Below a file, and as a temporary file beside it: tracebacks of archive and metrics."""
    (tmp_path / "file").write_text("")
    target = tmp_path / path

    def write() -> None:
        if path == "file/below":
            target.parent.mkdir(parents=True, exist_ok=True)
        (target.parent / ".f63f2c47.partial").write_text("")

    monkeypatch.setattr(main, "_run", write)
    monkeypatch.setattr(sys, "argv", ["contimg", "metrics", f"--write={target}"])
    with pytest.raises(SystemExit):
        main.main()
    assert str(target.parent) in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_every_command_that_opens_the_state_refuses_that_of_another_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`db init` and `spawn` went on, and another user had what they wrote."""
    state = tmp_path / "state"
    state.mkdir()
    (tmp_path / "products").mkdir()
    (tmp_path / "2025-01-15T00:00:00_sb00.hdf5").touch()
    columns = "name,ra_deg,dec_deg,flux_jy,spectral_index,calibrator"
    (tmp_path / "catalog.csv").write_text(f"{columns}\n3C286,202.8,30.5,14.7,-0.5,1\n")
    state.chmod(0o777)
    os.chown(state, 1, 1)
    words = f"{state} belongs to the user daemon, and this process runs as root"
    options = ["--folder", str(tmp_path), "--input-dir", str(tmp_path)]
    environment = {key: None for key in os.environ if key.startswith(("ABSURD_", "PIPELINE_"))}
    given = arguments(SimpleNamespace(root=tmp_path, batch="b"))  # type: ignore[arg-type]
    given["batch pause"] = ["b", "--reason", "a test"]
    names = sorted(set(COMMANDS) - {*WITHOUT_A_SITE, *NEEDS_NO_STATE})
    went_on = {}
    for name in {*some_of(names, 5), "db init", "spawn", "status", "daemon", "alerts run"}:
        command = [*options, *name.split(), *given.get(name, [])]
        result = CliRunner().invoke(app, command, env={**environment, "COLUMNS": "1000"})
        text = " ".join(f"{result.output} {result.exception}".split())
        if result.exit_code == 0 or words not in text:
            went_on[name] = text[-200:]
    assert went_on == {}
    assert list(state.iterdir()) == []
    monkeypatch.setattr(doctor, "stage_software", lambda _folders: [])  # it takes seconds
    assert words in " ".join(CliRunner().invoke(app, [*options, "doctor"]).output.split())
