"""No command shows, logs or writes a database's password, whatever is wrong with the database."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import typer
from forked_programs import built_commands, run_commands

from absurd_contimg import secrets
from absurd_contimg.core.errors import BackendUnavailable
from absurd_contimg.core.evidence import Evidence
from absurd_contimg.operations.cli.main import app

PASSWORD = "s3cr3t-Passw0rd"
SECONDS_MAX = 6.0


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that the parser knows."""
    if not hasattr(group, "commands"):
        yield path, group
        return
    for name, command in group.commands.items():
        yield from commands(command, (*path, name))


COMMANDS = dict(commands(typer.main.get_command(app)))
_DEAD = "127.0.0.1:1/x"
URLS = {
    "dead server": f"postgresql://u:{PASSWORD}@{_DEAD}",
    "second @": f"postgresql://u:{PASSWORD}@x@{_DEAD}",
    "fragment": f"postgresql://u:{PASSWORD}#x@{_DEAD}",
    "driver": f"postgresql+psycopg://u:{PASSWORD}@{_DEAD}",
    "port": f"postgresql://u:{PASSWORD}@127.0.0.1:badport/x",
    "parameter": f"postgresql://u@{_DEAD}?password={PASSWORD}&x=y",
    "no scheme": f"u:{PASSWORD}@{_DEAD}",
    "key and value": f"host=127.0.0.1 port=1 user=u password='{PASSWORD}' dbname=x",
    "no scheme, no port": f"u:{PASSWORD}@host/x",
    "one slash": f"postgres:/u:{PASSWORD}@{_DEAD}",
    "no slash": f"postgres:u:{PASSWORD}@{_DEAD}",
    "other database": f"mysql://u:{PASSWORD}@{_DEAD}",
    "outer scheme": f"jdbc:postgresql://u:{PASSWORD}@{_DEAD}",
    "encoded key": f"postgresql://u@{_DEAD}?pass%77ord={PASSWORD}",
    "encoded equals sign": f"postgresql://u@{_DEAD}?options=-c%20x.password%3D{PASSWORD}",
    "key of a certificate": f"postgresql://u@{_DEAD}?sslpassword={PASSWORD}",
    "token": f"host=127.0.0.1 port=1 oauth_client_secret={PASSWORD}",
    "SCRAM": f"host=127.0.0.1 port=1 scram_client_key={PASSWORD}",
    "unknown key": f"host=127.0.0.1 pasword={PASSWORD} password={PASSWORD}",
}


SERVERS = [("api",), ("dashboard",), ("monitor",), ("night",), ("alerts", "run")]


def run(path: tuple[str, ...], environment: Mapping[str, str], site: Path) -> str:
    """What a command prints, in a fork of this process.

    It is killed after some seconds, a server a moment after it has said something.
    """
    required = [each for each in COMMANDS[path].params if each.required]
    arguments = [*path, *("x" for each in required if each.param_type_name == "argument")]
    output = site / "output"
    child = os.fork()
    if child == 0:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
        logging.root.handlers.clear()  # pytest's: servers say in the log that they serve
        os.chdir(site)
        os.environ.update(environment)
        sys.argv = ["contimg", *arguments]
        code = 1
        try:
            run_commands()
        except SystemExit:
            code = 0
        except BaseException:  # noqa: BLE001 - as the interpreter would
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    give_up = time.monotonic() + SECONDS_MAX
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if path in SERVERS and output.exists() and output.stat().st_size:
            give_up = min(give_up, time.monotonic() + 0.5)
        if time.monotonic() > give_up:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            break
        time.sleep(0.02)
    return output.read_text(errors="replace")


def leaks(site: Path) -> list[str]:
    """The files below a folder that hold the password."""
    files = (path for path in site.rglob("*") if path.is_file())
    return [str(path) for path in files if PASSWORD.encode() in path.read_bytes()]


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    """What each fork would import and build again."""
    built_commands()


QUICK = [path for path in COMMANDS if path[0] not in ("demo", "synth", "simulate", "explore")]


@pytest.mark.parametrize("path", QUICK, ids=" ".join)
def test_no_command_shows_a_password(
    path: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a dead server, in turn with one malformed URL for the tasks and one for the registry."""
    monkeypatch.setattr("absurd_contimg.operations.doctor.doctor.stage_software", lambda _: [])
    names = list(URLS)
    number = QUICK.index(path)
    for wrong in ("dead server", names[1 + number % (len(names) - 1)]):
        site = tmp_path / wrong
        site.mkdir()
        environment = {
            "ABSURD_DATABASE_URL": URLS[wrong],
            "PIPELINE_PRODUCTS_DB": URLS[wrong],
            "PGPASSWORD": PASSWORD,
            "PIPELINE_INPUT_DIR": str(site / "in"),
            "PIPELINE_OUTPUT_DIR": str(site / "out"),
        }
        text = run(path, environment, site)
        assert text or path[0] == "db"
        assert leaks(site) == [], text


@pytest.mark.parametrize("name", URLS)
def test_each_form_is_masked(name: str) -> None:
    """By its form alone where it is well formed; everywhere when it is known."""
    secrets.remember(URLS[name])
    for text in (URLS[name], f"invalid port: {PASSWORD!r}", json.dumps(URLS[name])):
        assert PASSWORD not in secrets.mask(text)
    assert PASSWORD not in secrets.without_password(URLS[name])


def test_the_fixed_words_of_a_webhook_are_no_secrets() -> None:
    """``services`` was masked in every message of a site that sends its alerts to Slack."""
    token = "Xb7Q2mN9pL4rT8vK1cZ5"
    secrets.remember_secret(f"https://hooks.slack.com/services/T0000/B0000/{token}")
    masked = secrets.mask(f"the user of the services sent {token}")
    assert masked == "the user of the services sent ***"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://postgres@/absurd?host=%2Fsocket&port=5432&passfile=%2Fpgpass",
        "postgresql://u@127.0.0.1:5432/absurd",
        "postgresql:///absurd?user=a@b",
        "host=/socket user=u dbname=absurd",
    ],
)
def test_url_without_a_password_stays_as_it_is(url: str) -> None:
    """``contimg db url`` prints it for psql."""
    assert secrets.without_password(url) == url


@pytest.mark.parametrize("name", [name for name in URLS if name != "unknown key"])
def test_each_form_is_masked_by_its_form(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In text from elsewhere, of which no setting has told the password."""
    monkeypatch.setattr(secrets, "_known", set())
    assert PASSWORD not in secrets.mask(f"The server {URLS[name]} is away.")
    assert PASSWORD not in secrets.without_password(URLS[name])
    assert secrets.has_password(URLS[name])
    assert secrets.without_secrets({"OTHER": URLS[name]}) == {}


@pytest.mark.parametrize("text", ["s3cr3t-Passw0rd", "u@s3cr3t-Passw0rd", "x:s3cr3t-Passw0rd"])
def test_what_is_no_setting_of_a_database_is_masked_whole(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can say which part of it is secret."""
    monkeypatch.setattr(secrets, "_known", set())
    secrets.remember_database(text)
    assert secrets.mask(f'missing "=" after "{text}"') == 'missing "=" after "***"'


def test_the_words_of_a_url_in_quotation_marks_are_no_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``postgres`` was masked in every message that was to help."""
    monkeypatch.setattr(secrets, "_known", set())
    secrets.remember_database(f'"postgresql://postgres:{PASSWORD}@h/x"')
    masked = secrets.mask(f"write postgresql://postgres@HOST, not {PASSWORD}")
    assert masked == "write postgresql://postgres@HOST, not ***"


@pytest.mark.parametrize(
    "text",
    ["w8@131573d9", "h17:1@7b6b5bc4", "2025-01-14T23:35:00", "/data/2025-01-14T23:35:00/a@1/x.ms",
     "image:12.30@sha256:01ab23", "postgresql://u@host:5432/x", "/data/registry.sqlite3"],
)  # fmt: skip
def test_text_without_a_password_stays(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of workers, groups, files and servers."""
    monkeypatch.setattr(secrets, "_known", set())
    assert secrets.mask(f"see {text}.") == f"see {text}."


@pytest.mark.parametrize(
    "text",
    [f"postgresql:/u:{PASSWORD}@h/db", f"u:{PASSWORD}@h/db", f"postgresql:{PASSWORD}",
     f"service=ha password={PASSWORD}", f"//u:{PASSWORD}@h/db", f"host=h password={PASSWORD}", f"mysql://u:{PASSWORD}@h/db"],
)  # fmt: skip
@pytest.mark.parametrize("path", [("settings",), ("worker",), ("registry", "check")], ids=" ".join)
def test_misspelt_url_of_the_registry_makes_no_file(
    text: str, path: tuple[str, ...], tmp_path: Path
) -> None:
    """It is refused by the name of its setting, and neither shown nor taken as a path."""
    environment = {"PIPELINE_PRODUCTS_DB": text}
    for name in ("INPUT", "OUTPUT", "SCRATCH", "STATE"):
        environment[f"PIPELINE_{name}_DIR"] = str(tmp_path / name)
    printed = run(path, environment, tmp_path)
    assert PASSWORD not in printed
    if "mysql" not in text:
        assert "postgresql:///?service=NAME" in printed
        assert "PIPELINE_PRODUCTS_DB is neither a plain path nor a known URL" in printed
        assert [file.name for file in tmp_path.iterdir()] == ["output"]


@pytest.mark.parametrize(("password", "warnings"), [(f":{PASSWORD}", 1), ("", 0)])
def test_password_among_the_arguments_is_warned_of(
    password: str, warnings: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every user of the machine reads it with ps."""
    url = f"postgresql://u{password}@{_DEAD}"
    monkeypatch.setitem(COMMANDS, ("--database-url", url, "settings"), COMMANDS[("settings",)])
    printed = run(("--database-url", url, "settings"), {}, tmp_path)
    assert " ".join(printed.split()).count("can be seen by every user") == warnings
    assert PASSWORD not in printed


@pytest.mark.parametrize("password", ["p@ss/w:rd%", 'a"b\\c<d>e', "ünï cödé", "x'y z12"])
def test_forms_of_unusual_passwords(password: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As URLs, JSON, HTML and Python write them; in errors and evidence too."""
    monkeypatch.setattr(secrets, "_known", set())
    secrets.remember(f"postgresql://u:{quote(password, safe='')}@host/x")
    written: list[Callable[[str], str]] = [str, repr, json.dumps, lambda text: quote(text, safe="")]
    for write in written:
        assert write(password).strip("'\"") not in secrets.mask(f"no host {write(password)}!")
    assert password not in str(BackendUnavailable(f"no {password}"))
    evidence = Evidence.of(ValueError(f"no {password}"))
    assert password not in json.dumps(evidence.to_json(), ensure_ascii=False)


@pytest.mark.parametrize("surrogate", [0xDCFF, 0xD800])
def test_passwords_with_bytes_that_are_no_text_are_masked(
    surrogate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command ended in the midst of its error: "lost sys.stderr"."""
    password = f"pass{chr(surrogate)}word"
    monkeypatch.setattr(secrets, "_known", set())
    secrets.remember_environment({"ABSURD_SMTP_PASSWORD": password})
    shown = f"wrong {password}, {password!r}, {json.dumps(password)}"
    if surrogate == 0xDCFF:  # as libpq's URLs have it
        shown += ", pass%FFword"
    assert "word" not in secrets.mask(shown)


def test_passfiles_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The password of the private server is in a file that its URL names."""
    monkeypatch.setattr(secrets, "_known", set())
    passfile = tmp_path / "pg pass"
    passfile.write_text(f"# comment\n*:*:*:postgres:{PASSWORD}\n")
    secrets.remember(f"postgresql://postgres@/x?passfile={quote(str(passfile), safe='')}")
    assert secrets.mask(f"wrong {PASSWORD}.") == "wrong ***."


def test_stages_get_no_secret() -> None:
    """Their environment has no database and no password, and what they need."""
    environment = {
        "PATH": "/bin", "HOME": "/root", "OMP_NUM_THREADS": "1", "LD_LIBRARY_PATH": "/lib",
        "ABSURD_DATABASE_URL": URLS["dead server"], "PGPASSWORD": "x", "PGHOST": "h",
        "AWS_SECRET_ACCESS_KEY": "x", "GITHUB_TOKEN": "x", "OTHER": URLS["driver"],
    }  # fmt: skip
    kept = secrets.without_secrets(environment)
    assert kept.keys() == {"PATH", "HOME", "OMP_NUM_THREADS", "LD_LIBRARY_PATH"}


def test_environment_is_read_when_text_is_first_masked(tmp_path: Path) -> None:
    """An import opens no file of somebody else's choice; a pipe there would never end."""
    script = (
        "import os; from absurd_contimg import secrets; import absurd_contimg.core.worker;"
        "assert not secrets._known;"
        f"os.environ['PGPASSWORD'] = {PASSWORD!r}; print(secrets.mask('a {PASSWORD} b'))"
    )
    (tmp_path / "pass").write_text("*:*:*:*:of the passfile\n")
    environment = {**os.environ, "PGPASSFILE": str(tmp_path / "pass")}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "a *** b\n"
