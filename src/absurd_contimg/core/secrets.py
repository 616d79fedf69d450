"""Passwords of databases: text is shown by `mask`, processes start `without_secrets`.

A password is known from the settings (`remember`) and is masked wherever it appears, also in the
pieces in which a parser quotes a malformed URL. URLs and ``password=...`` are masked by their form.
"""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from urllib.parse import quote, unquote, unquote_plus

_MASK = "***"
_LENGTH_MIN = 4
"""A shorter text appears too often by chance to be masked wherever it appears."""
_LENGTH_OF_NO_WORD = 8
"""A shorter one is masked as a whole word only."""
_PASSFILE_BYTES_MAX = 100_000

# Bounded, so that the time grows with the length of a text and not with its square.
_URL = re.compile(r"((?<![\w+.-])[A-Za-z][\w+.-]{0,40}://[^\s:/@'\"]{0,200}:)[^\s'\"]{0,500}(?=@)")
_PARAMETER = re.compile(
    r"(\b\w{0,40}password\w{0,40}\s{0,9}=\s{0,9})"
    r"('(?:[^'\\]|\\.)*'|(?:[^\s&'\"\\]|\\.)+)",
    re.IGNORECASE,
)
_PASSFILE = re.compile(r"passfile\s*=\s*('(?:[^'\\]|\\.)*'|[^\s&'\"]+)", re.IGNORECASE)
_SECRET_NAME = re.compile("PASS|SECRET|TOKEN|CREDENTIAL|API_?KEY|PRIVATE", re.IGNORECASE)
_OWN_NAMES = ("ABSURD_", "PIPELINE_", "CONTIMG_", "PG")

_known: set[str] = set()


def remember(connection: str) -> None:
    """Learn the passwords in a URL or ``key=value`` text, malformed or not, and its passfile."""
    _, separator, rest = connection.partition("://")
    user, colon, password = rest.rpartition("@")[0].partition(":")
    if separator and colon and password != user:
        pieces = re.split(r"[#/?@:%\s]", password)
        _learn(password, unquote(password), unquote_plus(password), *pieces)
    for _, value in _PARAMETER.findall(connection):
        plain = re.sub(r"\\(.)", r"\1", value.strip("'"))
        _learn(value.strip("'"), plain, unquote(plain))
    for value in _PASSFILE.findall(connection):
        _learn_passfile(unquote(value.strip("'")))


def remember_environment(environment: Mapping[str, str]) -> None:
    """Learn the passwords that libpq takes from the environment."""
    _learn(environment.get("PGPASSWORD", ""))
    if passfile := environment.get("PGPASSFILE"):
        _learn_passfile(passfile)
    for name in ("ABSURD_DATABASE_URL", "PIPELINE_PRODUCTS_DB"):
        remember(environment.get(name, ""))


def mask(text: str) -> str:
    """The text with ``***`` in the place of each password."""
    for secret in sorted(_known, key=len, reverse=True):
        if secret not in text:
            continue
        if len(secret) >= _LENGTH_OF_NO_WORD:
            text = text.replace(secret, _MASK)
        else:
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", _MASK, text)
    return _PARAMETER.sub(rf"\1{_MASK}", _URL.sub(rf"\1{_MASK}", text))


def without_password(connection: str) -> str:
    """A URL or ``key=value`` text that can still be used by those who have the password."""
    text = re.sub(r"^([A-Za-z][\w+.-]*://[^\s:/@]*):.*(?=@)", r"\1", connection)
    return mask(_PARAMETER.sub("", text).rstrip("?& "))


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a process that needs no database: no setting of one, no password."""
    return {
        name: value
        for name, value in environment.items()
        if not (name.startswith(_OWN_NAMES) or _SECRET_NAME.search(name) or value in _known)
        and not (_URL.search(value) or _PARAMETER.search(value))
    }


def _learn(*passwords: str) -> None:
    """Also in the forms in which URLs, JSON, HTML and Python's messages write them."""
    forms = chain.from_iterable(
        (text, quote(text, safe=""), json.dumps(text)[1:-1], html.escape(text), repr(text)[1:-1])
        for text in passwords
    )
    _known.update(form for form in forms if len(form) >= _LENGTH_MIN)


def _learn_passfile(path: str) -> None:
    try:
        with Path(path).open(encoding="utf-8", errors="replace") as file:
            lines = file.read(_PASSFILE_BYTES_MAX).splitlines()
    except (OSError, ValueError):
        return  # libpq says so
    for line in lines:
        fields = re.split(r"(?<!\\):", line, maxsplit=4)
        if len(fields) == 5 and not line.startswith("#"):
            _learn(fields[4], re.sub(r"\\(.)", r"\1", fields[4]))


remember_environment(os.environ)
