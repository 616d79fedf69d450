"""Passwords of databases and receivers: text is shown by `mask`, processes start `without_secrets`.

A password is known from the settings (`remember`) and is masked wherever it appears, also in the
pieces in which a parser quotes a malformed URL. URLs and ``password=...`` are masked by their form.
"""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Iterator, Mapping, Set
from functools import cache
from itertools import chain
from urllib.parse import quote, unquote, unquote_plus

from absurd_contimg.regular_files import JSON_BYTES_MAX, open_regular

_MASK = "***"
_LENGTH_MIN = 4
"""A shorter text appears too often by chance to be masked wherever it appears."""
_LENGTH_OF_NO_WORD = 8
"""A shorter one is masked as a whole word only."""
_PASSFILE_BYTES_MAX = 100_000

# Bounded, so that the time grows with the length of a text and not with its square.
_URL = re.compile(
    r"((?<![\w+.-])[A-Za-z][\w+.-]{0,40}:/{1,9}[^\s:/@'\"]{0,200}:)[^\s'\"]{0,500}(?=@)"
)
_NO_SCHEME = re.compile(
    r"((?<![\w/.%+-])[\w.%+-]{1,200}:)[^\s:/@'\"]{4,500}(?=@[\w.\[\]-]{1,200}(?::\d{1,5}\b|/))"
)
_SCHEME = re.compile(r"(?:[A-Za-z][\w+.-]*:)*/+|(?:jdbc:)?postgres(?:ql)?(?:\+\w+)?:")
_DATABASE_URL = re.compile(r"(?:sqlite|postgres(?:ql)?)(?:\+\w+)?://")


def _encoded(word: str) -> str:
    """A regular expression for a word of which any character may be percent-encoded."""
    return "".join(f"(?:{c}|%{ord(c):02x}|%{ord(c.upper()):02x})" for c in word)


_SECRET_KEYS = "|".join(
    map(_encoded, ("password", "secret", "scram_client_key", "scram_server_key"))
)
_PARAMETER = re.compile(
    rf"(\b[\w%]{{0,40}}(?:{_SECRET_KEYS})\w{{0,40}}\s{{0,9}}(?:=|%3d)\s{{0,9}})"
    r"('(?:[^'\\]|\\.)*'|(?:[^\s&'\"\\]|\\.)+)",
    re.IGNORECASE,
)
_PASSFILE = re.compile(r"passfile\s*=\s*('(?:[^'\\]|\\.)*'|[^\s&'\"]+)", re.IGNORECASE)
_SECRET_NAME = re.compile("PASS|SECRET|TOKEN|CREDENTIAL|API_?KEY|PRIVATE", re.IGNORECASE)
_OWN_NAMES = ("ABSURD_", "PIPELINE_", "CONTIMG_", "PG")

_known: set[str] = set()


def remember(connection: str) -> None:
    """Learn the passwords in a URL or ``key=value`` text, malformed or not, and its passfile."""
    _learn(*_passwords(connection))
    for value in _PASSFILE.findall(connection):
        _learn_passfile(unquote(value.strip("'")))


def remember_database(connection: str) -> None:
    """`remember`; also the whole of a text that is neither a URL nor ``key=value``."""
    remember(connection)
    if not (_DATABASE_URL.match(connection) or re.match(r"\s*\w+\s*=", connection)):
        pieces = [each for each in connection.split() if len(each) >= _LENGTH_OF_NO_WORD]
        _learn(connection, *pieces)


def remember_registry(text: str) -> None:
    """`remember_database`, unless the text is the path of a file."""
    (remember if is_plain_path(text) else remember_database)(text)


def has_password(connection: str) -> bool:
    """Whether there is a password in a URL or ``key=value`` text."""
    return next(_passwords(connection), None) is not None


def is_plain_path(text: str) -> bool:
    """Whether the text can only be meant as a file's path, not as a database, misspelt or not."""
    return not re.match(r"[A-Za-z][\w+.-]*:|.*@|.*" + _PARAMETER.pattern, text, re.I | re.S)


def _passwords(connection: str) -> Iterator[str]:
    """The passwords, in the forms and pieces in which errors may quote them."""
    scheme = _SCHEME.match(connection)
    rest = connection[scheme.end() :] if scheme else connection
    user, colon, password = rest.rpartition("@")[0].partition(":")
    if colon and password != user and not connection.startswith("sqlite:"):
        yield from (password, unquote(password), unquote_plus(password))
        yield from re.split(r"[#/?@:%\s]", password)
    for text in dict.fromkeys((connection, unquote(connection))):
        for _, value in _PARAMETER.findall(text):
            plain = re.sub(r"\\(.)", r"\1", value.strip("'"))
            yield from (value.strip("'"), plain, unquote(plain))


def remember_secret(secret: str) -> None:
    """Learn a password, a token or a URL that holds one, and the parts of that URL's path."""
    parts = secret.split("/")[3:] if "://" in secret else []
    _learn(secret, *(part for part in parts if len(part) >= _LENGTH_OF_NO_WORD))


def remember_environment(environment: Mapping[str, str]) -> None:
    """Learn the passwords that libpq takes from the environment."""
    _learn(environment.get("PGPASSWORD", ""))
    for name in ("ABSURD_SMTP_PASSWORD", "ABSURD_SLACK_WEBHOOK_URL", "CONTIMG_API_TOKEN"):
        remember_secret(environment.get(name, ""))
    if passfile := environment.get("PGPASSFILE"):
        _learn_passfile(passfile)
    remember_database(environment.get("ABSURD_DATABASE_URL", ""))
    remember_registry(environment.get("PIPELINE_PRODUCTS_DB", ""))


def mask(text: str) -> str:
    """The text with ``***`` in the place of each password."""
    for secret in sorted(_secrets(), key=len, reverse=True):
        if secret not in text:
            continue
        if len(secret) >= _LENGTH_OF_NO_WORD:
            text = text.replace(secret, _MASK)
        else:
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", _MASK, text)
    for form in (_URL, _NO_SCHEME, _PARAMETER):
        text = form.sub(rf"\1{_MASK}", text)
    return text


def without_password(connection: str) -> str:
    """A URL or ``key=value`` text that can still be used by those who have the password."""
    text = re.sub(r"^((?>(?:[A-Za-z][\w+.-]*:/+)?)[^\s:/@=]*):.*(?=@)", r"\1", connection)
    return mask(_PARAMETER.sub("", text).rstrip("?& "))


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a process that needs no database: no setting of one, no password."""
    known = _secrets()
    return {
        name: value
        for name, value in environment.items()
        if not (name.startswith(_OWN_NAMES) or _SECRET_NAME.search(name) or value in known)
        and not any(form.search(value) for form in (_URL, _NO_SCHEME, _PARAMETER))
    }


def _learn(*passwords: str) -> None:
    """Also in the forms in which URLs, JSON, HTML and Python's messages write them."""
    forms = chain.from_iterable(
        (text, _quoted(text), json.dumps(text)[1:-1], html.escape(text), repr(text)[1:-1])
        for text in passwords
    )
    _known.update(form for form in forms if len(form) >= _LENGTH_MIN)


def _quoted(text: str) -> str:
    try:
        return quote(text, safe="", errors="surrogateescape")
    except UnicodeEncodeError:  # half a surrogate pair that stands for no byte: no URL has it
        return quote(text, safe="", errors="backslashreplace")


def _learn_passfile(path: str) -> None:
    try:
        with open_regular(path, JSON_BYTES_MAX) as file:
            lines = file.read(_PASSFILE_BYTES_MAX).decode(errors="replace").splitlines()
    except (OSError, ValueError):
        return  # libpq says so
    for line in lines:
        fields = re.split(r"(?<!\\):", line, maxsplit=4)
        if len(fields) == 5 and not line.startswith("#"):
            _learn(fields[4], re.sub(r"\\(.)", r"\1", fields[4]))


def _secrets() -> Set[str]:
    """All that is known; what the environment has is learnt when this is first asked."""
    _learn_environment()
    return _known


@cache
def _learn_environment() -> None:
    remember_environment(os.environ)
