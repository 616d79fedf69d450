"""A database's URL is shown by what is known of its form; what is not known may be a password."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict
from typer.testing import CliRunner

from absurd_contimg import secrets
from absurd_contimg.operations.cli.main import app
from absurd_contimg.secrets import NO_VALID_URL, shown_connection, without_password

MARK = "S3kretZZ"
PLAIN = {"user", "host", "hostaddr", "port", "dbname"}
"""Of what is written there nothing tells that it is a password."""

before, after = (st.text("aZ09'\"\\@:/?#&=% []", max_size=3) for _ in range(2))
passwords = st.tuples(before, after).map(lambda ends: ends[0] + MARK + ends[1])
urls = st.sampled_from(
    [
        "postgresql://u:{}@host:5432/x",
        "postgresql+psycopg://u:{}@host/x?sslmode=require",
        "postgres://u:{}@a:1,b:2/x",
        "postgresql://:{}@host/x",
        "postgresql://u@host/x?password={}",
        "postgresql://u@host/x?pasword={}&sslmode=require",
        "postgresql://u@host/x?sslmode=require&pw={}",
        "postgresql://u@host/x?options=-cx={}",
        "postgresql://u@host/x?options=-c%20search_path%3Dx%20-c%20y%3D{}",
        "postgresql:///x?host=/socket&PASSWORD={}",
        "host=localhost port=1 user=u password={} dbname=x",
        "host=localhost port=1 user=u password='{}' dbname=x",
        "host=localhost port=1 password='{} other' user=u",
        "host=localhost pasword={} user=u",
        "host=localhost options='-c x={}' user=u",
        "password={}",
        "mysql://u:{}@host/x",
        "sqlite:///x?pasword={}",
        "u:{}@host/x",
    ]
)


@given(urls, passwords, st.booleans(), st.sampled_from(["", "delete", "insert"]), st.data())
@example("host=localhost port=1 password='{} ZZ user=u", MARK, False, "", None)
@example("postgresql://u@host/x?pasword={}", MARK, False, "", None)
@example("postgresql://u@host/x?options=-cx={}", MARK, False, "", None)
def test_a_password_in_any_place_is_never_shown(
    url: str, password: str, is_quoted: bool, change: str, data: Any
) -> None:
    """Well-formed or with a character too many or too few; of itself, nothing learnt before."""
    text = url.format(quote(password, safe="") if is_quoted else password)
    if change:
        place = data.draw(st.integers(0, len(text) - 1))
        inserted = data.draw(st.sampled_from("'\"@:/?#&= %\\")) if change == "insert" else ""
        text = text[:place] + inserted + text[place + (change == "delete") :]
    assume(MARK in text)
    assume("?" in text or not text.startswith("sqlite"))  # it is the path of a file
    try:
        parts = conninfo_to_dict(text.replace("+psycopg", ""))
    except (psycopg.Error, UnicodeDecodeError):
        parts = {}
    assume(not any(MARK in str(parts.get(name)) for name in PLAIN))
    known = set(secrets._known)
    try:
        secrets._known.clear()
        assert MARK not in shown_connection(text)
        assert MARK not in without_password(text)
    finally:
        secrets._known.update(known)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"postgresql://u:{MARK}@host:5432/x", "postgresql://u:***@host:5432/x"),
        (f"postgresql://u@host/x?sslmode=require&password={MARK}",
         "postgresql://u@host/x?sslmode=require&password=***"),
        (f"postgresql://u@host/x?pasword={MARK}", "postgresql://u@host/x?***=***"),
        (f"postgresql://h/x?options=-cx={MARK}", "postgresql://h/x?options=***"),
        ("postgresql://h/x?options=-csearch_path%3Da", "postgresql://h/x?options=-csearch_path%3Da"),
        (f"host=h password='{MARK} a' dbname=x", "host=h password=*** dbname=x"),
        (f"host=h pasword={MARK}", NO_VALID_URL),
        (f"host=h port=1 password='{MARK} ZZ user=u", NO_VALID_URL),
        (f"postgresql://u:{MARK}host/x", NO_VALID_URL),
        (MARK, NO_VALID_URL),
        ("postgresql://u@[::1]:5432/absurd", "postgresql://u@[::1]:5432/absurd"),
        ("postgresql:///x?host=%2Fsocket&passfile=%2Fp", "postgresql:///x?host=%2Fsocket&passfile=%2Fp"),
        ("sqlite:////data/x y/registry.sqlite3", "sqlite:////data/x y/registry.sqlite3"),
        ("", ""),
    ],
)  # fmt: skip
def test_what_is_shown_of_each_form(text: str, shown: str) -> None:
    assert shown_connection(text) == shown


@pytest.mark.parametrize(
    ("text", "usable"),
    [
        (f"postgresql://u:{MARK}@host/x?password={MARK}&sslmode=require",
         "postgresql://u@host/x?sslmode=require"),
        (f"host=h password='{MARK} a' dbname=x", "host=h dbname=x"),
        (f"postgresql://u@host/x?password={MARK}", "postgresql://u@host/x"),
    ],
)  # fmt: skip
def test_url_without_its_password_can_be_used(text: str, usable: str) -> None:
    """``contimg db url`` prints it for psql."""
    assert without_password(text) == usable
    assert conninfo_to_dict(usable)


@pytest.mark.parametrize(
    "text",
    [
        f"host=localhost port=1 password='{MARK} ZZ user=u",
        f"postgresql://u@127.0.0.1:1/x?pasword={MARK}",
        f"postgresql://u@127.0.0.1:1/x?options=-cx={MARK}",
        f"postgresql://u:{MARK}127.0.0.1:1/x",
    ],
)
@pytest.mark.parametrize("variable", ["ABSURD_DATABASE_URL", "PIPELINE_PRODUCTS_DB"])
@pytest.mark.parametrize(
    "command", [("settings",), ("settings", "--json"), ("db", "url")], ids=" ".join
)
def test_no_command_prints_a_mistyped_url(
    text: str, variable: str, command: tuple[str, ...], tmp_path: Path
) -> None:
    known = set(secrets._known)
    secrets._known.clear()
    environment = {"ABSURD_DATABASE_URL": "postgresql://u@127.0.0.1:1/x", variable: text}
    options = ["--output-dir", str(tmp_path), "--state-dir", str(tmp_path)]
    result = CliRunner().invoke(app, [*options, *command], env=environment)
    secrets._known.update(known)
    printed = f"{result.output} {result.exception}"
    assert not re.search(f"{MARK}|ZZ", printed), printed
    if command[0] == "db" and variable.startswith("ABSURD") and "?" not in text:
        assert result.exit_code != 0
        assert "is no valid URL" in printed


def test_a_token_in_any_part_of_a_webhook_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors of the network quote parts of the URL."""
    for url in ("https://u:{}@h/x", "https://h/x?token={}", "https://h/a;{}/b", "https://h/x#{}"):
        monkeypatch.setattr(secrets, "_known", set())
        secrets.remember_secret(url.format(MARK))
        assert MARK not in secrets.mask(f"refused: {MARK}, h")
